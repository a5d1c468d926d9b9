#!lua name=mille_v8
--[[
What must happen in one step, on the side of the data. Redis runs each function alone, from beginning to end.

The name carries a version because nodes of two versions run side by side during an upgrade: whoever changes what a
function takes, answers or keeps gives the library and its functions the next number.

Keys and channels come from the caller, all of one slot; nothing here makes a name. What they hold:

  log         stream; ids are revisions; entry: h = chain hash, o = operation key, c = change
  operations  hash; operation key -> revision, for every entry of the log and every operation in `unchanged`
  unchanged   stream; operations that changed nothing, the oldest first; entry: o = operation key, r = revision it found
  snapshots   hash; "<revision> <stored at, ms>" -> "<hash> <state>", so that trimming reads names, never states
  written     string; the server's life in which the log was written last
  record      hash; a project: name, description (may be absent), created, updated (ms)
  members     hash; user -> "<role> <since, ms>"
  plans       hash; plan id -> the plan's entry, as text
  table       hash with an expiry; connection -> presence, of one node in one project
  lease       string with an expiry; a node's record
  revocations sorted set; "token <id>" or "user <id>" -> when the revocation is forgotten (ms)
  revoked_at  hash; the same -> since when its tokens count no more (ms)
  index       sorted set with an expiry; node -> when its table or lease expires (ms), for finding them
  bucket      string with an expiry; when all that a user took is paid for at an even pace (µs)
  places      hash with an expiry; node -> "<places it holds for a user> <until when, ms>"
]]

-- The first word of what a commit publishes; the nodes' decoder knows the same.
local ENVELOPE = 'mille-log/1'
-- Entries looked at in one go while trimming: what unpack takes is limited.
local TRIM_PAGE = 500

-- Helpers ----------------------------------------------------------------------------------------------------------

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- A whole number as text; Lua's own way turns large ones into 1e+14.
local function whole(number)
  return string.format('%.0f', number)
end

local function field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

local function revision_of(text)
  local epoch, seq = string.match(text, '^(%d+)%-(%d+)')
  return { text = epoch .. '-' .. seq, epoch = tonumber(epoch), seq = tonumber(seq) }
end

local function before(a, b)
  if a.epoch ~= b.epoch then return a.epoch < b.epoch end
  return a.seq < b.seq
end

local function head_of(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if not last then return nil end
  return { revision = last[1], hash = field(last[2], 'h') }
end

-- The server's life: another one after each restart and each failover. Asked for at most so often, since it is a page
-- of text; nothing begins a new life and is asked to write within so short a time.
local LIFE_KNOWN_FOR_MS = 100
local life_known, life_known_at = nil, 0

local function life()
  local now = now_ms()
  if not life_known or math.abs(now - life_known_at) > LIFE_KNOWN_FOR_MS then
    life_known = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
    life_known_at = now
  end
  return life_known
end

local function append(log, id, key, hash, change)
  return redis.call('XADD', log, id, 'h', hash, 'o', key, 'c', change)
end

-- Whether the server is one of a cluster. Nobody becomes one while it runs.
local is_sharded

-- The one place that publishes. In a cluster a channel is one server's, the one that has the log.
local function publish(channel, message)
  if is_sharded == nil then
    is_sharded = string.find(redis.call('INFO', 'cluster'), 'cluster_enabled:1', 1, true) ~= nil
  end
  if is_sharded then
    redis.call('SPUBLISH', channel, message)
  else
    redis.call('PUBLISH', channel, message)
  end
end

-- Lets a key live for ttl at least.
local function live_on(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end

-- Notes in an index that a node's key lives for ttl, and forgets those that have expired.
local function note_in(index, node, ttl)
  local now = now_ms()
  redis.call('ZREMRANGEBYSCORE', index, '-inf', whole(now))
  redis.call('ZADD', index, whole(now + tonumber(ttl)), node)
  live_on(index, ttl)
end

-- Logs -------------------------------------------------------------------------------------------------------------

-- keys: log, operations, snapshots, written, unchanged   args: revision, operation key, hash, change
-- answers: revision, hash of the head
-- Begins a log. What an earlier life of the log left behind would contradict the new one, so it goes.
local function create(keys, args)
  local log, operations, snapshots, written, unchanged = keys[1], keys[2], keys[3], keys[4], keys[5]
  local head = head_of(log)
  if head then return { head.revision, head.hash } end
  redis.call('DEL', operations, snapshots, unchanged)
  local revision = append(log, args[1], args[2], args[3], args[4])
  redis.call('HSET', operations, args[2], revision)
  redis.call('SET', written, life())
  return { revision, args[3] }
end

-- keys: logs   answers: the server's life, then per log revision and hash of its head, or two empty texts
local function heads(keys)
  local answer = { life() }
  for _, log in ipairs(keys) do
    local head = head_of(log) or { revision = '', hash = '' }
    answer[#answer + 1] = head.revision
    answer[#answer + 1] = head.hash
  end
  return answer
end

-- Whether new changes may be added now, in this epoch. In a new life of the server the log may have lost its end.
-- Then the writer must have waited for those who can bring it back, and either have followed the log in the life in
-- which it was written last, or begin an epoch that was never used. nil: they may.
local function objection(last, life, head, terms)
  if last ~= life and terms.settled ~= life then return { 'reborn', life } end
  local is_vouched_for = last == life or (last and string.find(terms.followed, last, 1, true))
  if is_vouched_for and terms.lost_epoch == '' then return nil end
  local least = math.max(revision_of(head.revision).epoch, tonumber(terms.lost_epoch) or 0) + 1
  if (tonumber(terms.epoch) or 0) >= least then return nil end
  return { 'new_epoch', whole(math.max(now_ms(), least)) }
end

-- keys: log, operations, written
-- args: channel, expected revision, expected hash, what ('add' | 'restore'), epoch of the batch or '' for the head's, and
--       for 'add': the life the writer has waited in, the lives it followed the log in, an epoch with losses or '';
--       what is told beside the entries and kept nowhere, or ''; then per entry: operation key, hash, change
-- answers: 'committed', life | 'repeated', (index from 0, revision)... | 'moved' [, revision, hash] | 'reborn', life |
--          'new_epoch', epoch
local COMMIT_ENTRIES_FROM = 10
local function commit(keys, args)
  local log, operations, written = keys[1], keys[2], keys[3]
  local channel, expected_revision, expected_hash, what = args[1], args[2], args[3], args[4]
  local terms = { epoch = args[5], settled = args[6], followed = args[7], lost_epoch = args[8] }

  -- What is restored is known by head and hash.
  if what == 'add' then
    local names = {}
    for i = COMMIT_ENTRIES_FROM, #args, 3 do names[#names + 1] = args[i] end
    local repeated = { 'repeated' }
    for i, revision in ipairs(redis.call('HMGET', operations, unpack(names))) do
      if revision then
        repeated[#repeated + 1] = whole(i - 1)
        repeated[#repeated + 1] = revision
      end
    end
    if #repeated > 1 then return repeated end
  end

  local head = head_of(log)
  if not head then return { 'moved' } end
  if head.revision ~= expected_revision or head.hash ~= expected_hash then
    return { 'moved', head.revision, head.hash }
  end
  local this_life = life()
  if what == 'add' then
    local last = redis.call('GET', written)
    local no = objection(last, this_life, head, terms)
    if no then return no end
    if last ~= this_life then redis.call('SET', written, this_life) end
  end

  local epoch, seq = string.match(expected_revision, '^(%d+)%-(%d+)')
  if terms.epoch ~= '' then epoch = terms.epoch end
  -- The first one says where; from there on the server counts.
  local id = epoch .. '-' .. whole(tonumber(seq) + 1)
  local first = ENVELOPE .. ' at=' .. whole(now_us())
  if args[9] ~= '' then first = first .. ' ' .. args[9] end
  local lines, remembered = { first }, {}
  for i = COMMIT_ENTRIES_FROM, #args, 3 do
    local key, hash, change = args[i], args[i + 1], args[i + 2]
    local revision = append(log, id, key, hash, change)
    lines[#lines + 1] = revision .. ' ' .. hash .. ' ' .. change
    remembered[#remembered + 1] = key
    remembered[#remembered + 1] = revision
    id = epoch .. '-*'
  end
  redis.call('HSET', operations, unpack(remembered))
  publish(channel, table.concat(lines, '\n'))
  return { 'committed', this_life }
end

-- keys: log, operations, snapshots, written, unchanged
-- args: revision, hash and state of the plan; the life in which its log was known last or ''; then per recent change, the
--       last one being that of the state: revision, operation key, hash, change
-- answers: life, then revision and hash of the head
-- Puts a log back that is gone whole. One that is there is left alone.
local REVIVE_ENTRIES_FROM = 5
local function revive(keys, args)
  local log, operations, snapshots, written, unchanged = keys[1], keys[2], keys[3], keys[4], keys[5]
  local head = head_of(log)
  if head then return { life(), head.revision, head.hash } end
  redis.call('DEL', operations, snapshots, written, unchanged)
  for i = REVIVE_ENTRIES_FROM, #args, 4 do
    append(log, args[i], args[i + 1], args[i + 2], args[i + 3])
    redis.call('HSET', operations, args[i + 1], args[i])
  end
  -- Without a recent change the head has no text any more. Nobody reads it: the snapshot stands for it.
  if #args < REVIVE_ENTRIES_FROM then append(log, args[1], '', args[2], '') end
  redis.call('HSET', snapshots, args[1] .. ' ' .. whole(now_ms()), args[2] .. ' ' .. args[3])
  if args[4] ~= '' then redis.call('SET', written, args[4]) end
  return { life(), args[1], args[2] }
end

-- keys: log, operations   args: revision, operation key or empty text for any   answers: 1 | 0
-- Whether an operation stands at an entry that is there. Writes what stands there already, so that who asks for replicas right after asks for
-- those that have this, and all that came before it.
local function confirm(keys, args)
  local entry = redis.call('XRANGE', keys[1], args[1], args[1])[1]
  if not entry then return 0 end
  if args[2] ~= '' and redis.call('HGET', keys[2], args[2]) ~= args[1] then return 0 end
  redis.call('HSET', keys[2], field(entry[2], 'o'), args[1])
  return 1
end

-- Forgets operations that changed nothing, the oldest first, until there are so many at most and the oldest has found
-- nothing before a place, if there is one.
local function forget_unchanged(operations, unchanged, most, first)
  local count = redis.call('XLEN', unchanged)
  while count > 0 do
    local keys, revisions = {}, {}
    for i, noted in ipairs(redis.call('XRANGE', unchanged, '-', '+', 'COUNT', TRIM_PAGE)) do
      local revision = field(noted[2], 'r')
      if count - i < most and not (first and before(revision_of(revision), first)) then break end
      keys[i], revisions[i] = field(noted[2], 'o'), revision
    end
    if #keys == 0 then return end
    local gone = {}
    for i, standing in ipairs(redis.call('HMGET', operations, unpack(keys))) do
      -- It may stand for a change since: one that was lost and is restored.
      if standing == revisions[i] then gone[#gone + 1] = keys[i] end
    end
    if #gone > 0 then redis.call('HDEL', operations, unpack(gone)) end
    count = count - #keys
    redis.call('XTRIM', unchanged, 'MAXLEN', '=', count)
  end
end

-- keys: log, operations, unchanged   args: revision, hash, operation key, at most so many
-- answers: 'noted' | 'known', revision | 'elsewhere'
-- Notes that an operation changed nothing of the plan as it is at an entry.
local function note_unchanged(keys, args)
  local log, operations, unchanged = keys[1], keys[2], keys[3]
  local known = redis.call('HGET', operations, args[3])
  if known then return { 'known', known } end
  local entry = redis.call('XRANGE', log, args[1], args[1])[1]
  if not entry or field(entry[2], 'h') ~= args[2] then return { 'elsewhere' } end
  redis.call('HSET', operations, args[3], args[1])
  redis.call('XADD', unchanged, '*', 'o', args[3], 'r', args[1])
  forget_unchanged(operations, unchanged, tonumber(args[4]))
  return { 'noted' }
end

-- Snapshots --------------------------------------------------------------------------------------------------------

-- Oldest first.
local function kept_snapshots(snapshots)
  local kept = {}
  for _, name in ipairs(redis.call('HKEYS', snapshots)) do
    local snapshot = revision_of(name)
    snapshot.name = name
    snapshot.since = tonumber(string.match(name, ' (%d+)$'))
    kept[#kept + 1] = snapshot
  end
  table.sort(kept, before)
  return kept
end

-- Removes the entries up to a snapshot and the memory of their operations. The last entry stays even if the snapshot
-- covers it: it is the head.
local function begin_after(log, operations, unchanged, snapshot, head)
  local first = head.text
  if snapshot.seq < head.seq then
    first = string.match(snapshot.text, '^%d+%-') .. whole(snapshot.seq + 1)
  end
  local from = '-'
  while true do
    local page = redis.call('XRANGE', log, from, '(' .. first, 'COUNT', TRIM_PAGE)
    if #page == 0 then break end
    local gone = {}
    for i, entry in ipairs(page) do gone[i] = field(entry[2], 'o') end
    redis.call('HDEL', operations, unpack(gone))
    from = '(' .. page[#page][1]
  end
  redis.call('XTRIM', log, 'MINID', '=', first)
  forget_unchanged(operations, unchanged, math.huge, revision_of(first))
end

-- Lets the log begin behind a later snapshot, one after the other, as long as `changes` entries stay behind it and the
-- ones before it are either old (nothing in a snapshot is younger than the snapshot) or too many.
local function trim(log, operations, snapshots, unchanged, kept, now, retention)
  local head = revision_of(head_of(log).revision)
  local reach = redis.call('XLEN', log)
  local base
  for i, snapshot in ipairs(kept) do
    local behind = head.seq - snapshot.seq
    local dispensable = now - snapshot.since >= retention.age_ms or reach > retention.changes_max
    if behind < retention.changes or not dispensable then break end
    base, reach = i, behind
  end
  if not base then return end
  for i = 1, base - 1 do redis.call('HDEL', snapshots, kept[i].name) end
  begin_after(log, operations, unchanged, kept[base], head)
end

-- keys: log, operations, snapshots, unchanged   args: revision, hash, state, changes, age in ms, changes_max
-- answers: 1 | 0
local function snapshot_store(keys, args)
  local log, operations, snapshots, unchanged = keys[1], keys[2], keys[3], keys[4]
  local place = revision_of(args[1])
  local entry = redis.call('XRANGE', log, place.text, place.text)[1]
  if not entry or field(entry[2], 'h') ~= args[2] then return 0 end
  local kept = kept_snapshots(snapshots)
  if #kept > 0 and not before(kept[#kept], place) then return 0 end

  place.since = now_ms()
  place.name = place.text .. ' ' .. whole(place.since)
  redis.call('HSET', snapshots, place.name, args[2] .. ' ' .. args[3])
  kept[#kept + 1] = place
  local retention = { changes = tonumber(args[4]), age_ms = tonumber(args[5]), changes_max = tonumber(args[6]) }
  trim(log, operations, snapshots, unchanged, kept, place.since, retention)
  return 1
end

-- keys: snapshots   args: [at or before]   answers: nil | revision, "<hash> <state>"
local function snapshot_load(keys, args)
  local kept = kept_snapshots(keys[1])
  local limit = args[1] and revision_of(args[1])
  for i = #kept, 1, -1 do
    if not (limit and before(limit, kept[i])) then
      return { kept[i].text, redis.call('HGET', keys[1], kept[i].name) }
    end
  end
  return false
end

-- Projects ---------------------------------------------------------------------------------------------------------

-- keys: record, members   args: owner, at, name [, description]   answers: 1 | 0
-- Begins a project. One that is there is left alone: the counter of projects lies on another server, which may have lost its end.
local function project_create(keys, args)
  local owner, at = args[1], args[2]
  if redis.call('EXISTS', keys[1], keys[2]) > 0 then return 0 end
  redis.call('HSET', keys[1], 'name', args[3], 'created', at, 'updated', at)
  if args[4] then redis.call('HSET', keys[1], 'description', args[4]) end
  redis.call('HSET', keys[2], owner, 'owner ' .. at)
  return 1
end

-- keys: record, members, plans   answers: nil | users, plan ids
local function project_delete(keys)
  if redis.call('EXISTS', keys[1]) == 0 then return false end
  local gone = { redis.call('HKEYS', keys[2]), redis.call('HKEYS', keys[3]) }
  redis.call('DEL', keys[1], keys[2], keys[3])
  return gone
end

-- An answer, or of a key that holds something else what is wrong with it, as text: no reader takes it for what it should be.
local function unless_of_another_type(answer)
  if not answer.err then return answer end
  if not string.find(answer.err, '^WRONGTYPE') then error(answer) end
  return answer.err
end

-- keys: record, members, plans of each project   answers: for each key what is stored there, fields and values in turn; of plans
-- the values. A key of another type is told in its place, and harms no other project.
local function projects_read(keys)
  local answer = {}
  for i = 1, #keys, 3 do
    answer[i] = unless_of_another_type(redis.pcall('HGETALL', keys[i]))
    answer[i + 1] = unless_of_another_type(redis.pcall('HGETALL', keys[i + 1]))
    answer[i + 2] = unless_of_another_type(redis.pcall('HVALS', keys[i + 2]))
  end
  return answer
end

-- keys: record, plans   args: plan id, entry, at   answers: 1 | 0
local function plan_add(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 then return 0 end
  redis.call('HSET', keys[2], args[1], args[2])
  redis.call('HSET', keys[1], 'updated', args[3])
  return 1
end

local function is_last_owner(members, user)
  local theirs, others = false, false
  local all = redis.call('HGETALL', members)
  for i = 1, #all, 2 do
    if string.match(all[i + 1], '^owner ') then
      if all[i] == user then theirs = true else others = true end
    end
  end
  return theirs and not others
end

-- keys: record, members   args: user, role, at   answers: 'done', since | 'not_found' | 'last_owner'
local function member_set(keys, args)
  local user, role, at = args[1], args[2], args[3]
  if redis.call('EXISTS', keys[1]) == 0 then return { 'not_found' } end
  if role ~= 'owner' and is_last_owner(keys[2], user) then return { 'last_owner' } end
  local present = redis.call('HGET', keys[2], user)
  local since = present and string.match(present, '(%S+)$') or at
  redis.call('HSET', keys[2], user, role .. ' ' .. since)
  redis.call('HSET', keys[1], 'updated', at)
  return { 'done', since }
end

-- keys: record, members   args: user, at   answers: 'done' | 'not_found' | 'last_owner'
local function member_remove(keys, args)
  if is_last_owner(keys[2], args[1]) then return { 'last_owner' } end
  if redis.call('HDEL', keys[2], args[1]) == 0 then return { 'not_found' } end
  redis.call('HSET', keys[1], 'updated', args[2])
  return { 'done' }
end

-- Presence and leases ----------------------------------------------------------------------------------------------

-- keys: table, index   args: node, ttl in ms, connection, presence
local function presence_put(keys, args)
  redis.call('HSET', keys[1], args[3], args[4])
  redis.call('PEXPIRE', keys[1], args[2])
  note_in(keys[2], args[1], args[2])
  return redis.status_reply('OK')
end

-- keys: table, index   args: node, ttl in ms   answers: 1 | 0, there was nothing to renew
local function presence_renew(keys, args)
  if redis.call('PEXPIRE', keys[1], args[2]) == 0 then return 0 end
  note_in(keys[2], args[1], args[2])
  return 1
end

-- keys: lease, index   args: node, ttl in ms, record
local function lease_renew(keys, args)
  redis.call('SET', keys[1], args[3], 'PX', args[2])
  note_in(keys[2], args[1], args[2])
  return redis.status_reply('OK')
end

-- Revocations ------------------------------------------------------------------------------------------------------

-- Revocations forgotten in one call: what unpack takes is limited. The rest goes with the next one.
local FORGOTTEN_AT_ONCE = 1000

local function forget_revocations(revocations, revoked_at)
  local ended = redis.call('ZRANGE', revocations, '-inf', whole(now_ms()), 'BYSCORE', 'LIMIT', 0, FORGOTTEN_AT_ONCE)
  if #ended == 0 then return end
  redis.call('ZREM', revocations, unpack(ended))
  redis.call('HDEL', revoked_at, unpack(ended))
end

-- keys: revocations, revoked_at   args: what, at, until, at most so many   answers: 1 | 0, there are too many
local function revoke(keys, args)
  local what, at = args[1], args[2]
  forget_revocations(keys[1], keys[2])
  if not redis.call('ZSCORE', keys[1], what) and redis.call('ZCARD', keys[1]) >= tonumber(args[4]) then return 0 end
  redis.call('ZADD', keys[1], 'GT', args[3], what)
  local known = redis.call('HGET', keys[2], what)
  if not known or tonumber(known) < tonumber(at) then redis.call('HSET', keys[2], what, at) end
  return 1
end

-- Revocations read in one call, more or less: Redis serves nobody else meanwhile.
local REVOCATIONS_PAGE = 500

-- keys: revocations, revoked_at   args: cursor   answers: the next cursor, '0' behind the last; then what, at, until, for
-- each that has not ended. One that is there all the time is answered at least once.
local function revoked(keys, args)
  local page = redis.call('ZSCAN', keys[1], args[1], 'COUNT', REVOCATIONS_PAGE)
  local now, names, ends = now_ms(), {}, {}
  for i = 1, #page[2], 2 do
    if tonumber(page[2][i + 1]) > now then
      names[#names + 1] = page[2][i]
      ends[#ends + 1] = page[2][i + 1]
    end
  end
  local answer = { page[1] }
  if #names == 0 then return answer end
  for i, at in ipairs(redis.call('HMGET', keys[2], unpack(names))) do
    -- Whoever removed it by hand gets what they asked for.
    if at then
      answer[#answer + 1] = names[i]
      answer[#answer + 1] = at
      answer[#answer + 1] = ends[i]
    end
  end
  return answer
end

-- Quotas -----------------------------------------------------------------------------------------------------------

-- Leases from a bucket (GCRA): as much of what is asked for as is there. A key that is gone is a full bucket.
-- keys: bucket   args: per second, burst, asked   answers: granted | 0, and then the time until there is some, in ms
local function quota_take(keys, args)
  local interval, burst, asked = 1000000 / tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  local now = now_us()
  -- What is further away than an empty bucket comes from a clock that jumped.
  local paid = math.min(math.max(tonumber(redis.call('GET', keys[1]) or 0), now), now + burst * interval)
  local granted = math.min(asked, math.floor((now + burst * interval - paid) / interval))
  if granted < 1 then
    -- Not the next single one: nodes that come for each would only take turns in asking.
    local some = math.min(burst, math.floor(asked / 4) + 1)
    return { 0, math.ceil((paid + some * interval - now - burst * interval) / 1000) }
  end
  paid = paid + granted * interval
  redis.call('SET', keys[1], whole(paid), 'PX', math.ceil((paid - now) / 1000) + 1)
  return { granted, 0 }
end

-- Says how many places of a user a node holds from now on: as many as it wants, if others leave so many, and those that
-- it keeps in any case. What a dead node held runs out.
-- keys: places   args: node, wanted, kept, most over all nodes, ttl in ms   answers: how many it holds
local function places_hold(keys, args)
  local wanted, kept, most = tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local now = now_ms()
  local all = redis.call('HGETALL', keys[1])
  for i = 1, #all, 2 do
    local count, till = string.match(all[i + 1], '^(%d+) (%d+)$')
    if not till or tonumber(till) <= now then
      redis.call('HDEL', keys[1], all[i])
    elseif all[i] ~= args[1] then
      most = most - tonumber(count)
    end
  end
  local held = math.max(math.min(kept, wanted), math.min(wanted, most))
  if held > 0 then
    redis.call('HSET', keys[1], args[1], whole(held) .. ' ' .. whole(now + tonumber(args[5])))
    live_on(keys[1], args[5])
  else
    redis.call('HDEL', keys[1], args[1])
  end
  return held
end

-- 'allow-oom': also when memory is full. Whatever only renews, frees, or shuts somebody out: else no node would keep its lease, and
-- nobody could make room. Edits, and what begins something, are refused then, before anything has run.
local function register(name, callback, ...)
  redis.register_function { function_name = name, callback = callback, flags = { ... } }
end

register('mille_v8_create', create)
register('mille_v8_heads', heads, 'no-writes')
register('mille_v8_commit', commit)
register('mille_v8_revive', revive)
register('mille_v8_confirm', confirm, 'allow-oom')
register('mille_v8_note_unchanged', note_unchanged)
register('mille_v8_snapshot_store', snapshot_store, 'allow-oom')
register('mille_v8_snapshot_load', snapshot_load, 'no-writes')
register('mille_v8_project_create', project_create)
register('mille_v8_project_delete', project_delete, 'allow-oom')
register('mille_v8_projects_read', projects_read, 'no-writes')
register('mille_v8_plan_add', plan_add)
register('mille_v8_member_set', member_set, 'allow-oom')
register('mille_v8_member_remove', member_remove, 'allow-oom')
register('mille_v8_presence_put', presence_put, 'allow-oom')
register('mille_v8_presence_renew', presence_renew, 'allow-oom')
register('mille_v8_lease_renew', lease_renew, 'allow-oom')
register('mille_v8_revoke', revoke, 'allow-oom')
register('mille_v8_revoked', revoked, 'no-writes')
register('mille_v8_quota_take', quota_take, 'allow-oom')
register('mille_v8_places_hold', places_hold, 'allow-oom')

//! The bounds that clients or operators meet, and those that several parts share: unit, reason, what happens there. One that
//! concerns a single file stands in it.
//!
//! Bounds that an operator may change are the defaults of settings; the node's configuration says which.

use std::time::Duration;

// ---- plans -------------------------------------------------------------------------------------------------------

/// Plan nodes in one plan. More: `LIMIT_EXCEEDED`. An editor can't draw more, and a replica stays below a few MB.
pub const PLAN_NODES_MAX: usize = 1_000;
/// Edges in one plan. More: `LIMIT_EXCEEDED`.
pub const PLAN_EDGES_MAX: usize = 5_000;
/// Bytes of a plan node's config. More: `PAYLOAD_TOO_LARGE`.
pub const CONFIG_BYTES_MAX: usize = 100_000;
/// Bytes of the texts of one element's metadata. More: `PAYLOAD_TOO_LARGE`.
pub const METADATA_BYTES_MAX: usize = 50_000;
/// Bytes of all texts of a plan together. More: `PAYLOAD_TOO_LARGE`. Everyone who opens the plan is given all of them, and a
/// few hundred who take them slowly must fit into a node.
pub const PLAN_BYTES_MAX: usize = 16_000_000;
/// |x| and |y| of a plan node, in the editor's units. More, or not finite: `VALIDATION_FAILED`.
pub const COORDINATE_ABS_MAX: f64 = 100_000.0;
/// Changes in one `applyPlanDagChanges`. More: `LIMIT_EXCEEDED`.
pub const CHANGES_PER_REQUEST_MAX: usize = 1_000;
/// Bytes of a plan node's, edge's or run's id. More: `VALIDATION_FAILED`.
pub const ELEMENT_ID_BYTES_MAX: usize = 100;
/// Bytes of an operation id. More: `VALIDATION_FAILED`.
pub const OPERATION_ID_BYTES_MAX: usize = 64;
/// Bytes of a user id. More: `VALIDATION_FAILED`; a token with such a `sub` is refused.
pub const USER_ID_BYTES_MAX: usize = 200;
/// Bytes of a token's id. More: `VALIDATION_FAILED`; such a token can be revoked with its user only.
pub const TOKEN_ID_BYTES_MAX: usize = 200;
/// Runs remembered per plan node, so that a late report of an old run is known as such. Older ones are forgotten.
pub const RUNS_REMEMBERED_MAX: usize = 8;

// ---- log and replay ----------------------------------------------------------------------------------------------

/// Changes between two snapshots of a plan. Fewer: more writing; more: a longer read to open a plan.
pub const SNAPSHOT_EVERY_CHANGES: u64 = 1_000;
/// Changes the log keeps at least, however old. Operation ids are remembered as long.
pub const LOG_RETENTION_CHANGES: u64 = 10_000;
/// Operations that changed nothing which a plan's log remembers, so that a repeat is answered alike. More: the oldest are
/// forgotten, and their repeat is judged anew.
pub const UNCHANGED_OPERATIONS_MAX: usize = 10_000;
/// Changes the log keeps at most. Beyond it, age no longer counts and resumes get a SNAPSHOT.
pub const LOG_CHANGES_MAX: u64 = 50_000;
/// Age up to which changes are kept, below [`LOG_CHANGES_MAX`].
pub const LOG_RETENTION_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Recent changes kept in memory per open plan, for resumes that need no Redis. Older ones are read from the log.
pub const RING_CHANGES_MAX: usize = 1_024;
/// Bytes of those changes. Whichever bound is reached first lets the oldest go.
pub const RING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Recent changes that every open plan keeps, however many plans there are, as far as its own bound in bytes allows.
pub const RING_CHANGES_MIN: usize = 64;
/// Bytes of recent changes that all open plans of a node keep together. More: each lets its oldest go.
pub const RECENT_CHANGES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Entries per read of the log. Redis serves nobody else meanwhile, so pages stay small.
pub const LOG_PAGE_ENTRIES: usize = 500;
/// Operations of one plan that wait on one node for their commit. More: `OVERLOADED`.
pub const PENDING_OPERATIONS_MAX: usize = 2_048;
/// Changes in one commit. Redis serves nobody else meanwhile.
pub const COMMIT_BATCH_MAX: usize = 128;
/// The longest that edits of one plan wait for more of them, where other nodes edit it too.
pub const COMMIT_MOMENT: Duration = Duration::from_millis(5);
/// Bytes of payload in one commit; a single larger change goes alone.
pub const COMMIT_BATCH_BYTES_MAX: usize = 512 * 1024;
/// How often an operation is validated again because the log moved. Then `OVERLOADED`.
pub const COMMIT_ATTEMPTS_MAX: u32 = 64;

// ---- sockets -----------------------------------------------------------------------------------------------------

/// Bytes of a GraphQL request or socket frame. More: `PAYLOAD_TOO_LARGE` (413), or close 1009.
pub const REQUEST_BYTES_MAX: usize = 1_000_000;
/// Bytes of a presence frame. More: close 1009.
pub const PRESENCE_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Nested selections of a query. More: `LIMIT_EXCEEDED`.
pub const QUERY_DEPTH_MAX: usize = 12;
/// Fields of a query. More: `LIMIT_EXCEEDED`.
pub const QUERY_COMPLEXITY_MAX: usize = 500;
/// Directives on one field of a query. There are two that mean anything. More: `LIMIT_EXCEEDED`.
pub const QUERY_DIRECTIVES_MAX: usize = 4;
/// How long a socket may wait with `connection_init`. Then close 4408.
pub const CONNECTION_INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Subscriptions of one socket. More: `LIMIT_EXCEEDED` on the new one.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 100;
/// How often a quiet socket is pinged.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Silence after which a pinged socket is given up: close 4408.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a socket may take nothing while something waits for it. Then close 1013. Who looked away for half a minute
/// keeps the socket; who is away for longer is given up as silent at the latest.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(45);
/// The longest that those who are told the same wait for more, after they were told something.
pub const FAN_OUT_MOMENT: Duration = Duration::from_millis(8);
/// Events queued for one subscription. On overflow the queue's owner resumes from where it is.
pub const SUBSCRIPTION_QUEUE_EVENTS_MAX: usize = 256;
/// Messages queued for one socket. On overflow GraphQL streams wait (and fall behind their log), presence conflates.
pub const OUTBOX_MESSAGES_MAX: usize = 256;
/// Bytes queued for one presence socket, unless a single frame has more; the whole picture of a room waits beside them, once.
/// Overflow as above. Frames are shared by all who get them, so this bounds how much of the past a slow reader keeps alive.
pub const OUTBOX_BYTES_MAX: usize = 1024 * 1024;
/// Presence frames of one connection per second, cursor moves aside. More: `RATE_LIMITED`, once per second.
pub const PRESENCE_FRAMES_PER_SECOND: u32 = 20;
/// Operations of one socket per second in the long run. More: `RATE_LIMITED`.
pub const CONNECTION_OPERATIONS_PER_SECOND: u32 = 200;
/// Operations of one socket at once.
pub const CONNECTION_OPERATIONS_BURST: u32 = 500;
/// How long before its expiry a token is called expiring.
pub const TOKEN_EXPIRY_WARNING: Duration = Duration::from_secs(60);
/// How far clocks may differ when a token's times are judged.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(5);
/// How long a revocation is kept when nobody says when the tokens expire. Longer than the longest life of a token.
pub const REVOCATION_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Revocations kept at once. More: `LIMIT_EXCEEDED`; none is given up for another, since its tokens would count again.
pub const REVOCATIONS_MAX: usize = 100_000;
/// How long a right that was taken away may last when the message that says so is lost: what a node knows of members and
/// revocations is read again more often than that.
pub const RIGHTS_SWEEP: Duration = Duration::from_secs(60);

// ---- users, over the cluster -------------------------------------------------------------------------------------

/// Connections of one user over all nodes. More: close 1013, or 429 for an event stream.
pub const USER_CONNECTIONS_MAX: u32 = 250;
/// Operations of one user over all nodes per second in the long run. More: `RATE_LIMITED`.
pub const USER_OPERATIONS_PER_SECOND: u32 = 1_000;
/// Operations of one user at once.
pub const USER_OPERATIONS_BURST: u32 = 2_000;
/// The part of a user's limits that each node gives without asking the store: one in so many. More: users with little to do
/// cost the store nothing on more nodes; less: a user on all nodes at once gets less beyond the limit.
pub const USER_FREE_SHARE: u32 = 32;
/// Users a node keeps count of at a time. Whoever comes when all of them are busy is not counted until one is idle: only the
/// limits of connections hold then. Refusing would let a crowd keep others out.
pub const USERS_COUNTED_MAX: usize = 100_000;

// ---- connections of strangers ------------------------------------------------------------------------------------

/// Connections of a node that have not shown a good token. More wait [`STRANGER_WAITS_MAX`] for a place, then 503.
pub const UNAUTHENTICATED_CONNECTIONS_MAX: usize = 1_000;
/// Bytes that such a connection may send in all. More: it is cut. A token fits many times.
pub const UNAUTHENTICATED_BYTES_MAX: u64 = 64 * 1024;
/// How long the head of a connection's first request may take. Then it is cut.
pub const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stranger keeps its place when others want it; younger ones are not cut for them. Longer than any handshake
/// takes on a busy node.
pub const STRANGER_KEEPS_PLACE: Duration = Duration::from_secs(1);
/// How long a connection waits for a stranger's place, as many at a time as there are places. Then 503.
pub const STRANGER_WAITS_MAX: Duration = Duration::from_millis(1_500);
/// Time between two who make room for others. A crowd that comes at once would also go at once, and hold up everybody who is
/// busy with something else.
pub const STRANGERS_LEAVE_EVERY: Duration = Duration::from_micros(500);

// ---- bytes -------------------------------------------------------------------------------------------------------

/// Bytes of request bodies that a node reads at a time. More: `OVERLOADED`, 503.
pub const REQUEST_BYTES_IN_FLIGHT_MAX: usize = 256 * 1024 * 1024;
/// One user may have this part of them, one in so many, and one body in any case. More: `RATE_LIMITED`, 429.
pub const REQUEST_BYTES_USER_SHARE: usize = 8;
/// Bytes of answers over HTTP that wait for one user at a time, and one answer in any case. More: a query's answer, and a
/// mutation before it is begun, are `RATE_LIMITED`, 429; what was done is told always.
pub const ANSWER_BYTES_PER_USER_MAX: usize = 32 * 1024 * 1024;
/// Bytes that wait for one GraphQL socket from which on an answer to a query is `RATE_LIMITED` in its place: a socket that
/// takes nothing is not read any more, but what it asked for before must not add up. From twice as many on, answers to mutations
/// are not made until the socket takes some.
pub const ANSWER_BYTES_PER_CONNECTION_MAX: usize = 8 * 1024 * 1024;
/// Bytes of operations that run for one socket. More: it is not read until some have ended.
pub const OPERATION_BYTES_PER_CONNECTION_MAX: usize = 4 * 1024 * 1024;
/// Bytes per second that a GraphQL socket is read with in the long run. More: it is read later, and TCP slows the sender.
pub const SOCKET_BYTES_PER_SECOND: u32 = 4 * 1024 * 1024;
/// Bytes of a presence socket per second, likewise: several hundred cursor moves. So a flood costs the parsing of those.
pub const PRESENCE_BYTES_PER_SECOND: u32 = 128 * 1024;

// ---- presence ----------------------------------------------------------------------------------------------------

/// How long a dropped connection stays in the roster, so that a reload does not flicker.
pub const PRESENCE_GRACE: Duration = Duration::from_secs(10);
/// Inactivity after which a user is shown as idle.
pub const IDLE_AFTER: Duration = Duration::from_secs(60);
/// Time between two cursor frames in a small room.
pub const CURSOR_INTERVAL: Duration = Duration::from_millis(50);
/// Documents of one project that may have people in them at once. More: `LIMIT_EXCEEDED`.
pub const DOCUMENTS_PER_PROJECT_MAX: usize = 1_000;
/// Bytes of a document's id. More: `VALIDATION_FAILED`.
pub const DOCUMENT_ID_BYTES_MAX: usize = 200;
/// Bytes of a user's name or avatar colour as presence tells it. More: `VALIDATION_FAILED`.
pub const USER_NAME_BYTES_MAX: usize = 200;

// ---- cluster -----------------------------------------------------------------------------------------------------

/// How often a node renews its lease and its presences.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// Silence after which a node and its presences are gone. Shorter frees ghosts sooner, longer forgives pauses.
pub const NODE_LEASE: Duration = Duration::from_secs(10);
/// How often the heads of all open plans are compared with the log, and a node proves that it hears itself. A message that
/// was lost and was the last shows at the second check after it.
pub const HEAD_CHECK_INTERVAL: Duration = Duration::from_millis(900);
/// After an interruption, the heads are compared at once, but each node waits up to this long by chance, so that not all
/// ask at the same time.
pub const HEAD_CHECK_JITTER: Duration = Duration::from_millis(200);
/// How long heads are not told while the subscription is known to be down: the reconnect repairs all with one read per
/// plan. Beyond it a node no longer waits for that, and catches up by its checks.
pub const HEADS_HELD_MAX: Duration = Duration::from_secs(5);
/// How long a node's messages to itself may be missing, although the store takes them, until the subscription is made anew.
/// Shorter takes a pause for a fault; longer leaves people without cursors and presence of other nodes.
pub const PROBE_DEAF_AFTER: Duration = Duration::from_secs(3);
/// Pause after that until it is made anew once more. Doubles up to [`PROBE_RECONNECT_PAUSE_MAX`]: if it does not help, the
/// fault lies elsewhere, and the head checks carry the plans.
pub const PROBE_RECONNECT_PAUSE: Duration = Duration::from_secs(5);
/// The longest such pause.
pub const PROBE_RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a life of the store must be known before new changes are added in it: the time for every node that lives to
/// find its way back and restore what the store lost. Shorter: more histories part after a failover. Longer: the first
/// edits after one wait longer.
pub const STORE_SETTLES_AFTER: Duration = Duration::from_secs(2);
/// How long an edit waits for a new life of the store to settle before it is offered again: until two checks of its log's head
/// could have told. Shorter: it is sent back once more. Longer: edits wait longer for a store that has gone again meanwhile.
pub const STORE_SETTLING_AWAITED_MAX: Duration = Duration::from_millis(3_800);
/// How long a project that nobody uses stays on a node.
pub const PROJECT_IDLE: Duration = Duration::from_secs(30 * 60);
/// How long a project that is used stays as it is before its actor begins anew, which frees what may have gathered. Nobody
/// notices it.
pub const PROJECT_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// A project's actor that fails more often than this within [`FAILURES_WITHIN`] is given up: its sockets are closed with the
/// hint to come back, and whoever comes back finds a new one.
pub const FAILURES_MAX: usize = 3;
/// How long a failure counts.
pub const FAILURES_WITHIN: Duration = Duration::from_secs(60);
/// How long a plan without listeners stays open on a node.
pub const PLAN_LINGER: Duration = Duration::from_secs(30);
/// Commands that wait for one project's actor. Full: callers wait; of cursor moves the newest of each socket does, and is
/// counted.
pub const MAILBOX_COMMANDS_MAX: usize = 1_024;
/// Messages from other nodes that wait for one project's actor. Full: the feed is interrupted and repaired from the log.
pub const FEED_MESSAGES_MAX: usize = 8_192;
/// How long a node that starts waits for a Redis that can't be reached.
pub const REDIS_WAIT: Duration = Duration::from_secs(30);
/// How long one Redis command may take. Then `UNAVAILABLE`.
pub const REDIS_COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long replicas may take until they have an edit that must be on some of them. Then `UNAVAILABLE`, although it is applied.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node that is taken out says so before it closes the first socket: load balancers ask every second or two.
pub const DRAIN_NOTICE: Duration = Duration::from_secs(5);
/// The sockets of a node that is taken out are closed one by one over this time. As long as their places are kept.
pub const DRAIN_WINDOW: Duration = Duration::from_secs(10);
/// How long a node may take to stop in order. Then it ends anyway.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(30);

// ---- traces ------------------------------------------------------------------------------------------------------

/// Spans that wait for the collector. More are dropped and counted. OpenTelemetry's own default.
pub const TRACE_QUEUE_SPANS_MAX: u32 = 2_048;
/// Spans in one message to the collector. OpenTelemetry's own default.
pub const TRACE_BATCH_SPANS_MAX: u32 = 512;
/// How often a log line may say that traces are lost.
pub const TRACE_TROUBLE_TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long a node that has stopped may still wait for the collector to take the last spans.
pub const TRACE_FAREWELL: Duration = Duration::from_secs(2);

const _: () = assert!(
    NODE_LEASE.as_millis() >= 3 * HEARTBEAT_INTERVAL.as_millis(),
    "two lost heartbeats must not look like a crash"
);
const _: () =
    assert!(IDLE_TIMEOUT.as_millis() > 2 * PING_INTERVAL.as_millis(), "one lost ping must not look like silence");
const _: () =
    assert!(LOG_RETENTION_CHANGES >= 2 * SNAPSHOT_EVERY_CHANGES, "the log must outlive the snapshot it follows");
const _: () = assert!(
    STORE_SETTLING_AWAITED_MAX.as_millis() >= STORE_SETTLES_AFTER.as_millis() + 2 * HEAD_CHECK_INTERVAL.as_millis(),
    "an edit must not be offered before it could be taken"
);
const _: () = assert!(
    2 * HEAD_CHECK_INTERVAL.as_millis() + HEAD_CHECK_JITTER.as_millis() <= 2_000,
    "a lost last message must be repaired within 2 s"
);
const _: () = assert!(
    PROBE_DEAF_AFTER.as_millis() >= 3 * HEAD_CHECK_INTERVAL.as_millis(),
    "two lost probes must not look like a deaf subscription"
);
const _: () = assert!(LOG_CHANGES_MAX >= LOG_RETENTION_CHANGES, "the upper bound must not cut the promised retention");
const _: () = assert!(CHANGES_PER_REQUEST_MAX <= PENDING_OPERATIONS_MAX, "one request must fit the queue");
const _: () = assert!(
    STRANGER_WAITS_MAX.as_millis() > STRANGER_KEEPS_PLACE.as_millis(),
    "whoever waits must outlast a stranger that says nothing"
);
const _: () = assert!(
    PRESENCE_BYTES_PER_SECOND as usize >= PRESENCE_FRAME_BYTES_MAX
        && SOCKET_BYTES_PER_SECOND as usize >= REQUEST_BYTES_MAX
        && OPERATION_BYTES_PER_CONNECTION_MAX >= REQUEST_BYTES_MAX,
    "the largest frame must be read within a second"
);

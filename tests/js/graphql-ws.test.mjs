// graphql-ws, unmodified, and its predecessor's protocol: what a browser's client sees of a plan over a WebSocket.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import {
  DELTAS, DELTA_FIELDS, Feed, Replica, allNodeUrls, ask, balancer, caughtUp, createProject, editBurst, followDeltas,
  importHarbour, nodeUrl, parseRevision, readPlan, someone, tokenFor, transportClient, until, wsAddress,
} from './kit.mjs';

test('a subscriber on node 3 holds, value for value, the plan that node 2 serves, through an import and a burst of edits', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: convergence');
  const follower = follow(t, nodeUrl(3), token, { projectId, snapshot: true });
  await follower.feed.until('the snapshot arrives', (events) => events.length > 0);

  await importHarbour(token, projectId);
  await follower.feed.until('the sample is there', () => follower.replica.document.nodes.length === 51 && follower.replica.document.edges.length === 75);
  const imported = parseRevision(follower.replica.revision).seq;

  const edits = await editBurst(token, projectId, 'burst');
  const plan = await caughtUp(follower, nodeUrl(2), token, projectId);

  assert.deepStrictEqual(follower.replica.document, plan.document);
  assert.equal(follower.replica.revision, plan.revision);
  assert.equal(parseRevision(plan.revision).seq - imported, BigInt(edits), 'each accepted edit is one revision');
  const [first, ...rest] = follower.feed.events;
  assert.equal(first.kind, 'SNAPSHOT');
  assert.deepStrictEqual([...new Set(rest.map((event) => event.kind))], ['DELTA'], 'nothing but deltas after the snapshot');
});

test('every node serves the same document at the same revision', async () => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: every node');
  await editBurst(token, projectId, 'burst', 3);

  const plans = await Promise.all([balancer(), ...allNodeUrls()].map((url) => readPlan(url, token, projectId)));

  for (const plan of plans.slice(1)) {
    assert.deepStrictEqual(plan, plans[0]);
  }
});

test('resuming with `after` on another node brings exactly the missed deltas, as they were seen live', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: resume');
  const steady = follow(t, nodeUrl(1), token, { projectId, snapshot: true });
  const before = follow(t, nodeUrl(3), token, { projectId, snapshot: true });
  await before.feed.until('the snapshot arrives', (events) => events.length > 0);
  await steady.feed.until('the snapshot arrives', (events) => events.length > 0);
  await editBurst(token, projectId, 'seen', 2);
  await caughtUp(before, nodeUrl(3), token, projectId);
  before.stop();
  await before.client.dispose();
  const lastSeen = before.replica.revision;

  await editBurst(token, projectId, 'missed', 2);
  const resumed = follow(t, nodeUrl(2), token, { projectId, after: lastSeen });
  await editBurst(token, projectId, 'live', 2);
  const plan = await caughtUp(resumed, nodeUrl(1), token, projectId);
  await caughtUp(steady, nodeUrl(1), token, projectId);

  const position = steady.feed.events.findIndex((event) => event.revision === lastSeen);
  assert.deepStrictEqual(resumed.feed.events, steady.feed.events.slice(position + 1));
  const replica = before.replica;
  for (const event of resumed.feed.events) {
    replica.take(event);
  }
  assert.deepStrictEqual(replica.document, plan.document);
});

test('a subscriber with neither `after` nor `snapshot` begins with the next change', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: from now on');
  await editBurst(token, projectId, 'past', 1);
  const { revision } = await readPlan(balancer(), token, projectId);
  const follower = follow(t, nodeUrl(2), token, { projectId });

  await follower.feed.until('a change arrives', (events) => events.length > 0, { poke: () => rename(token, projectId) });

  const [first] = follower.feed.events;
  assert.equal(first.kind, 'DELTA');
  assert.ok(parseRevision(first.revision).seq > parseRevision(revision).seq);
});

test('queries and mutations work over the same socket as subscriptions', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: one socket');
  const follower = follow(t, nodeUrl(3), token, { projectId, snapshot: true });
  await follower.feed.until('the snapshot arrives', (events) => events.length > 0);
  const mutation = 'mutation ($p: Int!) { updatePlanDagMetadata(projectId: $p, name: "Over the socket") { revision } }';
  const query = 'query ($p: Int!) { getPlanDag(projectId: $p) { revision metadata { name } } }';

  const [edited] = await drain(follower.client.iterate({ query: mutation, variables: { p: projectId } }));
  const { revision } = edited.data.updatePlanDagMetadata;
  const [read] = await drain(follower.client.iterate({ query, variables: { p: projectId } }));

  assert.deepStrictEqual(read.data.getPlanDag, { revision, metadata: { name: 'Over the socket' } });
  await follower.feed.until('the change arrives', (events) => events.some((event) => event.revision === revision));
});

test('a refused operation ends with an error of its code, and the socket goes on', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: refusal');
  const follower = follow(t, nodeUrl(1), token, { projectId, snapshot: true });
  await follower.feed.until('the snapshot arrives', (events) => events.length > 0);
  const refused = new Feed((data) => data);
  follower.client.subscribe({ query: DELTAS, variables: { projectId: 2_147_483_647 } }, refused.sink);

  await until('the refusal arrives', () => refused.failure);

  const [error] = refused.failure.errors ?? refused.failure;
  assert.equal(error.extensions.code, 'NOT_FOUND');
  const seen = follower.feed.events.length;
  await rename(token, projectId);
  await follower.feed.until('a change arrives on the same socket', (events) => events.length > seen);
});

test('a token signed by someone else is refused with close code 4403', async (t) => {
  const client = transportClient(nodeUrl(1), `${tokenFor(someone('mallory'))}x`);
  t.after(() => client.dispose());
  const feed = new Feed((data) => data);
  client.subscribe({ query: '{ me { id } }' }, feed.sink);

  await until('the socket is closed', () => feed.failure);

  assert.equal(feed.failure.code, 4403);
  assert.deepStrictEqual(feed.events, []);
});

test('a client whose token ends comes back by itself with the next one, and misses nothing', async (t) => {
  const user = someone('ann');
  const token = tokenFor(user);
  const { projectId } = await createProject(token, 'graphql-ws: a token ends');
  const closed = [];
  const tokens = [tokenFor(user, { exp: Math.floor(Date.now() / 1000) + 1 }), token];
  const client = transportClient(nodeUrl(1), token, {
    retryAttempts: 5,
    connectionParams: () => ({ Authorization: `Bearer ${tokens.length > 1 ? tokens.shift() : tokens[0]}` }),
    on: { closed: ({ code }) => closed.push(code) },
  });
  t.after(() => client.dispose());
  // The client sends this object again when it is back, with what it says by then.
  const variables = { projectId, snapshot: true };
  const replica = new Replica();
  const feed = new Feed((data) => {
    const event = replica.take(data.planDagDeltaChanged);
    variables.after = event.revision;
    return event;
  });
  client.subscribe({ query: DELTAS, variables }, feed.sink);
  await feed.until('the snapshot arrives', (events) => events.length > 0);

  await until('the socket is closed', () => closed.length > 0);
  await editBurst(token, projectId, 'away', 1);
  const plan = await caughtUp({ feed, replica }, nodeUrl(2), token, projectId);

  assert.deepStrictEqual(closed, [4403]);
  assert.deepStrictEqual(replica.document, plan.document);
  assert.deepStrictEqual(feed.events.map((event) => event.kind).filter((kind) => kind === 'SNAPSHOT'), ['SNAPSHOT'], 'only the first');
});

test('a client of the legacy graphql-ws protocol sees the same events', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: legacy');
  const modern = follow(t, nodeUrl(3), token, { projectId, snapshot: true });
  await modern.feed.until('the snapshot arrives', (events) => events.length > 0);
  const replica = new Replica();
  const legacyFeed = new Feed((data) => replica.take(data.planDagDeltaChanged));
  const legacy = await LegacyClient.connect(t, nodeUrl(2), token);
  legacy.start('1', DELTAS, { projectId, snapshot: true }, legacyFeed);
  await legacyFeed.until('the snapshot arrives', (events) => events.length > 0);

  await editBurst(token, projectId, 'burst', 3);
  const plan = await caughtUp({ feed: legacyFeed, replica }, nodeUrl(1), token, projectId);
  await caughtUp(modern, nodeUrl(1), token, projectId);

  assert.deepStrictEqual(replica.document, plan.document);
  assert.deepStrictEqual(legacyFeed.events.slice(1), modern.feed.events.slice(1));
  assert.deepStrictEqual(legacyFeed.events[0].operations, modern.feed.events[0].operations);
});

test('`stop` ends a legacy operation and `connection_terminate` the connection', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: legacy end');
  const legacy = await LegacyClient.connect(t, nodeUrl(1), token);
  const stopped = new Feed((data) => data.planDagDeltaChanged);
  const going = new Feed((data) => data.planDagDeltaChanged);
  legacy.start('1', DELTAS, { projectId, snapshot: true }, stopped);
  legacy.start('2', DELTAS, { projectId, snapshot: true }, going);
  await stopped.until('the snapshot arrives', (events) => events.length > 0);
  await going.until('the snapshot arrives', (events) => events.length > 0);

  legacy.stop('1');
  await until('the operation is complete', () => stopped.completed);
  const seen = stopped.events.length;
  await rename(token, projectId);
  await going.until('the other operation goes on', (events) => events.length > 1);
  assert.equal(stopped.events.length, seen, 'nothing after the end of an operation');

  legacy.terminate();
  await until('the server has closed', () => legacy.closeCode !== null);
});

test('a query over the legacy protocol is one answer and its end', async (t) => {
  const user = someone('ann');
  const legacy = await LegacyClient.connect(t, nodeUrl(2), tokenFor(user));
  const feed = new Feed((data) => data.me);
  legacy.start('q', '{ me { id } }', {}, feed);

  await until('the answer is complete', () => feed.completed || feed.failure);

  assert.equal(feed.failure, null);
  assert.deepStrictEqual(feed.events, [{ id: user }]);
});

test('an event selects what was asked for and no more', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-ws: selection');
  const client = transportClient(nodeUrl(1), token);
  t.after(() => client.dispose());
  const feed = new Feed((data) => data.planDagDeltaChanged);
  const query = `subscription ($p: Int!) { planDagDeltaChanged(projectId: $p, snapshot: true) { rev: revision ops: operations { op } } }`;
  client.subscribe({ query, variables: { p: projectId } }, feed.sink);

  await feed.until('the snapshot arrives', (events) => events.length > 0);

  assert.deepStrictEqual(Object.keys(feed.events[0]), ['rev', 'ops']);
  assert.deepStrictEqual(feed.events[0].ops, [{ op: 'REPLACE' }]);
});

test('the deltas of the resync query are those of the stream', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId, planId } = await createProject(token, 'graphql-ws: resync');
  const follower = follow(t, nodeUrl(1), token, { projectId, snapshot: true });
  await follower.feed.until('the snapshot arrives', (events) => events.length > 0);
  await editBurst(token, projectId, 'burst', 2);
  await caughtUp(follower, nodeUrl(1), token, projectId);
  const query = `
    query ($p: Int!, $plan: Int!, $after: String!) {
      planDagDeltas(projectId: $p, planId: $plan, after: $after) { events { ${DELTA_FIELDS} } endRevision hasMore }
    }`;

  const after = follower.feed.events[0].revision;
  const { planDagDeltas: page } = await ask(nodeUrl(3), token, query, { p: projectId, plan: planId, after });

  assert.deepStrictEqual(page, { events: follower.feed.events.slice(1), endRevision: follower.replica.revision, hasMore: false });
});

// ---- helpers -------------------------------------------------------------------------------------------------------

function follow(t, url, token, variables) {
  const client = transportClient(url, token);
  t.after(() => client.dispose());
  return { client, ...followDeltas(client, variables) };
}

let names = 0;

async function rename(token, projectId) {
  names += 1;
  await ask(balancer(), token, 'mutation ($p: Int!, $n: String!) { updatePlanDagMetadata(projectId: $p, name: $n) { revision } }', { p: projectId, n: `Name ${names}` });
}

async function drain(iterator) {
  const results = [];
  for await (const result of iterator) {
    results.push(result);
  }
  return results;
}

/** The client's side of the protocol of subscriptions-transport-ws, whose subprotocol is called `graphql-ws`. */
class LegacyClient {
  closeCode = null;
  #socket;
  #acknowledged = false;
  #feeds = new Map();

  static async connect(t, url, token) {
    const client = new LegacyClient(url);
    t.after(() => client.#socket.terminate());
    await until('the legacy socket is open', () => client.#socket.readyState === WebSocket.OPEN);
    assert.equal(client.#socket.protocol, 'graphql-ws');
    client.#send({ type: 'connection_init', payload: { Authorization: `Bearer ${token}` } });
    await until('the connection is acknowledged', () => client.#acknowledged);
    return client;
  }

  constructor(url) {
    this.#socket = new WebSocket(wsAddress(url), 'graphql-ws');
    this.#socket.on('message', (text) => this.#receive(JSON.parse(text)));
    this.#socket.on('error', (error) => this.#fail(error));
    this.#socket.on('close', (code) => {
      this.closeCode = code;
      this.#fail(new Error(`the legacy socket closed with ${code}`));
    });
  }

  start(id, query, variables, feed) {
    this.#feeds.set(id, feed);
    this.#send({ id, type: 'start', payload: { query, variables } });
  }

  stop(id) {
    this.#send({ id, type: 'stop' });
  }

  terminate() {
    this.#send({ type: 'connection_terminate' });
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #receive({ id, type, payload }) {
    const feed = this.#feeds.get(id);
    if (type === 'connection_ack') {
      this.#acknowledged = true;
    } else if (type === 'data') {
      feed.sink.next(payload);
    } else if (type === 'complete') {
      feed.sink.complete();
    } else if (type === 'error') {
      feed.sink.error(Array.isArray(payload) ? payload : [payload]);
    } else {
      assert.equal(type, 'ka', 'the legacy protocol has no other messages');
    }
  }

  #fail(failure) {
    for (const feed of this.#feeds.values()) {
      feed.fail(failure);
    }
  }
}

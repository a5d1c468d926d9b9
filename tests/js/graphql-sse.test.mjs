// graphql-sse, unmodified, in distinct connections mode, and the raw stream as an EventSource would read it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient } from 'graphql-sse';
import {
  DELTAS, Feed, ask, balancer, caughtUp, createProject, editBurst, followDeltas, importHarbour, nodeUrl, readPlan,
  someone, tokenFor, until,
} from './kit.mjs';

test('a graphql-sse client on node 3 holds the plan that node 2 serves, through an import and a burst of edits', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-sse: convergence');
  const follower = followDeltas(sseClient(t, nodeUrl(3), token), { projectId, snapshot: true });
  await follower.feed.until('the snapshot arrives', (events) => events.length > 0);

  await importHarbour(token, projectId);
  await editBurst(token, projectId, 'burst');
  const plan = await caughtUp(follower, nodeUrl(2), token, projectId);

  assert.ok(plan.document.nodes.length >= 51);
  assert.deepStrictEqual(follower.replica.document, plan.document);
  assert.equal(follower.feed.events[0].kind, 'SNAPSHOT');
  assert.deepStrictEqual([...new Set(follower.feed.events.slice(1).map((event) => event.kind))], ['DELTA']);
});

test('a query and a mutation over graphql-sse are one answer and its end', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-sse: query');
  const client = sseClient(t, nodeUrl(1), token);
  const [edited, read] = [new Feed((data) => data.updatePlanDagMetadata), new Feed((data) => data.getPlanDag)];

  client.subscribe({ query: 'mutation ($p: Int!) { updatePlanDagMetadata(projectId: $p, name: "By SSE") { metadata { name } } }', variables: { p: projectId } }, edited.sink);
  await until('the mutation is complete', () => edited.completed || edited.failure);
  client.subscribe({ query: 'query ($p: Int!) { getPlanDag(projectId: $p) { metadata { name } } }', variables: { p: projectId } }, read.sink);
  await until('the query is complete', () => read.completed || read.failure);

  assert.deepStrictEqual([edited.failure, read.failure], [null, null]);
  assert.deepStrictEqual([edited.events, read.events], [[{ metadata: { name: 'By SSE' } }], [{ metadata: { name: 'By SSE' } }]]);
});

for (const path of ['/graphql/stream', '/graphql']) {
  test(`each event of ${path} bears its revision as its id`, async (t) => {
    const token = tokenFor(someone('ann'));
    const { projectId } = await createProject(token, `graphql-sse: ids of ${path}`);
    const stream = openStream(t, nodeUrl(2), token, { projectId, snapshot: true }, { path });
    await stream.until('the snapshot arrives', (events) => events.length > 0);

    await editBurst(token, projectId, 'burst', 2);
    const { revision } = await readPlan(nodeUrl(2), token, projectId);
    await stream.until('the last change arrives', (events) => events.at(-1).delta.revision === revision);

    for (const { id, name, delta } of stream.events) {
      assert.equal(name, 'next');
      assert.equal(id, delta.revision);
    }
  });
}

test('`Last-Event-ID` resumes on another node with exactly what was missed', async (t) => {
  const { token, projectId, events } = await recorded(t);
  const lastSeen = events[3].id;

  const resumed = openStream(t, nodeUrl(3), token, { projectId }, { lastEventId: lastSeen });
  await resumed.until('everything missed arrives', (seen) => seen.at(-1)?.id === events.at(-1).id);

  assert.deepStrictEqual(resumed.events, events.slice(4));
});

test('`Last-Event-ID` beats `after` and `snapshot`, since a reconnecting EventSource repeats its old request', async (t) => {
  const { token, projectId, events } = await recorded(t);
  const [older, newer] = [events[1].id, events[5].id];

  const resumed = openStream(t, nodeUrl(2), token, { projectId, after: older, snapshot: true }, { lastEventId: newer });
  await resumed.until('everything missed arrives', (seen) => seen.at(-1)?.id === events.at(-1).id);

  assert.deepStrictEqual(resumed.events, events.slice(6));
});

test('a stream without a token is refused with 401', async () => {
  const response = await fetch(`${nodeUrl(1)}/graphql/stream`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify({ query: DELTAS, variables: { projectId: 1 } }),
    signal: AbortSignal.timeout(10_000),
  });

  assert.equal(response.status, 401);
  assert.equal((await response.json()).errors[0].extensions.code, 'UNAUTHENTICATED');
});

// ---- helpers -------------------------------------------------------------------------------------------------------

function sseClient(t, url, token) {
  const client = createClient({ url: `${url}/graphql/stream`, headers: { authorization: `Bearer ${token}` }, retryAttempts: 0 });
  t.after(() => client.dispose());
  return client;
}

/** A project with some history, and every event of it as node 1 streamed it. */
async function recorded(t) {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'graphql-sse: history');
  const first = openStream(t, nodeUrl(1), token, { projectId, snapshot: true });
  await first.until('the snapshot arrives', (events) => events.length > 0);
  await editBurst(token, projectId, 'burst', 2);
  await ask(balancer(), token, 'mutation ($p: Int!) { updatePlanDagMetadata(projectId: $p, name: "Last") { revision } }', { p: projectId });
  const { revision } = await readPlan(nodeUrl(1), token, projectId);
  await first.until('the last change arrives', (events) => events.at(-1).id === revision);
  return { token, projectId, events: first.events };
}

/** Reads the event stream itself: a feed of `{id, name, delta}`. */
function openStream(t, url, token, variables, { path = '/graphql/stream', lastEventId } = {}) {
  const feed = new Feed((event) => event);
  const leave = new AbortController();
  t.after(() => leave.abort());
  const headers = { 'content-type': 'application/json', accept: 'text/event-stream', authorization: `Bearer ${token}` };
  if (lastEventId) {
    headers['last-event-id'] = lastEventId;
  }
  const body = JSON.stringify({ query: DELTAS, variables });
  read(`${url}${path}`, { method: 'POST', headers, body, signal: leave.signal }, feed).catch((failure) => feed.fail(failure));
  return feed;
}

async function read(url, request, feed) {
  const response = await fetch(url, request);
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type'), /^text\/event-stream/);
  let text = '';
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk.replaceAll('\r', '');
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const event = parseEvent(text.slice(0, end));
      text = text.slice(end + 2);
      if (event) {
        const { data, errors } = JSON.parse(event.data);
        feed.receive({ data: { id: event.id, name: event.name, delta: data?.planDagDeltaChanged }, errors });
      }
    }
  }
  feed.fail(new Error('the stream ended'));
}

/** The fields of one block of an event stream, or null if it holds nothing but comments. */
function parseEvent(block) {
  const fields = new Map();
  for (const line of block.split('\n').filter((text) => text !== '' && !text.startsWith(':'))) {
    const [, field, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line);
    fields.set(field, fields.has(field) && field === 'data' ? `${fields.get(field)}\n${value}` : (value ?? ''));
  }
  return fields.has('data') ? { id: fields.get('id'), name: fields.get('event'), data: fields.get('data') } : null;
}

// The kit's own promises, without a cluster. A replica that lets a broken stream pass would make every other test
// here worthless, so each promise of a stream is broken once on purpose.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { test } from 'node:test';
import { Feed, Replica, applyOperations, parseRevision, signToken, until } from './kit.mjs';

const EMPTY = { nodes: [], edges: [], metadata: { name: 'Plan', description: null, author: 'ann', created: null } };

const snapshot = (revision, version, document = EMPTY) => ({
  kind: 'SNAPSHOT', revision, version, previousRevision: null, operations: [{ op: 'REPLACE', path: '', value: document, from: null }],
});
const rename = (revision, version, previousRevision, name) => ({
  kind: 'DELTA', revision, version, previousRevision, operations: [{ op: 'REPLACE', path: '/metadata/name', value: name, from: null }],
});

function replicaAt(revision, version) {
  const replica = new Replica();
  replica.take(snapshot(revision, version));
  return replica;
}

test('a replica ends at the document its deltas describe', () => {
  const replica = replicaAt('7-0', 0);
  replica.take(rename('7-1', 1, '7-0', 'Harbour'));
  replica.take({
    kind: 'DELTA', revision: '7-2', version: 2, previousRevision: '7-1',
    operations: [
      { op: 'ADD', path: '/nodes/-', value: { id: 'a' }, from: null },
      { op: 'ADD', path: '/nodes/-', value: { id: 'b' }, from: null },
      { op: 'REMOVE', path: '/nodes/0', value: null, from: null },
    ],
  });
  assert.deepStrictEqual(replica.document, { ...EMPTY, nodes: [{ id: 'b' }], metadata: { ...EMPTY.metadata, name: 'Harbour' } });
  assert.equal(replica.revision, '7-2');
});

test('a replica takes a later snapshot in place of everything before', () => {
  const replica = replicaAt('7-3', 3);
  replica.take(snapshot('8-0', 0, { ...EMPTY, nodes: [{ id: 'c' }] }));
  assert.deepStrictEqual(replica.document.nodes, [{ id: 'c' }]);
});

test('a replica leaves the events it was given as they were', () => {
  const first = snapshot('7-0', 0);
  const replica = new Replica();
  replica.take(first);
  replica.take(rename('7-1', 1, '7-0', 'Harbour'));
  assert.deepStrictEqual(first, snapshot('7-0', 0));
});

for (const [what, event] of [
  ['a hole in the numbers', rename('7-2', 1, '7-0', 'x')],
  ['an event whose previous revision is another', rename('7-1', 1, '6-9', 'x')],
  ['a repeated event', rename('7-0', 0, '7-0', 'x')],
  ['another epoch without a snapshot', rename('8-1', 1, '7-0', 'x')],
  ['a version that jumps', rename('7-1', 2, '7-0', 'x')],
  ['a delta without operations', { ...rename('7-1', 1, '7-0', 'x'), operations: [] }],
  ['a snapshot of several operations', { ...snapshot('7-1', 1), operations: [...snapshot('7-1', 1).operations, ...snapshot('7-1', 1).operations] }],
  ['a patch of something that is not there', { ...rename('7-1', 1, '7-0', 'x'), operations: [{ op: 'REPLACE', path: '/nodes/0/config', value: '{}' }] }],
]) {
  test(`a replica refuses ${what}`, () => {
    assert.throws(() => replicaAt('7-0', 0).take(event));
  });
}

test('a failing TEST operation fails the patch', () => {
  assert.throws(() => applyOperations(EMPTY, [{ op: 'TEST', path: '/metadata/name', value: 'other' }]));
});

test('a revision is two numbers, however large', () => {
  assert.deepStrictEqual(parseRevision('18446744073709551615-42'), { epoch: 18446744073709551615n, seq: 42n });
  assert.throws(() => parseRevision('42'));
});

test('a token carries its claims and is signed over them', () => {
  const [header, claims, signature] = signToken('secret', { sub: 'ann' }).split('.');
  assert.deepStrictEqual(JSON.parse(Buffer.from(header, 'base64url')), { alg: 'HS256', typ: 'JWT' });
  assert.deepStrictEqual(JSON.parse(Buffer.from(claims, 'base64url')), { sub: 'ann' });
  assert.equal(signature, createHmac('sha256', 'secret').update(`${header}.${claims}`).digest('base64url'));
});

test('a wait returns what it waited for, poking until then', async () => {
  let pokes = 0;
  const found = await until('three pokes', () => pokes === 3 && 'done', { poke: () => { pokes += 1; } });
  assert.equal(found, 'done');
});

test('a wait on a failed stream ends at once and says why', async () => {
  const feed = new Feed((data) => data);
  feed.sink.error({ code: 4403, reason: 'Forbidden' });
  await assert.rejects(feed.until('an event', (events) => events.length > 0), /4403 Forbidden/);
});

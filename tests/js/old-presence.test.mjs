// The old client's presence conversation, between two users on two nodes: join, switch, point, leave.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createProject, nodeUrl, share, someone, tokenFor } from './kit.mjs';
import { PresenceClient } from './presence.mjs';

const CANVAS = 'plan-dag-canvas';
const SHEET = 'sheet-1';

test('two users on two nodes learn of each other', async (t) => {
  const { ann, bob } = await twoOnTwoNodes(t);
  const both = [ann.userId, bob.userId].sort();

  ann.join(CANVAS);
  await ann.until('ann has the roster', () => ann.of('bulk_presence').length > 0);
  assert.deepStrictEqual(ann.of('bulk_presence')[0].data.map((presence) => presence.userId), [ann.userId], 'oneself is in the roster');
  bob.join(CANVAS);

  await bob.until('bob sees both', () => same(bob.online(), both));
  await ann.until('ann sees both', () => same(ann.online(), both));
  const { data } = ann.of('user_presence').findLast((message) => message.data.userId === bob.userId);
  assert.deepStrictEqual([data.userName, data.avatarColor, data.isOnline], [bob.userName, bob.avatarColor, true]);
});

test('everyone in a document is told who else is in it, and again when someone switches away', async (t) => {
  const { ann, bob } = await bothOnTheCanvas(t);

  bob.switchDocument(SHEET, 'spreadsheet');

  await ann.until('only ann is left on the canvas', () => same(ann.activeIn(CANVAS), [ann.userId]));
  await bob.until('bob is in the sheet', () => same(bob.activeIn(SHEET), [bob.userId]));
  await ann.until('ann sees where bob is', () => {
    const last = ann.of('user_presence').findLast(({ data }) => data.userId === bob.userId);
    return last && same(Object.keys(last.data.documents), [SHEET]);
  });
});

test('a cursor reaches the others in the document, across nodes, and the newest place wins', async (t) => {
  const { ann, bob } = await bothOnTheCanvas(t);

  for (let x = 0; x <= 50; x += 1) {
    ann.moveCursor(CANVAS, { type: 'canvas', x, y: -x }, 'some-node');
  }

  const cursorOfAnn = ({ data }) => data.documentId === CANVAS && data.cursors.find((cursor) => cursor.userId === ann.userId);
  await bob.until('bob sees the last place', () => bob.of('cursor_update').map(cursorOfAnn).at(-1)?.position.x === 50);
  const cursor = bob.of('cursor_update').map(cursorOfAnn).at(-1);
  assert.deepStrictEqual([cursor.position.type, cursor.position.y, cursor.selectedNodeId], ['canvas', -50, 'some-node']);
  assert.deepStrictEqual(ann.of('error'), [], 'a cursor is never an error');
});

test('the heartbeat is answered', async (t) => {
  const { ann } = await twoOnTwoNodes(t);
  ann.join(CANVAS);

  ann.ping();

  await ann.until('the pong arrives', () => ann.of('pong').length === 1);
});

test('whoever leaves a document is out of it, and whoever leaves the session is offline at once', async (t) => {
  const { ann, bob } = await bothOnTheCanvas(t);

  bob.leave(CANVAS);
  await ann.until('bob is out of the canvas', () => same(ann.activeIn(CANVAS), [ann.userId]));

  bob.leave();
  await ann.until('bob is offline', () => same(ann.online(), [ann.userId]));
  bob.close();
  await bob.until('the socket is closed', () => bob.closeCode === 1000);
});

test('nobody joins under another\'s name: an error in the old shape, and the socket goes on', async (t) => {
  const { ann, bob } = await twoOnTwoNodes(t);

  bob.join(CANVAS, { userId: ann.userId });
  await bob.until('the error arrives', () => bob.of('error').length > 0);
  assert.equal(bob.of('error')[0].code, 'FORBIDDEN');

  bob.join(CANVAS);
  await bob.until('bob is in under his own', () => same(bob.online(), [bob.userId]));
});

// The old client did this by mistake, and two of them kept each other and the server busy for ever.
test('two clients that answer every message by switching to where they are soon have nothing to answer', async (t) => {
  const { ann, bob, eve } = await threeOnThreeNodes(t);
  const all = [ann, bob, eve];
  const begun = Date.now();
  for (const client of [ann, bob]) {
    client.onMessage = () => client.switchDocument(CANVAS, 'canvas');
  }
  for (const client of all) {
    client.join(CANVAS);
  }
  for (const client of all) {
    await client.until('all are on the canvas', () => same(client.activeIn(CANVAS), all.map(({ userId }) => userId).sort()));
  }
  const told = (client) => [client.of('user_presence').length, client.of('document_activity').length];
  const before = all.map(told);

  // Each change of the third is told to both, who answer. It is fuel for a storm, if there can be one.
  const statuses = ['idle', 'away', 'active', 'idle', 'away', 'active', 'idle', 'away', 'active', 'idle'];
  for (const status of statuses) {
    eve.updateStatus(status);
    for (const client of all) {
      await client.until(`eve is ${status}`, () => {
        return client.of('user_presence').findLast(({ data }) => data.userId === eve.userId)?.data.status === status;
      });
    }
  }

  all.map(told).forEach(([presences, lists], index) => {
    assert.equal(presences, before[index][0] + statuses.length, 'each change is told once, whatever is answered');
    // The list of those who came last may be told once more, a moment after it was right.
    assert.ok(lists <= before[index][1] + 1, 'nobody came or went');
  });
  const seconds = Math.ceil((Date.now() - begun) / 1000);
  for (const client of [ann, bob]) {
    assert.ok(client.of('error').length <= seconds, 'an error to answer comes once per second at most');
    assert.equal(client.closeCode, null, 'the client keeps its socket');
  }
});

// ---- helpers -------------------------------------------------------------------------------------------------------

async function twoOnTwoNodes(t) {
  const [owner, guest] = [someone('ann'), someone('bob')];
  const token = tokenFor(owner);
  const { projectId } = await createProject(token, 'old presence');
  await share(token, projectId, guest, 'VIEWER');
  const [ann, bob] = await Promise.all([
    PresenceClient.connect(t, nodeUrl(1), projectId, owner),
    PresenceClient.connect(t, nodeUrl(2), projectId, guest),
  ]);
  return { ann, bob };
}

async function threeOnThreeNodes(t) {
  const [owner, ...guests] = [someone('ann'), someone('bob'), someone('eve')];
  const token = tokenFor(owner);
  const { projectId } = await createProject(token, 'old presence');
  await Promise.all(guests.map((guest) => share(token, projectId, guest, 'VIEWER')));
  const clients = [owner, ...guests].map((user, index) => PresenceClient.connect(t, nodeUrl(index + 1), projectId, user));
  const [ann, bob, eve] = await Promise.all(clients);
  return { ann, bob, eve };
}

async function bothOnTheCanvas(t) {
  const { ann, bob } = await twoOnTwoNodes(t);
  const both = [ann.userId, bob.userId].sort();
  for (const client of [ann, bob]) {
    client.join(CANVAS);
    client.switchDocument(CANVAS, 'canvas');
  }
  for (const client of [ann, bob]) {
    await client.until('both are on the canvas', () => same(client.activeIn(CANVAS), both));
  }
  return { ann, bob };
}

function same(list, other) {
  return JSON.stringify(list) === JSON.stringify(other);
}

// The old client's side of the presence socket: what it sends, and all it ever got to see.
//
// It reads the four messages it knows and passes over the others, as a client that was written before them would.
// Every frame is held to the shape the contract gives it, whichever test happens to receive it.

import assert from 'node:assert/strict';
import { WebSocket } from 'ws';
import { tokenFor, until, wsAddress } from './kit.mjs';

const KNOWN_SINCE_EVER = new Set(['user_presence', 'bulk_presence', 'document_activity', 'error', 'pong']);

export class PresenceClient {
  messages = [];
  closeCode = null;
  failure = null;
  /** Called with each message once it is kept. */
  onMessage = null;
  #socket;

  /** Connects as this user; the token goes in the address, as a browser's must. */
  static async connect(t, url, projectId, userId) {
    const client = new PresenceClient(url, projectId, userId);
    t.after(() => client.#socket.terminate());
    await client.until('the presence socket is open', () => client.#socket.readyState === WebSocket.OPEN);
    return client;
  }

  constructor(url, projectId, userId) {
    this.userId = userId;
    this.userName = userId;
    this.avatarColor = '#1f77b4';
    const query = new URLSearchParams({ project_id: String(projectId), token: tokenFor(userId) });
    this.#socket = new WebSocket(`${wsAddress(url, '/ws/collaboration')}?${query}`);
    this.#socket.on('message', (text) => this.#receive(text));
    this.#socket.on('error', (error) => this.#fail(error));
    this.#socket.on('close', (code) => {
      this.closeCode = code;
    });
  }

  join(documentId, data = {}) {
    const { userId, userName, avatarColor } = this;
    this.send('join_session', { userId, userName, avatarColor, documentId, ...data });
  }

  switchDocument(documentId, documentType) {
    this.send('switch_document', { documentId, documentType });
  }

  moveCursor(documentId, position, selectedNodeId) {
    this.send('cursor_update', { documentId, documentType: position.type, position, selectedNodeId, timestamp: Date.now() });
  }

  /** New since: the old client never said this. */
  updateStatus(status) {
    this.send('update_status', { status });
  }

  leave(documentId) {
    this.send('leave_session', { documentId });
  }

  ping() {
    this.#socket.send(JSON.stringify({ type: 'ping' }));
  }

  close() {
    this.#socket.close(1000, 'Client disconnect');
  }

  send(type, data) {
    this.#socket.send(JSON.stringify({ type, data }));
  }

  of(type) {
    return this.messages.filter((message) => message.type === type);
  }

  /** Who is here, as the old client reckons it: the roster it got at first, and what it was told since. */
  online() {
    const users = new Map();
    for (const { type, data } of this.messages) {
      if (type === 'bulk_presence') {
        users.clear();
      }
      const told = { bulk_presence: data, user_presence: [data] }[type] ?? [];
      for (const presence of told) {
        users.set(presence.userId, presence);
      }
    }
    return [...users.values()].filter((presence) => presence.isOnline).map((presence) => presence.userId).sort();
  }

  /** Who is in a document by the last that was told of it. */
  activeIn(documentId) {
    const last = this.of('document_activity').findLast(({ data }) => data.documentId === documentId);
    return (last?.data.activeUsers ?? []).map((user) => user.userId).sort();
  }

  until(what, check) {
    return until(what, () => {
      if (this.failure) {
        throw new Error(`the presence socket failed before ${what}`, { cause: this.failure });
      }
      return check(this);
    });
  }

  #receive(text) {
    try {
      const message = JSON.parse(text);
      checkShape(message);
      this.messages.push(message);
      this.onMessage?.(message);
    } catch (failure) {
      this.#fail(failure);
    }
  }

  #fail(failure) {
    this.failure ??= failure;
  }
}

function checkShape({ type, data, message }) {
  assert.match(type, /^[a-z_]+$/);
  if (!KNOWN_SINCE_EVER.has(type)) {
    return;
  }
  if (type === 'bulk_presence') {
    data.forEach(checkPresence);
  } else if (type === 'user_presence') {
    checkPresence(data);
  } else if (type === 'document_activity') {
    assert.equal(typeof data.documentId, 'string');
    for (const user of data.activeUsers) {
      assert.deepStrictEqual([typeof user.userId, typeof user.userName], ['string', 'string']);
    }
  } else if (type === 'error') {
    assert.equal(typeof message, 'string', 'an error\'s message stands beside its type');
  }
}

function checkPresence(presence) {
  for (const field of ['userId', 'userName', 'avatarColor', 'lastActive']) {
    assert.equal(typeof presence[field], 'string', `a presence has a ${field}`);
  }
  assert.equal(typeof presence.isOnline, 'boolean');
  assert.ok(!Number.isNaN(Date.parse(presence.lastActive)));
  for (const { documentType, lastActiveInDocument } of Object.values(presence.documents)) {
    assert.equal(typeof documentType, 'string');
    assert.ok(!Number.isNaN(Date.parse(lastActiveInDocument)));
  }
}

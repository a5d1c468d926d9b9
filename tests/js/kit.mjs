// What all these tests share: the cluster's addresses, tokens, calls, bounded waits, and a replica fed by deltas.
//
// The rule it keeps: nothing here knows more than a stranger with the public contract would. The replica applies
// patches by fast-json-patch with its validation on and checks the promises of a delta stream at every event, so a
// test that merely follows a plan already holds the server to them.
//
// The cluster is not started here. MILLE_STATE is the path of the state file of a running one, MILLE_BIN the path of
// the operator's command line. Every test makes its own project, so they can run again and again on one cluster.

import { execFile } from 'node:child_process';
import { createHmac, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setTimeout as delay } from 'node:timers/promises';
import jsonpatch from 'fast-json-patch';
import { createClient as createWsClient } from 'graphql-ws';
import { WebSocket } from 'ws';

/** How many times longer every wait may last than on an idle machine. */
const PATIENCE = Number(process.env.TEST_PATIENCE ?? 1);
const WAIT_MS = 15_000 * PATIENCE;
const REQUEST_MS = 10_000 * PATIENCE;
const IMPORT_MS = 60_000 * PATIENCE;

// ---- the cluster ---------------------------------------------------------------------------------------------------

let state;

function clusterState() {
  const path = process.env.MILLE_STATE;
  if (!path) {
    throw new Error('MILLE_STATE is not set: these tests need the state.json of a running cluster (ops/up --detach)');
  }
  state ??= JSON.parse(readFileSync(path, 'utf8'));
  return state;
}

/** The address of the load balancer. */
export function balancer() {
  const { proxy } = clusterState();
  if (!proxy?.url) {
    throw new Error('the cluster was started without a load balancer; these tests go through it');
  }
  return withoutSlash(proxy.url);
}

/** The address of node 1, 2, 3. */
export function nodeUrl(number) {
  const member = clusterState().nodes[number - 1];
  if (!member) {
    throw new Error(`the cluster has no node ${number}; these tests need three`);
  }
  return withoutSlash(member.url);
}

export function allNodeUrls() {
  return clusterState().nodes.map((member) => withoutSlash(member.url));
}

/** The same address for a WebSocket. */
export function wsAddress(url, path = '/graphql/ws') {
  return `${url.replace(/^http/, 'ws')}${path}`;
}

function withoutSlash(url) {
  return url.replace(/\/+$/, '');
}

// ---- who is asking -------------------------------------------------------------------------------------------------

/** A user nobody else has, so that repeated runs never meet. */
export function someone(name) {
  return `${name}-${randomUUID().slice(0, 8)}`;
}

/** A JWT of this user for the cluster under test. */
export function tokenFor(user, claims = {}) {
  return signToken(clusterState().jwtSecret, { sub: user, name: user, exp: Math.floor(Date.now() / 1000) + 3600, ...claims });
}

/** Signs claims as HS256. */
export function signToken(secret, claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}

// ---- asking --------------------------------------------------------------------------------------------------------

/** The server answered with errors. `codes` are their `extensions.code`. */
export class Refused extends Error {
  constructor(errors, status) {
    super(`refused (HTTP ${status}): ${errors.map((error) => `${error.extensions?.code}: ${error.message}`).join('; ')}`);
    this.errors = errors;
    this.status = status;
    this.codes = errors.map((error) => error.extensions?.code);
  }
}

/** One GraphQL operation over HTTP. Throws `Refused` if the answer has errors. */
export async function ask(url, token, query, variables = {}) {
  const response = await fetch(`${url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json', authorization: `Bearer ${token}` },
    body: JSON.stringify({ query, variables }),
    signal: AbortSignal.timeout(REQUEST_MS),
  });
  const body = await response.json();
  if (body.errors?.length) {
    throw new Refused(body.errors, response.status);
  }
  return body.data;
}

/** A new project of this token's user: its id and that of its first plan. */
export async function createProject(token, name) {
  const query = 'mutation ($name: String!) { createProject(name: $name) { id plans { id } } }';
  const { createProject: project } = await ask(balancer(), token, query, { name });
  return { projectId: project.id, planId: project.plans[0].id };
}

/** Gives a user a role in the project. */
export async function share(token, projectId, userId, role) {
  const query = 'mutation ($p: Int!, $u: String!, $r: ProjectRole!) { setCollaborator(projectId: $p, userId: $u, role: $r) { role } }';
  await ask(balancer(), token, query, { p: projectId, u: userId, r: role });
}

/** Imports the harbour sample through the load balancer by the operator's command line. */
export async function importHarbour(token, projectId) {
  const sample = (name) => fileURLToPath(new URL(`../../ops/samples/${name}`, import.meta.url));
  // By address and token, since the project is this test's own and the local cluster's users are no members of it.
  await mille([
    'import', '--url', balancer(), '--token', token, '--project', String(projectId),
    '--nodes', sample('harbour-nodes.csv'), '--edges', sample('harbour-edges.csv'),
  ]);
}

function mille(args) {
  const binary = process.env.MILLE_BIN;
  if (!binary) {
    throw new Error('MILLE_BIN is not set: these tests need the path of the `mille` binary');
  }
  const { MILLE_STATE: _state, MILLE_BIN: _bin, ...env } = process.env;
  return new Promise((resolve, reject) => {
    execFile(binary, args, { env, timeout: IMPORT_MS }, (error, stdout, stderr) => {
      if (error) {
        reject(new Error(`mille ${args[0]} failed (${error.code ?? error.signal}):\n${stdout}${stderr}`));
      } else {
        resolve(stdout);
      }
    });
  });
}

// ---- waiting -------------------------------------------------------------------------------------------------------

/**
 * Waits until `check` gives something true, and returns it. The only place where a test sleeps.
 * `poke` is done before each further look, for states that need someone to act: a subscription gives no sign of having begun.
 */
export async function until(what, check, { poke } = {}) {
  const deadline = Date.now() + WAIT_MS;
  for (;;) {
    const value = await check();
    if (value) {
      return value;
    }
    if (Date.now() >= deadline) {
      throw new Error(`waited ${WAIT_MS} ms in vain until ${what}`);
    }
    await poke?.();
    await delay(poke ? 100 : 20);
  }
}

/** What a subscription has brought so far. Its `sink` fits graphql-ws and graphql-sse alike. */
export class Feed {
  events = [];
  failure = null;
  completed = false;
  #take;

  /** `take` turns the data of a message into the event that is kept. */
  constructor(take) {
    this.#take = take;
  }

  get sink() {
    return {
      next: (result) => this.receive(result),
      error: (failure) => this.fail(failure),
      complete: () => {
        this.completed = true;
      },
    };
  }

  receive(result) {
    try {
      if (result.errors?.length) {
        throw new Refused(result.errors, 'in a stream');
      }
      this.events.push(this.#take(result.data));
    } catch (failure) {
      this.fail(failure);
    }
  }

  fail(failure) {
    this.failure ??= failure;
  }

  /** Waits as `until` does, but ends at once when the stream fails. */
  until(what, check, options) {
    const lookCloser = () => {
      if (this.failure) {
        throw new Error(`the stream failed before ${what}: ${describe(this.failure)}`, { cause: this.failure });
      }
      return check(this.events);
    };
    return until(what, lookCloser, options);
  }
}

/** graphql-ws reports an Error, a CloseEvent or a list of GraphQL errors. */
function describe(failure) {
  if (Array.isArray(failure)) {
    return JSON.stringify(failure);
  }
  return failure.message || `closed with ${failure.code} ${failure.reason}`;
}

// ---- clients -------------------------------------------------------------------------------------------------------

/** graphql-ws as it is published, on `ws`, without retries: a test decides itself when to come back. */
export function transportClient(url, token, options = {}) {
  return createWsClient({
    url: wsAddress(url),
    webSocketImpl: WebSocket,
    connectionParams: { Authorization: `Bearer ${token}` },
    retryAttempts: 0,
    ...options,
  });
}

/** Subscribes to a plan's deltas by any client with a graphql-ws like `subscribe`, and keeps a replica. */
export function followDeltas(client, variables) {
  const replica = new Replica();
  const feed = new Feed((data) => replica.take(data.planDagDeltaChanged));
  const stop = client.subscribe({ query: DELTAS, variables }, feed.sink);
  return { feed, replica, stop };
}

// ---- the plan ------------------------------------------------------------------------------------------------------

/** Every field of a delta. */
export const DELTA_FIELDS = `
  projectId planId kind version revision previousRevision userId clientId operationId timestamp
  operations { op path value from } reason`;

export const DELTAS = `
  subscription Deltas($projectId: Int!, $after: String, $snapshot: Boolean) {
    planDagDeltaChanged(projectId: $projectId, after: $after, snapshot: $snapshot) { ${DELTA_FIELDS} }
  }`;

/** Every field of the document, and the revision it was read at. */
export const WHOLE_PLAN = `
  query WholePlan($projectId: Int!) {
    getPlanDag(projectId: $projectId) {
      revision
      nodes {
        id nodeType position { x y } sourcePosition targetPosition metadata { label description } config createdAt updatedAt
        datasourceExecution { dataSourceId filename status processedAt executionState errorMessage }
        graphExecution { graphId nodeCount edgeCount executionState computedDate errorMessage }
      }
      edges { id source target metadata { label dataType } createdAt updatedAt }
      metadata { name description author created }
    }
  }`;

/** The plan as a node serves it: the document, and the revision it was read at. */
export async function readPlan(url, token, projectId) {
  const { getPlanDag } = await ask(url, token, WHOLE_PLAN, { projectId });
  const { revision, ...document } = getPlanDag;
  return { revision, document };
}

/** Waits until the replica has reached what this node serves, and returns that plan. */
export async function caughtUp({ feed, replica }, url, token, projectId) {
  const plan = await readPlan(url, token, projectId);
  await feed.until(`the replica reaches ${plan.revision}`, () => isAtOrAfter(replica.revision, plan.revision));
  return plan;
}

/** A plan's document as a client keeps it: fed by deltas, strict about every promise of the stream. */
export class Replica {
  document;
  revision = null;
  version = null;

  /** Applies one event and returns it. */
  take(event) {
    if (event.kind === 'SNAPSHOT') {
      this.#expect(event.previousRevision === null, event, 'a SNAPSHOT has no previous revision');
      const [only, ...more] = event.operations;
      this.#expect(more.length === 0 && only?.op === 'REPLACE' && only.path === '', event, 'a SNAPSHOT is a single REPLACE of the whole document');
    } else {
      this.#expect(event.kind === 'DELTA', event, 'an event is a DELTA or a SNAPSHOT');
      this.#expect(event.operations.length > 0, event, 'a DELTA changes something');
      if (this.revision !== null) {
        this.#expectNext(event);
      }
    }
    if (this.document !== undefined || event.kind === 'SNAPSHOT') {
      this.document = applyOperations(this.document, event.operations);
    }
    this.revision = event.revision;
    this.version = event.version;
    return event;
  }

  #expectNext(event) {
    this.#expect(event.previousRevision === this.revision, event, `the event before it was at ${this.revision}`);
    const [before, now] = [parseRevision(this.revision), parseRevision(event.revision)];
    this.#expect(now.epoch === before.epoch && now.seq === before.seq + 1n, event, 'numbers are dense within an epoch');
    this.#expect(event.version === this.version + 1, event, `the version before it was ${this.version}`);
  }

  #expect(kept, event, promise) {
    if (!kept) {
      throw new Error(`${promise}, but got ${JSON.stringify(event).slice(0, 400)}`);
    }
  }
}

/** The document after these operations. GraphQL shouts the names of operations, RFC 6902 does not. */
export function applyOperations(document, operations) {
  const patch = structuredClone(operations).map((operation) => ({ ...operation, op: operation.op.toLowerCase() }));
  return jsonpatch.applyPatch(document ?? null, patch, true).newDocument;
}

/** `<epoch>-<seq>` as numbers. An epoch may be larger than a double can count. */
export function parseRevision(revision) {
  const parts = /^(\d+)-(\d+)$/.exec(revision);
  if (!parts) {
    throw new Error(`not a revision: ${revision}`);
  }
  return { epoch: BigInt(parts[1]), seq: BigInt(parts[2]) };
}

function isAtOrAfter(revision, other) {
  if (revision === null) {
    return false;
  }
  const [a, b] = [parseRevision(revision), parseRevision(other)];
  return a.epoch > b.epoch || (a.epoch === b.epoch && a.seq >= b.seq);
}

// ---- edits ---------------------------------------------------------------------------------------------------------

const plainNode = (id, nodeType, x, y) => ({
  id, nodeType, position: { x, y }, metadata: { label: `Plan node ${id}`, description: null }, config: '{}',
});

/**
 * A burst of edits of every kind, each sent to another node of the cluster, many of them at the same time.
 * No two touch the same field at once and none is a repeat, so each is accepted and makes exactly one revision.
 * Returns how many there were. `name` keeps the ids of bursts apart.
 */
export async function editBurst(token, projectId, name, rounds = 6) {
  const urls = [balancer(), ...allNodeUrls()];
  let edits = 0;
  const edit = (body, types, variables) => {
    edits += 1;
    const query = `mutation ($p: Int!, ${types}) { ${body} }`;
    return ask(urls[edits % urls.length], token, query, { p: projectId, ...variables });
  };

  for (let round = 0; round < rounds; round += 1) {
    const [a, b, edge] = [`${name}-${round}-a`, `${name}-${round}-b`, `${name}-${round}-edge`];
    const y = 5_000 + 200 * round;
    const add = 'addPlanDagNode(projectId: $p, node: $node) { id }';
    await Promise.all([
      edit(add, '$node: PlanDagNodeInput!', { node: plainNode(a, 'GraphNode', 0, y) }),
      edit(add, '$node: PlanDagNodeInput!', { node: plainNode(b, 'MergeNode', 300, y) }),
    ]);
    await edit('addPlanDagEdge(projectId: $p, edge: $edge) { id }', '$edge: PlanDagEdgeInput!', {
      edge: { id: edge, source: a, target: b, metadata: { label: null, dataType: 'GRAPH_DATA' } },
    });
    await Promise.all([
      edit('movePlanDagNode(projectId: $p, nodeId: $id, position: $to) { id }', '$id: String!, $to: PositionInput!', { id: a, to: { x: -1.5, y: y + 0.25 } }),
      edit('updatePlanDagNode(projectId: $p, nodeId: $id, updates: $with) { id }', '$id: String!, $with: PlanDagNodeUpdateInput!', {
        id: b, with: { metadata: { label: `Round ${round} "quoted", ü/~`, description: 'a/b~c' }, config: JSON.stringify({ round }) },
      }),
      edit('updatePlanDagEdge(projectId: $p, edgeId: $id, updates: $with) { id }', '$id: String!, $with: PlanDagEdgeUpdateInput!', {
        id: edge, with: { metadata: { label: `flow ${round}`, dataType: 'GRAPH_REFERENCE' } },
      }),
      edit('updatePlanDagMetadata(projectId: $p, name: $name) { revision }', '$name: String!', { name: `${name}, round ${round}` }),
    ]);
    await edit('batchMovePlanDagNodes(projectId: $p, nodePositions: $to) { id }', '$to: [NodePositionInput!]!', {
      to: [a, b].map((nodeId, i) => ({ nodeId, position: { x: 1_000 + 300 * i, y: y + 1 } })),
    });
    if (round % 2 === 0) {
      await edit('deletePlanDagEdge(projectId: $p, edgeId: $id) { id }', '$id: String!', { id: edge });
    }
    if (round % 3 === 1) {
      await edit('deletePlanDagNode(projectId: $p, nodeId: $id) { id }', '$id: String!', { id: a });
    }
  }
  return edits;
}

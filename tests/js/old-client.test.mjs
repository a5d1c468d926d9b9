// The plan editor this system replaces knew projects, not plans, and no resync. Its web client must be able to move
// over: every operation works with `projectId` alone, every selection it makes is still there, and the presence
// conversation goes as before. The documents are written here anew from the public contract.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  Feed, Refused, applyOperations, ask, balancer, createProject, nodeUrl, readPlan, share, someone, tokenFor,
  transportClient, until,
} from './kit.mjs';
import { PresenceClient } from './presence.mjs';

const NODE = 'id nodeType position { x y } sourcePosition targetPosition metadata { label description } config';
const EDGE = 'id source target metadata { label dataType }';
const METADATA = 'version name description created lastModified author';
const EXECUTION = `
  datasourceExecution { dataSourceId filename status processedAt executionState errorMessage }
  graphExecution { graphId nodeCount edgeCount executionState computedDate errorMessage }`;

const GET = `query GetPlanDag($projectId: Int!, $planId: Int) {
  getPlanDag(projectId: $projectId, planId: $planId) { version nodes { ${NODE} ${EXECUTION} } edges { ${EDGE} } metadata { ${METADATA} } } }`;
const VALIDATE = `query ValidatePlanDag($planDag: PlanDagInput!) {
  validatePlanDag(planDag: $planDag) { isValid errors { nodeId edgeId errorType message } warnings { nodeId edgeId errorType message } } }`;
const UPDATE = `mutation UpdatePlanDag($projectId: Int!, $planId: Int, $planDag: PlanDagInput!) {
  updatePlanDag(projectId: $projectId, planId: $planId, planDag: $planDag) { version nodes { ${NODE} } edges { ${EDGE} } metadata { ${METADATA} } } }`;
const ADD_NODE = `mutation AddPlanDagNode($projectId: Int!, $planId: Int, $node: PlanDagNodeInput!) {
  addPlanDagNode(projectId: $projectId, planId: $planId, node: $node) { id nodeType position { x y } metadata { label description } config } }`;
const UPDATE_NODE = `mutation UpdatePlanDagNode($projectId: Int!, $planId: Int, $nodeId: String!, $updates: PlanDagNodeUpdateInput!) {
  updatePlanDagNode(projectId: $projectId, planId: $planId, nodeId: $nodeId, updates: $updates) { id nodeType position { x y } metadata { label description } config } }`;
const DELETE_NODE = `mutation DeletePlanDagNode($projectId: Int!, $planId: Int, $nodeId: String!) {
  deletePlanDagNode(projectId: $projectId, planId: $planId, nodeId: $nodeId) { id } }`;
const ADD_EDGE = `mutation AddPlanDagEdge($projectId: Int!, $planId: Int, $edge: PlanDagEdgeInput!) {
  addPlanDagEdge(projectId: $projectId, planId: $planId, edge: $edge) { ${EDGE} } }`;
const UPDATE_EDGE = `mutation UpdatePlanDagEdge($projectId: Int!, $planId: Int, $edgeId: String!, $updates: PlanDagEdgeUpdateInput!) {
  updatePlanDagEdge(projectId: $projectId, planId: $planId, edgeId: $edgeId, updates: $updates) { ${EDGE} } }`;
const DELETE_EDGE = `mutation DeletePlanDagEdge($projectId: Int!, $planId: Int, $edgeId: String!) {
  deletePlanDagEdge(projectId: $projectId, planId: $planId, edgeId: $edgeId) { id } }`;
const MOVE = `mutation MovePlanDagNode($projectId: Int!, $planId: Int, $nodeId: String!, $position: PositionInput!) {
  movePlanDagNode(projectId: $projectId, planId: $planId, nodeId: $nodeId, position: $position) { id position { x y } } }`;
const BATCH_MOVE = `mutation BatchMovePlanDagNodes($projectId: Int!, $planId: Int, $nodePositions: [NodePositionInput!]!) {
  batchMovePlanDagNodes(projectId: $projectId, planId: $planId, nodePositions: $nodePositions) { id position { x y } } }`;
const JOIN = 'mutation JoinProjectCollaboration($projectId: Int!) { joinProjectCollaboration(projectId: $projectId) }';
const LEAVE = 'mutation LeaveProjectCollaboration($projectId: Int!) { leaveProjectCollaboration(projectId: $projectId) }';

const DELTA = `subscription PlanDagDeltaChanged($projectId: Int!, $planId: Int) {
  planDagDeltaChanged(projectId: $projectId, planId: $planId) { projectId version userId timestamp operations { op path value from } } }`;
const STATUS = `subscription NodeExecutionStatusChanged($projectId: Int!) {
  nodeExecutionStatusChanged(projectId: $projectId) { projectId nodeId nodeType ${EXECUTION} timestamp } }`;
const UPDATED = `subscription PlanDagUpdated($planId: String!) {
  planDagUpdated(planId: $planId) { planId updateType userId timestamp
    data { node { id nodeType config metadata { label description } } edge { ${EDGE} } metadata { name description } } } }`;
const COLLABORATION = `subscription CollaborationEvents($planId: String!) {
  collaborationEvents(planId: $planId) { eventId planId userId eventType timestamp
    data { nodeEvent { node { id nodeType config metadata { label description } } } edgeEvent { edge { ${EDGE} } }
      userEvent { userId userName avatarColor } cursorEvent { userId userName avatarColor positionX positionY selectedNodeId } } } }`;

const CANVAS = 'plan-dag-canvas';

test('a new project has an empty plan that is read by its project alone', async () => {
  const { old } = await newProject('read');

  const { getPlanDag: read } = await old.ask(GET);

  assert.deepStrictEqual([read.nodes, read.edges], [[], []]);
  assert.equal(typeof read.version, 'string');
  assert.deepStrictEqual(Object.keys(read.metadata).sort(), METADATA.split(' ').sort());
});

test('a null planId means the same as none', async () => {
  const { old } = await newProject('null plan');
  await old.ask(ADD_NODE, { planId: null, node: planNode('only', 'GraphNode') });

  const { getPlanDag: read } = await old.ask(GET, { planId: null });

  assert.deepStrictEqual(read, (await old.ask(GET)).getPlanDag);
  assert.deepStrictEqual(read.nodes.map((node) => node.id), ['only']);
});

test('a plan node is added as it was given, and gets an id if it has none', async () => {
  const { old } = await newProject('add');
  const given = planNode('survey', 'DataSourceNode', 10.5, -20);

  const { addPlanDagNode: added } = await old.ask(ADD_NODE, { node: given });
  const { id: _id, ...nameless } = planNode('', 'GraphNode');
  const { addPlanDagNode: named } = await old.ask(ADD_NODE, { node: nameless });

  assert.deepStrictEqual(added, given);
  assert.match(named.id, /^[A-Za-z]+_[0-9a-f]{12}$/);
  assert.deepStrictEqual((await old.ids()).nodes, ['survey', named.id]);
});

test('updating a plan node changes what was sent and leaves the rest', async () => {
  const { old } = await newProject('update');
  await old.ask(ADD_NODE, { node: planNode('a', 'GraphNode', 3, 4) });

  const { updatePlanDagNode: relabelled } = await old.ask(UPDATE_NODE, { nodeId: 'a', updates: { metadata: { label: 'New', description: 'why' } } });
  const { updatePlanDagNode: configured } = await old.ask(UPDATE_NODE, { nodeId: 'a', updates: { config: '{"depth":2}' } });

  assert.deepStrictEqual(relabelled, { ...planNode('a', 'GraphNode', 3, 4), metadata: { label: 'New', description: 'why' } });
  assert.deepStrictEqual(configured, { ...relabelled, config: '{"depth":2}' });
});

test('moves, one or many, change positions and nothing else', async () => {
  const { old } = await newProject('move');
  for (const id of ['a', 'b', 'c']) {
    await old.ask(ADD_NODE, { node: planNode(id, 'GraphNode') });
  }

  const { movePlanDagNode: moved } = await old.ask(MOVE, { nodeId: 'a', position: { x: 1, y: 2 } });
  const { batchMovePlanDagNodes: batch } = await old.ask(BATCH_MOVE, {
    nodePositions: [
      { nodeId: 'b', position: { x: 3, y: 4 }, sourcePosition: 'right', targetPosition: 'left' },
      { nodeId: 'c', position: { x: 5, y: 6 } },
    ],
  });

  assert.deepStrictEqual(moved, { id: 'a', position: { x: 1, y: 2 } });
  assert.deepStrictEqual(batch, [{ id: 'b', position: { x: 3, y: 4 } }, { id: 'c', position: { x: 5, y: 6 } }]);
  const { getPlanDag: read } = await old.ask(GET);
  const sides = read.nodes.map((node) => [node.id, node.position, node.sourcePosition, node.targetPosition, node.metadata.label]);
  assert.deepStrictEqual(sides, [
    ['a', { x: 1, y: 2 }, null, null, 'Plan node a'],
    ['b', { x: 3, y: 4 }, 'right', 'left', 'Plan node b'],
    ['c', { x: 5, y: 6 }, null, null, 'Plan node c'],
  ]);
});

test('an edge is added, changed and deleted', async () => {
  const { old } = await newProject('edges');
  await old.ask(ADD_NODE, { node: planNode('a', 'DataSourceNode') });
  await old.ask(ADD_NODE, { node: planNode('b', 'GraphNode') });

  const { addPlanDagEdge: added } = await old.ask(ADD_EDGE, { edge: link('ab', 'a', 'b') });
  const { updatePlanDagEdge: updated } = await old.ask(UPDATE_EDGE, { edgeId: 'ab', updates: { metadata: { label: 'flow', dataType: 'GRAPH_REFERENCE' } } });
  const { deletePlanDagEdge: deleted } = await old.ask(DELETE_EDGE, { edgeId: 'ab' });

  assert.deepStrictEqual(added, link('ab', 'a', 'b'));
  assert.deepStrictEqual(updated, { ...added, metadata: { label: 'flow', dataType: 'GRAPH_REFERENCE' } });
  assert.deepStrictEqual(deleted, { id: 'ab' });
  assert.deepStrictEqual(await old.ids(), { nodes: ['a', 'b'], edges: [] });
});

test('deleting a plan node takes its edges with it, and deleting it again is NOT_FOUND', async () => {
  const { old } = await newProject('delete');
  await old.ask(UPDATE, { planDag: wholePlan() });

  const { deletePlanDagNode: deleted } = await old.ask(DELETE_NODE, { nodeId: 'graph' });

  assert.deepStrictEqual(deleted, { id: 'graph' });
  assert.deepStrictEqual(await old.ids(), { nodes: ['source', 'output'], edges: [] });
  await assert.rejects(old.ask(DELETE_NODE, { nodeId: 'graph' }), refusedWith('NOT_FOUND'));
});

test('a whole plan replaces the one before, in the order it was sent', async () => {
  const { old } = await newProject('replace');
  await old.ask(ADD_NODE, { node: planNode('before', 'GraphNode') });
  const sent = wholePlan();

  const { updatePlanDag: answered } = await old.ask(UPDATE, { planDag: sent });

  assert.deepStrictEqual(answered.nodes.map(({ sourcePosition: _s, targetPosition: _t, ...node }) => node), sent.nodes);
  assert.deepStrictEqual(answered.edges, sent.edges);
  assert.deepStrictEqual([answered.metadata.name, answered.metadata.description], [sent.metadata.name, sent.metadata.description]);
  assert.deepStrictEqual(await old.ids(), { nodes: ['source', 'graph', 'output'], edges: ['e1', 'e2'] });
});

test('validation reports what breaks a rule, where, and changes nothing', async () => {
  const { old } = await newProject('validate');
  const cyclic = wholePlan();
  cyclic.nodes.push(planNode('copy', 'CopyNode'), planNode('filter', 'FilterNode'));
  cyclic.edges.push(link('e3', 'copy', 'filter'), link('e4', 'filter', 'copy'));

  const { validatePlanDag: good } = await old.ask(VALIDATE, { planDag: wholePlan() });
  const { validatePlanDag: bad } = await old.ask(VALIDATE, { planDag: cyclic });

  assert.deepStrictEqual([good.isValid, good.errors], [true, []]);
  assert.equal(bad.isValid, false);
  assert.ok(bad.errors.length > 0);
  for (const error of bad.errors) {
    assert.equal(typeof error.message, 'string');
    assert.equal(typeof error.errorType, 'string');
  }
  assert.deepStrictEqual(await old.ids(), { nodes: [], edges: [] });
});

test('a client that knows nothing of resync keeps its copy right from the deltas alone', async (t) => {
  const { old, token, projectId } = await newProject('deltas');
  const feed = old.subscribe(t, DELTA, 'planDagDeltaChanged', { projectId });
  // Such a client reads the plan once its subscription runs; the first event shows that it does.
  await feed.until('the stream runs', (events) => events.length > 0, { poke: old.rename });
  const start = await readPlan(nodeUrl(1), token, projectId);
  const version = Number(start.revision.split('-')[1]);

  await old.ask(UPDATE, { planDag: wholePlan() });
  await old.ask(MOVE, { nodeId: 'graph', position: { x: 9, y: 9 } });
  await old.ask(UPDATE_EDGE, { edgeId: 'e2', updates: { metadata: { label: 'out', dataType: 'GRAPH_DATA' } } });
  await old.ask(DELETE_NODE, { nodeId: 'source' });
  await feed.until('the four changes arrive', (events) => events.at(-1).version === version + 4);

  const missed = feed.events.filter((event) => event.version > version);
  assert.deepStrictEqual(missed.map((event) => event.version), [1, 2, 3, 4].map((n) => version + n));
  const copy = missed.reduce((document, event) => applyOperations(document, event.operations), start.document);
  assert.deepStrictEqual(copy, (await readPlan(nodeUrl(2), token, projectId)).document);
  assert.ok(feed.events.every((event) => event.projectId === projectId && event.userId === old.user));
});

test('execution states reach a subscriber of the project in their order', async (t) => {
  const { old, projectId } = await newProject('status');
  await old.ask(UPDATE, { planDag: wholePlan() });
  const feed = old.subscribe(t, STATUS, 'nodeExecutionStatusChanged', { projectId });
  let runs = 0;
  const report = (runId, state) => old.ask(
    `mutation ($projectId: Int!, $run: String!, $state: String!) {
      reportNodeExecution(projectId: $projectId, nodeId: "graph", runId: $run, state: $state) { state } }`,
    { run: runId, state },
  );
  await feed.until('the stream runs', (events) => events.length > 0, { poke: () => report(`warm-up-${(runs += 1)}`, 'pending') });
  const lastIs = (state) => (events) => events.at(-1).graphExecution?.executionState === state;

  await report('run', 'pending');
  for (const state of ['processing', 'completed']) {
    await report('run', state);
    await feed.until(`${state} arrives`, lastIs(state));
  }

  const states = feed.events.map((event) => event.graphExecution.executionState);
  assert.deepStrictEqual(states.slice(-3), ['pending', 'processing', 'completed']);
  assert.ok(feed.events.every((event) => event.nodeId === 'graph' && event.nodeType === 'GraphNode' && event.projectId === projectId));
  const { getPlanDag: read } = await old.ask(GET);
  assert.equal(read.nodes.find((node) => node.id === 'graph').graphExecution.executionState, 'completed');
});

test('planDagUpdated tells each change as a typed event', async (t) => {
  const { old, planId } = await newProject('typed events');
  const feed = old.subscribe(t, UPDATED, 'planDagUpdated', { planId: String(planId) });
  await feed.until('the stream runs', (events) => events.length > 0, { poke: old.rename });
  await old.ask(ADD_NODE, { node: planNode('a', 'DataSourceNode') });
  await feed.until('the plan node arrives', (events) => events.at(-1).updateType === 'NODE_ADDED');
  const before = feed.events.length;

  await old.ask(ADD_NODE, { node: planNode('b', 'GraphNode') });
  await old.ask(ADD_EDGE, { edge: link('ab', 'a', 'b') });
  await old.ask(MOVE, { nodeId: 'b', position: { x: 7, y: 7 } });
  await old.ask(UPDATE_NODE, { nodeId: 'b', updates: { metadata: { label: 'Renamed', description: null } } });
  await old.ask(UPDATE_EDGE, { edgeId: 'ab', updates: { metadata: { label: 'flow', dataType: 'GRAPH_DATA' } } });
  await old.ask(DELETE_EDGE, { edgeId: 'ab' });
  await old.ask(DELETE_NODE, { nodeId: 'b' });
  await old.rename();
  await feed.until('the last change arrives', (events) => events.slice(before).some((event) => event.updateType === 'METADATA_UPDATED'));

  const told = feed.events.slice(before).map(({ updateType, data }) => [updateType, data.node?.id ?? data.edge?.id ?? null]);
  assert.deepStrictEqual(told, [
    ['NODE_ADDED', 'b'], ['EDGE_ADDED', 'ab'], ['NODE_UPDATED', 'b'], ['NODE_UPDATED', 'b'], ['EDGE_UPDATED', 'ab'],
    ['EDGE_REMOVED', 'ab'], ['NODE_REMOVED', 'b'], ['METADATA_UPDATED', null],
  ]);
  assert.equal(feed.events[before + 3].data.node.metadata.label, 'Renamed');
  assert.ok(feed.events.every((event) => String(event.planId) === String(planId) && event.userId === old.user));
});

test('collaborationEvents tells who comes, goes and points, and what is made and deleted', async (t) => {
  const { old, token, projectId, planId } = await newProject('collaboration');
  const guest = someone('bob');
  await share(token, projectId, guest, 'EDITOR');
  await old.ask(ADD_NODE, { node: planNode('a', 'DataSourceNode') });
  const feed = old.subscribe(t, COLLABORATION, 'collaborationEvents', { planId: String(planId) });
  let x = 0;
  const nudge = () => old.ask(MOVE, { nodeId: 'a', position: { x: (x += 1), y: 0 } });
  await feed.until('the stream runs', (events) => events.length > 0, { poke: nudge });
  const saw = (type, check = () => true) => (events) => events.find((event) => event.eventType === type && check(event));

  const presence = await PresenceClient.connect(t, nodeUrl(3), projectId, guest);
  presence.join(CANVAS);
  presence.switchDocument(CANVAS, 'canvas');
  const joined = await feed.until('the guest has joined', saw('USER_JOINED', (event) => event.userId === guest));
  assert.deepStrictEqual(joined.data.userEvent, { userId: guest, userName: presence.userName, avatarColor: presence.avatarColor });

  presence.moveCursor(CANVAS, { type: 'canvas', x: 12, y: 34 }, 'a');
  const pointed = await feed.until('the guest points', saw('CURSOR_MOVED', (event) => event.data.cursorEvent.positionX === 12));
  assert.deepStrictEqual(pointed.data.cursorEvent, {
    userId: guest, userName: presence.userName, avatarColor: presence.avatarColor, positionX: 12, positionY: 34, selectedNodeId: 'a',
  });

  await old.ask(ADD_NODE, { node: planNode('b', 'GraphNode') });
  await old.ask(ADD_EDGE, { edge: link('ab', 'a', 'b') });
  await old.ask(DELETE_EDGE, { edgeId: 'ab' });
  await old.ask(DELETE_NODE, { nodeId: 'b' });
  await feed.until('the deletion arrives', saw('NODE_DELETED'));
  const edits = feed.events
    .filter(({ eventType }) => /^(NODE|EDGE)_(CREATED|DELETED)$/.test(eventType))
    .map(({ eventType, data }) => [eventType, data.nodeEvent?.node.id ?? data.edgeEvent?.edge.id]);
  assert.deepStrictEqual(edits, [['NODE_CREATED', 'b'], ['EDGE_CREATED', 'ab'], ['EDGE_DELETED', 'ab'], ['NODE_DELETED', 'b']]);

  presence.leave();
  await feed.until('the guest has left', saw('USER_LEFT', (event) => event.userId === guest));
  assert.equal(new Set(feed.events.map((event) => event.eventId)).size, feed.events.length, 'event ids are unique');
});

test('joining over a GraphQL socket is presence until one leaves', async (t) => {
  const { old, token, projectId } = await newProject('join');
  const sockets = transportClient(nodeUrl(2), token, { lazy: false });
  t.after(() => sockets.dispose());
  const present = async (url) => {
    const { projectPresence } = await ask(url, token, 'query ($p: Int!) { projectPresence(projectId: $p) { userId isOnline } }', { p: projectId });
    return projectPresence.some((presence) => presence.userId === old.user && presence.isOnline);
  };

  assert.deepStrictEqual(await once(sockets, JOIN, { projectId }), { joinProjectCollaboration: true });
  await until('another node knows', () => present(nodeUrl(1)));
  assert.deepStrictEqual(await once(sockets, LEAVE, { projectId }), { leaveProjectCollaboration: true });
  await until('another node knows', async () => !(await present(nodeUrl(1))));
});

test('joining over plain HTTP, as the old client does, is answered without an error', async () => {
  const { old } = await newProject('join by HTTP');

  const joined = await old.ask(JOIN);
  const left = await old.ask(LEAVE);

  assert.deepStrictEqual([typeof joined.joinProjectCollaboration, typeof left.leaveProjectCollaboration], ['boolean', 'boolean']);
});

// ---- helpers -------------------------------------------------------------------------------------------------------

/** A project and an old client of its owner, which talks to the load balancer and names no plan. */
async function newProject(name) {
  const user = someone('ann');
  const token = tokenFor(user);
  const { projectId, planId } = await createProject(token, `old client: ${name}`);
  return { old: oldClient(user, token, projectId), token, projectId, planId };
}

function oldClient(user, token, projectId) {
  let names = 0;
  const send = (query, variables = {}) => ask(balancer(), token, query, /\$projectId/.test(query) ? { projectId, ...variables } : variables);
  return {
    user,
    ask: send,
    async ids() {
      const { getPlanDag: read } = await send(GET);
      return { nodes: read.nodes.map((node) => node.id), edges: read.edges.map((edge) => edge.id) };
    },
    /** Any change at all. */
    rename: () => send('mutation ($projectId: Int!, $name: String) { updatePlanDagMetadata(projectId: $projectId, name: $name) { version } }', { name: `Name ${(names += 1)}` }),
    subscribe(t, query, field, variables) {
      const client = transportClient(balancer(), token);
      t.after(() => client.dispose());
      const feed = new Feed((data) => data[field]);
      client.subscribe({ query, variables }, feed.sink);
      return feed;
    },
  };
}

async function once(sockets, query, variables) {
  const answer = new Feed((data) => data);
  sockets.subscribe({ query, variables }, answer.sink);
  await answer.until('the answer is complete', () => answer.completed);
  return answer.events[0];
}

function planNode(id, nodeType, x = 0, y = 0) {
  return { id, nodeType, position: { x, y }, metadata: { label: `Plan node ${id}`, description: null }, config: '{}' };
}

function link(id, source, target) {
  return { id, source, target, metadata: { label: 'link', dataType: 'GRAPH_DATA' } };
}

function wholePlan() {
  return {
    version: '1.0',
    nodes: [planNode('source', 'DataSourceNode', 0, 0), planNode('graph', 'GraphNode', 200, 0), planNode('output', 'OutputNode', 400, 0)],
    edges: [link('e1', 'source', 'graph'), link('e2', 'graph', 'output')],
    metadata: { version: '1.0', name: 'Whole', description: 'Sent in one piece' },
  };
}

function refusedWith(code) {
  return (error) => error instanceof Refused && error.codes.includes(code);
}

// Apollo Client's core, unmodified, with the links its own pages tell people to use: HTTP for queries and mutations,
// graphql-ws for subscriptions. It asks for `__typename` everywhere and prefers application/graphql-response+json.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApolloClient, ApolloLink, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { OperationTypeNode } from 'graphql';
import {
  DELTAS, Feed, Replica, WHOLE_PLAN, caughtUp, createProject, editBurst, importHarbour, nodeUrl, someone, tokenFor, transportClient,
} from './kit.mjs';

const ADD_NODE = gql`
  mutation AddNode($projectId: Int!, $node: PlanDagNodeInput!) {
    addPlanDagNode(projectId: $projectId, node: $node) {
      id
      nodeType
      position {
        x
        y
      }
      metadata {
        label
      }
      revision
    }
  }
`;

const node = (id) => ({ id, nodeType: 'GraphNode', position: { x: 1, y: 2 }, metadata: { label: 'From Apollo' }, config: '{}' });

test('Apollo Client on node 3 holds the plan that node 2 serves, through an import and a burst of edits', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'Apollo: convergence');
  const follower = follow(t, nodeUrl(3), token, { projectId, snapshot: true });
  await follower.feed.until('the snapshot arrives', (events) => events.length > 0);

  await importHarbour(token, projectId);
  await follower.feed.until('the sample is there', () => follower.replica.document.nodes.length === 51 && follower.replica.document.edges.length === 75);
  await editBurst(token, projectId, 'burst');
  await caughtUp(follower, nodeUrl(2), token, projectId);

  const reader = connect(t, nodeUrl(2), token);
  const { data } = await reader.query({ query: gql(WHOLE_PLAN), variables: { projectId }, fetchPolicy: 'no-cache' });
  const { revision, ...document } = plain(data.getPlanDag);
  assert.equal(follower.replica.revision, revision);
  assert.deepStrictEqual(follower.replica.document, document);
  assert.equal(follower.feed.events[0].kind, 'SNAPSHOT');
  assert.deepStrictEqual([...new Set(follower.feed.events.slice(1).map((event) => event.kind))], ['DELTA']);
});

test('a mutation by Apollo Client is answered, readable and in everyone\'s stream', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'Apollo: mutation');
  const follower = follow(t, nodeUrl(1), token, { projectId, snapshot: true });
  await follower.feed.until('the snapshot arrives', (events) => events.length > 0);
  const writer = connect(t, nodeUrl(2), token);

  const { data: edited } = await writer.mutate({ mutation: ADD_NODE, variables: { projectId, node: node('from-apollo') } });
  const { data: read } = await writer.query({ query: gql(WHOLE_PLAN), variables: { projectId }, fetchPolicy: 'no-cache' });

  const { revision, ...added } = plain(edited.addPlanDagNode);
  assert.deepStrictEqual(added, { id: 'from-apollo', nodeType: 'GraphNode', position: { x: 1, y: 2 }, metadata: { label: 'From Apollo' } });
  assert.equal(edited.addPlanDagNode.__typename, 'PlanDagNode');
  assert.equal(read.getPlanDag.revision, revision);
  await follower.feed.until('the change arrives', (events) => events.some((event) => event.revision === revision));
  assert.deepStrictEqual(follower.replica.document, plain({ ...read.getPlanDag, revision: undefined }));
});

test('Apollo Client sees the code of a refusal', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'Apollo: refusal');
  const client = connect(t, nodeUrl(1), token);
  await client.mutate({ mutation: ADD_NODE, variables: { projectId, node: node('twice') } });

  const repeated = client.mutate({ mutation: ADD_NODE, variables: { projectId, node: node('twice') } });

  await assert.rejects(repeated, (error) => {
    assert.ok(CombinedGraphQLErrors.is(error), `a GraphQL error, not ${error}`);
    assert.equal(error.errors[0].extensions.code, 'VALIDATION_FAILED');
    return true;
  });
});

test('a document that Apollo Client has in its cache is the one that was served', async (t) => {
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'Apollo: cache');
  await editBurst(token, projectId, 'burst', 2);
  const client = connect(t, nodeUrl(3), token);

  const served = await client.query({ query: gql(WHOLE_PLAN), variables: { projectId }, fetchPolicy: 'network-only' });
  const cached = await client.query({ query: gql(WHOLE_PLAN), variables: { projectId }, fetchPolicy: 'cache-only' });

  assert.ok(served.data.getPlanDag.nodes.length > 0);
  assert.deepStrictEqual(cached.data, served.data);
});

// ---- helpers -------------------------------------------------------------------------------------------------------

function connect(t, url, token) {
  const sockets = transportClient(url, token);
  const client = new ApolloClient({
    cache: new InMemoryCache(),
    link: ApolloLink.split(
      ({ operationType }) => operationType === OperationTypeNode.SUBSCRIPTION,
      new GraphQLWsLink(sockets),
      new HttpLink({ uri: `${url}/graphql`, headers: { authorization: `Bearer ${token}` } }),
    ),
  });
  t.after(async () => {
    client.stop();
    await sockets.dispose();
  });
  return client;
}

function follow(t, url, token, variables) {
  const replica = new Replica();
  const feed = new Feed((data) => replica.take(plain(data.planDagDeltaChanged)));
  const client = connect(t, url, token);
  const subscription = client.subscribe({ query: gql(DELTAS), variables, fetchPolicy: 'no-cache' }).subscribe({
    // Apollo hands a failure over as `error` beside `data`.
    next: ({ data, error }) => (error ? feed.fail(error) : feed.receive({ data })),
    error: (failure) => feed.fail(failure),
  });
  t.after(() => subscription.unsubscribe());
  return { feed, replica };
}

/** The value without the `__typename`s that Apollo asked for, and without what is undefined. */
function plain(value) {
  return JSON.parse(JSON.stringify(value, (key, inner) => (key === '__typename' ? undefined : inner)));
}

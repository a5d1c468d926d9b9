// What operators see of the cluster: Prometheus reads every node, its rules can be judged, every query of the dashboard
// brings something; and the containers may do no more than docker-compose.cluster.yml is meant to let them.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ask, balancer, createProject, editBurst, someone, tokenFor, transportClient, until } from '../js/kit.mjs';

const PROMETHEUS = 'http://127.0.0.1:9090';
/** Seconds between two readings (ops/prometheus/prometheus.yml). */
const SCRAPE_S = 5;
/** Seconds between two points of a panel. */
const STEP_S = 15;
/** What Grafana fills in (its documentation of $__rate_interval). */
const GRAFANA = { $__rate_interval: `${Math.max(STEP_S + SCRAPE_S, 4 * SCRAPE_S)}s`, $__interval: `${STEP_S}s`, $__range: '600s' };

test('Prometheus reads all nodes', async () => {
  const targets = await until('all targets are up', async () => {
    const { activeTargets } = await prometheus('targets');
    return activeTargets.every((target) => target.health === 'up') && activeTargets;
  });

  assert.deepStrictEqual(targets.map(({ labels }) => labels.instance).sort(), ['node1', 'node2', 'node3']);
});

test('every rule can be judged, and none says that a healthy cluster is ill', async () => {
  const rules = await until('all rules were judged', async () => {
    const { groups } = await prometheus('rules');
    const all = groups.flatMap((group) => group.rules);
    return all.every((rule) => rule.health !== 'unknown') && all;
  });

  assert.ok(rules.length >= 10, `only ${rules.length} rules`);
  const ill = rules.filter((rule) => rule.health !== 'ok');
  assert.deepStrictEqual(ill.map((rule) => [rule.name, rule.lastError]), []);
  const firing = rules.filter((rule) => rule.state === 'firing');
  assert.deepStrictEqual(firing.map((rule) => [rule.name, rule.alerts]), []);
});

test('every query of the dashboard brings something', async (t) => {
  const dashboard = JSON.parse(readFileSync(new URL('../../ops/grafana/dashboards/mille.json', import.meta.url), 'utf8'));
  const queries = panelsOf(dashboard).flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));
  assert.ok(queries.length >= 30, `only ${queries.length} queries`);
  const token = tokenFor(someone('ann'));
  const { projectId } = await createProject(token, 'observed');
  let loads = 0;
  const load = async () => {
    loads += 1;
    await editBurst(token, projectId, `load-${loads}`, 1);
    await revokeSomeone();
  };
  await load();

  for (const { title, expr } of queries) {
    const brings = () => numbersOf(filledIn(dashboard, expr));
    // A rate needs two readings, and something that happens between them.
    await t.test(`${title}: ${expr}`, () => until('it brings a number', brings, { poke: load }));
  }
});

test('no container may do more than it must', () => {
  const containers = JSON.parse(readFileSync(process.env.MILLE_CONTAINERS, 'utf8'));
  assert.equal(containers.length, 6);
  for (const { Name, Config, HostConfig } of containers) {
    assert.equal(HostConfig.ReadonlyRootfs, true, `${Name}: a root that can be written to`);
    assert.deepStrictEqual(HostConfig.CapDrop, ['ALL'], Name);
    assert.equal(HostConfig.CapAdd, null, Name);
    assert.equal(HostConfig.Privileged, false, Name);
    assert.ok(HostConfig.SecurityOpt.some((option) => /^no-new-privileges(:true)?$/.test(option)), Name);
    assert.match(Config.User, /^[1-9]\d*(:\d+)?$/, `${Name}: runs as root`);
    for (const limit of ['Memory', 'NanoCpus', 'PidsLimit']) {
      assert.ok(HostConfig[limit] > 0, `${Name}: no ${limit}`);
    }
    assert.ok(Config.Healthcheck?.Test?.length > 1, `${Name}: no health check`);
    assert.equal(HostConfig.RestartPolicy.Name, 'unless-stopped', Name);
    const open = Object.entries(HostConfig.PortBindings ?? {}).flatMap(([port, bindings]) => bindings.map(({ HostIp }) => [port, HostIp]));
    for (const [port, address] of open) {
      assert.ok(address === '127.0.0.1' || (port === '4000/tcp' && /haproxy/.test(Name)), `${Name}: ${port} is open to ${address || 'all'}`);
    }
  }
});

// ---- helpers -------------------------------------------------------------------------------------------------------

async function prometheus(path, parameters = {}) {
  const response = await fetch(`${PROMETHEUS}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const { status, data, error } = await response.json();
  assert.equal(status, 'success', `${JSON.stringify(parameters)}: ${error}`);
  return data;
}

function panelsOf({ panels = [] }) {
  return panels.flatMap((panel) => [panel, ...panelsOf(panel)]);
}

/** The query with the dashboard's variables, a choice of several as Grafana writes "All". */
function filledIn(dashboard, expr) {
  let query = expr;
  for (const [name, value] of Object.entries(GRAFANA)) {
    query = query.replaceAll(name, value);
  }
  for (const { name, allValue } of dashboard.templating?.list ?? []) {
    query = query.replaceAll(`\${${name}}`, allValue ?? '.+').replaceAll(`$${name}`, allValue ?? '.+');
  }
  assert.doesNotMatch(query, /\$\w/, 'a variable that nobody fills in');
  return query;
}

/** Whether a panel over the last minutes would show a number: NaN is nothing to see. */
async function numbersOf(query) {
  const now = Math.floor(Date.now() / 1000);
  const { result } = await prometheus('query_range', { query, start: now - 600, end: now, step: STEP_S });
  return result.some(({ values }) => values.some(([, value]) => value !== 'NaN'));
}

/** Someone whose token is revoked while a socket of theirs is open. */
async function revokeSomeone() {
  const [userId, admin] = [someone('eve'), tokenFor(someone('admin'), { scope: 'admin' })];
  let state;
  const on = { connected: () => { state = 'open'; }, closed: () => { state = 'closed'; } };
  const client = transportClient(balancer(), tokenFor(userId), { lazy: false, onNonLazyError: () => {}, on });
  try {
    await until('the socket is open', () => state === 'open');
    await ask(balancer(), admin, 'mutation ($u: String!) { revokeTokens(userId: $u) }', { u: userId });
    await until('the socket is closed', () => state === 'closed');
  } finally {
    await client.dispose();
  }
}

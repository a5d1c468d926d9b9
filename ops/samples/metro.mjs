// Writes the large sample, metro-nodes.csv and metro-edges.csv, beside itself: `node metro.mjs`.
//
// A plan may hold 1,000 plan nodes. Imports, resyncs and drawing should be tried at exactly that size, on something
// that reads like a plan and not like noise, so the sample is made here instead of by hand. The script keeps one rule:
// it has no clock and no random numbers, so it always writes the same bytes, and a changed sample is a changed script.
//
// Twelve lines of ten stations. Along a line each station's package waits for the one before it; a line's programme
// collects its stations, the network programme collects the lines, and interchanges join stations of two lines.

import { writeFileSync } from 'node:fs';

const LINES = 12;
const STATIONS_PER_LINE = 10;
const INTERCHANGES = 20;

const STATION_WIDTH = 1040; // pixels of canvas between two stations of a line
const COLUMN = 260; // pixels between a plan node and what it feeds
const BAND_HEIGHT = 900; // pixels of canvas for one line, its interchanges included

const LINE_NAMES = [
  'Harbour', 'Airport', 'University', 'Stadium', 'Old Town', 'Riverside',
  'Exhibition', 'Hospital', 'Northern', 'Southern', 'Garden', 'Ring',
];
const PLACES = [
  'Alder', 'Bridge', 'Castle', 'Dock', 'Elm', 'Foundry', 'Granary', 'Hill',
  'Island', 'Kiln', 'Lantern', 'Market', 'Orchard', 'Quarry', 'Tanner',
];
const KINDS = ['Street', 'Square', 'Gate', 'Park', 'Lane', 'Cross', 'Yard', 'Green'];

const nodes = [];
const edges = [];

main();

function main() {
  const lines = Array.from({ length: LINES }, (_, line) => addLine(line));
  for (let i = 0; i < INTERCHANGES; i += 1) {
    addInterchange(i, lines);
  }
  addNetwork(lines);

  write('metro-nodes.csv', ['id', 'label', 'type', 'x', 'y', 'description', 'config'], nodes);
  write('metro-edges.csv', ['id', 'source', 'target', 'label', 'data_type'], edges);
}

/** One line: its standards and geology, its stations in order, and the programme that collects them. */
function addLine(line) {
  const name = `${LINE_NAMES[line]} line`;
  const id = `m${pad(line + 1)}`;
  const top = line * BAND_HEIGHT;

  const geologySource = addNode(`${id}-geology-src`, `Borings, ${name}`, 'DataSourceNode', -2 * COLUMN, top, `Borings every 50 m along the ${name}`, { file: `${id}-borings.csv` });
  const geology = addNode(`${id}-geology`, `Geology, ${name}`, 'GraphNode', -COLUMN, top, 'Layers and ground water along the alignment', {});
  const standards = addNode(`${id}-standards-src`, `Standards, ${name}`, 'DataSourceNode', -2 * COLUMN, top + 130, 'Clearances, platform length and gradients', { file: `${id}-standards.csv` });
  const rules = addNode(`${id}-rules`, `Design rules, ${name}`, 'TransformNode', -COLUMN, top + 130, 'Standards turned into rules that a package can be checked by', { platform_m: 90 + 10 * (line % 4) });
  addEdge(geologySource, geology, 'borings');
  addEdge(standards, rules, 'standards');

  const stations = [];
  for (let index = 0; index < STATIONS_PER_LINE; index += 1) {
    stations.push(addStation({ line, index, top, geology, rules, before: stations.at(-1) }));
  }

  const end = STATIONS_PER_LINE * STATION_WIDTH;
  const programme = addNode(`${id}-programme`, `Programme, ${name}`, 'MergeNode', end + COLUMN, top, `Order and dates of all works of the ${name}`, { start: `20${26 + (line % 5)}-03-01` });
  for (const station of stations) {
    addEdge(station.openPoints, programme, 'open points');
  }
  addEdge(rules, programme, 'rules', 'GRAPH_REFERENCE');
  addEdge(geology, programme, 'ground risks', 'GRAPH_REFERENCE');
  const plan = addNode(`${id}-plan`, `Line plan, ${name}`, 'OutputNode', end + 2 * COLUMN, top, 'For the works office', { format: 'pdf' });
  addEdge(programme, plan, 'programme');
  return { name, rules, stations, programme };
}

/** One station: survey and utilities become a works package, which waits for the package before it on the line. */
function addStation({ line, index, top, geology, rules, before }) {
  const name = stationName(line, index);
  const id = `m${pad(line + 1)}-s${pad(index + 1)}`;
  const left = index * STATION_WIDTH;
  const y = top + 260;

  const survey = addNode(`${id}-survey`, `Survey, ${name}`, 'DataSourceNode', left, y, 'Laser scan of the street and the cellars beside it', { file: `${id}-survey.csv` });
  const utilities = addNode(`${id}-utilities`, `Utilities, ${name}`, 'DataSourceNode', left, y + 130, 'Pipes and cables as registered', { file: `${id}-utilities.csv` });
  const model = addNode(`${id}-model`, `Station box, ${name}`, 'GraphNode', left + COLUMN, y, 'Levels, exits and shafts', { depth_m: 12 + ((line * 7 + index * 5) % 19) });
  const diversions = addNode(`${id}-diversions`, `Diversions, ${name}`, 'TransformNode', left + COLUMN, y + 130, 'Pipes and cables that must move first', { margin_m: 2 });
  const works = addNode(`${id}-works`, `Works package, ${name}`, 'MergeNode', left + 2 * COLUMN, y, 'Quantities, order and street closures', { weeks: 60 + ((line * 11 + index * 13) % 48) });
  const openPoints = addNode(`${id}-open`, `Open points, ${name}`, 'FilterNode', left + 3 * COLUMN, y, 'What still has no decision', { status: 'open' });
  const drawings = addNode(`${id}-drawings`, `Drawings, ${name}`, 'OutputNode', left + 4 * COLUMN - 60, y + 260, 'Set for the contractor', { format: 'dwg' });

  addEdge(survey, model, 'scan');
  addEdge(utilities, diversions, 'register');
  addEdge(model, works, 'station box');
  addEdge(diversions, works, 'diversions');
  addEdge(survey, works, 'surroundings', 'GRAPH_REFERENCE');
  addEdge(utilities, works, 'register', 'GRAPH_REFERENCE');
  addEdge(geology, works, 'ground', 'GRAPH_REFERENCE');
  addEdge(rules, works, 'rules', 'GRAPH_REFERENCE');
  if (before) {
    addEdge(before.works, works, 'tunnel drive');
  }
  addEdge(works, openPoints, 'package');
  addEdge(openPoints, drawings, 'checked package');
  return { name, works, openPoints };
}

/** Where two lines meet: both packages, the rules of both lines, and what comes of them. */
function addInterchange(i, lines) {
  const first = i % LINES;
  const second = (first + 1 + Math.floor(i / LINES) * 4) % LINES;
  const at = (i * 3 + 1) % STATIONS_PER_LINE;
  const [a, b] = [lines[first].stations[at], lines[second].stations[at]];
  const id = `x${pad(i + 1)}`;
  const label = `${a.name} and ${b.name}`;
  const left = at * STATION_WIDTH + 3 * COLUMN;
  const y = first * BAND_HEIGHT + 680;

  const hub = addNode(`${id}-hub`, `Interchange ${i + 1}`, 'MergeNode', left, y, label, { lines: [lines[first].name, lines[second].name] });
  const flow = addNode(`${id}-flow`, `Passenger flow, interchange ${i + 1}`, 'TransformNode', left + COLUMN, y, 'Walking times between the platforms', { walk_m_per_s: 1.2 });
  const peak = addNode(`${id}-peak`, `Morning peak, interchange ${i + 1}`, 'FilterNode', left + 2 * COLUMN, y, 'From seven to nine', { from: '07:00', to: '09:00' });
  const sheet = addNode(`${id}-sheet`, `Capacity sheet, interchange ${i + 1}`, 'OutputNode', left + 3 * COLUMN, y, label, { format: 'csv' });
  addEdge(a.works, hub, lines[first].name);
  addEdge(b.works, hub, lines[second].name);
  addEdge(lines[first].rules, hub, 'rules', 'GRAPH_REFERENCE');
  addEdge(lines[second].rules, hub, 'rules', 'GRAPH_REFERENCE');
  addEdge(hub, flow, 'platforms and stairs');
  addEdge(flow, peak, 'flow');
  addEdge(peak, sheet, 'peak flow');
}

/** The whole network, which collects every line. */
function addNetwork(lines) {
  const left = STATIONS_PER_LINE * STATION_WIDTH + 3 * COLUMN;
  const y = (LINES * BAND_HEIGHT) / 2;
  const budget = addNode('net-budget', 'Budget', 'DataSourceNode', left - COLUMN, y - 450, 'City and state, until 2040', { file: 'budget.csv', currency: 'EUR' });
  const fleetSource = addNode('net-fleet-src', 'Fleet register', 'DataSourceNode', left - 2 * COLUMN, y - 580, 'Trains, depots and overhauls', { file: 'fleet.csv' });
  const fleet = addNode('net-fleet', 'Fleet demand', 'TransformNode', left - COLUMN, y - 580, 'Trains needed per opening date', { reserve: 0.12 });
  const programme = addNode('net-programme', 'Network programme', 'MergeNode', left + COLUMN, y, 'All lines in the order they open', {});
  const critical = addNode('net-critical', 'Critical path', 'FilterNode', left + 2 * COLUMN, y, 'Works that move an opening date', { slack_days: 0 });
  const baseline = addNode('net-baseline', 'Baseline', 'CopyNode', left + 2 * COLUMN, y + 130, 'As approved by the council', { frozen: true });
  const paper = addNode('net-paper', 'Council paper', 'OutputNode', left + 3 * COLUMN, y, 'Every quarter', { format: 'docx' });
  const map = addNode('net-map', 'Public map', 'OutputNode', left + 3 * COLUMN, y + 130, 'What opens when', { format: 'geojson' });
  addEdge(fleetSource, fleet, 'trains');
  for (const line of lines) {
    addEdge(line.programme, programme, line.name);
  }
  addEdge(budget, programme, 'budget');
  addEdge(fleet, programme, 'trains');
  addEdge(programme, critical, 'programme');
  addEdge(programme, baseline, 'programme');
  addEdge(critical, paper, 'critical path');
  addEdge(baseline, map, 'dates');
}

function stationName(line, index) {
  const n = line * STATIONS_PER_LINE + index;
  // 15 and 8 have no common factor, so 120 stations get 120 names.
  return `${PLACES[n % PLACES.length]} ${KINDS[n % KINDS.length]}`;
}

function addNode(id, label, type, x, y, description, config) {
  nodes.push([id, label, type, x, y, description, JSON.stringify(config)]);
  return id;
}

function addEdge(source, target, label, dataType = 'GRAPH_DATA') {
  edges.push([`e${String(edges.length + 1).padStart(4, '0')}`, source, target, label, dataType]);
}

function pad(number) {
  return String(number).padStart(2, '0');
}

function write(name, header, rows) {
  const text = [header, ...rows].map((row) => row.map(field).join(',')).join('\n');
  writeFileSync(new URL(name, import.meta.url), `${text}\n`);
}

function field(value) {
  const text = String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

//! The promise: an edit is one trace, from the client that made it to the sockets of every node; and whoever collects
//! traces can't harm a node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{
    Builder, Cluster, Collector, Mood, Project, Socket, SpanTold, documents as d, eventually, free_port, last_words,
    node_input, patience, soon,
};
use serde_json::{Value, json};

/// The span of the client's that an edit is a part of.
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

fn trace_id(number: u32) -> String {
    format!("4bf92f3577b34da6a3ce929d{number:08x}")
}

fn traceparent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{CLIENT_SPAN}-{flags}")
}

/// A cluster that tells a collector what it does, soon after it does it.
async fn traced(nodes: usize, collector: &Collector) -> Result<Cluster> {
    let cluster = Cluster::of(nodes)
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("OTEL_BSP_SCHEDULE_DELAY", "50")
        .with("MILLE_LOG_FORMAT", "json")
        .with("RUST_LOG", "info,tower_http=debug");
    cluster.start().await
}

/// The nodes' ids, as they tell them themselves.
async fn ids(cluster: &Cluster) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for node in 0..cluster.size() {
        let health = cluster.stranger(node).get("/health").await?.body;
        ids.push(health["nodeId"].as_str().context("a node's id")?.to_owned());
    }
    Ok(ids)
}

/// What each node told of a trace, as soon as it is all that is expected; checked to hang together below `root`.
async fn whole_trace(
    collector: &Collector,
    trace: &str,
    root: &str,
    expected: &[(&String, &[&str])],
) -> Result<Vec<SpanTold>> {
    let expected: BTreeSet<(&str, &str)> =
        expected.iter().flat_map(|(node, names)| names.iter().map(|name| (node.as_str(), *name))).collect();
    eventually(soon(), async || {
        let spans = collector.trace(trace)?;
        let told: BTreeSet<_> = spans.iter().map(|span| (span.instance.as_str(), span.name.as_str())).collect();
        ensure!(told.is_superset(&expected), "{expected:#?} is not yet in {told:#?}");
        // What ends later is sent later.
        hang_together(&spans, root)?;
        Ok(spans)
    })
    .await
}

fn hang_together(spans: &[SpanTold], root: &str) -> Result<()> {
    let parents: BTreeMap<_, _> = spans.iter().map(|span| (span.id.as_str(), span.parent.as_str())).collect();
    for span in spans {
        let mut above = span.parent.as_str();
        let mut steps = 0;
        while above != root {
            above = parents.get(above).with_context(|| format!("{span:?} does not lead up to {root:?}: {spans:#?}"))?;
            steps += 1;
            ensure!(steps <= spans.len(), "a circle: {spans:#?}");
        }
    }
    Ok(())
}

fn the<'a>(spans: &'a [SpanTold], node: &str, name: &str) -> Result<&'a SpanTold> {
    let mut those = spans.iter().filter(|span| span.instance == node && span.name == name);
    match (those.next(), those.next()) {
        (Some(span), None) => Ok(span),
        (one, more) => bail!("one {name} of {node} was expected, not {one:?} and {more:?}"),
    }
}

const WRITER: [&str; 3] = ["edit", COMMIT, "fan_out"];
const COMMIT: &str = "FCALL mille_v8_commit";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_over_http_is_one_trace_over_all_nodes() -> Result<()> {
    let collector = Collector::start().await?;
    let cluster = traced(3, &collector).await?;
    let ids = ids(&cluster).await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let mut streams = Vec::new();
    for node in [0, 1] {
        let mut stream = cluster.user(node, "ada").socket().await?.follow(&project, None).await?;
        stream.value("planDagDeltaChanged").await?;
        streams.push(stream);
    }
    let trace = trace_id(1);
    ada.clone().traced(&traceparent(&trace, "01")).add_node(&project, "GraphNode", "pier").await?;
    for stream in &mut streams {
        stream.value("planDagDeltaChanged").await?;
    }

    let at_writer = [&WRITER[..], &["POST /graphql", "mutation"]].concat();
    let expected = [(&ids[0], &at_writer[..]), (&ids[1], &["apply", "fan_out"][..])];
    let spans = whole_trace(&collector, &trace, CLIENT_SPAN, &expected).await?;
    let (request, mutation) = (the(&spans, &ids[0], "POST /graphql")?, the(&spans, &ids[0], "mutation")?);
    let (edit, commit) = (the(&spans, &ids[0], "edit")?, the(&spans, &ids[0], COMMIT)?);
    let (apply, fan_out) = (the(&spans, &ids[1], "apply")?, the(&spans, &ids[1], "fan_out")?);
    let one_below_the_other = [request, mutation, edit, commit, apply, fan_out];
    ensure!(request.parent == CLIENT_SPAN, "{request:?}");
    for pair in one_below_the_other.windows(2) {
        ensure!(pair[1].parent == pair[0].id, "{:?} is not right below {:?}", pair[1], pair[0]);
    }
    let kinds: Vec<_> = one_below_the_other.iter().map(|span| span.kind.as_str()).collect();
    ensure!(kinds == ["server", "internal", "internal", "client", "consumer", "internal"], "{kinds:?}");
    let revision = ada.revision(&project).await?.to_string();
    for (span, name, value) in [
        (request, "http.response.status_code", "200"),
        (edit, "plan.id", &*project.plan.to_string()),
        (edit, "project.id", &*project.id.to_string()),
        (edit, "mille.revision", &*revision),
        (commit, "db.system.name", "redis"),
        (commit, "mille.commit.outcome", "committed"),
        (apply, "mille.revision", &*revision),
        (fan_out, "mille.listeners", "1"),
    ] {
        ensure!(span.attributes.get(name).is_some_and(|told| told == value), "{name} is not {value}: {span:?}");
    }
    ensure!(request.nanos >= edit.nanos && edit.nanos >= commit.nanos, "what is part of another is no longer");
    // Nobody listens at the third node, so there the edit is nothing.
    ensure!(spans.iter().all(|span| span.instance != ids[2]), "{spans:#?}");
    for text in ["harbour", "pier"] {
        ensure!(!collector.everything().contains(text), "a trace tells what a user typed: {text}");
    }
    eventually(soon(), async || {
        let exported = count(&cluster.metrics(0).await?, "trace_spans_exported_total");
        ensure!(exported >= at_writer.len() as u64, "{exported} spans were counted");
        Ok(())
    })
    .await?;
    log_lines_are_objects_and_name_the_trace(&cluster.log(0), &trace)
}

fn log_lines_are_objects_and_name_the_trace(log: &str, trace: &str) -> Result<()> {
    let mut naming = 0;
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| format!("a line that is no JSON: {line}"))?;
        for part in ["timestamp", "level", "target"] {
            ensure!(line[part].is_string(), "a line without {part}: {line}");
        }
        let spans = line["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
        naming += usize::from(spans.iter().any(|span| span["trace_id"] == trace));
        ensure!(spans.iter().all(|span| span["name"] != "edit" && span["otel.name"].is_null()), "{line}");
    }
    ensure!(naming > 0, "no line names the trace:\n{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_say_which_socket_they_are_about_and_no_span_lasts_as_long_as_one() -> Result<()> {
    let cluster = Cluster::of(1).with("MILLE_LOG_FORMAT", "json").with("RUST_LOG", "mille_node=debug").start().await?;
    cluster.user(0, "ada").socket().await?.close().await?;
    let refused = Socket::init(&cluster.ws_url(0), json!({"Authorization": "Bearer nonsense"})).await?;
    ensure!(refused.is_err(), "a token that is none is taken");
    let line = async |message: &str, fits: fn(&Value) -> bool| {
        eventually(soon(), async || {
            let log = cluster.log(0);
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found = lines.find(|line| line["fields"]["message"] == message && fits(line));
            found.with_context(|| format!("no such line of {message:?}:\n{log}"))
        })
        .await
    };
    let closed = line("socket closed", |line| line["fields"]["connection.id"].is_string()).await?;
    ensure!(closed["spans"].as_array().is_none_or(Vec::is_empty), "a span has lasted: {closed}");
    line("a socket is refused", |line| {
        line["span"]["name"] == "socket" && line["span"]["dialect"] == "graphql-transport-ws"
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_over_a_socket_is_of_the_trace_its_extensions_name_or_of_its_own() -> Result<()> {
    let collector = Collector::start().await?;
    let cluster = traced(2, &collector).await?;
    let ids = ids(&cluster).await?;
    let (ada, trace) = (cluster.user(0, "ada"), trace_id(2));
    let project = ada.create_project("harbour").await?;
    let mut stream = cluster.user(1, "ada").socket().await?.follow(&project, None).await?;
    stream.value("planDagDeltaChanged").await?;
    let node = |id: &str| json!({"p": project.id, "node": node_input(Some(id), "GraphNode", id)});
    let at_writer = ["mutation", "edit", COMMIT];
    let expected = [(&ids[0], &at_writer[..]), (&ids[1], &["apply", "fan_out"][..])];

    let traced = ada.clone().traced(&traceparent(&trace, "01")).socket().await?;
    traced.run_one(d::ADD_NODE, node("a")).await?;
    stream.value("planDagDeltaChanged").await?;
    let spans = whole_trace(&collector, &trace, CLIENT_SPAN, &expected).await?;
    let mutation = the(&spans, &ids[0], "mutation")?;
    ensure!(mutation.parent == CLIENT_SPAN && mutation.kind == "server", "{mutation:?}");

    // Neither a socket that names no trace nor one that names nonsense is refused anything.
    for (id, socket) in [("b", ada.socket().await?), ("c", ada.clone().traced("00-nonsense").socket().await?)] {
        socket.run_one(d::ADD_NODE, node(id)).await?;
        stream.value("planDagDeltaChanged").await?;
        let revision = ada.revision(&project).await?.to_string();
        let own = eventually(soon(), async || {
            let spans = collector.spans()?;
            let edit = spans.iter().find(|span| span.attributes.get("mille.revision") == Some(&revision));
            Ok(edit.context("not told yet")?.trace.clone())
        });
        let own = own.await?;
        ensure!(own != trace, "the trace of another edit");
        let spans = whole_trace(&collector, &own, "", &expected).await?;
        ensure!(spans.iter().filter(|span| span.parent.is_empty()).count() == 1, "one beginning: {spans:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_that_are_committed_together_keep_their_traces_apart_and_who_wants_none_has_none() -> Result<()> {
    const EDITS: u32 = 24;
    let collector = Collector::start().await?;
    let cluster = traced(2, &collector).await?;
    let ids = ids(&cluster).await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let mut stream = cluster.user(1, "ada").socket().await?.follow(&project, None).await?;
    stream.value("planDagDeltaChanged").await?;
    let mut edits = tokio::task::JoinSet::new();
    for number in 0..EDITS {
        // Every third is not to be recorded.
        let flags = if number % 3 == 2 { "00" } else { "01" };
        let ada = ada.clone().traced(&traceparent(&trace_id(100 + number), flags));
        edits.spawn(async move { ada.add_node(&project, "GraphNode", "pier").await });
    }
    while let Some(edit) = edits.join_next().await {
        edit??;
    }
    for _ in 0..EDITS {
        stream.value("planDagDeltaChanged").await?;
    }
    let mut together = 0;
    for number in (0..EDITS).filter(|number| number % 3 != 2) {
        let expected = [(&ids[0], &["edit", COMMIT][..]), (&ids[1], &["apply", "fan_out"][..])];
        let spans = whole_trace(&collector, &trace_id(100 + number), CLIENT_SPAN, &expected).await?;
        let (edit, apply) = (the(&spans, &ids[0], "edit")?, the(&spans, &ids[1], "apply")?);
        ensure!(
            edit.attributes["mille.revision"] == apply.attributes["mille.revision"],
            "an edit in another's trace: {spans:#?}"
        );
        let changes = spans.iter().filter_map(|span| span.attributes.get("mille.batch.changes")?.parse::<u32>().ok());
        together = together.max(changes.max().unwrap_or(0));
    }
    ensure!(together > 1, "no two edits were committed together");
    let told: BTreeSet<String> = collector.spans()?.into_iter().map(|span| span.trace).collect();
    let unwanted = (0..EDITS).filter(|number| number % 3 == 2 && told.contains(&trace_id(100 + number))).count();
    ensure!(unwanted == 0, "{unwanted} traces that nobody wanted");
    Ok(())
}

/// A node without Redis that tells a collector what it does, so many milliseconds after it does it.
fn alone(endpoint: &str, delay_ms: &str) -> Builder {
    let node = Cluster::of(1).embedded();
    node.with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).with("OTEL_BSP_SCHEDULE_DELAY", delay_ms)
}

/// Edits at a node whose collector is of no use: they are as good as ever, and it leaves in time.
async fn goes_on_without(endpoint: &str, is_counted: impl Fn(&str) -> bool) -> Result<()> {
    let mut cluster = alone(endpoint, "20")
        .with("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        .with("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
        .with("OTEL_EXPORTER_OTLP_TIMEOUT", "4000")
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    let project: Project = ada.create_project("harbour").await?;
    let mut stream = ada.socket().await?.follow(&project, None).await?;
    stream.value("planDagDeltaChanged").await?;
    for _ in 0..40 {
        ada.add_node(&project, "GraphNode", "pier").await?;
        stream.value("planDagDeltaChanged").await?;
    }
    eventually(soon(), async || {
        let metrics = cluster.metrics(0).await?;
        ensure!(is_counted(&metrics), "what is lost is not counted:\n{metrics}");
        Ok(())
    })
    .await?;
    drop(stream);
    let exit = cluster.stop(0, patience(8.0)).await?;
    ensure!(exit.code() == Some(0), "{exit}: {}", cluster.log(0));
    let told = cluster.log(0).lines().filter(|line| line.contains("traces are lost")).count();
    ensure!(told <= 1, "{told} lines of lost traces");
    Ok(())
}

fn count(metrics: &str, name: &str) -> u64 {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

const REFUSED: &str = "trace_spans_dropped_total{cause=\"refused\"}";
const OVERFLOWN: &str = "trace_spans_dropped_total{cause=\"queue_full\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_there_costs_nothing_but_the_traces() -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    goes_on_without(&nobody, |metrics| count(metrics, REFUSED) > 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_costs_nothing_but_the_traces() -> Result<()> {
    let collector = Collector::in_mood(Mood::Refusing).await?;
    goes_on_without(&collector.endpoint(), |metrics| count(metrics, REFUSED) > 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_costs_nothing_but_the_traces() -> Result<()> {
    let collector = Collector::in_mood(Mood::Silent).await?;
    goes_on_without(&collector.endpoint(), |metrics| count(metrics, OVERFLOWN) > 0 && count(metrics, REFUSED) > 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_sends_what_it_still_has() -> Result<()> {
    let collector = Collector::start().await?;
    let mut cluster = alone(&collector.endpoint(), "600000").start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let trace = trace_id(3);
    ada.clone().traced(&traceparent(&trace, "01")).add_node(&project, "GraphNode", "pier").await?;
    let exit = cluster.stop(0, patience(8.0)).await?;
    ensure!(exit.code() == Some(0), "{exit}: {}", cluster.log(0));
    let names: BTreeSet<String> = collector.trace(&trace)?.into_iter().map(|span| span.name).collect();
    ensure!(["POST /graphql", "mutation", "edit"].iter().all(|name| names.contains(*name)), "{names:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_traces_a_part_is_recorded_if_the_settings_say_so() -> Result<()> {
    let collector = Collector::start().await?;
    let cluster = alone(&collector.endpoint(), "20")
        .with("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .with("OTEL_TRACES_SAMPLER_ARG", "0")
        .start()
        .await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let trace = trace_id(4);
    ada.clone().traced(&traceparent(&trace, "01")).add_node(&project, "GraphNode", "pier").await?;
    let client_says_so = eventually(soon(), async || {
        let spans = collector.spans()?;
        ensure!(spans.iter().any(|span| span.name == "edit"), "the edit is not told yet");
        Ok(spans)
    });
    ensure!(client_says_so.await?.iter().all(|span| span.trace == trace), "a trace that nobody asked for");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_can_not_be_used_are_named() -> Result<()> {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPIONT", "http://127.0.0.1:4318"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
    ] {
        let (code, said) =
            tokio::time::timeout(Duration::from_secs(60), last_words(&[(name, value.to_owned())])).await??;
        ensure!(code == Some(2) && said.contains(name), "{name}={value} ended with {code:?}: {said}");
    }
    Ok(())
}

//! The promise: what a node tells in numbers is well-formed, complete from the start, and each number moves when what it
//! counts happens.
//!
//! Real clusters are driven through everything in [`scenes`], at the same time; what their nodes tell then is compared with
//! what they told before. A family that is declared and that nothing moves fails the test, unless it stands in
//! [`MOVED_ELSEWHERE`].

mod exposition;
mod scenes;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use exposition::Exposition;
use mille_tests::Cluster;
use scenes::Moved;

/// What is moved by other tests: the family, the file and the test, and why not here.
const MOVED_ELSEWHERE: [(&str, &str, &str, &str); 10] = [
    (
        "bridge_messages_dropped_total",
        "node/src/bridge/feed.rs",
        "what_does_not_fit_is_heard_of_as_an_interruption",
        "an actor that is 1,024 messages behind takes a machine that is busy with something else",
    ),
    (
        "connections_rotated_total",
        "tests/tests/leaving.rs",
        "a_socket_that_grows_old_moves_on_and_misses_nothing",
        "takes a node whose sockets may not grow old",
    ),
    (
        "cursors_dropped_total",
        "node/src/project/tests/lives.rs",
        "what_a_full_mailbox_has_no_room_for_is_counted",
        "a full mailbox takes an actor that is held up",
    ),
    (
        "drain_phase",
        "tests/tests/leaving.rs",
        "a_drain_is_noticed_before_anything_is_closed_and_then_goes_step_by_step",
        "takes a node that leaves",
    ),
    (
        "execution_progress_dropped_total",
        "node/src/project/tests/lives.rs",
        "what_a_full_mailbox_has_no_room_for_is_counted",
        "a full mailbox takes an actor that is held up",
    ),
    (
        "presence_behind_total",
        "tests/tests/presence_memory.rs",
        "who_reads_nothing_costs_little_delays_nobody_and_finds_the_newest_later",
        "to fill a presence socket takes megabytes of people",
    ),
    (
        "tls_handshakes_failed_total",
        "tests/tests/tls.rs",
        "who_speaks_no_tls_is_let_go_at_once_and_delays_nobody",
        "takes a node with a certificate",
    ),
    (
        "tls_certificates_refused_total",
        "node/src/gateway/tls_tests.rs",
        "tls_certificates_refused_total",
        "takes a minute in which files change",
    ),
    (
        "trace_spans_exported_total",
        "tests/tests/traces.rs",
        "an_edit_over_http_is_one_trace_over_all_nodes",
        "takes a collector",
    ),
    (
        "trace_spans_dropped_total",
        "tests/tests/traces.rs",
        "a_collector_that_refuses_costs_nothing_but_the_traces",
        "takes a collector that refuses",
    ),
];

/// Series that must have moved, beside one of each family: what the contract names word by word.
const MUST_MOVE: [&str; 37] = [
    "authorisation_refusals_total{reason=\"no_token\"}",
    "authorisation_refusals_total{reason=\"bad_token\"}",
    "authorisation_refusals_total{reason=\"expired_token\"}",
    "authorisation_refusals_total{reason=\"revoked_token\"}",
    "authorisation_refusals_total{reason=\"not_a_member\"}",
    "authorisation_refusals_total{reason=\"role\"}",
    "authorisation_refusals_total{reason=\"scope\"}",
    "authorisation_refusals_total{reason=\"other_user\"}",
    "connections_opened_total{kind=\"graphql\"}",
    "connections_opened_total{kind=\"event_stream\"}",
    "connections_opened_total{kind=\"presence\"}",
    "connections_closed_total{kind=\"graphql\",code=\"1000\",reason=\"client\"}",
    "connections_closed_total{kind=\"graphql\",code=\"1006\",reason=\"broken\"}",
    "connections_closed_total{kind=\"graphql\",code=\"1013\",reason=\"too_many\"}",
    "connections_closed_total{kind=\"graphql\",code=\"4401\",reason=\"uninitialised\"}",
    "connections_closed_total{kind=\"graphql\",code=\"4403\",reason=\"token_refused\"}",
    "connections_closed_total{kind=\"graphql\",code=\"4403\",reason=\"token_revoked\"}",
    "connections_closed_total{kind=\"graphql\",code=\"4406\",reason=\"subprotocol\"}",
    "connections_closed_total{kind=\"graphql\",code=\"4400\",reason=\"protocol\"}",
    "connections_closed_total{kind=\"graphql\",code=\"4429\",reason=\"second_init\"}",
    "connections_closed_total{kind=\"event_stream\",code=\"none\",reason=\"client\"}",
    "connections_closed_total{kind=\"presence\",code=\"1000\",reason=\"resumed\"}",
    "connections_closed_total{kind=\"presence\",code=\"4403\",reason=\"not_a_member\"}",
    "edit_seconds_count{result=\"accepted\"}",
    "edit_seconds_count{result=\"repeated\"}",
    "edit_seconds_count{result=\"unchanged\"}",
    "edit_seconds_count{result=\"conflict\"}",
    "edit_seconds_count{result=\"refused\"}",
    "edit_seconds_count{result=\"unavailable\"}",
    "gaps_total{cause=\"reconnect\"}",
    "resumes_total{outcome=\"replay\"}",
    "resumes_total{outcome=\"snapshot\"}",
    "resumes_total{outcome=\"fresh\"}",
    "presence_expiries_total{cause=\"grace\"}",
    "actors_retired_total{cause=\"deleted\"}",
    "rate_limited_total{limit=\"connection_subscriptions\"}",
    "shed_total{what=\"operation\"}",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_moves_when_what_it_counts_happens() -> Result<()> {
    let began = tokio::time::Instant::now();
    let mut moved = Moved::default();
    // Five clusters at once, since most of the time is spent waiting for what takes its time.
    let (people, edits, outage, failover, slow) = tokio::try_join!(
        scenes::people_come_and_go(),
        scenes::edits_race_and_messages_are_lost(),
        scenes::redis_is_slow_and_then_away(),
        scenes::redis_loses_what_it_acknowledged(),
        scenes::a_reader_takes_nothing(),
    )?;
    for scene in [people, edits, outage, failover, slow] {
        moved.add(scene);
    }
    eprintln!("all of it took {:?}", began.elapsed());

    let elsewhere: BTreeSet<&str> = MOVED_ELSEWHERE.iter().map(|(family, ..)| *family).collect();
    let moves = |family: &str| moved.families.contains(family);
    let idle: Vec<&String> =
        moved.declared.iter().filter(|family| !moves(family) && !elsewhere.contains(family.as_str())).collect();
    let needless: Vec<&&str> = elsewhere.iter().filter(|family| moves(family)).collect();
    let still: Vec<&&str> = MUST_MOVE.iter().filter(|series| !moved.series.contains(**series)).collect();
    ensure!(
        idle.is_empty() && needless.is_empty() && still.is_empty() && moved.new_series.is_empty(),
        "declared, and nothing moves them: {idle:?}\nmoved here, so they need no excuse: {needless:?}\n\
         did not move: {still:#?}\nwere not there from the start: {:?}",
        moved.new_series
    );
    Ok(())
}

#[test]
fn what_is_moved_elsewhere_is_so_by_a_test_that_there_is() -> Result<()> {
    for (family, file, test, _) in MOVED_ELSEWHERE {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{family}: {file}"))?;
        ensure!(text.contains(test), "{family}: {file} has no {test}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_is_as_prometheus_wants_it() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let text = cluster.metrics(0).await?;
    let told = Exposition::read(&text)?;
    ensure!(told.families.len() > 40, "few families: {:?}", told.families.keys());
    for family in told.families.values() {
        family.keeps_the_rules()?;
    }
    promtool_has_nothing_to_say(&text)
}

/// Asks Prometheus' own checker, where it is installed.
fn promtool_has_nothing_to_say(text: &str) -> Result<()> {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        eprintln!("promtool is not installed: its checks are left out");
        return Ok(());
    };
    promtool.stdin.take().context("stdin")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && said.is_empty(), "promtool: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// How long a state may take that a clock of the node's own brings about: the grace, the linger, a lease.
fn in_its_time() -> Duration {
    mille_tests::patience(60.0)
}

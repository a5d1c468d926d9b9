//! The promise: what is shipped beside the nodes fits them. Alerts and dashboards ask for metrics that there are, the page about
//! metrics says of each what the node says, every alert is explained, so is every code, and Redis' users may do what nodes do.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use mille_shared::limits;
use mille_tests::{Client, Cluster, clean_command, documents::CODES, node_binary};
use serde_json::Value;

/// Words with an underscore in PromQL that are no metric.
const PROMQL: [&str; 2] = ["histogram_quantile", "__rate_interval"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_is_asked_for_is_there() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let told = reqwest::get(format!("{}/metrics", Client::new(&cluster.admin_url(0)).base())).await?.text().await?;
    let told: BTreeSet<&str> =
        told.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect();
    let mut asked = BTreeSet::new();
    let rules = read("ops/prometheus/alerts.yml")?;
    asked.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).flat_map(metrics_of));
    let dashboard: Value = serde_json::from_str(&read("ops/grafana/dashboards/mille.json")?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    asked.extend(targets.filter_map(|target| target["expr"].as_str()).flat_map(metrics_of));
    ensure!(asked.len() > 20, "few metrics are asked for: {asked:?}");
    let missing: Vec<_> = asked.iter().filter(|name| !told.contains(name.as_str())).collect();
    ensure!(missing.is_empty(), "no node tells of {missing:?}");
    Ok(())
}

/// docs/metrics.md has one row per metric, in the node's words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_about_metrics_says_what_the_node_says() -> Result<()> {
    let cluster = Cluster::of(1).embedded().start().await?;
    let due: BTreeSet<String> = rows_of(&cluster.metrics(0).await?)?.into_iter().collect();
    let page = read("docs/metrics.md")?;
    let there: BTreeSet<String> = page.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
    let (missing, needless): (Vec<_>, Vec<_>) = (due.difference(&there).collect(), there.difference(&due).collect());
    ensure!(due == there, "docs/metrics.md lacks {missing:#?}\nand has {needless:#?}");
    Ok(())
}

/// A row for each metric that a node tells: name, kind and unit, labels, what it is, when to worry.
fn rows_of(told: &str) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for family in told.split("# HELP ").skip(1) {
        let (help, rest) = family.split_once('\n').context("a help without an end")?;
        let (name, help) = help.split_once(' ').context("a name without a help")?;
        let kind = rest.lines().next().and_then(|line| line.rsplit(' ').next()).context("a type")?;
        let unit = [("_seconds", ", seconds"), ("_bytes", ", bytes")];
        let unit = unit.iter().find(|(end, _)| name.ends_with(end)).map_or("", |(_, unit)| unit);
        let labels = rest.lines().find_map(|line| line.strip_prefix(name)?.split_once('{')).map_or("", |(_, all)| all);
        let labels = labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(label, _)| label);
        let labels: Vec<String> = labels.filter(|label| *label != "le").map(|label| format!("`{label}`")).collect();
        let worry = ["Worry", "Harmless", "Nothing to worry"].iter().filter_map(|word| help.find(word)).min();
        let (what, worry) = help.split_at(worry.with_context(|| format!("{name} does not say when to worry"))?);
        rows.push(format!("| `{name}` | {kind}{unit} | {} | {} | {worry} |", labels.join(", "), what.trim_end()));
    }
    Ok(rows)
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() -> Result<()> {
    let (rules, runbook) = (read("ops/prometheus/alerts.yml")?, read("ops/runbook.md")?);
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(alerts.len() >= 10, "few alerts: {alerts:?}");
    for alert in &alerts {
        let section = runbook.split("\n## ").find(|section| section.starts_with(&format!("{alert}\n")));
        let section = section.with_context(|| format!("the runbook has no section {alert}"))?;
        for part in ["**Means**", "**Look**", "**Do**"] {
            ensure!(section.contains(part), "{alert} lacks {part}");
        }
        let link = format!("runbook: ops/runbook.md#{}", alert.to_lowercase());
        ensure!(rules.contains(&link), "{alert} does not lead to its section");
    }
    let sections = runbook.matches("\n## ").count();
    ensure!(sections == alerts.len(), "{sections} sections for {} alerts", alerts.len());
    Ok(())
}

#[test]
fn every_code_is_explained() -> Result<()> {
    let codes = read("ops/error-codes.md")?;
    for code in CODES.into_iter().chain(["NOT_JOINED", "DOCUMENT_TYPE_MISMATCH"]) {
        ensure!(codes.contains(&format!("| `{code}` |")), "{code} is not explained");
    }
    for code in [1000, 1009, 1012, 1013, 4400, 4401, 4403, 4406, 4408, 4409, 4429] {
        ensure!(codes.contains(&format!("| {code} |")), "the close code {code} is not explained");
    }
    Ok(())
}

/// What a function does is done with the rights of who calls it.
#[test]
fn nodes_may_do_in_redis_what_their_library_does() -> Result<()> {
    let (library, users) = (read("node/src/backend/redis/library.lua")?, read("ops/redis-users.acl")?);
    let node = users.split("\nuser ").find(|user| user.starts_with("mille ")).context("the nodes' user")?;
    let allowed: BTreeSet<&str> = node.split_whitespace().filter_map(|word| word.strip_prefix('+')).collect();
    let called = library.split("redis.call('").skip(1).filter_map(|rest| rest.split('\'').next());
    let called: BTreeSet<String> = called.map(str::to_lowercase).collect();
    ensure!(called.len() > 15, "few commands are called: {called:?}");
    let forbidden: Vec<_> = called.iter().filter(|command| !allowed.contains(command.as_str())).collect();
    ensure!(forbidden.is_empty(), "ops/redis-users.acl does not allow {forbidden:?}");
    Ok(())
}

/// Whoever stops a container must not kill what would have left in order.
#[test]
fn containers_get_the_time_that_a_node_takes_to_leave() -> Result<()> {
    let deadline = limits::SHUTDOWN_DEADLINE.as_secs();
    let compose = read("docker-compose.cluster.yml")?;
    let node = compose.split("x-node:").nth(1).context("the nodes")?;
    let grace = number_after(node, "stop_grace_period: ")?;
    ensure!(grace > deadline, "compose gives {grace} s, a node takes {deadline}");
    let pod = read("ops/kubernetes/nodes.yaml")?;
    let grace = number_after(&pod, "terminationGracePeriodSeconds: ")?;
    ensure!(grace > deadline, "Kubernetes gives {grace} s, a node takes {deadline}");
    Ok(())
}

/// A node that is told a setting it does not know ends at the start.
#[test]
fn kubernetes_sets_only_what_a_node_knows() -> Result<()> {
    let (pod, settings) = (read("ops/kubernetes/nodes.yaml")?, read("ops/kubernetes/settings.yaml")?);
    let help = clean_command(&node_binary()?).arg("--help").output()?;
    let known = String::from_utf8(help.stdout)?;
    let of_pod =
        pod.split("env:").nth(1).context("env")?.lines().filter_map(|line| line.trim().strip_prefix("- name: "));
    let data = settings.split("\ndata:").nth(1).context("data")?.lines();
    let of_settings = data.filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name);
    let set: Vec<&str> = of_pod.chain(of_settings).filter(|name| !name.starts_with('#') && *name != "POD_IP").collect();
    ensure!(set.len() >= 6, "few settings: {set:?}");
    let unknown: Vec<_> =
        set.iter().filter(|name| !["=", "]"].iter().any(|end| known.contains(&format!("[env: {name}{end}")))).collect();
    ensure!(unknown.is_empty(), "no node knows {unknown:?}");
    ensure!(pod.contains("enableServiceLinks: false"), "a Service's variables would be taken for settings");
    Ok(())
}

/// The first number after `words`.
fn number_after(text: &str, words: &str) -> Result<u64> {
    let rest = text.split_once(words).with_context(|| format!("no {words}"))?.1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no number after {words}"))
}

fn metrics_of(expression: &str) -> Vec<String> {
    // What is quoted is a label's value.
    let unquoted = expression.split('"').step_by(2);
    let words = unquoted.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let is_metric = |word: &&str| word.contains('_') && !PROMQL.contains(word);
    words.filter(is_metric).map(str::to_owned).collect()
}

fn read(path: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned())
}

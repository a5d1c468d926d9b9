//! `mille status`: who is in the cluster and how they are.
//!
//! One node answers for all of them from what it hears of the others; a node that nobody hears of is missing
//! from the table rather than shown as well. What waits in each, only its own admin listener tells: where that is not known or
//! does not answer, the table says so with a dash.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use futures_util::future::join_all;
use mille_shared::facts::Facts;
use serde_json::{Value, json};

use crate::admin::AdminArgs;
use crate::client::Client;
use crate::output::Output;
use crate::target::TargetArgs;

const QUERY: &str = "query Status { cluster {
  nodes { id address version startedAt state connections subscriptions plans lagMs }
  redis { mode version role connected latencyMs }
} }";

/// `mille status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Prints the cluster's state; a given token needs the scope `admin`.
pub(crate) async fn run(args: &StatusArgs, output: &Output) -> Result<ExitCode> {
    let client = Client::new(args.target.resolve(Some("admin"))?, "mille-status")?;
    let (answer, facts) = tokio::join!(client.ask(QUERY, json!({})), facts(args));
    let mut cluster = answer?["cluster"].take();
    add_queues(&mut cluster, &facts?);
    if output.is_json() {
        output.value(&cluster);
    } else {
        output.line(text(&cluster));
    }
    Ok(ExitCode::SUCCESS)
}

/// What each node tells of itself; those that do not answer are left out.
async fn facts(args: &StatusArgs) -> Result<Vec<Facts>> {
    let doors = args.admin.doors(args.target.cluster())?;
    let answers = join_all(doors.iter().map(|door| door.facts(None))).await;
    Ok(answers.into_iter().filter_map(Result::ok).collect())
}

/// What waits in a node, beside what others know of it.
fn add_queues(cluster: &mut Value, facts: &[Facts]) {
    for node in cluster["nodes"].as_array_mut().into_iter().flatten() {
        let told = facts.iter().find(|facts| node["id"] == facts.node.id);
        node["ready"] = json!(told.map(|facts| facts.ready));
        node["queues"] = json!(told.map(|facts| &facts.queues));
    }
}

/// A title, and what stands below it for a node.
type Column = (&'static str, fn(&Value) -> String);

fn text(cluster: &Value) -> String {
    let columns: [Column; 12] = [
        ("NODE", |node| cell(&node["id"])),
        ("STATE", |node| cell(&node["state"])),
        (
            "READY",
            |node| if node["ready"] == false { "NO".to_owned() } else { cell(&node["ready"]).replace("true", "yes") },
        ),
        ("ADDRESS", |node| cell(&node["address"])),
        ("VERSION", |node| cell(&node["version"])),
        ("CONNECTIONS", |node| cell(&node["connections"])),
        ("SUBSCRIPTIONS", |node| cell(&node["subscriptions"])),
        ("PLANS", |node| cell(&node["plans"])),
        ("LAG ms", |node| cell(&node["lagMs"])),
        ("SEND kB", |node| {
            node["queues"]["sendBytes"].as_u64().map_or("-".to_owned(), |bytes| (bytes / 1000).to_string())
        }),
        ("MAILBOX", |node| cell(&node["queues"]["mailboxCommands"])),
        ("STARTED", |node| cell(&node["startedAt"])),
    ];
    let mut rows = vec![columns.iter().map(|(title, _)| (*title).to_owned()).collect::<Vec<_>>()];
    let nodes = cluster["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.extend(nodes.iter().map(|node| columns.iter().map(|(_, show)| show(node)).collect()));
    let redis = &cluster["redis"];
    let connected = if redis["connected"].as_bool() == Some(true) { "connected" } else { "NOT CONNECTED" };
    format!(
        "{}\n\nredis: {connected}, {} {}, {}, {} ms",
        table(&rows),
        cell(&redis["mode"]),
        cell(&redis["version"]),
        cell(&redis["role"]),
        cell(&redis["latencyMs"]),
    )
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// Columns as wide as their widest cell, two blanks between.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["NODE".to_owned(), "STATE".to_owned()], vec!["node1-abc".to_owned(), "UP".to_owned()]];
        assert_eq!(table(&rows), "NODE       STATE\nnode1-abc  UP");
    }

    #[test]
    fn what_waits_in_a_node_is_shown_where_the_node_tells_it() {
        let mut cluster = json!({ "nodes": [{"id": "a.1"}, {"id": "b.1"}], "redis": {} });
        let mut facts = Facts::default();
        (facts.node.id, facts.queues.send_bytes, facts.queues.mailbox_commands) = ("b.1".to_owned(), 12_345, 3);
        add_queues(&mut cluster, &[facts]);
        let told = text(&cluster);
        let words = |line: usize| told.lines().nth(line).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        assert_eq!(words(1)[1..], ["-"; 11]);
        assert_eq!((words(2)[2], &words(2)[9..11]), ("NO", &["12", "3"][..]));
    }

    #[test]
    fn a_lost_redis_is_hard_to_overlook() {
        let cluster = json!({ "nodes": [], "redis": { "connected": false, "mode": "standalone", "latencyMs": null } });
        assert!(text(&cluster).contains("redis: NOT CONNECTED, standalone -, -, - ms"), "{}", text(&cluster));
    }
}

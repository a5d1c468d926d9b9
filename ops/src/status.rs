//! `mille status`: who is in the cluster and how they are.
//!
//! One node answers for all of them from what it hears of the others; a node that nobody hears of is missing
//! from the table rather than shown as well.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

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
}

/// Prints the cluster's state; a given token needs the scope `admin`.
pub(crate) async fn run(args: &StatusArgs, output: &Output) -> Result<ExitCode> {
    let client = Client::new(args.target.resolve(Some("admin"))?, "mille-status")?;
    let cluster = client.ask(QUERY, json!({})).await?["cluster"].take();
    if output.is_json() {
        output.value(&cluster);
    } else {
        output.line(text(&cluster));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(cluster: &Value) -> String {
    let columns = [
        ("NODE", "id"),
        ("STATE", "state"),
        ("ADDRESS", "address"),
        ("VERSION", "version"),
        ("CONNECTIONS", "connections"),
        ("SUBSCRIPTIONS", "subscriptions"),
        ("PLANS", "plans"),
        ("LAG ms", "lagMs"),
        ("STARTED", "startedAt"),
    ];
    let mut rows = vec![columns.map(|(title, _)| title.to_owned()).to_vec()];
    let nodes = cluster["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.extend(nodes.iter().map(|node| columns.map(|(_, field)| cell(&node[field])).to_vec()));
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
    fn a_lost_redis_is_hard_to_overlook() {
        let cluster = json!({ "nodes": [], "redis": { "connected": false, "mode": "standalone", "latencyMs": null } });
        assert!(text(&cluster).contains("redis: NOT CONNECTED, standalone -, -, - ms"), "{}", text(&cluster));
    }
}

//! `mille import`: a plan from two CSV files.
//!
//! `csv` reads what people have, `rules` decides what of it can be a plan, `layout` places what has no place,
//! `upload` sends it. The seed of a local cluster goes the same way.

mod csv;
mod layout;
mod rules;
mod upload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use self::csv::Table;
use self::rules::{Draft, Existing, File, Remark};
use crate::client::Client;
use crate::output::{Output, refused};
use crate::target::TargetArgs;

/// Remarks shown to a person in full; with `--json` all are listed.
const REMARKS_SHOWN_MAX: usize = 100;

/// `mille import`
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The project's number; not needed with --dry-run.
    #[arg(long, value_name = "ID", required_unless_present = "dry_run")]
    project: Option<i32>,
    /// The plan's number [default: the project's first].
    #[arg(long, value_name = "ID")]
    plan: Option<i32>,
    /// Plan nodes: a CSV file with `id`, `label`, and if you like `type`, `x`, `y`, `description`, `config`.
    #[arg(long, value_name = "FILE.csv")]
    nodes: PathBuf,
    /// Edges: a CSV file with `source`, `target`, and if you like `id`, `label`, `data_type`.
    #[arg(long, value_name = "FILE.csv")]
    edges: PathBuf,
    /// Checks the files, as if for an empty plan, and changes nothing. Needs no cluster.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// What an import did.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// Plan nodes added.
    pub(crate) plan_nodes: usize,
    /// Edges added.
    pub(crate) edges: usize,
    /// After the last batch.
    pub(crate) revision: Option<String>,
    rejected: Vec<Remark>,
    adapted: Vec<Remark>,
}

/// Reads, decides, sends, reports. Succeeds when at least one row got in; the report tells about the others.
pub(crate) async fn run(args: &ImportArgs, output: &Output) -> Result<ExitCode> {
    let nodes = Table::read(&args.nodes, &[rules::ID])?;
    let edges = Table::read(&args.edges, &[rules::SOURCE, rules::TARGET])?;
    let report = match args.project {
        Some(project) if !args.dry_run => {
            let client = Client::new(args.target.resolve(None)?, "mille-import")?;
            into_plan(&client, project, args.plan, &nodes, &edges, output).await?
        }
        _ => only_checked(rules::draft(&nodes, &edges, &Existing::default())),
    };
    if output.is_json() {
        output.value(&report.json(args));
    } else {
        output.line(report.text(args));
    }
    let something = report.plan_nodes + report.edges > 0;
    Ok(if something || report.rejected.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Imports CSV text that is part of this program.
///
/// # Errors
/// As [`run`].
pub(crate) async fn texts(
    client: &Client,
    project: i32,
    plan: i32,
    nodes: &str,
    edges: &str,
    output: &Output,
) -> Result<Report> {
    let (nodes, edges) = (Table::parse(nodes.as_bytes())?, Table::parse(edges.as_bytes())?);
    into_plan(client, project, Some(plan), &nodes, &edges, output).await
}

async fn into_plan(
    client: &Client,
    project: i32,
    plan: Option<i32>,
    nodes: &Table,
    edges: &Table,
    output: &Output,
) -> Result<Report> {
    let existing = existing(client, project, plan).await?;
    let draft = rules::draft(nodes, edges, &existing);
    let bar = progress_bar(draft.nodes.len() + draft.edges.len(), output);
    let uploaded = upload::upload(client, project, plan, &draft, |settled| bar.inc(settled as u64)).await;
    bar.finish_and_clear();
    let uploaded = uploaded?;
    let mut rejected = draft.rejected;
    rejected.extend(uploaded.rejected);
    Ok(Report {
        plan_nodes: uploaded.plan_nodes,
        edges: uploaded.edges,
        revision: uploaded.revision,
        rejected,
        adapted: draft.adapted,
    })
}

fn only_checked(draft: Draft) -> Report {
    Report {
        plan_nodes: draft.nodes.len(),
        edges: draft.edges.len(),
        revision: None,
        rejected: draft.rejected,
        adapted: draft.adapted,
    }
}

/// What the plan holds, so that rows that clash with it are rejected one by one.
async fn existing(client: &Client, project: i32, plan: Option<i32>) -> Result<Existing> {
    let query = "query Existing($projectId: Int!, $planId: Int) { getPlanDag(projectId: $projectId, planId: $planId) {
        nodes { id nodeType } edges { id source target metadata { dataType } }
    } }";
    let data = client.ask(query, json!({ "projectId": project, "planId": plan })).await?;
    let dag = &data["getPlanDag"];
    if !dag.is_object() {
        return Err(refused(format!("project {project} has no such plan")));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    Ok(Existing {
        nodes: list(&dag["nodes"]).iter().map(|node| (text(&node["id"]), text(&node["nodeType"]))).collect(),
        edges: list(&dag["edges"])
            .iter()
            .map(|edge| {
                let data_type = &edge["metadata"]["dataType"];
                (text(&edge["id"]), text(&edge["source"]), text(&edge["target"]), text(data_type))
            })
            .collect(),
    })
}

/// Moves only where a person watches; a log gets nothing.
fn progress_bar(length: usize, output: &Output) -> ProgressBar {
    if !output.is_watched() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("importing {bar:40} {pos}/{len} rows, {eta} to go") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

impl Report {
    fn json(&self, args: &ImportArgs) -> Value {
        json!({
            "projectId": args.project,
            "planId": args.plan,
            "dryRun": args.dry_run,
            "planNodes": self.plan_nodes,
            "edges": self.edges,
            "revision": self.revision,
            "rejected": self.rejected,
            "adapted": self.adapted,
        })
    }

    fn text(&self, args: &ImportArgs) -> String {
        let mut lines = Vec::new();
        for (title, remarks) in [("rejected", &self.rejected), ("adapted", &self.adapted)] {
            for remark in remarks.iter().take(REMARKS_SHOWN_MAX) {
                let file = match remark.file {
                    File::Nodes => &args.nodes,
                    File::Edges => &args.edges,
                };
                lines.push(format!("{title}: {}:{} {}: {}", file.display(), remark.line, remark.id, remark.reason));
            }
            if remarks.len() > REMARKS_SHOWN_MAX {
                lines.push(format!("{title}: and {} more (--json lists all)", remarks.len() - REMARKS_SHOWN_MAX));
            }
        }
        let done = if args.dry_run { "would import" } else { "imported" };
        let revision = self.revision.as_ref().map(|revision| format!("; revision {revision}")).unwrap_or_default();
        lines.push(format!(
            "{done} {} plan nodes and {} edges; rejected rows: {}, adapted: {}{revision}",
            self.plan_nodes,
            self.edges,
            self.rejected.len(),
            self.adapted.len()
        ));
        lines.join("\n")
    }
}

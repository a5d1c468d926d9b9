//! `mille drain`: takes one node out, and follows it until its process has ended.
//!
//! The node does the work: it says that it is not ready, sends its clients elsewhere, stops. Here it is only asked, and watched
//! at its admin listener until nobody listens there, or another life of the node does.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use mille_shared::limits::SHUTDOWN_DEADLINE;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::admin::{AdminArgs, Door, is_gone};
use crate::output::{Output, refused};
use crate::target::ClusterArgs;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What a node gets beyond the time it gives itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a node that does not say how it goes on is doing.
const UNKNOWN_PHASE: &str = "draining";

/// `mille drain`
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node's name, or its id.
    node: String,
    /// Returns once the node has begun, instead of when it is gone.
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    /// Waits until the node is gone: what happens anyway.
    #[arg(long)]
    wait: bool,
    /// Gives up watching after so many seconds [default: what the node gives itself, and 10 more].
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq)]
struct Progress {
    phase: String,
    connections: Option<u64>,
    deadline: Option<Duration>,
}

/// How it ended.
enum End {
    Gone,
    Late,
}

/// Drains the node; fails if it is still there when patience ends.
pub(crate) async fn run(args: &DrainArgs, output: &Output) -> Result<ExitCode> {
    let (door, id) = find(args.admin.doors(&args.cluster)?, &args.node).await?;
    let began = Instant::now();
    let asked = door.drain(true).await.with_context(|| format!("{id} did not take the order"))?;
    let mut progress = Progress::of(&asked);
    output.note(format_args!("{id} drains: {}", progress.told()));
    if args.no_wait {
        say(output, &id, &progress.phase, began, progress.connections);
        return Ok(ExitCode::SUCCESS);
    }
    let patience = args.timeout.map(Duration::from_secs);
    match follow(&door, &id, &mut progress, began, patience, output).await {
        End::Gone => {
            say(output, &id, "gone", began, None);
            Ok(ExitCode::SUCCESS)
        }
        End::Late => {
            say(output, &id, &progress.phase, began, progress.connections);
            output
                .note(format_args!("mille: {id} is still there ({}); its log says what it waits for", progress.told()));
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn follow(
    door: &Door,
    id: &str,
    progress: &mut Progress,
    began: Instant,
    patience: Option<Duration>,
    output: &Output,
) -> End {
    loop {
        let patience = patience.unwrap_or_else(|| progress.deadline.unwrap_or(SHUTDOWN_DEADLINE) + PATIENCE);
        if began.elapsed() > patience {
            return End::Late;
        }
        sleep(LOOK_EVERY).await;
        match door.drain(false).await {
            Ok(answer) => {
                let now = Progress::of(&answer);
                // Whoever starts nodes may have started the next one already.
                if !now.is_leaving() && door.node_id().await.is_ok_and(|other| other != id) {
                    return End::Gone;
                }
                if now != *progress {
                    output.note(format_args!("{:5.1} s  {}", began.elapsed().as_secs_f64(), now.told()));
                }
                *progress = Progress { deadline: now.deadline.or(progress.deadline), ..now };
            }
            Err(error) if is_gone(&error) => return End::Gone,
            // Cut in the middle: the next look tells.
            Err(_) => {}
        }
    }
}

/// The node of that name or id.
async fn find(doors: Vec<Door>, wanted: &str) -> Result<(Door, String)> {
    if doors.is_empty() {
        return Err(refused("nodes are drained at their admin addresses: name that of the node with --admin-url"));
    }
    let mut there = Vec::new();
    for door in doors {
        let id = door.node_id().await;
        match (id, &door.name) {
            (Ok(id), _) if id == wanted || name_of(&id) == wanted => return Ok((door, id)),
            (Ok(id), _) => there.push(name_of(&id).to_owned()),
            (Err(_), Some(name)) if name == wanted => {
                return Err(refused(format!("{wanted} does not answer at {}: it may be gone already", door.url)));
            }
            (Err(_), name) => there.push(format!("{} (does not answer)", name.as_ref().unwrap_or(&door.url))),
        }
    }
    Err(refused(format!("there is no node {wanted}; there are {}", there.join(", "))))
}

/// An id is a name and the number of a life.
fn name_of(id: &str) -> &str {
    id.rsplit_once('.').map_or(id, |(name, _)| name)
}

fn say(output: &Output, id: &str, phase: &str, began: Instant, connections: Option<u64>) {
    let seconds = began.elapsed().as_secs_f64();
    if output.is_json() {
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        output.value(&json!({"node": id, "phase": phase, "connections": connections, "elapsedMs": elapsed_ms}));
    } else {
        output.line(format_args!("{id} {phase} after {seconds:.1} s"));
    }
}

impl Progress {
    fn of(answer: &Value) -> Self {
        Self {
            phase: answer["phase"].as_str().unwrap_or(UNKNOWN_PHASE).to_owned(),
            connections: answer["connections"].as_u64(),
            deadline: answer["deadlineMs"].as_u64().map(Duration::from_millis),
        }
    }

    fn is_leaving(&self) -> bool {
        ["unready", "closing", "stopping"].contains(&self.phase.as_str())
    }

    fn told(&self) -> String {
        match self.connections {
            Some(left) => format!("{}, {left} connections left", self.phase),
            None => self.phase.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_an_older_node_is_a_drain_under_way() {
        let unknown = Progress { phase: "draining".to_owned(), connections: None, deadline: None };
        assert_eq!(Progress::of(&Value::Null), unknown);
        let answer = json!({"phase": "closing", "connections": 7, "elapsedMs": 3000, "deadlineMs": 20_000});
        let told = Progress::of(&answer);
        assert_eq!(
            (told.told().as_str(), told.deadline),
            ("closing, 7 connections left", Some(Duration::from_secs(20)))
        );
        assert!(told.is_leaving() && !unknown.is_leaving());
    }

    #[test]
    fn a_name_is_what_stands_before_the_number_of_its_life() {
        assert_eq!(name_of("node-1.0a1b2c"), "node-1");
        assert_eq!(name_of("eu.west.0a1b2c"), "eu.west");
    }
}

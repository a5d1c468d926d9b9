//! `mille tail`: follows a plan's changes.
//!
//! What it prints has no hole: it begins at a known revision, and after a lost connection it asks for what
//! came since, from whichever node answers. A revision may be told in several typed events, so the place to
//! resume from is the revision before the last one seen, and the events of it already printed are skipped:
//! a replay repeats them alike.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use mille_shared::Revision;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::output::Output;
use crate::socket::{Ended, Subscription};
use crate::target::{Target, TargetArgs};

/// Attempts in a row that bring nothing before we give up: about half a minute.
const ATTEMPTS_MAX: u32 = 12;

const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_LONGEST: Duration = Duration::from_secs(5);

/// A subscription that stood for longer was none in vain, also if it told nothing: a plan may be quiet for hours.
const STOOD: Duration = WAIT_LONGEST;

/// Operations of a delta that fit on its line.
const OPERATIONS_SHOWN: usize = 3;

/// Letters of a text that fit on its line.
const TEXT_SHOWN: usize = 60;

const UPDATES: &str = "subscription Tail($planId: String!, $after: String) {
  event: planDagUpdated(planId: $planId, after: $after) {
    planId updateType userId timestamp revision
    data {
      node { id nodeType position { x y } metadata { label } }
      edge { id source target metadata { label dataType } }
      metadata { name description }
    }
  }
}";

const DELTAS: &str = "subscription Tail($projectId: Int!, $planId: Int, $after: String) {
  event: planDagDeltaChanged(projectId: $projectId, planId: $planId, after: $after) {
    projectId planId kind version revision previousRevision userId clientId operationId timestamp reason
    operations { op path value from }
  }
}";

/// `mille tail`
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The plan's number.
    plan: i32,
    /// Its project's number: shows each change as its JSON Patch instead of in words.
    #[arg(long, value_name = "ID")]
    project: Option<i32>,
    /// Begins after this revision instead of now.
    #[arg(long, value_name = "REV")]
    after: Option<Revision>,
    /// Ends after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
}

/// Prints one line for each event until Ctrl-C, or until `--count` is reached.
pub(crate) async fn run(args: &TailArgs, output: &Output) -> Result<ExitCode> {
    let target = args.target.resolve(None)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = follow(args, &target, *output) => result,
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
    }
}

async fn follow(args: &TailArgs, target: &Target, output: Output) -> Result<ExitCode> {
    let start = match args.after {
        Some(revision) => revision,
        None => head(args, target).await?,
    };
    let mut place = Place::new(start);
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut attempts = 0;
    // Each attempt goes through the next door: the last one may be the one that failed.
    for url in target.urls.iter().cycle() {
        if left == 0 {
            break;
        }
        let (query, variables) = request(args, place.resume_after());
        let ended = match Subscription::open(url, &target.token()?, query, variables).await {
            Ok(mut subscription) => {
                place.begin_replay();
                let (before, began) = (place.events, Instant::now());
                let ended = print_events(&mut subscription, &mut place, &mut left, output).await?;
                if place.events > before || began.elapsed() > STOOD {
                    attempts = 0;
                }
                let Some(ended) = ended else {
                    subscription.close().await;
                    break;
                };
                ended
            }
            Err(ended) => ended,
        };
        attempts += 1;
        let why = reason_to_go_on(ended, target.signs_itself())?;
        if attempts > ATTEMPTS_MAX {
            bail!("gave up after {ATTEMPTS_MAX} attempts: {why}");
        }
        output.note(format_args!("mille: {why}; going on after {}", place.revision));
        sleep(backoff(attempts)).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what comes until the subscription ended, or nothing more is wanted (none).
async fn print_events(
    subscription: &mut Subscription,
    place: &mut Place,
    left: &mut u64,
    output: Output,
) -> Result<Option<Ended>> {
    loop {
        let data = match subscription.next().await {
            Ok(data) => data,
            Err(ended) => return Ok(Some(ended)),
        };
        let event = &data["event"];
        if !place.is_new(event)? {
            continue;
        }
        let shown = if output.is_json() { event.to_string() } else { describe(event) };
        let somebody_reads = output.try_line(shown).is_ok();
        *left -= 1;
        if *left == 0 || !somebody_reads {
            return Ok(None);
        }
    }
}

/// The plan's present revision. Asking for it first makes the beginning known, so that a connection lost
/// before the first event costs nothing.
async fn head(args: &TailArgs, target: &Target) -> Result<Revision> {
    let client = Client::new(target.clone(), "mille-tail")?;
    let data = client.ask("query Plans { projects { id plans { id revision } } }", json!({})).await?;
    let projects = data["projects"].as_array().map(Vec::as_slice).unwrap_or_default();
    let plan = projects
        .iter()
        .filter(|project| args.project.is_none_or(|id| project["id"] == id))
        .flat_map(|project| project["plans"].as_array().map(Vec::as_slice).unwrap_or_default())
        .find(|plan| plan["id"] == args.plan);
    let Some(plan) = plan else { bail!("no plan {} among those you may see", args.plan) };
    plan["revision"].as_str().unwrap_or_default().parse().context("the plan has no revision")
}

fn request(args: &TailArgs, after: Revision) -> (&'static str, Value) {
    match args.project {
        Some(project) => (DELTAS, json!({ "projectId": project, "planId": args.plan, "after": after.to_string() })),
        None => (UPDATES, json!({ "planId": args.plan.to_string(), "after": after.to_string() })),
    }
}

/// Whether to connect again, and what to say; an error when that would not help.
fn reason_to_go_on(ended: Ended, signs_itself: bool) -> Result<String> {
    match ended {
        Ended::Completed => bail!("the cluster ended the subscription"),
        Ended::Refused(error) if error.retryable => Ok(error.to_string()),
        Ended::Refused(error) => Err(anyhow::Error::new(error)),
        Ended::Closed { code: 4403, reason } if !signs_itself => {
            bail!("the token was refused or ran out: {reason} (4403)")
        }
        Ended::Closed { code: code @ (4400 | 4401 | 4406 | 4409 | 4429), reason } => {
            bail!("the cluster does not understand us: {reason} ({code})")
        }
        Ended::Closed { code: 1012, .. } => Ok("the node leaves".to_owned()),
        Ended::Closed { code, reason } => Ok(format!("the connection was closed: {reason} ({code})")),
        Ended::Lost(why) => Ok(why),
    }
}

/// Doubles from attempt to attempt; the random half keeps many of us from coming back at once.
fn backoff(attempts: u32) -> Duration {
    let longest = WAIT_FIRST.saturating_mul(1 << attempts.min(16)).min(WAIT_LONGEST);
    longest.mul_f64(rand::random_range(0.5..1.0))
}

/// How far the printing has come.
#[derive(Debug)]
struct Place {
    /// The last revision of which an event was seen, or where we began.
    revision: Revision,
    /// Its events that were printed; 0 when it is where we began.
    printed: u64,
    /// Its events in the present replay that were printed before.
    skip: u64,
    /// All events that were printed.
    events: u64,
}

impl Place {
    fn new(revision: Revision) -> Self {
        Self { revision, printed: 0, skip: 0, events: 0 }
    }

    /// What to ask for: revisions are dense, so the one before is known by its number.
    fn resume_after(&self) -> Revision {
        if self.printed == 0 {
            self.revision
        } else {
            Revision { seq: self.revision.seq.saturating_sub(1), ..self.revision }
        }
    }

    fn begin_replay(&mut self) {
        self.skip = self.printed;
    }

    /// Notes an event; false when it was printed before.
    fn is_new(&mut self, event: &Value) -> Result<bool> {
        let revision: Revision =
            event["revision"].as_str().unwrap_or_default().parse().context("an event without a revision")?;
        let snapshot = event["kind"] == "SNAPSHOT" || event["updateType"] == "SNAPSHOT";
        if snapshot {
            // Everything before it is settled, so the next event continues from exactly here.
            (self.revision, self.printed, self.skip) = (revision, 0, 0);
        } else if revision != self.revision {
            (self.revision, self.printed, self.skip) = (revision, 1, 0);
        } else if self.skip > 0 {
            self.skip -= 1;
            return Ok(false);
        } else {
            self.printed += 1;
        }
        self.events += 1;
        Ok(true)
    }
}

/// One line: revision, time, user, what.
fn describe(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let what = if event["operations"].is_array() { describe_delta(event) } else { describe_update(event) };
    format!("{}  {}  {}  {what}", text(&event["revision"]), text(&event["timestamp"]), text(&event["userId"]))
}

fn describe_delta(event: &Value) -> String {
    let operations = event["operations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if event["kind"] == "SNAPSHOT" {
        return format!("snapshot of the whole plan: {}", event["reason"].as_str().unwrap_or("as asked"));
    }
    let shown = operations.iter().take(OPERATIONS_SHOWN).map(|operation| {
        let op = operation["op"].as_str().unwrap_or("?").to_lowercase();
        let path = operation["path"].as_str().unwrap_or("?");
        let value = &operation["value"];
        if value.is_null() || value.is_object() || value.is_array() {
            format!("{op} {path}")
        } else {
            format!("{op} {path} = {value}")
        }
    });
    let mut what = shown.collect::<Vec<_>>().join(", ");
    if operations.len() > OPERATIONS_SHOWN {
        what.push_str(&format!(", and {} more", operations.len() - OPERATIONS_SHOWN));
    }
    what
}

fn describe_update(event: &Value) -> String {
    let (node, edge, metadata) = (&event["data"]["node"], &event["data"]["edge"], &event["data"]["metadata"]);
    let kind = event["updateType"].as_str().unwrap_or("?").to_lowercase().replace('_', " ");
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    if node.is_object() {
        let (x, y) = (&node["position"]["x"], &node["position"]["y"]);
        format!(
            "{kind}: {} \"{}\" ({}) at {x}, {y}",
            text(&node["id"]),
            text(&node["metadata"]["label"]),
            text(&node["nodeType"])
        )
    } else if edge.is_object() {
        format!("{kind}: {} from {} to {}", text(&edge["id"]), text(&edge["source"]), text(&edge["target"]))
    } else if metadata.is_object() {
        let name = metadata["name"].as_str().unwrap_or_default();
        let description = metadata["description"].as_str().map(shortened).unwrap_or_default();
        if description.is_empty() {
            format!("{kind}: \"{name}\"")
        } else {
            format!("{kind}: \"{name}\", \"{description}\"")
        }
    } else {
        kind
    }
}

/// As much of a text as fits on a line, on one line.
fn shortened(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(TEXT_SHOWN) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::GraphqlError;

    fn event(seq: u64, update: &str) -> Value {
        json!({ "revision": format!("7-{seq}"), "updateType": update })
    }

    fn new(place: &mut Place, seq: u64, update: &str) -> bool {
        place.is_new(&event(seq, update)).expect("a revision")
    }

    #[test]
    fn after_a_break_within_a_revision_the_rest_of_it_is_printed_once() {
        let mut place = Place::new("7-4".parse().expect("a revision"));
        assert!(new(&mut place, 5, "NODE_REMOVED"));
        assert!(new(&mut place, 5, "EDGE_REMOVED"));
        // The link breaks; the replay begins after 7-4.
        assert_eq!(place.resume_after().to_string(), "7-4");
        place.begin_replay();
        assert!(!new(&mut place, 5, "NODE_REMOVED"));
        assert!(!new(&mut place, 5, "EDGE_REMOVED"));
        assert!(new(&mut place, 5, "EDGE_REMOVED"));
        assert!(new(&mut place, 6, "NODE_ADDED"));
        assert_eq!(place.resume_after().to_string(), "7-5");
    }

    #[test]
    fn two_breaks_in_a_row_print_nothing_twice() {
        let mut place = Place::new("7-4".parse().expect("a revision"));
        assert!(new(&mut place, 5, "NODE_ADDED"));
        place.begin_replay();
        place.begin_replay();
        assert!(!new(&mut place, 5, "NODE_ADDED"));
        assert!(new(&mut place, 6, "NODE_ADDED"));
    }

    #[test]
    fn before_the_first_event_we_resume_where_we_began() {
        let place = Place::new("7-0".parse().expect("a revision"));
        assert_eq!(place.resume_after().to_string(), "7-0");
    }

    #[test]
    fn a_snapshot_is_a_new_beginning() {
        let mut place = Place::new("7-4".parse().expect("a revision"));
        assert!(new(&mut place, 9, "SNAPSHOT"));
        assert_eq!(place.resume_after().to_string(), "7-9");
    }

    #[test]
    fn what_can_not_be_mended_ends_the_command() {
        let refusal = |code: &str, retryable| {
            let error = GraphqlError { code: code.into(), message: "m".into(), retryable, retry_after: None };
            reason_to_go_on(Ended::Refused(error), true)
        };
        refusal("FORBIDDEN", false).expect_err("access is lost");
        refusal("UNAVAILABLE", true).expect("may come back");
        let closed = |code| Ended::Closed { code, reason: String::new() };
        reason_to_go_on(closed(4403), false).expect_err("nobody makes us a new token");
        reason_to_go_on(closed(4403), true).expect("we sign a new one");
        reason_to_go_on(closed(1012), false).expect("another node takes us");
        reason_to_go_on(closed(4400), true).expect_err("repeating a mistake is no use");
    }

    #[test]
    fn a_text_keeps_to_its_line() {
        let long = "x ".repeat(100);
        let event =
            json!({ "updateType": "METADATA_UPDATED", "data": {"metadata": {"name": "n", "description": long}} });
        let line = describe_update(&event);
        assert_eq!(line, format!("metadata updated: \"n\", \"{}…\"", "x ".repeat(TEXT_SHOWN / 2)));
    }

    #[test]
    fn a_line_says_revision_time_user_and_what() {
        let event = json!({
            "revision": "7-5", "timestamp": "2025-01-01T00:00:00Z", "userId": "alice", "kind": "DELTA",
            "operations": [
                {"op": "REPLACE", "path": "/nodes/3/position/x", "value": 4.5},
                {"op": "ADD", "path": "/edges/-", "value": {"id": "e"}},
                {"op": "REMOVE", "path": "/nodes/1"}, {"op": "REMOVE", "path": "/nodes/1"},
            ],
        });
        assert_eq!(
            describe(&event),
            "7-5  2025-01-01T00:00:00Z  alice  replace /nodes/3/position/x = 4.5, add /edges/-, remove /nodes/1, and 1 more"
        );
    }
}

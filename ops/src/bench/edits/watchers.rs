//! One subscriber per plan, at another node than most of its writers: when does an edit come there, and does every one?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use mille_shared::Revision;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::writers::{Window, origin};
use crate::bench::clients::sequence::{Event, Kind, Sequence};
use crate::bench::clients::subscribers::DELTAS;
use crate::bench::report::Faults;
use crate::socket::{Ended, Subscription};

/// What the last edits get to come.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Where a subscriber looks.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) url: String,
    /// The place of its node in the cluster's list.
    pub(super) node: usize,
    pub(super) token: Arc<str>,
    pub(super) project: i32,
    pub(super) plan: i32,
    pub(super) start: Revision,
    /// The number of the plan's newest revision that was answered.
    pub(super) head: Arc<AtomicU64>,
    /// For each socket the place of its node.
    pub(super) node_of_socket: Arc<[usize]>,
}

/// A subscriber of one plan.
pub(super) struct Watcher {
    watched: Watched,
    subscription: Subscription,
}

/// What it saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// Of edits that were made at other nodes and due in the window, from then until they came.
    pub(super) latencies: Vec<Duration>,
    pub(super) faults: Faults,
}

#[derive(Deserialize)]
struct Data {
    event: Delta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delta {
    kind: Kind,
    revision: Revision,
    previous_revision: Option<Revision>,
    operation_id: Option<String>,
}

impl Watcher {
    /// Subscribes from where the plan is.
    ///
    /// # Errors
    /// When the node refuses.
    pub(super) async fn open(watched: Watched) -> Result<Self> {
        let variables = json!({
            "projectId": watched.project, "planId": watched.plan, "after": watched.start.to_string(),
        });
        let opened = Subscription::open(&watched.url, &watched.token, DELTAS, variables).await;
        let subscription = opened.map_err(|ended| anyhow!("nobody can subscribe: {ended:?}"))?;
        Ok(Self { watched, subscription })
    }

    /// Looks until all writers have ended and everything has come.
    ///
    /// # Errors
    /// When the subscription ends before.
    pub(super) async fn run(mut self, window: Window, written: CancellationToken) -> Result<Seen> {
        let mut sequence = Sequence::new(self.watched.start);
        let mut latencies = Vec::new();
        let ended = |ended: Ended| anyhow!("a subscription ended: {ended:?}");
        while !written.is_cancelled() {
            tokio::select! {
                data = self.subscription.next_as::<Data>() => self.note(data.map_err(ended)?, &mut sequence, window, &mut latencies),
                () = written.cancelled() => {}
            }
        }
        let head = self.watched.head.load(Ordering::Relaxed);
        let rest = async {
            while sequence.last.seq < head {
                let data = self.subscription.next_as::<Data>().await.map_err(ended)?;
                self.note(data, &mut sequence, window, &mut latencies);
            }
            anyhow::Ok(())
        };
        // What does not come in time is lost, and counted so.
        timeout(END_WITHIN, rest).await.unwrap_or(Ok(()))?;
        self.subscription.close().await;
        Ok(Seen { latencies, faults: sequence.faults(head) })
    }

    fn note(&self, data: Data, sequence: &mut Sequence, window: Window, latencies: &mut Vec<Duration>) {
        let Delta { kind, revision, previous_revision, operation_id } = data.event;
        sequence.note(&Event { kind, revision, previous_revision });
        let Some((socket, due)) = operation_id.as_deref().and_then(origin) else { return };
        let due = window.start + due;
        if window.holds(due) && self.watched.node_of_socket.get(socket) != Some(&self.watched.node) {
            latencies.push(Instant::now() - due);
        }
    }
}

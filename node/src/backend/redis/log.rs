//! Logs in Redis: one stream per plan, whose entry ids are the revisions.

use async_trait::async_trait;
use fred::clients::Client;
use fred::interfaces::{HashesInterface, KeysInterface, StreamsInterface};
use fred::types::Value;
use mille_shared::limits::LOG_PAGE_ENTRIES;
use mille_shared::log::{CommitOutcome, Head, LogEntry, LogPage, OperationKey, Proposal};
use mille_shared::{PlanId, Revision};

use super::functions::{COMMIT, CREATE};
use super::values::{corrupt, field, pairs, parse, parsed, text};
use super::{Redis, fan_out, keys};
use crate::backend::{Channel, EventLog, Lane, Result};

#[async_trait]
impl EventLog for Redis {
    async fn create(&self, plan: PlanId, first: Proposal) -> Result<Head> {
        let keys = vec![keys::log(plan), keys::operations(plan), keys::snapshots(plan)];
        let answer = self.call(CREATE, keys, arguments(&first).to_vec()).await?.into_array();
        let [revision, hash] = answer.as_slice() else { return Err(corrupt("a head")) };
        head(revision, hash)
    }

    async fn commit(&self, plan: PlanId, expected: Head, batch: &[Proposal]) -> Result<CommitOutcome> {
        debug_assert!(!batch.is_empty(), "a commit adds something");
        debug_assert!(batch.iter().all(|proposal| !proposal.payload.contains('\n')), "a payload must be one line");
        let keys = vec![keys::log(plan), keys::operations(plan)];
        let mut args = Vec::with_capacity(3 + 3 * batch.len());
        args.push(self.channels.name(Channel::Plan(plan)).into());
        args.push(expected.revision.to_string().into());
        args.push(expected.hash.to_string().into());
        args.extend(batch.iter().flat_map(arguments));
        outcome(&self.call(COMMIT, keys, args).await?.into_array())
    }

    async fn range(&self, plan: PlanId, after: Option<Revision>, limit: usize, lane: Lane) -> Result<LogPage> {
        let limit = limit.clamp(1, LOG_PAGE_ENTRIES);
        let from = after.map_or_else(|| "-".to_owned(), |revision| format!("({revision}"));
        let key = keys::log(plan);
        let read = |client: Client| async move { client.xrange(key, from, "+", Some(limit as u64)).await };
        let answer: Value = self.aside(lane, "xrange", read).await?;
        let entries: Vec<_> = answer.into_array().into_iter().map(entry).collect::<Result<_>>()?;
        Ok(LogPage { has_more: entries.len() == limit, entries })
    }

    async fn heads(&self, plans: &[PlanId]) -> Result<Vec<Option<Head>>> {
        fan_out(plans, |plan| {
            let key = keys::log(*plan);
            async move {
                let last: Value = self.send("xrevrange", self.client.xrevrange(key, "+", "-", Some(1))).await?;
                let last = last.into_array().pop().map(entry).transpose()?;
                Ok(last.map(|entry| Head { revision: entry.revision, hash: entry.hash }))
            }
        })
        .await
    }

    async fn find(&self, plan: PlanId, key: &OperationKey) -> Result<Option<Revision>> {
        let place: Value = self.send("hget", self.client.hget(keys::operations(plan), key.as_str())).await?;
        if place.is_null() { Ok(None) } else { parsed(&place, "an operation's revision").map(Some) }
    }

    async fn delete(&self, plan: PlanId) -> Result<()> {
        let keys = vec![keys::log(plan), keys::operations(plan), keys::snapshots(plan)];
        self.send("unlink", self.client.unlink::<Value, _>(keys)).await.map(drop)
    }
}

/// An entry as the library's functions take it.
fn arguments(proposal: &Proposal) -> [Value; 3] {
    [proposal.key.as_str().into(), proposal.hash.to_string().into(), (&*proposal.payload).into()]
}

fn head(revision: &Value, hash: &Value) -> Result<Head> {
    Ok(Head { revision: parsed(revision, "a head's revision")?, hash: parsed(hash, "a head's hash")? })
}

fn outcome(answer: &[Value]) -> Result<CommitOutcome> {
    let Some((word, rest)) = answer.split_first() else { return Err(corrupt("a commit's outcome")) };
    match (&*text(word, "a commit's outcome")?, rest) {
        ("committed", []) => Ok(CommitOutcome::Committed),
        ("moved", []) => Ok(CommitOutcome::Moved { head: None }),
        ("moved", [revision, hash]) => Ok(CommitOutcome::Moved { head: Some(head(revision, hash)?) }),
        ("repeated", repeats) if repeats.len().is_multiple_of(2) => {
            let repeat = |pair: &[Value]| Ok((parsed(&pair[0], "an index")?, parsed(&pair[1], "a revision")?));
            Ok(CommitOutcome::Repeated { repeats: repeats.chunks_exact(2).map(repeat).collect::<Result<_>>()? })
        }
        _ => Err(corrupt("a commit's outcome")),
    }
}

/// An entry of the stream: its id, and its fields in turn.
fn entry(value: Value) -> Result<LogEntry> {
    const WHAT: &str = "a log's entry";
    let mut parts = value.into_array();
    let (Some(fields), Some(id), true) = (parts.pop(), parts.pop(), parts.is_empty()) else {
        return Err(corrupt(WHAT));
    };
    let fields = pairs(fields, WHAT)?;
    Ok(LogEntry {
        revision: parsed(&id, WHAT)?,
        hash: parse(field(&fields, "h").ok_or_else(|| corrupt(WHAT))?, WHAT)?,
        payload: field(&fields, "c").ok_or_else(|| corrupt(WHAT))?.clone(),
    })
}

//! Logs in Redis: one stream per plan, whose entry ids are the revisions.

use std::sync::Arc;

use async_trait::async_trait;
use fred::clients::Client;
use fred::interfaces::{FunctionInterface, StreamsInterface};
use fred::types::Value;
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, FuturesUnordered};
use mille_shared::limits::{LOG_PAGE_ENTRIES, UNCHANGED_OPERATIONS_MAX};
use mille_shared::log::{
    CommitOutcome, Head, LogEntry, LogPage, LogState, OperationKey, Proposal, StoreLife, StoredSnapshot, Terms,
};
use mille_shared::{PlanId, Revision};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::confirm::{AckLevel, Question};
use super::functions::{self, COMMIT, CONFIRM, CREATE, HEADS, NOTE_UNCHANGED, REVIVE};
use super::page::Page;
use super::route::{Redis, told};
use super::server::{Failure, Server};
use super::values::{corrupt, field, pairs, parse, parsed, text};
use super::{FAN_OUT_MAX, fan_out_each, keys};
use crate::backend::{Channel, EventLog, Lane, Noted, Result, envelope};
use crate::traces::{self, Traced};

/// What an answer about an operation tells.
const WHERE_IT_STANDS: &str = "an operation's revision";
/// Logs in one question for their heads. Redis serves nobody else meanwhile.
const HEADS_PER_CALL_MAX: usize = 500;
/// Heads of one question that wait until it is known who has them; together, so that all of them wait as long as one does.
const HEADS_WAITING_MAX: usize = 1_024;

#[async_trait]
impl EventLog for Redis {
    async fn create(&self, plan: PlanId, epoch: u64, first: Proposal) -> Result<Head> {
        let revision = Revision { epoch, seq: 0 };
        let args = [revision.to_string().into()].into_iter().chain(arguments(&first)).collect();
        let answer = self.call(CREATE, all_keys(plan), args).await?.into_array();
        let [revision, hash] = answer.as_slice() else { return Err(corrupt("a head")) };
        head(revision, hash)
    }

    async fn commit(&self, plan: PlanId, expected: Head, batch: &[Proposal], terms: &Terms) -> Result<CommitOutcome> {
        debug_assert!(!batch.is_empty(), "a commit adds something");
        debug_assert!(batch.iter().all(|proposal| !proposal.payload.contains('\n')), "a payload must be one line");
        let keys = vec![keys::log(plan), keys::operations(plan), keys::written(plan)];
        let traced = traces::commits(plan, batch, COMMIT.0);
        let mut args: Vec<Value> = Vec::with_capacity(9 + 3 * batch.len());
        args.push(self.channels().name(Channel::Plan(plan)).into());
        args.push(expected.revision.to_string().into());
        args.push(expected.hash.to_string().into());
        args.extend(terms_arguments(terms).map(Value::from));
        // Whoever hears of an entry goes on where its commit is.
        let place = |(commit, proposal): (&Option<Traced>, &Proposal)| {
            commit.as_ref().map_or(proposal.trace, |commit| Some(commit.place()))
        };
        args.push(envelope::beside(traced.iter().zip(batch).map(place)).into());
        args.extend(batch.iter().flat_map(arguments));
        let answer = self.call(COMMIT, keys, args).await.and_then(|answer| outcome(&answer.into_array()));
        traces::committed(&traced, &answer);
        answer
    }

    fn must_confirm(&self) -> bool {
        self.context.access.acknowledgement.level != AckLevel::Applied
    }

    async fn confirm(&self, plan: PlanId, revision: Revision, key: Option<&OperationKey>) -> Result<bool> {
        let log = keys::log(plan);
        let patience = self.context.access.acknowledgement.timeout + self.patience();
        let mut journey = self.journey(CONFIRM.0, &log, patience)?;
        loop {
            let Some(confirmer) = &journey.server.confirmer else { return Ok(true) };
            let question = Question {
                keys: vec![log.clone(), keys::operations(plan)],
                args: vec![revision.to_string().into(), key.map(OperationKey::as_str).unwrap_or_default().into()],
                is_asking: journey.is_asking,
            };
            let Ok(answer) = timeout_at(journey.deadline, confirmer.ask(question)).await else { return Ok(false) };
            let error = match answer {
                Ok(is_confirmed) => return Ok(is_confirmed),
                Err(error) => error,
            };
            if let Err(error) = journey.go_on(error).await {
                if !self.context.access.is_moving() || Instant::now() >= journey.deadline {
                    return Err(error);
                }
                // Asking does no harm, so it is asked again wherever the plan is now.
                journey.look_again().await?;
            }
        }
    }

    async fn range(&self, plan: PlanId, after: Option<Revision>, limit: usize, lane: Lane) -> Result<LogPage> {
        self.range_of(plan, after, limit, lane, None).await
    }

    async fn range_of(
        &self,
        plan: PlanId,
        after: Option<Revision>,
        limit: usize,
        lane: Lane,
        entry_bytes: Option<usize>,
    ) -> Result<LogPage> {
        let key = keys::log(plan);
        let mut page = Page::of(limit.clamp(1, LOG_PAGE_ENTRIES), entry_bytes);
        while let Some(wanted) = page.wanted() {
            let after = page.last().map(|last| last.revision).or(after);
            match self.read_after(&key, after, wanted, lane).await {
                Ok(entries) => page.take(entries),
                Err(error) if page.last().is_none() => return Err(error),
                // What came before is worth telling. Who goes on behind it begins with few entries again: if these were too
                // large to be read at once, they are not then.
                Err(error) => {
                    tracing::debug!(plan.id = %plan, %error, "a page ends early");
                    break;
                }
            }
        }
        Ok(page.into_log_page())
    }

    fn lives(&self) -> BoxStream<'static, StoreLife> {
        let asking: FuturesUnordered<_> = self.map().servers().iter().cloned().map(life_of).collect();
        asking.filter_map(async |life| life.ok()).boxed()
    }

    async fn heads(&self, plans: &[PlanId]) -> Result<Vec<Option<LogState>>> {
        // In a cluster every plan has a slot of its own, and a call is for one slot.
        let per_call = if self.context.access.is_cluster() { 1 } else { HEADS_PER_CALL_MAX };
        let parts: Vec<&[PlanId]> = plans.chunks(per_call).collect();
        let room = Semaphore::new(FAN_OUT_MAX);
        let answers = fan_out_each(&parts, HEADS_WAITING_MAX, |part| self.heads_of(part, &room)).await;
        let (mut states, mut failure) = (Vec::with_capacity(plans.len()), None);
        for (part, answer) in parts.iter().zip(answers) {
            match answer {
                Ok(heads) => states.extend(heads.into_iter().map(Some)),
                Err(error) => {
                    states.extend(part.iter().map(|_| None));
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if states.iter().all(Option::is_none) => Err(error),
            _ => Ok(states),
        }
    }

    async fn revive(
        &self,
        plan: PlanId,
        snapshot: StoredSnapshot,
        changes: &[(LogEntry, OperationKey)],
        known_in: Option<&StoreLife>,
    ) -> Result<LogState> {
        let mut args: Vec<Value> = Vec::with_capacity(4 + 4 * changes.len());
        args.push(snapshot.head.revision.to_string().into());
        args.push(snapshot.head.hash.to_string().into());
        args.push((&*snapshot.payload).into());
        args.push(known_in.map(StoreLife::as_str).unwrap_or_default().into());
        for (LogEntry { revision, hash, payload }, key) in changes {
            args.push(revision.to_string().into());
            args.push(key.as_str().into());
            args.push(hash.to_string().into());
            args.push((&**payload).into());
        }
        let answer = self.call_aside(Lane::Repair, REVIVE, all_keys(plan), args).await?.into_array();
        let [name, revision, hash] = answer.as_slice() else { return Err(corrupt("a log's head")) };
        Ok(LogState { head: Some(head(revision, hash)?), life: life(name)? })
    }

    async fn find(&self, plan: PlanId, key: &OperationKey) -> Result<Option<Revision>> {
        let place: Value = self.ask("hget", keys::operations(plan), [key.as_str().into()]).await?;
        if place.is_null() { Ok(None) } else { parsed(&place, WHERE_IT_STANDS).map(Some) }
    }

    async fn note_unchanged(&self, plan: PlanId, key: &OperationKey, found: Head) -> Result<Noted> {
        let keys = vec![keys::log(plan), keys::operations(plan), keys::unchanged(plan)];
        let args = vec![
            found.revision.to_string().into(),
            found.hash.to_string().into(),
            key.as_str().into(),
            UNCHANGED_OPERATIONS_MAX.to_string().into(),
        ];
        let answer = self.call(NOTE_UNCHANGED, keys, args).await?.into_array();
        let Some((word, rest)) = answer.split_first() else { return Err(corrupt(WHERE_IT_STANDS)) };
        match (&*text(word, WHERE_IT_STANDS)?, rest) {
            ("noted", []) => Ok(Noted::New),
            ("known", [revision]) => parsed(revision, WHERE_IT_STANDS).map(Noted::Known),
            ("elsewhere", []) => Ok(Noted::Elsewhere),
            _ => Err(corrupt(WHERE_IT_STANDS)),
        }
    }

    async fn delete(&self, plan: PlanId) -> Result<()> {
        let [log, rest @ ..] = &all_keys(plan)[..] else { return Ok(()) };
        self.ask::<Value>("unlink", log.as_str(), rest.iter().map(|key| key.as_str().into())).await.map(drop)
    }
}

impl Redis {
    async fn read_after(&self, key: &str, after: Option<Revision>, count: usize, lane: Lane) -> Result<Vec<LogEntry>> {
        let from = after.map_or_else(|| "-".to_owned(), |revision| format!("({revision}"));
        let read = |client: Client| {
            let from = from.clone();
            async move { client.xrange(key, from, "+", Some(count as u64)).await }
        };
        let answer: Value = self.aside(lane, "xrange", key, read).await?;
        answer.into_array().into_iter().map(entry).collect()
    }

    async fn heads_of(&self, plans: &[PlanId], room: &Semaphore) -> Result<Vec<LogState>> {
        const WHAT: &str = "heads of logs";
        let keys = plans.iter().map(|plan| keys::log(*plan)).collect();
        let answer = self.call_read_only(HEADS, keys, Vec::new(), Some(room)).await?.into_array();
        let Some((name, heads)) = answer.split_first() else { return Err(corrupt(WHAT)) };
        if heads.len() != 2 * plans.len() {
            return Err(corrupt(WHAT));
        }
        let life = life(name)?;
        let state = |pair: &[Value]| Ok(LogState { head: some_head(&pair[0], &pair[1])?, life: life.clone() });
        heads.chunks_exact(2).map(state).collect()
    }
}

async fn life_of(server: Arc<Server>) -> Result<StoreLife> {
    let ask = || {
        server
            .send(HEADS.0, server.client.fcall_ro::<Value, _, _, _>(HEADS.0, Vec::<String>::new(), Vec::<Value>::new()))
    };
    let answer = match ask().await {
        Err(Failure::Told(error)) if functions::is_missing(&error) => {
            server.load_library(HEADS.0).await.map_err(|failure| told(HEADS.0, failure))?;
            ask().await
        }
        answer => answer,
    };
    let answer = answer.map_err(|failure| told(HEADS.0, failure))?.into_array();
    answer.first().ok_or_else(|| corrupt("the server's life")).and_then(life)
}

/// Everything that a plan's log consists of.
pub(super) fn all_keys(plan: PlanId) -> Vec<String> {
    vec![keys::log(plan), keys::operations(plan), keys::snapshots(plan), keys::written(plan), keys::unchanged(plan)]
}

/// Terms as the library's function takes them.
fn terms_arguments(terms: &Terms) -> [String; 5] {
    let number = |number: &Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    match terms {
        Terms::Restore { epoch } => {
            ["restore".to_owned(), epoch.to_string(), String::new(), String::new(), String::new()]
        }
        Terms::Add { followed, settled, lost_epoch, begins_epoch } => [
            "add".to_owned(),
            number(begins_epoch),
            settled.as_ref().map(|life| life.as_str().to_owned()).unwrap_or_default(),
            followed.iter().map(StoreLife::as_str).collect::<Vec<_>>().join(" "),
            number(lost_epoch),
        ],
    }
}

fn life(name: &Value) -> Result<StoreLife> {
    text(name, "the server's life").map(StoreLife::new)
}

/// A head, or two empty texts for none.
fn some_head(revision: &Value, hash: &Value) -> Result<Option<Head>> {
    let is_none = text(revision, "a head's revision")?.is_empty();
    if is_none { Ok(None) } else { head(revision, hash).map(Some) }
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
        ("committed", [name]) => Ok(CommitOutcome::Committed { life: life(name)? }),
        ("reborn", [name]) => Ok(CommitOutcome::Reborn { life: life(name)? }),
        ("new_epoch", [epoch]) => Ok(CommitOutcome::NewEpoch { epoch: parsed(epoch, "an epoch")? }),
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

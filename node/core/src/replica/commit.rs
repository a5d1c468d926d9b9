//! How operations get into the log: judged together on a draft, offered as one batch, answered when the log has spoken.
//!
//! Within a batch each operation is judged on what the ones before it leave, so refusals count only once the batch is in
//! the log: until then they are as provisional as the changes they were judged on. For the same reason a batch in which
//! everything is refused still asks the log whether our head is its head: a client may have been told of a plan node by
//! another node before we heard of it.

use std::sync::Arc;

use mille_shared::limits;
use mille_shared::log::{CommitOutcome, Head, LogEntry, OperationKey, Proposal};
use mille_shared::operation::Operation;

use super::{Cause, Effect, Repair, Replica, Ticket, Verdict};
use crate::applied::Applied;
use crate::chain;
use crate::plan::Plan;
use crate::refusal::Refusal;

/// An operation that waits for a commit.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: Ticket,
    operation: Operation,
    key: OperationKey,
    repeatable: bool,
    attempts: u32,
}

/// A batch that was offered to the log.
#[derive(Debug)]
pub(super) struct Flight {
    expected: Head,
    members: Vec<Member>,
    applied: Vec<Arc<Applied>>,
    draft: Plan,
}

#[derive(Debug)]
struct Member {
    pending: Pending,
    judgement: Judgement,
}

#[derive(Debug)]
enum Judgement {
    /// The change with this index in the batch.
    Proposed(usize),
    Unchanged,
    Refused(Box<Refusal>),
}

impl Replica {
    pub(super) fn submit(&mut self, ticket: Ticket, operation: Operation, repeatable: bool, effects: &mut Vec<Effect>) {
        let key = OperationKey::of(&operation.user_id, &operation.client_id, &operation.id);
        let may_be_known = repeatable && !self.wants_reload();
        let verdict = if let Some(revision) = self.ring.find(&key).filter(|_| may_be_known) {
            Verdict::Repeated { revision }
        } else if matches!(self.repair, Some(Repair::Failed { .. })) {
            Verdict::Unavailable
        } else if self.pending.len() >= limits::PENDING_OPERATIONS_MAX {
            Verdict::Overloaded
        } else {
            self.pending.push_back(Pending { ticket, operation, key, repeatable, attempts: 0 });
            return;
        };
        effects.push(Effect::Answer { ticket, verdict });
    }

    /// Offers the next batch, if nothing is under way and our copy is not known to be behind. While the store does not
    /// answer nobody waits, also not who comes back from a commit.
    pub(super) fn commit_next(&mut self, effects: &mut Vec<Effect>) {
        if matches!(self.repair, Some(Repair::Failed { .. })) {
            return self.answer_pending(&Verdict::Unavailable, effects);
        }
        if self.flight.is_some() || self.repair.is_some() || self.pending.is_empty() {
            return;
        }
        let (flight, batch) = self.draft_batch();
        let attempt = flight.members.iter().map(|member| member.pending.attempts).max().unwrap_or(0);
        effects.push(Effect::Commit { expected: flight.expected, batch, attempt });
        self.flight = Some(flight);
    }

    /// Judges waiting operations on a draft until the batch is full.
    fn draft_batch(&mut self) -> (Flight, Vec<Proposal>) {
        let mut flight = Flight {
            expected: self.plan.head(),
            members: Vec::new(),
            applied: Vec::new(),
            draft: Plan::clone(&self.plan),
        };
        let mut batch: Vec<Proposal> = Vec::new();
        let mut bytes = 0;
        while let Some(pending) = self.pending.front() {
            let full = batch.len() >= limits::COMMIT_BATCH_MAX || bytes >= limits::COMMIT_BATCH_BYTES_MAX;
            // The same operation twice: the second waits until the log knows the first.
            let twin = flight.members.iter().any(|member| member.pending.key == pending.key);
            if full || twin {
                break;
            }
            let judgement = match flight.draft.accept(&pending.operation, &self.bounds) {
                Err(refusal) => Judgement::Refused(Box::new(refusal)),
                Ok(None) => Judgement::Unchanged,
                Ok(Some(change)) => {
                    #[expect(clippy::expect_used, reason = "only a bug can bring a change that is no JSON")]
                    let payload: Arc<str> = serde_json::to_string(&change).expect("a change is JSON").into();
                    let hash = chain::link(flight.draft.head().hash, &payload);
                    #[expect(clippy::expect_used, reason = "the change was accepted on this very draft")]
                    let applied = flight
                        .draft
                        .apply_change(change, Arc::clone(&payload), hash)
                        .expect("an accepted change applies");
                    bytes += payload.len();
                    batch.push(Proposal { key: pending.key.clone(), hash, payload });
                    flight.applied.push(Arc::new(applied));
                    Judgement::Proposed(flight.applied.len() - 1)
                }
            };
            if let Some(pending) = self.pending.pop_front() {
                flight.members.push(Member { pending, judgement });
            }
        }
        (flight, batch)
    }

    pub(super) fn committed(&mut self, outcome: CommitOutcome, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flight.take() else { return };
        match outcome {
            CommitOutcome::Committed => self.land(flight, effects),
            CommitOutcome::Repeated { repeats } => {
                let mut again = Vec::new();
                for member in flight.members {
                    let revision = repeats.iter().find_map(|(index, revision)| {
                        matches!(member.judgement, Judgement::Proposed(own) if own == *index).then_some(*revision)
                    });
                    match revision {
                        Some(revision) => {
                            let (ticket, verdict) = (member.pending.ticket, Verdict::Repeated { revision });
                            effects.push(Effect::Answer { ticket, verdict });
                        }
                        None => again.push(member.pending),
                    }
                }
                self.wait_again(again);
            }
            CommitOutcome::Moved { head } => {
                let (tired, again): (Vec<_>, Vec<_>) = flight
                    .members
                    .into_iter()
                    .map(|member| Pending { attempts: member.pending.attempts + 1, ..member.pending })
                    .partition(|pending| pending.attempts >= limits::COMMIT_ATTEMPTS_MAX);
                for pending in tired {
                    effects.push(Effect::Answer { ticket: pending.ticket, verdict: Verdict::Overloaded });
                }
                self.wait_again(again);
                self.follow(flight.expected, head, effects);
            }
        }
    }

    /// The log was seen at `head` after it was at `expected`: finds out how it came there.
    fn follow(&mut self, expected: Head, head: Option<Head>, effects: &mut Vec<Effect>) {
        match head.map(|head| head.revision) {
            // A log only grows, unless it lost its end or began anew.
            Some(head) if head.epoch != expected.revision.epoch || head <= expected.revision => {
                self.reload(Cause::Fork, effects);
            }
            None => self.reload(Cause::Fork, effects),
            Some(head) if head <= self.plan.revision() => {} // the channel was quicker
            Some(_) => self.repair(Cause::Moved, effects),
        }
    }

    /// Nobody knows whether the batch is in the log. Its operations are answered so, and the log is read to find out.
    pub(super) fn commit_failed(&mut self, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flight.take() else { return };
        for member in flight.members {
            effects.push(Effect::Answer { ticket: member.pending.ticket, verdict: Verdict::Unavailable });
        }
        self.repair(Cause::Unanswered, effects);
    }

    pub(super) fn answer_pending(&mut self, verdict: &Verdict, effects: &mut Vec<Effect>) {
        for pending in self.pending.drain(..) {
            effects.push(Effect::Answer { ticket: pending.ticket, verdict: verdict.clone() });
        }
    }

    /// The batch is in the log: it becomes part of our copy, unless the channel brought it first.
    fn land(&mut self, flight: Flight, effects: &mut Vec<Effect>) {
        let Flight { expected, members, applied, draft } = flight;
        let draft = Arc::new(draft);
        if self.plan.head() == expected && !self.wants_reload() {
            self.plan = Arc::clone(&draft);
            for applied in &applied {
                self.applied(Arc::clone(applied), effects);
            }
        } else {
            let entries: Vec<LogEntry> = applied.iter().map(|applied| applied.entry()).collect();
            self.sequence(entries, effects);
        }
        // While our copy is opened anew it may lack the batch; the draft has it.
        let plan = if self.plan.revision() < draft.revision() { draft } else { Arc::clone(&self.plan) };
        if applied.iter().any(|applied| self.snapshot_due(applied)) {
            effects.push(Effect::StoreSnapshot(Arc::clone(&plan)));
        }
        for Member { pending, judgement } in members {
            let repeat = pending.repeatable.then_some(pending.key);
            let verdict = match judgement {
                Judgement::Proposed(index) => {
                    Verdict::Accepted { applied: Arc::clone(&applied[index]), plan: Arc::clone(&plan) }
                }
                Judgement::Unchanged => Verdict::Unchanged { plan: Arc::clone(&plan), repeat },
                Judgement::Refused(refusal) => Verdict::Refused { refusal, repeat },
            };
            effects.push(Effect::Answer { ticket: pending.ticket, verdict });
        }
        // What arrived behind a hole may follow now.
        self.sequence([], effects);
    }

    /// Back to the front of the queue, in their old order.
    fn wait_again(&mut self, again: Vec<Pending>) {
        for pending in again.into_iter().rev() {
            self.pending.push_front(pending);
        }
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::change::{Change, Fact};
    use mille_shared::log::ChainHash;
    use mille_shared::operation::Edit;
    use mille_shared::plan::PlanMetadata;
    use mille_shared::{ClientId, OperationId, Revision, Timestamp, UserId};

    use super::*;
    use crate::plan::PlanBounds;
    use crate::replica::Input;

    fn empty_plan() -> Plan {
        let change = Change {
            operation_id: OperationId::new("create"),
            user_id: UserId::new("ada"),
            client_id: ClientId::none(),
            at: Timestamp::from_unix_ms(0),
            facts: vec![Fact::Created {
                metadata: PlanMetadata { name: None, description: None, author: None, created: None },
            }],
        };
        let payload: Arc<str> = serde_json::to_string(&change).unwrap().into();
        let hash = chain::link(ChainHash::ROOT, &payload);
        Plan::begin(&LogEntry { revision: Revision { epoch: 1, seq: 0 }, hash, payload }).unwrap()
    }

    fn submit(replica: &mut Replica, ticket: u64) -> Vec<Effect> {
        let operation = Operation {
            id: OperationId::new(ticket.to_string()),
            user_id: UserId::new("ada"),
            client_id: ClientId::none(),
            at: Timestamp::from_unix_ms(1),
            expected_revision: None,
            edits: vec![Edit::UpdateMetadata { name: Some(Some(ticket.to_string())), description: None }],
        };
        replica.handle(Input::Submit { ticket: Ticket(ticket), operation, repeatable: true })
    }

    #[test]
    fn who_comes_back_from_a_commit_does_not_wait_for_a_store_that_does_not_answer() {
        let mut replica = Replica::new(empty_plan(), PlanBounds::default(), 1_000);
        (0..3).for_each(|ticket| drop(submit(&mut replica, ticket)));
        replica.handle(Input::Committed(CommitOutcome::Committed));
        replica.handle(Input::Behind);
        replica.handle(Input::RepairFailed);
        let repeats = vec![(0, Revision { epoch: 1, seq: 1 })];
        let effects = replica.handle(Input::Committed(CommitOutcome::Repeated { repeats }));
        let answers: Vec<_> = effects
            .iter()
            .map(|effect| match effect {
                Effect::Answer { ticket, verdict: Verdict::Repeated { .. } } => (ticket.0, "repeated"),
                Effect::Answer { ticket, verdict: Verdict::Unavailable } => (ticket.0, "unavailable"),
                other => panic!("an answer, not {other:?}"),
            })
            .collect();
        assert_eq!(answers, [(1, "repeated"), (2, "unavailable")]);
        assert!(!replica.is_busy());
    }
}

//! How operations get into the log: judged together on a draft, offered as one batch, answered when the log has spoken.
//!
//! Within a batch each operation is judged on what the ones before it leave, so refusals count only once the batch is in
//! the log: until then they are as provisional as the changes they were judged on. For the same reason a batch in which
//! everything is refused still asks the log whether our head is its head: a client may have been told of a plan node by
//! another node before we heard of it.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::sync::Arc;

use mille_shared::change::Change;
use mille_shared::log::{CommitOutcome, Head, LogEntry, OperationKey, Proposal};
use mille_shared::operation::Operation;
use mille_shared::{ClientId, OperationId, Revision, UserId, limits};

use super::{Cause, Effect, From, Readmission, Repair, Replica, Rollback, Ticket, Verdict};
use crate::applied::Applied;
use crate::chain;
use crate::plan::{Plan, PlanBounds};
use crate::refusal::Refusal;

/// Who a change without facts is by: one that only begins an epoch.
const SYSTEM: &str = "mille";

/// An operation that waits for a commit.
#[derive(Debug)]
pub(super) struct Pending {
    wish: Wish,
    key: OperationKey,
    attempts: u32,
    /// Not to be offered once more.
    is_withdrawn: bool,
}

/// Who wants it.
#[derive(Debug)]
enum Wish {
    /// A user who waits for the answer.
    Asked { ticket: Ticket, operation: Operation, repeatable: bool },
    /// A user who was answered before the log lost it. It is offered until the log has spoken.
    Lost(Arc<Applied>),
}

/// A batch that was offered to the log.
#[derive(Debug)]
pub(super) struct Flight {
    expected: Head,
    /// The epoch of what is offered.
    epoch: u64,
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

impl Pending {
    /// A change that the log lost.
    pub(super) fn lost(applied: Arc<Applied>) -> Self {
        Self { key: applied.operation_key(), wish: Wish::Lost(applied), attempts: 0, is_withdrawn: false }
    }

    /// Its answer, if somebody waits for one.
    fn withdrawn(self) -> Option<Effect> {
        let Wish::Asked { ticket, .. } = self.wish else { return None };
        Some(Effect::Answer { ticket, verdict: Verdict::Withdrawn })
    }

    fn is_lost(&self) -> bool {
        matches!(self.wish, Wish::Lost(_))
    }

    fn judge(&self, draft: &Plan, bounds: &PlanBounds) -> Result<Option<Change>, Refusal> {
        match &self.wish {
            Wish::Asked { operation, .. } => draft.accept(operation, bounds),
            // One operation may have come to more facts than an operation may have edits.
            Wish::Lost(applied) => {
                draft.accept(&draft.readmit(applied), &PlanBounds { changes_max: usize::MAX, ..*bounds })
            }
        }
    }
}

impl Replica {
    pub(super) fn submit(&mut self, ticket: Ticket, operation: Operation, repeatable: bool, effects: &mut Vec<Effect>) {
        let key = OperationKey::of(&operation.user_id, &operation.client_id, &operation.id);
        let may_be_known = repeatable && !self.is_rebuilding();
        let verdict = if let Some(revision) = self.ring.find(&key).filter(|_| may_be_known) {
            Verdict::Repeated { revision }
        } else if matches!(self.repair, Some(Repair::Failed { .. })) {
            Verdict::Unavailable
        } else if self.pending.len() >= limits::PENDING_OPERATIONS_MAX {
            Verdict::Overloaded
        } else {
            let wish = Wish::Asked { ticket, operation, repeatable };
            self.pending.push_back(Pending { wish, key, attempts: 0, is_withdrawn: false });
            return;
        };
        effects.push(Effect::Answer { ticket, verdict });
    }

    /// Withdraws operations whose callers may not have them any more. Those that wait are answered here; one that is being
    /// offered is in the log already or is not offered again.
    pub fn withdraw(&mut self, may_go_on: impl Fn(&Operation) -> bool) -> Vec<Effect> {
        let is_over =
            |pending: &Pending| matches!(&pending.wish, Wish::Asked { operation, .. } if !may_go_on(operation));
        let offered = self.flight.iter_mut().flat_map(|flight| &mut flight.members).map(|member| &mut member.pending);
        offered.filter(|pending| is_over(pending)).for_each(|pending| pending.is_withdrawn = true);
        let (over, waiting): (VecDeque<_>, VecDeque<_>) = mem::take(&mut self.pending).into_iter().partition(is_over);
        self.pending = waiting;
        over.into_iter().filter_map(Pending::withdrawn).collect()
    }

    /// Offers the next batch, if nothing is under way and our copy is not known to be behind. While the store does not
    /// answer nobody waits, also not who comes back from a commit.
    pub(super) fn commit_next(&mut self, effects: &mut Vec<Effect>) {
        if matches!(self.repair, Some(Repair::Failed { .. })) {
            return self.give_up_pending(effects);
        }
        if self.flight.is_some() || self.repair.is_some() || self.standing.is_waiting() {
            return;
        }
        self.let_go_of_known(effects);
        let wants_epoch = self.standing.must_leave(self.plan.revision().epoch);
        if self.pending.is_empty() && !wants_epoch {
            return;
        }
        if !wants_epoch && self.hold_for_more(effects) {
            return;
        }
        let (flight, batch) = self.draft_batch(wants_epoch);
        let attempt = flight.members.iter().map(|member| member.pending.attempts).max().unwrap_or(0);
        let terms = self.standing.terms(flight.expected);
        effects.push(Effect::Commit { expected: flight.expected, batch, terms, attempt });
        self.flight = Some(flight);
    }

    /// Lost changes that are part of our copy again are not offered.
    fn let_go_of_known(&mut self, effects: &mut Vec<Effect>) {
        self.pending.retain(|pending| match (&pending.wish, self.ring.find(&pending.key)) {
            (Wish::Lost(lost), Some(revision)) => {
                effects.push(judged(Arc::clone(lost), Readmission::Known { revision }));
                false
            }
            _ => true,
        });
    }

    /// Judges waiting operations on a draft until the batch is full.
    fn draft_batch(&mut self, wants_epoch: bool) -> (Flight, Vec<Proposal>) {
        let expected = self.plan.head();
        let mut flight = Flight {
            expected,
            epoch: self.standing.epoch_after(expected).unwrap_or(expected.revision.epoch),
            members: Vec::new(),
            applied: Vec::new(),
            draft: Plan::clone(&self.plan),
        };
        let mut batch: Vec<Proposal> = Vec::new();
        let mut bytes = 0;
        let mut keys = HashSet::new();
        while let Some(pending) = self.pending.front() {
            let full = batch.len() >= limits::COMMIT_BATCH_MAX || bytes >= limits::COMMIT_BATCH_BYTES_MAX;
            // The same operation twice: the second waits until the log knows the first.
            if full || !keys.insert(pending.key.clone()) {
                break;
            }
            let judgement = match pending.judge(&flight.draft, &self.bounds) {
                Err(refusal) => Judgement::Refused(Box::new(refusal)),
                Ok(None) => Judgement::Unchanged,
                Ok(Some(change)) => {
                    let proposal = flight.propose(change, pending.key.clone());
                    bytes += proposal.payload.len();
                    batch.push(proposal);
                    Judgement::Proposed(flight.applied.len() - 1)
                }
            };
            if let Some(pending) = self.pending.pop_front() {
                flight.members.push(Member { pending, judgement });
            }
        }
        if wants_epoch && batch.is_empty() {
            let change = self.empty_change();
            let key = OperationKey::of(&change.user_id, &change.client_id, &change.operation_id);
            batch.push(flight.propose(change, key));
        }
        (flight, batch)
    }

    /// A change that changes nothing: an epoch needs an entry to begin with.
    fn empty_change(&self) -> Change {
        Change {
            operation_id: OperationId::new(format!("epoch-{}", self.plan.head().hash)),
            user_id: UserId::new(SYSTEM),
            client_id: ClientId::none(),
            at: self.plan.last_modified(),
            facts: Vec::new(),
        }
    }

    pub(super) fn committed(&mut self, outcome: CommitOutcome, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flight.take() else { return };
        match outcome {
            CommitOutcome::Committed { life } => {
                self.meets_again(&life);
                self.standing.follow(&life);
                self.gathering.landed(flight.expected.revision, flight.draft.revision());
                self.land(flight, effects);
            }
            CommitOutcome::Repeated { repeats } => {
                let mut again = Vec::new();
                for member in flight.members {
                    let revision = repeats.iter().find_map(|(index, revision)| {
                        matches!(member.judgement, Judgement::Proposed(own) if own == *index).then_some(*revision)
                    });
                    match (revision, member.pending.wish) {
                        (Some(revision), Wish::Asked { ticket, .. }) => {
                            effects.push(Effect::Answer { ticket, verdict: Verdict::Repeated { revision } });
                        }
                        (Some(revision), Wish::Lost(lost)) => {
                            effects.push(judged(lost, Readmission::Known { revision }));
                        }
                        (None, wish) => again.push(Pending { wish, ..member.pending }),
                    }
                }
                self.wait_unless_withdrawn(again, effects);
                // Another node was first, and we have not heard of it yet.
                if repeats.iter().any(|(_, revision)| *revision > self.plan.revision()) {
                    self.repair(Cause::Moved, effects);
                }
            }
            CommitOutcome::Moved { head } => {
                let (tired, again): (Vec<_>, Vec<_>) = flight
                    .members
                    .into_iter()
                    .map(|member| Pending { attempts: member.pending.attempts + 1, ..member.pending })
                    .partition(|pending| pending.attempts >= limits::COMMIT_ATTEMPTS_MAX && !pending.is_lost());
                for pending in tired {
                    if let Wish::Asked { ticket, .. } = pending.wish {
                        effects.push(Effect::Answer { ticket, verdict: Verdict::Overloaded });
                    }
                }
                self.wait_unless_withdrawn(again, effects);
                self.follow(flight.expected, head, effects);
            }
            CommitOutcome::Reborn { life } => {
                self.standing.wait(life);
                if self.standing.is_waiting() {
                    effects.push(Effect::Wait);
                }
                self.wait_unless_withdrawn(flight.all_pending(), effects);
            }
            CommitOutcome::NewEpoch { epoch } => {
                self.standing.grant(flight.expected, epoch);
                self.wait_unless_withdrawn(flight.all_pending(), effects);
            }
        }
    }

    /// The log was seen at `head` after it was at `expected`: finds out how it came there.
    fn follow(&mut self, expected: Head, head: Option<Head>, effects: &mut Vec<Effect>) {
        let is_ours = head.is_some_and(|head| self.ring.hash_at(head.revision) == Some(head.hash));
        match head {
            Some(head) if is_ours && head.revision.seq >= expected.revision.seq => {} // the channel was quicker
            Some(head) if head.revision.seq > self.plan.revision().seq => self.repair(Cause::Moved, effects),
            // A log only grows, unless it lost its end.
            _ => self.repair(Cause::Fork, effects),
        }
    }

    /// Nobody knows whether the batch is in the log. Its operations are answered so, and the log is read to find out: at
    /// once, unless something remains to be offered. A store that answers and takes nothing would be asked without end.
    pub(super) fn commit_failed(&mut self, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flight.take() else { return };
        self.wait_again(flight.all_pending());
        self.give_up_pending(effects);
        let remains = !self.pending.is_empty() || self.standing.must_leave(self.plan.revision().epoch);
        if remains && self.repair.is_none() {
            effects.push(Effect::RepairStarted(Cause::Unanswered));
            self.repair = Some(Repair::Failed { reload: None });
        } else {
            self.repair(Cause::Unanswered, effects);
        }
    }

    /// Nobody waits for a store that does not answer; what was lost stays.
    fn give_up_pending(&mut self, effects: &mut Vec<Effect>) {
        self.pending.retain(|pending| match pending.wish {
            Wish::Asked { ticket, .. } => {
                effects.push(Effect::Answer { ticket, verdict: Verdict::Unavailable });
                false
            }
            Wish::Lost(_) => true,
        });
    }

    /// Takes our own batch where the channel brings it before the answer comes: it was applied on the draft, and need not be
    /// read and applied once more. Answers whether the entries were just that.
    pub(super) fn adopt(&mut self, heard: &[LogEntry], effects: &mut Vec<Effect>) -> bool {
        let follows = |flight: &&Flight| flight.expected == self.plan.head() && !self.is_rebuilding();
        let Some(flight) = self.flight.as_ref().filter(follows) else { return false };
        // By its last hash a history is known whole.
        let heard_head = heard.last().map(|entry| Head { revision: entry.revision, hash: entry.hash });
        if heard.len() != flight.applied.len() || heard_head != Some(flight.draft.head()) {
            return false;
        }
        self.plan = Arc::new(flight.draft.clone());
        for applied in flight.applied.clone() {
            self.applied(applied, effects);
        }
        // What arrived behind a hole may follow now.
        self.sequence([], From::Channel, effects);
        true
    }

    /// The batch is in the log: it becomes part of our copy, unless the channel brought it first.
    fn land(&mut self, flight: Flight, effects: &mut Vec<Effect>) {
        let Flight { expected, members, applied, draft, .. } = flight;
        let draft = Arc::new(draft);
        if self.plan.head() == expected && !self.is_rebuilding() {
            self.plan = Arc::clone(&draft);
            for applied in &applied {
                self.applied(Arc::clone(applied), effects);
            }
        } else if !self.knows(draft.head()) {
            let entries: Vec<LogEntry> = applied.iter().map(|applied| applied.entry()).collect();
            self.sequence(entries, From::Channel, effects);
            if self.is_rebuilding() {
                // The log that took it may be the one that is being left: it is offered again, and known if it is there.
                self.pending.extend(applied.iter().cloned().map(Pending::lost));
            }
        }
        // While our copy is opened anew it may lack the batch; the draft has it.
        let plan = if self.plan.revision() < draft.revision() { draft } else { Arc::clone(&self.plan) };
        if applied.iter().any(|applied| self.snapshot_due(applied.revision())) {
            effects.push(Effect::StoreSnapshot(Arc::clone(&plan)));
        }
        for Member { pending: Pending { wish, key, .. }, judgement } in members {
            match wish {
                Wish::Asked { ticket, repeatable, .. } => {
                    let repeat = repeatable.then_some(key);
                    let verdict = match judgement {
                        Judgement::Proposed(index) => {
                            Verdict::Accepted { applied: Arc::clone(&applied[index]), plan: Arc::clone(&plan) }
                        }
                        Judgement::Unchanged => Verdict::Unchanged { plan: Arc::clone(&plan), repeat },
                        Judgement::Refused(refusal) => Verdict::Refused { refusal, repeat },
                    };
                    effects.push(Effect::Answer { ticket, verdict });
                }
                Wish::Lost(lost) => {
                    let outcome = match judgement {
                        Judgement::Proposed(index) => Readmission::Accepted { revision: applied[index].revision() },
                        Judgement::Unchanged => Readmission::Unchanged,
                        Judgement::Refused(refusal) => Readmission::Refused(refusal),
                    };
                    effects.push(judged(lost, outcome));
                }
            }
        }
        // What arrived behind a hole may follow now.
        self.sequence([], From::Channel, effects);
    }

    /// Those of a batch that is not in the log.
    fn wait_unless_withdrawn(&mut self, again: Vec<Pending>, effects: &mut Vec<Effect>) {
        let (withdrawn, again): (Vec<_>, Vec<_>) = again.into_iter().partition(|pending| pending.is_withdrawn);
        effects.extend(withdrawn.into_iter().filter_map(Pending::withdrawn));
        self.wait_again(again);
    }

    /// Back to the front of the queue, in their old order.
    fn wait_again(&mut self, again: Vec<Pending>) {
        for pending in again.into_iter().rev() {
            self.pending.push_front(pending);
        }
    }
}

impl Flight {
    fn all_pending(self) -> Vec<Pending> {
        self.members.into_iter().map(|member| member.pending).collect()
    }

    /// Adds a change that was accepted on the draft.
    fn propose(&mut self, change: Change, key: OperationKey) -> Proposal {
        #[expect(clippy::expect_used, reason = "only a bug can bring a change that is no JSON")]
        let payload: Arc<str> = serde_json::to_string(&change).expect("a change is JSON").into();
        let before = self.draft.head();
        let revision = Revision { epoch: self.epoch, ..before.revision.next() };
        let hash = chain::link(before.hash, revision, &payload);
        let head = Head { revision, hash };
        #[expect(clippy::expect_used, reason = "the change was accepted on this very draft")]
        let applied = self.draft.apply_change(change, Arc::clone(&payload), head).expect("an accepted change applies");
        self.applied.push(Arc::new(applied));
        Proposal { key, hash, payload, trace: None }
    }
}

fn judged(lost: Arc<Applied>, outcome: Readmission) -> Effect {
    Effect::Rollback(Rollback::Judged { lost, outcome })
}

#[cfg(test)]
mod tests {
    use mille_shared::Timestamp;
    use mille_shared::change::{Change, Fact};
    use mille_shared::log::{ChainHash, StoreLife};
    use mille_shared::operation::Edit;
    use mille_shared::plan::PlanMetadata;

    use super::*;
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
        let revision = Revision { epoch: 1, seq: 0 };
        let hash = chain::link(ChainHash::ROOT, revision, &payload);
        Plan::begin(&LogEntry { revision, hash, payload }).unwrap()
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
        let mut replica = Replica::new(empty_plan().into(), PlanBounds::default(), 1_000);
        (0..3).for_each(|ticket| drop(submit(&mut replica, ticket)));
        let life = StoreLife::new("a");
        replica.handle(Input::Committed(CommitOutcome::Committed { life }));
        replica.handle(Input::Look(Cause::Behind));
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

    /// What the only commit among the effects offers.
    fn offered(effects: &[Effect]) -> Vec<OperationId> {
        let [Effect::Commit { batch, .. }] = effects else { panic!("a commit, not {effects:?}") };
        let operation = |proposal: &Proposal| serde_json::from_str::<Change>(&proposal.payload).unwrap().operation_id;
        batch.iter().map(operation).collect()
    }

    /// Whatever was offered landed. Answers what others hear of it.
    fn land(replica: &mut Replica) -> Input {
        let life = StoreLife::new("a");
        let effects = replica.handle(Input::Committed(CommitOutcome::Committed { life }));
        let entry = |effect| if let Effect::Deliver(applied) = effect { Some(applied.entry()) } else { None };
        Input::Heard(effects.into_iter().filter_map(entry).collect())
    }

    /// One that has written, and has heard of another's change and written again.
    fn in_company() -> Replica {
        let [mut replica, mut other] =
            [(); 2].map(|()| Replica::new(empty_plan().into(), PlanBounds::default(), 1_000));
        submit(&mut replica, 1);
        other.handle(land(&mut replica));
        submit(&mut other, 2);
        replica.handle(land(&mut other));
        assert_eq!(offered(&submit(&mut replica, 3)).len(), 1, "it did not know of the other when it wrote before");
        land(&mut replica);
        replica
    }

    #[test]
    fn nobody_waits_for_a_new_life_of_the_store_that_is_over_before_it_settles() {
        let mut replica = Replica::new(empty_plan().into(), PlanBounds::default(), 1_000);
        let reborn = || Input::Committed(CommitOutcome::Reborn { life: StoreLife::new("b") });
        submit(&mut replica, 1);
        assert!(matches!(replica.handle(reborn())[..], [Effect::Wait]));
        assert!(submit(&mut replica, 2).is_empty(), "the first check of the head that finds it settled comes later");
        assert_eq!(offered(&replica.handle(Input::Waited)).len(), 2, "no check told anything");
        assert!(matches!(replica.handle(reborn())[..], [Effect::Wait]), "it answers, and has just begun anew");
        assert_eq!(offered(&replica.handle(Input::Waited)).len(), 2);
        let answers = replica.handle(Input::CommitFailed);
        let unavailable = |effect: &&Effect| matches!(effect, Effect::Answer { verdict: Verdict::Unavailable, .. });
        assert_eq!(answers.iter().filter(unavailable).count(), 2, "{answers:?}");
    }

    #[test]
    fn what_is_withdrawn_is_not_offered_once_more_and_told_once() {
        let mut replica = Replica::new(empty_plan().into(), PlanBounds::default(), 1_000);
        submit(&mut replica, 1);
        submit(&mut replica, 2);
        let withdrawn = |effects: Vec<Effect>| -> Vec<u64> {
            let ticket = |effect| match effect {
                Effect::Answer { ticket, verdict: Verdict::Withdrawn } => Some(ticket.0),
                _ => None,
            };
            effects.into_iter().filter_map(ticket).collect()
        };
        assert_eq!(withdrawn(replica.withdraw(|_| false)), [2], "the first is under way");
        submit(&mut replica, 3);
        let head = Some(replica.plan().head());
        let mut effects = replica.handle(Input::Committed(CommitOutcome::Moved { head }));
        assert_eq!(offered(&effects.split_off(1)).len(), 1, "the third");
        assert_eq!(withdrawn(effects), [1]);
        assert_eq!(withdrawn(replica.withdraw(|_| false)), [0; 0]);
        let effects = replica.handle(Input::Committed(CommitOutcome::Committed { life: StoreLife::new("a") }));
        let accepted = |effect: &Effect| matches!(effect, Effect::Answer { verdict: Verdict::Accepted { .. }, .. });
        assert!(effects.iter().any(accepted), "it was in the log already: {effects:?}");
    }

    #[test]
    fn who_writes_alone_never_waits() {
        let mut replica = Replica::new(empty_plan().into(), PlanBounds::default(), 1_000);
        for ticket in 0..5 {
            assert_eq!(offered(&submit(&mut replica, ticket)).len(), 1);
            land(&mut replica);
        }
    }

    #[test]
    fn where_others_write_too_a_batch_waits_for_more_once() {
        let mut replica = in_company();
        assert!(matches!(submit(&mut replica, 4)[..], [Effect::Gather]));
        assert!(submit(&mut replica, 5).is_empty(), "it waits already");
        assert_eq!(offered(&replica.handle(Input::Gathered)).len(), 2);
        land(&mut replica);
        assert_eq!(offered(&submit(&mut replica, 6)).len(), 1, "nobody else wrote since");
    }

    #[test]
    fn what_lost_its_race_and_what_is_full_does_not_wait() {
        let mut replica = in_company();
        submit(&mut replica, 4);
        replica.handle(Input::Gathered);
        let head = Some(replica.plan().head());
        let effects = replica.handle(Input::Committed(CommitOutcome::Moved { head }));
        assert_eq!(offered(&effects).len(), 1, "its moment is over");

        let mut replica = in_company();
        let (first, last) = (1_000, 999 + limits::COMMIT_BATCH_MAX as u64);
        (first..last).for_each(|ticket| assert!(!matches!(submit(&mut replica, ticket)[..], [Effect::Commit { .. }])));
        assert_eq!(offered(&submit(&mut replica, last)).len(), limits::COMMIT_BATCH_MAX);
        land(&mut replica);
        assert!(submit(&mut replica, last + 1).is_empty(), "the moment that was begun has not passed");
        assert_eq!(offered(&replica.handle(Input::Gathered)).len(), 1);
    }
}

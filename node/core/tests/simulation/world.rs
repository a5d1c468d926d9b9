//! A cluster and its network, event by event.
//!
//! Nodes do what their replicas ask, as the actors do. What is true is in the log alone; everything a replica says is held
//! against it.

mod end;
mod harm;
mod memory;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mille_core::replica::{CatchUp, Cause, Effect, HeadSeen, Input, Readmission, Replica, Rollback, Ticket, Verdict};
use mille_core::{Applied, Opened, Plan, PlanBounds, chain};
use mille_shared::log::{CommitOutcome, Head, LogEntry, OperationKey, Proposal, StoreLife, StoredSnapshot, Terms};
use mille_shared::{OperationId, Revision};

use crate::dice::Rng;
use crate::faults::{Faults, Seen};
use crate::kit::edit_of;
use crate::log::Log;
use crate::people::{Listener, Person, Told, Wish};

const NODES: usize = 3;
const PEOPLE: usize = 4;
const LISTENERS: usize = 5;
const OPERATIONS_EACH: u64 = 20;
const SNAPSHOT_EVERY: u64 = 5;
const HEAD_CHECK_EVERY: u64 = 60;
/// How long a node must know a life of the store before it is settled: longer than most cuts, shorter than some.
const SETTLES_AFTER: u64 = 3 * HEAD_CHECK_EVERY;
/// How long a commit waits for that at the most.
const WAITS_FOR: u64 = SETTLES_AFTER + 2 * HEAD_CHECK_EVERY;
/// From here on nothing goes wrong any more, but for lost messages.
const CALM_AFTER: u64 = 2_000;
/// How long the calm lasts once everybody has their answers: enough for three head checks.
const SETTLE_FOR: u64 = 6 * HEAD_CHECK_EVERY;
/// A run that takes more is one that goes round in circles.
const EVENTS_MAX: u64 = 100_000;

enum Event {
    /// A message comes out of a node's channel.
    Message(Life, Vec<LogEntry>),
    /// An offer reaches the log. `answered`: its answer finds the way back.
    Offered {
        from: Life,
        offer: Box<Offer>,
        answered: bool,
    },
    /// A question reaches the log.
    Asked {
        from: Life,
        question: Question,
    },
    /// An answer reaches a node.
    Input(Life, Input),
    /// A node reads the plan to open it.
    Open(Life),
    Opened(Life, Box<Opened>),
    Snapshot(StoredSnapshot),
    HeadCheck(usize),
    /// A round is over at a node.
    Round(usize),
    Act(usize),
    /// A person has waited long enough for this attempt.
    GiveUp {
        person: usize,
        id: String,
        attempt: u64,
    },
    Attach(usize),
    Nemesis,
}

/// A batch on its way to the log.
struct Offer {
    expected: Head,
    batch: Vec<Proposal>,
    terms: Terms,
}

/// What a node asks the store.
enum Question {
    Fetch(Option<Revision>),
    Locate,
    Reload,
    Revive(Arc<Plan>, Vec<Arc<Applied>>, Option<StoreLife>),
}

/// A node and which of its lives: what was meant for an earlier one is lost.
type Life = (usize, u64);

struct Node {
    life: u64,
    /// Absent while the plan is opened.
    replica: Option<Replica>,
    /// What was heard meanwhile.
    heard: Vec<Vec<LogEntry>>,
    /// Nothing reaches the store or comes from it until then.
    cut_until: u64,
    /// The store's life as the node knows it, and since when.
    store: Option<(StoreLife, u64)>,
}

pub(crate) struct World {
    rng: Rng,
    /// Whether nobody is told of a check that finds what is expected, as a bridge does it; else it must be for nothing.
    swallows_expected: bool,
    /// Whether nodes forget what they may.
    forgets: bool,
    faults: Faults,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    events_made: u64,
    log: Log,
    nodes: Vec<Node>,
    /// The life in which each node lets a moment pass.
    gathers_in: [Option<u64>; NODES],
    people: Vec<Person>,
    listeners: Vec<Listener>,
    tickets: HashMap<Ticket, (usize, Wish)>,
    told: Told,
    accepted: HashMap<OperationKey, Revision>,
    /// Who applied the change at each place and told of it, and did not read the plan anew since.
    applied_by: HashMap<Head, HashSet<Life>>,
    /// For each place that was lost, the nodes that had applied its change then and there.
    witnesses: HashMap<Head, Vec<Life>>,
    /// Lost operations that were judged again and not taken: that was told.
    excused: HashSet<OperationKey>,
    /// When the store's life began.
    reborn_at: u64,
    /// When everybody had their answers and nothing went wrong any more.
    settled_at: Option<u64>,
    seen: Seen,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let log = Log::new();
        let node = || Node { life: 0, replica: None, heard: Vec::new(), cut_until: 0, store: None };
        let mut world = Self {
            rng: Rng::new(seed),
            swallows_expected: seed.is_multiple_of(2),
            forgets: (seed / 2).is_multiple_of(2),
            faults,
            now: 0,
            events: BTreeMap::new(),
            events_made: 0,
            nodes: (0..NODES).map(|_| node()).collect(),
            gathers_in: [None; NODES],
            people: (0..PEOPLE).map(|_| Person { to_do: OPERATIONS_EACH, wish: None }).collect(),
            listeners: (0..LISTENERS).map(|_| Listener::new(log.plan())).collect(),
            log,
            tickets: HashMap::new(),
            told: Told::default(),
            accepted: HashMap::new(),
            applied_by: HashMap::new(),
            witnesses: HashMap::new(),
            excused: HashSet::new(),
            reborn_at: 0,
            settled_at: None,
            seen: Seen::default(),
        };
        for node in 0..NODES {
            world.open(node);
            world.after(0, HEAD_CHECK_EVERY, Event::HeadCheck(node));
            world.begin_rounds(node);
        }
        (0..PEOPLE).for_each(|person| world.after(10, 50, Event::Act(person)));
        (0..LISTENERS).for_each(|listener| world.after(10, 50, Event::Attach(listener)));
        world.after(100, 300, Event::Nemesis);
        world
    }

    pub(crate) fn run(mut self) -> Seen {
        while let Some(((at, number), event)) = self.events.pop_first() {
            assert!(number < EVENTS_MAX, "it never ends");
            self.now = at;
            self.happen(event);
            let done = self.people.iter().all(|person| person.to_do == 0);
            if done && self.is_calm() && self.settled_at.is_none() {
                self.settled_at = Some(self.now);
            }
        }
        self.check_the_end();
        self.seen.epochs = self.log.epochs;
        self.seen
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Message((node, life), entries) => {
                if self.nodes[node].life != life || self.is_cut(node) {
                    return;
                }
                match self.nodes[node].replica {
                    Some(_) => self.input((node, life), Input::Heard(entries)),
                    None => self.nodes[node].heard.push(entries),
                }
            }
            Event::Offered { from, offer, answered } => self.offered(from, &offer, answered),
            Event::Asked { from, question } => self.asked(from, question),
            Event::Input(life, input) => self.input(life, input),
            Event::Open((node, life)) => {
                if self.nodes[node].life == life {
                    self.open(node);
                }
            }
            Event::Opened((node, life), opened) => {
                if self.nodes[node].life == life {
                    self.nodes[node].replica = Some(Replica::new(*opened, PlanBounds::default(), SNAPSHOT_EVERY));
                    for entries in std::mem::take(&mut self.nodes[node].heard) {
                        self.input((node, life), Input::Heard(entries));
                    }
                }
            }
            Event::Snapshot(stored) => self.log.store(stored),
            Event::HeadCheck(node) => {
                if !self.is_cut(node) {
                    let seen = self.head_seen(node);
                    self.after(1, 20, Event::Input((node, self.nodes[node].life), Input::HeadSeen(seen)));
                }
                if self.has_more_to_come() {
                    self.after(HEAD_CHECK_EVERY, HEAD_CHECK_EVERY + 1, Event::HeadCheck(node));
                }
            }
            Event::Round(node) => self.end_round(node),
            Event::Act(person) => self.act(person),
            Event::GiveUp { person, id, attempt } => {
                let wish = self.people[person].wish.as_ref();
                if wish.is_some_and(|wish| wish.id == id && wish.attempts == attempt) {
                    self.ask(person);
                }
            }
            Event::Attach(listener) => self.attach(listener),
            Event::Nemesis => self.do_harm(),
        }
    }

    // ---- nodes -----------------------------------------------------------------------------------------------------

    /// Subscribes first, reads second. A plan that vanished is not there to be opened until someone revives it.
    fn open(&mut self, node: usize) {
        let life = (node, self.nodes[node].life);
        match self.log.open() {
            Some(opened) => self.after(5, 40, Event::Opened(life, Box::new(opened))),
            None => self.after(20, 60, Event::Open(life)),
        }
    }

    fn head_seen(&mut self, node: usize) -> HeadSeen {
        let state = self.log.state();
        let known = &mut self.nodes[node].store;
        let since = match known {
            Some((life, since)) if *life == state.life => *since,
            _ => known.insert((state.life.clone(), self.now)).1,
        };
        HeadSeen { state, is_settled: self.now >= since + SETTLES_AFTER }
    }

    fn input(&mut self, (node, life): Life, input: Input) {
        if self.nodes[node].life != life {
            return;
        }
        let Some(replica) = &mut self.nodes[node].replica else { return };
        if matches!(input, Input::Gathered) {
            self.gathers_in[node] = None;
            self.seen.gathered += 1;
            self.seen.gathered_in_repair += u64::from(replica.is_repairing());
        }
        let is_expected = matches!(&input, Input::HeadSeen(seen) if replica.expected().as_ref() == Some(seen));
        if is_expected && self.swallows_expected {
            return replica.found_as_expected();
        }
        let reloads = matches!(input, Input::Reloaded(_)).then(|| replica.plan().head());
        let effects = replica.handle(input);
        let is_new = reloads.is_some_and(|before| before != replica.plan().head());
        assert!(!is_expected || effects.is_empty(), "what was expected had effects: {effects:?}");
        if is_new {
            self.read_anew((node, life));
        }
        for effect in effects {
            self.perform((node, life), effect);
        }
    }

    fn perform(&mut self, life: Life, effect: Effect) {
        match effect {
            Effect::Commit { expected, batch, terms, attempt } => {
                self.offer(life, Offer { expected, batch, terms }, attempt);
            }
            Effect::Gather => {
                let before = self.gathers_in[life.0].replace(life.1);
                assert!(before < Some(life.1), "one moment at a time");
                self.after(0, 15, Event::Input(life, Input::Gathered));
            }
            Effect::Wait => self.after(HEAD_CHECK_EVERY, WAITS_FOR, Event::Input(life, Input::Waited)),
            Effect::Fetch { after } => self.question(life, Question::Fetch(after)),
            Effect::Locate => self.question(life, Question::Locate),
            Effect::Reload => self.question(life, Question::Reload),
            Effect::Revive { plan, changes, known_in } => {
                self.question(life, Question::Revive(plan, changes, known_in));
            }
            Effect::Restore { expected, batch, epoch } => {
                self.offer(life, Offer { expected, batch, terms: Terms::Restore { epoch } }, 0);
            }
            Effect::Rollback(rollback) => self.rolled_back(rollback),
            Effect::Deliver(applied) => self.deliver(life.0, &applied),
            Effect::Reset(_) => {
                self.seen.resets += 1;
                let plan = Arc::clone(self.nodes[life.0].replica.as_ref().unwrap().plan());
                for listener in self.listeners.iter_mut().filter(|listener| listener.node == Some(life.0)) {
                    listener.begin_anew(&plan);
                }
            }
            Effect::Answer { ticket, verdict } => self.answered(ticket, verdict),
            Effect::StoreSnapshot(plan) => self.after(1, 60, Event::Snapshot(plan.to_snapshot())),
            Effect::RepairStarted(cause) => *self.seen.repairs.entry(cause).or_default() += 1,
        }
    }

    fn rolled_back(&mut self, rollback: Rollback) {
        match rollback {
            Rollback::Restored { changes, .. } => self.seen.restored += changes,
            Rollback::Parted { .. } => self.seen.parted += 1,
            Rollback::Judged { lost, outcome } => {
                let key = lost.operation_key();
                match outcome {
                    Readmission::Accepted { .. } => self.seen.readmitted += 1,
                    Readmission::Known { revision } => {
                        assert!(self.log.find(&key) == Some(revision) || !self.log.lost.is_empty());
                    }
                    Readmission::Unchanged | Readmission::Refused(_) => drop(self.excused.insert(key)),
                }
            }
        }
    }

    fn offer(&mut self, from: Life, offer: Offer, attempt: u32) {
        let failed = || match offer.terms {
            Terms::Add { .. } => Event::Input(from, Input::CommitFailed),
            Terms::Restore { .. } => Event::Input(from, Input::RepairFailed),
        };
        if self.is_cut(from.0) || self.goes_wrong(self.faults.unanswered) {
            return self.after(20, 40, failed());
        }
        let pause = u64::from(attempt) * self.rng.within(0, 4);
        let answered = !self.goes_wrong(self.faults.unanswered);
        if !answered {
            // Given up before or after it reaches the log.
            self.after(5, 60, failed());
        }
        self.after(pause + 1, pause + 30, Event::Offered { from, offer: Box::new(offer), answered });
    }

    fn offered(&mut self, from: Life, offer: &Offer, answered: bool) {
        let Offer { expected, batch, terms } = offer;
        let (outcome, added) = self.log.commit(self.now, *expected, batch, terms);
        if matches!(outcome, CommitOutcome::Committed { .. }) && !added.is_empty() {
            for node in 0..NODES {
                self.publish(node, &added);
            }
        }
        if answered {
            let answer = match terms {
                Terms::Add { .. } => Input::Committed(outcome),
                Terms::Restore { .. } => Input::Restored(outcome),
            };
            self.after(1, 15, Event::Input(from, answer));
        }
    }

    fn asked(&mut self, from: Life, question: Question) {
        let answer = match question {
            Question::Fetch(after) => Input::Fetched(self.log.range(after)),
            Question::Locate => Input::Located(self.log.state()),
            Question::Reload => match self.log.open() {
                Some(opened) => Input::Reloaded(Box::new(opened)),
                None => Input::RepairFailed,
            },
            Question::Revive(plan, changes, known_in) => Input::Located(self.log.revive(&plan, &changes, known_in)),
        };
        self.after(1, 15, Event::Input(from, answer));
    }

    fn publish(&mut self, node: usize, entries: &[LogEntry]) {
        let copies = if self.goes_wrong(self.faults.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            // Messages are lost to the very end: head checks must make up for them.
            if self.rng.percent(self.faults.lost) {
                continue;
            }
            let slowest = if self.goes_wrong(self.faults.late) { 200 } else { 10 };
            self.after(1, slowest, Event::Message((node, self.nodes[node].life), entries.to_vec()));
        }
    }

    fn question(&mut self, from: Life, question: Question) {
        if self.is_cut(from.0) || self.goes_wrong(self.faults.unanswered) {
            self.after(20, 40, Event::Input(from, Input::RepairFailed));
        } else {
            self.after(1, 15, Event::Asked { from, question });
        }
    }

    fn is_cut(&self, node: usize) -> bool {
        self.now < self.nodes[node].cut_until
    }

    // ---- people ----------------------------------------------------------------------------------------------------

    fn act(&mut self, person: usize) {
        if self.people[person].to_do == 0 || self.people[person].wish.is_some() {
            return;
        }
        let mut byte = || self.rng.next() as u8;
        let mut edits = vec![edit_of((byte(), byte(), byte(), byte()))];
        if byte() % 4 == 0 {
            edits.push(edit_of((byte(), byte(), byte(), byte())));
        }
        let known = self.listeners[person].at.revision;
        let expected = self.rng.percent(20).then_some(known);
        let id = format!("{person}-{}", self.people[person].to_do);
        let since = self.log.head().revision.seq;
        self.people[person].wish = Some(Wish { id, expected, edits, attempts: 0, since });
        self.ask(person);
    }

    /// Asks (again) on any node, with the same operation id.
    fn ask(&mut self, person: usize) {
        let Some(wish) = &mut self.people[person].wish else { return };
        wish.attempts += 1;
        let wish = wish.clone();
        assert!(wish.attempts < 200, "nobody answers operation {}", wish.id);
        self.after(150, 200, Event::GiveUp { person, id: wish.id.clone(), attempt: wish.attempts });
        let node = self.rng.index(NODES);
        let ticket = Ticket(self.events_made);
        let submit = Input::Submit { ticket, operation: wish.operation(self.now), repeatable: true };
        self.tickets.insert(ticket, (person, wish));
        self.input((node, self.nodes[node].life), submit);
    }

    /// Holds a node's verdict against the log.
    fn answered(&mut self, ticket: Ticket, verdict: Verdict) {
        let (person, wish) = self.tickets.remove(&ticket).expect("an operation is answered once");
        match verdict {
            Verdict::Accepted { applied, plan } => {
                assert!(plan.revision() >= applied.revision(), "the plan that is shown has the change");
                assert_eq!(applied.change.operation_id, OperationId::new(wish.id.as_str()));
                self.told.check(&applied);
                self.seen.accepted += 1;
                self.acknowledge(&wish, applied.revision());
            }
            Verdict::Repeated { revision } => {
                self.seen.repeated += 1;
                self.acknowledge(&wish, revision);
            }
            Verdict::Refused { .. } | Verdict::Unchanged { .. } => {
                let refused = matches!(verdict, Verdict::Refused { .. });
                let (Verdict::Refused { repeat, .. } | Verdict::Unchanged { repeat, .. }) = verdict else { return };
                assert_eq!(repeat, Some(wish.key()), "what may be a repeat is looked up");
                match self.log.find(&wish.key()) {
                    Some(revision) => {
                        self.seen.repeated += 1;
                        self.acknowledge(&wish, revision);
                    }
                    None => self.check_refusal(&wish, refused),
                }
            }
            Verdict::Withdrawn => unreachable!("nobody loses a right here"),
            Verdict::Overloaded | Verdict::Unavailable => {
                self.seen.unavailable += 1;
                return; // The person gives up waiting and asks again.
            }
        }
        let current = &mut self.people[person];
        if current.wish.as_ref().is_some_and(|current| current.id == wish.id) {
            current.wish = None;
            current.to_do -= 1;
            self.after(5, 60, Event::Act(person));
        }
    }

    /// What was acknowledged is in the log, there and nowhere else.
    fn acknowledge(&mut self, wish: &Wish, revision: Revision) {
        let key = wish.key();
        let first = *self.accepted.entry(key.clone()).or_insert(revision);
        if self.was_rolled_back() {
            return; // judged at the end
        }
        assert_eq!(self.log.find(&key), Some(revision), "operation {} was acknowledged", wish.id);
        if let Some(id) = self.log.operation_at(revision) {
            assert_eq!(id.as_str(), wish.id, "another operation stands there");
        }
        assert_eq!(first, revision, "a repeat has the first result");
    }

    fn was_rolled_back(&self) -> bool {
        self.seen.rollbacks > 0
    }

    /// The log was in a state since the question that says no (or: nothing to do) as well.
    fn check_refusal(&mut self, wish: &Wish, refused: bool) {
        *(if refused { &mut self.seen.refused } else { &mut self.seen.unchanged }) += 1;
        if self.was_rolled_back() {
            return;
        }
        let operation = wish.operation(self.now);
        let since = usize::try_from(wish.since).unwrap();
        let justified = self.log.states[since..].iter().any(|plan| {
            let judgement = plan.accept(&operation, &PlanBounds::default());
            if refused { judgement.is_err() } else { judgement == Ok(None) }
        });
        assert!(justified, "no state of the log since {since} answers {wish:?} so", wish = wish.id);
    }

    // ---- listeners -------------------------------------------------------------------------------------------------

    fn deliver(&mut self, node: usize, applied: &Arc<Applied>) {
        self.told.check(applied);
        self.applied_by.entry(applied.head).or_default().insert((node, self.nodes[node].life));
        if !self.was_rolled_back() {
            let seq = usize::try_from(applied.revision().seq).unwrap();
            let truth = self.log.states.get(seq).map(Plan::head);
            assert_eq!(truth, Some(applied.head), "what is told is in the log");
        }
        for listener in self.listeners.iter_mut().filter(|listener| listener.node == Some(node)) {
            listener.see(applied);
        }
    }

    /// A listener comes to a node with what it knows.
    fn attach(&mut self, index: usize) {
        let node = self.rng.index(NODES);
        let Some(replica) = &self.nodes[node].replica else {
            return self.after(5, 30, Event::Attach(index));
        };
        let (listener, plan) = (&mut self.listeners[index], replica.plan());
        let after = listener.at.revision;
        let caught_up = match replica.catch_up(after) {
            CatchUp::Changes(changes) => Some(changes),
            CatchUp::FromLog => self.log.replay(after, plan.revision()).inspect(|_| self.seen.replays += 1),
            CatchUp::Ahead => {
                self.after(20, 60, Event::Attach(index));
                return self.input((node, self.nodes[node].life), Input::Look(Cause::Behind));
            }
            CatchUp::OtherEpoch => None,
        };
        match caught_up {
            Some(changes) => {
                // A revision has no hash: if this place was lost, and given again before a new epoch began, the node
                // can't know better.
                let is_ours = match changes.first() {
                    Some(first) => first.head.hash == chain::link(listener.at.hash, first.revision(), &first.payload),
                    None => listener.at == plan.head(),
                };
                if !is_ours {
                    listener.misled.get_or_insert(listener.at);
                }
                for applied in &changes {
                    self.told.check(applied);
                    listener.see(applied);
                }
            }
            None => listener.begin_anew(plan),
        }
        assert_eq!(listener.at.revision, plan.revision(), "caught up");
        listener.node = Some(node);
    }

    fn has_more_to_come(&self) -> bool {
        self.settled_at.is_none_or(|settled| self.now < settled + SETTLE_FOR)
    }

    fn is_calm(&self) -> bool {
        self.now >= CALM_AFTER && self.nodes.iter().all(|node| self.now >= node.cut_until)
    }

    fn goes_wrong(&mut self, percent: u64) -> bool {
        !self.is_calm() && self.rng.percent(percent)
    }

    fn after(&mut self, soonest: u64, latest: u64, event: Event) {
        let delay = self.rng.within(soonest, latest);
        self.events_made += 1;
        self.events.insert((self.now + delay, self.events_made), event);
    }
}

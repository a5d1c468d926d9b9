//! How a project's actor ends and begins anew, and that nobody it serves notices.

use mille_core::presence::{Event, Join, SeatId};
use mille_shared::log::ChainHash;
use mille_shared::presence::{DocumentId, Status};
use serde_json::Value;

use super::*;
use crate::beat::{self, BEAT};
use crate::pressure::Pressure;
use crate::project::command::Command;
use crate::project::presence::{OutboxReader, Outgoing, PresenceCommand, outbox};
use crate::vigil::{Findings, STUCK_LOOKS};

/// Somebody who is present, and what they were told.
struct Person {
    reader: OutboxReader,
    frames: Vec<Value>,
    ended: bool,
}

impl Person {
    async fn join(project: &ProjectHandle, user: &str) -> Self {
        let (outbox, reader) = outbox(&Pressure::default());
        let seat = SeatId(rand::random());
        let join = Join {
            seat,
            connection: ConnectionId::new(format!("c{}", seat.0)),
            user: UserId::new(user),
            name: user.into(),
            color: "#123".into(),
            agent: false,
            document: Some(DocumentId::new("plan")),
            resume: None,
            secret: [3; 32],
            is_welcomed: false,
        };
        project.presence(PresenceCommand::Join { join: Box::new(join), outbox }).await.expect("a mailbox");
        // Whoever says that they are away does not become idle: nothing is told of them by itself.
        project.presence(PresenceCommand::UpdateStatus { seat, status: Status::Away }).await.expect("a mailbox");
        Self { reader, frames: Vec::new(), ended: false }
    }

    /// Takes what waits.
    fn look(&mut self) -> &[Value] {
        while let Some(outgoing) = self.reader.try_next().filter(|_| !self.ended) {
            match outgoing {
                Outgoing::Frame(text) => self.frames.push(serde_json::from_slice(&text).expect("a frame")),
                Outgoing::Close(..) | Outgoing::Ended => self.ended = true,
                Outgoing::Behind => panic!("behind"),
            }
        }
        &self.frames
    }

    /// What came of a type since the last time it was asked for.
    fn news(&mut self, kind: &str) -> Vec<Value> {
        self.look();
        let (found, rest) = self.frames.drain(..).partition(|frame| frame["type"] == kind);
        self.frames = rest;
        found
    }
}

/// Two people in one project, at two nodes, each knowing the other.
async fn two_people(node: &TestNode, here: &ProjectHandle, there: &ProjectHandle) -> (Person, Person) {
    let access = node.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    node.projects.set_member(&access, &UserId::new("bob"), Role::Viewer).await.expect("a member");
    eventually("bob is known", async || there.members().role_of(&UserId::new("bob")).is_some()).await;
    let (mut una, mut dos) = (Person::join(here, "ada").await, Person::join(there, "bob").await);
    eventually("both are known on both nodes", async || connections(here).await == 2 && connections(there).await == 2)
        .await;
    // Whatever was to be said of it is said.
    sleep(Duration::from_secs(10)).await;
    for person in [&mut una, &mut dos] {
        person.news("user_presence");
    }
    (una, dos)
}

async fn connections(project: &ProjectHandle) -> usize {
    let (reply, answer) = tokio::sync::oneshot::channel();
    project.presence(PresenceCommand::Census { reply }).await.expect("a mailbox");
    answer.await.map_or(0, |census| census.total.connections)
}

fn retired(node: &TestNode, cause: &str) -> u64 {
    let text = node.projects.metrics().render();
    let line = format!("actors_retired_total{{cause=\"{cause}\"}} ");
    text.lines().find_map(|text| text.strip_prefix(&line)).and_then(|count| count.parse().ok()).expect("the metric")
}

fn runs(project: &ProjectHandle) -> bool {
    !project.commands.is_closed()
}

#[tokio::test(start_paused = true)]
async fn a_project_that_nobody_uses_stays_for_its_time_and_then_goes() {
    let (one, two, here, _, _) = pair().await;
    let una = Person::join(&here, "ada").await;
    sleep(2 * IDLE_TIMEOUT).await;
    assert!(runs(&here), "somebody is present");
    drop(una);
    sleep(IDLE_TIMEOUT).await;
    assert!(runs(&here), "since they left, not since they came");
    sleep(Duration::from_secs(60)).await;
    assert!(!runs(&here));
    assert_eq!(retired(&one, "idle"), 1);
    assert!(one.projects.metrics().render().contains("channels_idle_cleaned_total 1"), "its channel is let go of");
    let again = one.enter(here.id()).await;
    assert!(again.refresh().await.is_ok(), "it comes back when somebody asks");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_was_at_a_node_that_died_is_not_seen_where_the_project_begins_afterwards() {
    let store = Embedded::new();
    let one = TestNode::start(&store, "one").await;
    let here = one.projects.create_project("p", None, &ada()).await.expect("a project").project;
    let _una = Person::join(&here, "ada").await;
    eventually("the store has her", async || {
        one.backend
            .presence
            .load(here.id())
            .await
            .is_ok_and(|tables| tables.iter().any(|(_, people)| !people.is_empty()))
    })
    .await;
    // Its table and what it says are there as long as it is only thought to be dead.
    let dead = [NodeId::of("one", "1")];
    let two = TestNode::start(&store, "two").await;
    two.projects.nodes_gone(&dead);
    let there = two.enter(here.id()).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(connections(&there).await, 0);
    two.projects.nodes_back(&dead);
    eventually("it is believed again", async || connections(&there).await == 1).await;

    let three = TestNode::start(&store, "three").await;
    three.projects.nodes_gone(&dead);
    three.projects.nodes_back(&dead);
    let there = three.enter(here.id()).await;
    eventually("it only seemed dead", async || connections(&there).await == 1).await;
    for node in [one, two, three] {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_project_begins_anew_and_nobody_it_serves_notices() {
    let (one, two, here, there, plan) = pair().await;
    let (mut una, mut dos) = two_people(&one, &here, &there).await;
    let mut events = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    let mut seen = 0;
    let started = tokio::time::Instant::now();
    while retired(&one, "recycled") < 3 {
        seen += 1;
        let name = format!("n{seen}");
        there.submit(plan, rename(&name, &name), true).await.expect("an edit");
        let event = timeout(Duration::from_secs(30), events.next()).await.expect("soon").expect("an event");
        assert!(matches!(&event, PlanEvent::Changed(applied) if applied.revision().seq == seen), "{seen}: {event:?}");
        sleep(Duration::from_secs(600)).await;
    }
    let lives = started.elapsed().as_secs_f64() / LIFETIME.as_secs_f64();
    assert!((2.6..3.1).contains(&lives), "three lives took {lives} lifetimes");
    for person in [&mut una, &mut dos] {
        assert!(!person.ended);
        assert_eq!(person.news("user_presence"), Vec::<Value>::new());
        assert_eq!(person.news("bulk_presence").len(), 1, "that of the join");
    }
    assert_eq!((connections(&here).await, connections(&there).await), (2, 2));
    one.stop().await;
    two.stop().await;
}

/// Makes the project fail, and looks whether its people and listeners are served on, whole.
async fn fails_and_goes_on(cause: impl AsyncFnOnce(&TestNode, &ProjectHandle, PlanId)) {
    let (one, two, here, there, plan) = pair().await;
    let other = one.projects.create_project("other", None, &ada()).await.expect("a project").project;
    let other_plan = other.plan_id(None).await.expect("a plan");
    let mut others = other.follow(other_plan, &ada(), Start::Next, false).await.expect("follow");
    let (mut una, mut dos) = two_people(&one, &here, &there).await;
    una.news("bulk_presence");
    let mut events = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    let (reply, answer) = tokio::sync::oneshot::channel();
    here.presence(PresenceCommand::Watch { reply }).await.expect("a mailbox");
    let mut watch = answer.await.expect("a watch");
    rename_often(&here, plan, "n", 2).await;

    cause(&one, &here, plan).await;
    eventually("it failed", async || retired(&one, "panicked") == 1).await;
    rename_often(&there, plan, "m", 2).await;
    for seq in 1..=4 {
        let event = timeout(Duration::from_secs(30), events.next()).await.expect("soon").expect("an event");
        assert!(matches!(&event, PlanEvent::Changed(applied) if applied.revision().seq == seq), "{seq}: {event:?}");
    }
    sleep(Duration::from_secs(30)).await;
    assert_eq!(una.news("bulk_presence").len(), 1, "the whole picture again");
    for person in [&mut una, &mut dos] {
        assert!(!person.ended);
        assert_eq!(person.news("user_presence"), Vec::<Value>::new(), "nobody left or came");
    }
    assert!(runs(&here) && connections(&here).await == 2 && connections(&there).await == 2);
    let access = one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    one.projects.set_member(&access, &UserId::new("cyd"), Role::Viewer).await.expect("a member");
    let joined = Person::join(&here, "cyd").await;
    eventually("who comes later is seen elsewhere", async || connections(&there).await == 3).await;
    let event = timeout(Duration::from_secs(1), watch.next()).await.expect("soon");
    assert!(matches!(&event, Ok(Event::Joined { user, .. }) if user.as_str() == "cyd"), "{event:?}");
    drop(joined);

    rename_often(&other, other_plan, "o", 1).await;
    assert!(matches!(others.next().await, Ok(PlanEvent::Changed(applied)) if applied.revision().seq == 1));
    assert_eq!(retired(&one, "panicked"), 1, "no other project begins anew");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_project_that_fails_begins_anew_with_its_sockets_and_touches_no_other() {
    fails_and_goes_on(async |_, here, _| here.commands.send(Command::Fail).await.expect("a mailbox")).await;
}

#[tokio::test(start_paused = true)]
async fn so_does_one_of_whose_jobs_fails() {
    fails_and_goes_on(async |one, here, plan| {
        one.log.is_faulty.store(true, Ordering::Relaxed);
        assert!(here.read(plan).await.is_err(), "whoever waited for it is told");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn so_does_one_whose_task_of_presence_fails() {
    fails_and_goes_on(async |one, here, _| {
        one.tables.is_faulty.store(true, Ordering::Relaxed);
        here.commands.send(Command::PresenceLost).await.expect("a mailbox");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_delays_no_project_that_begins_anew() {
    let (one, two, here, _, _) = pair().await;
    let _una = Person::join(&here, "ada").await;
    assert_eq!(connections(&here).await, 1);
    sleep(Duration::from_secs(1)).await;
    one.backend.presence.clear(here.id(), &NodeId::of("one", "1")).await.expect("cleared");
    one.tables.is_hung.store(true, Ordering::Relaxed);
    here.commands.send(Command::PresenceLost).await.expect("a mailbox");
    sleep(Duration::from_secs(1)).await;
    let failed = tokio::time::Instant::now();
    here.fail().await;
    assert_eq!(connections(&here).await, 1);
    assert!(failed.elapsed() < Duration::from_millis(100), "{:?}", failed.elapsed());
    one.tables.is_hung.store(false, Ordering::Relaxed);
    eventually("once it answers, it is told", async || {
        let tables = one.backend.presence.load(here.id()).await.expect("tables");
        tables.iter().map(|(_, fields)| fields.len()).sum::<usize>() == 1
    })
    .await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_table_that_ended_and_began_anew_with_a_newcomer_is_made_whole() {
    let (one, two, here, _, _) = pair().await;
    let stored = async || {
        let tables = one.backend.presence.load(here.id()).await.expect("tables");
        tables.iter().map(|(_, fields)| fields.len()).sum::<usize>()
    };
    let _una = Person::join(&here, "ada").await;
    eventually("ada is stored", async || stored().await == 1).await;
    one.tables.is_unrenewable.store(true, Ordering::Relaxed);
    sleep(limits::NODE_LEASE).await;
    assert_eq!(stored().await, 0, "it ended");
    let _dos = Person::join(&here, "ada").await;
    eventually("the newcomer is stored", async || stored().await == 1).await;
    one.tables.is_unrenewable.store(false, Ordering::Relaxed);
    eventually("both are", async || stored().await == 2).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_done_in_a_project_shows_in_its_people_and_is_counted() {
    let (one, two, here, there, plan) = pair().await;
    let una = Person::join(&here, "ada").await;
    let last_active = async || {
        let (reply, answer) = tokio::sync::oneshot::channel();
        here.presence(PresenceCommand::Users { reply }).await.expect("a mailbox");
        answer.await.expect("users")[0].last_active
    };
    let _events = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    // People's times are those of the wall, which does not pause.
    for (through, word) in [(&here, "n"), (&there, "m")] {
        let before = last_active().await;
        let mut edits = 0;
        eventually("an edit is an activity, through whichever node", async || {
            edits += 1;
            rename_often(through, plan, &format!("{word}{edits}."), 1).await;
            last_active().await > before
        })
        .await;
    }
    let counted = |text: &str| one.projects.metrics().render().lines().any(|line| line.ends_with(text));
    assert!(counted("presence_members 1"));
    drop(una);
    eventually("the grace is over", async || connections(&here).await == 0).await;
    assert!(counted("presence_members 0") && counted("expiries_total{cause=\"grace\"} 1"));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_to_a_plan_that_can_not_be_opened_waits_for_it() {
    let (one, two, here, there, plan) = pair().await;
    let mut events = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    let place = Place::from(here.read(plan).await.expect("a plan").head());
    let mut for_many = Following::for_many(here.clone(), plan, place, Arc::default());
    let members_changed = async |for_many: &mut Following| {
        matches!(timeout(Duration::from_secs(2), for_many.next()).await, Ok(Ok(PlanEvent::MembersChanged)))
    };
    assert!(members_changed(&mut for_many).await, "when it attaches");
    one.log.is_unreadable.store(true, Ordering::Relaxed);
    here.commands.send(Command::Fail).await.expect("a mailbox");
    eventually("it failed", async || retired(&one, "panicked") == 1).await;
    assert!(timeout(Duration::from_secs(10), events.next()).await.is_err(), "neither told nor ended");
    for _ in 0..10 {
        assert!(members_changed(&mut for_many).await, "rights are judged meanwhile");
    }
    one.log.is_unreadable.store(false, Ordering::Relaxed);
    rename_often(&there, plan, "n", 1).await;
    let event = timeout(Duration::from_secs(10), events.next()).await.expect("soon");
    assert!(matches!(&event, Ok(PlanEvent::Changed(applied)) if applied.revision().seq == 1), "{event:?}");

    one.log.is_unreadable.store(true, Ordering::Relaxed);
    here.commands.send(Command::Fail).await.expect("a mailbox");
    let ended = timeout(Duration::from_secs(120), events.next()).await.expect("not for ever");
    assert_eq!(ended.err(), Some(Ended::Stopping), "another node may serve");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_from_another_history_is_told_nothing_of_this_ones_past_while_the_plan_can_not_be_opened() {
    let (one, two, here, _, plan) = pair().await;
    let first = here.submit(plan, rename("first", "a"), true).await.expect("an edit").revision;
    rename_often(&here, plan, "n", limits::RING_CHANGES_MAX + limits::LOG_PAGE_ENTRIES).await;
    let place = Place { revision: first, known: Some(ChainHash([7; 8])) };
    let mut listener = Following::resumed(here.clone(), plan, &ada(), place);
    listener.attached().await.expect("attached");
    one.log.is_unopenable.store(true, Ordering::Relaxed);
    here.commands.send(Command::Fail).await.expect("a mailbox");
    eventually("it failed", async || retired(&one, "panicked") == 1).await;
    // The past can be read, page by page, and is not what this listener's place is in.
    let told = timeout(Duration::from_secs(10), listener.next()).await;
    assert!(told.is_err(), "{told:?}");
    one.log.is_unopenable.store(false, Ordering::Relaxed);
    let told = timeout(Duration::from_secs(10), listener.next()).await.expect("soon");
    assert!(matches!(told, Ok(PlanEvent::Snapshot { .. })), "{told:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_project_listened_to_is_let_go_of() {
    let (one, two, here, _, plan) = pair().await;
    here.read(plan).await.expect("a plan");
    assert_eq!(one.bridge.open_plans(), 1);
    here.commands.send(Command::Fail).await.expect("a mailbox");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(one.bridge.open_plans(), 0);
    assert!(one.projects.metrics().render().contains("channels_idle_cleaned_total 1"));
    one.stop().await;
    two.stop().await;
}

/// A plan is open again before the life that had it open before is over and swept.
#[tokio::test(start_paused = true)]
async fn a_plan_that_goes_on_in_another_life_is_let_go_of_when_it_closes() {
    let (one, two, here, _, plan) = pair().await;
    here.read(plan).await.expect("a plan");
    for _ in 0..2 {
        here.commands.send(Command::Fail).await.expect("a mailbox");
        here.read(plan).await.expect("the plan again");
        sleep(Duration::from_secs(20)).await;
        assert_eq!(one.bridge.open_plans(), 1);
    }
    sleep(limits::PLAN_LINGER * 2).await;
    assert_eq!(one.bridge.open_plans(), 0);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_project_that_fails_again_and_again_is_given_up_and_its_sockets_may_come_back() {
    let (one, two, here, there, plan) = pair().await;
    let (mut una, mut dos) = two_people(&one, &here, &there).await;
    for _ in 0..4 {
        here.commands.send(Command::Fail).await.expect("a mailbox");
    }
    eventually("it is given up", async || !runs(&here)).await;
    assert_eq!((retired(&one, "panicked"), retired(&one, "failed")), (3, 1));
    una.look();
    assert!(una.ended, "the socket is closed");
    let again = one.enter(here.id()).await;
    assert!(again.read(plan).await.is_ok());
    let mut back = Person::join(&again, "ada").await;
    eventually("they are back", async || connections(&there).await >= 2).await;
    assert!(
        !back.news("bulk_presence").is_empty() && dos.look().iter().all(|frame| frame["data"]["isOnline"] != false)
    );
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_in_the_mailbox_of_a_project_that_is_given_up_is_told() {
    let (one, two, here, _, _) = pair().await;
    connections(&here).await;
    for _ in 0..4 {
        here.commands.try_send(Command::Fail).expect("room");
    }
    // The door is open, so they are let in, as far as their session knows.
    let mut late = Person::join(&here, "ada").await;
    eventually("it is given up", async || !runs(&here)).await;
    late.look();
    assert!(late.ended, "the socket waits for a welcome that never comes: {:?}", late.frames);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_anew_while_the_store_can_not_be_read() {
    let (one, two, here, _, plan) = pair().await;
    let mut events = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    rename_often(&here, plan, "n", 3).await;
    for _ in 0..3 {
        events.next().await.expect("an event");
    }
    sleep(LIFETIME.mul_f64(0.89)).await;
    // The log loses its end, and nobody can see it.
    one.log.is_unreadable.store(true, Ordering::Relaxed);
    lose_all_but_the_beginning(&one, plan).await;
    sleep(LIFETIME.mul_f64(0.2)).await;
    assert_eq!(retired(&one, "recycled"), 0, "this node alone remembers");
    assert!(timeout(Duration::from_secs(1), events.next()).await.is_err(), "the listener listens on");
    assert!(here.read(plan).await.is_ok(), "what is known is told");

    one.log.is_unreadable.store(false, Ordering::Relaxed);
    eventually("it is at rest and begins anew", async || retired(&one, "recycled") == 1).await;
    let plan = here.read(plan).await.expect("a plan");
    assert_eq!((plan.metadata().name.as_deref(), plan.revision().seq), (Some("n3"), 3));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_while_a_project_begins_anew_is_answered() {
    let common = beat::within(2 * BEAT);
    let (one, two, here, _, plan) = pair().await;
    let _events = here.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    rename_often(&here, plan, "n", 1).await;
    // The sweeps are at common moments. Reads are under way at each from the first that may find it old.
    let beats_in_a_life = u32::try_from(LIFETIME.as_millis() / BEAT.as_millis()).expect("a count");
    for beat in beats_in_a_life / 10 * 9 - 200.. {
        tokio::time::sleep_until(common + BEAT * beat - Duration::from_millis(3)).await;
        for _ in 0..8 {
            let read = timeout(Duration::from_secs(600), here.read(plan)).await.expect("an answer");
            assert!(read.is_ok(), "{:?}", read.err());
        }
        if retired(&one, "recycled") > 0 {
            break;
        }
        assert!(beat < 289_000, "it never began anew");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_has_nothing_to_do_is_not_taken_for_one_that_hangs() {
    let node = TestNode::start(&Embedded::new(), "a").await;
    let (metrics, looking) = (node.projects.metrics(), CancellationToken::new());
    tokio::spawn(metrics.vigil.clone().keep(looking.clone()));
    node.projects.create_project("harbour", None, &ada()).await.expect("a project");
    sleep(Duration::from_secs(3 * u64::from(STUCK_LOOKS))).await;
    assert_eq!(metrics.vigil.findings(), Findings { actors: 1, ..Findings::default() });
    looking.cancel();
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_full_mailbox_has_no_room_for_is_counted() {
    let (one, two, here, _, plan) = pair().await;
    let progress = halfway(Revision { epoch: 1, seq: 0 });
    // Nothing awaits in between, so the actor takes none of it out.
    for _ in 0..=limits::MAILBOX_COMMANDS_MAX {
        here.report_progress(plan, progress.clone());
    }
    let refused = here.presence_move(PresenceCommand::Ping { seat: SeatId(1) });
    assert!(matches!(refused, Err(PresenceCommand::Ping { seat: SeatId(1) })), "it comes back");
    let text = one.projects.metrics().render();
    assert!(text.contains("\nexecution_progress_dropped_total 1\n"), "{text}");
    assert!(text.contains("\ncursors_dropped_total 1\n"), "{text}");
    one.stop().await;
    two.stop().await;
}

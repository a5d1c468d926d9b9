//! The part as its actor uses it, over the embedded backend: two nodes, one store, one channel.

use std::time::Duration;

use mille_core::presence::Join;
use mille_shared::ConnectionId;
use mille_shared::presence::client::{CursorUpdate, Secret};
use mille_shared::presence::{DocumentId, DocumentType, Position};
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::*;
use crate::backend::embedded::Embedded;
use crate::backend::{Backend, Channel, Incoming};

struct Node {
    part: PresencePart,
    incoming: tokio::sync::mpsc::Receiver<Incoming>,
    _backend: Backend,
}

impl Node {
    async fn start(store: &Embedded, name: &str) -> Self {
        let backend = store.connect();
        backend.pubsub.subscribe(Channel::Project(ProjectId(1))).await.unwrap();
        let (store, pubsub) = (Arc::clone(&backend.presence), Arc::clone(&backend.pubsub));
        let around = Surroundings { store, pubsub, metrics: Arc::default(), tasks: TaskTracker::new() };
        let part = PresencePart::new(ProjectId(1), NodeId::of(name, "1"), around, PresenceSettings::default());
        Self { part, incoming: backend.pubsub.incoming().unwrap(), _backend: backend }
    }

    /// What the actor's loop does, for as long as `until` wants nothing else.
    async fn run<T>(&mut self, until: impl Future<Output = T>) -> T {
        tokio::pin!(until);
        loop {
            let deadline = self.part.next_deadline().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                done = &mut until => return done,
                Some(incoming) = self.incoming.recv() => match incoming {
                    Incoming::Message { payload, .. } => self.part.heard(&payload),
                    Incoming::Interrupted { .. } => self.part.interrupted(),
                },
                answer = self.part.answer() => self.part.handle_answer(answer),
                () = tokio::time::sleep_until(deadline) => self.part.wake(Instant::now()),
            }
        }
    }

    fn join(&mut self, seat: u64, user: &str, resume: Option<&str>) -> OutboxReader {
        let (outbox, reader) = outbox(&self.part.around.metrics.pressure);
        let join = Join {
            seat: SeatId(seat),
            connection: ConnectionId::new(format!("c{seat}")),
            user: UserId::new(user),
            name: user.into(),
            color: "#123".into(),
            agent: false,
            document: None,
            resume: resume.map(|token| Secret::new(token.to_owned())),
            secret: [3; 32],
            is_welcomed: false,
        };
        self.part.handle(PresenceCommand::Join { join: Box::new(join), outbox });
        reader
    }
}

fn open(seat: SeatId, document: &str) -> PresenceCommand {
    PresenceCommand::SwitchDocument { seat, document: DocumentId::new(document), kind: DocumentType::Canvas }
}

fn move_to(seat: SeatId, x: f64) -> PresenceCommand {
    let update = CursorUpdate {
        document: DocumentId::new("plan"),
        kind: DocumentType::Canvas,
        position: Position::Canvas { x, y: 0.0, zoom: None },
        selected: None,
        timestamp_ms: 1,
    };
    PresenceCommand::MoveCursor { seat, update: Box::new(update) }
}

/// Lets everything under way between two nodes arrive: in paused time a moment is as good as any state.
async fn settle(here: &mut Node, there: &mut Node) {
    let moment = Duration::from_millis(100);
    tokio::join!(here.run(tokio::time::sleep(moment)), there.run(tokio::time::sleep(moment)));
}

async fn frame(reader: &mut OutboxReader, kind: &str) -> Value {
    loop {
        match reader.next().await {
            Outgoing::Frame(text) => {
                let frame: Value = serde_json::from_slice(&text).unwrap();
                if frame["type"] == kind {
                    return frame["data"].clone();
                }
            }
            other => panic!("{other:?} instead of {kind}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn people_of_two_nodes_see_each_other_and_a_resume_on_the_other_node_is_seen_by_nobody() {
    let store = Embedded::new();
    let (mut here, mut there) = (Node::start(&store, "a").await, Node::start(&store, "b").await);
    let mut una = here.join(1, "una", None);
    let token = here.run(frame(&mut una, "welcome")).await["resumeToken"].as_str().unwrap().to_owned();
    settle(&mut here, &mut there).await;
    let mut dos = there.join(11, "dos", None);
    let both =
        async { tokio::join!(here.run(frame(&mut una, "user_presence")), there.run(frame(&mut dos, "bulk_presence"))) };
    let (seen, bulk) = both.await;
    assert_eq!((seen["userId"].as_str(), bulk.as_array().map(Vec::len)), (Some("dos"), Some(2)));

    drop(una);
    here.run(tokio::time::sleep(Duration::from_secs(3))).await;
    let mut una = there.join(12, "una", Some(&token));
    there.run(frame(&mut una, "bulk_presence")).await;
    let quiet = Duration::from_secs(30);
    tokio::join!(here.run(tokio::time::sleep(quiet)), there.run(tokio::time::sleep(quiet)));
    while let Some(Outgoing::Frame(text)) = dos.try_next() {
        let text = str::from_utf8(&text).unwrap();
        assert!(!text.contains("user_presence") || text.contains("idle"), "{text}");
    }
    assert_eq!((here.part.connections(), there.part.connections()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_vanishes_is_noticed_and_leaves_after_the_grace() {
    let store = Embedded::new();
    let mut here = Node::start(&store, "a").await;
    let (mut una, dos) = (here.join(1, "una", None), here.join(2, "dos", None));
    here.run(frame(&mut una, "user_presence")).await;
    drop(dos);
    let left = here.run(frame(&mut una, "user_presence")).await;
    assert_eq!((left["userId"].as_str(), left["isOnline"].as_bool()), (Some("dos"), Some(false)));
}

#[tokio::test(start_paused = true)]
async fn who_went_while_the_node_stood_still_does_not_come_back_for_the_grace() {
    let store = Embedded::new();
    let (mut here, mut there) = (Node::start(&store, "a").await, Node::start(&store, "b").await);
    let (una, mut dos) = (here.join(1, "una", None), here.join(2, "dos", None));
    let mut tre = there.join(11, "tre", None);
    here.run(frame(&mut dos, "bulk_presence")).await;
    there.run(frame(&mut tre, "bulk_presence")).await;
    settle(&mut here, &mut there).await;
    // The one stands still, and the others notice that its lease has ended.
    there.run(tokio::time::sleep(2 * limits::NODE_LEASE)).await;
    there.part.nodes_gone(&[NodeId::of("a", "1")]);
    while tre.try_next().is_some() {}
    // It goes on. Of two sockets one has ended meanwhile.
    drop(una);
    let noticed = Duration::from_secs(2);
    tokio::join!(here.run(tokio::time::sleep(noticed)), there.run(tokio::time::sleep(noticed)));
    there.part.nodes_back(&[NodeId::of("a", "1")]);
    let back = async {
        tokio::join!(here.run(tokio::time::sleep(Duration::from_secs(3))), there.run(frame(&mut tre, "user_presence")))
    };
    assert_eq!(back.await.1["userId"], "dos");
    assert_eq!(here.part.connections(), 1);
    settle(&mut here, &mut there).await;
    while let Some(Outgoing::Frame(text)) = tre.try_next() {
        assert!(!str::from_utf8(&text).unwrap().contains("una"), "a ghost");
    }
    // From then on there is a grace again.
    drop(dos);
    here.run(tokio::time::sleep(Duration::from_secs(5))).await;
    assert_eq!(here.part.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_room_that_is_larger_than_an_outbox_is_shown_whole_and_asked_for_once() {
    let store = Embedded::new();
    let mut here = Node::start(&store, "a").await;
    let (una, dos) = ("una".repeat(limits::OUTBOX_BYTES_MAX / 8), "dos".repeat(limits::OUTBOX_BYTES_MAX / 8));
    let (mut una, mut dos) = (here.join(1, &una, None), here.join(2, &dos, None));
    let first = here.run(una.next()).await;
    let kinds = |reader: &mut OutboxReader| -> Vec<String> {
        let kind = |outgoing| match outgoing {
            Outgoing::Frame(text) => {
                let frame: Value = serde_json::from_slice(&text).unwrap();
                frame["type"].as_str().unwrap().to_owned()
            }
            other => format!("{other:?}"),
        };
        std::iter::from_fn(|| reader.try_next()).map(kind).collect()
    };
    assert!(matches!(first, Outgoing::Frame(_)), "{first:?}");
    assert_eq!(kinds(&mut dos), ["welcome", "bulk_presence"]);
    for seat in [SeatId(1), SeatId(2)] {
        here.part.handle(open(seat, "plan"));
    }
    here.run(tokio::time::sleep(Duration::from_secs(1))).await;
    kinds(&mut una);
    for _ in 0..2 {
        here.part.handle(PresenceCommand::Refresh { seat: SeatId(1) });
        assert_eq!(kinds(&mut una), ["bulk_presence", "throttle", "document_activity"]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_left_or_went_elsewhere_leaves_no_cursor_behind() {
    for ticks in [1, 2] {
        for goes_elsewhere in [false, true] {
            let store = Embedded::new();
            let mut here = Node::start(&store, "a").await;
            let (_una, mut dos) = (here.join(1, "una", None), here.join(2, "dos", None));
            for seat in [SeatId(1), SeatId(2)] {
                here.part.handle(open(seat, "plan"));
            }
            here.run(tokio::time::sleep(Duration::from_secs(1))).await;
            while dos.try_next().is_some() {}
            for tick in 0..ticks {
                here.part.handle(move_to(SeatId(1), tick.into()));
                here.run(tokio::time::sleep(Duration::from_millis(100))).await;
            }
            let goes =
                if goes_elsewhere { open(SeatId(1), "other") } else { PresenceCommand::Leave { seat: SeatId(1) } };
            here.part.handle(goes);
            let kind = |outgoing| match outgoing {
                Outgoing::Frame(text) => {
                    serde_json::from_slice::<Value>(&text).unwrap()["type"].as_str().unwrap().to_owned()
                }
                other => panic!("{other:?}"),
            };
            let told: Vec<String> = std::iter::from_fn(|| dos.try_next()).map(kind).collect();
            assert_eq!(told.last().map(String::as_str), Some("user_presence"), "{told:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_no_member_any_more_is_shown_out() {
    let store = Embedded::new();
    let mut here = Node::start(&store, "a").await;
    let (mut una, mut dos) = (here.join(1, "una", None), here.join(2, "dos", None));
    here.run(frame(&mut una, "user_presence")).await;
    here.part.membership_changed(|user| (user.as_str() == "una").then_some(Role::Viewer));
    let end = async {
        loop {
            if let Outgoing::Close(code, _) = dos.next().await {
                return code;
            }
        }
    };
    assert_eq!(here.run(end).await, CloseCode::Forbidden);
    assert_eq!(here.run(frame(&mut una, "user_presence")).await["isOnline"], false);
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_right_while_they_wait_to_be_let_in_is_not_let_in() {
    let store = Embedded::new();
    let mut here = Node::start(&store, "a").await;
    let (mut una, mut dos) = (here.join(1, "una", None), here.join(2, "dos", None));
    // Nothing ran yet: both wait for the roster.
    here.part.membership_changed(|user| (user.as_str() == "una").then_some(Role::Viewer));
    assert_eq!(here.run(dos.next()).await, Outgoing::Close(CloseCode::Forbidden, NO_MEMBER));
    let roster = here.run(frame(&mut una, "bulk_presence")).await;
    assert_eq!(roster.as_array().map(Vec::len), Some(1), "{roster}");
}

/// The user that a roster shows, if there is one alone.
fn only(roster: &Value) -> &Value {
    let users = roster.as_array().unwrap();
    assert_eq!(users.len(), 1, "{roster}");
    &users[0]
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_before_it_is_known_who_is_there_is_not_lost_among_moves() {
    let store = Embedded::new();
    let mut here = Node::start(&store, "a").await;
    let mut una = here.join(1, "una", None);
    for (document, last) in [("plan", 5_000), ("other", 0), ("plan", 6_000)] {
        here.part.handle(open(SeatId(1), document));
        for x in 1..=last {
            here.part.handle(move_to(SeatId(1), x.into()));
        }
    }
    let status = mille_shared::presence::Status::Away;
    here.part.handle(PresenceCommand::UpdateStatus { seat: SeatId(1), status });
    here.run(frame(&mut una, "bulk_presence")).await;
    here.run(tokio::time::sleep(Duration::from_millis(1))).await;
    here.part.handle(PresenceCommand::Refresh { seat: SeatId(1) });
    let roster = here.run(frame(&mut una, "bulk_presence")).await;
    let una = only(&roster);
    assert_eq!((una["status"].as_str(), &una["documents"]["plan"]["position"]["x"]), (Some("away"), &6_000.0.into()));
}

#[tokio::test(start_paused = true)]
async fn who_asks_too_much_before_it_is_known_who_is_there_is_sent_away_and_nobody_else() {
    let store = Embedded::new();
    let mut here = Node::start(&store, "a").await;
    let (mut una, mut dos, mut tre) = (here.join(1, "una", None), here.join(2, "dos", None), here.join(3, "tre", None));
    (0..2 * limits::MAILBOX_COMMANDS_MAX).for_each(|_| here.part.handle(PresenceCommand::Ping { seat: SeatId(2) }));
    here.part.handle(PresenceCommand::Leave { seat: SeatId(3) });
    assert_eq!(here.run(dos.next()).await, Outgoing::Close(CloseCode::TryAgainLater, "too much is asked at once"));
    here.run(frame(&mut una, "bulk_presence")).await;
    here.run(frame(&mut tre, "bulk_presence")).await;
    here.part.handle(PresenceCommand::Refresh { seat: SeatId(1) });
    assert_eq!(only(&here.run(frame(&mut una, "bulk_presence")).await)["userId"], "una");
    let (reply, answer) = tokio::sync::oneshot::channel();
    here.part.handle(PresenceCommand::Census { reply });
    assert_eq!(answer.await.unwrap().total.connections, 1);
}

#[tokio::test(start_paused = true)]
async fn of_more_than_can_wait_to_be_let_in_those_who_come_last_are_sent_away_and_whoever_leaves_has_left() {
    let store = Embedded::new();
    let mut here = Node::start(&store, "a").await;
    let seats = limits::MAILBOX_COMMANDS_MAX as u64;
    let mut readers: Vec<OutboxReader> = (1..=seats + 1).map(|seat| here.join(seat, "una", None)).collect();
    let last = readers.last_mut().unwrap().try_next();
    assert_eq!(last, Some(Outgoing::Close(CloseCode::TryAgainLater, "too many join at once")));
    (2..=seats + 1).for_each(|seat| here.part.handle(PresenceCommand::Leave { seat: SeatId(seat) }));
    here.run(frame(&mut readers[0], "bulk_presence")).await;
    assert_eq!(here.part.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_with_a_hint_and_nobody_elsewhere_sees_a_leave() {
    let store = Embedded::new();
    let (mut here, mut there) = (Node::start(&store, "a").await, Node::start(&store, "b").await);
    let mut una = here.join(1, "una", None);
    here.run(frame(&mut una, "bulk_presence")).await;
    settle(&mut here, &mut there).await;
    let mut dos = there.join(11, "dos", None);
    there.run(frame(&mut dos, "bulk_presence")).await;
    settle(&mut here, &mut there).await;
    while dos.try_next().is_some() {}
    here.part.drain();
    let end = async {
        loop {
            if let Outgoing::Close(code, _) = una.next().await {
                return code;
            }
        }
    };
    assert_eq!(here.run(end).await, CloseCode::ServiceRestart);
    there.run(tokio::time::sleep(Duration::from_secs(5))).await;
    there.part.nodes_gone(&[NodeId::of("a", "1")]);
    assert_eq!(dos.try_next(), None, "the hand-over made a noise");
    let left = there.run(frame(&mut dos, "user_presence")).await;
    assert_eq!(left["isOnline"], false, "who does not come back leaves in the end");
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_where_nobody_is_is_told_what_happened_since() {
    let store = Embedded::new();
    let (mut here, mut there) = (Node::start(&store, "a").await, Node::start(&store, "b").await);
    let mut una = here.join(1, "una", None);
    here.run(frame(&mut una, "bulk_presence")).await;
    for x in [1.0, 2.0] {
        here.part.handle(move_to(SeatId(1), x));
        settle(&mut here, &mut there).await;
        let (reply, answer) = tokio::sync::oneshot::channel();
        there.part.handle(PresenceCommand::Users { reply });
        let users = tokio::select! {
            users = there.run(answer) => users.unwrap(),
            () = here.run(std::future::pending()) => unreachable!(),
        };
        let position = Position::Canvas { x, y: 0.0, zoom: None };
        assert_eq!(users[0].documents[&DocumentId::new("plan")].position, Some(position));
    }
}

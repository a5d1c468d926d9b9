//! What cursors cost the machine: `cargo bench -p mille-core --bench conflate`.
//!
//! A move costs a look-up, however often it is replaced before anybody is shown it; a tick costs by those who moved, and
//! not by those who are shown: there is one frame for all of them.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mille_core::presence::{Effect, Join, Moment, Presence, SeatId, Settings};
use mille_shared::presence::client::CursorUpdate;
use mille_shared::presence::{DocumentId, DocumentType, Position};
use mille_shared::{ConnectionId, NodeId, ProjectId, Timestamp, UserId};

/// People in the room; some of them move.
const PEOPLE: u64 = 300;
const MOVERS: [u64; 3] = [1, 30, 300];
/// Moves of each between two ticks.
const MOVES_PER_TICK: u64 = 4;
/// Twice as long as any tick.
const TICKS_APART_MS: u64 = 800;
/// Longer than it takes to tell everyone of everyone.
const LATER: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Moment {
    let wall = Timestamp::from_unix_ms(1_700_000_000_000 + i64::try_from(ms).unwrap_or_default());
    Moment { at: Duration::from_millis(ms), wall }
}

/// A room of people who have all been told of each other.
fn room(document: &DocumentId) -> Presence {
    let (mut presence, _) = Presence::open(at(0), ProjectId(1), NodeId::of("node", "1"), Settings::default());
    presence.loaded(at(0), Some(Vec::new()));
    for seat in 0..PEOPLE {
        let join = Join {
            seat: SeatId(seat),
            connection: ConnectionId::new(format!("{seat:032x}")),
            user: UserId::new(format!("user-{seat}")),
            name: format!("User {seat}").into(),
            color: "#607d8b".into(),
            agent: false,
            document: Some(document.clone()),
            resume: None,
            secret: [7; 32],
            is_welcomed: true,
        };
        presence.join(at(0), join);
    }
    settle(&mut presence, Moment { at: LATER, ..at(0) });
    presence
}

/// Does what is due until then.
fn settle(presence: &mut Presence, until: Moment) {
    while presence.deadline().is_some_and(|due| due <= until.at) {
        presence.wake(until);
    }
}

fn moved(document: &DocumentId, x: u64) -> CursorUpdate {
    CursorUpdate {
        document: document.clone(),
        kind: DocumentType::Canvas,
        position: Position::Canvas { x: x as f64, y: 7.5, zoom: Some(1.0) },
        selected: None,
        timestamp_ms: 1_700_000_000_000,
    }
}

fn conflate(c: &mut Criterion) {
    let document = DocumentId::new("7");
    let mut group = c.benchmark_group("cursors");

    group.throughput(Throughput::Elements(1));
    group.bench_function("a move that replaces one", |bench| {
        let mut presence = room(&document);
        let (now, mut x) = (at(2_000), 0);
        presence.move_cursor(now, SeatId(0), moved(&document, 0));
        bench.iter_batched(
            || {
                x += 1;
                moved(&document, x)
            },
            |update| presence.move_cursor(now, SeatId(0), update),
            BatchSize::SmallInput,
        );
    });

    for movers in MOVERS {
        group.throughput(Throughput::Elements(movers));
        group.bench_with_input(BenchmarkId::new("a tick, movers", movers), &movers, |bench, &movers| {
            let (presence, ms) = (RefCell::new(room(&document)), Cell::new(2_000));
            let move_all = || {
                ms.set(ms.get() + TICKS_APART_MS);
                for turn in 0..MOVES_PER_TICK {
                    for seat in 0..movers {
                        presence.borrow_mut().move_cursor(
                            at(ms.get()),
                            SeatId(seat),
                            moved(&document, ms.get() + turn),
                        );
                    }
                }
            };
            let tick = |()| {
                let effects = presence.borrow_mut().wake(at(ms.get() + TICKS_APART_MS / 2));
                let frames = effects.iter().filter(|effect| matches!(effect, Effect::Cursors(_))).count();
                assert_eq!(frames, 1, "one frame, whoever moved and whoever looks");
                effects
            };
            bench.iter_batched(move_all, tick, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, conflate);
criterion_main!(benches);

//! What a user gets, by itself and from many nodes at once.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const RATE: Rate = Rate { per_second: 1_000, burst: 2_000 };
const SHARE: u32 = 32;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What the store keeps of a user: a bucket, and who holds how many places.
struct Store {
    bucket: Meter,
    places: Vec<u32>,
}

impl Store {
    fn of(nodes: usize) -> Self {
        Self { bucket: RATE.meter(), places: vec![0; nodes] }
    }

    fn lease(&mut self, now: Duration, asked: u32) -> Granted {
        let granted = (1..=asked).take_while(|_| self.bucket.take(now).is_ok()).count();
        match u32::try_from(granted) {
            Ok(count) if count > 0 => Granted::Some(count),
            _ => Granted::None { retry_after: self.bucket.wait(now, asked / 4 + 1) },
        }
    }

    fn hold(&mut self, node: usize, wanted: u32, kept: u32, max: u32) -> u32 {
        let others: u32 = self.places.iter().enumerate().filter(|(of, _)| *of != node).map(|(_, held)| held).sum();
        self.places[node] = kept.min(wanted).max(wanted.min(max.saturating_sub(others)));
        self.places[node]
    }
}

#[test]
fn who_does_little_never_costs_the_store_anything() {
    let mut operations = Operations::new(RATE, SHARE);
    for step in 0..1_000 {
        // 31 per second.
        let outcome = operations.take(ms(step * 1_000 / 31));
        assert_eq!(outcome, Outcome { verdict: Verdict::Taken, ask: None }, "at {step}");
    }
    assert!(operations.is_idle(ms(60_000)));
}

#[test]
fn what_comes_next_is_asked_for_ahead_and_once() {
    let mut operations = Operations::new(RATE, SHARE);
    let asked: Vec<usize> = (0..62).filter(|_| operations.take(ms(0)).ask == Some(100)).collect();
    assert_eq!(asked.len(), 1, "before the free share is used up, and not again while the store is asked");
    assert_eq!(operations.take(ms(0)), Outcome { verdict: Verdict::Wait, ask: None });
    operations.answered(ms(1), Granted::Some(100));
    let outcomes: Vec<_> = (0..100).map(|_| operations.take(ms(1))).collect();
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Taken));
    assert_eq!(outcomes.iter().filter(|outcome| outcome.ask.is_some()).count(), 1);
}

#[test]
fn a_lease_that_is_not_used_lapses() {
    let mut operations = Operations::new(RATE, SHARE);
    while operations.take(ms(0)).verdict == Verdict::Taken {}
    operations.answered(ms(0), Granted::Some(100));
    assert!(!operations.is_idle(ms(900)));
    assert!(operations.is_idle(ms(2_100)), "the lease is over and the free share is whole again");
    while operations.take(ms(2_100)).verdict == Verdict::Taken {}
    operations.answered(ms(2_100), Granted::Some(5));
    let taken = (0..10).filter(|_| operations.take(ms(2_100)).verdict == Verdict::Taken).count();
    assert_eq!(taken, 5, "nothing of the first lease is left");
}

#[test]
fn what_the_store_refuses_is_refused_without_asking_again() {
    let mut operations = Operations::new(RATE, SHARE);
    while operations.take(ms(0)).verdict == Verdict::Taken {}
    operations.answered(ms(0), Granted::None { retry_after: ms(20) });
    for at in [0, 5, 19] {
        let outcome = operations.take(ms(at));
        let Verdict::Refused { retry_after } = outcome.verdict else { panic!("{outcome:?} at {at}") };
        assert!(retry_after > Duration::ZERO && retry_after <= ms(20) && outcome.ask.is_none(), "{outcome:?}");
    }
    assert_eq!(operations.take(ms(20)), Outcome { verdict: Verdict::Wait, ask: Some(100) });
    operations.answered(ms(20), Granted::None { retry_after: Duration::from_secs(3_600) });
    assert_eq!(operations.take(Duration::from_secs(6)).verdict, Verdict::Taken, "a clock that jumped is not believed");
}

#[test]
fn a_store_that_does_not_answer_is_no_outage_and_no_freedom() {
    let mut operations = Operations::new(RATE, SHARE);
    while operations.take(ms(0)).verdict == Verdict::Taken {}
    operations.answered(ms(0), Granted::Unanswered);
    let mut asked = 0;
    let mut taken = 0;
    for at in 0..3_000 {
        for _ in 0..2 {
            let outcome = operations.take(ms(at));
            assert_ne!(outcome.verdict, Verdict::Wait, "nobody waits for a store that is known to be silent");
            taken += u32::from(outcome.verdict == Verdict::Taken);
            if outcome.ask.is_some() {
                asked += 1;
                operations.answered(ms(at), Granted::Unanswered);
            }
        }
    }
    assert!((4_900..=5_100).contains(&taken), "{taken} in 3 s, of 2,000 at once and 1,000 per second");
    assert!(asked <= 3, "asked {asked} times in 3 s");
    operations.answered(ms(3_000), Granted::Some(100));
    assert_eq!(operations.take(ms(3_000)).verdict, Verdict::Taken);
}

/// Connects, asking the store at once.
fn connect(places: &mut Places, store: &mut Store, node: usize, max: u32) -> Verdict {
    let now = ms(0);
    let mut outcome = places.open(now);
    while outcome.verdict == Verdict::Wait {
        if let Some(wanted) = outcome.ask {
            let held = store.hold(node, wanted, places.kept(), max);
            tell(places, store, node, Some(held), max);
        }
        outcome = places.come_again(now);
    }
    outcome.verdict
}

fn tell(places: &mut Places, store: &mut Store, node: usize, held: Option<u32>, max: u32) {
    let mut next = places.answered(ms(0), held);
    while let Some(wanted) = next {
        let held = store.hold(node, wanted, places.kept(), max);
        next = places.answered(ms(0), Some(held));
    }
}

fn disconnect(places: &mut Places, store: &mut Store, node: usize, max: u32) {
    if let Some(wanted) = places.closed() {
        let held = store.hold(node, wanted, places.kept(), max);
        tell(places, store, node, Some(held), max);
    }
}

#[test]
fn one_node_gives_exactly_as_many_places_as_there_are() {
    let (mut places, mut store) = (Places::new(250, SHARE), Store::of(1));
    for number in 1..=8 {
        assert_eq!(places.open(ms(0)), Outcome { verdict: Verdict::Taken, ask: None }, "{number} is free");
    }
    for number in 9..=250 {
        assert_eq!(connect(&mut places, &mut store, 0, 250), Verdict::Taken, "{number}");
    }
    assert!(matches!(connect(&mut places, &mut store, 0, 250), Verdict::Refused { .. }));
    disconnect(&mut places, &mut store, 0, 250);
    assert_eq!(connect(&mut places, &mut store, 0, 250), Verdict::Taken, "one left, one may come");
    for _ in 0..250 {
        disconnect(&mut places, &mut store, 0, 250);
    }
    assert_eq!(store.places, [0]);
    assert!(places.is_idle());
}

#[test]
fn places_that_others_hold_are_refused_and_come_free_with_them() {
    let mut nodes = [Places::new(10, SHARE), Places::new(10, SHARE)];
    let mut store = Store::of(2);
    for _ in 0..9 {
        assert_eq!(connect(&mut nodes[0], &mut store, 0, 10), Verdict::Taken);
    }
    assert_eq!(connect(&mut nodes[1], &mut store, 1, 10), Verdict::Taken, "the free one");
    assert!(matches!(connect(&mut nodes[1], &mut store, 1, 10), Verdict::Refused { .. }));
    // The other node dies: the store forgets what it held.
    store.places[0] = 0;
    for _ in 0..9 {
        assert_eq!(connect(&mut nodes[1], &mut store, 1, 10), Verdict::Taken);
    }
    assert!(matches!(connect(&mut nodes[1], &mut store, 1, 10), Verdict::Refused { .. }));
}

#[test]
fn without_an_answer_a_node_gives_the_whole_number() {
    let mut places = Places::new(10, SHARE);
    assert_eq!(places.open(ms(0)).verdict, Verdict::Taken);
    assert_eq!(places.open(ms(0)), Outcome { verdict: Verdict::Wait, ask: Some(2) });
    assert_eq!(places.answered(ms(0), None), None);
    assert_eq!(places.come_again(ms(0)).verdict, Verdict::Taken);
    for _ in 2..10 {
        assert_eq!(places.open(ms(1)).verdict, Verdict::Taken);
    }
    assert!(matches!(places.open(ms(1)).verdict, Verdict::Refused { .. }));
    assert_eq!(places.renewal(), Some(10), "the store learns of them when it is back");
}

proptest! {
    /// However people hurry on however many nodes, the cluster gives no more than it says.
    #[test]
    fn the_cluster_gives_no_more_than_it_says(
        nodes in 1usize..6,
        steps in vec((0usize..6, 0u64..20, 1u32..200), 1..200),
    ) {
        let mut store = Store::of(nodes);
        let mut users: Vec<_> = (0..nodes).map(|_| Operations::new(RATE, SHARE)).collect();
        let mut now = Duration::ZERO;
        let mut taken = 0u64;
        for (node, pause, wishes) in steps {
            now += ms(pause);
            let operations = &mut users[node % nodes];
            for _ in 0..wishes {
                let outcome = operations.take(now);
                taken += u64::from(outcome.verdict == Verdict::Taken);
                if let Some(asked) = outcome.ask {
                    operations.answered(now, store.lease(now, asked));
                }
            }
        }
        let spent = |at: Duration| 2_000 + u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let most = spent(now) + nodes as u64 * (spent(now) / u64::from(SHARE) + 1);
        prop_assert!(taken <= most, "{taken} of at most {most} in {now:?}");
    }

    /// However sockets come and go, no more are open than may be, but for the free ones of the other nodes; and the store
    /// is left with nothing.
    #[test]
    fn places_are_never_given_twice(
        nodes in 1usize..5,
        max in 1u32..40,
        steps in vec((0usize..5, prop::bool::weighted(0.7)), 1..300),
    ) {
        let mut store = Store::of(nodes);
        let mut users: Vec<_> = (0..nodes).map(|_| Places::new(max, SHARE)).collect();
        for (node, comes) in steps {
            let node = node % nodes;
            if comes {
                connect(&mut users[node], &mut store, node, max);
            } else if users[node].kept() > 0 {
                disconnect(&mut users[node], &mut store, node, max);
            }
            let open: u32 = users.iter().map(Places::kept).sum();
            let free = max.div_ceil(SHARE) * u32::try_from(nodes - 1).unwrap_or_default();
            prop_assert!(open <= max + free, "{open} open of {max} and {free} free");
        }
        for (node, places) in users.iter_mut().enumerate() {
            while places.kept() > 0 {
                disconnect(places, &mut store, node, max);
            }
            if let Some(wanted) = places.renewal() {
                let held = store.hold(node, wanted, places.kept(), max);
                tell(places, &mut store, node, Some(held), max);
            }
            prop_assert!(places.is_idle());
        }
        prop_assert_eq!(store.places.iter().sum::<u32>(), 0);
    }
}

//! Promises of quotas: what a user may do over all nodes.

use std::time::Duration;

use mille_node::backend::{OperationsLease, PlacesClaim};
use mille_shared::{NodeId, UserId};

use crate::kit::{Store, eventually};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(50);

fn ada() -> UserId {
    UserId::new("ada")
}

pub(crate) async fn a_bucket_gives_no_more_than_it_holds_and_fills_again(store: Store) {
    let (here, there) = (store.connect().await.quotas, store.connect().await.quotas);
    // One every ten seconds: what is given while this test runs is the burst.
    let lease = async |asked| here.lease_operations(&ada(), 1, 10, asked).await.expect("a lease");
    assert_eq!(lease(4).await, OperationsLease::Some(4));
    let rest = there.lease_operations(&ada(), 1, 10, 100).await.expect("a lease");
    assert!(matches!(rest, OperationsLease::Some(6..=8)), "what is left, and what came meanwhile: {rest:?}");
    let OperationsLease::None { retry_after } = lease(20).await else { panic!("there was none left") };
    assert!(retry_after > Duration::from_secs(3) && retry_after <= Duration::from_secs(6), "{retry_after:?}");
    let other = here.lease_operations(&UserId::new("bob"), 1, 10, 10).await.expect("a lease");
    assert_eq!(other, OperationsLease::Some(10), "everyone has a bucket of their own");

    let quick = UserId::new("quick");
    assert_eq!(here.lease_operations(&quick, 100, 10, 10).await.expect("a lease"), OperationsLease::Some(10));
    eventually("there is some again", async || {
        let lease = there.lease_operations(&quick, 100, 10, 1).await.expect("a lease");
        (lease == OperationsLease::Some(1)).then_some(())
    })
    .await;
}

/// PlacesClaim of a user who may have ten.
fn of_ten(wanted: u32, kept: u32, ttl: Duration) -> PlacesClaim {
    PlacesClaim { wanted, kept, max: 10, ttl }
}

pub(crate) async fn places_are_given_once_over_all_nodes(store: Store) {
    let (here, there) = (store.connect().await.quotas, store.connect().await.quotas);
    let (one, two) = (NodeId::new("one.1"), NodeId::new("two.1"));
    let ada = ada();
    assert_eq!(here.hold_places(&ada, &one, of_ten(6, 5, LONG)).await.expect("held"), 6);
    assert_eq!(
        here.hold_places(&ada, &one, of_ten(7, 6, LONG)).await.expect("held"),
        7,
        "its own do not count against it"
    );
    assert_eq!(there.hold_places(&ada, &two, of_ten(3, 2, LONG)).await.expect("held"), 3);
    assert_eq!(there.hold_places(&ada, &two, of_ten(5, 3, LONG)).await.expect("held"), 3, "the others are taken");
    assert_eq!(there.hold_places(&ada, &two, of_ten(5, 4, LONG)).await.expect("held"), 4, "what is there stays");
    assert_eq!(here.hold_places(&ada, &one, of_ten(0, 0, LONG)).await.expect("held"), 0);
    assert_eq!(there.hold_places(&ada, &two, of_ten(12, 4, LONG)).await.expect("held"), 10);
    let bob = UserId::new("bob");
    assert_eq!(here.hold_places(&bob, &one, of_ten(10, 0, LONG)).await.expect("held"), 10, "everyone has their own");
}

pub(crate) async fn what_a_dead_node_held_comes_free(store: Store) {
    let quotas = store.connect().await.quotas;
    let (one, two) = (NodeId::new("one.1"), NodeId::new("two.1"));
    let ada = ada();
    assert_eq!(quotas.hold_places(&ada, &one, of_ten(8, 8, SHORT)).await.expect("held"), 8);
    eventually("the places run out", async || {
        (quotas.hold_places(&ada, &two, of_ten(10, 0, LONG)).await.expect("held") == 10).then_some(())
    })
    .await;
    assert_eq!(quotas.hold_places(&ada, &two, of_ten(10, 10, SHORT)).await.expect("held"), 10);
    assert_eq!(quotas.hold_places(&ada, &two, of_ten(10, 10, LONG)).await.expect("renewed"), 10);
    assert_eq!(quotas.hold_places(&ada, &one, of_ten(1, 0, LONG)).await.expect("held"), 0, "renewed is renewed");
}

//! Promises of revocations.

use mille_node::backend::{Backend, Revocations};
use mille_node::clock;
use mille_shared::revocation::{Revocation, Revoked};
use mille_shared::{Timestamp, TokenId, UserId};

use crate::kit::{Store, eventually};

const HOUR_MS: i64 = 60 * 60 * 1_000;

fn in_ms(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(clock::now().unix_ms + ms)
}

fn user(name: &str, at: Timestamp) -> Revocation {
    Revocation { what: Revoked::User(UserId::new(name)), at }
}

fn token(id: &str, at: Timestamp) -> Revocation {
    Revocation { what: Revoked::Token(TokenId::new(id)), at }
}

async fn revoke(backend: &Backend, revocation: &Revocation, until: Timestamp) {
    assert!(backend.revocations.revoke(revocation, until).await.expect("an answer"), "there is room");
}

async fn held(revocations: &dyn Revocations) -> Vec<(Revocation, Timestamp)> {
    let mut held = revocations.list().await.expect("the list");
    held.sort_by(|a, b| a.0.what.cmp(&b.0.what));
    held
}

pub(crate) async fn a_revocation_is_known_everywhere_until_its_end(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    assert_eq!(held(&*there.revocations).await, []);
    let (now, later) = (in_ms(0), in_ms(HOUR_MS));
    let odd = "user token }{ ü *?";
    for revocation in [user(odd, now), token(odd, now), token("brief", now)] {
        let until = if revocation == token("brief", now) { in_ms(40) } else { later };
        revoke(&here, &revocation, until).await;
    }
    eventually("the brief one is forgotten", async || {
        (held(&*there.revocations).await == [(token(odd, now), later), (user(odd, now), later)]).then_some(())
    })
    .await;
    revoke(&here, &token("over", now), in_ms(-1_000)).await;
    assert_eq!(held(&*there.revocations).await.len(), 2, "what is over is not kept");
}

pub(crate) async fn of_two_revocations_of_a_user_the_later_moment_and_the_later_end_count(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    let (early, late) = (in_ms(-5_000), in_ms(-1_000));
    let (soon, long) = (in_ms(HOUR_MS), in_ms(5 * HOUR_MS));
    revoke(&here, &user("ada", early), long).await;
    revoke(&there, &user("ada", late), soon).await;
    assert_eq!(held(&*here.revocations).await, [(user("ada", late), long)]);
    revoke(&here, &user("ada", early), soon).await;
    assert_eq!(held(&*there.revocations).await, [(user("ada", late), long)], "an old one told again changes nothing");
}

pub(crate) async fn many_revocations_are_all_listed(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    let (now, later) = (in_ms(0), in_ms(HOUR_MS));
    let mut revocations: Vec<_> = (0..1_700).map(|number| token(&format!("t{number}"), now)).collect();
    for some in revocations.chunks(100) {
        futures_util::future::join_all(some.iter().map(|revocation| revoke(&here, revocation, later))).await;
    }
    let mut listed: Vec<_> = held(&*there.revocations).await.into_iter().map(|(revocation, _)| revocation).collect();
    listed.dedup();
    revocations.sort_by(|a, b| a.what.cmp(&b.what));
    assert_eq!(listed, revocations);
}

//! Which tokens are revoked, for how long that is remembered, and who is told.

use futures_util::FutureExt as _;

use super::super::identity::Scopes;
use super::*;

const NOW: i64 = 1_800_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(NOW + seconds * 1_000)
}

fn seconds(after: i64) -> u64 {
    u64::try_from(NOW / 1_000 + after).expect("after 1970")
}

/// Ada's token, issued and good for so many seconds from the beginning.
fn token(id: Option<&str>, issued: Option<i64>, expires: i64) -> Identity {
    Identity {
        user_id: UserId::new("ada"),
        name: None,
        color: None,
        agent: false,
        scopes: Scopes::default(),
        expires_at: seconds(expires),
        issued_at: issued.map(seconds),
        token_id: id.map(TokenId::new),
    }
}

fn revoked() -> RevokedTokens {
    RevokedTokens::new(Duration::from_secs(5))
}

fn user(seconds: i64) -> Revocation {
    Revocation { what: Revoked::User(UserId::new("ada")), at: at(seconds) }
}

fn one(id: &str) -> Revocation {
    Revocation { what: Revoked::Token(TokenId::new(id)), at: at(0) }
}

#[test]
fn a_user_is_revoked_up_to_a_moment_and_a_token_by_its_id() {
    let revoked = revoked();
    assert_eq!(revoked.find(&token(Some("a"), Some(0), 60)), None);
    revoked.take(&[(user(10), at(1_000)), (one("b"), at(1_000))]);
    let by = |identity: &Identity| revoked.find(identity).map(|found| found.by);
    assert_eq!(by(&token(Some("a"), Some(10), 60)), Some(RevokedBy::User));
    assert_eq!(by(&token(None, None, 60)), Some(RevokedBy::User), "who knows when it was issued");
    assert_eq!(by(&token(Some("a"), Some(11), 60)), None, "issued later");
    assert_eq!(by(&token(Some("b"), Some(11), 60)), Some(RevokedBy::Token));
    let other = Identity { user_id: UserId::new("bob"), ..token(None, Some(0), 60) };
    assert_eq!(by(&other), None);
}

#[test]
fn a_later_revocation_replaces_an_earlier_one_and_never_the_other_way_round() {
    let revoked = revoked();
    revoked.take(&[(user(10), at(1_000)), (user(20), at(500)), (user(15), at(700))]);
    assert_eq!(revoked.len(), 1);
    assert!(revoked.find(&token(None, Some(20), 60)).is_some());
    assert_eq!(revoked.lacking(&[], at(600)), [(user(20), at(1_000))]);
}

#[test]
fn a_record_lives_as_long_as_the_tokens_it_meets() {
    let revoked = revoked();
    revoked.take(&[(user(10), at(100)), (one("b"), at(100))]);
    assert!(revoked.find(&token(None, Some(0), 3_600)).is_some());
    assert!(revoked.moved().now_or_never().is_some(), "the store must learn of it");
    assert_eq!(revoked.lacking(&[(user(10), at(100))], at(200)), [(user(10), at(3_605))], "with the leeway");
    assert_eq!(revoked.len(), 1, "the other one has ended");
    assert!(revoked.find(&token(None, Some(0), 3_600)).is_some());
    assert!(revoked.moved().now_or_never().is_none(), "nothing moved");
}

#[test]
fn what_the_store_lost_is_named_and_what_it_has_is_not() {
    let revoked = revoked();
    let (kept, lost, old) = ((one("kept"), at(100)), (one("lost"), at(100)), (user(10), at(100)));
    revoked.take(&[kept.clone(), lost.clone(), old]);
    assert_eq!(revoked.lacking(&[kept.clone(), (user(20), at(200))], at(0)), std::slice::from_ref(&lost));
    assert_eq!(revoked.lacking(&[kept, lost, (user(5), at(200))], at(0)), [(user(10), at(100))]);
}

#[test]
fn a_session_wakes_when_its_token_is_revoked_and_not_for_others() {
    let revoked = revoked();
    let ada = token(Some("a"), Some(0), 3_600);
    let mut watch = revoked.watch();
    assert!(watch.revoked(&ada).now_or_never().is_none());
    revoked.take(&[(one("b"), at(9_999))]);
    assert!(watch.revoked(&ada).now_or_never().is_none());
    revoked.take(&[(one("a"), at(9_999))]);
    let found = watch.revoked(&ada).now_or_never().expect("it is told");
    assert_eq!(found, RevokedToken { by: RevokedBy::Token, at: at(0) });

    // Who has no identity yet is not told; the door asks.
    let mut newcomer = revoked.watch();
    revoked.take(&[(user(10), at(9_999))]);
    let told = poll_fn(|cx| Poll::Ready(newcomer.poll(cx, None).is_ready())).now_or_never();
    assert_eq!(told, Some(false));
}

#[test]
fn a_full_memory_gives_up_what_ends_first() {
    let mut records = Records::default();
    for number in 0..RECORDS_MAX {
        let until = at(i64::try_from(number).expect("small"));
        records.take(&one(&number.to_string()), until);
    }
    records.take(&one("new"), at(1));
    assert!(records.len() <= RECORDS_MAX && records.len() > RECORDS_MAX / 2);
    assert!(records.tokens.contains_key("new") && !records.tokens.contains_key("0"));
}

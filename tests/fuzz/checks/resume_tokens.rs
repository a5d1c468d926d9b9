//! What a client shows to go on where it was: a revision (`after`, `Last-Event-ID`) or a presence token.

use std::time::Duration;

use mille_core::presence::{Effect, Join, Moment, Presence, SeatId, Settings};
use mille_shared::presence::client::Secret;
use mille_shared::{ConnectionId, NodeId, ProjectId, Revision, Timestamp, UserId};
use serde_json::Value;

/// The connection that may be resumed, and the bytes of its secret.
const CONNECTION: &str = "c-1";
const SECRET: [u8; 32] = [7; 32];

pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    check_revision(text);
    check_presence_token(text);
    // With the secret, so that what comes before it is looked at as well.
    check_presence_token(&format!("{CONNECTION}.{text}.{}", "07".repeat(SECRET.len())));
}

fn check_revision(text: &str) {
    let in_json: Result<Revision, _> = serde_json::from_value(Value::String(text.to_owned()));
    let Ok(revision) = text.parse::<Revision>() else {
        assert!(in_json.is_err(), "{text:?} is a revision only in JSON");
        return;
    };
    assert_eq!(in_json.ok(), Some(revision));
    assert_eq!(revision.to_string(), text, "a place has one name");
    assert!(!revision.precedes(revision) && revision.version() >= 0);
    let next = revision.next();
    assert!(next >= revision && (next == revision || revision.precedes(next)));
    assert!(revision.previous().is_none_or(|previous| previous < revision && previous.precedes(revision)));
}

fn check_presence_token(text: &str) {
    let secret = "07".repeat(SECRET.len());
    let is_right = text.starts_with(&format!("{CONNECTION}.")) && text.ends_with(&format!(".{secret}"));
    for user in ["ada", "eve"] {
        let mut presence = with_ada();
        let mut token = text.to_owned();
        for seat in 2..5 {
            let (connection, next) = join(&mut presence, user, seat, Some(&token));
            let is_resumed = connection == CONNECTION;
            assert!(!is_resumed || (user == "ada" && is_right), "{user} takes a place with {token:?}");
            if !is_resumed {
                break;
            }
            // The token of a resumed connection resumes it again, wherever its count had come to.
            assert!(next.starts_with(&format!("{CONNECTION}.")), "{next}");
            token = next;
        }
    }
}

/// A project in which Ada is present.
fn with_ada() -> Presence {
    let (mut presence, _) = Presence::open(moment(), ProjectId(1), NodeId::new("n.1"), Settings::default());
    join(&mut presence, "ada", 1, None);
    presence
}

fn moment() -> Moment {
    Moment { at: Duration::from_secs(1), wall: Timestamp { unix_ms: 1_700_000_000_000 } }
}

/// Joins, and brings the connection that it came to and the token for the next time.
fn join(presence: &mut Presence, user: &str, seat: u64, token: Option<&str>) -> (String, String) {
    let join = Join {
        seat: SeatId(seat),
        connection: ConnectionId::new(format!("c-{seat}")),
        user: UserId::new(user),
        name: user.into(),
        color: "#123".into(),
        agent: false,
        document: None,
        resume: token.map(|token| Secret::new(token.to_owned())),
        secret: SECRET,
        is_welcomed: false,
    };
    for effect in presence.join(moment(), join) {
        if let Effect::Reply { frame, .. } = effect {
            let frame: Value = serde_json::from_str(&frame).expect("a frame is JSON");
            let text = |name: &str| frame["data"][name].as_str().map(str::to_owned);
            if let Some(welcome) = text("connectionId").zip(text("resumeToken")) {
                return welcome;
            }
        }
    }
    panic!("{user} is not welcomed")
}

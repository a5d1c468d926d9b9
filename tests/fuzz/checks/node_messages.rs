//! What nodes tell each other: batches of entries, changes of membership, progress, and who is present. Others may speak a
//! newer version, and channels lose and double; nobody may fall over it.

use std::time::Duration;

use mille_core::presence::{Effect, Moment, Presence, Settings};
use mille_node::backend::envelope;
use mille_node::bridge::ControlMessage;
use mille_node::project::Progress;
use mille_shared::presence::NodeMessage;
use mille_shared::{NodeId, ProjectId, Timestamp};
use serde_json::Value;

use super::again;

pub(crate) fn check(bytes: &[u8]) {
    check_batch(bytes);
    if let Some(message) = ControlMessage::decode(bytes) {
        assert_eq!(ControlMessage::decode(&message.encode()), Some(message));
    }
    if let Ok(progress) = serde_json::from_slice::<Progress>(bytes) {
        assert_eq!(again(&progress), progress);
    }
    if let Ok(message) = serde_json::from_slice::<NodeMessage>(bytes) {
        assert_eq!(again(&message), message);
        hear(message);
    }
}

fn check_batch(bytes: &[u8]) {
    let Ok(entries) = envelope::decode(bytes) else { return };
    let held: usize = entries.iter().map(|entry| entry.payload.len()).sum();
    assert!(held <= bytes.len(), "{held} bytes from {}", bytes.len());
    // A version before says no time.
    let appended = envelope::appended_at(bytes).unwrap_or_default();
    let message = envelope::encode(&entries, appended, "");
    assert_eq!(envelope::appended_at(&message), Some(appended));
    assert_eq!(envelope::decode(&message), Ok(entries));
}

/// A node hears it twice, and then time passes.
fn hear(message: NodeMessage) {
    let moment = |seconds: u64| Moment {
        at: Duration::from_secs(seconds),
        wall: Timestamp { unix_ms: 1_700_000_000_000 + 1_000 * i64::try_from(seconds).unwrap_or_default() },
    };
    let (mut presence, effects) = Presence::open(moment(1), ProjectId(1), NodeId::new("n.1"), Settings::default());
    look(effects);
    look(presence.loaded(moment(1), Some(Vec::new())));
    look(presence.set_watching(moment(1), true));
    look(presence.heard(moment(2), message.clone()));
    look(presence.heard(moment(3), message.clone()));
    assert!(presence.users().len() <= presence.census().total.connections);
    look(presence.nodes_gone(moment(4), &[message.from]));
    for seconds in 5..10 {
        look(presence.wake(moment(seconds)));
    }
    look(presence.depart());
}

fn look(effects: Vec<Effect>) {
    for effect in effects {
        match effect {
            Effect::Send { frame, .. } | Effect::Reply { frame, .. } => {
                serde_json::from_str::<Value>(&frame).expect("a frame is JSON");
            }
            Effect::Publish(message) => assert_eq!(again(&message), message),
            _ => {}
        }
    }
}

//! Watching a project's people without being present: the source of GraphQL's collaboration events.
//!
//! A watcher that lags loses old cursor places only, of which the newest per user and document is kept. Joins and leaves
//! queue; when too many wait, those that the same user's later ones make void are dropped, so what is left is bounded by
//! the project's users and ends at the truth.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mille_core::presence::Event;
use mille_shared::presence::{DocumentId, UserPresence};
use mille_shared::{UserId, limits};
use tokio::sync::Notify;

use crate::project::follow::Ended;

/// One watcher's events.
#[derive(Debug)]
pub struct PresenceWatch(Arc<Shared>);

/// Everyone who watches.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    watchers: Vec<Weak<Shared>>,
    /// Who is online by what was told, with name and colour.
    online: BTreeMap<UserId, (Arc<str>, Arc<str>)>,
    /// Whether the project is gone, and not only from this node.
    is_gone: bool,
}

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    people: VecDeque<Event>,
    cursors: BTreeMap<(UserId, DocumentId), Event>,
    ended: Option<Ended>,
}

impl PresenceWatch {
    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// [`Ended`] when there will be none any more.
    pub async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            {
                let mut inner = self.0.lock();
                let event = inner.people.pop_front().or_else(|| inner.cursors.pop_first().map(|(_, event)| event));
                if let Some(told) = event.map(Ok).or(inner.ended.map(Err)) {
                    return told;
                }
            }
            self.0.changed.notified().await;
        }
    }
}

impl Watchers {
    pub(super) fn add(&mut self) -> PresenceWatch {
        let shared = Arc::new(Shared::default());
        self.watchers.push(Arc::downgrade(&shared));
        PresenceWatch(shared)
    }

    /// The project is gone: whoever watches hears so in the end.
    pub(super) fn gone(&mut self) {
        self.is_gone = true;
    }

    pub(super) fn tell(&mut self, event: &Event) {
        match event {
            Event::Joined { user, name, color } => {
                self.online.insert(user.clone(), (Arc::clone(name), Arc::clone(color)));
            }
            Event::Left { user, .. } => drop(self.online.remove(user)),
            Event::CursorMoved { .. } => {}
        }
        for watcher in self.watchers.iter().filter_map(Weak::upgrade) {
            watcher.lock().push(event.clone());
            watcher.changed.notify_one();
        }
    }

    /// Tells whatever a failure kept from being told: these are the users who are online.
    pub(super) fn correct(&mut self, users: &[UserPresence]) {
        let online: BTreeMap<&UserId, &UserPresence> = users.iter().map(|user| (&user.user_id, user)).collect();
        let left = self.online.iter().filter(|(user, _)| !online.contains_key(user));
        let left = left.map(|(user, (name, color))| Event::Left {
            user: user.clone(),
            name: Arc::clone(name),
            color: Arc::clone(color),
        });
        let joined = online.iter().filter(|(user, _)| !self.online.contains_key(**user));
        let joined = joined.map(|(user, presence)| Event::Joined {
            user: (*user).clone(),
            name: Arc::clone(&presence.user_name),
            color: Arc::clone(&presence.avatar_color),
        });
        let untold: Vec<Event> = left.chain(joined).collect();
        untold.iter().for_each(|event| self.tell(event));
    }

    /// Forgets those who went. Answers whether anybody is left.
    pub(super) fn sweep(&mut self) -> bool {
        self.watchers.retain(|watcher| watcher.strong_count() > 0);
        !self.watchers.is_empty()
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for watcher in self.watchers.iter().filter_map(Weak::upgrade) {
            watcher.lock().ended = Some(if self.is_gone { Ended::Gone } else { Ended::Stopping });
            watcher.changed.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, event: Event) {
        match &event {
            Event::CursorMoved { user, document, .. } => {
                self.cursors.insert((user.clone(), document.clone()), event);
            }
            Event::Joined { user, .. } | Event::Left { user, .. } => {
                if self.people.len() >= limits::SUBSCRIPTION_QUEUE_EVENTS_MAX {
                    self.people.retain(|old| who(old) != user);
                }
                if matches!(event, Event::Left { .. }) {
                    self.cursors.retain(|(owner, _), _| owner != user);
                }
                self.people.push_back(event);
            }
        }
    }
}

fn who(event: &Event) -> &UserId {
    match event {
        Event::Joined { user, .. } | Event::Left { user, .. } | Event::CursorMoved { user, .. } => user,
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::Timestamp;
    use mille_shared::presence::Status;

    use super::*;

    fn event(user: usize, joined: bool) -> Event {
        let (user, name, color) = (UserId::new(format!("u{user}")), "n".into(), "c".into());
        if joined { Event::Joined { user, name, color } } else { Event::Left { user, name, color } }
    }

    #[tokio::test]
    async fn what_was_not_told_is_told_by_a_correction() {
        let mut watchers = Watchers::default();
        let mut watch = watchers.add();
        (0..2).for_each(|user| watchers.tell(&event(user, true)));
        let online = |user: usize| UserPresence {
            user_id: UserId::new(format!("u{user}")),
            user_name: "n".into(),
            avatar_color: "c".into(),
            is_online: true,
            is_agent: false,
            status: Status::Active,
            last_active: Timestamp::from_unix_ms(0),
            connections: 1,
            documents: BTreeMap::new(),
        };
        (0..2).for_each(|_| watchers.correct(&[online(1), online(2)]));
        watchers.gone();
        drop(watchers);
        let mut told = Vec::new();
        let end = loop {
            match watch.next().await {
                Ok(event) => told.push(event),
                Err(ended) => break ended,
            }
        };
        assert_eq!(end, Ended::Gone);
        assert_eq!(told, [event(0, true), event(1, true), event(0, false), event(2, true)]);
    }

    #[tokio::test]
    async fn a_watcher_that_lags_ends_at_the_truth() {
        let mut watchers = Watchers::default();
        let mut watch = watchers.add();
        for round in 0..1_001 {
            (0..3).for_each(|user| watchers.tell(&event(user, round % 2 == 0)));
        }
        drop(watchers);
        let mut last = BTreeMap::new();
        let mut count = 0;
        while let Ok(event) = watch.next().await {
            count += 1;
            last.insert(who(&event).clone(), matches!(event, Event::Joined { .. }));
        }
        assert!(count <= limits::SUBSCRIPTION_QUEUE_EVENTS_MAX + 3);
        assert_eq!(last.values().filter(|joined| **joined).count(), 3);
    }
}

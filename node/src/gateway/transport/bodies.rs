//! Bodies of requests and answers, within bounds. Those of requests: of one body, of its time, and of all bodies that a node reads at a time. Of
//! those, one user has a part only: else a few hundred slow ones of theirs would keep out everybody's.
//!
//! Of answers, a user has a bounded number of bytes on their way: who asks and asks and takes nothing does not fill our memory.
//!
//! What counts is what has come, not what was announced: who announces a megabyte and sends nothing takes no room.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use mille_shared::{ErrorCode, LimitName, UserId, limits};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::TransportObserver;
use crate::gateway::errors::ApiError;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// When somebody may come again for whose body there was no room. A body is read, or given up, in less.
const COME_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Room for the bodies of a node. Cheap to clone.
#[derive(Clone)]
pub struct BodyRoom {
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    requests: Users,
    answers: Users,
}

/// Who has how many bytes. Locked for a look and an addition.
type Users = Arc<Mutex<HashMap<UserId, usize>>>;

/// What one user has on behalf of one body. Dropping it gives it back.
struct Part {
    users: Users,
    user: UserId,
    bytes: usize,
}

impl Part {
    fn of(users: &Users, user: &UserId) -> Self {
        Self { users: Arc::clone(users), user: user.clone(), bytes: 0 }
    }

    /// Takes so many more, if the user has no more than `max` then, or had none.
    fn take(&mut self, bytes: usize, max: usize) -> bool {
        let mut users = self.users.lock();
        let has = users.get(&self.user).copied().unwrap_or_default();
        let may = has == 0 || has.saturating_add(bytes) <= max;
        if may {
            users.insert(self.user.clone(), has.saturating_add(bytes));
            self.bytes += bytes;
        }
        may
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut users = self.users.lock();
        let Some(has) = users.get_mut(&self.user) else { return };
        *has = has.saturating_sub(self.bytes);
        if *has == 0 {
            users.remove(&self.user);
        }
    }
}

/// A body, and the room it takes until it is dropped.
pub(super) struct Received {
    pub(super) bytes: BytesMut,
    _room: Option<OwnedSemaphorePermit>,
    _part: Part,
}

/// An answer's bytes, which count as its user's until they are written or given up.
struct Counted {
    bytes: Vec<u8>,
    _part: Part,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why there is no body.
pub(super) enum NoBody {
    /// A refusal with a code.
    Refused(ApiError),
    /// One that has a status only.
    Broken(StatusCode),
}

impl BodyRoom {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        Self {
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            requests: Users::default(),
            answers: Users::default(),
        }
    }

    /// Reads a body of at most `bytes_max` for a user.
    pub(super) async fn read(
        &self,
        body: Body,
        bytes_max: usize,
        user: &UserId,
        observer: &dyn TransportObserver,
    ) -> Result<Received, NoBody> {
        let reading = self.read_all(body, bytes_max, user, observer);
        tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or(Err(NoBody::Broken(StatusCode::REQUEST_TIMEOUT)))
    }

    /// Refuses whatever a user asks for while as much waits for them as may. To be asked before something is done whose answer
    /// must then be told.
    pub(super) fn expects_answer(&self, user: &UserId) -> Result<(), ApiError> {
        let waiting = self.answers.lock().get(user).copied().unwrap_or_default();
        if waiting < limits::ANSWER_BYTES_PER_USER_MAX { Ok(()) } else { Err(too_much_waits()) }
    }

    /// The body of a user's answer, unless too much waits for them already; one that `must_be_told` has room always.
    pub(super) fn answer(&self, bytes: Vec<u8>, user: &UserId, must_be_told: bool) -> Result<Body, ApiError> {
        let mut part = Part::of(&self.answers, user);
        let max = if must_be_told { usize::MAX } else { limits::ANSWER_BYTES_PER_USER_MAX };
        if !part.take(bytes.len(), max) {
            return Err(too_much_waits());
        }
        Ok(Body::from(Bytes::from_owner(Counted { bytes, _part: part })))
    }

    async fn read_all(
        &self,
        body: Body,
        bytes_max: usize,
        user: &UserId,
        observer: &dyn TransportObserver,
    ) -> Result<Received, NoBody> {
        let mut chunks = body.into_data_stream();
        let part = Part::of(&self.requests, user);
        let mut received = Received { bytes: BytesMut::new(), _room: None, _part: part };
        // One body always fits.
        let user_max = (self.bytes_max / limits::REQUEST_BYTES_USER_SHARE).max(bytes_max);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| NoBody::Broken(StatusCode::BAD_REQUEST))?;
            if received.bytes.len() + chunk.len() > bytes_max {
                return Err(NoBody::Refused(too_large(bytes_max)));
            }
            if !received._part.take(chunk.len(), user_max) {
                return Err(no_room(ErrorCode::RateLimited, user_max, observer));
            }
            let Some(room) = self.take(chunk.len()) else {
                return Err(no_room(ErrorCode::Overloaded, self.bytes_max, observer));
            };
            match &mut received._room {
                Some(all) => all.merge(room),
                none => *none = Some(room),
            }
            received.bytes.extend_from_slice(&chunk);
        }
        Ok(received)
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.bytes).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

fn too_much_waits() -> ApiError {
    let max = limits::ANSWER_BYTES_PER_USER_MAX;
    ApiError::met(ErrorCode::RateLimited, LimitName::AnswerBytesInFlight, max).retry_after(COME_AGAIN_AFTER)
}

fn no_room(code: ErrorCode, bytes_max: usize, observer: &dyn TransportObserver) -> NoBody {
    observer.limited(LimitName::RequestBytesInFlight);
    NoBody::Refused(ApiError::met(code, LimitName::RequestBytesInFlight, bytes_max).retry_after(COME_AGAIN_AFTER))
}

/// A body of more than one may have.
pub(super) fn too_large(bytes_max: usize) -> ApiError {
    ApiError::met(ErrorCode::PayloadTooLarge, LimitName::RequestBytes, bytes_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_share_their_room_and_give_it_back() {
        let (room, ada, bob) = (BodyRoom::new(100), UserId::new("ada"), UserId::new("bob"));
        let first = room.read(Body::from("x".repeat(60)), 80, &ada, &()).await.ok().expect("it fits");
        assert_eq!(first.bytes.len(), 60);
        let Err(NoBody::Refused(refusal)) = room.read(Body::from("x".repeat(60)), 80, &bob, &()).await else {
            panic!("there is no room for it");
        };
        assert_eq!(
            (refusal.code, refusal.limit),
            (ErrorCode::Overloaded, Some((LimitName::RequestBytesInFlight, 100)))
        );
        assert!(refusal.retry_after_ms.is_some());
        drop(first);
        assert!(room.read(Body::from("x".repeat(60)), 80, &bob, &()).await.is_ok());
        let Err(NoBody::Refused(refusal)) = room.read(Body::from("x".repeat(81)), 80, &bob, &()).await else {
            panic!("it is too large");
        };
        assert_eq!(refusal.code, ErrorCode::PayloadTooLarge);
    }

    #[tokio::test]
    async fn one_user_does_not_take_all_the_room() {
        let (room, ada, bob) = (BodyRoom::new(800), UserId::new("ada"), UserId::new("bob"));
        let body = || Body::from("x".repeat(60));
        let first = room.read(body(), 100, &ada, &()).await.ok().expect("it fits");
        let Err(NoBody::Refused(refusal)) = room.read(body(), 100, &ada, &()).await else {
            panic!("it is more than one may have");
        };
        assert_eq!(
            (refusal.code, refusal.limit),
            (ErrorCode::RateLimited, Some((LimitName::RequestBytesInFlight, 100)))
        );
        assert!(room.read(body(), 100, &bob, &()).await.is_ok(), "another user");
        drop(first);
        assert!(room.read(body(), 100, &ada, &()).await.is_ok());
        assert!(room.requests.lock().is_empty(), "nobody is remembered");
    }

    #[test]
    fn answers_that_are_not_taken_have_an_end_but_what_was_done_is_told() {
        let (room, ada, bob) = (BodyRoom::new(800), UserId::new("ada"), UserId::new("bob"));
        let half = || vec![b'x'; limits::ANSWER_BYTES_PER_USER_MAX / 2 + 1];
        let waits = room.answer(half(), &ada, false).expect("the first one");
        let refusal = room.answer(half(), &ada, false).expect_err("it is more than may wait");
        assert_eq!((refusal.code, refusal.retry_after_ms.is_some()), (ErrorCode::RateLimited, true));
        assert!(room.expects_answer(&ada).is_ok());
        let edit = room.answer(half(), &ada, true).expect("she must know what she did");
        assert_eq!(room.expects_answer(&ada).expect_err("nothing more is begun").code, ErrorCode::RateLimited);
        drop(edit);
        assert!(room.answer(half(), &bob, false).is_ok(), "another user");
        drop(waits);
        assert!(room.answer([half(), half()].concat(), &ada, false).is_ok(), "one is told in any case");
        assert!(room.answers.lock().is_empty(), "nobody is remembered");
    }
}

//! Bodies of requests, read within bounds: of one body, of its time, and of all bodies that a node reads at a time.
//!
//! What counts is what has come, not what was announced: who announces a megabyte and sends nothing takes no room.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::BytesMut;
use futures_util::StreamExt as _;
use mille_shared::{ErrorCode, LimitName};
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
}

/// A body, and the room it takes until it is dropped.
pub(super) struct Received {
    pub(super) bytes: BytesMut,
    _room: Option<OwnedSemaphorePermit>,
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
        Self { bytes: Arc::new(Semaphore::new(bytes_max)), bytes_max }
    }

    /// Reads a body of at most `bytes_max`.
    pub(super) async fn read(
        &self,
        body: Body,
        bytes_max: usize,
        observer: &dyn TransportObserver,
    ) -> Result<Received, NoBody> {
        let reading = self.read_all(body, bytes_max, observer);
        tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or(Err(NoBody::Broken(StatusCode::REQUEST_TIMEOUT)))
    }

    async fn read_all(
        &self,
        body: Body,
        bytes_max: usize,
        observer: &dyn TransportObserver,
    ) -> Result<Received, NoBody> {
        let mut chunks = body.into_data_stream();
        let mut received = Received { bytes: BytesMut::new(), _room: None };
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| NoBody::Broken(StatusCode::BAD_REQUEST))?;
            if received.bytes.len() + chunk.len() > bytes_max {
                return Err(NoBody::Refused(too_large(bytes_max)));
            }
            let Some(room) = self.take(chunk.len()) else {
                observer.limited(LimitName::RequestBytesInFlight);
                return Err(NoBody::Refused(self.no_room()));
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

    fn no_room(&self) -> ApiError {
        ApiError::met(ErrorCode::Overloaded, LimitName::RequestBytesInFlight, self.bytes_max)
            .retry_after(COME_AGAIN_AFTER)
    }
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
        let room = BodyRoom::new(100);
        let first = room.read(Body::from("x".repeat(60)), 80, &()).await.ok().expect("it fits");
        assert_eq!(first.bytes.len(), 60);
        let Err(NoBody::Refused(refusal)) = room.read(Body::from("x".repeat(60)), 80, &()).await else {
            panic!("there is no room for it");
        };
        assert_eq!(
            (refusal.code, refusal.limit),
            (ErrorCode::Overloaded, Some((LimitName::RequestBytesInFlight, 100)))
        );
        assert!(refusal.retry_after_ms.is_some());
        drop(first);
        assert!(room.read(Body::from("x".repeat(60)), 80, &()).await.is_ok());
        let Err(NoBody::Refused(refusal)) = room.read(Body::from("x".repeat(81)), 80, &()).await else {
            panic!("it is too large");
        };
        assert_eq!(refusal.code, ErrorCode::PayloadTooLarge);
    }
}

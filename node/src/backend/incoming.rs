//! The queue between a subscription and whoever listens to it.
//!
//! Bounded, and nobody waits for it: what does not fit is dropped. One place is kept free for telling so, and the
//! [`Interruption`] stands exactly where the first message is missing. While it is the last in the queue, whatever
//! else is dropped was dropped before the listener reads it; it counts for those too.

use tokio::sync::mpsc;

use super::{Incoming, Interruption, Reach};

/// The end that puts in.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: mpsc::Sender<Incoming>,
    /// The place kept for the next interruption. Absent: one is in the queue, and nothing is behind it.
    spare: Option<mpsc::OwnedPermit<Incoming>>,
}

/// Makes a queue of `capacity` places, one of them for interruptions. `capacity` is at least 2.
pub(super) fn outlet(capacity: usize) -> (Outlet, mpsc::Receiver<Incoming>) {
    debug_assert!(capacity >= 2, "a message and an interruption must fit");
    let (queue, receiver) = mpsc::channel(capacity);
    let spare = queue.clone().try_reserve_owned().ok();
    (Outlet { queue, spare }, receiver)
}

impl Outlet {
    /// Puts something in, or drops it and lets [`Interruption::Lagged`] follow. Never waits.
    pub(super) fn send(&mut self, incoming: Incoming) {
        if self.spare.is_none() {
            self.spare = self.queue.clone().try_reserve_owned().ok();
        }
        let Some(spare) = self.spare.take() else { return };
        match self.queue.try_send(incoming) {
            Ok(()) => self.spare = Some(spare),
            Err(_) => {
                let lagged = Incoming::Interrupted { why: Interruption::Lagged, reach: Reach::Everything };
                drop(spare.send(lagged));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backend::Channel;

    fn message(n: u8) -> Incoming {
        Incoming::Message { channel: Channel::Control, payload: Bytes::copy_from_slice(&[n]) }
    }

    fn read(receiver: &mut mpsc::Receiver<Incoming>) -> Vec<Option<u8>> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|incoming| match incoming {
                Incoming::Message { payload, .. } => Some(payload[0]),
                Incoming::Interrupted { .. } => None,
            })
            .collect()
    }

    #[test]
    fn an_interruption_stands_where_the_first_message_is_missing() {
        let (mut outlet, mut receiver) = outlet(3);
        for n in 0..9 {
            outlet.send(message(n));
        }
        assert_eq!(read(&mut receiver), [Some(0), Some(1), None]);
        outlet.send(message(9));
        assert_eq!(read(&mut receiver), [Some(9)]);
    }

    #[test]
    fn nothing_follows_an_interruption_until_another_one_fits() {
        let (mut outlet, mut receiver) = outlet(3);
        (0..3).for_each(|n| outlet.send(message(n)));
        assert!(receiver.try_recv().is_ok());
        // One place is free, and it is kept for the next interruption: this message is dropped, and it follows at once.
        outlet.send(message(3));
        assert_eq!(read(&mut receiver), [Some(1), None, None]);
    }
}

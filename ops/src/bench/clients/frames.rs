//! The frames of a WebSocket (RFC 6455, 5.2), as far as a bench needs them: to find one by its head, and to write one.
//!
//! What a client writes is masked with a key of zeros, as the letter allows: the key protects proxies from scripts in browsers,
//! and here is neither.

use anyhow::{Result, ensure};

/// The longest frame that is believed.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 20;

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What stands before a frame's payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) opcode: u8,
    /// Its own length.
    pub(crate) bytes: usize,
    /// The length of what follows.
    pub(crate) payload: usize,
}

impl Head {
    /// Reads it; none until all of it is there.
    ///
    /// # Errors
    /// When no node of ours writes such a frame.
    pub(crate) fn of(bytes: &[u8]) -> Result<Option<Self>> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        ensure!(second & MASKED == 0, "a server's frames are not masked");
        ensure!(first & FINAL != 0 && first & 0x70 == 0, "a frame in parts, or with an extension nobody asked for");
        let (bytes, payload) = match second {
            126 => match rest.first_chunk::<2>() {
                Some(&length) => (4, usize::from(u16::from_be_bytes(length))),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(&length) => (10, usize::try_from(u64::from_be_bytes(length))?),
                None => return Ok(None),
            },
            &length => (2, usize::from(length)),
        };
        ensure!(payload < FRAME_BYTES_MAX, "a frame of {payload} bytes");
        Ok(Some(Self { opcode: first & 0x0F, bytes, payload }))
    }
}

/// Appends a frame, as a client writes it, to others.
pub(crate) fn push_frame(frames: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    frames.push(FINAL | opcode);
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frames.push(MASKED | length.to_be_bytes()[1]),
        Ok(length) => {
            frames.push(MASKED | 126);
            frames.extend(length.to_be_bytes());
        }
        Err(_) => {
            frames.push(MASKED | 127);
            frames.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frames.extend([0; 4]);
    frames.extend(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client writes, as a server would write it: without a mask.
    fn served(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, TEXT, payload);
        let mask = bytes.len() - payload.len() - 4;
        bytes.drain(mask..mask + 4);
        bytes[1] &= !MASKED;
        bytes
    }

    #[test]
    fn a_head_of_any_length_is_read_back_once_it_is_whole() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let payload = vec![b'x'; length];
            let bytes = served(&payload);
            let head = Head::of(&bytes).expect("good").expect("whole");
            assert_eq!((head.opcode, &bytes[head.bytes..], head.payload), (TEXT, &payload[..], length));
            assert_eq!(Head::of(&bytes[..head.bytes - 1]).expect("good"), None, "{length}");
        }
    }

    #[test]
    fn a_head_is_read_when_all_of_it_is_there() {
        let head = |bytes: &[u8]| Head::of(bytes).expect("a server's head");
        assert_eq!(head(&[0x81]), None);
        assert_eq!(head(&[0x81, 5]), Some(Head { opcode: TEXT, bytes: 2, payload: 5 }));
        assert_eq!(head(&[0x81, 126, 1]), None);
        assert_eq!(head(&[0x81, 126, 1, 2]), Some(Head { opcode: TEXT, bytes: 4, payload: 258 }));
        assert_eq!(head(&[0x89, 127, 0, 0, 0, 0, 0, 1, 0]), None);
        let long = head(&[0x89, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(long, Some(Head { opcode: PING, bytes: 10, payload: 65_536 }));
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        for bytes in [[0x81, 0x85], [0x01, 5], [0xC1, 5]] {
            Head::of(&bytes).expect_err("masked, in parts, compressed");
        }
        Head::of(&[0x81, 127, 255, 0, 0, 0, 0, 0, 0, 0]).expect_err("too long");
    }

    #[test]
    fn what_no_node_writes_is_refused() {
        let mut masked = Vec::new();
        push_frame(&mut masked, TEXT, b"masked");
        Head::of(&masked).expect_err("only clients mask");
        Head::of(&[TEXT, 0]).expect_err("a fragment");
        Head::of(&[FINAL | TEXT, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]).expect_err("too large");
    }
}

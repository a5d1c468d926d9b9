//! A WebSocket with as little around it as can be: for generators that must not cost more than what they measure.
//!
//! A frame is found by its head and handed on where it lies in the buffer; nothing is copied, parsed or allocated for it,
//! and one read brings as many as there are. What is sent is masked with a key of zeros, as RFC 6455 allows by the letter:
//! the key protects proxies from scripts in browsers, and here is neither.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::bench::clients::frames::{CLOSE, FRAME_BYTES_MAX, Head, PING, PONG, TEXT, push_frame};

/// Patience with each step until the socket is greeted, and with a socket that takes nothing.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Room for one read. A frame that is longer makes its buffer grow.
const READ_BYTES: usize = 64 * 1024;

/// The side that is read.
#[derive(Debug)]
pub(super) struct Inbox {
    socket: OwnedReadHalf,
    bytes: Vec<u8>,
    filled: usize,
    /// Answers to pings of the other side, to be sent.
    pongs: Vec<u8>,
}

/// The side that is written.
#[derive(Debug)]
pub(super) struct Outbox {
    socket: OwnedWriteHalf,
}

/// Connects to `url` (http://…), speaks graphql-transport-ws, shows `token`, and waits until it is taken.
///
/// # Errors
/// What kept us from it.
pub(super) async fn open(url: &str, token: &str, client_id: &str) -> Result<(Inbox, Outbox)> {
    timeout(STEP_TIMEOUT, greet(url, token, client_id)).await.with_context(|| format!("no greeting from {url}"))?
}

async fn greet(url: &str, token: &str, client_id: &str) -> Result<(Inbox, Outbox)> {
    let address = url.strip_prefix("http://").with_context(|| format!("{url} is no plain address of HTTP"))?;
    let socket = TcpStream::connect(address).await.with_context(|| format!("can't connect to {url}"))?;
    socket.set_nodelay(true)?;
    let (inward, socket) = socket.into_split();
    let mut outbox = Outbox { socket };
    let handshake = format!(
        "GET /graphql/ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bWlsbGUgYmVuY2ggd2lyZQ==\r\n\
         Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
    );
    outbox.socket.write_all(handshake.as_bytes()).await?;
    let mut inbox = Inbox { socket: inward, bytes: vec![0; READ_BYTES], filled: 0, pongs: Vec::new() };
    inbox.take_handshake().await?;
    let init = json!({
        "type": "connection_init",
        "payload": { "Authorization": format!("Bearer {token}"), "clientId": client_id },
    });
    outbox.send(&text_frame(&init.to_string())).await?;
    let mut greeted = false;
    while !greeted {
        inbox.read(|text| greeted |= contains(text, b"\"connection_ack\"")).await?;
    }
    Ok((inbox, outbox))
}

impl Inbox {
    /// Reads once and hands on each text that is whole by then.
    ///
    /// # Errors
    /// When the other side closed or does not speak WebSocket.
    pub(super) async fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<()> {
        self.fill().await?;
        self.take_frames(&mut take)
    }

    /// What is to be sent to the other side, which asked whether we are there.
    pub(super) fn take_pongs(&mut self) -> Option<Vec<u8>> {
        (!self.pongs.is_empty()).then(|| std::mem::take(&mut self.pongs))
    }

    async fn fill(&mut self) -> Result<()> {
        if self.filled == self.bytes.len() {
            ensure!(self.filled < FRAME_BYTES_MAX, "a frame of more than {FRAME_BYTES_MAX} bytes");
            self.bytes.resize(self.filled * 2, 0);
        }
        match self.socket.read(&mut self.bytes[self.filled..]).await? {
            0 => bail!("the connection broke"),
            read => self.filled += read,
        }
        Ok(())
    }

    fn take_frames(&mut self, take: &mut impl FnMut(&[u8])) -> Result<()> {
        let mut start = 0;
        while let Some(head) = Head::of(&self.bytes[start..self.filled])? {
            let end = start + head.bytes + head.payload;
            if end > self.filled {
                break;
            }
            let payload = &self.bytes[start + head.bytes..end];
            match head.opcode {
                TEXT => take(payload),
                PING => push_frame(&mut self.pongs, PONG, payload),
                CLOSE => bail!("closed: {}", String::from_utf8_lossy(payload.get(2..).unwrap_or_default())),
                _ => {}
            }
            start = end;
        }
        self.bytes.copy_within(start..self.filled, 0);
        self.filled -= start;
        Ok(())
    }

    async fn take_handshake(&mut self) -> Result<()> {
        const END: &[u8] = b"\r\n\r\n";
        loop {
            self.fill().await?;
            let told = &self.bytes[..self.filled];
            if let Some(end) = told.windows(END.len()).position(|bytes| bytes == END) {
                let told = String::from_utf8_lossy(&told[..end]);
                ensure!(told.starts_with("HTTP/1.1 101"), "no WebSocket: {}", told.lines().next().unwrap_or_default());
                self.bytes.copy_within(end + END.len()..self.filled, 0);
                self.filled -= end + END.len();
                return Ok(());
            }
        }
    }
}

impl Outbox {
    /// Sends frames that are ready and waits until the kernel has them.
    ///
    /// # Errors
    /// When the socket is gone or takes nothing.
    pub(super) async fn send(&mut self, frames: &[u8]) -> Result<()> {
        timeout(STEP_TIMEOUT, self.socket.write_all(frames)).await.context("a socket takes nothing")??;
        Ok(())
    }
}

/// The bytes that a server's frame with so much payload has.
pub(super) fn frame_bytes(payload: usize) -> usize {
    payload
        + if payload < 126 {
            2
        } else if payload <= usize::from(u16::MAX) {
            4
        } else {
            10
        }
}

/// A frame with a text, as a client sends it.
pub(super) fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = Vec::with_capacity(text.len() + 14);
    push_text(&mut frame, text.as_bytes());
    frame
}

/// Appends a frame with a text to others.
pub(super) fn push_text(frames: &mut Vec<u8>, text: &[u8]) {
    push_frame(frames, TEXT, text);
}

/// Whether `word` stands in the text.
pub(super) fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|bytes| bytes == word)
}

/// Finds what follows a word in texts that are all alike: where it was last time, else wherever it is.
#[derive(Debug)]
pub(super) struct Field {
    word: &'static [u8],
    place: usize,
}

impl Field {
    pub(super) fn new(word: &'static [u8]) -> Self {
        Self { word, place: 0 }
    }

    /// The text behind the first place of the word that is found.
    pub(super) fn find<'a>(&mut self, text: &'a [u8]) -> Option<&'a [u8]> {
        let stands_at = |place: usize| text.get(place..).is_some_and(|text| text.starts_with(self.word));
        if !stands_at(self.place) {
            self.place = text.windows(self.word.len()).position(|bytes| bytes == self.word)?;
        }
        text.get(self.place + self.word.len()..)
    }
}

/// The whole number that a text begins with, and what follows it.
pub(super) fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = text[..digits]
        .iter()
        .try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    (digits > 0).then_some((value, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_ours_has_its_length_its_mask_and_its_text() {
        let long = "x".repeat(300);
        for (text, head) in [("hi", vec![0x81, 0x82]), (long.as_str(), vec![0x81, 0xFE, 1, 44])] {
            let frame = text_frame(text);
            let (start, rest) = frame.split_at(head.len());
            assert_eq!((start, &rest[..4], &rest[4..]), (head.as_slice(), &[0; 4][..], text.as_bytes()));
        }
    }

    #[test]
    fn a_field_is_found_where_it_was_and_where_it_moved_to() {
        let mut field = Field::new(b"\"revision\":\"");
        let find = |field: &mut Field, text: &str| field.find(text.as_bytes()).and_then(number).map(|found| found.0);
        assert_eq!(find(&mut field, r#"{"revision":"7-5","previousRevision":"7-4"}"#), Some(7));
        assert_eq!(find(&mut field, r#"{"revision":"9-5"}"#), Some(9));
        assert_eq!(find(&mut field, r#"{"previousRevision":"7-4","revision":"8-5"}"#), Some(8));
        assert_eq!(find(&mut field, r#"{"n":1}"#), None);
    }

    #[test]
    fn a_number_ends_where_digits_end_and_is_no_larger_than_it_can_be() {
        assert_eq!(number(b"12-3"), Some((12, &b"-3"[..])));
        assert_eq!(number(b"-3"), None);
        assert_eq!(number(b"99999999999999999999999"), None);
    }
}

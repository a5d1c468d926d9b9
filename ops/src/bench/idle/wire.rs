//! A WebSocket client that is small: the generator has to hold as many sockets as the nodes.
//!
//! A connection owns no buffer while nothing comes: bytes are read into room that all share, and only what is cut off in
//! the middle of a frame is kept. It says what a node must understand and reads what a node may say; it is no library.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::bench::clients::frames::{CLOSE, Head, PING, PONG, TEXT, push_frame};

/// Patience with the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// The head of an answer to a handshake is never as long.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Connections from one source address: the system has some 28,000 ports for each.
const CONNECTIONS_PER_SOURCE: usize = 10_000;

/// Where a socket goes, and what its handshake says.
#[derive(Debug)]
pub(super) struct Door<'a> {
    pub(super) address: SocketAddr,
    pub(super) path: &'a str,
    /// One header, without the end of its line.
    pub(super) header: &'a str,
}

/// An open socket.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// What was read and is no whole frame yet.
    partial: Vec<u8>,
}

impl Wire {
    /// Opens the socket with this number: from another source address for every ten thousand, if the node is on ours.
    ///
    /// # Errors
    /// When the node does not let it in.
    pub(super) async fn open(number: usize, door: &Door<'_>) -> Result<Self> {
        timeout(HANDSHAKE_TIMEOUT, Self::shake(number, door)).await.context("no answer to the handshake")?
    }

    async fn shake(number: usize, door: &Door<'_>) -> Result<Self> {
        let Door { address, path, header } = door;
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source(number, address.ip()) {
            socket.bind(SocketAddr::new(source.into(), 0))?;
        }
        let stream = socket.connect(*address).await.with_context(|| format!("can't connect to {address}"))?;
        stream.set_nodelay(true)?;
        let mut wire = Self { stream, partial: Vec::new() };
        let asked = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bWlsbGUgYmVuY2ggaWRsZQ==\r\n{header}\r\n\r\n"
        );
        wire.write(asked.as_bytes()).await?;
        let head = loop {
            match wire.partial.windows(4).position(|end| end == b"\r\n\r\n") {
                Some(end) => break wire.take(end + 4),
                None => ensure!(wire.partial.len() < HEAD_BYTES_MAX, "the answer to the handshake has no end"),
            }
            wire.read().await?;
        };
        let line = String::from_utf8_lossy(&head);
        ensure!(line.starts_with("HTTP/1.1 101"), "not let in: {}", line.lines().next().unwrap_or_default());
        Ok(wire)
    }

    /// The next text. Answers the protocol's own pings. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the socket is closed, with the code; there will be no more.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            while let Some(head) =
                Head::of(&self.partial)?.filter(|head| self.partial.len() >= head.bytes + head.payload)
            {
                let mut payload = self.take(head.bytes + head.payload);
                payload.drain(..head.bytes);
                match head.opcode {
                    TEXT => return Ok(payload),
                    // Small enough to go at once, unless the node takes nothing: then it will ask again.
                    PING => drop(self.stream.try_write(&written(PONG, &payload))),
                    PONG => {}
                    CLOSE => bail!("{}", closed(&payload)),
                    code => bail!("a frame of the kind {code}, which no node sends"),
                }
            }
            self.read().await?;
        }
    }

    /// Sends a text.
    ///
    /// # Errors
    /// When the socket is gone.
    pub(super) async fn send(&self, text: &str) -> Result<()> {
        self.write(&written(TEXT, text.as_bytes())).await
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        loop {
            self.stream.readable().await?;
            // Not across the wait: so it is the thread's and not the connection's.
            let mut room = [0; READ_BYTES];
            match self.stream.try_read(&mut room) {
                Ok(0) => bail!("the connection broke"),
                Ok(bytes) => {
                    self.partial.extend_from_slice(&room[..bytes]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes bytes from the front. When nothing is left, no room is kept either.
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.partial.split_off(bytes);
        let rest = if rest.is_empty() { Vec::new() } else { rest };
        std::mem::replace(&mut self.partial, rest)
    }
}

/// Another address of the loopback for each ten thousand after the first, which leave it to the system: who names an address
/// has it look for a port that nobody has at all, and with many open, it looks long.
fn source(number: usize, node: IpAddr) -> Option<Ipv4Addr> {
    let ten_thousands = u8::try_from(number / CONNECTIONS_PER_SOURCE).ok()?;
    (ten_thousands > 0 && node.is_loopback()).then(|| Ipv4Addr::new(127, 0, 0, 1 + ten_thousands))
}

fn written(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    push_frame(&mut frame, opcode, payload);
    frame
}

fn closed(payload: &[u8]) -> String {
    match payload {
        [a, b, reason @ ..] => {
            format!("closed with {} {}", u16::from_be_bytes([*a, *b]), String::from_utf8_lossy(reason))
        }
        _ => "closed without a code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_says_why() {
        assert_eq!(closed(b"\x03\xf5come again"), "closed with 1013 come again");
        assert_eq!(closed(b""), "closed without a code");
    }

    #[test]
    fn ports_do_not_run_short() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source(9_999, loopback), None, "the system chooses");
        assert_eq!(source(10_000, loopback), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source(20_000, loopback), Some(Ipv4Addr::new(127, 0, 0, 3)));
        assert_eq!(source(0, IpAddr::from([10, 0, 0, 1])), None, "elsewhere the system chooses");
    }
}

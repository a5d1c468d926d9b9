//! A WebSocket with nothing polite about it: any frame out, every frame and close code in.
//!
//! The polite clients, `Socket` and `PresenceSocket`, are built on it; tests of bad manners use it bare.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Uri};
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_websockets::{ClientBuilder, CloseCode, Error, Message, WebSocketStream, upgrade};

use crate::patience::{soon, within};

/// Bytes of a segment, as on most networks. On loopback one is half as large as the room of who reads nothing, and systems do
/// not send a part of one: who reads again would wait for the other side's next probe, half a minute and more.
const SEGMENT_BYTES: u32 = 1_448;
/// Bytes that may wait to be read; Linux takes it twice. Systems make more room for who reads much at first, and it would hide
/// who reads no more.
const UNREAD_BYTES: usize = 128 * 1024;
/// More than the system keeps for who reads nothing.
pub const KEPT_UNREAD_BYTES_MAX: u64 = 2 * UNREAD_BYTES as u64;

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// The close code; none when the connection ended without a close frame.
    pub code: Option<u16>,
    /// The reason beside the code.
    pub reason: String,
}

/// One thing that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Vec<u8>),
    /// A ping or a pong of the WebSocket itself.
    Control,
    /// The end.
    Closed(Closing),
}

/// What a handshake came to.
#[derive(Debug)]
pub enum Upgrade {
    /// A socket, with the subprotocol the node chose.
    Open(Box<RawSocket>, Option<String>),
    /// An HTTP answer instead of a socket.
    Refused(u16),
}

/// An open WebSocket.
#[derive(Debug)]
pub struct RawSocket {
    stream: WebSocketStream<TcpStream>,
    closed: Option<Closing>,
}

impl RawSocket {
    /// Shakes hands at `url` (`ws://…`), offering `subprotocols` and sending `headers`.
    ///
    /// # Errors
    /// When nobody listens, or the answer is no HTTP.
    pub async fn knock(url: &str, subprotocols: &[&str], headers: &[(&'static str, String)]) -> Result<Upgrade> {
        let uri: Uri = url.parse().with_context(|| format!("address {url}"))?;
        let host = uri.host().context("an address without a host")?.to_owned();
        let port = uri.port_u16().context("an address without a port")?;
        let mut builder = ClientBuilder::from_uri(uri);
        if !subprotocols.is_empty() {
            let offered = HeaderValue::from_str(&subprotocols.join(", "))?;
            builder = builder.add_header(http::header::SEC_WEBSOCKET_PROTOCOL, offered)?;
        }
        for (name, value) in headers {
            builder = builder.add_header(http::HeaderName::from_static(name), HeaderValue::from_str(value)?)?;
        }
        let tcp = connect(&host, port).await.with_context(|| format!("nobody listens at {url}"))?;
        tcp.set_nodelay(true)?;
        match within(soon(), "the WebSocket handshake", builder.connect_on(tcp)).await? {
            Ok((stream, response)) => {
                let chosen = response.headers().get(http::header::SEC_WEBSOCKET_PROTOCOL);
                let chosen = chosen.and_then(|value| value.to_str().ok()).map(str::to_owned);
                Ok(Upgrade::Open(Box::new(Self { stream, closed: None }), chosen))
            }
            Err(Error::Upgrade(upgrade::Error::DidNotSwitchProtocols(status))) => Ok(Upgrade::Refused(status)),
            Err(error) => Err(error).with_context(|| format!("handshake at {url}")),
        }
    }

    /// As [`RawSocket::knock`], for those who expect a socket.
    ///
    /// # Errors
    /// Also when the handshake is answered without a socket.
    pub async fn open(url: &str, subprotocols: &[&str]) -> Result<Self> {
        match Self::knock(url, subprotocols, &[]).await? {
            Upgrade::Open(socket, _) => Ok(*socket),
            Upgrade::Refused(status) => bail!("no socket at {url}, but HTTP {status}"),
        }
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn text(&mut self, text: impl Into<String>) -> Result<()> {
        Ok(self.stream.send(Message::text(text.into())).await?)
    }

    /// Sends a binary frame.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn binary(&mut self, bytes: Vec<u8>) -> Result<()> {
        Ok(self.stream.send(Message::binary(bytes)).await?)
    }

    /// Writes bytes past the WebSocket, straight into the connection.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let tcp = self.stream.get_mut();
        tcp.write_all(bytes).await?;
        Ok(tcp.flush().await?)
    }

    /// Closes politely with 1000.
    ///
    /// # Errors
    /// When the socket is closed already.
    pub async fn close(&mut self) -> Result<()> {
        Ok(self.stream.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), "")).await?)
    }

    /// Says that the page goes away, as browsers do for one that is reloaded.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn go_away(&mut self) -> Result<()> {
        Ok(self.stream.send(Message::close(Some(CloseCode::GOING_AWAY), "")).await?)
    }

    /// The next thing, however long it takes. After the end it is the end again.
    pub async fn next(&mut self) -> Frame {
        if let Some(closing) = &self.closed {
            return Frame::Closed(closing.clone());
        }
        let closing = match self.stream.next().await {
            Some(Ok(message)) => {
                if let Some(text) = message.as_text() {
                    return Frame::Text(text.to_owned());
                }
                if message.is_binary() {
                    return Frame::Binary(message.as_payload().to_vec());
                }
                match message.as_close() {
                    Some((code, reason)) => Closing { code: Some(code.into()), reason: reason.to_owned() },
                    None => return Frame::Control,
                }
            }
            Some(Err(error)) => Closing { code: None, reason: error.to_string() },
            None => Closing { code: None, reason: "the connection ended".to_owned() },
        };
        self.closed = Some(closing.clone());
        Frame::Closed(closing)
    }

    /// The next text frame.
    ///
    /// # Errors
    /// When the socket closes, sends binary, or stays silent.
    pub async fn next_text(&mut self) -> Result<String> {
        self.next_text_within(soon()).await
    }

    /// As [`RawSocket::next_text`], for what may take longer.
    ///
    /// # Errors
    /// As there, with silence for `patience`.
    pub async fn next_text_within(&mut self, patience: Duration) -> Result<String> {
        loop {
            match within(patience, "a text frame", self.next()).await? {
                Frame::Text(text) => return Ok(text),
                Frame::Control => {}
                other => bail!("a text frame was expected, not {other:?}"),
            }
        }
    }

    /// How the socket ends; whatever comes before is read away.
    ///
    /// # Errors
    /// When it stays open for `patience`.
    pub async fn closing(&mut self, patience: Duration) -> Result<Closing> {
        let end = async {
            loop {
                if let Frame::Closed(closing) = self.next().await {
                    return closing;
                }
            }
        };
        within(patience, "a close", end).await
    }
}

/// With segments of a network, and a receive buffer that does not grow.
async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    let address = lookup_host((host, port)).await?.find(SocketAddr::is_ipv4).context("a name of nobody")?;
    let socket = TcpSocket::new_v4()?;
    let options = SockRef::from(&socket);
    options.set_tcp_mss(SEGMENT_BYTES)?;
    options.set_recv_buffer_size(UNREAD_BYTES)?;
    Ok(socket.connect(address).await?)
}

//! What an OpenTelemetry collector is to a node: somewhere to post spans to, in protobuf.
//!
//! It reads what real nodes send with the real schema, and keeps it for the test to look at. One that refuses or says
//! nothing is a collector on a bad day.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A span as a node told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanTold {
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// What it is a part of; empty for the beginning of a trace.
    pub parent: String,
    /// What it is.
    pub name: String,
    /// Its kind, in small letters.
    pub kind: String,
    /// The `service.instance.id` of who told it.
    pub instance: String,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds from its beginning to its end.
    pub nanos: u64,
}

/// What happens to those who post something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It is taken.
    Taking,
    /// It is refused: 503.
    Refusing,
    /// It is read, and never answered.
    Silent,
}

/// A running collector. Dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Collector {
    /// One that takes what it is sent.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start() -> Result<Self> {
        Self::in_mood(Mood::Taking).await
    }

    /// One that behaves in a certain way.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn in_mood(mood: Mood) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who hangs up in the middle has said all it wanted to.
                tokio::spawn(serve(stream, mood, Arc::clone(&kept)));
            }
        });
        Ok(Self { port, heard, task })
    }

    /// What a node needs to know: the value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All that came, as text as far as it is any.
    #[must_use]
    pub fn everything(&self) -> String {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().map(|body| String::from_utf8_lossy(body) + "\n").collect()
    }

    /// All spans that came.
    ///
    /// # Errors
    /// When what came is no protobuf of spans.
    pub fn spans(&self) -> Result<Vec<SpanTold>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut spans = Vec::new();
        for body in heard {
            for group in ExportTraceServiceRequest::decode(&body[..])?.resource_spans {
                let resource = attributes(group.resource.context("spans of nobody")?.attributes);
                let instance = resource.get("service.instance.id").cloned().context("spans of no node")?;
                ensure!(resource.get("service.name").is_some_and(|name| name == "mille-node"), "{resource:?}");
                for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    spans.push(SpanTold {
                        trace: hex(&span.trace_id),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        kind: format!("{:?}", SpanKind::try_from(span.kind)?).to_lowercase(),
                        instance: instance.clone(),
                        nanos: span.end_time_unix_nano.checked_sub(span.start_time_unix_nano).context("no end")?,
                        attributes: attributes(span.attributes),
                        name: span.name,
                    });
                }
            }
        }
        Ok(spans)
    }

    /// The spans of one trace.
    ///
    /// # Errors
    /// As [`Collector::spans`].
    pub fn trace(&self, id: &str) -> Result<Vec<SpanTold>> {
        Ok(self.spans()?.into_iter().filter(|span| span.trace == id).collect())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, mood: Mood, heard: Arc<Mutex<Vec<Vec<u8>>>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(stream.read_line(&mut head).await? > 0, "hung up");
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no length")?;
        let mut body = vec![0; length.trim().parse()?];
        stream.read_exact(&mut body).await?;
        let is_right =
            head.starts_with("post /v1/traces http/1.1\r\n") && head.contains("content-type: application/x-protobuf");
        let status = match mood {
            Mood::Silent => std::future::pending().await,
            Mood::Refusing => "503 Service Unavailable",
            Mood::Taking if is_right => "200 OK",
            Mood::Taking => "400 Bad Request",
        };
        if status == "200 OK" {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(body);
        }
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.key, pair.value.map(text_of).unwrap_or_default())).collect()
}

fn text_of(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(is_so)) => is_so.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

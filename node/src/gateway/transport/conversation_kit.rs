//! Both ends of a socket as channels, and a schema that needs no plan: for the tests of a conversation.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_graphql::{Object, Schema, SimpleObject, Subscription};
use futures_util::stream::BoxStream;
use jsonwebtoken::{EncodingKey, Header};
use mille_shared::revocation::{Revocation, Revoked};
use mille_shared::{ErrorCode, UserId};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, PollSender};
use tokio_util::task::TaskTracker;

use super::super::{TransportLimits, TransportObserver};
use super::*;
use crate::drain::Drain;
use crate::gateway::auth::{AuthSettings, Authenticator, KeySettings};
use crate::gateway::errors::ApiError;
use crate::gateway::fanout::Groups;
use crate::gateway::shedding::Shedding;
use crate::gateway::transport::Documents;
use crate::metrics::Metrics;
use crate::pressure::Pressure;
use crate::quota::UserQuotas;

pub(super) const SECRET: &str = "a secret of more than 32 bytes, for tests";

// ---- a schema that needs no plan -------------------------------------------------------------------------------------

#[derive(Default, Clone)]
pub(super) struct World {
    /// Lets `slow` answer.
    pub(super) go: Arc<Notify>,
    /// How many events `flood` was asked for.
    pub(super) asked: Arc<AtomicUsize>,
    /// Cancelled when the session ends whose token `watch` was asked for.
    pub(super) session: Arc<std::sync::Mutex<Option<CancellationToken>>>,
}

pub(super) struct Query;
pub(super) struct Mutation;
pub(super) struct Events;

#[derive(SimpleObject, Clone)]
pub(super) struct Event {
    revision: String,
}

#[Object]
impl Query {
    async fn me(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<String> {
        let session = ctx.data::<Arc<Session>>()?;
        Ok(format!("{}/{}", session.identity().user_id, session.client_id()))
    }

    async fn slow(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<i32> {
        ctx.data::<World>()?.go.notified().await;
        Ok(7)
    }

    async fn large(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<String> {
        ctx.data::<World>()?.go.notified().await;
        Ok("x".repeat(1024 * 1024))
    }

    async fn panics(&self, really: bool) -> i32 {
        assert!(!really, "as asked");
        0
    }

    async fn watch(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<bool> {
        let ended = ctx.data::<Arc<Session>>()?.ended().clone();
        *ctx.data::<World>()?.session.lock().expect("no panic") = Some(ended);
        Ok(true)
    }

    async fn refused(&self) -> async_graphql::Result<Option<i32>> {
        Err(ApiError::new(ErrorCode::NotFound, "no such thing"))?
    }
}

#[Object]
impl Mutation {
    async fn refresh_auth(&self, ctx: &async_graphql::Context<'_>, token: String) -> async_graphql::Result<String> {
        Ok(ctx.data::<Arc<Session>>()?.refresh(&token).await?.user_id.to_string())
    }

    async fn large_edit(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<String> {
        ctx.data::<World>()?.go.notified().await;
        Ok("x".repeat(1024 * 1024))
    }

    async fn slow_edit(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<i32> {
        ctx.data::<World>()?.go.notified().await;
        Ok(8)
    }
}

#[Subscription(name = "Subscription")]
impl Events {
    async fn count(&self, to: i32) -> impl Stream<Item = Event> {
        futures_util::stream::iter((0..to).map(|n| Event { revision: format!("1-{n}") }))
    }

    async fn quiet(&self) -> impl Stream<Item = Event> {
        futures_util::stream::pending()
    }

    async fn flood(&self, ctx: &async_graphql::Context<'_>) -> async_graphql::Result<BoxStream<'static, Event>> {
        let asked = Arc::clone(&ctx.data::<World>()?.asked);
        Ok(futures_util::stream::repeat_with(move || {
            asked.fetch_add(1, Ordering::SeqCst);
            Event { revision: "1-1".to_owned() }
        })
        .boxed())
    }

    async fn lost(&self) -> impl Stream<Item = async_graphql::Result<Event>> {
        let forbidden = ApiError::new(ErrorCode::Forbidden, "no longer a member");
        let events =
            [Ok(Event { revision: "1-1".to_owned() }), Err(forbidden.into()), Ok(Event { revision: "1-3".to_owned() })];
        futures_util::stream::iter(events)
    }
}

// ---- both ends of a socket -------------------------------------------------------------------------------------------

pub(super) struct Pipe {
    inbound: mpsc::Receiver<Result<Message, axum::Error>>,
    outbound: PollSender<Message>,
    /// While set, what is sent stays in a library's buffer: there is room for more, and it is not flushed.
    is_stuck: Arc<AtomicBool>,
}

impl Pipe {
    fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::SeqCst)
    }
}

impl Stream for Pipe {
    type Item = Result<Message, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inbound.poll_recv(cx)
    }
}

impl Sink<Message> for Pipe {
    type Error = axum::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        if self.is_stuck() {
            return Poll::Ready(Ok(()));
        }
        self.outbound.poll_ready_unpin(cx).map_err(axum::Error::new)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), axum::Error> {
        if self.is_stuck() {
            return Ok(());
        }
        self.outbound.start_send_unpin(message).map_err(axum::Error::new)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        if self.is_stuck() {
            return Poll::Pending;
        }
        self.outbound.poll_flush_unpin(cx).map_err(axum::Error::new)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        self.outbound.poll_close_unpin(cx).map_err(axum::Error::new)
    }
}

#[derive(Default)]
pub(super) struct Counted {
    pub(super) subscriptions: AtomicUsize,
    pub(super) sent: AtomicUsize,
    pub(super) stalls: AtomicUsize,
    pub(super) revoked: AtomicUsize,
}

impl TransportObserver for Counted {
    fn sent(&self, _: Via, messages: u64) {
        self.sent.fetch_add(usize::try_from(messages).expect("few"), Ordering::SeqCst);
    }

    fn subscribed(&self) {
        self.subscriptions.fetch_add(1, Ordering::SeqCst);
    }

    fn unsubscribed(&self) {
        self.subscriptions.fetch_sub(1, Ordering::SeqCst);
    }

    fn stalled(&self) {
        self.stalls.fetch_add(1, Ordering::SeqCst);
    }

    fn revoked(&self, _: RevokedToken) {
        self.revoked.fetch_add(1, Ordering::SeqCst);
    }
}

/// The client's end.
pub(super) struct Client {
    pub(super) to: mpsc::Sender<Result<Message, axum::Error>>,
    pub(super) from: mpsc::Receiver<Message>,
    pub(super) task: JoinHandle<Ending>,
    pub(super) world: World,
    pub(super) drain: Drain,
    authenticator: Authenticator,
    pub(super) counted: Arc<Counted>,
    pub(super) taken: BytesTaken,
    pub(super) is_stuck: Arc<AtomicBool>,
    pub(super) pressure: Pressure,
}

/// Room for messages between the two ends.
pub(super) const ROOM: usize = 8;

impl Client {
    pub(super) async fn open(dialect: Dialect) -> Self {
        Self::open_within(dialect, TransportLimits::default()).await
    }

    pub(super) async fn open_within(dialect: Dialect, limits: TransportLimits) -> Self {
        let (to, inbound) = mpsc::channel(ROOM);
        let (outbound, from) = mpsc::channel(ROOM);
        let world = World::default();
        let settings = AuthSettings::new(KeySettings::Secret { secret: SECRET.to_owned(), next: None });
        let drain = Drain::default();
        let counted = Arc::new(Counted::default());
        let observer: Arc<dyn TransportObserver> = Arc::clone(&counted) as Arc<dyn TransportObserver>;
        let authenticator = Authenticator::new(&settings).await.expect("usable settings");
        let metrics = Arc::new(Metrics::new());
        let pressure = metrics.pressure.clone();
        let groups = Groups::new(
            authenticator.revoked().clone(),
            Arc::clone(&observer),
            limits.fan_out_moment_max,
            TaskTracker::new(),
        );
        let transport = Transport {
            groups,
            documents: Documents::default(),
            executor: Schema::build(Query, Mutation, Events).data(world.clone()).finish(),
            authenticator: authenticator.clone(),
            shedding: Shedding::new(metrics),
            limits,
            drain: drain.clone(),
            tasks: TaskTracker::new(),
            observer,
            quotas: UserQuotas::alone(),
            bodies: super::super::BodyRoom::new(1_000_000),
        };
        let is_stuck = Arc::new(AtomicBool::new(false));
        let pipe = Pipe { inbound, outbound: PollSender::new(outbound), is_stuck: Arc::clone(&is_stuck) };
        let taken = BytesTaken::default();
        let conversation =
            Conversation::new(pipe, dialect, None, taken.clone(), None, Introduction::default(), transport);
        let task = tokio::spawn(Box::new(conversation).run());
        Self { to, from, task, world, drain, authenticator, counted, taken, is_stuck, pressure }
    }

    pub(super) async fn ready() -> Self {
        let mut client = Self::open(Dialect::TransportWs).await;
        client.init(600).await;
        client
    }

    pub(super) async fn init(&mut self, lives_seconds: u64) {
        let payload = json!({"Authorization": format!("Bearer {}", token("ada", lives_seconds)), "clientId": "c1"});
        self.say(json!({"type": "connection_init", "payload": payload})).await;
        assert_eq!(self.hear().await["type"], "connection_ack");
    }

    pub(super) async fn say(&self, frame: Value) {
        self.say_raw(Message::Text(frame.to_string().into())).await;
    }

    pub(super) async fn say_raw(&self, message: Message) {
        self.to.send(Ok(message)).await.expect("the conversation goes on");
    }

    pub(super) async fn subscribe(&self, id: &str, query: &str) {
        self.say(json!({"type": "subscribe", "id": id, "payload": {"query": query}})).await;
    }

    /// The next frame.
    pub(super) async fn hear(&mut self) -> Value {
        match self.from.recv().await.expect("a frame") {
            Message::Text(text) => serde_json::from_str(&text).expect("a frame is JSON"),
            other => panic!("no frame: {other:?}"),
        }
    }

    /// The close, past whatever comes before it, and that the conversation ends so.
    pub(super) async fn closed(mut self) -> (u16, String) {
        while let Some(message) = self.from.recv().await {
            if let Message::Close(frame) = message {
                let frame = frame.expect("a code");
                drop(self.to);
                let ending = self.task.await.expect("no panic");
                assert_eq!(ending.code(), frame.code);
                assert_eq!(self.counted.subscriptions.load(Ordering::SeqCst), 0, "nothing runs on");
                return (frame.code, frame.reason.to_string());
            }
        }
        panic!("no close");
    }

    /// Revokes all tokens of a user.
    pub(super) fn revoke(&self, user: &str) {
        let now = crate::clock::now();
        let revocation = Revocation { what: Revoked::User(UserId::new(user)), at: now };
        self.authenticator.revoked().take(&[(revocation, now.after(Duration::from_secs(3_600)))]);
    }

    /// That nothing is said for now.
    pub(super) async fn silence(&mut self) {
        let heard = tokio::time::timeout(Duration::from_secs(1), self.from.recv()).await;
        assert!(heard.is_err(), "heard {heard:?}");
    }
}

pub(super) fn token(user: &str, lives_seconds: u64) -> String {
    let claims = json!({"sub": user, "exp": unix_seconds() + lives_seconds});
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

/// A token that says when it was issued.
pub(super) fn issued(user: &str, at: u64) -> String {
    let claims = json!({"sub": user, "iat": at, "exp": unix_seconds() + 600});
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

pub(super) fn code(frame: &Value) -> &str {
    frame["payload"][0]["extensions"]["code"].as_str().unwrap_or("no code")
}

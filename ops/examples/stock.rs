//! The stock way to tell many people of an edit: what `mille bench fanout` sets the nodes beside.
//!
//! Made of what the libraries' own documentation shows: async-graphql's WebSocket service for axum, a
//! `tokio::sync::broadcast` channel per plan, plain pub/sub over Redis with one PUBLISH per edit, and every instance
//! subscribed. A plan node is moved and everyone is told: nothing is checked, numbered, stored or sent again; a token is
//! its bearer's name, and the numbers in an event are each instance's own and mean nothing. Who reads too slowly loses
//! events without a word.
//!
//! An event has every field that a node's `planDagDeltaChanged` has, with values of the same length, so that frames are of
//! one size. The allocator, the runtime and TCP_NODELAY are those of a node too, and an event is shared by `Arc` where the
//! library allows it: what is left to be seen is the way of telling.
//!
//! It says its port, and runs until its standard input ends.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use async_graphql::futures_util::{Stream, StreamExt as _};
use async_graphql::http::ALL_WEBSOCKET_PROTOCOLS;
use async_graphql::{Context, Data, Enum, InputObject, Json, Object, Schema, SimpleObject, Subscription};
use async_graphql_axum::{GraphQLProtocol, GraphQLWebSocket};
use axum::extract::{State, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use fred::prelude::{Builder, Client, ClientLike as _, Config, EventInterface as _, PubsubInterface as _};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where edits are told from instance to instance.
const CHANNEL: &str = "stock:changes";

/// Events that a channel holds for the slowest; whoever is further behind has lost some.
const CHANNEL_CAPACITY: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Serialize, Deserialize)]
enum DeltaKind {
    Delta,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Serialize, Deserialize)]
enum PatchOp {
    Replace,
}

#[derive(Debug, Clone, SimpleObject, Serialize, Deserialize)]
struct PatchOperation {
    op: PatchOp,
    path: String,
    value: Option<Json<Value>>,
    from: Option<String>,
}

#[derive(Debug, Clone, SimpleObject, Serialize, Deserialize)]
struct PlanDagDeltaEvent {
    project_id: i32,
    plan_id: i32,
    kind: DeltaKind,
    version: u64,
    revision: String,
    previous_revision: Option<String>,
    user_id: String,
    client_id: String,
    operation_id: Option<String>,
    timestamp: String,
    operations: Vec<PatchOperation>,
    reason: Option<String>,
}

#[derive(Debug, InputObject)]
struct PositionInput {
    x: f64,
    y: f64,
}

#[derive(Debug, SimpleObject)]
struct PlanDagNode {
    id: String,
    revision: String,
}

/// Who is at the other end of a socket, as they say.
#[derive(Debug)]
struct Caller {
    user: String,
    client: String,
}

/// The channels to this instance's subscribers, by plan.
#[derive(Debug, Default)]
struct Channels {
    by_plan: Mutex<HashMap<i32, broadcast::Sender<Arc<PlanDagDeltaEvent>>>>,
}

impl Channels {
    fn of(&self, plan: i32) -> broadcast::Sender<Arc<PlanDagDeltaEvent>> {
        self.by_plan.lock().entry(plan).or_insert_with(|| broadcast::channel(CHANNEL_CAPACITY).0).clone()
    }
}

/// What every resolver needs.
struct Shared {
    channels: Channels,
    publisher: Client,
    edits: AtomicU64,
    epoch: u64,
}

struct Query;

#[Object]
impl Query {
    async fn health(&self) -> &'static str {
        "healthy"
    }
}

struct Mutation;

#[Object]
impl Mutation {
    async fn move_plan_dag_node(
        &self,
        context: &Context<'_>,
        project_id: i32,
        plan_id: i32,
        node_id: String,
        position: PositionInput,
        operation_id: Option<String>,
    ) -> async_graphql::Result<PlanDagNode> {
        let (shared, caller) = (context.data::<Arc<Shared>>()?, context.data::<Caller>()?);
        let version = shared.edits.fetch_add(1, Ordering::Relaxed);
        let revision = format!("{}-{}", shared.epoch, version + 1);
        let now = OffsetDateTime::now_utc();
        let timestamp = now.replace_millisecond(now.millisecond())?.format(&Rfc3339)?;
        let place = node_id.rsplit('-').next().unwrap_or_default();
        let replace = |field: &str, value: Value| PatchOperation {
            op: PatchOp::Replace,
            path: format!("/nodes/{place}/{field}"),
            value: Some(Json(value)),
            from: None,
        };
        let event = PlanDagDeltaEvent {
            project_id,
            plan_id,
            kind: DeltaKind::Delta,
            version: version + 1,
            revision: revision.clone(),
            previous_revision: Some(format!("{}-{version}", shared.epoch)),
            user_id: caller.user.clone(),
            client_id: caller.client.clone(),
            operation_id,
            operations: vec![
                replace("position", json!({ "x": position.x, "y": position.y })),
                replace("updatedAt", timestamp.clone().into()),
            ],
            timestamp,
            reason: None,
        };
        shared.publisher.publish::<(), _, _>(CHANNEL, serde_json::to_string(&event)?).await?;
        Ok(PlanDagNode { id: node_id, revision })
    }
}

struct Subscriptions;

#[Subscription]
impl Subscriptions {
    async fn plan_dag_delta_changed(
        &self,
        context: &Context<'_>,
        #[graphql(name = "projectId")] _project_id: i32,
        plan_id: i32,
        #[graphql(name = "after")] _after: Option<String>,
    ) -> async_graphql::Result<impl Stream<Item = Arc<PlanDagDeltaEvent>> + use<>> {
        let events = BroadcastStream::new(context.data::<Arc<Shared>>()?.channels.of(plan_id).subscribe());
        // An error says that events were lost.
        Ok(events.filter_map(|event| std::future::ready(event.ok())))
    }
}

type Served = Schema<Query, Mutation, Subscriptions>;

async fn upgrade(State(schema): State<Served>, protocol: GraphQLProtocol, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .protocols(ALL_WEBSOCKET_PROTOCOLS)
        .on_upgrade(move |socket| GraphQLWebSocket::new(socket, schema, protocol).on_connection_init(greet).serve())
}

async fn greet(payload: Value) -> async_graphql::Result<Data> {
    let text = |key: &str| payload[key].as_str().unwrap_or_default().to_owned();
    let mut data = Data::default();
    let user = text("Authorization").trim_start_matches("Bearer ").to_owned();
    data.insert(Caller { user, client: text("clientId") });
    Ok(data)
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).context("stock REDIS_URL")?;
    let config = Config::from_url(&url)?;
    let publisher = Builder::from_config(config.clone()).build()?;
    publisher.init().await?;
    let mut builder = Builder::from_config(config);
    builder.with_performance_config(|config| config.broadcast_channel_capacity = CHANNEL_CAPACITY);
    let subscriber = builder.build_subscriber_client()?;
    subscriber.init().await?;
    let mut messages = subscriber.message_rx();
    subscriber.subscribe(CHANNEL).await?;

    let epoch = u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000)?;
    let shared = Arc::new(Shared { channels: Channels::default(), publisher, edits: AtomicU64::new(0), epoch });
    let schema = Schema::build(Query, Mutation, Subscriptions).data(Arc::clone(&shared)).finish();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    let router = axum::Router::new().route("/graphql/ws", get(upgrade)).with_state(schema);

    let telling = async {
        loop {
            let message = match messages.recv().await {
                Ok(message) => message,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            let Some(text) = message.value.as_bytes_str() else { continue };
            let Ok(event) = serde_json::from_str::<PlanDagDeltaEvent>(&text) else { continue };
            // Nobody listens, perhaps.
            drop(shared.channels.of(event.plan_id).send(Arc::new(event)));
        }
    };
    let asked_to_end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        served = axum::serve(listener, router) => served.context("it serves no longer"),
        () = telling => anyhow::bail!("Redis tells nothing any more"),
        ended = asked_to_end => ended?.map(drop).context("its input can't be read"),
    }
}

//! `mille bench idle`: what a connection costs that does nothing.
//!
//! Most people look most of the time, so most sockets are silent. The bench opens many on one node, lets them be, and tells
//! how much memory the node needs for each: before anything happened, and after each was told of one edit, since what a
//! socket needed once it may keep. Memory is what the system counts as resident, and is waited for until it stands still;
//! what is told per connection is the growth since before there was any room, so the share of the room it sits in, its
//! project and its plan, is in it. A node keeps what it once needed: each run wants a cluster of its own.

mod crowd;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::json;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep};

use super::{count_up_to, wait_until};
use crate::bench::cluster::ground::{self, TOKEN_TTL};
use crate::bench::cluster::usage::Meter;
use crate::bench::report::{Promise, conclude};
use crate::client::Client;
use crate::output::{Output, refused};
use crate::process::raise_open_files;
use crate::state::{Node, State};
use crate::status::table;
use crate::target::Target;
use crate::token::Claims;
use crowd::{Crowd, Kind, Room, Seat};

/// What a connection may need at most, in bytes.
const BYTES_PER_CONNECTION_MAX: f64 = 10.0 * 1024.0;
/// Rooms being made, or left, at once.
const ROOMS_AT_ONCE: usize = 16;
/// Files of ours that are no connections.
const OTHER_FILES: u64 = 64;
/// Memory stands still when it changed by less than this, in bytes, for so long.
const STILL_BYTES: u64 = 256 * 1024;
const STILL_FOR: Duration = Duration::from_secs(3);
/// It is not waited for longer than this.
const SETTLE_WITHIN: Duration = Duration::from_secs(40);
/// From a node's first subscription to the edit that it is told of: nothing says that it has begun.
const SETTLE: Duration = Duration::from_secs(1);
/// Until everybody was told of an edit.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
/// Who makes the rooms and edits in them.
const OWNER: &str = "bench-owner";

/// `mille bench idle`
#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    /// State directory of the local cluster [default: the nearest .mille here or above].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Connections in all.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = count_up_to::<100_000>())]
    connections: u32,
    /// What they are: GraphQL sockets with a subscription, presence sockets that have joined, or half of each.
    #[arg(long, value_enum, default_value_t = Kinds::Both)]
    kind: Kinds,
    /// Connections in one project, with one plan, one document and one user.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count_up_to::<200>())]
    per_room: u32,
    /// How long nothing happens. A ping to each comes every 20 s.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = count_up_to::<600>())]
    seconds: u32,
    /// The node they are on [default: the last one].
    #[arg(long, value_name = "NAME", conflicts_with = "everywhere")]
    node: Option<String>,
    /// Spreads them over all nodes.
    #[arg(long)]
    everywhere: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
enum Kinds {
    Graphql,
    Presence,
    Both,
}

impl Kinds {
    /// The kind of the connection with this number in its room.
    fn of(self, number: usize) -> Kind {
        match self {
            Self::Graphql => Kind::Graphql,
            Self::Presence => Kind::Presence,
            Self::Both if number.is_multiple_of(2) => Kind::Presence,
            Self::Both => Kind::Graphql,
        }
    }
}

/// Runs it; the exit code says whether a connection was as small as promised, and everybody stayed and was told.
pub(crate) async fn run(args: &IdleArgs, output: Output) -> Result<ExitCode> {
    let (state, dir) = ground::cluster(args.state.as_deref(), 1)?;
    let nodes = match args.everywhere {
        true => state.nodes.clone(),
        false => vec![state.nodes[ground::node_index(&state, &dir, args.node.as_deref())?].clone()],
    };
    let files = raise_open_files();
    if files < u64::from(args.connections) + OTHER_FILES {
        return Err(refused(format!(
            "only {files} files may be open; see `ulimit -Hn`, or run this several times at once"
        )));
    }
    let owner = Client::new(Target::node(&state, &nodes[0].url, OWNER), "mille-bench")?;
    let count = args.connections.div_ceil(args.per_room);
    let first = make_room(&owner, &state, count).await?;
    let warm = warm_up(args.kind, &nodes, &owner, &first).await;
    leave_room(&owner, &first, output).await;
    warm?;
    // The projects are there for the connections, so they are no part of what was before.
    output.note("mille: waiting until the memory stands still");
    let memory = Memory::begin(&nodes).await;
    output.note(format_args!("mille: making {count} projects"));
    let made = stream::iter((0..count).map(|number| make_room(&owner, &state, number)));
    let rooms: Vec<Arc<Room>> = made.buffered(ROOMS_AT_ONCE).try_collect().await?;
    let findings = measure(args, &nodes, &owner, &rooms, memory, output).await;
    let left = stream::iter(&rooms).for_each_concurrent(ROOMS_AT_ONCE, |room| leave_room(&owner, room, output));
    left.await;
    let findings = findings?;
    conclude(output, &findings, &findings.text(), &findings.promises())
}

async fn make_room(owner: &Client, state: &State, number: u32) -> Result<Arc<Room>> {
    let (project, plan) = ground::make_project(owner).await?;
    let user = format!("bench-idle-{number}");
    let admit = "mutation Bench($projectId: Int!, $userId: String!) {
        setCollaborator(projectId: $projectId, userId: $userId, role: VIEWER) { userId }
    }";
    owner.ask(admit, json!({ "projectId": project, "userId": user })).await?;
    let token = Claims::new(&user, TOKEN_TTL).sign(&state.jwt_secret)?;
    Ok(Arc::new(Room { project, plan, user, token }))
}

async fn leave_room(owner: &Client, room: &Room, output: Output) {
    if let Err(error) = ground::delete_project(owner, room.project).await {
        output.note(format_args!("mille: the bench's project {} could not be deleted: {error:#}", room.project));
    }
}

/// Has each node serve a connection or two: the code and the connections to Redis that a node uses for the first time are there
/// once, and no part of what each connection takes.
async fn warm_up(kind: Kinds, nodes: &[Node], owner: &Client, room: &Arc<Room>) -> Result<()> {
    let mut seats = Vec::new();
    for node in nodes {
        let address = address_of(node).await?;
        seats.extend((0..2).map(|place| seat(kind, place, address, room)));
    }
    let count = seats.len();
    let crowd = Crowd::open(seats).await?;
    sleep(SETTLE).await;
    tell_all(kind, owner, std::slice::from_ref(room), &crowd, count).await?;
    ensure!(crowd.told() == count, "a connection was not told: {:?}", crowd.reasons());
    Ok(())
}

fn seat(kind: Kinds, place: usize, node: SocketAddr, room: &Arc<Room>) -> Seat {
    let kind = kind.of(place);
    Seat { kind, node, room: Arc::clone(room), moves: place == 0 && kind == Kind::Presence }
}

/// Edits every plan and moves in every document once, and waits until all are told.
async fn tell_all(kind: Kinds, owner: &Client, rooms: &[Arc<Room>], crowd: &Crowd, count: usize) -> Result<()> {
    crowd.next_round();
    if kind != Kinds::Presence {
        let edits = stream::iter(rooms).map(|room| edit(owner, room)).buffer_unordered(ROOMS_AT_ONCE);
        edits.try_for_each(|()| async { Ok(()) }).await?;
    }
    wait_until(TOLD_WITHIN, || crowd.told() + crowd.ended() >= count).await;
    Ok(())
}

async fn measure(
    args: &IdleArgs,
    nodes: &[Node],
    owner: &Client,
    rooms: &[Arc<Room>],
    mut memory: Memory,
    output: Output,
) -> Result<Findings> {
    let count = args.connections as usize;
    let mut addresses = Vec::new();
    for node in nodes {
        addresses.push(address_of(node).await?);
    }
    let seat_of = |number: usize| {
        let (room, place) = (number % rooms.len(), number / rooms.len());
        // By rooms: a room is on one node, so that it is open no more often than needed.
        seat(args.kind, place, addresses[room % addresses.len()], &rooms[room])
    };
    let (before, with_rooms) = (memory.before, memory.settled().await);
    output.note(format_args!("mille: opening {count} connections"));
    let began = Instant::now();
    let crowd = Crowd::open((0..count).map(seat_of).collect()).await?;
    let opened_in = began.elapsed();
    let idle = memory.settled().await;

    output.note(format_args!("mille: nothing happens for {} s", args.seconds));
    let mut meters: Vec<Meter> = nodes.iter().map(|node| Meter::of(&node.name, node.pid)).collect();
    let began = Instant::now();
    sleep(Duration::from_secs(u64::from(args.seconds))).await;
    let cpu: f64 = meters.iter_mut().flat_map(Meter::read).map(|cost| cost.cpu_seconds).sum();
    let cpu_per_second = cpu / began.elapsed().as_secs_f64();

    output.note("mille: one edit in every plan, one move in every document");
    tell_all(args.kind, owner, rooms, &crowd, count).await?;
    let told = memory.settled().await;
    Ok(Findings {
        bench: "idle",
        nodes: nodes.len(),
        connections: count,
        kind: args.kind,
        per_room: args.per_room,
        seconds: args.seconds,
        opened_in_seconds: opened_in.as_secs_f64(),
        rss_before_bytes: before,
        rss_rooms_bytes: with_rooms,
        rss_idle_bytes: idle,
        rss_told_bytes: told,
        idle_bytes_per_connection: per_connection(before, idle, count),
        told_bytes_per_connection: per_connection(before, told, count),
        cpu_seconds_per_second_idle: cpu_per_second,
        told: crowd.told(),
        ended: crowd.ended(),
        reasons: crowd.reasons(),
    })
}

fn per_connection(before: u64, after: u64, count: usize) -> f64 {
    (after as f64 - before as f64) / count as f64
}

/// Whether a connection is as small as promised. One that needs nothing was not measured: a node that had more connections
/// before keeps the room of theirs.
fn is_small(bytes: f64) -> bool {
    bytes > 0.0 && bytes <= BYTES_PER_CONNECTION_MAX
}

async fn address_of(node: &Node) -> Result<SocketAddr> {
    let host = node.url.strip_prefix("http://").with_context(|| format!("{} speaks TLS", node.name))?;
    let mut found = lookup_host(host).await.with_context(|| format!("{host} can't be found"))?;
    found.find(SocketAddr::is_ipv4).with_context(|| format!("{host} has no address that we can use"))
}

async fn edit(owner: &Client, room: &Room) -> Result<()> {
    let mutation = "mutation Bench($projectId: Int!, $planId: Int, $changes: [PlanDagChangeInput!]!) {
        applyPlanDagChanges(projectId: $projectId, planId: $planId, changes: $changes) { revision }
    }";
    let node = json!({
        "id": "bench", "nodeType": "MergeNode", "position": { "x": 0, "y": 0 }, "metadata": { "label": "bench" }, "config": "{}",
    });
    let changes = json!([{ "addNode": { "node": node } }]);
    let data =
        owner.ask(mutation, json!({ "projectId": room.project, "planId": room.plan, "changes": changes })).await?;
    ensure!(data["applyPlanDagChanges"]["revision"].is_string(), "an edit was answered without a revision");
    Ok(())
}

/// The memory of some nodes together.
#[derive(Debug)]
struct Memory {
    meters: Vec<Meter>,
    /// Bytes once they stood still for the first time.
    before: u64,
}

impl Memory {
    async fn begin(nodes: &[Node]) -> Self {
        let meters = nodes.iter().map(|node| Meter::of(&node.name, node.pid)).collect();
        let mut memory = Self { meters, before: 0 };
        memory.before = memory.settled().await;
        memory
    }

    /// Bytes, once they stand still, or after as long as we wait for it.
    async fn settled(&mut self) -> u64 {
        let deadline = Instant::now() + SETTLE_WITHIN;
        let (mut level, mut since) = (self.read(), Instant::now());
        while since.elapsed() < STILL_FOR && Instant::now() < deadline {
            sleep(STILL_FOR / 10).await;
            let now = self.read();
            if now.abs_diff(level) > STILL_BYTES {
                (level, since) = (now, Instant::now());
            }
        }
        self.read()
    }

    fn read(&mut self) -> u64 {
        self.meters.iter_mut().flat_map(Meter::read).map(|cost| cost.rss_bytes).sum()
    }
}

/// What can be said of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    bench: &'static str,
    /// Those that had connections.
    nodes: usize,
    connections: usize,
    kind: Kinds,
    per_room: u32,
    seconds: u32,
    opened_in_seconds: f64,
    /// Of those nodes together: before the projects were made, with them, with everybody there, and after everybody was told
    /// once. What a connection takes is counted from the first: its share of a project's actor is its own.
    rss_before_bytes: u64,
    rss_rooms_bytes: u64,
    rss_idle_bytes: u64,
    rss_told_bytes: u64,
    idle_bytes_per_connection: f64,
    told_bytes_per_connection: f64,
    /// Of the nodes together, while nothing happened but pings.
    cpu_seconds_per_second_idle: f64,
    /// Connections that were told of the edit or the move after that.
    told: usize,
    /// Connections that ended before the end.
    ended: usize,
    reasons: Vec<String>,
}

impl Findings {
    fn promises(&self) -> Vec<Promise> {
        let kib = |bytes: f64| format!("{:.1} KiB", bytes / 1024.0);
        let (idle, told) = (self.idle_bytes_per_connection, self.told_bytes_per_connection);
        let max = BYTES_PER_CONNECTION_MAX / 1024.0;
        vec![
            Promise::new(format!("at most {max} KiB per idle connection"), is_small(idle), kib(idle)),
            Promise::new(format!("at most {max} KiB after each was told once"), is_small(told), kib(told)),
            Promise::new(
                "all stay",
                self.ended == 0,
                match self.reasons.first() {
                    None => "all".to_owned(),
                    Some(why) => format!("{} ended, the first one {why}", self.ended),
                },
            ),
            Promise::new(
                "everyone is told after it",
                self.told == self.connections,
                format!("{} of {}", self.told, self.connections),
            ),
        ]
    }

    fn text(&self) -> String {
        let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let per = |bytes: f64| format!("{:.2}", bytes / 1024.0);
        let rows = [
            ["MEMORY", "RSS MiB", "KiB PER CONNECTION"].map(str::to_owned).to_vec(),
            vec!["before".to_owned(), mebibytes(self.rss_before_bytes), "-".to_owned()],
            vec!["with the projects".to_owned(), mebibytes(self.rss_rooms_bytes), "-".to_owned()],
            vec!["idle".to_owned(), mebibytes(self.rss_idle_bytes), per(self.idle_bytes_per_connection)],
            vec![
                "after each was told once".to_owned(),
                mebibytes(self.rss_told_bytes),
                per(self.told_bytes_per_connection),
            ],
        ];
        format!(
            "{} connections ({:?}) on {} node(s), {} in a project; opened in {:.1} s\n\n{}\n\n\
             processor seconds per second while idle for {} s: {:.3}, {:.2} µs per connection",
            self.connections,
            self.kind,
            self.nodes,
            self.per_room,
            self.opened_in_seconds,
            table(&rows),
            self.seconds,
            self.cpu_seconds_per_second_idle,
            self.cpu_seconds_per_second_idle * 1e6 / self.connections as f64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_both_kinds_are_of_each_and_the_first_is_present() {
        let count = (0..50).filter(|number| Kinds::Both.of(*number) == Kind::Presence).count();
        assert_eq!((count, Kinds::Both.of(0), Kinds::Graphql.of(0)), (25, Kind::Presence, Kind::Graphql));
    }

    #[test]
    fn a_node_that_did_not_grow_was_not_new_and_shows_nothing() {
        assert!(!is_small(per_connection(100, 50, 10)));
        assert!(is_small(per_connection(0, 10_240, 1)) && !is_small(per_connection(0, 10_241, 1)));
    }
}

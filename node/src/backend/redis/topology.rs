//! Keeps up with which server serves what.
//!
//! Asked are the servers themselves, or the sentinels: every second, more often while a server does not answer, and at once
//! when one seems lost or said that it does not serve a key. A server that is new is connected to, and serves its slots as
//! soon as it is; until then they stay where they were. A server that has no part any more is left a while later, so that
//! answers on their way still come.
//!
//! The client library can do this too, and does it out of sight: it says nothing when the slot of a subscription moves,
//! stays with a primary that is frozen, and has one queue for all servers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fred::error::Error as FredError;
use fred::interfaces::FredResult;
use fred::types::Value;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join, join_all};
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::access::{Address, Seeds};
use super::cluster::{self, Believed, Layout, Opinion};
use super::map::Map;
use super::pubsub::Subscription;
use super::route::Redis;
use super::scout::{self, Scout};
use super::secure::not_let_in;
use super::sentinel::{self, Word};
use super::server::{Context, Server};
use super::{ConnectError, watchdog};
use crate::beat;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a server of ours does not answer: another may take its place at any moment.
const LOST_LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The least time between two looks, whatever happens.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long the others are waited for once most have answered.
const LATE_OPINIONS: Duration = Duration::from_millis(50);
/// Strangers that are asked at once when no server of ours answers.
const STRANGERS_MAX: usize = 8;
/// How long connecting to a server may take, with all that belongs to it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server that has no part any more is kept.
const KEPT_FOR: Duration = Duration::from_secs(2);
/// Servers that were connected to, or could not be, and that nobody looked at yet.
const OPENED_MAX: usize = 16;

/// Who should serve what, by the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// One server for everything: the first of these that agrees.
    One(Vec<Address>),
    /// Several.
    Many(Layout),
}

impl Wanted {
    fn addresses(&self) -> &[Address] {
        match self {
            Self::One(candidates) => candidates.get(..1).unwrap_or_default(),
            Self::Many(layout) => &layout.primaries,
        }
    }
}

/// Who looks.
pub(super) struct Topology {
    context: Arc<Context>,
    scouts: HashMap<Address, Scout>,
    wanted: Wanted,
    /// All servers that are connected.
    servers: Vec<Arc<Server>>,
    /// Since when one has no part any more.
    left: HashMap<Address, Instant>,
    opening: HashSet<Address>,
    /// Where to begin when all that is known is gone.
    everyone: Vec<Address>,
    /// Something is other than when the map was made last.
    is_stale: bool,
    /// The newest epoch in which a sentinel spoke.
    believed: u64,
    /// The same of servers of a cluster.
    opinions: Believed,
}

impl Topology {
    /// Looks for the first time, and connects to all there are.
    ///
    /// # Errors
    /// [`ConnectError`] if nobody answers, or not the server without which no node serves.
    pub(super) async fn begin(context: Arc<Context>) -> Result<(Self, Map), ConnectError> {
        let mut topology = Self {
            context,
            scouts: HashMap::new(),
            wanted: Wanted::One(Vec::new()),
            servers: Vec::new(),
            left: HashMap::new(),
            opening: HashSet::new(),
            everyone: Vec::new(),
            is_stale: false,
            believed: 0,
            opinions: Believed::default(),
        };
        topology.wanted = match &topology.context.access.seeds {
            Seeds::Single(address) => Wanted::One(vec![address.clone()]),
            Seeds::Sentinel { .. } | Seeds::Cluster(_) => topology.look().await.map_err(|error| not_let_in(&error))?,
        };
        let mut failure = None;
        let opening = topology.wanted.addresses().to_vec();
        for opened in join_all(opening.iter().map(|address| open(&topology.context, address))).await {
            match opened {
                Ok(server) => topology.servers.push(server),
                Err(error) if error.is_of_settings() => return Err(error),
                Err(error) => failure = Some(error),
            }
        }
        let nobody = || ConnectError::Unreachable("nobody serves there".to_owned());
        let map = topology.map(None).ok_or_else(|| failure.take().unwrap_or_else(nobody))?;
        if map.at(super::keys::LEASES).is_none() {
            return Err(failure.unwrap_or_else(nobody));
        }
        Ok((topology, map))
    }

    /// Keeps the map as it should be, until the node stops.
    pub(super) async fn keep(mut self, redis: Arc<Redis>) {
        if !self.context.access.is_moving() {
            return;
        }
        let (opened, mut opens) = mpsc::channel(OPENED_MAX);
        let mut ticks = beat::ticks(LOOK_INTERVAL);
        let stop = self.context.stop.clone();
        let (mut looked, mut is_due) = (Instant::now(), false);
        loop {
            let is_lost = self.servers.iter().any(|server| !server.gate.is_closed());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((address, server)) = opens.recv() => self.opened(address, server),
                () = self.context.trouble.notified(), if !is_due => {
                    is_due = true;
                    continue;
                }
                () = async {
                    tokio::select! {
                        () = sleep_until(looked + LOOK_PAUSE), if is_due => {}
                        () = sleep_until(looked + LOST_LOOK_INTERVAL), if is_lost => {}
                        _ = ticks.tick() => {}
                    }
                } => {
                    is_due = false;
                    match stop.run_until_cancelled(self.look()).await {
                        None => return,
                        Some(Ok(wanted)) => {
                            self.is_stale |= wanted != self.wanted;
                            self.doubt_channels(&wanted);
                            self.wanted = wanted;
                        }
                        Some(Err(error)) => tracing::debug!(%error, "nobody says who serves what"),
                    }
                    looked = Instant::now();
                    self.open_missing(&opened);
                }
            }
            self.settle(&redis);
            redis.looks.send_modify(|looks| *looks += 1);
        }
    }

    /// A slot that came back to a server between two looks has lost its subscriptions there.
    fn doubt_channels(&self, wanted: &Wanted) {
        let (Wanted::Many(before), Wanted::Many(now)) = (&self.wanted, wanted) else { return };
        for address in now.grown_since(before) {
            if let Some(server) = self.servers.iter().find(|server| server.address == *address) {
                server.line.doubt();
                self.context.moved.notify_one();
            }
        }
    }

    /// Exchanges the map if it should be another, and leaves whoever has no part any more.
    fn settle(&mut self, redis: &Redis) {
        let before = redis.map();
        let map = std::mem::take(&mut self.is_stale).then(|| self.map(Some(&before))).flatten();
        if let Some(map) = map.filter(|map| !map.is_like(&before)) {
            tracing::info!(
                servers = map.servers().len(),
                shards = map.shards().len(),
                uncovered_slots = map.uncovered(),
                "other servers serve redis' slots now"
            );
            redis.set_map(map);
            self.context.moved.notify_one();
        }
        let (now, map) = (Instant::now(), redis.map());
        let has_part = |server: &Arc<Server>| {
            self.wanted.addresses().contains(&server.address)
                || map.shards().iter().any(|shard| map.at_slot(shard.0).is_some_and(|at| Arc::ptr_eq(at, server)))
        };
        let (kept, idle): (Vec<_>, Vec<_>) = self.servers.drain(..).partition(has_part);
        self.servers = kept;
        self.left.retain(|address, _| idle.iter().any(|server| server.address == *address));
        for server in idle {
            let since = *self.left.entry(server.address.clone()).or_insert(now);
            if now.duration_since(since) < KEPT_FOR {
                self.servers.push(server);
            } else {
                tracing::info!(server = %server.address, "left: it serves nothing of ours any more");
                self.left.remove(&server.address);
                self.is_stale = true;
                server.leave();
            }
        }
    }

    /// Who serves what, of those that are connected. A slot whose server is not stays with the one it had.
    fn map(&self, before: Option<&Map>) -> Option<Map> {
        match &self.wanted {
            Wanted::One(candidates) => {
                let server = self.servers.iter().find(|server| candidates.first() == Some(&server.address))?;
                Some(Map::single(Arc::clone(server)))
            }
            Wanted::Many(layout) => {
                let connected: HashSet<&Address> = self.servers.iter().map(|server| &server.address).collect();
                let owner = |slot| {
                    let had = before.and_then(|map| map.at_slot(slot)).map(|server| &server.address);
                    let has = layout.owner(slot).filter(|owner| connected.contains(owner));
                    has.or(had.filter(|had| connected.contains(had))).cloned()
                };
                Some(Map::sharded(self.servers.clone(), owner, layout.aliases.clone()))
            }
        }
    }

    /// Begins to connect to whoever is wanted and is not connected.
    fn open_missing(&mut self, opened: &mpsc::Sender<(Address, Option<Arc<Server>>)>) {
        let missing: Vec<Address> = self.wanted.addresses().iter().filter(|a| !self.is_known(a)).cloned().collect();
        for address in missing {
            self.opening.insert(address.clone());
            let (context, opened) = (Arc::clone(&self.context), opened.clone());
            self.context.tasks.spawn(async move {
                let server = open(&context, &address).await;
                if let Err(error) = &server {
                    tracing::warn!(%error, server = %address, "a server of redis can't be connected to");
                }
                // If nobody takes it, it is dropped with the node.
                let _ = opened.send((address, server.ok())).await;
            });
        }
    }

    fn opened(&mut self, address: Address, server: Option<Arc<Server>>) {
        self.opening.remove(&address);
        self.servers.extend(server);
        self.is_stale = true;
        // A sentinel may be wrong: then the next in question is tried.
        if let Wanted::One(candidates) = &mut self.wanted
            && candidates.first() == Some(&address)
            && !self.servers.iter().any(|server| server.address == address)
        {
            candidates.rotate_left(1);
        }
    }

    fn is_known(&self, address: &Address) -> bool {
        self.opening.contains(address) || self.servers.iter().any(|server| server.address == *address)
    }

    /// Asks who serves what.
    async fn look(&mut self) -> FredResult<Wanted> {
        match &self.context.access.seeds {
            Seeds::Single(address) => Ok(Wanted::One(vec![address.clone()])),
            Seeds::Sentinel { sentinels, service } => {
                let (sentinels, service) = (sentinels.clone(), service.clone());
                self.ask_sentinels(&sentinels, &service).await
            }
            Seeds::Cluster(_) => self.ask_cluster().await,
        }
    }

    async fn ask_sentinels(&mut self, sentinels: &[Address], service: &str) -> FredResult<Wanted> {
        let access = &self.context.access;
        for sentinel in sentinels {
            self.scouts.entry(sentinel.clone()).or_insert_with(|| Scout::new(access.to_sentinel(sentinel)));
        }
        let asking = self.scouts.iter_mut().map(|(address, scout)| async move {
            let answer = scout.ask("sentinel", &["master", service]).await?;
            let told: BTreeMap<String, String> = answer.convert()?;
            let place = scout.ask("sentinel", &["get-master-addr-by-name", service]).await;
            Ok(sentinel::word(&told, place.and_then(|place| place.convert()).ok(), address))
        });
        let words: Vec<FredResult<Option<Word>>> = most(asking.collect()).await;
        let heard: Vec<Word> = words.iter().filter_map(|word| word.as_ref().ok()?.clone()).collect();
        let heard = sentinel::fresh(heard, self.believed, sentinels.len());
        if heard.is_empty() {
            return Err(words.into_iter().find_map(Result::err).unwrap_or_else(no_answer));
        }
        self.believed = sentinel::newest(&heard);
        Ok(Wanted::One(sentinel::candidates(&heard)))
    }

    async fn ask_cluster(&mut self) -> FredResult<Wanted> {
        let by_name = self.context.access.has_tls();
        let asking = self.servers.iter().filter(|server| server.gate.is_closed()).map(|server| async move {
            let client = &server.client;
            let (info, nodes) =
                join(scout::ask(client, "cluster", &["info"]), scout::ask(client, "cluster", &["nodes"])).await;
            heard(info?, nodes?, &server.address, by_name)
        });
        let heard = most(asking.collect()).await.into_iter().filter_map(Result::ok).flatten().collect();
        let mut opinions = self.opinions.fresh(heard, Instant::now());
        match opinions.is_empty() {
            true => {
                let heard = self.ask_strangers(by_name).await?;
                opinions = self.opinions.fresh(heard, Instant::now());
            }
            // Nobody else is needed any more.
            false => self.scouts.clear(),
        }
        let layout = cluster::layout(&opinions).ok_or_else(no_answer)?;
        self.everyone.clone_from(&layout.everyone);
        Ok(Wanted::Many(layout))
    }

    /// Asks those we are not connected to: replicas, and those of the URL.
    async fn ask_strangers(&mut self, by_name: bool) -> FredResult<Vec<Opinion>> {
        let access = &self.context.access;
        let Seeds::Cluster(seeds) = &access.seeds else { return Ok(Vec::new()) };
        let asked: HashSet<&Address> = seeds.iter().chain(&self.everyone).take(STRANGERS_MAX).collect();
        self.scouts.retain(|address, _| asked.contains(address));
        for address in asked {
            self.scouts.entry(address.clone()).or_insert_with(|| Scout::new(access.to(address)));
        }
        let asking = self.scouts.iter_mut().map(|(address, scout)| async move {
            let info = scout.ask("cluster", &["info"]).await?;
            heard(info, scout.ask("cluster", &["nodes"]).await?, address, by_name)
        });
        let answers: Vec<FredResult<Option<Opinion>>> = most(asking.collect()).await;
        let (heard, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        let heard: Vec<Opinion> = heard.into_iter().filter_map(Result::ok).flatten().collect();
        match failed.into_iter().find_map(Result::err) {
            Some(error) if heard.is_empty() => Err(error),
            _ => Ok(heard),
        }
    }
}

/// Waits until most have answered, and a little for the others.
async fn most<T>(mut asking: FuturesUnordered<impl Future<Output = FredResult<T>>>) -> Vec<FredResult<T>> {
    let (all, mut answers) = (asking.len(), Vec::new());
    let mut late = None;
    loop {
        let next = match late {
            None => asking.next().await,
            Some(deadline) => timeout_at(deadline, asking.next()).await.ok().flatten(),
        };
        let Some(answer) = next else { return answers };
        answers.push(answer);
        if 2 * answers.iter().filter(|answer| answer.is_ok()).count() > all {
            late.get_or_insert_with(|| Instant::now() + LATE_OPINIONS);
        }
    }
}

fn heard(info: Value, nodes: Value, asked: &Address, by_name: bool) -> FredResult<Option<Opinion>> {
    let (info, nodes): (String, String) = (info.convert()?, nodes.convert()?);
    Ok(cluster::opinion(&info, &nodes, asked, by_name))
}

fn no_answer() -> FredError {
    FredError::new(fred::error::ErrorKind::Cluster, "nobody who is in a majority says who serves what")
}

async fn open(context: &Arc<Context>, address: &Address) -> Result<Arc<Server>, ConnectError> {
    let late = || ConnectError::Unreachable(format!("{address} does not answer"));
    timeout(OPEN_TIMEOUT, Server::open(context, address)).await.unwrap_or_else(|_| Err(late()))
}

/// Has channels follow their slots, until the node stops.
pub(super) async fn follow(subscription: Arc<Subscription>, context: Arc<Context>) {
    let mut is_whole = true;
    // One for each server at most: one that does not answer holds up no other.
    let mut repairs = FuturesUnordered::<BoxFuture<'_, (Address, bool)>>::new();
    let mut busy = HashSet::new();
    loop {
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return,
            Some((address, is_done)) = repairs.next(), if !repairs.is_empty() => {
                busy.remove(&address);
                if !is_done {
                    is_whole = false;
                    continue;
                }
            }
            () = context.moved.notified() => {}
            () = sleep(watchdog::PING_INTERVAL), if !is_whole => {}
        }
        let (due, is_all) = subscription.repairs(&busy);
        is_whole = is_all;
        for repair in due {
            let (address, subscription) = (repair.server.address.clone(), &subscription);
            busy.insert(address.clone());
            repairs.push(Box::pin(async move { (address, subscription.repair(repair).await) }));
        }
    }
}

//! The promise: whatever people do and whatever is lost or dies meanwhile, once it is over every roster tells the truth:
//! that of each node, and those that sockets have put together from what they were told.
//!
//! A random story on three nodes, in chapters. In each, people come, go, reload, open documents, move and change status,
//! while messages between nodes are lost and, in two chapters, a node is killed and comes back. The test keeps a list of
//! the sockets that are open. After a chapter nothing happens any more, and within the grace (or the lease,
//! if a node died and that is longer) and two seconds everyone must agree with that list.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use anyhow::{Context as _, Result, bail, ensure};
use mille_tests::{Cluster, PresenceSocket, Project, documents as d, eventually, patience, seed, soon};
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

const NODES: usize = 3;
/// The lease of the nodes, in seconds.
const LEASE_SECONDS: f64 = 3.0;
/// The grace of a closed socket, and what a lost message may take to be made good.
const SETTLED_SECONDS: f64 = 12.0;
/// Things that happen in a chapter.
const EVENTS: usize = 70;
const TABS_MAX: usize = 15;
/// Has a tab at each node, which only a dying node closes.
const OWNER: &str = "ada";
const PEOPLE: [&str; 5] = ["bob", "cyd", "dan", "eve", "fay"];
/// Is only at the node that is killed next, and does not come back.
const LODGER: &str = "lodger";
/// A document has one type, so that nobody is refused.
const DOCUMENTS: [(&str, &str); 4] =
    [("plan", "canvas"), ("board", "canvas"), ("sheet", "spreadsheet"), ("line", "timeline")];
/// The most present first: who has several tabs is as present as the most present one.
const STATUSES: [&str; 3] = ["active", "idle", "away"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_losses_reloads_and_deaths_every_roster_tells_the_truth() -> Result<()> {
    let mut story = Story::begin(seed()).await?;
    let told = story.tell().await;
    told.with_context(|| format!("what happened:\n{}", story.diary.join("\n")))
}

/// The first reload was not heard of at the node of the second. That it was later is known to the client's token alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reloads_twice_keeps_the_place_though_a_node_missed_the_first_reload() -> Result<()> {
    let cluster = Cluster::of(NODES).proxied().start().await?;
    let owner = cluster.user(0, OWNER);
    let project = owner.create_project("harbour").await?;
    for user in PEOPLE {
        owner.share(&project, user, "VIEWER").await?;
    }
    let mut witness = owner.presence(&project).await?;
    // The last node's id is the greatest of all, the first one's the smallest: by itself the elder would win.
    let first = Tab::join(&cluster, &project, "bob", 1, None).await?;
    let passing = Tab::join(&cluster, &project, "cyd", 1, None).await?;
    for user in ["bob", "cyd"] {
        witness.next_where("user_presence", soon(), |presence| presence["userId"] == user).await?;
    }
    cluster.proxy(0)?.lose_presence(u32::MAX);
    let second = first.join_again(&cluster, &project, 2).await?;
    ensure!(second.connection == first.connection, "the first reload is resumed");
    let mut third = second.join_again(&cluster, &project, 0).await?;
    ensure!(third.connection == first.connection, "the second reload is resumed");
    cluster.proxy(0)?.lose_presence(0);
    drop((first, second));
    drop(passing);
    // Cyd is gone after the grace, and so would be whoever is taken for gone.
    let is_gone = |presence: &Value| presence["userId"] == "cyd" && presence["isOnline"] == false;
    witness.next_where("user_presence", patience(SETTLED_SECONDS), is_gone).await?;
    third.catch_up().await.context("the newest page keeps its socket")?;
    for node in 0..NODES {
        let presence = cluster.user(node, OWNER).ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
        ensure!(roster_of(&presence)?.contains_key("bob"), "node {node} has lost bob: {presence}");
    }
    Ok(())
}

struct Story {
    cluster: Cluster,
    project: Project,
    random: SmallRng,
    tabs: Vec<Tab>,
    dead: Option<usize>,
    /// What happened, for whoever must find out why.
    diary: Vec<String>,
}

/// An open socket of a person, and the truth about it.
struct Tab {
    user: &'static str,
    node: usize,
    node_id: String,
    connection: String,
    resume: String,
    document: usize,
    status: usize,
    /// Whether it took an earlier place.
    is_resumed: bool,
    /// Whether it was here when the lodger was.
    met_lodger: bool,
    socket: PresenceSocket,
    view: View,
}

/// What a socket knows by what it was told.
#[derive(Default)]
struct View {
    people: Roster,
    documents: BTreeMap<String, BTreeSet<String>>,
    left: BTreeSet<String>,
}

type Roster = BTreeMap<String, Person>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Person {
    /// Not known by sockets, which are not told when only that changes.
    connections: Option<u64>,
    status: String,
    /// Document and type.
    documents: BTreeMap<String, String>,
}

impl Story {
    async fn begin(seed: u64) -> Result<Self> {
        let lease = LEASE_SECONDS.to_string();
        let cluster = Cluster::of(NODES).proxied().with("MILLE_NODE_LEASE_SECONDS", &lease).start().await?;
        let owner = cluster.user(0, OWNER);
        let project = owner.create_project("harbour").await?;
        for user in PEOPLE.into_iter().chain([LODGER]) {
            owner.share(&project, user, "VIEWER").await?;
        }
        let random = SmallRng::seed_from_u64(seed);
        Ok(Self { cluster, project, random, tabs: Vec::new(), dead: None, diary: Vec::new() })
    }

    async fn tell(&mut self) -> Result<()> {
        for node in 0..NODES {
            self.open(OWNER, node).await?;
        }
        self.chapter(false, None).await?;
        for _ in 0..2 {
            let doomed = self.random.random_range(0..NODES);
            self.chapter(true, Some(doomed)).await?;
        }
        let lost: u32 = (0..NODES).map(|node| self.cluster.proxy(node).map_or(0, |line| line.lost_presence())).sum();
        ensure!(lost > 0, "no message was lost: this run shows little");
        self.cluster.must_live()
    }

    /// Trouble, and then the truth.
    async fn chapter(&mut self, is_lossy: bool, doomed: Option<usize>) -> Result<()> {
        if let Some(doomed) = doomed {
            self.open(LODGER, doomed).await?;
            self.settle(SETTLED_SECONDS).await.context("the lodger came, nothing else")?;
            self.tabs.iter_mut().for_each(|tab| tab.met_lodger = true);
        }
        self.reload_in_calm().await?;
        let (death, rebirth) = (self.random.random_range(10..30), self.random.random_range(35..60));
        for event in 0..EVENTS {
            match doomed {
                Some(doomed) if event == death => self.kill(doomed).await?,
                Some(doomed) if event == rebirth => self.revive(doomed).await?,
                _ => self.something(is_lossy).await?,
            }
        }
        // The grace and the lease run side by side.
        self.settle(SETTLED_SECONDS.max(LEASE_SECONDS + 2.0)).await?;
        if doomed.is_some() {
            let witnesses = self.tabs.iter().filter(|tab| tab.met_lodger);
            let blind: Vec<_> =
                witnesses.clone().filter(|tab| !tab.view.left.contains(LODGER)).map(Tab::name).collect();
            ensure!(blind.is_empty(), "not told that the lodger went: {blind:?}");
            ensure!(witnesses.count() >= NODES - 1, "the owner saw it at each node that lived on");
            for tab in &mut self.tabs {
                (tab.met_lodger, tab.view.left) = (false, BTreeSet::new());
            }
        }
        Ok(())
    }

    async fn something(&mut self, is_lossy: bool) -> Result<()> {
        let Some(tab) = self.some_tab() else { return self.open_somewhere().await };
        match self.random.random_range(0..100) {
            0..20 if self.tabs.len() < TABS_MAX => self.open_somewhere().await,
            0..30 => self.close(tab).await,
            30..50 => self.reload(tab).await,
            50..65 => {
                let document = self.random.random_range(0..DOCUMENTS.len());
                self.note(&format!("{} opens {}", self.tabs[tab].name(), DOCUMENTS[document].0));
                self.tabs[tab].open_document(document).await
            }
            65..85 => self.tabs[tab].move_cursor(self.random.random_range(0..1_000)).await,
            85..92 => {
                let status = self.random.random_range(0..STATUSES.len());
                self.note(&format!("{} is {}", self.tabs[tab].name(), STATUSES[status]));
                self.tabs[tab].set_status(status).await
            }
            _ if is_lossy => {
                let (node, count) = (self.some_node(), self.random.random_range(1..=20));
                self.note(&format!("node {node} will miss {count} messages"));
                self.cluster.proxy(node)?.lose_presence(count);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn open_somewhere(&mut self) -> Result<()> {
        let (user, node) = (PEOPLE.choose(&mut self.random).copied().context("people")?, self.some_node());
        self.open(user, node).await
    }

    async fn open(&mut self, user: &'static str, node: usize) -> Result<()> {
        let mut tab = Tab::join(&self.cluster, &self.project, user, node, None).await?;
        self.note(&format!("{} comes", tab.name()));
        tab.open_document(self.random.random_range(0..DOCUMENTS.len())).await?;
        self.tabs.push(tab);
        Ok(())
    }

    async fn close(&mut self, tab: usize) -> Result<()> {
        let mut tab = self.tabs.swap_remove(tab);
        let manner = self.random.random_range(0..3);
        self.note(&format!("{} goes {}", tab.name(), ["at once", "politely", "without a word"][manner]));
        match manner {
            0 => tab.socket.send("leave_session", json!({})).await,
            1 => tab.socket.raw().close().await,
            _ => Ok(()),
        }
    }

    /// As pages do: the new one shows the token of the old one and says again what it shows.
    async fn reload(&mut self, tab: usize) -> Result<()> {
        let old = self.tabs.swap_remove(tab);
        let node = self.some_node();
        let overtakes = self.random.random_bool(0.3);
        self.come_back(old, node, overtakes).await
    }

    /// Whoever reloads when all is quiet has their place back as it was, without saying anything again.
    async fn reload_in_calm(&mut self) -> Result<()> {
        let Some(index) = self.some_tab() else { return Ok(()) };
        let mut old = self.tabs.swap_remove(index);
        let node = self.some_node();
        let name = old.name();
        let mut tab = old.join_again(&self.cluster, &self.project, node).await?;
        self.note(&format!("{name} reloads in calm as {}", tab.name()));
        ensure!(tab.is_resumed, "{name}: the resume token gave no place back");
        (tab.document, tab.status) = (old.document, old.status);
        let closing = old.socket.closing(soon()).await?;
        ensure!(closing.code == Some(1000), "{name}: the superseded socket ends with {closing:?}");
        self.tabs.push(tab);
        Ok(())
    }

    async fn come_back(&mut self, old: Tab, node: usize, overtakes: bool) -> Result<()> {
        let name = old.name();
        let Tab { user, connection, resume, document, status, socket, .. } = old;
        // Closed before the new page is there, or after.
        let lingering = overtakes.then_some(socket);
        let mut tab = Tab::join(&self.cluster, &self.project, user, node, Some((&connection, &resume))).await?;
        drop(lingering);
        self.note(&format!("{name} comes back as {}, overtaking its close: {overtakes}", tab.name()));
        tab.set_status(status).await?;
        tab.open_document(document).await?;
        self.tabs.push(tab);
        Ok(())
    }

    async fn kill(&mut self, doomed: usize) -> Result<()> {
        self.note(&format!("node {doomed} is killed"));
        self.cluster.kill_9(doomed)?;
        self.dead = Some(doomed);
        let (torn, kept): (Vec<Tab>, Vec<Tab>) = take(&mut self.tabs).into_iter().partition(|tab| tab.node == doomed);
        self.tabs = kept;
        for old in torn {
            if old.user == OWNER || old.user == LODGER || self.random.random_bool(0.4) {
                self.note(&format!("{} stays away", old.name()));
            } else {
                let node = self.some_node();
                self.come_back(old, node, false).await?;
            }
        }
        Ok(())
    }

    async fn revive(&mut self, doomed: usize) -> Result<()> {
        if self.random.random_bool(0.5) {
            let witness = self.tabs.iter_mut().find(|tab| tab.user == OWNER).context("the owner")?;
            eventually(patience(LEASE_SECONDS + 2.0), async || {
                witness.catch_up().await?;
                ensure!(witness.view.left.contains(LODGER), "{} still has the lodger", witness.name());
                Ok(())
            })
            .await
            .context("a dead node's people go with its lease")?;
            self.note("the lodger is gone");
        }
        self.cluster.restart(doomed).await?;
        self.dead = None;
        self.note(&format!("node {doomed} is back"));
        self.open(OWNER, doomed).await
    }

    /// Nothing is lost any more, nobody does anything, and soon all agree.
    async fn settle(&mut self, seconds: f64) -> Result<()> {
        self.note("nothing happens any more");
        let Self { cluster, project, tabs, .. } = self;
        for node in 0..NODES {
            cluster.proxy(node)?.lose_presence(0);
        }
        let truth = truth(tabs);
        eventually(patience(seconds), async || {
            for tab in tabs.iter_mut() {
                tab.catch_up().await?;
                tab.must_know(&truth)?;
            }
            let mut places = Vec::new();
            for node in 0..NODES {
                let owner = cluster.user(node, OWNER);
                let presence = owner.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
                same(&roster_of(&presence)?, &truth).with_context(|| format!("node {node}"))?;
                places.push(places_of(&presence));
                let health = owner.ask(d::HEALTH, "projectHealth", json!({"p": project.id})).await?;
                the_census_is(&health, tabs).with_context(|| format!("node {node}: {health}"))?;
            }
            ensure!(places.iter().all(|place| *place == places[0]), "nodes differ in places: {places:#?}");
            Ok(())
        })
        .await
    }

    /// Any tab that may be touched.
    fn some_tab(&mut self) -> Option<usize> {
        let may = |tab: &Tab| tab.user != OWNER && tab.user != LODGER;
        (0..self.tabs.len()).filter(|index| may(&self.tabs[*index])).choose(&mut self.random)
    }

    /// Any node that lives.
    fn some_node(&mut self) -> usize {
        let dead = self.dead;
        (0..NODES).filter(|node| Some(*node) != dead).choose(&mut self.random).unwrap_or_default()
    }

    fn note(&mut self, what: &str) {
        self.diary.push(what.to_owned());
    }
}

impl Tab {
    /// Opens a socket and joins, with the connection and the token of an earlier one or none.
    async fn join(
        cluster: &Cluster,
        project: &Project,
        user: &'static str,
        node: usize,
        earlier: Option<(&str, &str)>,
    ) -> Result<Self> {
        let mut socket = PresenceSocket::connect(&cluster.user(node, user), project.id).await?;
        let mut welcome = socket.next("welcome").await?;
        let people = roster_of(&socket.join(earlier.map(|(_, resume)| resume)).await?)?;
        let mut view = View { people: without_connections(people), ..View::default() };
        for message in socket.everything().await? {
            // Who got an earlier place back is welcomed again, by its name.
            if message["type"] == "welcome" {
                ensure!(
                    earlier.is_some_and(|(connection, _)| message["data"]["connectionId"] == connection),
                    "{message}"
                );
                welcome = message["data"].clone();
            }
            view.hear(&message)?;
        }
        let text = |field: &str| Ok::<_, anyhow::Error>(welcome[field].as_str().context("a text")?.to_owned());
        Ok(Self {
            user,
            node,
            node_id: text("nodeId")?,
            connection: text("connectionId")?,
            resume: text("resumeToken")?,
            document: 0,
            status: 0,
            is_resumed: earlier.is_some_and(|(connection, _)| welcome["connectionId"] == connection),
            met_lodger: false,
            socket,
            view,
        })
    }

    async fn join_again(&self, cluster: &Cluster, project: &Project, node: usize) -> Result<Self> {
        Self::join(cluster, project, self.user, node, Some((&self.connection, &self.resume))).await
    }

    async fn open_document(&mut self, document: usize) -> Result<()> {
        let (id, kind) = DOCUMENTS[document];
        self.document = document;
        self.socket.switch_document(id, kind).await
    }

    async fn set_status(&mut self, status: usize) -> Result<()> {
        self.status = status;
        self.socket.send("update_status", json!({"status": STATUSES[status]})).await
    }

    async fn move_cursor(&mut self, to: u32) -> Result<()> {
        let (id, kind) = DOCUMENTS[self.document];
        let mut position = match kind {
            "canvas" => json!({"x": to, "y": 1}),
            "spreadsheet" => json!({"row": to, "column": 1}),
            _ => json!({"timestamp": to}),
        };
        position["type"] = json!(kind);
        let data = json!({"documentId": id, "documentType": kind, "position": position, "timestamp": to});
        self.socket.send("cursor_update", data).await
    }

    async fn catch_up(&mut self) -> Result<()> {
        for message in self.socket.everything().await.with_context(|| self.name())? {
            self.view.hear(&message).with_context(|| self.name())?;
        }
        Ok(())
    }

    fn must_know(&self, truth: &Roster) -> Result<()> {
        same(&self.view.people, &without_connections(truth.clone())).with_context(|| self.name())?;
        let document = DOCUMENTS[self.document].0;
        let there: BTreeSet<String> = truth
            .iter()
            .filter(|(_, person)| person.documents.contains_key(document))
            .map(|(id, _)| id.clone())
            .collect();
        let told = self.view.documents.get(document);
        ensure!(told == Some(&there), "{} knows {told:?} in {document}, there are {there:?}", self.name());
        Ok(())
    }

    fn name(&self) -> String {
        format!("{} at node {} ({})", self.user, self.node, self.connection)
    }
}

impl View {
    fn hear(&mut self, message: &Value) -> Result<()> {
        let data = &message["data"];
        match message["type"].as_str() {
            Some("bulk_presence") => self.people = without_connections(roster_of(data)?),
            Some("user_presence") if data["isOnline"] == true => {
                let (user, mut person) = person_of(data)?;
                person.connections = None;
                self.people.insert(user, person);
            }
            Some("user_presence") => {
                let (user, _) = person_of(data)?;
                self.people.remove(&user);
                self.left.insert(user);
            }
            Some("document_activity") => {
                let id = data["documentId"].as_str().context("a document")?.to_owned();
                let users = data["activeUsers"].as_array().context("a list")?;
                let users = users.iter().map(|user| Ok(user["userId"].as_str().context("a user")?.to_owned()));
                self.documents.insert(id, users.collect::<Result<_>>()?);
            }
            Some("error") => bail!("an error: {message}"),
            _ => {}
        }
        Ok(())
    }
}

/// What everyone should see.
fn truth(tabs: &[Tab]) -> Roster {
    let mut truth = Roster::new();
    for tab in tabs {
        let all: Vec<&Tab> = tabs.iter().filter(|other| other.user == tab.user).collect();
        let documents =
            all.iter().map(|one| DOCUMENTS[one.document]).map(|(id, kind)| (id.to_owned(), kind.to_owned()));
        let person = Person {
            connections: Some(all.len() as u64),
            status: STATUSES[all.iter().map(|one| one.status).min().unwrap_or_default()].to_owned(),
            documents: documents.collect(),
        };
        truth.insert(tab.user.to_owned(), person);
    }
    truth
}

fn same(seen: &Roster, truth: &Roster) -> Result<()> {
    let mut seen = seen.clone();
    for (user, person) in &mut seen {
        // Whoever has done nothing for a while is shown as idle. How soon is another test's matter.
        if person.status == "idle" && truth.get(user).is_some_and(|true_one| true_one.status == "active") {
            "active".clone_into(&mut person.status);
        }
    }
    ensure!(seen == *truth, "knows {seen:#?}\nthe truth is {truth:#?}");
    Ok(())
}

fn roster_of(list: &Value) -> Result<Roster> {
    list.as_array().context("a list")?.iter().map(person_of).collect()
}

fn person_of(presence: &Value) -> Result<(String, Person)> {
    let text = |value: &Value| Ok::<_, anyhow::Error>(value.as_str().context("a text")?.to_owned());
    let documents = presence["documents"].as_object().context("documents")?;
    let documents = documents.iter().map(|(id, one)| Ok((id.clone(), text(&one["documentType"])?)));
    let person = Person {
        connections: presence["connections"].as_u64(),
        status: text(&presence["status"])?.to_lowercase(),
        documents: documents.collect::<Result<_>>()?,
    };
    Ok((text(&presence["userId"])?, person))
}

fn without_connections(mut roster: Roster) -> Roster {
    roster.values_mut().for_each(|person| person.connections = None);
    roster
}

/// Where everyone's cursor is, by user and document.
fn places_of(presence: &Value) -> BTreeMap<String, Value> {
    let mut places = BTreeMap::new();
    for one in presence.as_array().into_iter().flatten() {
        for (id, document) in one["documents"].as_object().into_iter().flatten() {
            places.insert(format!("{} in {id}", one["userId"]), document["position"].clone());
        }
    }
    places
}

/// That a census counts these tabs, over all nodes and per node.
fn the_census_is(health: &Value, tabs: &[Tab]) -> Result<()> {
    let counts =
        |value: &Value| ["activeUsers", "activeConnections", "activeDocuments"].map(|field| value[field].as_u64());
    let counted = |tabs: &[&Tab]| {
        let users: BTreeSet<&str> = tabs.iter().map(|tab| tab.user).collect();
        let documents: BTreeSet<usize> = tabs.iter().map(|tab| tab.document).collect();
        [users.len(), tabs.len(), documents.len()].map(|count| Some(count as u64))
    };
    ensure!(counts(health) == counted(&tabs.iter().collect::<Vec<_>>()), "the sum");
    let mut due: BTreeMap<&str, Vec<&Tab>> = BTreeMap::new();
    for tab in tabs {
        due.entry(&tab.node_id).or_default().push(tab);
    }
    let nodes = health["nodes"].as_array().context("nodes")?;
    ensure!(nodes.len() == due.len(), "{} nodes with people", nodes.len());
    for node in nodes {
        let id = node["nodeId"].as_str().context("an id")?;
        let there = due.get(id).with_context(|| format!("nobody is at {id}"))?;
        ensure!(counts(node) == counted(there), "{id}");
    }
    Ok(())
}

//! One side of a comparison: who serves, which plans there are, and who listens to and edits each.
//!
//! The nodes of the cluster, or as many instances of the stock example on the same Redis. Both are asked in the same words
//! by the same clients, so nothing beyond this file knows which of them it has before it.
//!
//! Several plans have a project each, listeners of their own in equal shares, and one editor each; one plan has all of both.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::course::FIRST_NUMBER;
use super::wire::STEP_TIMEOUT;
use crate::bench::cluster::ground::{Ground, SUBSCRIBERS_PER_USER};
use crate::output::{Output, refused};
use crate::process::{give_back_at_once, share_of_cores};

/// What listeners and editors call themselves.
pub(super) const CLIENT_ID: &str = "mille-bench";

/// Projects being made at once.
const MAKING_MAX: usize = 16;

/// How many of whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cast {
    pub(super) plans: usize,
    /// In all, a multiple of the plans.
    pub(super) listeners: usize,
    pub(super) editors: usize,
}

/// A project and its plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) project: i32,
    pub(super) plan: i32,
}

/// One side.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) places: Vec<Place>,
    /// Plan nodes in each plan, `bench-0` and so on.
    pub(super) plan_nodes: u32,
    /// Names and pids of those who serve.
    pub(super) processes: Vec<(String, u32)>,
    /// The number of the next edit: none is made twice in a plan.
    pub(super) next_number: u32,
    urls: Vec<String>,
    cast: Cast,
    listener_tokens: Vec<Arc<str>>,
    editor_tokens: Vec<Arc<str>>,
    /// The instances of the example. They end with this.
    children: Vec<Child>,
}

impl Stage {
    /// The cluster's nodes: makes the plans, and members of all who need it. `made` are the places beside the bench's own,
    /// also when it fails.
    ///
    /// # Errors
    /// What the cluster refused.
    pub(super) async fn nodes(ground: &Ground, cast: Cast, made: &mut Vec<Place>) -> Result<Self> {
        let first = Place { project: ground.project, plan: ground.plan };
        let mut more = stream::iter((1..cast.plans).map(|_| ground.another())).buffer_unordered(MAKING_MAX);
        while let Some(place) = more.next().await {
            let (project, plan, _) = place?;
            made.push(Place { project, plan });
        }
        let places: Vec<Place> = std::iter::once(first).chain(made.iter().copied()).collect();
        let admitted = places.iter().enumerate().map(|(number, place)| async move {
            let readers = cast.listeners_of(number).map(reader).collect::<BTreeSet<_>>();
            ground.admit_to(place.project, "VIEWER", readers).await?;
            ground.admit_to(place.project, "EDITOR", cast.editors_of(number).map(editor)).await
        });
        stream::iter(admitted).buffer_unordered(MAKING_MAX).try_collect::<Vec<_>>().await?;
        let token = |user: String| ground.sign(&user);
        Ok(Self {
            places,
            next_number: FIRST_NUMBER,
            plan_nodes: u32::try_from(ground.plan_nodes.len())?,
            processes: ground.state.nodes.iter().map(|node| (node.name.clone(), node.pid)).collect(),
            urls: ground.urls(),
            cast,
            listener_tokens: cast.readers().map(token).collect::<Result<_>>()?,
            editor_tokens: (0..cast.editors).map(editor).map(token).collect::<Result<_>>()?,
            children: Vec::new(),
        })
    }

    /// As many instances of the stock example at `program` as the cluster has nodes.
    ///
    /// # Errors
    /// When one does not start.
    pub(super) async fn stock(program: &Path, ground: &Ground, nodes: &Self) -> Result<Self> {
        let (mut urls, mut processes, mut children) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=ground.state.nodes.len() {
            let mut command = Command::new(program);
            // What `mille up` gives the nodes.
            command.env("TOKIO_WORKER_THREADS", share_of_cores(ground.state.nodes.len()).to_string());
            give_back_at_once(command.as_std_mut());
            command.arg(&ground.state.redis.url).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn().with_context(|| format!("{} does not start", program.display()))?;
            let mut lines = BufReader::new(child.stdout.take().context("its output is ours")?).lines();
            let port = timeout(STEP_TIMEOUT, lines.next_line()).await.context("the stock example says no port")??;
            urls.push(format!("http://127.0.0.1:{}", port.context("the stock example ended")?));
            processes.push((format!("stock{number}"), child.id().context("a fresh process has a pid")?));
            children.push(child);
        }
        let cast = nodes.cast;
        Ok(Self {
            places: nodes.places.clone(),
            next_number: FIRST_NUMBER,
            plan_nodes: nodes.plan_nodes,
            processes,
            urls,
            cast,
            listener_tokens: cast.readers().map(Arc::from).collect(),
            editor_tokens: (0..cast.editors).map(editor).map(Arc::from).collect(),
            children,
        })
    }

    /// Whether events have revisions that say what is missing.
    pub(super) fn is_numbered(&self) -> bool {
        self.children.is_empty()
    }

    /// For people.
    pub(super) fn name(&self) -> &'static str {
        if self.is_numbered() { "the cluster" } else { "the stock example" }
    }

    pub(super) fn listeners(&self) -> usize {
        self.cast.listeners
    }

    pub(super) fn editors(&self) -> usize {
        self.cast.editors
    }

    /// The number of the plan that a listener follows.
    pub(super) fn plan_of(&self, listener: usize) -> usize {
        listener / self.cast.listeners_per_plan()
    }

    pub(super) fn place_of(&self, listener: usize) -> &Place {
        &self.places[self.plan_of(listener)]
    }

    /// Where somebody with this number connects.
    pub(super) fn url(&self, number: usize) -> &str {
        &self.urls[number % self.urls.len()]
    }

    pub(super) fn listener_token(&self, listener: usize) -> &str {
        &self.listener_tokens[listener / SUBSCRIBERS_PER_USER]
    }

    pub(super) fn editor_token(&self, editor: usize) -> &str {
        &self.editor_tokens[editor]
    }
}

impl Cast {
    fn listeners_per_plan(self) -> usize {
        self.listeners / self.plans
    }

    fn listeners_of(self, plan: usize) -> std::ops::Range<usize> {
        plan * self.listeners_per_plan()..(plan + 1) * self.listeners_per_plan()
    }

    fn editors_of(self, plan: usize) -> std::ops::Range<usize> {
        if self.plans == 1 { 0..self.editors } else { plan % self.editors..plan % self.editors + 1 }
    }

    fn readers(self) -> impl Iterator<Item = String> {
        (0..self.listeners).step_by(SUBSCRIBERS_PER_USER).map(reader)
    }
}

/// Deletes the projects that were made beside the bench's own. What can't be deleted stays, and is said.
pub(super) async fn clear(ground: &Ground, made: &[Place], output: Output) {
    let deleted = made.iter().map(|place| ground.clear_of(place.project, output));
    stream::iter(deleted).buffer_unordered(MAKING_MAX).collect::<()>().await;
}

fn reader(listener: usize) -> String {
    format!("bench-reader-{}", listener / SUBSCRIBERS_PER_USER)
}

fn editor(number: usize) -> String {
    format!("bench-editor-{number}")
}

/// The stock example: the one named, else the one that cargo builds beside this program; none if there is none.
///
/// # Errors
/// A refusal when the one named is not there.
pub(super) fn stock_program(named: Option<&Path>) -> Result<Option<PathBuf>> {
    if let Some(program) = named {
        if !program.is_file() {
            return Err(refused(format!(
                "{} is not there; cargo build --release -p mille-ops --example stock",
                program.display()
            )));
        }
        return Ok(Some(program.to_owned()));
    }
    let beside = std::env::current_exe().context("can't find myself")?.with_file_name("examples").join("stock");
    Ok(beside.is_file().then_some(beside))
}

/// Checks that listeners can be shared out.
///
/// # Errors
/// When some plan would have more than another.
pub(super) fn cast(plans: u32, listeners: u32, editors: u32) -> Result<Cast> {
    ensure!(
        listeners >= plans && listeners.is_multiple_of(plans),
        "{listeners} subscribers can't be shared out to {plans} plans"
    );
    Ok(Cast { plans: plans as usize, listeners: listeners as usize, editors: editors as usize })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_and_editors_are_shared_out_to_plans() {
        let several = cast(4, 12, 3).expect("three each");
        assert_eq!((several.listeners_of(0), several.listeners_of(3)), (0..3, 9..12));
        assert_eq!((several.editors_of(2), several.editors_of(3)), (2..3, 0..1));
        assert_eq!(cast(1, 12, 3).expect("all in one").editors_of(0), 0..3);
        cast(5, 12, 3).expect_err("two or three each");
    }

    #[test]
    fn an_example_that_is_named_must_be_there() {
        let error = stock_program(Some(Path::new("/nowhere/stock"))).expect_err("not there");
        assert!(error.to_string().contains("--example stock"), "{error}");
    }
}

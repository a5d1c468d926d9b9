//! Who uses the cluster: people who repeat what was not answered, and listeners who believe nothing.

use std::collections::HashMap;
use std::sync::Arc;

use json_patch::Patch;
use mille_core::{Applied, Plan};
use mille_shared::Revision;
use mille_shared::log::{ChainHash, Head, OperationKey};
use mille_shared::operation::{Edit, Operation};
use serde_json::Value;

use crate::kit::operation;

/// Someone with operations to do, one after the other, each until it is answered for good.
pub(crate) struct Person {
    pub(crate) to_do: u64,
    pub(crate) wish: Option<Wish>,
}

/// An operation until its answer.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) id: String,
    pub(crate) expected: Option<Revision>,
    pub(crate) edits: Vec<Edit>,
    pub(crate) attempts: u64,
    /// The log's `seq` when it was first asked for.
    pub(crate) since: u64,
}

impl Wish {
    pub(crate) fn operation(&self, at_ms: u64) -> Operation {
        operation(&self.id, i64::try_from(at_ms).unwrap() + 10_000, self.expected, self.edits.clone())
    }

    pub(crate) fn key(&self) -> OperationKey {
        let operation = self.operation(0);
        OperationKey::of(&operation.user_id, &operation.client_id, &operation.id)
    }
}

/// A client that keeps a document by patching it, and nothing else.
pub(crate) struct Listener {
    /// The node it hears of changes from.
    pub(crate) node: Option<usize>,
    /// The last place it was told of. A real client knows only the revision.
    pub(crate) at: Head,
    pub(crate) document: Value,
    /// The place it believed in when a node took it for one of another history. Until a SNAPSHOT tells, its document
    /// means nothing.
    pub(crate) misled: Option<Head>,
}

impl Listener {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { node: None, at: plan.head(), document: json(plan), misled: None }
    }

    /// Each revision once, in order, without a hole.
    pub(crate) fn see(&mut self, applied: &Applied) {
        assert_eq!(applied.previous, self.at.revision, "a listener is told the change after the one it knows");
        assert_eq!(
            applied.revision(),
            self.at.revision.next(),
            "numbers are dense, and an epoch begins with a SNAPSHOT"
        );
        self.at = applied.head;
        if self.misled.is_none() {
            let patch: Patch = serde_json::from_value(serde_json::to_value(&applied.patch).unwrap()).unwrap();
            json_patch::patch(&mut self.document, &patch).expect("a delta fits the document before it");
        }
    }

    pub(crate) fn begin_anew(&mut self, plan: &Plan) {
        *self = Self { node: self.node, ..Self::new(plan) };
    }
}

pub(crate) fn json(plan: &Plan) -> Value {
    serde_json::to_value(plan.document()).unwrap()
}

/// What was told of each change; the same to everyone, whenever they ask.
#[derive(Default)]
pub(crate) struct Told(HashMap<(Revision, ChainHash), Arc<Applied>>);

impl Told {
    pub(crate) fn check(&mut self, applied: &Arc<Applied>) {
        let first = self.0.entry((applied.head.revision, applied.head.hash)).or_insert_with(|| Arc::clone(applied));
        assert_eq!(first, applied, "a change is told the same to everyone");
    }
}

//! Whatever is asked of a plan, what it says of itself holds: deltas, order, snapshots, conflicts.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use std::collections::HashMap;

use json_patch::Patch;
use kit::{Desk, Dice, assert_valid, edit_of, entry_after, executed, moved, named, node, operation, wish};
use mille_core::{Applied, Element, Plan, Refusal};
use mille_shared::Revision;
use mille_shared::operation::{Edit, NodeUpdate};
use mille_shared::plan::{PlanDocument, PlanNodeType};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::Value;

/// Operations of one to three edits each.
fn operations() -> impl Strategy<Value = Vec<Vec<Dice>>> {
    vec(vec(any::<Dice>(), 1..4), 1..60)
}

fn edits(dice: &[Dice]) -> Vec<Edit> {
    dice.iter().copied().map(edit_of).collect()
}

/// Does the operations, and shows the desk before, what happened, and the desk after each.
fn play(operations: &[Vec<Dice>], mut see: impl FnMut(&Desk, &Applied, &Desk)) -> Desk {
    let mut desk = Desk::new();
    for dice in operations {
        let before = desk.clone();
        match desk.edit(edits(dice)) {
            Ok(Some(applied)) => see(&before, &applied, &desk),
            Ok(None) | Err(_) => assert_same(&before.plan, &desk.plan),
        }
    }
    desk
}

/// Equal in everything, the order of the elements too.
fn assert_same(one: &Plan, other: &Plan) {
    assert_eq!(one, other);
    assert_eq!(one.document(), other.document());
}

fn json(document: &PlanDocument) -> Value {
    serde_json::to_value(document).unwrap()
}

fn patched(mut document: Value, applied: &Applied) -> Value {
    let patch: Patch = serde_json::from_value(serde_json::to_value(&applied.patch).unwrap()).unwrap();
    json_patch::patch(&mut document, &patch).unwrap();
    document
}

/// Each element's value by its name, to see which differ.
fn elements(document: &PlanDocument) -> HashMap<String, Value> {
    let nodes = document.nodes.iter().map(|node| (format!("node {}", node.id), serde_json::to_value(node).unwrap()));
    let edges = document.edges.iter().map(|edge| (format!("edge {}", edge.id), serde_json::to_value(edge).unwrap()));
    let metadata = ("metadata".to_owned(), serde_json::to_value(&document.metadata).unwrap());
    nodes.chain(edges).chain([metadata]).collect()
}

/// What an edit touches of the elements that are there. `None`: everything.
fn touched(edit: &Edit, document: &PlanDocument) -> Option<Vec<String>> {
    Some(match edit {
        Edit::AddNode(_) | Edit::AddEdge(_) => Vec::new(),
        Edit::UpdateNode { id, .. } => vec![format!("node {id}")],
        Edit::ReportExecution(report) => vec![format!("node {}", report.id)],
        Edit::DeleteNode { id } => {
            let edges = document.edges.iter().filter(|edge| edge.source == *id || edge.target == *id);
            edges.map(|edge| format!("edge {}", edge.id)).chain([format!("node {id}")]).collect()
        }
        Edit::UpdateEdge { id, .. } | Edit::DeleteEdge { id } => vec![format!("edge {id}")],
        Edit::UpdateMetadata { .. } => vec!["metadata".to_owned()],
        Edit::Replace(_) => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any JSON Patch library can follow a plan.
    #[test]
    fn a_delta_makes_the_next_document_of_the_one_before(operations in operations()) {
        play(&operations, |before, applied, after| {
            assert_eq!(patched(json(&before.plan.document()), applied), json(&after.plan.document()));
            assert_eq!(applied.previous, before.plan.revision());
            assert_eq!(applied.head, after.plan.head());
        });
    }

    /// One after the other, the steps of a delta fit; here with all deltas of a life in one document that is never
    /// looked up again.
    #[test]
    fn deltas_lead_from_the_beginning_to_the_end(operations in operations()) {
        let mut document = json(&Desk::new().plan.document());
        let desk = play(&operations, |_, applied, _| document = patched(document.take(), applied));
        prop_assert_eq!(document, json(&desk.plan.document()));
    }

    #[test]
    fn a_plan_keeps_every_rule_after_every_change(operations in operations()) {
        play(&operations, |_, _, after| assert_valid(&after.plan.document()));
    }

    /// What a node reads from the log is what the node that wrote it has.
    #[test]
    fn an_entry_does_the_same_to_every_copy(operations in operations()) {
        let mut copy = Desk::new().plan;
        play(&operations, |before, applied, after| {
            // Rebuilt from nothing but the text.
            let entry = applied.entry();
            let told = copy.apply(&entry).unwrap();
            assert_eq!(&told, applied);
            assert_same(&copy, &after.plan);
            // The change in memory and the change as it was read are one.
            assert_eq!(entry_after(before.plan.head(), &applied.change), entry);
        });
    }

    /// A plan opened from its snapshot goes on as the one it was written from, refusals included.
    #[test]
    fn a_snapshot_is_the_plan(past in operations(), future in operations()) {
        let mut original = play(&past, |_, _, _| {});
        let stored = original.plan.to_snapshot();
        let mut opened = Desk { plan: Plan::from_snapshot(stored.head, &stored.payload).unwrap(), ..original.clone() };
        assert_same(&opened.plan, &original.plan);
        for dice in &future {
            prop_assert_eq!(opened.edit(edits(dice)), original.edit(edits(dice)));
            assert_same(&opened.plan, &original.plan);
        }
    }

    #[test]
    fn one_edit_that_is_accepted_as_a_change_changes_the_document(operations in vec(vec(any::<Dice>(), 1..2), 1..60)) {
        play(&operations, |before, _, after| assert_ne!(before.plan.document(), after.plan.document()));
    }

    /// Saying again what is so makes no revision.
    #[test]
    fn an_edit_that_changes_nothing_comes_to_nothing(operations in operations()) {
        let desk = play(&operations, |_, _, _| {});
        let document = desk.plan.document();
        prop_assert_eq!(desk.judge(vec![Edit::Replace(wish(&document))]), Ok(None));
        let name = document.metadata.name.clone();
        let same_name = Edit::UpdateMetadata { name: Some(name), description: None };
        prop_assert_eq!(desk.judge(vec![same_name]), Ok(None));
        for node in &document.nodes {
            let update = NodeUpdate {
                position: Some(node.position),
                source_position: node.source_position.clone(),
                target_position: node.target_position.clone(),
                metadata: Some(node.metadata.clone()),
                config: Some(node.config.clone()),
            };
            let update = Edit::UpdateNode { id: node.id.clone(), update };
            prop_assert_eq!(desk.judge(vec![update.clone(), update]), Ok(None));
        }
        for edge in &document.edges {
            for metadata in [None, Some(edge.metadata.clone())] {
                prop_assert_eq!(desk.judge(vec![Edit::UpdateEdge { id: edge.id.clone(), metadata }]), Ok(None));
            }
        }
    }

    /// An expected revision is a conflict if, and only if, something touched changed after it.
    #[test]
    fn a_conflict_is_a_later_change_of_what_is_touched(operations in operations(), asked in operations()) {
        let mut changed_at: HashMap<String, Revision> = HashMap::new();
        let desk = play(&operations, |before, applied, after| {
            let old = elements(&before.plan.document());
            for (name, value) in elements(&after.plan.document()) {
                if old.get(&name) != Some(&value) {
                    changed_at.insert(name, applied.revision());
                }
            }
            // The one element without a time: two edits of one operation can lead it there and back.
            if applied.patch.iter().any(|step| step.path.starts_with("/metadata")) {
                changed_at.insert("metadata".to_owned(), applied.revision());
            }
        });
        let document = desk.plan.document();
        let there = elements(&document);
        let head = desk.plan.revision();
        for (index, dice) in asked.iter().enumerate() {
            let expected = Revision { seq: (index as u64 * 7) % (head.seq + 2), ..head };
            let edits = edits(dice);
            // A revision ahead of the log is one of a history that was lost: whatever is touched may have changed since.
            let lost = expected > head;
            let conflicts = edits.iter().any(|edit| match touched(edit, &document) {
                None => lost || head > expected,
                Some(names) => names.iter().any(|name| {
                    let changed = lost || changed_at.get(name).is_some_and(|changed| *changed > expected);
                    there.contains_key(name) && changed
                }),
            });
            let answer = desk.judge_expecting(Some(expected), edits);
            prop_assert_eq!(matches!(answer, Err(Refusal::Conflict { .. })), conflicts, "{:?}", answer);
            if let Err(Refusal::Conflict { current, revision, .. }) = answer {
                prop_assert!(revision > expected || lost);
                let is_there = match current {
                    Element::Node(record) => document.nodes.contains(&record.node),
                    Element::Edge(record) => document.edges.contains(&record.edge),
                    Element::Metadata(metadata) => document.metadata == *metadata,
                };
                prop_assert!(is_there, "a conflict shows the element as it is");
            }
        }
    }

    /// No bit of a coordinate is lost between the node that takes it and the nodes that read it.
    #[test]
    fn a_position_is_the_same_on_every_node(places in vec((-100_000.0..=100_000.0_f64, -100_000.0..=100_000.0_f64), 1..50)) {
        let mut desk = Desk::with(vec![node("n", PlanNodeType::GraphNode)]);
        for (x, y) in places {
            if let Some(applied) = desk.edit(vec![moved("n", x, y)]).unwrap() {
                let position = desk.plan.document().nodes[0].position;
                prop_assert_eq!((position.x, position.y), (x, y));
                prop_assert_eq!(serde_json::from_str::<mille_shared::change::Change>(&applied.payload).unwrap(), applied.change);
            }
            let stored = desk.plan.to_snapshot();
            prop_assert_eq!(&Plan::from_snapshot(stored.head, &stored.payload).unwrap(), &desk.plan);
        }
    }

    /// All of an operation's edits happen, or none: one bad edit anywhere spoils it.
    #[test]
    fn an_operation_is_all_or_nothing(operations in operations(), place in 0usize..4) {
        let desk = play(&operations, |_, _, _| {});
        let mut edits = vec![named("a"), named("b"), named("c")];
        edits.insert(place.min(edits.len()), moved("nobody", 0.0, 0.0));
        prop_assert!(desk.judge(edits).is_err());
    }

    /// A run goes forward: whatever is reported, the states that a run shows are in order.
    #[test]
    fn a_run_never_goes_backwards(reports in vec((0usize..3, 0usize..5), 1..40)) {
        use mille_shared::execution::ExecutionState;
        let mut desk = Desk::with(vec![node("n", PlanNodeType::GraphNode)]);
        let mut shown: Vec<(usize, ExecutionState)> = Vec::new();
        for (run, state) in reports {
            let state = ExecutionState::ALL[state];
            if let Ok(Some(_)) = desk.edit(vec![executed("n", &format!("r{run}"), state)]) {
                let now = desk.plan.document().nodes[0].graph_execution.clone().unwrap().execution_state;
                prop_assert_eq!(now, state);
                shown.push((run, state));
            }
        }
        for pair in shown.windows(2) {
            prop_assert!(pair[0].0 != pair[1].0 || pair[0].1 < pair[1].1, "{:?}", shown);
        }
        // A run that was followed by another never comes back.
        let mut runs: Vec<usize> = shown.iter().map(|(run, _)| *run).collect();
        runs.dedup();
        let distinct: std::collections::HashSet<_> = runs.iter().collect();
        prop_assert_eq!(distinct.len(), runs.len(), "{:?}", shown);
    }
}

/// The generator must reach the interesting places, or the properties above say little.
#[test]
fn the_dice_reach_every_kind_of_change() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = operations();
    let (mut kinds, mut edges_max) = (std::collections::HashSet::new(), 0);
    for _ in 0..100 {
        let operations = strategy.new_tree(&mut runner).unwrap().current();
        play(&operations, |_, applied, after| {
            kinds.extend(applied.change.facts.iter().map(std::mem::discriminant));
            edges_max = edges_max.max(after.plan.edges().len());
        });
    }
    assert_eq!(kinds.len(), 9, "every fact but the creation");
    assert!(edges_max >= 4, "plans get edges: {edges_max}");
    let far = operation("x", 0, None, vec![]);
    assert_eq!(Desk::new().plan.accept(&far, &Desk::new().bounds), Ok(None));
}

//! A lost change that is judged again wants what it wanted then, and nothing else.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use kit::*;
use mille_core::{Applied, PlanBounds};
use mille_shared::operation::Edit;
use mille_shared::plan::PlanNodeType::{GraphNode, MergeNode, OutputNode};

/// A lost change, judged again on this desk.
#[track_caller]
fn again(desk: &mut Desk, lost: &Applied) -> Applied {
    let judged = desk.plan.accept(&desk.plan.readmit(lost), &PlanBounds::default()).expect("it fits");
    let judged = judged.expect("it is not so yet");
    assert_eq!(judged.operation_id, lost.change.operation_id);
    desk.plan.apply(&entry_after(desk.plan.head(), &judged)).unwrap()
}

#[test]
fn a_lost_operation_is_wished_for_again_as_it_was() {
    let start = Desk::with(vec![node("hub", GraphNode), node("old", OutputNode)]);
    let edits = vec![node("x", GraphNode), node("y", MergeNode), edge("hub", "y"), delete("x")];
    let lost = start.clone().edit(edits).unwrap().unwrap();
    let mut desk = start.clone();
    desk.must(delete("old"));
    again(&mut desk, &lost);
    let ids = |desk: &Desk| desk.plan.nodes().map(|record| record.node.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&desk), ["hub", "y"], "what it added and took away again is not there");

    // What it deleted and is gone already is no reason to refuse the rest.
    let lost = start.clone().edit(vec![delete("old"), moved("hub", 9.0, 9.0)]).unwrap().unwrap();
    let mut desk = start;
    desk.must(delete("old"));
    assert_eq!(again(&mut desk, &lost).change.facts.len(), 1);
}

#[test]
fn a_lost_operation_that_took_away_from_its_own_document_does_so_again() {
    let start = Desk::with(vec![node("hub", GraphNode)]);
    let mut document = wish(&start.plan.document());
    document.nodes.push(new_node("x", MergeNode));
    document.edges.push(new_edge("hub-x", "hub", "x"));
    let lost = start.clone().edit(vec![Edit::Replace(document), delete("x"), named("new")]).unwrap().unwrap();
    let mut desk = start;
    again(&mut desk, &lost);
    assert_eq!((desk.plan.nodes().len(), desk.plan.edges().len()), (1, 0));
}

#[test]
fn a_lost_operation_that_put_a_plan_node_in_anothers_place_does_so_again() {
    let start = Desk::with(vec![node("hub", GraphNode), node("old", OutputNode), edge("hub", "old")]);
    let lost = start.clone().edit(vec![delete("old"), node("old", MergeNode), edge("hub", "old")]).unwrap().unwrap();
    let mut meanwhile_deleted = start.clone();
    meanwhile_deleted.must(delete("old"));
    for mut desk in [start, meanwhile_deleted] {
        again(&mut desk, &lost);
        let nodes: Vec<_> = desk.plan.nodes().map(|record| record.node.node_type).collect();
        assert_eq!((nodes, desk.plan.edges().len()), (vec![GraphNode, MergeNode], 1));
    }
}

#[test]
fn a_lost_change_of_a_plans_description_leaves_its_name_to_others() {
    let describe = |text: &str| Edit::UpdateMetadata { name: None, description: Some(Some(text.to_owned())) };
    let start = Desk::with(vec![named("first"), describe("before")]);
    for (edit, theirs, both) in [
        (describe("ours"), named("theirs"), ("theirs", "ours")),
        (named("ours"), describe("theirs"), ("ours", "theirs")),
    ] {
        let lost = start.clone().must(edit);
        let mut desk = start.clone();
        desk.must(theirs);
        again(&mut desk, &lost);
        let metadata = desk.plan.metadata();
        assert_eq!((metadata.name.as_deref(), metadata.description.as_deref()), (Some(both.0), Some(both.1)));
    }
}

//! What the contract promises of edits, one test for each promise.

#![allow(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod kit;

use kit::*;
use mille_core::plan::{ApplyError, check_document};
use mille_core::refusal::ElementId;
use mille_core::{Element, Plan, PlanBounds, ProblemKind, Refusal, Touch};
use mille_shared::LimitName;
use mille_shared::change::Fact;
use mille_shared::delta::PatchOp;
use mille_shared::execution::ExecutionState::{Completed, Error, NotStarted, Pending, Processing};
use mille_shared::log::{ChainHash, LogEntry};
use mille_shared::operation::{DataSourceReport, Edit, ExecutionReport, GraphReport, NewEdge, NewNode, NodeUpdate};
use mille_shared::plan::EdgeDataType::{GraphData, GraphReference};
use mille_shared::plan::PlanNodeType::{DataSourceNode, GraphNode, MergeNode, OutputNode};
use mille_shared::plan::Position;

/// The rule that an edit breaks.
#[track_caller]
fn broken(desk: &Desk, edit: Edit) -> ProblemKind {
    match desk.refusal(edit) {
        Refusal::Invalid(problem) => problem.kind,
        other => panic!("refused for another reason: {other}"),
    }
}

fn of_type(source: &str, target: &str, id: &str, data_type: mille_shared::plan::EdgeDataType) -> Edit {
    Edit::AddEdge(NewEdge { metadata: carries(data_type), ..new_edge(id, source, target) })
}

/// source → graph, and a merge that nothing leads to.
fn small() -> Desk {
    Desk::with(vec![
        node("source", DataSourceNode),
        node("graph", GraphNode),
        node("merge", MergeNode),
        node("out", OutputNode),
        edge("source", "graph"),
    ])
}

// ---- a plan stays a DAG --------------------------------------------------------------------------------------------

#[test]
fn an_edge_needs_both_its_plan_nodes() {
    let desk = small();
    assert_eq!(broken(&desk, edge("graph", "nobody")), ProblemKind::MissingNode);
    assert_eq!(broken(&desk, edge("nobody", "merge")), ProblemKind::MissingNode);
}

#[test]
fn an_edge_never_leads_to_where_it_begins() {
    assert_eq!(broken(&small(), edge("merge", "merge")), ProblemKind::SelfLoop);
}

#[test]
fn no_edge_closes_a_cycle_however_long() {
    let types = ["a", "b", "c", "d"].map(|id| node(id, MergeNode));
    let mut desk = Desk::with(types.into());
    for (source, target) in [("a", "b"), ("b", "c"), ("c", "d")] {
        desk.must(edge(source, target));
        assert_eq!(broken(&desk, edge(target, "a")), ProblemKind::Cycle);
    }
    assert!(desk.judge(vec![edge("a", "d")]).is_ok(), "a short cut is no cycle");
    // An edge that goes makes room for the other direction.
    desk.must(Edit::DeleteEdge { id: eid("b-c") });
    desk.must(edge("d", "a"));
    assert_eq!(broken(&desk, edge("b", "c")), ProblemKind::Cycle);
}

#[test]
fn one_pair_has_one_edge_of_each_data_type() {
    let mut desk = small();
    desk.must(of_type("source", "merge", "data", GraphData));
    assert_eq!(broken(&desk, of_type("source", "merge", "again", GraphData)), ProblemKind::DuplicateEdge);
    desk.must(of_type("source", "merge", "reference", GraphReference));
    let turned = Edit::UpdateEdge { id: eid("reference"), metadata: Some(carries(GraphData)) };
    assert_eq!(broken(&desk, turned.clone()), ProblemKind::DuplicateEdge);
    desk.must(Edit::DeleteEdge { id: eid("data") });
    desk.must(turned);
}

#[test]
fn an_id_is_there_once() {
    let desk = small();
    assert_eq!(broken(&desk, node("graph", MergeNode)), ProblemKind::DuplicateId);
    let twin = Edit::AddEdge(new_edge("source-graph", "graph", "merge"));
    assert_eq!(broken(&desk, twin), ProblemKind::DuplicateId);
}

#[test]
fn an_id_has_only_the_characters_of_ids() {
    let desk = small();
    let long = "x".repeat(101);
    for bad in ["", "a b", "a/b", "ä", long.as_str()] {
        assert_eq!(broken(&desk, node(bad, GraphNode)), ProblemKind::InvalidId, "{bad:?}");
        let with_bad_id = Edit::AddEdge(new_edge(bad, "graph", "merge"));
        assert_eq!(broken(&desk, with_bad_id), ProblemKind::InvalidId, "{bad:?}");
    }
}

#[test]
fn a_data_source_takes_no_input_and_an_output_gives_none() {
    let desk = small();
    assert_eq!(broken(&desk, edge("graph", "source")), ProblemKind::InvalidConnection);
    assert_eq!(broken(&desk, edge("out", "merge")), ProblemKind::InvalidConnection);
}

#[test]
fn only_a_merge_takes_several_inputs() {
    let mut desk = small();
    assert_eq!(broken(&desk, edge("merge", "graph")), ProblemKind::InvalidConnection);
    let other_type = of_type("source", "graph", "reference", GraphReference);
    assert_eq!(broken(&desk, other_type), ProblemKind::InvalidConnection);
    desk.must(edge("source", "merge"));
    desk.must(edge("graph", "merge"));
}

#[test]
fn deleting_a_plan_node_deletes_its_edges_in_the_same_delta() {
    let mut desk = small();
    desk.edit(vec![edge("graph", "merge"), edge("merge", "out")]).unwrap();
    let applied = desk.must(delete("graph"));
    let verbs: Vec<_> = applied.patch.iter().map(|step| (step.op, step.path.as_str())).collect();
    assert_eq!(verbs, [(PatchOp::Remove, "/edges/0"), (PatchOp::Remove, "/edges/0"), (PatchOp::Remove, "/nodes/1")]);
    assert!(matches!(applied.touches.last(), Some(Touch::NodeRemoved(record)) if record.node.id == nid("graph")));
    let left: Vec<_> = desk.plan.edges().map(|record| record.edge.id.clone()).collect();
    assert_eq!(left, [eid("merge-out")]);
}

#[test]
fn what_was_deleted_is_not_found() {
    let mut desk = small();
    desk.must(delete("graph"));
    for edit in [moved("graph", 1.0, 1.0), delete("graph"), executed("graph", "r", Pending)] {
        assert_eq!(desk.refusal(edit), Refusal::NotFound(ElementId::Node(nid("graph"))));
    }
    let id = eid("source-graph");
    let update = Edit::UpdateEdge { id: id.clone(), metadata: Some(carries(GraphReference)) };
    for edit in [update, Edit::UpdateEdge { id: id.clone(), metadata: None }, Edit::DeleteEdge { id: id.clone() }] {
        assert_eq!(desk.refusal(edit), Refusal::NotFound(ElementId::Edge(id.clone())));
    }
}

// ---- operations ----------------------------------------------------------------------------------------------------

#[test]
fn the_edits_of_an_operation_see_each_other_and_make_one_delta() {
    let mut desk = Desk::new();
    let edits = vec![node("a", GraphNode), node("b", GraphNode), edge("a", "b"), labelled("a", "first"), delete("b")];
    let applied = desk.edit(edits).unwrap().unwrap();
    assert_eq!(applied.revision().seq, 1);
    let document = desk.plan.document();
    assert_eq!(document.nodes.len(), 1);
    assert_eq!(document.nodes[0].metadata.label, "first");
    assert!(document.edges.is_empty());
}

#[test]
fn an_operation_with_one_bad_edit_does_nothing() {
    let mut desk = small();
    let before = desk.plan.clone();
    assert!(desk.edit(vec![named("new"), edge("merge", "merge"), delete("graph")]).is_err());
    assert_eq!(desk.plan, before);
}

#[test]
fn the_last_writer_wins_field_by_field() {
    let mut desk = small();
    desk.must(moved("graph", 7.0, 8.0));
    desk.must(configured("graph", "{\"k\":1}"));
    desk.must(labelled("graph", "one"));
    desk.must(labelled("graph", "two"));
    let graph = &desk.plan.node(&nid("graph")).unwrap().node;
    assert_eq!(graph.position, Position { x: 7.0, y: 8.0 });
    assert_eq!(&*graph.config, "{\"k\":1}");
    assert_eq!(graph.metadata.label, "two");
}

#[test]
fn a_conflict_shows_the_element_as_it_is_and_since_when() {
    let mut desk = small();
    let seen = desk.plan.revision();
    let theirs = desk.must(labelled("graph", "theirs")).revision();
    let refusal = desk.judge_expecting(Some(seen), vec![labelled("graph", "mine")]).unwrap_err();
    let Refusal::Conflict { expected, current: Element::Node(current), revision } = refusal else {
        panic!("no conflict: {refusal}")
    };
    assert_eq!((expected, revision), (seen, theirs));
    assert_eq!(current.node.metadata.label, "theirs");
    assert!(desk.judge_expecting(Some(theirs), vec![labelled("graph", "mine")]).is_ok());
    assert!(desk.judge_expecting(Some(seen), vec![labelled("merge", "mine")]).is_ok(), "nobody touched that one");
}

#[test]
fn deleting_a_plan_node_conflicts_with_a_later_change_of_its_edges() {
    let mut desk = small();
    let seen = desk.plan.revision();
    desk.must(Edit::UpdateEdge { id: eid("source-graph"), metadata: Some(carries(GraphReference)) });
    for id in ["source", "graph"] {
        let refusal = desk.judge_expecting(Some(seen), vec![delete(id)]).unwrap_err();
        assert!(matches!(refusal, Refusal::Conflict { current: Element::Edge(_), .. }), "{refusal}");
    }
}

#[test]
fn every_edit_sets_updated_at_of_what_it_touches_and_of_nothing_else() {
    let mut desk = small();
    let before = desk.plan.document();
    let applied = desk.must(moved("graph", 9.0, 9.0));
    let paths: Vec<_> = applied.patch.iter().map(|step| step.path.as_str()).collect();
    assert_eq!(paths, ["/nodes/1/position", "/nodes/1/updatedAt"]);
    let after = desk.plan.document();
    assert_eq!(after.nodes[1].updated_at, desk.now());
    assert_eq!(after.nodes[1].created_at, before.nodes[1].created_at);
    assert_eq!((&after.nodes[0], &after.nodes[2]), (&before.nodes[0], &before.nodes[2]));
    assert_eq!(desk.plan.last_modified(), desk.now());
    desk.must(Edit::UpdateEdge { id: eid("source-graph"), metadata: Some(carries(GraphReference)) });
    assert_eq!(desk.plan.document().edges[0].updated_at, desk.now());
}

#[test]
fn a_name_can_be_given_and_taken_away() {
    let mut desk = Desk::new();
    desk.must(named("plan"));
    let update = |description| Edit::UpdateMetadata { name: None, description: Some(description) };
    desk.must(update(Some("what for".to_owned())));
    assert_eq!(desk.plan.metadata().name.as_deref(), Some("plan"));
    desk.must(update(None));
    assert_eq!(desk.plan.metadata().description, None);
    assert_eq!(desk.plan.metadata().name.as_deref(), Some("plan"));
}

#[test]
fn nullable_fields_are_present_as_null() {
    let document = serde_json::to_value(small().plan.document()).unwrap();
    for field in ["/nodes/0/sourcePosition", "/nodes/0/targetPosition", "/nodes/0/datasourceExecution"] {
        assert_eq!(document.pointer(field), Some(&serde_json::Value::Null), "{field}");
    }
    for field in ["/nodes/0/graphExecution", "/nodes/0/metadata/description", "/edges/0/metadata/label"] {
        assert_eq!(document.pointer(field), Some(&serde_json::Value::Null), "{field}");
    }
    let keys: Vec<_> = document["metadata"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["author", "created", "description", "name"]);
}

// ---- a whole document ----------------------------------------------------------------------------------------------

#[test]
fn what_stays_in_a_replaced_document_keeps_its_age_and_execution() {
    let mut desk = small();
    desk.must(executed("graph", "r", Processing));
    let before = desk.plan.document();
    let mut document = wish(&before);
    document.nodes.retain(|node| node.id != nid("out"));
    document.nodes.push(new_node("new", GraphNode));
    document.nodes[0].config = "{\"changed\":true}".into();
    let applied = desk.must(Edit::Replace(document.clone()));
    let after = desk.plan.document();
    assert_eq!(after.nodes[0].created_at, before.nodes[0].created_at);
    assert_eq!(after.nodes[0].updated_at, desk.now());
    assert_eq!(after.nodes[1], before.nodes[1], "untouched, execution and all");
    assert_eq!(desk.plan.node(&nid("graph")).unwrap().revision.seq, 2, "touched by its execution last");
    assert_eq!(after.edges, before.edges);
    let touched: Vec<_> = applied.touches.iter().map(std::mem::discriminant).collect();
    assert_eq!(touched.len(), 3, "one removed, one updated, one added: {:?}", applied.touches);
    assert_eq!(desk.judge(vec![Edit::Replace(document)]), Ok(None), "the same again is nothing");
}

#[test]
fn what_changes_its_type_in_a_replaced_document_was_never_executed() {
    let mut desk = small();
    desk.must(executed("graph", "r", Completed));
    desk.must(executed("source", "r", Completed));
    let mut document = wish(&desk.plan.document());
    document.edges.clear();
    for (node, node_type) in document.nodes.iter_mut().zip([GraphNode, DataSourceNode]) {
        node.node_type = node_type;
    }
    desk.must(Edit::Replace(document));
    for node in &desk.plan.document().nodes[..2] {
        assert_eq!((&node.datasource_execution, &node.graph_execution), (&None, &None), "{}", node.id);
    }
    // The runs of that name were of something else.
    desk.must(executed("graph", "r", Pending));
    assert!(desk.plan.document().nodes[1].datasource_execution.is_some());
}

#[test]
fn a_document_that_breaks_a_rule_replaces_nothing() {
    let desk = small();
    let mut document = wish(&desk.plan.document());
    document.edges.push(new_edge("back", "graph", "source"));
    assert_eq!(broken(&desk, Edit::Replace(document)), ProblemKind::InvalidConnection);
}

#[test]
fn a_document_that_is_too_large_is_refused_as_that() {
    let desk = Desk { bounds: PlanBounds { config_bytes_max: 4, nodes_max: 4, ..PlanBounds::default() }, ..small() };
    let mut document = wish(&desk.plan.document());
    document.nodes[0].config = "12345".into();
    assert!(matches!(desk.refusal(Edit::Replace(document.clone())), Refusal::TooLarge { limit: 4, .. }));
    document.nodes.push(new_node("fifth", GraphNode));
    assert!(matches!(desk.refusal(Edit::Replace(document)), Refusal::TooMany { limit: 4, .. }));
}

#[test]
fn checking_a_document_tells_everything_that_is_wrong_with_it() {
    let mut document = wish(&small().plan.document());
    document.nodes.push(new_node("graph", MergeNode));
    document.nodes.push(NewNode { position: Position { x: f64::NAN, y: 0.0 }, ..new_node("nan", GraphNode) });
    document.edges.push(new_edge("loop", "merge", "merge"));
    document.edges.push(new_edge("loose", "merge", "nobody"));
    let findings = check_document(&document, &PlanBounds::default());
    let kinds: Vec<_> = findings.errors.iter().map(|problem| problem.kind).collect();
    assert_eq!(
        kinds,
        [ProblemKind::DuplicateId, ProblemKind::OutOfRange, ProblemKind::SelfLoop, ProblemKind::MissingNode]
    );
    assert!(findings.warnings.iter().any(|w| w.node_id == Some(nid("out")) && w.kind == ProblemKind::Unconnected));
}

// ---- bounds --------------------------------------------------------------------------------------------------------

#[test]
fn a_plan_holds_so_many_elements_and_no_more() {
    let bounds = PlanBounds { nodes_max: 3, edges_max: 1, changes_max: 5, ..PlanBounds::default() };
    let mut desk = Desk { bounds, ..Desk::new() };
    desk.edit(vec![node("a", MergeNode), node("b", MergeNode), node("c", MergeNode), edge("a", "b")]).unwrap();
    assert!(matches!(desk.refusal(node("d", MergeNode)), Refusal::TooMany { limit: 3, .. }));
    assert!(matches!(desk.refusal(edge("b", "c")), Refusal::TooMany { limit: 1, .. }));
    assert!(desk.judge(vec![delete("c"), node("d", MergeNode)]).is_ok(), "one goes, one comes");
    assert!(matches!(desk.judge(vec![named("x"); 6]), Err(Refusal::TooMany { limit: 5, .. })));
}

#[test]
fn texts_have_at_most_so_many_bytes() {
    let mut desk = small();
    desk.must(configured("graph", &"x".repeat(100_000)));
    assert!(matches!(desk.refusal(configured("graph", &"x".repeat(100_001))), Refusal::TooLarge { .. }));
    desk.must(labelled("graph", &"ä".repeat(25_000)));
    for edit in [
        labelled("graph", &"ä".repeat(25_001)),
        named(&"x".repeat(50_001)),
        Edit::AddNode(NewNode { config: "x".repeat(100_001).into(), ..new_node("n", GraphNode) }),
        Edit::UpdateEdge {
            id: eid("source-graph"),
            metadata: Some(mille_shared::plan::EdgeMetadata { label: Some("x".repeat(50_001)), ..carries(GraphData) }),
        },
    ] {
        assert!(matches!(desk.refusal(edit), Refusal::TooLarge { .. }));
    }
}

#[test]
fn all_texts_of_a_plan_together_have_at_most_so_many_bytes() {
    let mut desk = small();
    desk.bounds.plan_bytes_max = 2_000;
    let is_too_large = |refused: Refusal| match refused {
        Refusal::TooLarge { what, limit } => (what, limit) == (LimitName::PlanBytes, 2_000),
        _ => false,
    };
    desk.must(configured("graph", &"x".repeat(1_000)));
    desk.must(configured("graph", &"y".repeat(1_500)));
    for edit in [
        configured("merge", &"x".repeat(500)),
        labelled("merge", &"x".repeat(500)),
        named(&"x".repeat(500)),
        Edit::AddNode(NewNode { config: "x".repeat(500).into(), ..new_node("n", GraphNode) }),
        Edit::UpdateEdge {
            id: eid("source-graph"),
            metadata: Some(mille_shared::plan::EdgeMetadata { label: Some("x".repeat(500)), ..carries(GraphData) }),
        },
    ] {
        assert!(is_too_large(desk.refusal(edit)));
    }
    assert!(
        desk.judge(vec![configured("merge", &"x".repeat(500)), configured("graph", "")]).is_ok(),
        "together they fit"
    );
    assert!(desk.judge(vec![delete("graph"), configured("merge", &"x".repeat(500))]).is_ok());
    desk.must(moved("merge", 5.0, 6.0));
    // Where the bound was larger before, everything that makes the plan smaller is taken.
    desk.bounds.plan_bytes_max = 100;
    desk.must(configured("graph", &"z".repeat(1_499)));
    let mut document = wish(&desk.plan.document());
    document.nodes.iter_mut().for_each(|node| node.config = "".into());
    desk.must(Edit::Replace(document));
}

#[test]
fn the_sides_of_a_plan_node_count_like_its_other_texts() {
    let source = |bytes| NodeUpdate { source_position: Some("s".repeat(bytes)), ..NodeUpdate::default() };
    let target = |bytes| NodeUpdate { target_position: Some("t".repeat(bytes)), ..NodeUpdate::default() };
    let mut desk = small();
    desk.must(update("graph", source(30_000)));
    assert!(matches!(desk.refusal(update("graph", target(20_001))), Refusal::TooLarge { limit: 50_000, .. }));
    desk.must(update("graph", target(20_000)));
    // Whoever only moves the plan node copies them.
    assert!(desk.must(moved("graph", 3.0, 4.0)).weight_bytes() > 50_000);

    let mut desk = small();
    desk.bounds.plan_bytes_max = 2_000;
    desk.must(update("graph", source(1_500)));
    for side in [source(500), target(500)] {
        let refused = desk.refusal(update("merge", side));
        assert!(matches!(refused, Refusal::TooLarge { what: LimitName::PlanBytes, .. }), "{refused}");
    }
    desk.must(update("graph", source(1_000)));
    desk.must(update("merge", target(500)));
    desk.must(delete("graph"));
    desk.must(update("merge", source(1_000)));
}

/// Whatever lies between the edits of an operation: what counts is the plan that they lead to.
#[test]
fn an_operation_is_as_large_as_what_it_leaves() {
    let mut desk = small();
    desk.bounds.plan_bytes_max = 2_000;
    desk.must(configured("graph", &"x".repeat(1_500)));
    let mut there_and_back = vec![configured("graph", ""); 10];
    there_and_back.iter_mut().step_by(2).for_each(|edit| *edit = configured("graph", "y"));
    there_and_back.push(Edit::AddNode(NewNode { config: "x".repeat(1_500).into(), ..new_node("n", GraphNode) }));
    assert!(desk.judge(there_and_back.clone()).is_ok(), "one is there in place of the other");
    there_and_back.push(configured("graph", &"x".repeat(1_500)));
    let refused = desk.judge(there_and_back).unwrap_err();
    assert!(matches!(refused, Refusal::TooLarge { what: LimitName::PlanBytes, .. }), "now both are there: {refused}");
    // What is gone at the end was never too much.
    let large = NewNode { config: "x".repeat(1_500).into(), ..new_node("n", GraphNode) };
    assert!(desk.judge(vec![Edit::AddNode(large), delete("n"), named("small")]).is_ok());
}

#[test]
fn a_position_is_finite_and_within_bounds() {
    let mut desk = small();
    desk.must(moved("graph", 100_000.0, -100_000.0));
    for (x, y) in [(100_000.1, 0.0), (0.0, -100_000.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
        assert_eq!(broken(&desk, moved("graph", x, y)), ProblemKind::OutOfRange);
        let new = NewNode { position: Position { x, y }, ..new_node("n", GraphNode) };
        assert_eq!(broken(&desk, Edit::AddNode(new)), ProblemKind::OutOfRange);
    }
}

// ---- executions ----------------------------------------------------------------------------------------------------

#[test]
fn a_run_goes_forward_and_ends_once() {
    let mut desk = small();
    for state in [NotStarted, Pending, Processing, Completed] {
        desk.must(executed("graph", "r", state));
        assert_eq!(desk.judge(vec![executed("graph", "r", state)]), Ok(None), "the same again is nothing");
    }
    for state in [NotStarted, Pending, Processing, Error] {
        assert_eq!(broken(&desk, executed("graph", "r", state)), ProblemKind::InvalidTransition);
    }
}

#[test]
fn a_new_run_starts_over_and_ends_the_say_of_the_old_one() {
    let mut desk = small();
    let told = GraphReport { graph_id: Some(1), node_count: Some(5), ..GraphReport::default() };
    desk.must(Edit::ReportExecution(ExecutionReport { graph: Some(told), ..report("graph", "one", Completed) }));
    desk.must(executed("graph", "two", Pending));
    let graph = desk.plan.document().nodes[1].graph_execution.clone().unwrap();
    assert_eq!((graph.execution_state, graph.graph_id), (Pending, None), "nothing of the old run");
    assert_eq!(broken(&desk, executed("graph", "one", Error)), ProblemKind::InvalidTransition);
}

#[test]
fn what_is_known_of_a_run_stays_until_it_is_told_anew() {
    let mut desk = small();
    let told = DataSourceReport { filename: Some("a.csv".to_owned()), ..DataSourceReport::default() };
    let first = ExecutionReport { datasource: Some(told), ..report("source", "r", Processing) };
    desk.must(Edit::ReportExecution(first));
    let failed = ExecutionReport { message: Some("no rows".to_owned()), ..report("source", "r", Error) };
    let applied = desk.must(Edit::ReportExecution(failed));
    let node = desk.plan.document().nodes[0].clone();
    let known = node.datasource_execution.unwrap();
    assert_eq!((known.filename.as_deref(), known.error_message.as_deref()), (Some("a.csv"), Some("no rows")));
    assert_eq!(node.graph_execution, None);
    assert!(matches!(&applied.touches[..], [Touch::ExecutionChanged { state: Error, .. }]));
}

#[test]
fn what_an_executor_tells_has_at_most_so_many_bytes() {
    let mut desk = small();
    let text = |bytes| Some("x".repeat(bytes));
    let of_source = |filename, status, processed_at| {
        let told = DataSourceReport { filename, status, processed_at, ..DataSourceReport::default() };
        Edit::ReportExecution(ExecutionReport { datasource: Some(told), ..report("source", "r", Processing) })
    };
    let of_graph = |computed_date| {
        let told = GraphReport { computed_date, ..GraphReport::default() };
        Edit::ReportExecution(ExecutionReport { graph: Some(told), ..report("graph", "r", Processing) })
    };
    for too_long in [
        of_source(text(50_001), None, None),
        of_source(None, text(50_001), None),
        of_source(None, None, text(50_001)),
        of_source(text(30_000), text(20_000), text(1)),
        of_graph(text(50_001)),
    ] {
        let refused = desk.refusal(too_long);
        assert!(matches!(refused, Refusal::TooLarge { what: LimitName::MetadataBytes, .. }), "{refused}");
    }
    desk.must(of_source(text(30_000), text(20_000), None));
    desk.must(of_graph(text(50_000)));
}

#[test]
fn progress_in_words_is_not_part_of_the_plan() {
    let mut desk = small();
    desk.must(executed("graph", "r", Processing));
    let halfway = ExecutionReport { message: Some("half".to_owned()), ..report("graph", "r", Processing) };
    assert_eq!(desk.judge(vec![Edit::ReportExecution(halfway)]), Ok(None));
}

// ---- the log -------------------------------------------------------------------------------------------------------

#[test]
fn a_plan_begins_with_its_creation_at_seq_0() {
    let first = creation(EPOCH);
    let plan = Plan::begin(&first).unwrap();
    assert_eq!(plan.revision().to_string(), format!("{EPOCH}-0"));
    assert_eq!(plan.document(), mille_shared::plan::PlanDocument::default());
    assert!(Plan::begin(&LogEntry { revision: first.revision.next(), ..first.clone() }).is_err());
    assert!(Plan::begin(&LogEntry { hash: ChainHash([1; 8]), ..first }).is_err());
}

#[test]
fn only_the_next_entry_of_the_same_history_applies() {
    let mut desk = Desk::new();
    desk.must(named("one"));
    let next = {
        let change = desk.judge(vec![named("two")]).unwrap().unwrap();
        entry_after(desk.plan.head(), &change)
    };
    let before = desk.plan.clone();
    for (revision, hash, fork) in [
        (next.revision.next(), next.hash, false),
        (desk.plan.revision(), next.hash, false),
        (next.revision, ChainHash([7; 8]), true),
    ] {
        let error = desk.plan.apply(&LogEntry { revision, hash, ..next.clone() }).unwrap_err();
        assert_eq!(matches!(error, ApplyError::Fork { .. }), fork, "{error}");
        assert_eq!(desk.plan, before);
    }
    desk.plan.apply(&next).unwrap();
}

#[test]
fn an_entry_that_can_not_be_is_told_as_corrupt() {
    let desk = small();
    let change = desk.judge(vec![delete("graph")]).unwrap().unwrap();
    for facts in [
        vec![Fact::NodeRemoved { id: nid("nobody") }],
        vec![Fact::EdgeRemoved { id: eid("nothing") }],
        vec![Fact::Created { metadata: Default::default() }],
    ] {
        let wrong = mille_shared::change::Change { facts, ..change.clone() };
        let error = desk.plan.clone().apply(&entry_after(desk.plan.head(), &wrong)).unwrap_err();
        assert!(matches!(error, ApplyError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn edits_that_set_the_sides_are_kept_apart_from_the_position() {
    let mut desk = small();
    let sides = NodeUpdate { source_position: Some("right".to_owned()), ..NodeUpdate::default() };
    let applied = desk.must(update("graph", sides));
    assert_eq!(applied.patch[0].path, "/nodes/1/sourcePosition");
    let graph = &desk.plan.node(&nid("graph")).unwrap().node;
    assert_eq!((graph.source_position.as_deref(), graph.target_position.as_deref()), (Some("right"), None));
}

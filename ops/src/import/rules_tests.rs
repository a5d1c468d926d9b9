//! What may be relied on when rows become a plan.

use super::*;

fn draft_of(nodes: &str, edges: &str) -> Draft {
    draft_into(nodes, edges, &Existing::default())
}

fn draft_into(nodes: &str, edges: &str, existing: &Existing) -> Draft {
    let table = |text: &str| Table::parse(text.as_bytes()).expect("readable");
    draft(&table(nodes), &table(edges), existing)
}

fn types(draft: &Draft) -> Vec<(&str, &str)> {
    draft.nodes.iter().map(|node| (node.id.as_str(), node.node_type)).collect()
}

fn reasons(draft: &Draft) -> Vec<(u64, &str)> {
    draft.rejected.iter().map(|remark| (remark.line, remark.reason.as_str())).collect()
}

#[test]
fn types_that_are_not_given_follow_from_the_edges() {
    let draft =
        draft_of("id,label,type\na,A,\nb,B,task\nc,C,\nd,D,\ne,E,\n", "source,target\na,b\nb,c\na,c\nc,d\nd,e\n");
    assert_eq!(
        types(&draft),
        [("a", DATA_SOURCE), ("b", "TransformNode"), ("c", MERGE), ("d", "TransformNode"), ("e", "GraphNode")]
    );
    assert_eq!(draft.rejected, []);
}

#[test]
fn types_that_are_given_hold_and_edges_against_them_are_rejected() {
    let draft = draft_of(
        "id,label,type\na,A,data_source\nb,B,FilterNode\nc,C,DATASOURCE\nd,D,OutputNode\n",
        "source,target\na,b\nc,b\na,c\nb,d\nd,b\n",
    );
    assert_eq!(types(&draft), [("a", DATA_SOURCE), ("b", "FilterNode"), ("c", DATA_SOURCE), ("d", OUTPUT)]);
    assert_eq!(
        reasons(&draft),
        [
            (3, "`b` is a FilterNode and has its one input; only a MergeNode takes several"),
            (4, "`c` is a DataSourceNode and takes no input"),
            (6, "`d` is an OutputNode and has no outputs"),
        ]
    );
    assert_eq!(draft.edges.len(), 2);
}

#[test]
fn an_edge_that_can_not_be_kept_says_why_and_the_rest_is_kept() {
    let draft = draft_of(
        "id,label\na,A\nb,B\nc,C\n",
        "id,source,target\ne1,a,b\ne2,b,c\ne3,c,a\ne4,a,a\ne5,a,nowhere\ne6,a,b\ne1,a,c\ne7,,c\n",
    );
    assert_eq!(draft.edges.len(), 2);
    assert_eq!(
        reasons(&draft),
        [
            (4, "it would close a cycle: `a` already leads to `c`"),
            (5, "it leads from a plan node to itself"),
            (6, "its target `nowhere` is no plan node"),
            (7, "there already is an edge from `a` to `b` with GRAPH_DATA"),
            (8, "there already is an edge `e1`"),
            (9, "it has no source"),
        ]
    );
}

#[test]
fn the_same_pair_may_carry_another_data_type() {
    let draft = draft_of("id,label\na,A\nb,B\n", "source,target,dataType\na,b,GRAPH_DATA\na,b,graph_reference\n");
    assert_eq!(draft.edges.iter().map(|edge| edge.data_type).collect::<Vec<_>>(), ["GRAPH_DATA", "GRAPH_REFERENCE"]);
    assert_eq!(types(&draft)[1], ("b", MERGE));
}

#[test]
fn a_plan_node_without_id_or_with_one_twice_is_rejected() {
    let draft = draft_of("id,label\na,A\n,B\na,C\n", "source,target\n");
    assert_eq!(reasons(&draft), [(3, "it has no id"), (4, "there already is a plan node `a`")]);
    assert_eq!(draft.nodes.len(), 1);
}

#[test]
fn ids_that_are_not_allowed_are_rewritten_wherever_they_are_used() {
    let draft = draft_of("id,label\nTask 1,A\nTask.2,B\nTask_1,C\n", "source,target\nTask 1,Task.2\n");
    assert_eq!(draft.nodes.iter().map(|node| node.id.as_str()).collect::<Vec<_>>(), ["Task_1", "Task_2"]);
    assert_eq!((draft.edges[0].source.as_str(), draft.edges[0].target.as_str()), ("Task_1", "Task_2"));
    assert_eq!(draft.adapted.len(), 2);
    assert_eq!(reasons(&draft), [(4, "there already is a plan node `Task_1`")]);
    assert_eq!(usable_id(&"é".repeat(300)).len(), ELEMENT_ID_BYTES_MAX);
}

#[test]
fn given_positions_are_kept_and_impossible_ones_laid_out() {
    let draft = draft_of("id,label,x,y\na,A,10,-20.5\nb,B,NaN,0\nc,C,1e9,0\nd,D,,\n", "source,target\na,d\n");
    assert_eq!(draft.nodes[0].position, (10.0, -20.5));
    assert!(draft.nodes.iter().all(|node| node.position.0.abs() <= COORDINATE_ABS_MAX));
    assert_eq!(draft.adapted.iter().map(|remark| remark.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn what_other_columns_say_is_kept_in_the_config() {
    let draft = draft_of("id,label,type,layer\na,A,task,base\nb,B,FilterNode,\n", "source,target\n");
    assert_eq!(draft.nodes[0].config, r#"{"layer":"base","type":"task"}"#);
    assert_eq!(draft.nodes[1].config, "{}");
}

#[test]
fn a_config_must_be_json() {
    let draft = draft_of("id,label,config\na,A,\"{\"\"x\"\":1}\"\nb,B,{x\n", "source,target\n");
    assert_eq!(draft.nodes[0].config, r#"{"x":1}"#);
    assert!(reasons(&draft)[0].1.starts_with("its config is no JSON"));
}

#[test]
fn a_missing_label_is_the_id() {
    let draft = draft_of("id,label\na,\n", "source,target\n");
    assert_eq!(draft.nodes[0].label, "a");
}

#[test]
fn what_the_plan_has_already_counts() {
    let existing = Existing {
        nodes: vec![("a".into(), DATA_SOURCE.into()), ("b".into(), "FilterNode".into())],
        edges: vec![("e1".into(), "a".into(), "b".into(), "GRAPH_DATA".into())],
    };
    let draft = draft_into("id,label\na,A\nc,C\n", "id,source,target\ne1,b,c\ne2,c,b\ne3,b,c\n", &existing);
    assert_eq!(
        reasons(&draft),
        [
            (2, "there already is a plan node `a`"),
            (2, "there already is an edge `e1`"),
            (3, "`b` is a FilterNode and has its one input; only a MergeNode takes several"),
        ]
    );
    assert_eq!(types(&draft), [("c", "GraphNode")]);
    assert_eq!(draft.edges.len(), 1);
}

#[test]
fn a_plan_that_is_full_takes_no_more() {
    let rows: String = (0..1001).map(|number| format!("n{number},N\n")).collect();
    let draft = draft_of(&format!("id,label\n{rows}"), "source,target\n");
    assert_eq!(draft.nodes.len(), PLAN_NODES_MAX);
    assert_eq!(reasons(&draft), [(1002, "a plan holds at most 1000 plan nodes")]);
}

#[test]
fn the_shipped_samples_are_kept_whole() {
    let harbour =
        draft_of(include_str!("../../samples/harbour-nodes.csv"), include_str!("../../samples/harbour-edges.csv"));
    assert_eq!((harbour.nodes.len(), harbour.edges.len()), (51, 75));
    assert_eq!((harbour.rejected, harbour.adapted), (vec![], vec![]));
    let metro = draft_of(include_str!("../../samples/metro-nodes.csv"), include_str!("../../samples/metro-edges.csv"));
    assert_eq!(metro.nodes.len(), 1000);
    assert_eq!((metro.rejected, metro.adapted), (vec![], vec![]));
}

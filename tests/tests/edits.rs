//! The promise: an edit is atomic, checked against the state it is committed on, numbered and seen by all.
//!
//! Two nodes; what is done at one is looked at through the other. Races between them are `convergence`'s
//! work, rights those of `doors`.

use anyhow::{Context as _, Result, ensure};
use mille_tests::{Desk, Replica, Revision, broken_rules, documents as d, edge_input, node_input, refused, same_value};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_edit_does_what_it_says_and_is_one_delta() -> Result<()> {
    let desk = Desk::set().await?;
    let project = &desk.project;
    let empty = desk.ada.plan(project).await?;
    let start = Revision::of(&empty["revision"])?;
    ensure!(start.seq == 0, "an empty plan is at <epoch>-0, not {start}");
    let socket = desk.bob.socket().await?;
    let mut deltas = socket.follow(project, Some(&start.to_string())).await?;
    let mut replica = Replica::of_plan(&empty)?;

    let source = desk.ada.add_node(project, "DataSourceNode", "arrivals").await?;
    let id = source["id"].as_str().context("an id")?.to_owned();
    ensure!(id.ends_with(|last: char| last.is_ascii_hexdigit()) && id.contains('_'), "an id of ours: {id}");
    ensure!(source["metadata"]["label"] == "arrivals" && source["nodeType"] == "DataSourceNode", "{source}");
    desk.nodes(&[("clean", "TransformNode"), ("out", "OutputNode")]).await?;
    let edge = desk.ada.connect(project, &id, "clean").await?;
    let edge_id = edge["id"].as_str().context("an id")?.to_owned();
    ensure!(edge_id.starts_with("edge_"), "an id of ours: {edge_id}");
    desk.ada.connect(project, "clean", "out").await?;

    let updates = json!({"position": {"x": 1.5, "y": -2.0}, "metadata": {"label": "tidy", "description": "d"}, "config": "{\"a\":1}"});
    let updated = desk.edit(d::UPDATE_NODE, json!({"id": "clean", "updates": updates})).await?;
    let updated = &updated["updatePlanDagNode"];
    ensure!(updated["metadata"] == json!({"label": "tidy", "description": "d"}), "{updated}");
    ensure!(updated["config"] == "{\"a\":1}" && same_value(&updated["position"], &updates["position"]), "{updated}");
    let moved = desk.ada.move_node(project, "clean", 10.0, 20.0).await?;
    ensure!(same_value(&moved["position"], &json!({"x": 10, "y": 20})), "{moved}");
    ensure!(moved["metadata"]["label"] == "tidy", "a move changes the place only: {moved}");
    let moves = json!([
        {"nodeId": "clean", "position": {"x": 1.0, "y": 1.0}, "sourcePosition": "right", "targetPosition": "left"},
        {"nodeId": "out", "position": {"x": 2.0, "y": 2.0}},
    ]);
    let moved = desk.edit(d::BATCH_MOVE, json!({"moves": moves})).await?;
    ensure!(moved["batchMovePlanDagNodes"].as_array().is_some_and(|list| list.len() == 2), "{moved}");
    let relabelled = desk.edit(
        d::UPDATE_EDGE,
        json!({"id": edge_id, "updates": {"metadata": {"label": "raw", "dataType": "GRAPH_REFERENCE"}}}),
    );
    ensure!(
        relabelled.await?["updatePlanDagEdge"]["metadata"] == json!({"label": "raw", "dataType": "GRAPH_REFERENCE"})
    );
    let renamed = desk.edit(d::UPDATE_METADATA, json!({"name": "Harbour", "description": "All of it"})).await?;
    ensure!(renamed["updatePlanDagMetadata"]["metadata"]["name"] == "Harbour", "{renamed}");
    desk.edit(d::DELETE_EDGE, json!({"id": edge_id})).await?;
    let deleted = desk.ada.delete_node(project, "clean").await?;
    ensure!(deleted["id"] == "clean" && deleted["metadata"]["label"] == "tidy", "what was deleted: {deleted}");

    // Three plan nodes, two edges, update, move, batch, edge, metadata, two deletions.
    let end = desk.revision().await?;
    ensure!(end.seq == 12, "twelve edits are twelve revisions, not {end}");
    let mut last = Value::Null;
    while replica.revision() != Some(end) {
        last = deltas.value("planDagDeltaChanged").await?;
        replica.apply(&last)?;
        ensure!(broken_rules(replica.document()).is_empty(), "{last}");
    }
    ensure!(replica.snapshots() == 0, "nothing was lost, so no SNAPSHOT");
    ensure!(last["userId"] == "ada", "a delta names its user: {last}");
    let plan = desk.bobs_plan(end).await?;
    ensure!(same_value(replica.document(), &Replica::document_of(&plan)), "{plan}\nis not\n{}", replica.document());
    ensure!(plan["edges"] == json!([]), "a plan node takes its edges along: {plan}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_stays_a_dag_whatever_is_asked() -> Result<()> {
    let desk = Desk::set().await?;
    desk.nodes(&[("source", "DataSourceNode"), ("a", "TransformNode"), ("b", "TransformNode"), ("c", "FilterNode")])
        .await?;
    desk.nodes(&[("merge", "MergeNode"), ("out", "OutputNode")]).await?;
    for (source, target) in [("source", "a"), ("a", "b"), ("b", "c"), ("a", "merge"), ("b", "merge")] {
        desk.ada.connect(&desk.project, source, target).await?;
    }
    let before = desk.ada.plan(&desk.project).await?;
    let refused_edges = [
        ("nowhere", "a", "a missing source"),
        ("a", "nowhere", "a missing target"),
        ("a", "a", "a self loop"),
        ("merge", "source", "an input into a DataSourceNode"),
        ("out", "merge", "an output from an OutputNode"),
        ("source", "c", "a second input into a FilterNode"),
        ("a", "merge", "a second edge between a pair"),
    ];
    for (source, target, what) in refused_edges {
        let refusal = desk.refusal(d::ADD_EDGE, json!({"edge": edge_input(None, source, target)})).await?;
        ensure!(refusal.code == "VALIDATION_FAILED", "{what}: {refusal:?}");
        ensure!(!refusal.message.is_empty(), "{what} is refused without a word");
    }
    // b → merge → (free) x → b would be a cycle; so would any path back.
    desk.nodes(&[("free", "MergeNode")]).await?;
    desk.ada.connect(&desk.project, "merge", "free").await?;
    desk.nodes(&[("back", "MergeNode")]).await?;
    desk.ada.connect(&desk.project, "free", "back").await?;
    let refusal = desk.refusal(d::ADD_EDGE, json!({"edge": edge_input(None, "back", "merge")})).await?;
    ensure!(refusal.code == "VALIDATION_FAILED", "a cycle: {refusal:?}");

    let fine = node_input(None, "GraphNode", "x");
    let taken = node_input(Some("a"), "GraphNode", "x");
    let spaced = node_input(Some("not valid"), "GraphNode", "x");
    let long = node_input(Some(&"x".repeat(101)), "GraphNode", "x");
    let mut far = fine.clone();
    far["position"] = json!({"x": 100_000.5, "y": 0.0});
    let mut heavy = fine.clone();
    heavy["config"] = json!("c".repeat(110_000));
    let mut wordy = fine.clone();
    wordy["metadata"]["description"] = json!("d".repeat(60_000));
    for (node, what) in
        [(taken, "a taken id"), (spaced, "an id with a blank"), (long, "a long id"), (far, "a far place")]
    {
        let refusal = desk.refusal(d::ADD_NODE, json!({"node": node})).await?;
        ensure!(refusal.code == "VALIDATION_FAILED", "{what}: {refusal:?}");
    }
    for (node, what) in [(heavy, "a config above 100 kB"), (wordy, "metadata above 50 kB")] {
        let refusal = desk.refusal(d::ADD_NODE, json!({"node": node})).await?;
        ensure!(refusal.code == "PAYLOAD_TOO_LARGE", "{what}: {refusal:?}");
    }
    for (document, variables) in [
        (d::MOVE_NODE, json!({"id": "gone", "to": {"x": 0.0, "y": 0.0}})),
        (d::UPDATE_NODE, json!({"id": "gone", "updates": {"config": "x"}})),
        (d::DELETE_NODE, json!({"id": "gone"})),
        (d::DELETE_EDGE, json!({"id": "gone"})),
        (d::UPDATE_EDGE, json!({"id": "gone", "updates": {"metadata": {"label": "x"}}})),
        (d::BATCH_MOVE, json!({"moves": [{"nodeId": "gone", "position": {"x": 0.0, "y": 0.0}}]})),
    ] {
        let refusal = desk.refusal(document, variables).await?;
        ensure!(refusal.code == "NOT_FOUND", "{refusal:?}");
    }
    let (seq_before, seq_after) = (Revision::of(&before["revision"])?.seq, desk.revision().await?.seq);
    ensure!(seq_after == seq_before + 4, "a refused edit made a revision: {seq_before} to {seq_after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_operation_is_answered_once_and_again_and_done_once() -> Result<()> {
    let desk = Desk::set().await?;
    let project = &desk.project;
    let ada_there = desk.ada.at(desk.bob.base());
    let variables = json!({"p": project.id, "op": "op-1", "node": node_input(None, "GraphNode", "pier")});
    let first = desk.ada.ask(d::ADD_NODE, "addPlanDagNode", variables.clone()).await?;
    let after_first = desk.revision().await?;
    for client in [&desk.ada, &ada_there] {
        let again = client.ask(d::ADD_NODE, "addPlanDagNode", variables.clone()).await?;
        ensure!(again["id"] == first["id"], "a repeat at {} brings {again}, not {first}", client.base());
    }
    ensure!(desk.revision().await? == after_first, "a repeat made a revision");
    // The id belongs to a user and a client: the same one of someone else is another operation.
    let bobs = desk.bob.ask(d::ADD_NODE, "addPlanDagNode", variables.clone()).await?;
    ensure!(bobs["id"] != first["id"], "another user's operation id is another operation");
    let phones = desk.ada.clone().named("phone").ask(d::ADD_NODE, "addPlanDagNode", variables).await?;
    ensure!(phones["id"] != first["id"] && phones["id"] != bobs["id"], "so is another client's");
    let count = desk.revision().await?.seq;
    ensure!(count == after_first.seq + 2, "two more operations, {count} revisions");
    let long = json!({"op": "x".repeat(65), "node": node_input(None, "GraphNode", "x")});
    let refusal = desk.refusal(d::ADD_NODE, long).await?;
    ensure!(refusal.code == "VALIDATION_FAILED", "an operation id above 64 bytes: {refusal:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_of_what_answers_with_the_plan_has_the_plan_as_it_was_then() -> Result<()> {
    let desk = Desk::set().await?;
    let ada_there = desk.ada.at(desk.bob.base());
    let dag = json!({
        "version": "1", "metadata": {"name": "Whole"}, "edges": [],
        "nodes": [node_input(Some("a"), "GraphNode", "a"), node_input(Some("b"), "GraphNode", "b")],
    });
    let moved = json!([{"moveNode": {"nodeId": "a", "position": {"x": 1.0, "y": 1.0}}}]);
    let mut answered = Vec::new();
    for (document, variables) in [
        (d::REPLACE_PLAN, json!({"p": desk.project.id, "op": "whole", "dag": dag})),
        (d::UPDATE_METADATA, json!({"p": desk.project.id, "op": "name", "name": "Named"})),
        (d::APPLY, json!({"p": desk.project.id, "op": "many", "changes": moved})),
        // Of the two only the second moves.
        (
            d::BATCH_MOVE,
            json!({"p": desk.project.id, "op": "two", "moves": [
                {"nodeId": "a", "position": {"x": 1.0, "y": 1.0}}, {"nodeId": "b", "position": {"x": 2.0, "y": 2.0}},
            ]}),
        ),
        // These change nothing.
        (d::APPLY, json!({"p": desk.project.id, "op": "still", "changes": moved})),
        (
            d::BATCH_MOVE,
            json!({"p": desk.project.id, "op": "stands", "moves": [{"nodeId": "a", "position": {"x": 1.0, "y": 1.0}}]}),
        ),
        (
            d::UPDATE_NODE,
            json!({"p": desk.project.id, "op": "same", "id": "a", "updates": {"metadata": {"label": "a"}}}),
        ),
    ] {
        answered.push((document, variables.clone(), desk.ada.run(document, variables).await?));
    }
    let end = desk.ada.move_node(&desk.project, "a", 9.0, 9.0).await?;
    for (document, variables, first) in answered {
        for client in [&desk.ada, &ada_there] {
            let again = client.run(document, variables.clone()).await?;
            ensure!(same_value(&again, &first), "at {}: {again}\nis not\n{first}", client.base());
        }
    }
    let plan = desk.ada.plan(&desk.project).await?;
    ensure!(same_value(&plan["nodes"][0], &end), "a repeat changed something: {plan}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_variable_that_is_not_set_would_say_stays_as_it_is() -> Result<()> {
    let desk = Desk::set().await?;
    desk.edit(d::UPDATE_METADATA, json!({"name": "One", "description": "kept"})).await?;
    let document = "mutation ($p: Int!, $text: String) { applyPlanDagChanges(projectId: $p, changes: [
        {updateMetadata: {name: \"Two\", description: $text}}]) { planDag { metadata { name description } } } }";
    for (variables, description) in [(json!({}), json!("kept")), (json!({"text": null}), json!(null))] {
        let answer = desk.edit(document, variables).await?;
        let metadata = &answer["applyPlanDagChanges"]["planDag"]["metadata"];
        ensure!(same_value(metadata, &json!({"name": "Two", "description": description})), "{answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_expects_an_old_revision_gets_a_conflict_for_what_changed_only() -> Result<()> {
    let desk = Desk::set().await?;
    desk.nodes(&[("a", "GraphNode"), ("b", "GraphNode")]).await?;
    let old = desk.revision().await?.to_string();
    desk.bob.move_node(&desk.project, "a", 5.0, 5.0).await?;
    let now = desk.bob.revision(&desk.project).await?.to_string();
    let stale = json!({"id": "a", "to": {"x": 9.0, "y": 9.0}, "rev": old});
    let refusal = desk.refusal(d::MOVE_NODE, stale).await?;
    ensure!(refusal.code == "CONFLICT", "{refusal:?}");
    ensure!(refusal.extensions["revision"] == json!(now), "a conflict names the revision: {refusal:?}");
    let current = &refusal.extensions["current"];
    let is_current = current["id"] == "a" && same_value(&current["position"]["x"], &json!(5));
    ensure!(is_current, "and shows the plan node as it is: {refusal:?}");
    desk.edit(d::MOVE_NODE, json!({"id": "b", "to": {"x": 9.0, "y": 9.0}, "rev": old}))
        .await
        .context("b did not change")?;
    desk.edit(d::MOVE_NODE, json!({"id": "a", "to": {"x": 9.0, "y": 9.0}, "rev": now}))
        .await
        .context("a as expected")?;
    desk.edit(d::MOVE_NODE, json!({"id": "a", "to": {"x": 8.0, "y": 8.0}})).await.context("nothing expected")?;
    let ahead = desk.revision().await?.next().to_string();
    let refusal = desk.refusal(d::MOVE_NODE, json!({"id": "b", "to": {"x": 1.0, "y": 1.0}, "rev": ahead})).await?;
    let is_of_it = refusal.code == "CONFLICT" && refusal.extensions["current"]["id"] == "b";
    ensure!(is_of_it, "of a revision that is not there yet nothing is known: {refusal:?}");
    let refusal = desk.refusal(d::MOVE_NODE, json!({"id": "a", "to": {"x": 1.0, "y": 1.0}, "rev": "soon"})).await?;
    ensure!(refusal.code == "VALIDATION_FAILED", "a malformed revision: {refusal:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_changes_nothing_makes_no_revision() -> Result<()> {
    let desk = Desk::set().await?;
    desk.nodes(&[("a", "GraphNode")]).await?;
    desk.ada.move_node(&desk.project, "a", 3.0, 4.0).await?;
    let before = desk.ada.plan(&desk.project).await?;
    let same = desk.ada.move_node(&desk.project, "a", 3.0, 4.0).await?;
    ensure!(same_value(&same, &before["nodes"][0]), "the present state: {same}");
    desk.edit(d::UPDATE_NODE, json!({"id": "a", "updates": {"metadata": {"label": "a"}, "config": "{}"}})).await?;
    ensure!(desk.ada.plan(&desk.project).await? == before, "nothing changed, and yet something did");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_changes_are_one_delta_or_none() -> Result<()> {
    let desk = Desk::set().await?;
    desk.nodes(&[("a", "GraphNode"), ("b", "MergeNode")]).await?;
    let before = desk.ada.plan(&desk.project).await?;
    let start = Revision::of(&before["revision"])?;
    let good = json!([
        {"addNode": {"node": node_input(Some("c"), "TransformNode", "c")}},
        {"addEdge": {"edge": edge_input(Some("ac"), "a", "c")}},
        {"updateNode": {"nodeId": "c", "updates": {"metadata": {"label": "see"}}}},
        {"moveNode": {"nodeId": "a", "position": {"x": 7.0, "y": 7.0}}},
        {"updateEdge": {"edgeId": "ac", "updates": {"metadata": {"label": "flows"}}}},
        {"updateMetadata": {"name": "Many"}},
        {"deleteNode": {"nodeId": "b"}},
    ]);
    let result = desk.edit(d::APPLY, json!({"changes": good})).await?;
    ensure!(Revision::of(&result["applyPlanDagChanges"]["revision"])? == start.next(), "one delta: {result}");
    let after = desk.bobs_plan(start.next()).await?;
    ensure!(result["applyPlanDagChanges"]["planDag"] == after, "both nodes hold one plan");
    let ids: Vec<&Value> = after["nodes"].as_array().context("nodes")?.iter().map(|node| &node["id"]).collect();
    ensure!(ids == ["a", "c"], "insertion order, without b: {ids:?}");

    let bad = json!([{"deleteEdge": {"edgeId": "ac"}}, {"addEdge": {"edge": edge_input(None, "c", "c")}}]);
    let refusal = desk.refusal(d::APPLY, json!({"changes": bad})).await?;
    ensure!(refusal.code == "VALIDATION_FAILED", "{refusal:?}");
    let two = json!([{"deleteNode": {"nodeId": "a"}, "deleteEdge": {"edgeId": "ac"}}]);
    let refusal = desk.refusal(d::APPLY, json!({"changes": two})).await?;
    ensure!(refusal.code == "VALIDATION_FAILED", "a change is exactly one: {refusal:?}");
    let many: Vec<Value> =
        (0..1_001).map(|x| json!({"moveNode": {"nodeId": "a", "position": {"x": x, "y": 0}}})).collect();
    let refusal = desk.refusal(d::APPLY, json!({"changes": many})).await?;
    ensure!(refusal.code == "LIMIT_EXCEEDED", "1,001 changes: {refusal:?}");
    ensure!(desk.ada.plan(&desk.project).await? == after, "a refused batch left something behind");

    let dag = json!({
        "version": "1", "metadata": {"name": "New", "description": "from scratch"},
        "nodes": [node_input(Some("n1"), "DataSourceNode", "n1"), node_input(Some("n2"), "OutputNode", "n2")],
        "edges": [edge_input(Some("e1"), "n1", "n2")],
    });
    let verdict = desk.ada.ask(d::VALIDATE, "validatePlanDag", json!({"dag": dag})).await?;
    ensure!(verdict["isValid"] == true && verdict["errors"] == json!([]), "{verdict}");
    let replaced = desk.edit(d::REPLACE_PLAN, json!({"dag": dag})).await?;
    ensure!(Revision::of(&replaced["updatePlanDag"]["revision"])? == start.next().next(), "one delta: {replaced}");
    let log = desk.bob.deltas_after(&desk.project, &start.to_string()).await?;
    let mut replica = Replica::of_plan(&before)?;
    for event in &log {
        replica.apply(event)?;
    }
    let document = Replica::document_of(&desk.ada.plan(&desk.project).await?);
    ensure!(log.len() == 2 && same_value(replica.document(), &document), "{}\nis not\n{document}", replica.document());

    let mut cyclic = dag.clone();
    cyclic["nodes"] = json!([node_input(Some("n1"), "MergeNode", "n1"), node_input(Some("n2"), "MergeNode", "n2")]);
    cyclic["edges"] = json!([edge_input(Some("e1"), "n1", "n2"), edge_input(Some("e2"), "n2", "n1")]);
    let verdict = desk.ada.ask(d::VALIDATE, "validatePlanDag", json!({"dag": cyclic})).await?;
    ensure!(verdict["isValid"] == false && verdict["errors"] != json!([]), "{verdict}");
    let refusal = desk.refusal(d::REPLACE_PLAN, json!({"dag": cyclic})).await?;
    ensure!(refusal.code == "VALIDATION_FAILED", "{refusal:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_goes_forward_and_everyone_hears_of_it() -> Result<()> {
    let desk = Desk::set().await?;
    desk.nodes(&[("source", "DataSourceNode"), ("graph", "GraphNode")]).await?;
    let start = desk.revision().await?;
    let socket = desk.bob.socket().await?;
    let variables = json!({"p": desk.project.id, "after": start.to_string()});
    let mut states = socket.start(d::STATUS, variables).await?;
    let report = async |id: &str, run: &str, state: &str| {
        desk.edit(d::REPORT, json!({"id": id, "run": run, "state": state, "graph": {"nodeCount": 3, "edgeCount": 2}}))
            .await
    };
    for state in ["pending", "processing", "completed"] {
        let event = report("graph", "run-1", state).await?;
        ensure!(event["reportNodeExecution"]["state"] == state, "{event}");
        let heard = states.value("nodeExecutionStatusChanged").await?;
        ensure!(heard["state"] == state && heard["nodeId"] == "graph" && heard["runId"] == "run-1", "{heard}");
        ensure!(heard["nodeType"] == "GraphNode" && heard["graphExecution"]["executionState"] == state, "{heard}");
    }
    let numbered = desk.revision().await?;
    ensure!(numbered.seq == start.seq + 3, "three states are three revisions: {start} to {numbered}");
    for state in ["pending", "processing"] {
        let refusal = refused(report("graph", "run-1", state).await)?;
        ensure!(refusal.code == "VALIDATION_FAILED", "back to {state}: {refusal:?}");
    }
    let refusal = refused(report("graph", "run-2", "dancing").await)?;
    ensure!(refusal.code == "VALIDATION_FAILED", "no such state: {refusal:?}");
    let refusal = refused(report("gone", "run-2", "pending").await)?;
    ensure!(refusal.code == "NOT_FOUND", "no such plan node: {refusal:?}");
    report("graph", "run-2", "pending").await.context("a new run may start over")?;
    let heard = states.value("nodeExecutionStatusChanged").await?;
    ensure!(heard["runId"] == "run-2" && heard["state"] == "pending", "{heard}");
    let datasource = json!({"filename": "a.csv", "dataSourceId": 7});
    desk.edit(
        d::REPORT,
        json!({"id": "source", "run": "r", "state": "error", "message": "no file", "datasource": datasource}),
    )
    .await
    .context("an error may come at once")?;
    let heard = states.value("nodeExecutionStatusChanged").await?;
    ensure!(heard["datasourceExecution"]["errorMessage"] == "no file", "{heard}");
    let plan = desk.bobs_plan(desk.revision().await?).await?;
    ensure!(plan["nodes"][0]["datasourceExecution"]["executionState"] == "error", "the plan keeps it: {plan}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_progress_the_newest_is_told_in_the_end_and_none_after_its_state() -> Result<()> {
    let desk = Desk::set().await?;
    desk.nodes(&[("graph", "GraphNode"), ("other", "GraphNode")]).await?;
    let start = desk.revision().await?;
    let socket = desk.bob.socket().await?;
    let mut states = socket.start(d::STATUS, json!({"p": desk.project.id, "after": start.to_string()})).await?;
    let report = async |id: &str, state: &str, progress: Option<f64>| {
        desk.edit(d::REPORT, json!({"id": id, "run": "run", "state": state, "progress": progress})).await
    };
    // As fast as it goes, which is faster than it is told.
    for step in 0..=20 {
        report("graph", "processing", Some(f64::from(step) / 20.0)).await?;
    }
    let mut told = Vec::new();
    while told.last() != Some(&json!(1.0)) {
        let heard = states.value("nodeExecutionStatusChanged").await?;
        ensure!(heard["state"] == "processing", "{heard}");
        told.push(heard["progress"].clone());
    }
    ensure!(told[0] == Value::Null, "the state itself comes first: {told:?}");
    ensure!(told[1..].is_sorted_by(|one, next| one.as_f64() < next.as_f64()), "progress goes forward: {told:?}");
    ensure!(desk.revision().await?.seq == start.seq + 1, "progress makes no revision");

    // What waits to be told is left behind by the state. What the other has waits for longer, and comes the same way.
    report("graph", "processing", Some(0.5)).await?;
    report("graph", "processing", Some(0.6)).await?;
    report("graph", "completed", None).await?;
    report("other", "processing", Some(0.1)).await?;
    report("other", "processing", Some(0.2)).await?;
    let (mut is_completed, mut is_over) = (false, false);
    while !is_over {
        let heard = states.value("nodeExecutionStatusChanged").await?;
        ensure!(!is_completed || heard["nodeId"] == "other", "behind the end of its run: {heard}");
        is_completed |= heard["state"] == "completed";
        is_over = heard["progress"] == 0.2;
    }
    ensure!(is_completed, "it ended before the other began");
    Ok(())
}

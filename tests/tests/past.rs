//! The promise: what happened to a plan can be read and heard again from any place that the log still has, as deltas and as
//! typed events, on any node; and where it can't, that is said.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Desk, Event, Project, Replica, Revision, Subscription, documents as d, eventually, refused, same_value, soon,
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_in_pages_and_says_when_it_does_not_reach_back() -> Result<()> {
    let desk = Desk::set().await?;
    let ids: Vec<String> = (0..7).map(|index| format!("n{index}")).collect();
    for id in &ids {
        desk.ada.add_node_as(&desk.project, id, "GraphNode").await?;
    }
    let end = desk.revision().await?;
    let mut after = end.start().to_string();
    let mut pages = Vec::new();
    for _ in 0..3 {
        let variables = json!({"p": desk.project.id, "after": after, "limit": 3});
        let page = desk.bob.ask(d::DELTAS, "planDagDeltas", variables).await?;
        after = page["endRevision"].as_str().context("endRevision")?.to_owned();
        pages.push((page["events"].as_array().map(Vec::len), page["hasMore"].clone()));
    }
    ensure!(pages == [(Some(3), json!(true)), (Some(3), json!(true)), (Some(1), json!(false))], "{pages:?}");
    ensure!(after == end.to_string(), "the pages end at {after}, the plan at {end}");

    let other_epoch = Revision { epoch: end.epoch - 1, seq: 1 };
    let ahead = Revision { seq: end.seq + 50, ..end };
    for lost in [other_epoch, ahead] {
        let variables = json!({"p": desk.project.id, "after": lost.to_string()});
        let refusal = refused(desk.bob.run(d::DELTAS, variables).await)?;
        ensure!(refusal.code == "UNRECOVERABLE_REVISION", "{lost}: {refusal:?}");
        // The stream heals what the query can only report.
        let socket = desk.bob.socket().await?;
        let mut deltas = socket.follow(&desk.project, Some(&lost.to_string())).await?;
        let event = deltas.value("planDagDeltaChanged").await?;
        ensure!(event["kind"] == "SNAPSHOT" && event["reason"].is_string(), "{lost}: {event}");
        Replica::new().apply(&event)?;
    }
    for nonsense in ["", "yesterday", "1", "1-", "1-2-3", "-1-2"] {
        let variables = json!({"p": desk.project.id, "after": nonsense});
        let refusal = refused(desk.bob.run(d::DELTAS, variables).await)?;
        ensure!(refusal.code == "VALIDATION_FAILED", "{nonsense:?}: {refusal:?}");
    }
    for (limit, events) in [(json!(1), 1), (json!(5_000), 7), (Value::Null, 7)] {
        let variables = json!({"p": desk.project.id, "after": end.start().to_string(), "limit": limit});
        let page = desk.bob.ask(d::DELTAS, "planDagDeltas", variables).await?;
        ensure!(page["events"].as_array().map(Vec::len) == Some(events), "{limit}: {page}");
    }
    for limit in [0, -1] {
        let variables = json!({"p": desk.project.id, "after": end.start().to_string(), "limit": limit});
        let refusal = refused(desk.bob.run(d::DELTAS, variables).await)?;
        ensure!(refusal.code == "VALIDATION_FAILED", "{limit}: {refusal:?}");
    }
    let nothing = desk.bob.ask(d::DELTAS, "planDagDeltas", json!({"p": desk.project.id, "after": after})).await?;
    ensure!(nothing == json!({"events": [], "endRevision": after, "hasMore": false}), "{nothing}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_stream_begins_where_it_was_asked_to() -> Result<()> {
    let desk = Desk::set().await?;
    desk.nodes(&[("a", "GraphNode"), ("b", "GraphNode")]).await?;
    let here = desk.revision().await?;
    let socket = desk.bob.socket().await?;
    let follow = async |after: Value, snapshot: Value| -> Result<Subscription> {
        let variables = json!({"p": desk.project.id, "after": after, "snapshot": snapshot});
        socket.start(d::FOLLOW, variables).await
    };
    let mut from_start = follow(json!(here.start().to_string()), Value::Null).await?;
    for seq in 1..=here.seq {
        let event = from_start.value("planDagDeltaChanged").await?;
        ensure!(event["revision"] == Revision { seq, ..here }.to_string(), "{event}");
    }
    let mut with_snapshot = follow(Value::Null, json!(true)).await?;
    let event = with_snapshot.value("planDagDeltaChanged").await?;
    ensure!(event["kind"] == "SNAPSHOT" && event["revision"] == here.to_string(), "{event}");
    let mut both = follow(json!(Revision { seq: 1, ..here }.to_string()), json!(true)).await?;
    let event = both.value("planDagDeltaChanged").await?;
    ensure!(event["kind"] == "DELTA" && event["revision"] == here.to_string(), "`after` counts: {event}");
    let mut from_now = follow(Value::Null, json!(false)).await?;
    // The first change after the node has taken it up; before that, it may miss some.
    let mut step = 0.0;
    let event = eventually(soon(), async || {
        step += 1.0;
        desk.ada.move_node(&desk.project, "a", step, 0.0).await?;
        from_now.waiting().context("nothing came yet")
    })
    .await?;
    let Event::Next(payload) = event else { anyhow::bail!("{event:?}") };
    let event = &payload["data"]["planDagDeltaChanged"];
    ensure!(event["kind"] == "DELTA" && Revision::of(&event["revision"])?.seq > here.seq, "{event}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_events_tell_the_same_story() -> Result<()> {
    let desk = Desk::set().await?;
    let start = desk.revision().await?;
    let socket = desk.bob.socket().await?;
    let plan = desk.project.plan.to_string();
    let mut updates = socket.start(d::UPDATED, json!({"plan": plan, "after": start.to_string()})).await?;
    let mut seen = socket.start(d::COLLABORATION, json!({"plan": plan})).await?;
    // `collaborationEvents` has no `after`: knock until the first one answers.
    let mut count = 0;
    eventually(soon(), async || {
        count += 1;
        desk.ada.add_node_as(&desk.project, &format!("knock-{count}"), "MergeNode").await?;
        seen.waiting().context("no event yet")
    })
    .await?;
    for index in 1..=count {
        let event = updates.value("planDagUpdated").await?;
        ensure!(event["updateType"] == "NODE_ADDED", "{event}");
        ensure!(event["data"]["node"]["id"] == format!("knock-{index}"), "{event}");
    }
    desk.nodes(&[("a", "GraphNode"), ("b", "GraphNode")]).await?;
    let edge = desk.ada.connect(&desk.project, "a", "b").await?;
    desk.ada.move_node(&desk.project, "a", 5.0, 5.0).await?;
    desk.edit(d::UPDATE_METADATA, json!({"name": "told"})).await?;
    desk.edit(d::DELETE_EDGE, json!({"id": edge["id"]})).await?;
    desk.ada.delete_node(&desk.project, "b").await?;
    let story =
        ["NODE_ADDED", "NODE_ADDED", "EDGE_ADDED", "NODE_UPDATED", "METADATA_UPDATED", "EDGE_REMOVED", "NODE_REMOVED"];
    for kind in story {
        let event = updates.value("planDagUpdated").await?;
        ensure!(event["updateType"] == kind && event["userId"] == "ada", "{kind} was due: {event}");
    }
    let mut wanted: HashSet<&str> =
        ["NODE_CREATED", "NODE_UPDATED", "NODE_DELETED", "EDGE_CREATED", "EDGE_DELETED"].into();
    while !wanted.is_empty() {
        let event = seen.value("collaborationEvents").await?;
        wanted.remove(event["eventType"].as_str().unwrap_or_default());
    }
    let mut visitor = desk.ada.presence(&desk.project).await?;
    visitor.switch_document(&plan, "canvas").await?;
    visitor.move_cursor(&plan, 11.0, 22.0).await?;
    let mut wanted: HashSet<&str> = ["USER_JOINED", "CURSOR_MOVED", "USER_LEFT"].into();
    while !wanted.is_empty() {
        let event = seen.value("collaborationEvents").await?;
        let kind = event["eventType"].as_str().unwrap_or_default().to_owned();
        wanted.remove(kind.as_str());
        if kind == "CURSOR_MOVED" {
            ensure!(same_value(&event["data"]["cursorEvent"]["positionX"], &json!(11)), "{event}");
            visitor.send("leave_session", json!({})).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_events_begin_anew_where_the_log_can_not_tell_what_was_missed() -> Result<()> {
    let desk = Desk::set().await?;
    desk.nodes(&[("a", "GraphNode")]).await?;
    let here = desk.revision().await?;
    let lost = Revision { epoch: here.epoch - 1, seq: 1 };
    let socket = desk.bob.socket().await?;
    let plan = desk.project.plan.to_string();
    let mut updates = socket.start(d::UPDATED, json!({"plan": plan, "after": lost.to_string()})).await?;
    let event = updates.value("planDagUpdated").await?;
    ensure!(event["updateType"] == "SNAPSHOT" && event["revision"] == here.to_string(), "{event}");
    desk.ada.move_node(&desk.project, "a", 1.0, 1.0).await?;
    let event = updates.value("planDagUpdated").await?;
    ensure!(event["updateType"] == "NODE_UPDATED" && event["revision"] == here.next().to_string(), "{event}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projects_plans_are_edited_and_heard_of_each_for_itself() -> Result<()> {
    let desk = Desk::set().await?;
    let first = &desk.project;
    let made = desk.ada.ask(d::CREATE_PLAN, "createPlan", json!({"p": first.id, "name": "second"})).await?;
    let second = Project { plan: made["id"].as_i64().context("a plan has an id")?, ..*first };
    ensure!(made["projectId"] == first.id && second.plan != first.plan, "{made}");
    let socket = desk.bob.socket().await?;
    let (mut of_first, mut of_second) = (socket.follow(first, None).await?, socket.follow(&second, None).await?);
    for deltas in [&mut of_first, &mut of_second] {
        ensure!(deltas.value("planDagDeltaChanged").await?["kind"] == "SNAPSHOT", "it begins with the whole");
    }
    desk.ada.add_node_as(&second, "pier", "GraphNode").await?;
    desk.ada.add_node_as(first, "pier", "MergeNode").await?;
    desk.bob.move_node(&second, "pier", 4.0, 2.0).await?;
    for (deltas, of, count) in [(&mut of_first, first, 1), (&mut of_second, &second, 2)] {
        for _ in 0..count {
            let event = deltas.value("planDagDeltaChanged").await?;
            ensure!(event["planId"] == of.plan && event["projectId"] == of.id, "of plan {}: {event}", of.plan);
        }
        let plan = desk.bob.plan(of).await?;
        ensure!(Revision::of(&plan["revision"])?.seq == count, "{count} changes of plan {}: {plan}", of.plan);
    }
    // What happens to another plan is none of its: with one change more of each, that is the next it hears.
    for (deltas, of, count) in [(&mut of_first, first, 2), (&mut of_second, &second, 3)] {
        desk.ada.move_node(of, "pier", 7.0, 7.0).await?;
        let event = deltas.value("planDagDeltaChanged").await?;
        let is_next = event["planId"] == of.plan && Revision::of(&event["revision"])?.seq == count;
        ensure!(is_next, "change {count} of plan {}: {event}", of.plan);
    }
    let foreign = Project { plan: desk.bob.create_project("another").await?.plan, ..*first };
    let refusal = refused(desk.bob.add_node_as(&foreign, "pier", "GraphNode").await)?;
    ensure!(refusal.code == "NOT_FOUND", "another project's plan is none of this one's: {refusal:?}");
    Ok(())
}

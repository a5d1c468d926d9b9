//! The promise: everyone sees who is here, where, and who left, whichever node they are on and whatever dies.

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Client, Cluster, Frame, PresenceSocket, Project, Token, documents as d, eventually, patience, same_value, soon,
};
use serde_json::{Value, json};

/// The lease of the nodes in the test that kills one, in seconds.
const LEASE_SECONDS: f64 = 3.0;

/// Two users of one project, at two nodes.
async fn two_people(cluster: &Cluster) -> Result<(Client, Client, Project)> {
    let (ada, bob) = (cluster.user(0, "ada"), cluster.user(1, "bob"));
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "VIEWER").await?;
    Ok((ada, bob, project))
}

fn is(user: &str, online: bool) -> impl Fn(&Value) -> bool {
    move |presence| presence["userId"] == user && presence["isOnline"] == online
}

fn users_of(roster: &Value) -> Vec<String> {
    let list = roster.as_array().cloned().unwrap_or_default();
    let mut users: Vec<String> = list.iter().filter_map(|one| one["userId"].as_str().map(str::to_owned)).collect();
    users.sort();
    users
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_on_two_nodes_see_each_other_come_move_and_go() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let plan = project.plan.to_string();

    let mut adas = PresenceSocket::connect(&ada, project.id).await?;
    let welcome = adas.next("welcome").await?;
    for field in ["connectionId", "nodeId", "resumeToken", "heartbeatMs", "cursorIntervalMs", "limits"] {
        ensure!(!welcome[field].is_null(), "welcome without {field}: {welcome}");
    }
    ensure!(users_of(&adas.join(None).await?) == ["ada"], "the joiner sees itself");

    eventually(soon(), async || {
        let all = bob.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
        ensure!(all.as_array().context("a list")?.iter().any(is("ada", true)), "the other node has not heard: {all}");
        Ok(())
    })
    .await?;
    let mut bobs = PresenceSocket::connect(&bob, project.id).await?;
    let roster = bobs.join(None).await?;
    ensure!(users_of(&roster) == ["ada", "bob"], "the roster is of the whole project: {roster}");
    let joined = adas.next_where("user_presence", soon(), is("bob", true)).await?;
    ensure!(joined["connections"] == 1 && joined["status"] == "active" && joined["isAgent"] == false, "{joined}");

    adas.switch_document(&plan, "canvas").await?;
    let full =
        |count: usize| move |data: &Value| data["activeUsers"].as_array().is_some_and(|users| users.len() == count);
    let activity = adas.next_where("document_activity", soon(), full(1)).await?;
    ensure!(activity["documentId"] == plan.as_str(), "{activity}");
    bobs.next_where("user_presence", soon(), |presence| !presence["documents"][&plan].is_null()).await?;
    bobs.switch_document(&plan, "canvas").await?;
    adas.next_where("document_activity", soon(), full(2)).await?;
    bobs.next_where("document_activity", soon(), full(2)).await?;

    adas.move_cursor(&plan, 10.0, 20.0).await?;
    let at = |x: i64, y: i64| {
        move |data: &Value| {
            let cursors = data["cursors"].as_array().cloned().unwrap_or_default();
            cursors.iter().any(|cursor| {
                cursor["userId"] == "ada"
                    && same_value(&cursor["position"]["x"], &json!(x))
                    && same_value(&cursor["position"]["y"], &json!(y))
            })
        }
    };
    bobs.next_where("cursor_update", soon(), at(10, 20)).await?;
    // Positions may be passed over, but never the last.
    for step in 0..50 {
        adas.move_cursor(&plan, f64::from(step), 0.0).await?;
    }
    adas.move_cursor(&plan, 77.0, 88.0).await?;
    bobs.next_where("cursor_update", soon(), at(77, 88)).await?;

    adas.send("update_status", json!({"status": "away"})).await?;
    bobs.next_where("user_presence", soon(), |presence| presence["userId"] == "ada" && presence["status"] == "away")
        .await?;
    adas.send("leave_session", json!({})).await?;
    bobs.next_where("user_presence", soon(), is("ada", false)).await?;
    bobs.next_where("document_activity", soon(), full(1)).await?;
    adas.quiet("anything").await.context("leaving the session keeps the socket")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_switch_sends_nothing_and_a_document_keeps_its_type() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let (mut adas, mut bobs) = (ada.presence(&project).await?, bob.presence(&project).await?);
    adas.switch_document("sheet", "spreadsheet").await?;
    adas.next("document_activity").await?;
    bobs.next_where("user_presence", soon(), |presence| !presence["documents"]["sheet"].is_null()).await?;
    for _ in 0..3 {
        adas.switch_document("sheet", "spreadsheet").await?;
    }
    // What Ada does next reaches Bob after anything the repeats could have caused.
    adas.send("update_status", json!({"status": "away"})).await?;
    bobs.next_where("user_presence", soon(), |presence| presence["status"] == "away").await?;
    ensure!(bobs.quiet("document_activity").await? == Vec::<Value>::new(), "a repeat was told to others");
    ensure!(adas.quiet("document_activity").await? == Vec::<Value>::new(), "a repeat was answered");

    bobs.switch_document("sheet", "canvas").await?;
    let error = bobs.next_error().await?;
    ensure!(error["code"] == "DOCUMENT_TYPE_MISMATCH", "{error}");
    bobs.switch_document("sheet", "spreadsheet").await?;
    bobs.next_where("document_activity", soon(), |data| {
        data["activeUsers"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await
    .context("with the right type it opens")?;
    // Switching leaves the document before, and the last to leave frees its type.
    for socket in [&mut adas, &mut bobs] {
        socket.switch_document("elsewhere", "canvas").await?;
    }
    eventually(soon(), async || {
        adas.switch_document("sheet", "timeline").await?;
        let all = ada.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
        let of_ada = all.as_array().context("a list")?.iter().find(|one| one["userId"] == "ada").context("ada")?;
        let sheet = &of_ada["documents"]["sheet"];
        ensure!(sheet["documentType"] == "timeline", "an empty document still has a type: {of_ada}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tabs_are_one_presence_until_the_last_is_closed() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let mut adas = ada.presence(&project).await?;
    let mut first = bob.presence(&project).await?;
    adas.next_where("user_presence", soon(), is("bob", true)).await?;
    // The second tab is at the other node.
    let mut second = bob.at(ada.base()).presence(&project).await?;
    eventually(soon(), async || {
        let all = ada.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
        let bobs: Vec<&Value> = all.as_array().context("a list")?.iter().filter(|one| one["userId"] == "bob").collect();
        ensure!(bobs.len() == 1 && bobs[0]["connections"] == 2, "one presence of two connections: {all}");
        Ok(())
    })
    .await?;
    second.send("leave_session", json!({})).await?;
    eventually(soon(), async || {
        let health = ada.ask(d::HEALTH, "projectHealth", json!({"p": project.id})).await?;
        ensure!(health["activeUsers"] == 2 && health["activeConnections"] == 2, "{health}");
        Ok(())
    })
    .await?;
    let gone = adas.quiet("user_presence").await?;
    ensure!(!gone.iter().any(is("bob", false)), "bob still has a tab: {gone:?}");
    first.send("leave_session", json!({})).await?;
    adas.next_where("user_presence", soon(), is("bob", false)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_is_resumed_on_another_node_and_nobody_notices() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let mut adas = ada.presence(&project).await?;
    let mut bobs = PresenceSocket::connect(&bob, project.id).await?;
    let resume = bobs.next("welcome").await?["resumeToken"].as_str().context("a resume token")?.to_owned();
    bobs.join(None).await?;
    adas.next_where("user_presence", soon(), is("bob", true)).await?;

    // The new page overtakes the close of the old one.
    let mut reloaded = PresenceSocket::connect(&bob.at(ada.base()), project.id).await?;
    let roster = reloaded.join(Some(&resume)).await?;
    ensure!(users_of(&roster) == ["ada", "bob"], "{roster}");
    let closing = bobs.closing(soon()).await?;
    ensure!(closing.code == Some(1000), "the superseded socket: {closing:?}");
    let all = ada.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
    let connections = all.as_array().context("a list")?.iter().find(|one| one["userId"] == "bob");
    ensure!(connections.is_some_and(|one| one["connections"] == 1), "one connection, not two: {all}");
    reloaded.send("update_status", json!({"status": "idle"})).await?;
    adas.next_where("user_presence", soon(), |presence| presence["status"] == "idle").await?;
    let told = adas.quiet("user_presence").await?;
    ensure!(!told.iter().any(|presence| presence["userId"] == "bob"), "a resume tells others nothing: {told:?}");

    // Closed without a word: ten seconds of grace, then he is gone.
    drop(reloaded);
    let told = adas.quiet("user_presence").await?;
    ensure!(!told.iter().any(is("bob", false)), "no grace: {told:?}");
    adas.next_where("user_presence", patience(14.0), is("bob", false)).await.context("the grace has an end")?;
    Ok(())
}

/// As browsers reload: the old page's socket is closed first, and the new page may reach another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_closed_and_loaded_again_within_the_grace_is_noticed_by_nobody() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    // One witness at the node that the page leaves, and one at the node where it comes back.
    let mut witnesses = [ada.presence(&project).await?, ada.at(bob.base()).presence(&project).await?];
    let mut page = PresenceSocket::connect(&bob, project.id).await?;
    let mut resume = page.next("welcome").await?["resumeToken"].as_str().context("a resume token")?.to_owned();
    page.join(None).await?;
    page.switch_document("plan", "canvas").await?;
    let is_in_the_plan = |presence: &Value| presence["userId"] == "bob" && !presence["documents"]["plan"].is_null();
    for witness in &mut witnesses {
        witness.next_where("user_presence", soon(), is_in_the_plan).await?;
        witness.quiet("user_presence").await?;
    }
    let nodes = [&ada, &bob];
    for reload in 0..4 {
        // Closed in order, without a code of its own, or not at all: only the line is gone.
        match reload {
            0 | 1 => page.raw().go_away().await?,
            2 => page.raw().close().await?,
            _ => {}
        }
        if reload < 3 {
            page.closing(soon()).await?;
        }
        drop(page);
        page = PresenceSocket::connect(&bob.at(nodes[reload % 2].base()), project.id).await?;
        page.next("welcome").await?;
        let roster = page.join(Some(&resume)).await?;
        ensure!(users_of(&roster) == ["ada", "bob"], "{roster}");
        let welcome = page.next("welcome").await.context("whoever has the place back is welcomed by its name")?;
        resume = welcome["resumeToken"].as_str().context("a resume token")?.to_owned();
        page.switch_document("plan", "canvas").await?;
    }
    // What he does next reaches the witnesses after anything that the reloads could have caused.
    page.send("update_status", json!({"status": "away"})).await?;
    for witness in &mut witnesses {
        let is_away = |presence: &Value| presence["userId"] == "bob" && presence["status"] == "away";
        witness.next_where("user_presence", soon(), is_away).await?;
        let told = witness.quiet("user_presence").await?;
        ensure!(!told.iter().any(|presence| presence["userId"] == "bob"), "a reload was told to others: {told:?}");
    }
    page.send("leave_session", json!({})).await?;
    for witness in &mut witnesses {
        witness.next_where("user_presence", soon(), is("bob", false)).await?;
    }
    Ok(())
}

/// A page that reloads shows a document again, and opens it as any page does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reloads_in_a_document_is_told_who_is_in_it() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let (mut adas, mut bobs) = (ada.presence(&project).await?, PresenceSocket::connect(&bob, project.id).await?);
    let resume = bobs.next("welcome").await?["resumeToken"].as_str().context("a resume token")?.to_owned();
    bobs.join(None).await?;
    let both = |data: &Value| data["activeUsers"].as_array().is_some_and(|users| users.len() == 2);
    for socket in [&mut adas, &mut bobs] {
        socket.switch_document("plan", "canvas").await?;
    }
    for socket in [&mut adas, &mut bobs] {
        socket.next_where("document_activity", soon(), both).await?;
    }
    adas.quiet("document_activity").await?;
    let mut reloaded = PresenceSocket::connect(&bob.at(ada.base()), project.id).await?;
    reloaded.join(Some(&resume)).await?;
    reloaded.switch_document("plan", "canvas").await?;
    reloaded.next_where("document_activity", soon(), both).await?;
    ensure!(adas.quiet("document_activity").await? == Vec::<Value>::new(), "a reload is told to others");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_takes_its_users_with_it_within_its_lease() -> Result<()> {
    let mut cluster = Cluster::of(2).with("MILLE_NODE_LEASE_SECONDS", &LEASE_SECONDS.to_string()).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let (mut adas, _bobs) = (ada.presence(&project).await?, bob.presence(&project).await?);
    adas.next_where("user_presence", soon(), is("bob", true)).await?;
    cluster.kill_9(1)?;
    adas.next_where("user_presence", patience(LEASE_SECONDS + 2.0), is("bob", false)).await?;
    eventually(soon(), async || {
        let all = ada.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
        let online = all.as_array().context("a list")?.iter().any(is("bob", true));
        ensure!(!online, "a ghost: {all}");
        Ok(())
    })
    .await?;
    cluster.restart(1).await?;
    let _back = bob.presence(&project).await.context("the node that came back takes him in")?;
    adas.next_where("user_presence", soon(), is("bob", true)).await?;
    Ok(())
}

/// By the settings as they are shipped: a lease of ten seconds, and two for the others to see that it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_usual_lease_the_users_of_a_dead_node_are_gone_within_twelve_seconds() -> Result<()> {
    let mut cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let (mut adas, _bobs) = (ada.presence(&project).await?, bob.presence(&project).await?);
    adas.next_where("user_presence", soon(), is("bob", true)).await?;
    cluster.kill_9(1)?;
    adas.next_where("user_presence", patience(12.0), is("bob", false)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_told_from_people_everywhere() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let mut adas = ada.presence(&project).await?;
    let token = Token::of("bob").claim("agent", json!(true)).sign();
    let mut agents = cluster.bearer(1, "bob", token).presence(&project).await?;
    let told = adas.next_where("user_presence", soon(), is("bob", true)).await?;
    ensure!(told["isAgent"] == true, "{told}");
    for socket in [&mut adas, &mut agents] {
        socket.switch_document("plan", "canvas").await?;
    }
    let flags = |list: &Value| -> Vec<(String, bool)> {
        let users = list.as_array().into_iter().flatten();
        users.filter_map(|one| Some((one["userId"].as_str()?.to_owned(), one["isAgent"].as_bool()?))).collect()
    };
    let due = vec![("ada".to_owned(), false), ("bob".to_owned(), true)];
    adas.next_where("document_activity", soon(), |data| flags(&data["activeUsers"]) == due).await?;
    for base in [ada.base(), bob.base()] {
        let all = ada.at(base).ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
        ensure!(flags(&all) == due, "{all}");
        let roster = PresenceSocket::connect(&ada.at(base), project.id).await?.join(None).await?;
        ensure!(flags(&roster) == due, "{roster}");
    }
    agents.send("leave_session", json!({})).await?;
    adas.next_where("user_presence", soon(), is("bob", false)).await?;
    Ok(())
}

/// Cursors replace each other and cost nothing, whichever documents they are in: nobody is told off for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_points_is_never_asked_to_slow_down() -> Result<()> {
    let cluster = Cluster::of(1).start().await?;
    let ada = cluster.user(0, "ada");
    let project = ada.create_project("harbour").await?;
    let mut adas = ada.presence(&project).await?;
    for x in 0..200 {
        adas.move_cursor(if x % 2 == 0 { "plan" } else { "board" }, f64::from(x), 0.0).await?;
    }
    // The node answers the close after everything before it. A ping would count, and might be the one too many.
    adas.raw().close().await?;
    let mut errors = Vec::new();
    loop {
        match adas.raw().next().await {
            Frame::Text(text) => errors.extend(text.contains(r#""type":"error""#).then_some(text)),
            Frame::Closed(_) => break,
            _ => {}
        }
    }
    ensure!(errors.is_empty(), "{errors:?}");

    // A page that is loaded again says where it looks before anything else.
    let mut page = PresenceSocket::connect(&ada, project.id).await?;
    let resume = page.next("welcome").await?["resumeToken"].as_str().context("a resume token")?.to_owned();
    page.join(None).await?;
    page.switch_document("plan", "canvas").await?;
    page.next("document_activity").await?;
    let mut again = PresenceSocket::connect(&ada, project.id).await?;
    again.join(Some(&resume)).await?;
    for x in 1..=200 {
        again.send("update_viewport", json!({"documentId": "plan", "x": x, "y": 0, "zoom": 2})).await?;
    }
    let errors: Vec<Value> = again.everything().await?.into_iter().filter(|one| one["type"] == "error").collect();
    ensure!(errors.is_empty(), "{errors:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graphql_socket_can_be_present_too_and_leaves_with_its_end() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let mut adas = ada.presence(&project).await?;
    let socket = bob.socket().await?;
    let joined = socket.run_one(d::JOIN, json!({"p": project.id})).await?;
    ensure!(joined["joinProjectCollaboration"] == true, "{joined}");
    adas.next_where("user_presence", soon(), is("bob", true)).await?;
    socket.run_one(d::LEAVE, json!({"p": project.id})).await?;
    adas.next_where("user_presence", soon(), is("bob", false)).await?;
    socket.run_one(d::JOIN, json!({"p": project.id})).await?;
    adas.next_where("user_presence", soon(), is("bob", true)).await?;
    socket.close().await?;
    // As for any connection that ends: after its grace of ten seconds at the latest.
    adas.next_where("user_presence", patience(14.0), is("bob", false)).await?;
    Ok(())
}

/// What the store knows of people is as old as their last change; where they are, their nodes know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_who_comes_to_a_node_sees_where_people_are_and_when_they_were_active() -> Result<()> {
    let cluster = Cluster::of(3).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let (mut adas, mut same_node) = (ada.presence(&project).await?, ada.presence(&project).await?);
    for socket in [&mut adas, &mut same_node] {
        socket.switch_document("plan", "canvas").await?;
        // Whoever came in after the first move would find it in the list, and be told of no move.
        socket.next_where("document_activity", soon(), |_| true).await?;
    }
    let began = ada.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
    for x in 0..5 {
        adas.move_cursor("plan", f64::from(x), 0.0).await?;
        let is_there = |data: &Value| same_value(&data["cursors"][0]["position"]["x"], &json!(x));
        same_node.next_where("cursor_update", soon(), is_there).await?;
    }
    let is_right = |user: &Value| -> Result<()> {
        let place = &user["documents"]["plan"];
        ensure!(same_value(&place["position"]["x"], &json!(4)), "where ada is: {user}");
        let times = (began[0]["lastActive"].as_str(), user["lastActive"].as_str());
        ensure!(times.0 < times.1, "when ada was active: {user}, and not {times:?}");
        Ok(())
    };
    let mut bobs = PresenceSocket::connect(&bob, project.id).await?;
    is_right(&bobs.join(None).await?[0])?;
    let elsewhere = cluster.user(2, "bob").ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
    is_right(&elsewhere[0])
}

/// Of a node where nobody is, others tell no moves. Whoever looks there is told all the same, not only the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_again_at_a_node_where_nobody_is_sees_what_happened_since() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let (mut adas, elsewhere) = (ada.presence(&project).await?, cluster.user(1, "ada"));
    adas.switch_document("plan", "canvas").await?;
    adas.next("document_activity").await?;
    let is_at = |user: &Value, x: i64| {
        ensure!(same_value(&user["documents"]["plan"]["position"]["x"], &json!(x)), "ada is at {x}: {user}");
        Ok(())
    };
    let move_to = async |adas: &mut PresenceSocket, x: i64| {
        adas.move_cursor("plan", x as f64, 0.0).await?;
        adas.quiet("cursor_update").await
    };
    for x in 1..=3 {
        move_to(&mut adas, x).await?;
        is_at(&elsewhere.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?[0], x)?;
    }
    move_to(&mut adas, 4).await?;
    let mut bobs = PresenceSocket::connect(&bob, project.id).await?;
    is_at(&bobs.join(None).await?[0], 4)?;

    // What is no move is told too, within a digest.
    let last_active = async |client: &Client| {
        let all = client.ask(d::PRESENCE, "projectPresence", json!({"p": project.id})).await?;
        Ok::<_, anyhow::Error>(all[0]["lastActive"].as_str().context("a time")?.to_owned())
    };
    let before = last_active(&ada).await?;
    ada.add_node(&project, "TransformNode", "clean").await?;
    let after = last_active(&ada).await?;
    ensure!(before < after, "an edit is an activity: {before}, {after}");
    eventually(soon(), async || {
        let told = last_active(&elsewhere).await?;
        ensure!(told == after, "at the other node {told}, not {after}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_around_is_followed_and_never_asked_to_slow_down() -> Result<()> {
    let cluster = Cluster::of(2).start().await?;
    let (ada, bob, project) = two_people(&cluster).await?;
    let (mut adas, mut bobs) = (ada.presence(&project).await?, bob.presence(&project).await?);
    for socket in [&mut adas, &mut bobs] {
        socket.switch_document("plan", "canvas").await?;
    }
    // More than the frames that are counted may be in a second.
    for x in 1..=200 {
        adas.send("update_viewport", json!({"documentId": "plan", "x": x, "y": 0, "zoom": 2})).await?;
    }
    let is_last = |data: &Value| {
        let ada = data["cursors"].as_array().and_then(|all| all.iter().find(|one| one["userId"] == "ada"));
        ada.is_some_and(|ada| ada["position"].is_null() && same_value(&ada["viewport"]["x"], &json!(200)))
    };
    bobs.next_where("cursor_update", soon(), is_last).await?;
    let errors: Vec<Value> = adas.everything().await?.into_iter().filter(|one| one["type"] == "error").collect();
    ensure!(errors.is_empty(), "{errors:?}");
    Ok(())
}

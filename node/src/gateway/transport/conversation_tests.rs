//! What a socket says, without a network: both ends are channels, and time stands still until it is moved.

use std::sync::atomic::Ordering;

use super::super::TransportLimits;
use super::kit::*;
use super::*;
use crate::drain::Phase;
use crate::pressure::Level;

#[tokio::test(start_paused = true)]
async fn operations_are_answered_in_the_protocols_order() {
    let mut client = Client::ready().await;
    client.subscribe("1", "{ me }").await;
    assert_eq!(client.hear().await, json!({"type": "next", "id": "1", "payload": {"data": {"me": "ada/c1"}}}));
    assert_eq!(client.hear().await, json!({"type": "complete", "id": "1"}));
    client.subscribe("1", "subscription { count(to: 2) { revision } }").await;
    for revision in ["1-0", "1-1"] {
        let data = json!({"count": {"revision": revision}});
        assert_eq!(client.hear().await, json!({"type": "next", "id": "1", "payload": {"data": data}}));
    }
    assert_eq!(client.hear().await, json!({"type": "complete", "id": "1"}));
    client.say(json!({"type": "ping", "payload": {"n": 1}})).await;
    assert_eq!(client.hear().await, json!({"type": "pong", "payload": {"n": 1}}));
    client.silence().await;
}

#[tokio::test(start_paused = true)]
async fn each_breach_of_the_protocol_has_its_close_code() {
    let init = json!({"type": "connection_init", "payload": {"token": token("ada", 600)}});
    let quiet = json!({"type": "subscribe", "id": "1", "payload": {"query": "subscription { quiet { revision } }"}});
    let query = json!({"type": "subscribe", "id": "1", "payload": {"query": "{ slow }"}});
    let expired = json!({"token": token("ada", 0).replace('.', ".x")});
    for (frames, expected) in [
        (vec![quiet.clone()], 4401),
        (vec![json!({"type": "connection_init"})], 4403),
        (vec![json!({"type": "connection_init", "payload": {"token": "a.b.c"}})], 4403),
        (vec![json!({"type": "connection_init", "payload": expired})], 4403),
        (vec![init.clone(), init.clone()], 4429),
        (vec![init.clone(), quiet.clone(), quiet.clone()], 4409),
        (vec![init.clone(), query.clone(), quiet], 4409),
        (vec![init.clone(), json!({"type": "start", "id": "1", "payload": {"query": "{ me }"}})], 4400),
        (vec![init.clone(), json!({"type": "subscribe", "id": "1"})], 4400),
        (vec![json!([])], 4400),
        (vec![], 4408),
    ] {
        let client = Client::open(Dialect::TransportWs).await;
        for frame in &frames {
            client.say(frame.clone()).await;
        }
        assert_eq!(client.closed().await.0, expected, "{frames:?}");
    }
    let client = Client::open(Dialect::TransportWs).await;
    client.say_raw(Message::Binary(bytes::Bytes::from_static(b"{}"))).await;
    assert_eq!(client.closed().await.0, 4400);
    let client = Client::ready().await;
    let too_large = axum::Error::new("Space limit exceeded: Message too long: 2 > 1");
    client.to.send(Err(too_large)).await.expect("the conversation goes on");
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test(start_paused = true)]
async fn the_legacy_dialect_is_spoken_to_its_clients() {
    let mut client = Client::open(Dialect::Legacy).await;
    client.init(70).await;
    assert_eq!(client.hear().await, json!({"type": "ka"}));
    client.say(json!({"type": "start", "id": "1", "payload": {"query": "{ me }"}})).await;
    assert_eq!(client.hear().await, json!({"type": "data", "id": "1", "payload": {"data": {"me": "ada/c1"}}}));
    assert_eq!(client.hear().await, json!({"type": "complete", "id": "1"}));
    client.say(json!({"type": "start", "id": "2", "payload": {"query": "subscription { quiet { revision } }"}})).await;
    client.say(json!({"type": "stop", "id": "2"})).await;
    assert_eq!(client.hear().await, json!({"type": "complete", "id": "2"}));
    client.say(json!({"type": "start", "id": "3", "payload": {"query": "{ nope }"}})).await;
    let refused = client.hear().await;
    assert_eq!(
        (&refused["type"], &refused["payload"]["extensions"]["code"]),
        (&json!("error"), &json!("VALIDATION_FAILED"))
    );
    let notice = client.hear().await;
    assert_eq!((&notice["type"], &notice["payload"]["type"]), (&json!("ka"), &json!("token_expiring")));
    client.say(json!({"type": "connection_terminate"})).await;
    assert_eq!(client.closed().await.0, 1000);

    let mut client = Client::open(Dialect::Legacy).await;
    client.say(json!({"type": "connection_init", "payload": {}})).await;
    assert_eq!(client.hear().await["type"], "connection_error");
    assert_eq!(client.closed().await.0, 4403);
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_the_operation_and_nothing_else() {
    let mut client = Client::ready().await;
    for (query, expected) in [
        ("{ nope }", "VALIDATION_FAILED"),
        ("{", "VALIDATION_FAILED"),
        ("subscription { nope }", "VALIDATION_FAILED"),
        ("subscription { ...Nowhere }", "VALIDATION_FAILED"),
        ("subscription { ... on Query { me } }", "VALIDATION_FAILED"),
        ("subscription { quiet { revision } lost { revision } }", "VALIDATION_FAILED"),
        ("{ panics(really: true) }", "INTERNAL_ERROR"),
        (&format!("{{a(x:{})}}", "[".repeat(9_000)), "LIMIT_EXCEEDED"),
    ] {
        client.subscribe("1", query).await;
        let frame = client.hear().await;
        assert_eq!((&frame["type"], code(&frame)), (&json!("error"), expected), "{query:.40}");
    }
    client.subscribe("1", "{ refused me }").await;
    let frame = client.hear().await;
    assert_eq!(frame["payload"]["data"]["me"], "ada/c1");
    assert_eq!(frame["payload"]["errors"][0]["extensions"]["code"], "NOT_FOUND");
    assert_eq!(client.hear().await["type"], "complete");

    client.subscribe("2", "subscription { ...F } fragment F on Subscription { lost { revision } }").await;
    assert_eq!(client.hear().await["payload"]["data"]["lost"]["revision"], "1-1");
    let frame = client.hear().await;
    assert_eq!((&frame["type"], code(&frame)), (&json!("error"), "FORBIDDEN"));
    client.silence().await;
    client.subscribe("2", "{ me }").await;
    assert_eq!(client.hear().await["type"], "next", "the id is free again");
}

#[tokio::test(start_paused = true)]
async fn a_slow_operation_holds_nobody() {
    let mut client = Client::ready().await;
    client.subscribe("slow", "{ slow }").await;
    client.subscribe("quick", "{ me }").await;
    assert_eq!(client.hear().await["id"], "quick");
    assert_eq!(client.hear().await["type"], "complete");
    client.world.go.notify_one();
    assert_eq!(client.hear().await, json!({"type": "next", "id": "slow", "payload": {"data": {"slow": 7}}}));
}

#[tokio::test(start_paused = true)]
async fn what_the_client_completed_is_not_heard_of_again() {
    let mut client = Client::ready().await;
    client.subscribe("1", "{ slow }").await;
    client.say(json!({"type": "complete", "id": "1"})).await;
    client.silence().await;
    client.subscribe("1", "subscription { quiet { revision } }").await;
    client.world.go.notify_one();
    client.silence().await;
    assert_eq!(client.counted.subscriptions.load(Ordering::SeqCst), 1);
    client.say(json!({"type": "complete", "id": "1"})).await;
    client.say(json!({"type": "complete", "id": "unknown"})).await;
    client.silence().await;
    assert_eq!(client.counted.subscriptions.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_so_many_subscriptions_and_operations_and_no_more() {
    let limits = TransportLimits { subscriptions_max: 2, operations_burst: 4, ..TransportLimits::default() };
    let mut client = Client::open_within(Dialect::TransportWs, limits).await;
    client.init(600).await;
    for id in ["1", "2", "3"] {
        client.subscribe(id, "subscription { quiet { revision } }").await;
    }
    let frame = client.hear().await;
    assert_eq!((&frame["id"], code(&frame)), (&json!("3"), "LIMIT_EXCEEDED"));
    assert_eq!(frame["payload"][0]["extensions"]["limit"], 2);
    let mut refused = Value::Null;
    for id in 4..40 {
        client.subscribe(&id.to_string(), "{").await;
        let frame = client.hear().await;
        if code(&frame) == "RATE_LIMITED" {
            refused = frame;
            break;
        }
    }
    assert!(refused["payload"][0]["extensions"]["retryAfterMs"].as_u64().is_some_and(|ms| ms >= 1), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_takes_nothing_costs_nothing_and_is_closed() {
    let mut client = Client::ready().await;
    client.subscribe("1", "subscription { flood { revision } }").await;
    assert_eq!(client.hear().await["type"], "next");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let asked = client.world.asked.load(Ordering::SeqCst);
    assert!(asked <= 3 * ROOM, "the source was asked for {asked} events though nobody took them");
    assert_eq!(client.counted.stalls.load(Ordering::SeqCst), 1);
    // Bytes of one large message may be on their way all the time: that is no stall.
    client.taken.add(1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!client.task.is_finished());
    tokio::time::sleep(limits::STALL_TIMEOUT * 3 / 2).await;
    assert!(client.task.is_finished());
    let ending = client.task.await.expect("no panic");
    assert_eq!(ending.code(), 1013);
    assert_eq!(client.world.asked.load(Ordering::SeqCst), asked);
}

#[tokio::test(start_paused = true)]
async fn that_there_is_room_for_messages_is_no_progress_and_bytes_that_are_taken_are() {
    let client = Client::ready().await;
    client.is_stuck.store(true, Ordering::SeqCst);
    let ask = async |seconds: u64| {
        for _ in 0..seconds {
            let frame = json!({"type": "subscribe", "id": "1", "payload": {"query": "{ me }"}});
            let _ = client.to.send(Ok(Message::Text(frame.to_string().into()))).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let timeout_seconds = limits::STALL_TIMEOUT.as_secs();
    for _ in 0..6 {
        ask(timeout_seconds / 2).await;
        client.taken.add(1);
    }
    ask(timeout_seconds - 2).await;
    assert!(!client.task.is_finished(), "it is slow, and no more");
    ask(5).await;
    assert!(client.task.is_finished(), "it takes nothing");
    assert_eq!(client.counted.stalls.load(Ordering::SeqCst), 1);
    let ending = client.task.await.expect("no panic");
    assert_eq!((ending.why(), ending.code()), (CloseReason::Slow, 1013));
}

#[tokio::test(start_paused = true)]
async fn input_waits_while_answers_are_not_taken() {
    let client = Client::ready().await;
    let mut said = 0;
    let ping = || Message::Text(json!({"type": "ping"}).to_string().into());
    while tokio::time::timeout(Duration::from_secs(1), client.to.send(Ok(ping()))).await.is_ok() {
        said += 1;
        assert!(said < 10 * limits::OUTBOX_MESSAGES_MAX, "answers pile up without bound");
    }
}

#[tokio::test(start_paused = true)]
async fn input_waits_while_stopped_subscriptions_can_not_be_dropped() {
    let client = Client::ready().await;
    client.subscribe("1", "subscription { flood { revision } }").await;
    let mut stopped = 0;
    let begin_and_stop = async || {
        client.subscribe("again", "subscription { quiet { revision } }").await;
        client.to.send(Ok(Message::Text(json!({"type": "complete", "id": "again"}).to_string().into()))).await
    };
    while tokio::time::timeout(Duration::from_secs(1), begin_and_stop()).await.is_ok() {
        stopped += 1;
        assert!(stopped < 200, "subscriptions that nobody wants any more pile up");
    }
}

#[tokio::test(start_paused = true)]
async fn large_operations_wait_for_each_other() {
    let mut client = Client::ready().await;
    let padding = "x".repeat(900_000);
    let mut sent = 0;
    let ask = async |id: usize| client.subscribe(&id.to_string(), &format!("{{ slow }} # {padding}")).await;
    let fits = limits::OPERATION_BYTES_PER_CONNECTION_MAX / padding.len() + 1;
    while tokio::time::timeout(Duration::from_secs(1), ask(sent)).await.is_ok() {
        sent += 1;
        assert!(sent <= fits + ROOM, "operations pile up without bound");
    }
    assert_eq!(sent, fits + ROOM, "some run, the pipe is full, and nothing more is read");
    for _ in 0..sent {
        client.world.go.notify_one();
        assert_eq!(client.hear().await["type"], "next");
        assert_eq!(client.hear().await["type"], "complete");
    }
}

#[tokio::test(start_paused = true)]
async fn operations_begin_in_their_order_also_while_the_store_is_asked() {
    let mut client = Client::ready().await;
    let to = client.to.clone();
    // More than a node gives by itself, without waiting for the answers.
    let sending = tokio::spawn(async move {
        for id in 0..200 {
            let frame = json!({"type": "subscribe", "id": id.to_string(), "payload": {"query": "{ me }"}});
            to.send(Ok(Message::Text(frame.to_string().into()))).await.expect("the conversation goes on");
        }
    });
    let mut heard = Vec::new();
    while heard.len() < 200 {
        let frame = client.hear().await;
        if frame["type"] != "complete" {
            assert_eq!(frame["type"], "next", "{frame}");
            heard.push(frame["id"].as_str().and_then(|id| id.parse::<u32>().ok()).expect("a number"));
        }
    }
    assert!(heard.is_sorted(), "{heard:?}");
    sending.await.expect("all is sent");
}

#[tokio::test(start_paused = true)]
async fn a_silent_socket_is_pinged_and_then_given_up() {
    let mut client = Client::ready().await;
    let mut heard = Instant::now();
    for _ in 0..6 {
        let due = beat::within(limits::PING_INTERVAL);
        assert_eq!(client.hear().await, json!({"type": "ping"}));
        // Within 20 s, and at a common moment; a timer may be a millisecond late.
        assert!((19_700..=20_001).contains(&heard.elapsed().as_millis()), "{:?}", heard.elapsed());
        assert!(due.elapsed().as_millis() <= 1, "{:?} behind it", due.elapsed());
        heard = Instant::now();
        client.say(json!({"type": "pong"})).await;
    }
    assert_eq!(client.closed().await.0, 4408);
    // The close waits a second for its answer.
    assert!((60..=61).contains(&heard.elapsed().as_secs()), "{:?}", heard.elapsed());

    let mut client = Client::open(Dialect::Legacy).await;
    client.init(600).await;
    assert_eq!(client.hear().await, json!({"type": "ka"}));
    for _ in 0..6 {
        assert_eq!(client.hear().await, json!({"type": "ka"}));
        assert!(matches!(client.from.recv().await, Some(Message::Ping(_))), "`ka` is not answered, this is");
        client.say_raw(Message::Pong(bytes::Bytes::new())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_expiring_token_is_announced_and_a_fresh_one_taken_in_its_place() {
    let mut client = Client::open(Dialect::TransportWs).await;
    client.init(30).await;
    let notice = client.hear().await;
    assert_eq!((&notice["type"], &notice["payload"]["type"]), (&json!("ping"), &json!("token_expiring")));
    let in_ms = notice["payload"]["inMs"].as_u64().expect("a number");
    assert!((28_000..=30_000).contains(&in_ms), "{in_ms}");

    client.subscribe("1", &format!("mutation {{ refreshAuth(token: \"{}\") }}", token("eve", 600))).await;
    let refused = client.hear().await;
    assert_eq!(refused["payload"]["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(client.hear().await["type"], "complete");
    client.subscribe("2", &format!("mutation {{ refreshAuth(token: \"{}\") }}", token("ada", 100))).await;
    assert_eq!(client.hear().await["payload"]["data"]["refreshAuth"], "ada");
    assert_eq!(client.hear().await["type"], "complete");

    let begin = Instant::now();
    let mut heard = client.hear().await;
    while heard == json!({"type": "ping"}) {
        client.say(json!({"type": "pong"})).await;
        heard = client.hear().await;
    }
    assert_eq!(heard["payload"]["type"], "token_expiring");
    assert!((38..=41).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    for _ in 0..3 {
        client.say(json!({"type": "pong"})).await;
        assert_eq!(client.hear().await, json!({"type": "ping"}));
    }
    let (code, reason) = client.closed().await;
    assert_eq!((code, reason.as_str()), (4403, "the token has expired"));
    assert!((103..=106).contains(&begin.elapsed().as_secs()), "expiry and leeway: {:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_an_edit_end_and_says_when_to_come_back() {
    let mut client = Client::ready().await;
    client.subscribe("1", "mutation { slowEdit }").await;
    client.subscribe("2", "{ watch }").await;
    assert_eq!(client.hear().await["id"], "2");
    assert_eq!(client.hear().await["id"], "2");
    let ended = client.world.session.lock().expect("no panic").clone().expect("a session");
    client.drain.enter(Phase::Closing);
    client.world.go.notify_one();
    assert_eq!(client.hear().await["payload"]["data"]["slowEdit"], 8);
    let (code, reason) = client.closed().await;
    let reason: Value = serde_json::from_str(&reason).expect("the reason is JSON");
    assert_eq!((code, &reason["r"]), (1012, &json!("drain")));
    let (min, max) = (reason["min"].as_u64(), reason["max"].as_u64());
    assert!(min >= Some(100) && max > min && max < Some(6_000), "{reason}");
    assert!(ended.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn under_the_highest_pressure_nothing_is_begun_but_what_keeps_the_socket_open() {
    let mut client = Client::ready().await;
    client.subscribe("1", "mutation { slowEdit }").await;
    client.subscribe("2", "{ watch }").await;
    assert_eq!(client.hear().await["id"], "2");
    assert_eq!(client.hear().await["type"], "complete");
    client.pressure.set_level(Level::RefuseOperations);
    for query in ["{ watch }", "mutation { slowEdit }", "subscription { quiet { revision } }", "refreshAuth"] {
        client.subscribe("3", query).await;
        let refused = client.hear().await;
        assert_eq!(refused["type"], "error", "{query}");
        let extensions = &refused["payload"][0]["extensions"];
        if query == "refreshAuth" {
            assert_eq!(extensions["code"], "VALIDATION_FAILED", "it only looks like what is always taken");
            continue;
        }
        assert_eq!((&extensions["code"], &extensions["retryable"]), (&json!("OVERLOADED"), &json!(true)), "{query}");
        assert!(extensions["retryAfterMs"].as_u64().is_some_and(|ms| ms >= 1_000), "{extensions}");
    }
    client.say(json!({"type": "ping"})).await;
    assert_eq!(client.hear().await, json!({"type": "pong"}));
    client.subscribe("4", &format!("mutation {{ refreshAuth(token: \"{}\") }}", token("ada", 100))).await;
    assert_eq!(client.hear().await["payload"]["data"]["refreshAuth"], "ada");
    assert_eq!(client.hear().await["type"], "complete");
    client.world.go.notify_one();
    assert_eq!(client.hear().await["payload"]["data"]["slowEdit"], 8, "what was accepted is carried out");
    assert_eq!(client.hear().await["type"], "complete");
    client.pressure.set_level(Level::Calm);
    client.subscribe("5", "{ watch }").await;
    assert_eq!(client.hear().await["type"], "next");
}

#[tokio::test(start_paused = true)]
async fn under_pressure_whoever_asks_on_and_on_is_refused_ten_times_a_second() {
    let mut client = Client::ready().await;
    client.pressure.set_level(Level::RefuseOperations);
    let begin = Instant::now();
    for _ in 0..ROOM {
        client.subscribe("1", "{ watch }").await;
    }
    for _ in 0..ROOM {
        assert_eq!(client.hear().await["type"], "error");
    }
    assert_eq!(begin.elapsed().as_millis() / 100, ROOM as u128 - 1, "{:?}", begin.elapsed());
    client.pressure.set_level(Level::Calm);
    client.subscribe("2", "{ watch }").await;
    assert_eq!(client.hear().await["type"], "next");
}

#[tokio::test(start_paused = true)]
async fn when_the_peer_is_gone_so_is_the_session() {
    let mut client = Client::ready().await;
    client.subscribe("1", "subscription { quiet { revision } }").await;
    client.subscribe("2", "{ watch }").await;
    assert_eq!(client.hear().await["id"], "2");
    let ended = client.world.session.lock().expect("no panic").clone().expect("a session");
    drop(client.to);
    assert_eq!(client.task.await.expect("no panic"), Ending::Broken);
    assert!(ended.is_cancelled());
    assert_eq!(client.counted.subscriptions.load(Ordering::SeqCst), 0);
    assert!(client.counted.sent.load(Ordering::SeqCst) >= 2);
}

#[test]
fn a_reason_fits_a_close_frame() {
    assert_eq!(clipped(&"ä".repeat(100)).len(), 122);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_ends_its_socket_and_nothing_is_told_after_it() {
    let mut client = Client::ready().await;
    client.subscribe("1", "subscription { flood { revision } }").await;
    for id in 2..50 {
        client.subscribe(&id.to_string(), "{ me }").await;
    }
    // A reader that takes nothing: what is in the pipe by now was told before.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = client.world.asked.load(Ordering::SeqCst);
    client.revoke("eve");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!client.task.is_finished(), "somebody else's token");
    client.revoke("ada");
    let mut told = 0;
    let closing = loop {
        match client.from.recv().await.expect("a close") {
            Message::Close(frame) => break frame.expect("a code"),
            _ => told += 1,
        }
        assert!(told <= ROOM, "more is told than was in the pipe");
    };
    assert_eq!((closing.code, closing.reason.as_str()), (4403, "the token was revoked"));
    assert_eq!(client.world.asked.load(Ordering::SeqCst), asked, "nothing was asked for after it");
    assert_eq!(client.counted.revoked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_opens_no_socket_and_is_not_taken_for_a_fresh_one() {
    let client = Client::open(Dialect::TransportWs).await;
    client.revoke("ada");
    client.say(json!({"type": "connection_init", "payload": {"token": token("ada", 600)}})).await;
    assert_eq!(client.closed().await, (4403, "the token was revoked".to_owned()));

    let mut client = Client::open(Dialect::TransportWs).await;
    let later = issued("ada", unix_seconds() + 5);
    client.say(json!({"type": "connection_init", "payload": {"token": later}})).await;
    assert_eq!(client.hear().await["type"], "connection_ack");
    client.revoke("ada");
    client.subscribe("1", &format!("mutation {{ refreshAuth(token: \"{}\") }}", token("ada", 600))).await;
    let refused = client.hear().await;
    assert_eq!(refused["payload"]["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{refused}");
    assert_eq!(client.hear().await["type"], "complete");
    client.subscribe("2", "{ me }").await;
    assert_eq!(client.hear().await["payload"]["data"]["me"], "ada/", "the token in force was issued later");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_counts_in_the_middle_of_a_drain() {
    let mut client = Client::ready().await;
    client.subscribe("1", "mutation { slowEdit }").await;
    client.subscribe("2", "{ me }").await;
    assert_eq!(client.hear().await["id"], "2");
    assert_eq!(client.hear().await["type"], "complete");
    client.drain.enter(Phase::Closing);
    tokio::task::yield_now().await;
    client.revoke("ada");
    assert_eq!(client.closed().await.0, 4403);
}

#[tokio::test(start_paused = true)]
async fn frames_without_content_are_not_read_without_bound() {
    let client = Client::ready().await;
    let began = Instant::now();
    for _ in 0..100_000 {
        client.to.send(Ok(Message::Pong(bytes::Bytes::new()))).await.expect("it is open");
    }
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn large_answers_that_are_not_taken_do_not_add_up() {
    let mut client = Client::ready().await;
    for id in 0..50 {
        client.subscribe(&id.to_string(), "{ large }").await;
    }
    client.subscribe("edit", "mutation { slowEdit }").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.world.go.notify_waiters();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let waiting = usize::try_from(client.pressure.queued_bytes()).expect("it fits");
    assert!(waiting < 2 * limits::ANSWER_BYTES_PER_CONNECTION_MAX, "{waiting} bytes wait");
    let (mut told, mut refused, mut is_edited) = (0, 0, false);
    while told + refused < 50 || !is_edited {
        let frame = client.hear().await;
        match frame["type"].as_str() {
            Some("next") if frame["id"] == "edit" => is_edited = true,
            Some("next") => told += 1,
            Some("error") => {
                assert_eq!(frame["payload"][0]["extensions"]["limitName"], "answer_bytes_in_flight");
                refused += 1;
            }
            _ => {}
        }
    }
    assert!(told >= 8 && refused >= 25, "{told} told, {refused} refused");
}

#[tokio::test(start_paused = true)]
async fn large_answers_to_edits_wait_their_turn_and_all_are_told() {
    let mut client = Client::ready().await;
    for id in 0..50 {
        client.subscribe(&id.to_string(), "mutation { largeEdit }").await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.world.go.notify_waiters();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let waiting = usize::try_from(client.pressure.queued_bytes()).expect("it fits");
    assert!(waiting < 3 * limits::ANSWER_BYTES_PER_CONNECTION_MAX, "{waiting} bytes wait");
    let mut told = 0;
    while told < 50 {
        told += usize::from(client.hear().await["type"] == "next");
    }
}

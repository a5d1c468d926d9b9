//! What a listener does about peers who only take room.

use std::net::{IpAddr, Ipv4Addr};

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;
use crate::metrics::Metrics;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// More than wait by default, where nothing else is said; fewer than a process has files.
const CROWD: usize = 300;
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

async fn listening(settings: ListenerSettings, body: String) -> SocketAddr {
    let listener = bind(ANY_PORT).expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/", get(move || async move { body }));
    tokio::spawn(serve(listener, router, settings, TaskTracker::new(), CancellationToken::new()));
    address
}

/// Asks, and answers with the head of what comes.
async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(GET).await.expect("it is taken");
    let mut head = vec![0; 4096];
    let length = timeout(Duration::from_secs(5), stream.read(&mut head)).await.expect("in time").expect("an answer");
    String::from_utf8_lossy(&head[..length]).into_owned()
}

#[tokio::test]
async fn a_stranger_who_asks_and_takes_no_answer_makes_room_too() {
    let strangers = Strangers::new(1, Arc::new(Metrics::new()));
    let settings = ListenerSettings { strangers: Some(strangers), ..ListenerSettings::default() };
    let address = listening(settings, "x".repeat(64 << 20)).await;
    let mut greedy = TcpStream::connect(address).await.expect("a connection");
    // The second question waits behind the first, so that nothing more is read meanwhile.
    greedy.write_all(&GET.repeat(2)).await.expect("it is taken");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut newcomer = TcpStream::connect(address).await.expect("a connection");
    let answer = ask(&mut newcomer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.40}");
}

#[tokio::test]
async fn hundreds_who_come_at_once_wait_for_the_accept_and_need_not_come_again() {
    let listener = bind(ANY_PORT).expect("a port");
    let address = listener.local_addr().expect("an address");
    let coming = futures_util::future::join_all((0..CROWD).map(|_| TcpStream::connect(address)));
    // Nobody accepts, so whoever finds no room never comes in.
    let came = timeout(Duration::from_secs(10), coming).await.expect("there is room for all");
    came.into_iter().collect::<io::Result<Vec<_>>>().expect("there is room for all");
}

#[tokio::test]
async fn who_asks_and_takes_no_answer_does_not_keep_a_node_that_stops() {
    let listener = bind(ANY_PORT).expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/", get(|| async { "x".repeat(64 << 20) }));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let serving = serve(listener, router, ListenerSettings::default(), tasks.clone(), stop.clone());
    let serving = tokio::spawn(serving);
    let mut greedy = TcpStream::connect(address).await.expect("a connection");
    assert!(ask(&mut greedy).await.starts_with("HTTP/1.1 200"), "its beginning is taken");
    stop.cancel();
    serving.await.expect("no panic");
    tasks.close();
    timeout(LAST_ANSWER_TIMEOUT * 3, tasks.wait()).await.expect("it is given up");
}

#[tokio::test]
async fn who_asks_and_stays_does_not_keep_the_last_places() {
    let settings = ListenerSettings { connections_max: 3, ..ListenerSettings::default() };
    let address = listening(settings, "here".to_owned()).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        assert!(!ask(&mut stream).await.contains("connection: close"), "there is room");
        idle.push(stream);
    }
    for _ in 0..5 {
        let come_in = async {
            loop {
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                let answer = ask(&mut stream).await;
                // The one before may still be on its way out.
                if !answer.starts_with("HTTP/1.1 503") {
                    return (stream, answer);
                }
            }
        };
        let (mut stream, answer) = timeout(Duration::from_secs(5), come_in).await.expect("the last place comes free");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        timeout(Duration::from_secs(5), stream.read(&mut [0])).await.expect("it is closed").expect("in good order");
        idle.push(stream);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_holds_little_for_who_reads_slowly_and_takes_more_when_a_little_is_read() {
    let listener = bind(ANY_PORT).expect("a port");
    let peer = TcpSocket::new_v4().expect("a socket");
    peer.set_recv_buffer_size(4 * 1024).expect("a small window");
    let (peer, accepted) = tokio::join!(peer.connect(listener.local_addr().expect("an address")), listener.accept());
    let (mut peer, (stream, _)) = (peer.expect("a connection"), accepted.expect("a connection"));
    let fill = || std::iter::from_fn(|| stream.try_write(&[0; 16 * 1024]).ok()).sum::<usize>();
    stream.writable().await.expect("it is empty");
    let held = fill();
    assert!(held <= 3 * UNSENT_BYTES_MAX as usize, "{held} bytes are held for one peer");

    peer.read_exact(&mut vec![0; UNSENT_BYTES_MAX as usize]).await.expect("they come");
    let more = async {
        while fill() == 0 {
            stream.writable().await.expect("it is open");
        }
    };
    timeout(Duration::from_secs(5), more).await.expect("it takes more");
}

//! A client of the library together with the task that drives it: they begin and end as one.
//!
//! Dropping a client leaves its connection open, and so does dropping the library's own `init` while it waits: the task that
//! connects goes on, out of reach. Whoever gives up a connection, because time is up or for whatever other reason, drops its
//! [`Link`], or the future that makes it.

use std::ops::Deref;

use fred::interfaces::{ClientLike, FredResult};
use fred::types::ConnectHandle;
use futures_util::future::join;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::QUIT_TIMEOUT;

/// A client that is connected, or on its way to be again. Dropping it closes the connection.
pub(super) struct Link<C> {
    client: C,
    _driver: Driver,
}

struct Driver(ConnectHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<C: ClientLike> Link<C> {
    /// Connects. A client serves for one link only.
    ///
    /// # Errors
    /// What the library says of its first attempt.
    pub(super) async fn make(client: C) -> FredResult<Self> {
        // In this order: who begins to wait after the attempt may wait for another.
        let (connected, driver) = join(client.wait_for_connect(), async { Driver(client.connect()) }).await;
        connected?;
        Ok(Self { client, _driver: driver })
    }

    /// Closes the connection in order when the node stops, or its server is left.
    pub(super) async fn leave_when_stopped(self, stop: CancellationToken) {
        stop.cancelled().await;
        let _ = timeout(QUIT_TIMEOUT, self.client.quit()).await;
    }
}

impl<C> Deref for Link<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;

    use super::super::RedisSettings;
    use super::super::access::{Access, Address, Seeds};
    use super::*;

    /// Longer than whoever gives up waits, and short enough that the library would not give up by itself.
    const SLOW: Duration = Duration::from_millis(400);
    const GIVEN_UP_AFTER: Duration = Duration::from_millis(50);

    /// A server that takes every connection and answers each command late, or never. Tells how many are open.
    async fn server(answers_after: Option<Duration>) -> (u16, watch::Receiver<(usize, usize)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (made_and_open, told) = watch::channel((0, 0));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                made_and_open.send_modify(|(made, open)| (*made, *open) = (*made + 1, *open + 1));
                let made_and_open = made_and_open.clone();
                tokio::spawn(async move {
                    serve(socket, answers_after).await;
                    made_and_open.send_modify(|(_, open)| *open -= 1);
                });
            }
        });
        (port, told)
    }

    async fn serve(mut socket: TcpStream, answers_after: Option<Duration>) {
        let mut asked = [0; 4_096];
        while let Ok(length @ 1..) = socket.read(&mut asked).await {
            let Some(late) = answers_after else { continue };
            tokio::time::sleep(late).await;
            let asked = String::from_utf8_lossy(&asked[..length]).to_uppercase();
            let answer = if asked.contains("HELLO") { "%1\r\n+server\r\n+redis\r\n" } else { "+OK\r\n" };
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn client(port: u16) -> fred::clients::Client {
        let access = Access::of(&RedisSettings::at(format!("redis://127.0.0.1:{port}"))).expect("an address");
        assert!(matches!(&access.seeds, Seeds::Single(_)));
        access.to(&Address { host: "127.0.0.1".into(), port }).build().expect("a client")
    }

    #[tokio::test]
    async fn whoever_gives_up_a_connection_on_its_way_leaves_none_behind() {
        for answers_after in [None, Some(SLOW)] {
            let (port, mut told) = server(answers_after).await;
            for made in 1..=10 {
                let link = timeout(GIVEN_UP_AFTER, Link::make(client(port))).await;
                assert!(link.is_err(), "it is too slow for that");
                // While the library is at it, or else there would be nothing to leave behind.
                told.wait_for(|(all, _)| *all == made).await.expect("the server lives");
            }
            let none_is_left = timeout(SLOW, told.wait_for(|(_, open)| *open == 0)).await.is_ok();
            assert!(none_is_left, "{answers_after:?}: {:?}", *told.borrow());
        }
    }

    #[tokio::test]
    async fn dropping_a_link_closes_it() {
        let (port, mut told) = server(Some(Duration::ZERO)).await;
        let link = Link::make(client(port)).await.expect("connected");
        assert!(link.is_connected());
        drop(link);
        let closed = timeout(SLOW, told.wait_for(|(made, open)| (*made, *open) == (1, 0))).await.is_ok();
        assert!(closed, "{:?}", *told.borrow());
    }
}

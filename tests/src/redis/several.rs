//! What servers that stand together have in common: the shipped users, and how they speak with nodes and with each other.

use anyhow::Result;

use super::{Kind, Recipe, Redis, settings_of, users};
use crate::tls::{Authority, Pair, path_text};

/// How servers are started that stand together.
#[derive(Clone, Copy, Default)]
pub struct Setup<'a> {
    /// With append-only files and `appendfsync always`; else they keep nothing on disk but who belongs to whom.
    pub is_persistent: bool,
    /// As `localhost` and over TLS only, with certificates of this authority, among each other too; and sentinels ask for a
    /// password of their own.
    pub authority: Option<&'a Authority>,
    /// Nobody could take a primary's place: half the processes, or a third.
    pub is_without_replicas: bool,
}

impl<'a> Setup<'a> {
    /// They keep what they acknowledged through a kill.
    pub const PERSISTENT: Self = Self { is_persistent: true, ..Self::PLAIN };
    /// Nobody could take a primary's place.
    pub const ALONE: Self = Self { is_without_replicas: true, ..Self::PLAIN };
    const PLAIN: Self = Self { is_persistent: false, authority: None, is_without_replicas: false };

    /// They trust nobody.
    #[must_use]
    pub fn secured(authority: &'a Authority) -> Self {
        Self { authority: Some(authority), ..Self::PLAIN }
    }

    /// The name by which they go.
    pub(super) fn host(self) -> &'static str {
        if self.authority.is_some() { "localhost" } else { "127.0.0.1" }
    }

    /// How nodes come to them, and by which name they ask sentinels for their master.
    pub(super) fn url(self, scheme: &str, servers: &[Redis], master_name: Option<&str>) -> String {
        let host = self.host();
        let scheme = if self.authority.is_some() { scheme.replacen("redis", "rediss", 1) } else { scheme.to_owned() };
        let others = servers[1..].iter().map(|server| format!("node={host}:{}", server.port()));
        let name = master_name.map(|name| format!("sentinelServiceName={name}"));
        let password = servers[0].password.map(|password| format!("sentinelPassword={password}"));
        let query = others.chain(name).chain(password).collect::<Vec<_>>().join("&");
        format!("{scheme}://{}:{}@{host}:{}?{query}", users::NODES_USER, users::NODES_PASSWORD, servers[0].port())
    }

    /// Starts a server with the shipped users, these lines and perhaps a file of that name beside, and waits for nothing.
    pub(super) async fn store(
        self,
        port: u16,
        lines: Vec<String>,
        file: Option<(&'static str, String)>,
    ) -> Result<Redis> {
        let mut settings = settings_of(port, self.is_persistent);
        settings.extend(users::settings());
        settings.extend(self.tls(port)?);
        settings.extend(lines);
        let files = [(users::FILE, users::file())].into_iter().chain(file).collect();
        let (kind, is_persistent) = (Kind::Store, self.is_persistent);
        self.launch(Recipe { port, kind, is_persistent, settings, files, line: None }).await
    }

    /// Starts a sentinel, and waits for nothing.
    pub(super) async fn sentinel(self, port: u16, lines: Vec<String>) -> Result<Redis> {
        let mut settings = vec![format!("port {port}"), "bind 127.0.0.1".to_owned(), "daemonize no".to_owned()];
        settings.extend(self.tls(port)?);
        settings.extend(lines);
        let password = self.authority.map(|_| users::SENTINELS_OWN_PASSWORD);
        if let Some(password) = password {
            let names = ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"];
            settings.extend(names.map(str::to_owned));
            settings.push(format!("requirepass {password}"));
        }
        let kind = Kind::Sentinel;
        let recipe = Recipe { port, kind, is_persistent: false, settings, files: Vec::new(), line: None };
        let mut sentinel = self.launch(recipe).await?;
        sentinel.password = password;
        Ok(sentinel)
    }

    async fn launch(self, recipe: Recipe) -> Result<Redis> {
        let mut redis = Redis::launch(recipe)?;
        if let Some(authority) = self.authority {
            redis.comes_in_by_tls(self.host(), authority).await?;
        }
        Ok(redis)
    }

    fn tls(self, port: u16) -> Result<Vec<String>> {
        let Some(authority) = self.authority else { return Ok(Vec::new()) };
        let Pair { certificate, key } = authority.issue(&format!("redis-{port}"), &[self.host()])?;
        Ok(vec![
            "port 0".to_owned(),
            format!("tls-port {port}"),
            format!("tls-cert-file {}", path_text(&certificate)),
            format!("tls-key-file {}", path_text(&key)),
            format!("tls-ca-cert-file {}", path_text(&authority.file())),
            // Who comes shows a password; who is gone to shows a certificate.
            "tls-auth-clients no".to_owned(),
            "tls-replication yes".to_owned(),
        ])
    }
}

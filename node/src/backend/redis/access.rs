//! How servers are reached: what the URL says, taken apart, and what every connection of ours has in common.
//!
//! The client library reads the URL, of whatever kind; but each of its connections goes to one server. Which ones there are
//! is `topology`'s to know.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fred::types::config::{
    Config, ReconnectError, ReconnectPolicy, Server as FredServer, ServerConfig, TcpConfig, UnresponsiveConfig,
};
use fred::types::{Builder, RespVersion};

use super::{Acknowledgement, CONNECT_TIMEOUT, ConnectError, NO_BROADCAST_MESSAGES_MAX, RedisSettings, secure};

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    /// A name or an IP address.
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl Address {
    /// Reads `host:port`. A missing host is that of `asked`: a server that does not know its own address.
    pub(super) fn read(text: &str, asked: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { Arc::clone(&asked.host) } else { host.into() };
        Some(Self { host, port: port.parse().ok().filter(|port| *port > 0)? })
    }

    fn of(server: &FredServer) -> Self {
        Self { host: (*server.host).into(), port: server.port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is known of the servers before any of them was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seeds {
    /// One server, which stays where it is.
    Single(Address),
    /// Sentinels, who know where the server of that name is.
    Sentinel { sentinels: Vec<Address>, service: String },
    /// Some servers of a cluster.
    Cluster(Vec<Address>),
}

impl Seeds {
    pub(super) fn mode(&self) -> &'static str {
        match self {
            Self::Single(_) => "standalone",
            Self::Sentinel { .. } => "sentinel",
            Self::Cluster(_) => "cluster",
        }
    }
}

/// How servers are reached.
pub(super) struct Access {
    /// For a server; its address is filled in.
    config: Config,
    /// For a sentinel, likewise.
    sentinel: Config,
    pub(super) seeds: Seeds,
    pub(super) command_timeout: Duration,
    pub(super) acknowledgement: Acknowledgement,
}

impl Access {
    pub(super) fn of(settings: &RedisSettings) -> Result<Self, ConnectError> {
        let (url, tls) = secure::tls_of(&settings.url, settings.ca_file.as_deref())?;
        if url.contains("-sentinel://") && !url.contains("sentinelServiceName=") {
            return Err(ConnectError::Url("sentinels must be asked by name: add sentinelServiceName=… to it".into()));
        }
        let mut config = Config::from_url(&url).map_err(|error| ConnectError::Url(error.to_string()))?;
        config.tls = tls;
        config.version = RespVersion::RESP3;
        let mut sentinel = Config { database: None, username: None, password: None, ..config.clone() };
        let seeds = match &config.server {
            ServerConfig::Clustered { hosts, .. } => Seeds::Cluster(hosts.iter().map(Address::of).collect()),
            ServerConfig::Sentinel { hosts, service_name, username, password } => {
                (sentinel.username, sentinel.password) = (username.clone(), password.clone());
                let sentinels = hosts.iter().map(Address::of).collect();
                Seeds::Sentinel { sentinels, service: service_name.clone() }
            }
            ServerConfig::Centralized { server } => Seeds::Single(Address::of(server)),
        };
        let credentials = [&config.username, &config.password, &sentinel.username, &sentinel.password];
        if !credentials.into_iter().flatten().all(|credential| secure::can_be_sent(credential)) {
            return Err(ConnectError::Url(
                "user and password must be without blanks, quotes and control characters".into(),
            ));
        }
        Ok(Self {
            config,
            sentinel,
            seeds,
            command_timeout: settings.command_timeout,
            acknowledgement: settings.acknowledgement,
        })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.seeds, Seeds::Cluster(_))
    }

    /// Whether another server may take the place of one.
    pub(super) fn is_moving(&self) -> bool {
        !matches!(self.seeds, Seeds::Single(_))
    }

    pub(super) fn has_tls(&self) -> bool {
        self.config.tls.is_some()
    }

    pub(super) fn database(&self) -> u8 {
        self.config.database.unwrap_or_default()
    }

    /// For connections to a server.
    pub(super) fn to(&self, address: &Address) -> Builder {
        self.builder(&self.config, address)
    }

    /// For connections to a sentinel.
    pub(super) fn to_sentinel(&self, address: &Address) -> Builder {
        self.builder(&self.sentinel, address)
    }

    fn builder(&self, config: &Config, address: &Address) -> Builder {
        let server = ServerConfig::new_centralized(&*address.host, address.port);
        let mut builder = Builder::from_config(Config { server, ..config.clone() });
        builder.with_performance_config(|performance| {
            performance.default_command_timeout = self.command_timeout;
            performance.broadcast_channel_capacity = NO_BROADCAST_MESSAGES_MAX;
        });
        let is_moving = self.is_moving();
        builder.with_connection_config(|connection| {
            // Sending again what was perhaps executed is not the connection's to decide.
            connection.max_command_attempts = 1;
            // The library's own bound loses count once it was reached; ours is `IN_FLIGHT_MAX`.
            connection.max_command_buffer_len = 0;
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = CONNECT_TIMEOUT;
            connection.auto_client_setname = true;
            // A write into a dead connection would block the library for good; so the kernel gives up on it.
            connection.tcp =
                TcpConfig { nodelay: Some(true), user_timeout: Some(Duration::from_secs(1)), ..TcpConfig::default() };
            connection.unresponsive =
                UnresponsiveConfig { max_timeout: Some(Duration::from_secs(1)), interval: Duration::from_millis(200) };
            if is_moving {
                // A primary that became a replica says READONLY. We look for its successor; the connection is not at fault.
                connection.reconnect_errors = vec![ReconnectError::Loading];
            }
        });
        // Without end, from 50 ms up to 1 s apart, with jitter.
        builder.set_policy(ReconnectPolicy::new_exponential(0, 50, 1000, 2));
        builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    fn seeds(url: &str) -> Option<Seeds> {
        Access::of(&RedisSettings::at(url)).ok().map(|access| access.seeds)
    }

    #[test]
    fn a_url_tells_what_kind_of_store_it_is_and_where_to_begin() {
        assert_eq!(seeds("redis://u:p@one:1/2"), Some(Seeds::Single(address("one", 1))));
        let all = vec![address("two", 2), address("one", 1)];
        assert_eq!(seeds("redis-cluster://u:p@one:1?node=two:2"), Some(Seeds::Cluster(all.clone())));
        let sentinels = Seeds::Sentinel { sentinels: all, service: "mille".to_owned() };
        assert_eq!(seeds("redis-sentinel://u:p@one:1/0?node=two:2&sentinelServiceName=mille"), Some(sentinels));
    }

    #[test]
    fn a_url_that_is_none_is_told_without_repeating_it() {
        let error = Access::of(&RedisSettings::at("http//:secret@nowhere")).err().map(|e| e.to_string());
        assert!(error.is_some_and(|text| !text.contains("secret")));
    }

    #[test]
    fn an_address_without_a_host_is_that_of_whoever_was_asked() {
        let asked = address("here", 1);
        assert_eq!(Address::read("10.0.0.7:6379", &asked), Some(address("10.0.0.7", 6379)));
        assert_eq!(Address::read("::1:6379", &asked), Some(address("::1", 6379)));
        assert_eq!(Address::read(":6379", &asked), Some(address("here", 6379)));
        for none in ["", "host", "host:0", "host:x"] {
            assert_eq!(Address::read(none, &asked), None, "{none}");
        }
    }
}

//! Which port each part of a local cluster listens on.
//!
//! All follow from one base, so that a person can guess them and a second cluster only needs another base.
//! Asking whether a port is free is a courtesy: it turns the usual mistake into a sentence. A program that
//! takes the port a moment later still shows up in the log of the process that wanted it.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Result;

use crate::output::refused;

/// More nodes than this would run into the admin ports.
pub(crate) const NODES_MAX: u16 = 99;

/// Distance of Redis from the base, the highest of all: 4000 becomes 4379, a cousin of Redis' own 6379. Where there are
/// several servers the others follow.
const REDIS_OFFSET: u16 = 379;

/// Distance of the second ports from Redis' first: of sentinels, or of servers for themselves. More servers than that there
/// are not.
const SECOND_OFFSET: u16 = 10;

/// Distance of a node's admin listener from its public one.
const ADMIN_OFFSET: u16 = 100;

/// Bases tried before giving up when any will do.
const TRIES_MAX: usize = 50;

/// The ports of one local cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    base: u16,
}

impl Ports {
    /// Ports from `base` on; base 0 looks for one where all are free.
    ///
    /// # Errors
    /// Names every port that is taken, or says that the base is too high.
    pub(crate) fn claim(base: u16, nodes: u16, with_proxy: bool, redis: (u16, u16)) -> Result<Self> {
        if base != 0 {
            let last = REDIS_OFFSET + if redis.1 > 0 { SECOND_OFFSET + redis.1 - 1 } else { 0 };
            if base > u16::MAX - last {
                return Err(refused(format!(
                    "--port-base {base} is too high: Redis would listen on {base}+{last}; the highest base is {}",
                    u16::MAX - last
                )));
            }
            let ports = Self { base };
            let taken = ports.taken(nodes, with_proxy, redis);
            if taken.is_empty() {
                return Ok(ports);
            }
            return Err(refused(format!(
                "port in use: {}; stop what listens there or choose another --port-base",
                taken.join(", ")
            )));
        }
        for _ in 0..TRIES_MAX {
            // Below 32768, where the kernel takes ports for outgoing connections.
            let ports = Self { base: rand::random_range(10_000..32_000) };
            if ports.taken(nodes, with_proxy, redis).is_empty() {
                return Ok(ports);
            }
        }
        Err(refused(format!("found no free range of ports in {TRIES_MAX} tries; name one with --port-base")))
    }

    /// Where the load balancer listens.
    pub(crate) fn proxy(self) -> u16 {
        self.base
    }

    /// Where node `number` (from 1) listens.
    pub(crate) fn node(self, number: u16) -> u16 {
        self.base + number
    }

    /// Where node `number`'s admin listener is.
    pub(crate) fn admin(self, number: u16) -> u16 {
        self.base + ADMIN_OFFSET + number
    }

    /// Where the private Redis listens, or the first of its servers.
    pub(crate) fn redis(self) -> u16 {
        self.redis_server(0)
    }

    /// Where server `number` (from 0) of several listens.
    pub(crate) fn redis_server(self, number: u16) -> u16 {
        self.base + REDIS_OFFSET + number
    }

    /// Where sentinel `number` (from 0) listens, or server `number` of a Redis Cluster for the others.
    pub(crate) fn redis_second(self, number: u16) -> u16 {
        self.redis_server(SECOND_OFFSET + number)
    }

    /// The ports that something else has, each with what it was meant for.
    fn taken(self, nodes: u16, with_proxy: bool, redis: (u16, u16)) -> Vec<String> {
        let mut wanted = Vec::new();
        if with_proxy {
            wanted.push((self.proxy(), "load balancer".to_owned()));
        }
        for number in 1..=nodes {
            wanted.push((self.node(number), format!("node{number}")));
            wanted.push((self.admin(number), format!("node{number}'s admin listener")));
        }
        let servers = (0..redis.0).map(|number| self.redis_server(number));
        let seconds = (0..redis.1).map(|number| self.redis_second(number));
        wanted.extend(servers.chain(seconds).map(|port| (port, "Redis".to_owned())));
        wanted
            .into_iter()
            .filter(|(port, _)| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err())
            .map(|(port, purpose)| format!("{port} ({purpose})"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_from_the_base() {
        let ports = Ports { base: 4000 };
        assert_eq!((ports.proxy(), ports.node(1), ports.admin(1), ports.redis()), (4000, 4001, 4101, 4379));
    }

    #[test]
    fn no_two_parts_of_the_largest_cluster_share_a_port() {
        let ports = Ports { base: 4000 };
        let mut all = vec![ports.proxy()];
        all.extend((0..SECOND_OFFSET).flat_map(|number| [ports.redis_server(number), ports.redis_second(number)]));
        all.extend((1..=NODES_MAX).flat_map(|number| [ports.node(number), ports.admin(number)]));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_taken_port_is_named_with_its_purpose() {
        let ports = Ports::claim(0, 2, true, (1, 0)).expect("some range is free");
        let _holder = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.node(2))).expect("it was free");
        let error = Ports::claim(ports.proxy(), 2, true, (1, 0)).expect_err("node2's port is taken").to_string();
        assert!(error.contains(&format!("{} (node2)", ports.node(2))), "{error}");
    }

    #[test]
    fn a_part_that_is_not_started_needs_no_port() {
        let ports = Ports::claim(0, 1, true, (1, 0)).expect("some range is free");
        let _proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.proxy())).expect("it was free");
        let _redis = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.redis())).expect("it was free");
        assert_eq!(Ports::claim(ports.proxy(), 1, false, (0, 0)).expect("only the node counts"), ports);
    }

    #[test]
    fn a_base_too_high_is_refused_with_the_highest() {
        let error = Ports::claim(65_500, 1, true, (1, 0)).expect_err("Redis would be above 65535").to_string();
        assert!(error.contains("65156"), "{error}");
    }
}

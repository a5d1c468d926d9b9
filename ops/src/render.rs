//! Turns the shipped configurations into those of one local cluster.
//!
//! The same files run elsewhere unchanged (the compose file mounts them), so what a developer tries at home
//! is what is deployed: only addresses and directories differ.

use std::path::Path;

/// The configuration of Redis as shipped.
const REDIS: &str = include_str!("../redis.conf");

/// What a server of a Redis Cluster has beside it.
const REDIS_CLUSTER: &str = include_str!("../redis-cluster.conf");

/// The configuration of a sentinel as shipped.
const SENTINEL: &str = include_str!("../redis-sentinel.conf");

/// The configuration of HAProxy as shipped.
const HAPROXY: &str = include_str!("../haproxy.cfg");

/// Redis on `port`, its files in `dir`. In Redis' configuration the last word counts.
pub(crate) fn redis(port: u16, dir: &Path) -> String {
    // Its few replicas come at once, and are waited for: it need not wait for more.
    let own = "daemonize no\nlogfile \"\"\nrepl-diskless-sync-delay 0\n";
    format!("{REDIS}\n# This cluster.\nport {port}\ndir {}\n{own}", quoted(dir))
}

/// A server of a Redis Cluster on `port`, and on `bus_port` for the others.
pub(crate) fn redis_cluster(port: u16, bus_port: u16, dir: &Path) -> String {
    format!("{}{REDIS_CLUSTER}\ncluster-port {bus_port}\n", redis(port, dir))
}

/// A sentinel on `port` of the loopback, for a master that begins at `master_port`.
pub(crate) fn sentinel(port: u16, dir: &Path, master_port: u16) -> String {
    let text = SENTINEL.replace("@MASTER_HOST@ @MASTER_PORT@", &format!("127.0.0.1 {master_port}"));
    format!("{text}\n# This cluster.\nbind 127.0.0.1\nport {port}\ndir {}\ndaemonize no\n", quoted(dir))
}

fn quoted(dir: &Path) -> String {
    format!("\"{}\"", dir.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// A node, as HAProxy sees it.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) address: String,
    /// Where it says whether it is ready.
    pub(crate) admin_port: u16,
}

/// HAProxy on `port` of the loopback, in front of `nodes`.
pub(crate) fn haproxy(port: u16, nodes: &[Server]) -> String {
    let server =
        |Server { name, address, admin_port }: &Server| format!("    server {name} {address} port {admin_port}");
    let servers: Vec<String> = nodes.iter().map(server).collect();
    let text = replace_block(HAPROXY, "resolvers", "");
    let text = replace_block(&text, "bind", &format!("    bind 127.0.0.1:{port}"));
    replace_block(&text, "servers", &servers.join("\n"))
}

/// Replaces the lines from `# >>> name` to `# <<< name`, both included, wherever they stand.
fn replace_block(text: &str, name: &str, replacement: &str) -> String {
    let (begin, end) = (format!("# >>> {name}"), format!("# <<< {name}"));
    let mut result = String::with_capacity(text.len());
    let mut inside = false;
    for line in text.lines() {
        if line.trim() == begin {
            inside = true;
            if !replacement.is_empty() {
                result.push_str(replacement);
                result.push('\n');
            }
        }
        if !inside {
            result.push_str(line);
            result.push('\n');
        }
        if line.trim() == end {
            inside = false;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: u16) -> Server {
        Server {
            name: format!("node{number}"),
            address: format!("127.0.0.1:{}", 5000 + number),
            admin_port: 5100 + number,
        }
    }

    #[test]
    fn the_proxy_serves_the_nodes_of_this_cluster_and_no_others() {
        let text = haproxy(5000, &[server(1), server(2)]);
        let meant: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| ["bind ", "server ", "resolvers ", "nameserver "].iter().any(|word| line.starts_with(word)))
            .collect();
        let servers = ["server node1 127.0.0.1:5001 port 5101", "server node2 127.0.0.1:5002 port 5102"];
        // Those that are ready, and those that refuse if none is.
        assert_eq!(meant, [&["bind 127.0.0.1:5000"], &servers[..], &servers[..]].concat());
    }

    /// Where HAProxy is not installed the load balancer can't be started either, so nothing is left unseen.
    #[test]
    fn haproxy_takes_what_we_make_of_the_shipped_file() {
        let Some(program) = crate::up::in_path("haproxy") else { return };
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("haproxy.cfg");
        std::fs::write(&file, haproxy(5000, &[server(1)])).expect("a file");
        let checked = std::process::Command::new(program).arg("-c").arg("-f").arg(&file).output().expect("it runs");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }

    #[test]
    fn every_block_that_is_replaced_exists_in_the_shipped_file() {
        for (name, blocks) in [("resolvers", 1), ("bind", 1), ("servers", 2)] {
            for mark in [">>>", "<<<"] {
                let count = HAPROXY.lines().filter(|line| line.trim() == format!("# {mark} {name}")).count();
                assert_eq!(count, blocks, "{mark} {name}");
            }
        }
    }

    #[test]
    fn the_shipped_redis_syncs_every_write_and_never_evicts() {
        let text = redis(4379, Path::new("/var/a \"b\""));
        let settings: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        for setting in
            ["appendonly yes", "appendfsync always", "maxmemory-policy noeviction", "bind 127.0.0.1", "port 4379"]
        {
            assert!(settings.contains(&setting), "{setting}");
        }
        assert!(settings.contains(&"dir \"/var/a \\\"b\\\"\""), "a path may hold blanks and quotes");
    }
}

//! What a running local cluster is: `DIR/state.json`.
//!
//! Tests, scripts and the other commands find the cluster by this file; its form is public. It is written
//! whole or not at all, and only its owner may read it, because the secret that signs tokens is in it.
//! Whether the processes named in it still live is the work of `process`.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::output::refused;
use crate::process::Identity;

/// The directory when none is named.
pub(crate) const DEFAULT_DIR: &str = ".mille";

const FILE_NAME: &str = "state.json";
const SECRET_FILE_NAME: &str = "jwt-secret";

/// A local cluster as its starter left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    /// The load balancer; none when the cluster was started without.
    pub(crate) proxy: Option<Proxy>,
    /// In the order of their numbers.
    pub(crate) nodes: Vec<Node>,
    /// Ours, or the one named by `--redis-url`.
    pub(crate) redis: Redis,
    /// Signs the tokens this cluster accepts (HS256).
    pub(crate) jwt_secret: String,
}

/// The load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proxy {
    pub(crate) url: String,
    pub(crate) pid: u32,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) admin_url: String,
    pub(crate) pid: u32,
}

impl Node {
    /// The port of its admin listener.
    pub(crate) fn admin_port(&self) -> u16 {
        self.admin_url.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default()
    }

    /// How to know its process again.
    pub(crate) fn identity(&self) -> Identity {
        let address = self.url.trim_start_matches("http://");
        // Not by its program's name, which MILLE_NODE_BIN may change.
        Identity::new(&self.name, self.pid, "--listen", &[address])
    }
}

/// Redis; without a pid when it is not ours to stop, or when there are several servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Redis {
    pub(crate) url: String,
    pub(crate) pid: Option<u32>,
    /// If there are several: servers, and sentinels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) servers: Vec<RedisServer>,
}

/// One of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RedisServer {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) pid: u32,
}

impl Redis {
    /// The addresses of its servers. Sentinels are none.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let servers = self.servers.iter().filter(|one| !one.name.contains("sentinel"));
        let several: Vec<String> = servers.map(|one| format!("redis://127.0.0.1:{}", one.port)).collect();
        if several.is_empty() { vec![self.url.clone()] } else { several }
    }

    /// Those of its processes that are ours, by name.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (String, u32)> {
        let only = self.pid.map(|pid| ("redis".to_owned(), pid));
        only.into_iter().chain(self.servers.iter().map(|one| (one.name.clone(), one.pid)))
    }
}

impl State {
    /// Reads the state in `dir`; none when no cluster was started there or it was stopped.
    ///
    /// # Errors
    /// When the file is there but can't be read or understood.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE_NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        };
        let state = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a cluster's state; remove it if nothing runs", path.display()))?;
        Ok(Some(state))
    }

    /// Replaces the state in `dir`: a reader sees the old one or the new one.
    ///
    /// # Errors
    /// When the directory can't be written.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        write_private(&dir.join(FILE_NAME), &text)
    }

    /// Forgets the cluster in `dir`.
    ///
    /// # Errors
    /// When the file is there and can't be removed.
    pub(crate) fn remove(dir: &Path) -> Result<()> {
        let path = dir.join(FILE_NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("can't remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Where to send requests, best first: the load balancer, then each node.
    pub(crate) fn urls(&self) -> Vec<String> {
        let proxy = self.proxy.iter().map(|proxy| proxy.url.clone());
        proxy.chain(self.nodes.iter().map(|node| node.url.clone())).collect()
    }

    /// Every process of the cluster that is ours, in the order it must be stopped: first the door, then the
    /// nodes, and Redis when nobody needs it any more.
    pub(crate) fn stop_order(&self) -> Vec<Vec<Identity>> {
        let proxy =
            self.proxy.iter().map(|proxy| Identity::new("load balancer", proxy.pid, "haproxy", &["haproxy.cfg"]));
        let nodes = self.nodes.iter().map(Node::identity);
        let port = self.redis.url.rsplit(':').next().unwrap_or_default().trim_end_matches('/');
        let redis = self.redis.pid.iter().map(|&pid| Identity::new("redis", pid, "redis-server", &[port]));
        let servers = self.redis.servers.iter();
        let servers = servers.map(|one| Identity::new(&one.name, one.pid, "redis-", &[&one.port.to_string()]));
        vec![proxy.collect(), nodes.collect(), redis.chain(servers).collect()]
    }

    /// Names of the processes that are alive and still what this file says.
    pub(crate) fn living(&self) -> Vec<String> {
        self.stop_order().into_iter().flatten().filter(Identity::is_alive).map(|identity| identity.name).collect()
    }
}

/// The state directory: the one named, else the nearest `.mille` with a cluster here or above, else `.mille` here.
pub(crate) fn find_dir(named: Option<&Path>) -> PathBuf {
    if let Some(dir) = named {
        return dir.to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors()
        .map(|dir| dir.join(DEFAULT_DIR))
        .find(|dir| dir.join(FILE_NAME).is_file())
        .unwrap_or_else(|| PathBuf::from(DEFAULT_DIR))
}

/// Makes `dir` if need be and returns its absolute path, after trying to write there.
///
/// # Errors
/// A sentence that names the directory.
pub(crate) fn prepare_dir(dir: &Path) -> Result<PathBuf> {
    let explain =
        |error: std::io::Error| refused(format!("can't write to the state directory {}: {error}", dir.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(explain)?;
    let dir = fs::canonicalize(dir).map_err(explain)?;
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    fs::File::create(&probe).map_err(explain)?;
    fs::remove_file(&probe).map_err(explain)?;
    Ok(dir)
}

/// The secret of the cluster in `dir`, made at its first start. It outlives a restart, so that a browser
/// tab that was open before reconnects with the token it has.
///
/// # Errors
/// When it can be neither read nor written.
pub(crate) fn jwt_secret(dir: &Path) -> Result<String> {
    let path = dir.join(SECRET_FILE_NAME);
    if let Ok(text) = fs::read_to_string(&path) {
        let secret = text.trim();
        if secret.len() >= 32 {
            return Ok(secret.to_owned());
        }
    }
    let bytes: [u8; 32] = rand::random();
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(&path, &format!("{secret}\n"))?;
    Ok(secret)
}

/// Writes beside and renames, readable by the owner alone from the first byte on.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn sample() -> State {
        State {
            proxy: Some(Proxy { url: "http://127.0.0.1:4000".into(), pid: 10 }),
            nodes: vec![Node {
                name: "node1".into(),
                url: "http://127.0.0.1:4001".into(),
                admin_url: "http://127.0.0.1:4101".into(),
                pid: 11,
            }],
            redis: Redis { url: "redis://127.0.0.1:4379".into(), pid: Some(12), servers: Vec::new() },
            jwt_secret: "s".into(),
        }
    }

    #[test]
    fn the_file_has_the_public_form() {
        let written = serde_json::to_value(sample()).expect("it serializes");
        assert_eq!(
            written,
            json!({
                "proxy": {"url": "http://127.0.0.1:4000", "pid": 10},
                "nodes": [{"name": "node1", "url": "http://127.0.0.1:4001", "adminUrl": "http://127.0.0.1:4101", "pid": 11}],
                "redis": {"url": "redis://127.0.0.1:4379", "pid": 12},
                "jwtSecret": "s",
            })
        );
    }

    #[test]
    fn what_was_saved_is_loaded_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(State::load(dir.path()).expect("nothing is no error"), None);
        sample().save(dir.path()).expect("saved");
        assert_eq!(State::load(dir.path()).expect("loaded"), Some(sample()));
        let mode = fs::metadata(dir.path().join(FILE_NAME)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        State::remove(dir.path()).expect("removed");
        State::remove(dir.path()).expect("removing nothing is no error");
        assert_eq!(State::load(dir.path()).expect("gone"), None);
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE_NAME), "{").expect("written");
        let error = State::load(dir.path()).expect_err("half a file").to_string();
        assert!(error.contains("state.json"), "{error}");
    }

    #[test]
    fn redis_is_stopped_last_and_only_if_it_is_ours() {
        let names = |state: &State| -> Vec<Vec<String>> {
            let order = state.stop_order();
            order.into_iter().map(|step| step.into_iter().map(|identity| identity.name).collect()).collect()
        };
        let mut state = sample();
        assert_eq!(names(&state), [vec!["load balancer"], vec!["node1"], vec!["redis"]]);
        state.redis.pid = None;
        assert_eq!(names(&state)[2], Vec::<String>::new());
        state.redis.servers = vec![RedisServer { name: "redis-server1".into(), port: 4379, pid: 13 }];
        assert_eq!(names(&state)[2], ["redis-server1"]);
    }

    #[test]
    fn a_directory_that_can_not_be_made_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        let error = prepare_dir(&file.join("state")).expect_err("a file is in the way");
        assert!(error.downcast_ref::<crate::output::Refused>().is_some());
        assert!(error.to_string().contains("file/state"), "{error}");
    }

    #[test]
    fn the_secret_survives_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = jwt_secret(dir.path()).expect("made");
        assert_eq!(first.len(), 64);
        assert_eq!(jwt_secret(dir.path()).expect("read"), first);
    }
}

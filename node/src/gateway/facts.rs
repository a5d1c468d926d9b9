//! `GET /admin/facts`: what a node tells an operator of itself, for whoever compares all nodes.
//!
//! The form and its rule, no secrets, are [`mille_shared::facts`]'. A token may come with the question: the answer says whether
//! this node takes it, which is how keys are compared without telling anything of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::{MethodRouter, get};
use mille_shared::facts::{CheckFact, Facts, KeyFacts, NodeFacts, Queues, Resources, TlsFact, TokenFact};

use super::auth::{Authenticator, BearerToken, KeySettings};
use super::probes::Readiness;
use super::tls::Tls;
use crate::backend::Backend;
use crate::clock;
use crate::pressure::Pressure;
use crate::project::Projects;

/// From so many bytes on, a limit of memory is how some kernels say that there is none.
const NO_LIMIT_BYTES: u64 = 1 << 60;
/// Bytes of the hash that secrets are used with: a shorter secret is easier to guess than the hash.
const HASH_BYTES: usize = 32;

/// Where the facts come from.
pub struct FactsDoor {
    /// What does not change while the node runs; its certificate is looked at when asked.
    pub node: NodeFacts,
    /// How it judges tokens.
    pub keys: KeyFacts,
    /// Settings that should be the same on all nodes, by their variables.
    pub settings: BTreeMap<String, String>,
    /// Connections it would take.
    pub connections_max: usize,
    /// Judges the token that may come with the question.
    pub authenticator: Authenticator,
    /// Its certificate.
    pub tls: Option<Tls>,
    /// Whether it should get connections.
    pub readiness: Readiness,
    /// The store.
    pub backend: Backend,
    /// What waits for actors.
    pub projects: Projects,
    /// What waits for sockets.
    pub pressure: Pressure,
}

/// What may be told of the source of keys.
#[must_use]
pub fn of_keys(keys: &KeySettings) -> KeyFacts {
    let (source, is_short, has_next) = match keys {
        KeySettings::Secret { secret, next } => {
            let is_short = std::iter::once(secret).chain(next).any(|secret| secret.len() < HASH_BYTES);
            ("JWT_SECRET", is_short, next.is_some())
        }
        KeySettings::PublicKeyFile(_) => ("JWT_PUBLIC_KEY_FILE", false, false),
        KeySettings::JwksFile(_) => ("JWKS_FILE", false, false),
        KeySettings::JwksUrl(_) => ("JWKS_URL", false, false),
    };
    KeyFacts { source: source.to_owned(), is_short, has_next }
}

/// The door.
pub fn door(door: FactsDoor) -> MethodRouter<()> {
    get(tell).with_state(Arc::new(door))
}

async fn tell(State(door): State<Arc<FactsDoor>>, headers: HeaderMap) -> Json<Facts> {
    let (token, sees, redis, resources) = tokio::join!(
        door.judge(BearerToken::from_authorization(&headers)),
        door.backend.leases.list(),
        door.backend.leases.facts(),
        // Reads a few lines of the kernel's; a panic there is a bug that costs the lines.
        tokio::task::spawn_blocking(resources),
    );
    let (ready, checks) = door.readiness.ask();
    let mailboxes = door.projects.mailboxes();
    Json(Facts {
        node: NodeFacts {
            tls: door.tls.as_ref().map(|tls| TlsFact { expires_at: tls.expires_at() }),
            ..door.node.clone()
        },
        now_ms: clock::now().unix_ms,
        ready,
        checks: checks
            .into_iter()
            .map(|check| CheckFact { name: check.name.to_owned(), ok: check.ok, detail: check.detail })
            .collect(),
        token,
        keys: door.keys.clone(),
        sees: sees.ok().map(|nodes| nodes.into_iter().map(|(id, _)| id.as_str().to_owned()).collect()),
        settings: door.settings.clone(),
        resources: Resources { connections_max: door.connections_max as u64, ..resources.unwrap_or_default() },
        queues: Queues {
            send_bytes: door.pressure.queued_bytes(),
            actors: mailboxes.actors as u64,
            mailbox_commands: mailboxes.commands as u64,
            mailbox_fullest: mailboxes.fullest as u64,
        },
        redis,
    })
}

impl FactsDoor {
    async fn judge(&self, token: Option<BearerToken>) -> Option<TokenFact> {
        let why = self.authenticator.verify(&token?).await.err().map(|refused| refused.to_string());
        Some(TokenFact { taken: why.is_none(), why })
    }
}

/// What the kernel says of this process. Blocks for a moment.
fn resources() -> Resources {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let limits = read(Path::new("/proc/self/limits")).unwrap_or_default();
    let status = read(Path::new("/proc/self/status")).unwrap_or_default();
    let group = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    Resources {
        file_descriptors_max: file_descriptors(&limits),
        memory_bytes: resident(&status),
        memory_max_bytes: groups(&group)
            .iter()
            .filter_map(|path| read(Path::new(path))?.trim().parse().ok())
            .filter(|bytes| *bytes < NO_LIMIT_BYTES)
            .min(),
        ..Resources::default()
    }
}

/// The soft limit: the one in force.
fn file_descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Where the limits of the process's groups stand, in its own and the groups around it; both versions of groups.
fn groups(text: &str) -> Vec<String> {
    let mut files =
        vec!["/sys/fs/cgroup/memory.max".to_owned(), "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned()];
    if let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::/")) {
        let around = Path::new(own).ancestors().filter(|path| !path.as_os_str().is_empty());
        files.extend(around.map(|path| format!("/sys/fs/cgroup/{}/memory.max", path.display())));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_files_is_the_one_in_force() {
        let line = |soft: &str| format!("Max cpu time  unlimited\nMax open files            {soft}   524288  files\n");
        assert_eq!(file_descriptors(&line("1024")), Some(1024));
        assert_eq!(file_descriptors(&line("unlimited")), Some(u64::MAX));
        assert_eq!(file_descriptors(""), None);
        assert!(resources().file_descriptors_max.is_some_and(|max| max > 0));
    }

    #[test]
    fn the_groups_around_count_too() {
        let files = groups("1:cpu:/x\n0::/system.slice/mille.service\n");
        assert!(files.contains(&"/sys/fs/cgroup/system.slice/mille.service/memory.max".to_owned()));
        assert!(files.contains(&"/sys/fs/cgroup/system.slice/memory.max".to_owned()));
        assert_eq!(resident("VmRSS:\t   2048 kB\n"), Some(2 << 20));
    }

    #[test]
    fn of_a_secret_its_kind_is_told() {
        let told = |secret: &str, next: Option<&str>| {
            let keys = KeySettings::Secret { secret: secret.to_owned(), next: next.map(str::to_owned) };
            let facts = of_keys(&keys);
            assert!(!serde_json::to_string(&facts).expect("JSON").contains(secret));
            (facts.is_short, facts.has_next)
        };
        assert_eq!(told("sixteen bytes it", None), (true, false));
        assert_eq!(told("a secret of at least thirty-two bytes", None), (false, false));
        assert_eq!(told("a secret of at least thirty-two bytes", Some("sixteen bytes it")), (true, true));
    }
}

//! What the nodes tell of Redis. One Redis is judged once, by what the first node that reads it tells.

use std::collections::BTreeMap;

use mille_shared::facts::RedisFacts;

use super::finding::Finding;
use super::look::Look;

/// The first version with functions.
const VERSION_MIN: u32 = 7;
/// Hard and soft bytes of a subscriber's buffer, below which bursts of large plans cut nodes off: Redis' own default.
const PUBSUB_HARD_MIN: u64 = 64 << 20;
const PUBSUB_SOFT_MIN: u64 = 32 << 20;
/// The part of a bound of Redis' that may be used, in percent.
const PERCENT_MAX: u64 = 80;
/// Milliseconds of an answer from which on edits are felt to be slow.
const LATENCY_MS_MAX: f64 = 50.0;

pub(crate) fn judge(look: &Look) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut judged: Vec<&str> = Vec::new();
    let acknowledged_by =
        look.nodes.iter().filter_map(|seen| replicas_asked(seen.facts.settings.get("MILLE_ACK")?)).max();
    for seen in &look.nodes {
        let Some(redis) = &seen.facts.redis else { continue };
        findings.extend(slots(redis).map(|finding| finding.on(&seen.label)));
        for server in std::iter::once(redis).chain(&redis.others) {
            // Of several servers it must be said which one is meant.
            let label = match redis.others.is_empty() {
                true => seen.label.clone(),
                false => format!("{}, {}", seen.label, server.address),
            };
            let Some(id) = server.info.get("run_id") else {
                let because = reason(server, "info");
                let unread = Finding::error("redis", format!("it can't be asked: {because}")).on(&label);
                findings
                    .push(unread.advise("is Redis up, and may this node's user ask it INFO? See ops/redis-users.acl"));
                continue;
            };
            let latency_ms = server.latency_ms.unwrap_or_default();
            if latency_ms > LATENCY_MS_MAX {
                findings.push(
                    Finding::warning("redis_latency", format!("{latency_ms:.0} ms for an answer"))
                        .on(&label)
                        .advise("look at Redis' disk, its slowlog and the way to it: MilleRedisSlow in ops/runbook.md"),
                );
            }
            if judged.contains(&id.as_str()) {
                continue;
            }
            judged.push(id);
            let found = of(server, acknowledged_by.unwrap_or(0));
            // With one Redis it is the cluster's; with several, whose it is must be said.
            let is_only = judged.len() == 1 && redis.others.is_empty();
            findings.extend(found.into_iter().map(|f| if is_only { f } else { f.on(&label) }));
        }
    }
    if judged.is_empty() && findings.is_empty() && !look.nodes.is_empty() {
        findings.push(Finding::ok("redis", "there is none: the embedded store, which keeps nothing through a restart"));
    }
    findings
}

/// Whether every slot of a cluster has a server.
fn slots(redis: &RedisFacts) -> Option<Finding> {
    let uncovered = redis.uncovered_slots;
    (uncovered > 0).then(|| {
        Finding::error("redis_slots", format!("{uncovered} slots have no server: what lies there can't be reached"))
            .advise("redis-cli --cluster check; bring back the primary or its replica")
    })
}

/// How many replicas must have an edit, of `replicated:N`.
fn replicas_asked(level: &str) -> Option<u64> {
    level.strip_prefix("replicated:")?.parse().ok()
}

/// One server, by whose replicas an edit counts as acknowledged once so many have it.
fn of(redis: &RedisFacts, acknowledged_by: u64) -> Vec<Finding> {
    let facts = Known { info: &redis.info, config: &redis.config, redis };
    [
        facts.version(),
        facts.mode(),
        facts.role(),
        facts.append_only(),
        facts.disk(),
        facts.fsync(),
        facts.eviction(),
        facts.memory(),
        facts.pubsub_buffer(),
        facts.clients(),
        facts.replicas(acknowledged_by),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn reason(redis: &RedisFacts, what: &str) -> String {
    let unknown = redis.unknown.iter().find(|unknown| unknown.what == what);
    unknown.map_or_else(|| "the node does not tell it".to_owned(), |unknown| unknown.because.clone())
}

struct Known<'a> {
    info: &'a BTreeMap<String, String>,
    config: &'a BTreeMap<String, String>,
    redis: &'a RedisFacts,
}

impl Known<'_> {
    fn info(&self, name: &str) -> Option<&str> {
        self.info.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.info(name)?.parse().ok()
    }

    fn version(&self) -> Option<Finding> {
        let version = self.info("redis_version")?;
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        Some(match major {
            None => Finding::unknown("redis_version", format!("{version} is no number")),
            Some(major) if major < VERSION_MIN => {
                Finding::error("redis_version", format!("{version}; functions came with {VERSION_MIN}.0"))
                    .advise("put a newer Redis in its place")
            }
            Some(_) => Finding::ok("redis_version", format!("{version}, {}", self.redis.mode)),
        })
    }

    /// Whether nodes take it for what it is.
    fn mode(&self) -> Option<Finding> {
        let is_cluster = self.info("cluster_enabled")? == "1";
        (is_cluster && self.redis.mode != "cluster").then(|| {
            let found =
                format!("a server of a Redis Cluster, asked as {}: it has a part of the plans", self.redis.mode);
            Finding::error("redis_mode", found)
                .advise("give all nodes a REDIS_URL that begins with redis-cluster://, and any of its servers")
        })
    }

    fn role(&self) -> Option<Finding> {
        Some(match self.info("role")? {
            "slave" => {
                let link = self.info("master_link_status").unwrap_or("unknown");
                Finding::error("redis_role", format!("a replica (its line to the master: {link}): it refuses every edit")).advise(
                    "lead the nodes to the master (REDIS_URL, or redis-sentinel:// which finds it), or promote this one with \
                     REPLICAOF NO ONE if the master is gone for good",
                )
            }
            role => Finding::ok("redis_role", role),
        })
    }

    fn append_only(&self) -> Option<Finding> {
        Some(match self.info("aof_enabled")? {
            "1" => Finding::ok("redis_append_only", "on"),
            _ => Finding::error("redis_append_only", "off: what was acknowledged is gone with the process")
                .advise("CONFIG SET appendonly yes, and the same in its file: start it with ops/redis.conf"),
        })
    }

    /// Whether what should be on disk gets there.
    fn disk(&self) -> Option<Finding> {
        let failed: Vec<&str> = ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"]
            .into_iter()
            .filter(|name| self.info(name).is_some_and(|status| status != "ok"))
            .collect();
        if failed.is_empty() {
            return Some(Finding::ok("redis_disk", "its last writes went well"));
        }
        let found = format!("its last write failed: {}", failed.join(", "));
        Some(
            Finding::error("redis_disk", found)
                .advise("is its disk full, or read-only? Its log says which file it was"),
        )
    }

    fn fsync(&self) -> Option<Finding> {
        if self.info("aof_enabled") == Some("0") {
            return None;
        }
        let Some(policy) = self.config.get("appendfsync") else {
            let how = "ask as the operator: redis-cli CONFIG GET appendfsync; it should say always";
            return Some(Finding::unknown("redis_fsync", reason(self.redis, "config")).advise(how));
        };
        let advice = "CONFIG SET appendfsync always, and the same in its file; ops/redis.conf says what each costs";
        let pauses = self.config.get("no-appendfsync-on-rewrite").is_some_and(|value| value == "yes");
        Some(match policy.as_str() {
            "always" if pauses => {
                Finding::warning("redis_fsync", "always, but not while the file is rewritten: a promise with pauses")
                    .advise("CONFIG SET no-appendfsync-on-rewrite no, and the same in its file")
            }
            "always" => Finding::ok("redis_fsync", "always"),
            "everysec" => {
                let found = "everysec: a machine that dies takes up to two seconds of acknowledged edits with it";
                Finding::warning("redis_fsync", found).advise(advice)
            }
            other => {
                let found = format!("{other}: the system decides when acknowledged edits reach the disk");
                Finding::error("redis_fsync", found).advise(advice)
            }
        })
    }

    /// Full memory must refuse an edit, never evict a plan.
    fn eviction(&self) -> Option<Finding> {
        let policy = self.info("maxmemory_policy")?;
        let advice = "CONFIG SET maxmemory-policy noeviction, and the same in its file";
        let evicted = self.number("evicted_keys").unwrap_or_default();
        Some(if policy == "noeviction" && evicted > 0 {
            Finding::warning(
                "redis_eviction",
                format!("{evicted} keys were evicted since it started: plans may be gone"),
            )
            .advise("look for plans that are missing; ops/runbook.md, MilleRedisLosesData")
        } else if policy == "noeviction" {
            Finding::ok("redis_eviction", "never")
        } else if self.number("maxmemory").unwrap_or_default() == 0 {
            Finding::warning("redis_eviction", format!("{policy}, once somebody sets maxmemory: it would delete plans"))
                .advise(advice)
        } else {
            let found = format!("{policy}: when its memory is full it deletes plans ({evicted} keys so far)");
            Finding::error("redis_eviction", found).advise(advice)
        })
    }

    fn memory(&self) -> Option<Finding> {
        let used = self.number("used_memory")?;
        let max = self.number("maxmemory").filter(|max| *max > 0).or_else(|| self.number("total_system_memory"))?;
        let found = format!("{} of {} MB", used >> 20, max >> 20);
        Some(if used.saturating_mul(100) > max.saturating_mul(PERCENT_MAX) {
            Finding::error("redis_memory", format!("{found} used; when it is full, edits are refused")).advise(
                "give it more memory; or keep less of the logs: MILLE_LOG_CHANGES_MAX, MILLE_LOG_RETENTION_SECONDS",
            )
        } else {
            Finding::ok("redis_memory", format!("{found} used"))
        })
    }

    fn pubsub_buffer(&self) -> Option<Finding> {
        let Some(limits) = self.config.get("client-output-buffer-limit") else {
            let how = "ask as the operator: redis-cli CONFIG GET client-output-buffer-limit; see ops/redis.conf";
            return Some(Finding::unknown("redis_pubsub_buffer", reason(self.redis, "config")).advise(how));
        };
        let (hard, soft) = pubsub_limits(limits)?;
        let found = format!("{} MB, {} MB for a while", hard >> 20, soft >> 20);
        let advice = "CONFIG SET client-output-buffer-limit \"pubsub 64mb 32mb 30\", and the same in its file";
        Some(if hard == 0 && soft == 0 {
            Finding::warning("redis_pubsub_buffer", "no limit: a node that reads slowly fills Redis' memory")
                .advise(advice)
        } else if (hard != 0 && hard < PUBSUB_HARD_MIN) || (soft != 0 && soft < PUBSUB_SOFT_MIN) {
            Finding::warning("redis_pubsub_buffer", format!("{found}: a burst of large plans cuts nodes off"))
                .advise(advice)
        } else {
            Finding::ok("redis_pubsub_buffer", found)
        })
    }

    fn clients(&self) -> Option<Finding> {
        let (now, max) = (self.number("connected_clients")?, self.number("maxclients")?);
        let found = format!("{now} of {max} connections");
        Some(if now.saturating_mul(100) > max.saturating_mul(PERCENT_MAX) {
            Finding::error("redis_clients", format!("{found}: nodes that come back will not be let in")).advise(
                "CONFIG SET maxclients higher, and its file descriptors too; who else is connected? CLIENT LIST",
            )
        } else {
            Finding::ok("redis_clients", found)
        })
    }

    fn replicas(&self, acknowledged_by: u64) -> Option<Finding> {
        let replicas = self.number("connected_slaves")?;
        let wanted =
            self.config.get("min-replicas-to-write").and_then(|wanted| wanted.parse::<u64>().ok()).unwrap_or(0);
        let good = self.number("min_slaves_good_slaves").unwrap_or(replicas);
        Some(if wanted > good {
            let found =
                format!("{good} of the {wanted} replicas that min-replicas-to-write asks for: it refuses every edit");
            Finding::error("redis_replicas", found)
                .advise("bring the replicas back, or CONFIG SET min-replicas-to-write lower")
        } else if acknowledged_by > replicas {
            let found = format!("{replicas} of the {acknowledged_by} that MILLE_ACK asks for: no edit is acknowledged");
            Finding::error("redis_replicas", found)
                .advise("bring the replicas back; or let MILLE_ACK ask for fewer on all nodes, one after the other")
        } else if replicas == 0 && matches!(self.redis.mode.as_str(), "sentinel" | "cluster") {
            let found = "none: when it dies nobody takes its place, and its plans wait until it is back";
            Finding::warning("redis_replicas", found)
                .advise("bring a replica back, or add one: docs/operating.md, \"Redis in several servers\"")
        } else {
            Finding::ok("redis_replicas", format!("{replicas} connected"))
        })
    }
}

/// Hard and soft bytes of the class `pubsub` in `normal 0 0 0 slave … pubsub 33554432 8388608 60`.
fn pubsub_limits(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn status(info: &[(&str, &str)], config: &[(&str, &str)], name: &str) -> Option<Status> {
        let redis = RedisFacts { info: map(info), config: map(config), ..RedisFacts::default() };
        of(&redis, 0).into_iter().find(|finding| finding.name == name).map(|finding| finding.status)
    }

    #[test]
    fn a_version_without_functions_is_too_old() {
        let found =
            ["6.2.14", "7.0.15", "8.0.1", "unstable"].map(|v| status(&[("redis_version", v)], &[], "redis_version"));
        assert_eq!(found, [Status::Error, Status::Ok, Status::Ok, Status::Warning].map(Some));
    }

    #[test]
    fn what_can_not_be_read_is_unknown_and_not_well() {
        for name in ["redis_fsync", "redis_pubsub_buffer"] {
            assert_eq!(status(&[("aof_enabled", "1")], &[], name), Some(Status::Warning), "{name}");
        }
    }

    #[test]
    fn memory_that_nearly_is_full_and_replicas_that_are_missing_are_errors() {
        let full = [("used_memory", "90"), ("maxmemory", "100")];
        assert_eq!(status(&full, &[], "redis_memory"), Some(Status::Error));
        let without_bound = [("used_memory", "90"), ("maxmemory", "0"), ("total_system_memory", "1000")];
        assert_eq!(status(&without_bound, &[], "redis_memory"), Some(Status::Ok));
        let alone = [("connected_slaves", "0")];
        assert_eq!(status(&alone, &[("min-replicas-to-write", "1")], "redis_replicas"), Some(Status::Error));
        assert_eq!(status(&alone, &[], "redis_replicas"), Some(Status::Ok));
        let of_shard = |mode: &str| {
            let (mode, info) = (mode.to_owned(), map(&[("connected_slaves", "0"), ("cluster_enabled", "1")]));
            let found = of(&RedisFacts { mode, info, ..RedisFacts::default() }, 0).into_iter();
            let found = found.map(|finding| (finding.name, finding.status));
            found.filter(|(name, _)| ["redis_mode", "redis_replicas"].contains(name)).collect::<Vec<_>>()
        };
        assert_eq!(of_shard("cluster"), [("redis_replicas", Status::Warning)]);
        assert_eq!(of_shard("standalone"), [("redis_mode", Status::Error), ("redis_replicas", Status::Ok)]);
        let crowded = [("connected_clients", "90"), ("maxclients", "100")];
        assert_eq!(status(&crowded, &[], "redis_clients"), Some(Status::Error));
        let full_disk = [("aof_last_write_status", "err")];
        assert_eq!(status(&full_disk, &[], "redis_disk"), Some(Status::Error));
    }

    #[test]
    fn fewer_replicas_than_an_acknowledgement_needs_are_an_error() {
        let with = |replicas: &str, level: &str| {
            let redis = RedisFacts { info: map(&[("connected_slaves", replicas)]), ..RedisFacts::default() };
            let found = of(&redis, replicas_asked(level).unwrap_or(0)).into_iter();
            found.filter(|finding| finding.name == "redis_replicas").map(|finding| finding.status).next()
        };
        assert_eq!(with("1", "replicated:2"), Some(Status::Error));
        assert_eq!(with("0", "replicated:1"), Some(Status::Error));
        assert_eq!(with("2", "replicated:2"), Some(Status::Ok));
        assert_eq!(with("0", "applied"), Some(Status::Ok));
    }

    #[test]
    fn the_class_of_subscribers_is_found_among_the_others() {
        let text = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(pubsub_limits(text), Some((32 << 20, 8 << 20)));
        assert_eq!(pubsub_limits("normal 0 0 0"), None);
    }
}

//! What one node tells that needs no other to be judged.

use std::collections::BTreeMap;

use mille_shared::Timestamp;
use mille_shared::limits::HEARTBEAT_INTERVAL;

use super::finding::Finding;
use super::look::{Knock, Seen};

/// Files that a node opens beside its connections: Redis, listeners, logs, certificates.
const OTHER_FILES: u64 = 128;
/// A certificate with so many days left should have been renewed.
const CERTIFICATE_DAYS_WARN: i64 = 21;
/// With so few, it is an emergency.
const CERTIFICATE_DAYS_MIN: i64 = 7;
/// Missed heartbeats that must not look like a death. One is lost to any blip.
const HEARTBEATS_PER_LEASE: u64 = 3;
/// The part of its memory that a node may fill, in percent.
const MEMORY_PERCENT_MAX: u64 = 80;
const DAY_MS: i64 = 24 * 3600 * 1000;

pub(crate) fn judge(seen: &Seen) -> Vec<Finding> {
    let checks = [
        readiness(seen),
        rights(seen),
        address(seen),
        file_descriptors(seen),
        memory(seen),
        lease(&seen.facts.settings),
        leaving(seen),
        development(seen),
        origins(seen),
        secret(seen),
        certificate(seen),
    ];
    checks.into_iter().flatten().map(|finding| finding.on(&seen.label)).collect()
}

/// The node's check that fails while it is taken out.
const SERVING: &str = "serving";

fn readiness(seen: &Seen) -> Option<Finding> {
    let failing: Vec<String> =
        seen.facts.checks.iter().filter(|check| !check.ok).map(|c| format!("{} ({})", c.name, c.detail)).collect();
    let failing = failing.join("; ");
    let is_leaving = seen.facts.checks.iter().any(|check| check.name == SERVING && !check.ok);
    Some(if is_leaving {
        Finding::warning("ready", "it is being taken out")
            .advise("nothing, if somebody meant to; else find out who stops it")
    } else if !seen.facts.ready {
        Finding::error("ready", format!("it wants no new connections: {failing}")).advise(
            "the other findings may say why; else ops/runbook.md: MilleRedisDown, MillePressure, MilleActorsFail",
        )
    } else if failing.is_empty() {
        Finding::ok("ready", "it wants new connections")
    } else {
        Finding::warning("ready", format!("it wants new connections, for now: {failing}"))
            .advise("look again in ten seconds: blips pass, what stays takes the node out")
    })
}

/// Whether Redis lets the node do what it must: what it refuses shows in the checks.
fn rights(seen: &Seen) -> Option<Finding> {
    let refused = seen.facts.checks.iter().find(|check| check.detail.contains("NOPERM"))?;
    Some(Finding::error("redis_rights", format!("Redis refuses it what it must do: {}", refused.detail)).advise(
        "give the node's user the rights of ops/redis-users.acl (ACL LOAD, or ops/redis-start); ACL LOG says which is missing",
    ))
}

/// Others are told where a node is; whoever follows that must find it.
fn address(seen: &Seen) -> Option<Finding> {
    let address = &seen.facts.node.advertise;
    let advice = "set MILLE_ADVERTISE to the address at which clients and the load balancer reach this node";
    let error = |what: String| Finding::error("address", what).advise(advice);
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    if ["0.0.0.0", "[::]"].contains(&host.rsplit('/').next().unwrap_or_default()) {
        return Some(error(format!("it tells others that it is at {address}, where every machine finds itself")));
    }
    Some(match &seen.knock {
        Knock::Node(id) if *id == seen.facts.node.id => Finding::ok("address", format!("it answers at {address}")),
        Knock::Node(id) => error(format!("it tells others that it is at {address}, where {id} answers")),
        Knock::Stranger => error(format!("it tells others that it is at {address}, where something else answers")),
        Knock::Nobody => error(format!("it tells others that it is at {address}, where nobody listens")),
        Knock::Silence(why) => Finding::unknown("address", format!("{address} can't be reached from here: {why}"))
            .advise("if clients are to reach it there, look at names and firewalls; else set MILLE_ADVERTISE"),
    })
}

fn file_descriptors(seen: &Seen) -> Option<Finding> {
    let resources = &seen.facts.resources;
    let Some(max) = resources.file_descriptors_max else {
        return Some(Finding::unknown("file_descriptors", "the node's system does not tell its limit"));
    };
    let wanted = resources.connections_max.saturating_add(OTHER_FILES);
    let detail =
        format!("{max} open files allowed, {} connections and {OTHER_FILES} others wanted", resources.connections_max);
    if max >= wanted {
        return Some(Finding::ok("file_descriptors", detail));
    }
    // On a developer's machine nobody will come in such numbers.
    let found = if seen.facts.node.is_dev { Finding::warning } else { Finding::error };
    Some(found("file_descriptors", detail).advise(format!(
        "start it with `ulimit -n {wanted}` (systemd: LimitNOFILE={wanted}), or lower MILLE_CONNECTIONS_MAX: it would accept \
         connections until the system refuses them, Redis' among them"
    )))
}

fn memory(seen: &Seen) -> Option<Finding> {
    let resources = &seen.facts.resources;
    let (max, held) = (resources.memory_max_bytes?, resources.memory_bytes?);
    let bodies = number(&seen.facts.settings, "MILLE_REQUEST_BYTES_IN_FLIGHT_MAX").unwrap_or_default();
    let detail = format!("{} of {} MB", held >> 20, max >> 20);
    Some(if held.saturating_mul(100) > max.saturating_mul(MEMORY_PERCENT_MAX) {
        Finding::error("memory", format!("{detail} used; beyond, the kernel kills it")).advise(
            "give it more memory, or add nodes; lower MILLE_CONNECTIONS_MAX so that this one takes fewer people",
        )
    } else if max < bodies.saturating_mul(2) {
        Finding::warning("memory", format!("{detail} used, and request bodies alone may take {} MB", bodies >> 20))
            .advise("give it more memory, or lower MILLE_REQUEST_BYTES_IN_FLIGHT_MAX")
    } else {
        Finding::ok("memory", format!("{detail} used"))
    })
}

fn lease(settings: &BTreeMap<String, String>) -> Option<Finding> {
    let lease = number(settings, "MILLE_NODE_LEASE_SECONDS")?;
    let patience_ms = number(settings, "MILLE_REDIS_COMMAND_TIMEOUT_MS").unwrap_or_default();
    let heartbeats = HEARTBEATS_PER_LEASE * HEARTBEAT_INTERVAL.as_secs();
    let advice = "set MILLE_NODE_LEASE_SECONDS to 10, on all nodes";
    Some(if lease < heartbeats {
        Finding::error(
            "lease",
            format!("{lease} s: a blip of Redis that is shorter than a page's reload makes the others take this node for dead"),
        )
        .advise(advice)
    } else if lease * 1000 < 2 * patience_ms {
        Finding::warning("lease", format!("{lease} s, and one command may take {patience_ms} ms: two slow ones end it"))
            .advise("make MILLE_NODE_LEASE_SECONDS longer, or MILLE_REDIS_COMMAND_TIMEOUT_MS shorter")
    } else {
        Finding::ok("lease", format!("{lease} s"))
    })
}

/// Whether load balancers get the time to notice that a node leaves, before its sockets are told to.
fn leaving(seen: &Seen) -> Option<Finding> {
    let of = |name: &str| number(&seen.facts.settings, name);
    let (notice, window) = (of("MILLE_DRAIN_NOTICE_SECONDS")?, of("MILLE_DRAIN_WINDOW_SECONDS")?);
    let deadline = of("MILLE_SHUTDOWN_SECONDS")?;
    let found = format!("{notice} s of notice, sockets closed over {window} s, {deadline} s at most");
    Some(if notice == 0 && !seen.facts.node.is_dev {
        Finding::warning("leaving", format!("{found}: load balancers still send people there while it shuts its doors"))
            .advise("set MILLE_DRAIN_NOTICE_SECONDS to as long as they need to see two failing /readyz")
    } else {
        Finding::ok("leaving", found)
    })
}

fn development(seen: &Seen) -> Option<Finding> {
    let node = &seen.facts.node;
    if !node.is_dev {
        return Some(Finding::ok("development", "off"));
    }
    let is_local = node.listen.starts_with("127.") || node.listen.starts_with("[::1]");
    Some(if is_local {
        Finding::ok("development", format!("--dev, on {} only", node.listen))
    } else {
        Finding::error(
            "development",
            format!("--dev while it listens on {}: it shows GraphiQL and the schema there", node.listen),
        )
        .advise("run it without --dev (MILLE_DEV), or listen on 127.0.0.1")
    })
}

fn origins(seen: &Seen) -> Option<Finding> {
    let origins = seen.facts.settings.get("MILLE_ALLOWED_ORIGINS")?;
    Some(if origins.split(',').any(|origin| origin == "*") && !seen.facts.node.is_dev {
        Finding::warning("origins", "pages of every site may talk to it with a token that they get hold of")
            .advise("name the origins of your pages in MILLE_ALLOWED_ORIGINS")
    } else if origins.is_empty() {
        Finding::ok("origins", "no pages but those at its own number or localhost")
    } else {
        Finding::ok("origins", origins.clone())
    })
}

fn secret(seen: &Seen) -> Option<Finding> {
    let keys = &seen.facts.keys;
    if keys.source != "JWT_SECRET" {
        return None;
    }
    Some(if keys.is_short {
        Finding::warning("secret", "shorter than 32 bytes: easier to guess from a token than the hash itself")
            .advise("make a new JWT_SECRET (`openssl rand -hex 32`), given as JWT_NEXT_SECRET first")
    } else {
        Finding::ok("secret", "32 bytes or more")
    })
}

fn certificate(seen: &Seen) -> Option<Finding> {
    let tls = seen.facts.node.tls.as_ref()?;
    let Some(expires_at) = tls.expires_at else {
        return Some(Finding::unknown("certificate", "its end can't be read from the file"));
    };
    let days = days_until(expires_at, seen.facts.now_ms);
    let detail = format!("it expires at {expires_at}, in {days} days");
    let advice =
        "renew the files of MILLE_TLS_CERT_FILE and MILLE_TLS_KEY_FILE; nodes take the new pair within a minute";
    Some(if days < 0 {
        let found = format!("it has expired, at {expires_at}: browsers refuse it");
        Finding::error("certificate", found).advise(advice)
    } else if days <= CERTIFICATE_DAYS_MIN {
        Finding::error("certificate", detail).advise(advice)
    } else if days <= CERTIFICATE_DAYS_WARN {
        Finding::warning("certificate", detail).advise(advice)
    } else {
        Finding::ok("certificate", detail)
    })
}

fn days_until(moment: Timestamp, now_ms: i64) -> i64 {
    (moment.unix_ms - now_ms).div_euclid(DAY_MS)
}

fn number(settings: &BTreeMap<String, String>, name: &str) -> Option<u64> {
    settings.get(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use mille_shared::facts::{Facts, TlsFact};

    use super::super::finding::Status;
    use super::*;

    fn seen(change: impl FnOnce(&mut Facts)) -> Seen {
        let mut facts = Facts { ready: true, ..Facts::default() };
        facts.node.id = "n.1".to_owned();
        facts.node.advertise = "10.0.0.1:4000".to_owned();
        facts.resources.file_descriptors_max = Some(100_000);
        change(&mut facts);
        Seen { label: "n".to_owned(), facts, clock_ahead_ms: 0.0, knock: Knock::Node("n.1".to_owned()) }
    }

    fn status(seen: &Seen, name: &str) -> Status {
        let found = judge(seen).into_iter().find(|finding| finding.name == name).expect("it was looked at");
        let is_unknown = found.detail.starts_with("unknown");
        assert!(is_unknown || found.advice.is_none() == (found.status == Status::Ok), "{found:?}");
        found.status
    }

    #[test]
    fn development_is_for_the_loopback() {
        let dev = |listen: &str| seen(|facts| (facts.node.is_dev, facts.node.listen) = (true, listen.to_owned()));
        assert_eq!(status(&dev("127.0.0.1:4000"), "development"), Status::Ok);
        assert_eq!(status(&dev("[::1]:4000"), "development"), Status::Ok);
        assert_eq!(status(&dev("0.0.0.0:4000"), "development"), Status::Error);
        assert_eq!(status(&dev("10.1.2.3:4000"), "development"), Status::Error);
    }

    #[test]
    fn a_certificate_is_worse_the_nearer_its_end() {
        let with = |days: i64| {
            let expires_at = Some(Timestamp::from_unix_ms(days * DAY_MS));
            seen(|facts| facts.node.tls = Some(TlsFact { expires_at }))
        };
        let found = [-1, 3, 20, 90].map(|days| status(&with(days), "certificate"));
        assert_eq!(found, [Status::Error, Status::Error, Status::Warning, Status::Ok]);
        let unreadable = seen(|facts| facts.node.tls = Some(TlsFact { expires_at: None }));
        assert_eq!(status(&unreadable, "certificate"), Status::Warning, "unknown is not well");
    }

    #[test]
    fn an_address_that_leads_elsewhere_is_no_address() {
        let at = |address: &str, knock: Knock| {
            let knocked = seen(|facts| facts.node.advertise = address.to_owned());
            status(&Seen { knock, ..knocked }, "address")
        };
        let itself = || Knock::Node("n.1".to_owned());
        assert_eq!(at("n.example:4000", itself()), Status::Ok);
        assert_eq!(at("n.example:4000", Knock::Node("m.1".to_owned())), Status::Error);
        assert_eq!(at("n.example:4000", Knock::Nobody), Status::Error);
        assert_eq!(at("n.example:4000", Knock::Silence("timed out".to_owned())), Status::Warning);
        for everywhere in ["0.0.0.0:4000", "[::]:4000", "http://0.0.0.0:4000"] {
            assert_eq!(at(everywhere, itself()), Status::Error, "the doctor's own machine answers at {everywhere}");
        }
    }

    #[test]
    fn memory_that_bodies_alone_may_fill_is_too_little() {
        let with = |max_mb: u64, held_mb: u64| {
            seen(|facts| {
                (facts.resources.memory_max_bytes, facts.resources.memory_bytes) =
                    (Some(max_mb << 20), Some(held_mb << 20));
                facts.settings.insert("MILLE_REQUEST_BYTES_IN_FLIGHT_MAX".to_owned(), (256_u64 << 20).to_string());
            })
        };
        let found = [(2048, 100), (400, 100), (2048, 2000)].map(|(max, held)| status(&with(max, held), "memory"));
        assert_eq!(found, [Status::Ok, Status::Warning, Status::Error]);
    }

    #[test]
    fn pages_of_every_site_are_a_warning() {
        let of = |origins: &str| {
            seen(|facts| drop(facts.settings.insert("MILLE_ALLOWED_ORIGINS".to_owned(), origins.to_owned())))
        };
        assert_eq!(status(&of("*"), "origins"), Status::Warning);
        assert_eq!(status(&of("https://app.example"), "origins"), Status::Ok);
    }
}

//! What shows only when nodes are compared: whether they see each other, agree, and are who they say.

use std::collections::BTreeMap;

use super::finding::Finding;
use super::look::{Look, Seen};

/// Milliseconds that a clock may be from the others. More: revocations and leases are told late or early.
const CLOCK_MS_WARN: f64 = 1_000.0;
/// Half of the leeway that tokens have: more, and who is let in depends on the node.
const CLOCK_MS_MAX: f64 = 2_500.0;
/// Settings that may well differ from node to node: machines differ in size, and pages are served from several places.
const MAY_DIFFER: [&str; 2] = ["MILLE_CONNECTIONS_MAX", "MILLE_ALLOWED_ORIGINS"];

pub(crate) fn judge(look: &Look) -> Vec<Finding> {
    let mut findings = reachable(look);
    if !look.nodes.is_empty() {
        findings.extend(names(look));
        findings.extend(clocks(look));
        findings.extend(members(look));
        findings.extend(store(look));
        findings.extend(tokens(look));
        findings.push(versions(look));
        findings.extend(settings(look));
    }
    findings
}

fn reachable(look: &Look) -> Vec<Finding> {
    let mut findings: Vec<_> = (look.silent.iter())
        .map(|(label, why)| {
            Finding::error("reachable", format!("its admin listener does not answer: {why}")).on(label).advise(
                "does its process run, and is MILLE_ADMIN_LISTEN where you looked? Its log ends with the reason",
            )
        })
        .collect();
    findings.extend(look.nodes.iter().map(|seen| {
        Finding::ok("reachable", format!("{} answers at {}", seen.facts.node.id, seen.facts.node.admin_listen))
            .on(&seen.label)
    }));
    findings
}

fn names(look: &Look) -> Vec<Finding> {
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for seen in &look.nodes {
        by_name.entry(&seen.facts.node.name).or_default().push(&seen.facts.node.id);
    }
    let shared: Vec<_> = by_name.into_iter().filter(|(_, ids)| ids.len() > 1).collect();
    if shared.is_empty() {
        return vec![Finding::ok("names", "each node has its own")];
    }
    let told = shared.into_iter().map(|(name, ids)| {
        Finding::error("names", format!("{} nodes are called {name}: {}", ids.len(), ids.join(", ")))
            .advise("give each its own MILLE_NODE_NAME: logs, alerts and `mille drain` go by it")
    });
    told.collect()
}

/// The clocks of the nodes, of Redis and of this machine; whichever is far from the middle one is wrong.
fn clocks(look: &Look) -> Vec<Finding> {
    let redis =
        look.nodes.iter().filter_map(|seen| Some(seen.clock_ahead_ms + seen.facts.redis.as_ref()?.clock_ahead_ms?));
    let redis = middle(redis.collect());
    let all = look.nodes.iter().map(|seen| seen.clock_ahead_ms).chain(redis).chain([0.0]);
    let Some(right) = middle(all.collect()) else { return Vec::new() };
    let judged = |ahead_ms: f64, whose: &str| {
        let off_ms = ahead_ms - right;
        let direction = if off_ms > 0.0 { "ahead of" } else { "behind" };
        let found = format!("{whose} is {:.1} s {direction} the others", off_ms.abs() / 1000.0);
        let advice = "set the clock of its machine by NTP (chrony, systemd-timesyncd)";
        match off_ms.abs() {
            ..CLOCK_MS_WARN => Finding::ok("clock", format!("{whose} agrees within {:.1} s", off_ms.abs() / 1000.0)),
            ..CLOCK_MS_MAX => Finding::warning("clock", found).advise(advice),
            _ => Finding::error("clock", found).advise(advice),
        }
    };
    let mut findings: Vec<_> =
        look.nodes.iter().map(|seen| judged(seen.clock_ahead_ms, "its clock").on(&seen.label)).collect();
    match redis {
        Some(ahead_ms) => findings.push(judged(ahead_ms, "Redis' clock")),
        None if look.nodes.iter().any(|seen| seen.facts.redis.is_some()) => {
            findings.push(Finding::unknown("clock", "no node could ask Redis for its time"));
        }
        None => {}
    }
    if right.abs() >= CLOCK_MS_WARN {
        findings.push(
            Finding::warning(
                "clock",
                format!("this machine's clock is {:.1} s from the cluster's", right.abs() / 1000.0),
            )
            .advise("set this machine's clock: tokens that it signs may be refused"),
        );
    }
    findings
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Whether the nodes see each other's leases: they do if they keep them in one place. The one that sees most is right.
fn members(look: &Look) -> Vec<Finding> {
    let advice = "give all nodes the same REDIS_URL, the database's number included";
    let sees =
        |seen: &Seen, other: &Seen| seen.facts.sees.as_ref().is_some_and(|sees| sees.contains(&other.facts.node.id));
    let count = |seen: &&Seen| look.nodes.iter().filter(|other| sees(seen, other)).count();
    // Of those that see the same number the first.
    let Some(right) = look.nodes.iter().rev().max_by_key(count) else { return Vec::new() };
    let mut findings = Vec::new();
    for seen in &look.nodes {
        if seen.facts.sees.is_none() {
            findings.push(Finding::unknown("members", "it can't read who else is there").on(&seen.label));
            continue;
        }
        let missing = look.nodes.iter().filter(|other| sees(right, other) && !sees(seen, other));
        let missing: Vec<&str> = missing.map(|other| other.label.as_str()).collect();
        let is_hidden = right.facts.sees.is_some() && !sees(right, seen);
        let found = match (is_hidden, missing.is_empty()) {
            (false, true) => {
                let nodes = seen.facts.sees.as_ref().map_or(0, Vec::len);
                Finding::ok("members", format!("it sees {nodes} nodes"))
            }
            (true, true) => Finding::error("members", "the others do not see it").advise(advice),
            (false, false) => {
                Finding::error("members", format!("it does not see {}", missing.join(", "))).advise(advice)
            }
            (true, false) => {
                Finding::error("members", format!("it and {} do not see each other", missing.join(", "))).advise(advice)
            }
        };
        findings.push(found.on(&seen.label));
    }
    let asked: Vec<&str> = look.nodes.iter().map(|seen| seen.facts.node.id.as_str()).collect();
    let mut others: Vec<&String> = look.nodes.iter().filter_map(|seen| seen.facts.sees.as_ref()).flatten().collect();
    others.sort_unstable();
    others.dedup();
    let others: Vec<_> = others.into_iter().filter(|id| !asked.contains(&id.as_str())).map(String::as_str).collect();
    // One that does not answer is told of already, and so is one that has just died: its lease is still there.
    if others.len() > look.silent.len() {
        findings.push(
            Finding::unknown("members", format!("these nodes were not asked: {}", others.join(", "))).advise(
                "name the admin listener of each with --admin-url; a node that has just ended is here for its lease",
            ),
        );
    }
    findings
}

/// Whether all nodes use the same Redis, and the same place in it.
fn store(look: &Look) -> Vec<Finding> {
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut libraries: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for seen in &look.nodes {
        let Some(redis) = &seen.facts.redis else {
            places.entry("a store of its own, in its memory".to_owned()).or_default().push(&seen.label);
            continue;
        };
        libraries.entry(&redis.library).or_default().push(&seen.label);
        // In a Redis Cluster any of its servers may answer.
        if let Some(id) = redis.info.get("run_id").filter(|_| redis.mode != "cluster") {
            places.entry(format!("database {} of Redis {}", redis.database, short(id))).or_default().push(&seen.label);
        }
    }
    let told = |groups: Vec<String>| groups.join("; ");
    let mut findings = Vec::new();
    if places.len() > 1 {
        let groups = places.iter().map(|(place, labels)| format!("{}: {place}", labels.join(", "))).collect();
        findings.push(
            Finding::error("one_store", format!("nodes keep their plans in {} places: {}", places.len(), told(groups)))
                .advise("give all nodes the same REDIS_URL, the database's number included: these are clusters of their own"),
        );
    } else if let Some(place) = places.keys().next() {
        findings.push(Finding::ok("one_store", place.clone()));
    }
    if libraries.len() > 1 {
        let groups = libraries.iter().map(|(library, labels)| format!("{}: {library}", labels.join(", "))).collect();
        findings.push(
            Finding::warning(
                "library",
                format!("nodes call {} versions of the library: {}", libraries.len(), told(groups)),
            )
            .advise("finish the upgrade: both work side by side, but not for ever"),
        );
    }
    findings
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Keys are compared by what the nodes think of one token.
fn tokens(look: &Look) -> Vec<Finding> {
    let verdict = |seen: &Seen| seen.facts.token.as_ref().map(|token| token.taken);
    if look.nodes.iter().all(|seen| verdict(seen).is_none()) {
        let how = "give any good token with --token: it is shown to each node, and whether all take it says whether their keys agree";
        return vec![Finding::unknown("keys", "there is no token to show to the nodes").advise(how)];
    }
    let is_taken = look.nodes.iter().any(|seen| verdict(seen) == Some(true));
    if !is_taken {
        let why = look.nodes.iter().find_map(|seen| seen.facts.token.as_ref()?.why.clone()).unwrap_or_default();
        return vec![
            Finding::unknown("keys", format!("no node takes the token that was shown to it: {why}")).advise(
                "show a good one with --token; on a local cluster, were nodes started with another JWT_SECRET?",
            ),
        ];
    }
    let judged = look.nodes.iter().map(|seen| match &seen.facts.token {
        Some(token) if token.taken => Finding::ok("keys", "it takes the token that was shown to it").on(&seen.label),
        Some(token) => {
            let why = token.why.as_deref().unwrap_or("it does not say why");
            Finding::error("keys", format!("it refuses a token that other nodes take: {why}")).on(&seen.label).advise(
                "give all nodes the same keys (JWT_SECRET, JWT_PUBLIC_KEY_FILE, JWKS_FILE, JWKS_URL), issuer and audience",
            )
        }
        None => Finding::unknown("keys", "it does not say what it thinks of the token").on(&seen.label),
    });
    judged.collect()
}

fn versions(look: &Look) -> Finding {
    let groups = grouped(look, |seen| Some(seen.facts.node.version.clone()));
    if groups.len() > 1 {
        return Finding::warning("version", told_by_value(&groups)).advise("finish the upgrade");
    }
    Finding::ok("version", groups.keys().next().cloned().unwrap_or_default())
}

fn settings(look: &Look) -> Vec<Finding> {
    let mut names: Vec<&String> = look.nodes.iter().flat_map(|seen| seen.facts.settings.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut findings = Vec::new();
    for name in names.into_iter().filter(|name| !MAY_DIFFER.contains(&name.as_str())) {
        let groups = grouped(look, |seen| seen.facts.settings.get(name).cloned());
        if groups.len() > 1 {
            findings.push(
                Finding::warning("settings", format!("{name} differs: {}", told_by_value(&groups)))
                    .advise(format!("give all nodes the same {name}: what is promised should not depend on the node")),
            );
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("settings", "the same where they should be"));
    }
    findings
}

/// Who has which value.
fn grouped(look: &Look, value: impl Fn(&Seen) -> Option<String>) -> BTreeMap<String, Vec<&str>> {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for seen in &look.nodes {
        if let Some(value) = value(seen) {
            groups.entry(value).or_default().push(&seen.label);
        }
    }
    groups
}

fn told_by_value(groups: &BTreeMap<String, Vec<&str>>) -> String {
    let value = |value: &str| if value.is_empty() { "nothing".to_owned() } else { value.to_owned() };
    groups.iter().map(|(of, labels)| format!("{} on {}", value(of), labels.join(", "))).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use mille_shared::facts::{Facts, RedisFacts, TokenFact};

    use super::super::finding::Status;
    use super::super::look::Knock;
    use super::*;

    /// A node that sees these, with a Redis whose clock is this far ahead of its own.
    fn seen(name: &str, sees: &[&str], redis_ahead_ms: f64) -> Seen {
        let id = |name: &&str| format!("{name}.1");
        let mut facts = Facts { sees: Some(sees.iter().map(id).collect()), ..Facts::default() };
        (facts.node.id, facts.node.name) = (id(&name), name.to_owned());
        facts.redis = Some(RedisFacts { clock_ahead_ms: Some(redis_ahead_ms), ..RedisFacts::default() });
        let knock = Knock::Node(facts.node.id.clone());
        Seen { label: name.to_owned(), facts, clock_ahead_ms: 0.0, knock }
    }

    fn wrong(look: &Look, check: &str) -> Vec<(Status, Option<String>)> {
        let found = judge(look).into_iter().filter(|finding| finding.name == check && finding.status != Status::Ok);
        found.map(|finding| (finding.status, finding.node)).collect()
    }

    fn on(node: &str) -> (Status, Option<String>) {
        (Status::Error, Some(node.to_owned()))
    }

    #[test]
    fn the_one_that_is_apart_is_blamed_and_not_the_others() {
        let nodes = vec![seen("c", &["c"], 0.0), seen("a", &["a", "b"], 0.0), seen("b", &["a", "b"], 0.0)];
        assert_eq!(wrong(&Look::of(nodes, Vec::new()), "members"), [on("c")]);
        let half_blind = vec![seen("a", &["a", "b"], 0.0), seen("b", &["b"], 0.0)];
        assert_eq!(wrong(&Look::of(half_blind, Vec::new()), "members"), [on("b")]);
    }

    #[test]
    fn whoever_can_not_read_who_is_there_does_not_know() {
        let mut blind = seen("b", &[], 0.0);
        blind.facts.sees = None;
        let look = Look::of(vec![seen("a", &["a", "b"], 0.0), blind], Vec::new());
        assert_eq!(wrong(&look, "members"), [(Status::Warning, Some("b".to_owned()))]);
    }

    #[test]
    fn a_node_that_was_not_asked_is_told_unless_it_is_the_one_that_does_not_answer() {
        let nodes = || vec![seen("a", &["a", "b"], 0.0)];
        assert_eq!(wrong(&Look::of(nodes(), Vec::new()), "members"), [(Status::Warning, None)]);
        let silent = vec![("b".to_owned(), "refused".to_owned())];
        assert_eq!(wrong(&Look::of(nodes(), silent), "members"), []);
    }

    #[test]
    fn of_the_clocks_the_one_far_from_the_middle_is_wrong() {
        let both = ["a", "b"];
        let of = |node_ahead_ms: f64, redis_ahead_ms: f64| {
            let (mut a, b) = (seen("a", &both, redis_ahead_ms), seen("b", &both, redis_ahead_ms));
            a.clock_ahead_ms = node_ahead_ms;
            // The same Redis seen from a clock that is ahead.
            a.facts.redis =
                Some(RedisFacts { clock_ahead_ms: Some(redis_ahead_ms - node_ahead_ms), ..RedisFacts::default() });
            Look::of(vec![a, b], Vec::new())
        };
        assert_eq!(wrong(&of(0.0, 0.0), "clock"), []);
        assert_eq!(wrong(&of(30_000.0, 0.0), "clock"), [on("a")]);
        assert_eq!(wrong(&of(-30_000.0, 0.0), "clock"), [on("a")]);
        assert_eq!(wrong(&of(1_500.0, 0.0), "clock"), [(Status::Warning, Some("a".to_owned()))]);
        assert_eq!(wrong(&of(0.0, 30_000.0), "clock"), [(Status::Error, None)], "Redis' own");
        let mut elsewhere = of(0.0, 0.0);
        elsewhere.nodes.iter_mut().for_each(|node| node.clock_ahead_ms = 30_000.0);
        assert_eq!(wrong(&elsewhere, "clock"), [(Status::Warning, None)], "the doctor's own");
    }

    #[test]
    fn a_token_that_all_refuse_says_nothing_of_their_keys() {
        let both = ["a", "b"];
        let of = |taken: [bool; 2]| {
            let nodes = ["a", "b"].into_iter().zip(taken).map(|(name, taken)| {
                let mut seen = seen(name, &both, 0.0);
                seen.facts.token = Some(TokenFact { taken, why: None });
                seen
            });
            Look::of(nodes.collect(), Vec::new())
        };
        assert_eq!(wrong(&of([true, true]), "keys"), []);
        assert_eq!(wrong(&of([true, false]), "keys"), [on("b")]);
        assert_eq!(wrong(&of([false, false]), "keys"), [(Status::Warning, None)]);
    }

    #[test]
    fn two_of_one_name_are_told_by_their_ids_and_one_that_was_named_twice_is_one() {
        let mut other = seen("a", &["a"], 0.0);
        other.facts.node.id = "a.2".to_owned();
        let look = Look::of(vec![seen("a", &["a"], 0.0), seen("a", &["a"], 0.0), other], Vec::new());
        assert_eq!(look.nodes.iter().map(|node| node.label.as_str()).collect::<Vec<_>>(), ["a.1", "a.2"]);
        assert_eq!(wrong(&look, "names"), [(Status::Error, None)]);
    }
}

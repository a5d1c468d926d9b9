//! Who serves which slots of a cluster: what several servers say, put together.
//!
//! A server that was cut off believes for a while what is past. So only those count that see a majority (`cluster_state:ok`);
//! of two that claim a slot, the one with the higher configuration epoch has it, as among the servers themselves; and what
//! a server that answers does not claim, nobody else may claim for it. A mistake that is left costs a MOVED.
//!
//! One that was cut off may also be the only one we hear. What is older than what was believed before counts for nothing, for as
//! long as somebody cut off may not have noticed; after that, the cluster's epochs have begun anew.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::access::Address;
use super::map::SLOTS;
use super::values::info_field;

/// How long older words than those that were believed count for nothing. Whoever is cut off says so itself after the time that
/// the servers allow each other, 15 s unless they are told otherwise.
const OLD_WORDS_REFUSED_FOR: Duration = Duration::from_secs(30);

/// Who serves which slots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Layout {
    /// Every primary, also those without a slot.
    pub(super) primaries: Vec<Address>,
    /// In which epoch each of them has its slots. It grows when one is given a slot, or takes another's place.
    pub(super) epochs: Vec<u64>,
    /// Other addresses of servers, as others may call them: by number where we call them by name, and the other way round.
    pub(super) aliases: BTreeMap<Address, Address>,
    /// Every server, replicas too: whom to ask when the primaries do not answer.
    pub(super) everyone: Vec<Address>,
    /// By slot, the primary's place among `primaries`.
    owners: Vec<Option<u16>>,
}

impl Layout {
    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        let place = self.owners.get(usize::from(slot)).copied().flatten()?;
        self.primaries.get(usize::from(place))
    }

    /// Primaries that have been given something since: a slot that they gave away before, perhaps.
    pub(super) fn grown_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Address> {
        let with_epochs = |layout: &'a Self| layout.primaries.iter().zip(&layout.epochs);
        let had: BTreeMap<&Address, &u64> = with_epochs(before).collect();
        with_epochs(self).filter(move |(at, epoch)| had.get(at).is_some_and(|had| had < epoch)).map(|(at, _)| at)
    }
}

/// What one server says.
#[derive(Debug)]
pub(super) struct Opinion {
    /// The newest epoch it has heard of.
    epoch: u64,
    /// Itself and all others it knows.
    servers: Vec<Described>,
}

/// A server, as one describes it.
#[derive(Debug)]
struct Described {
    id: String,
    address: Address,
    /// As it may be called as well.
    alias: Option<Address>,
    is_itself: bool,
    is_primary: bool,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

/// Which opinions count, by when they are of.
#[derive(Debug, Default)]
pub(super) struct Believed {
    /// The newest epoch of those that counted.
    epoch: u64,
    /// Since when there were only older ones.
    older_since: Option<Instant>,
}

impl Believed {
    /// Those that count.
    pub(super) fn fresh(&mut self, mut opinions: Vec<Opinion>, now: Instant) -> Vec<Opinion> {
        let Some(newest) = opinions.iter().map(|opinion| opinion.epoch).max() else { return opinions };
        if newest >= self.epoch {
            *self = Self { epoch: newest, older_since: None };
        } else if now.duration_since(*self.older_since.get_or_insert(now)) >= OLD_WORDS_REFUSED_FOR {
            tracing::warn!(epoch = newest, believed = self.epoch, "the cluster's epochs have begun anew");
            *self = Self { epoch: newest, older_since: None };
        }
        opinions.retain(|opinion| opinion.epoch >= self.epoch);
        opinions
    }
}

/// Reads the answers to `CLUSTER INFO` and `CLUSTER NODES` of the server at `asked`. `by_name`: servers are known by the names
/// they announce, if any, for the sake of their certificates. `None`: it sees no majority of the cluster.
pub(super) fn opinion(info: &str, nodes: &str, asked: &Address, by_name: bool) -> Option<Opinion> {
    let epoch = info_field(info, "cluster_current_epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
    let servers = nodes.lines().filter_map(|line| described(line, asked, by_name)).collect();
    (info_field(info, "cluster_state") == Some("ok")).then_some(Opinion { epoch, servers })
}

/// `<id> <ip:port@bus[,name[,…]]> <flags> <primary> <ping> <pong> <epoch> <link> <slot or range or [slot-moves]>…`
fn described(line: &str, asked: &Address, by_name: bool) -> Option<Described> {
    let mut words = line.split_whitespace();
    let (id, place, flags) = (words.next()?, words.next()?, words.next()?);
    let epoch = words.nth(3)?.parse().ok()?;
    let flags: Vec<&str> = flags.split(',').collect();
    let has = |flag: &str| flags.contains(&flag);
    if has("handshake") || has("noaddr") {
        return None;
    }
    let mut place = place.split(',');
    let mut address = Address::read(place.next()?.split('@').next()?, asked)?;
    let name = place.next().filter(|name| !name.is_empty() && !name.contains('='));
    let mut alias = name.map(|name| Address { host: name.into(), port: address.port });
    if let Some(alias) = alias.as_mut().filter(|_| by_name) {
        std::mem::swap(&mut address, alias);
    }
    let slots = words.skip(1).filter(|slot| !slot.starts_with('[')).filter_map(|slot| {
        let (first, last) = slot.split_once('-').unwrap_or((slot, slot));
        Some((first.parse().ok()?, last.parse().ok().filter(|last| *last < SLOTS)?))
    });
    Some(Described {
        id: id.to_owned(),
        address,
        alias,
        is_itself: has("myself"),
        is_primary: has("master") && !has("fail"),
        epoch,
        slots: slots.collect(),
    })
}

/// Puts opinions together. `None`: there are none.
pub(super) fn layout(opinions: &[Opinion]) -> Option<Layout> {
    let all = || opinions.iter().flat_map(|opinion| &opinion.servers);
    // What each server is: by its own word, or else by that of the others who has the newest.
    let mut known: BTreeMap<&str, &Described> = BTreeMap::new();
    for described in all() {
        let known = known.entry(&described.id).or_insert(described);
        if (described.is_itself, described.epoch) > (known.is_itself, known.epoch) {
            *known = described;
        }
    }
    let mut primaries: Vec<&Described> = known.values().copied().filter(|server| server.is_primary).collect();
    primaries.sort_by_key(|server| &server.address);
    let mut claims: Vec<Option<(u64, u16)>> = vec![None; usize::from(SLOTS)];
    for described in all() {
        let Some(place) = primaries.iter().position(|primary| primary.id == described.id) else { continue };
        if primaries[place].is_itself && !described.is_itself {
            continue;
        }
        for (first, last) in &described.slots {
            for claim in claims.iter_mut().take(usize::from(*last) + 1).skip(usize::from(*first)) {
                *claim = (*claim).max(u16::try_from(place).ok().map(|place| (described.epoch, place)));
            }
        }
    }
    let mut everyone: Vec<Address> = known.values().map(|server| server.address.clone()).collect();
    everyone.sort();
    (!primaries.is_empty()).then(|| Layout {
        primaries: primaries.iter().map(|server| server.address.clone()).collect(),
        epochs: primaries.iter().map(|server| server.epoch).collect(),
        aliases: known.values().filter_map(|server| Some((server.alias.clone()?, server.address.clone()))).collect(),
        everyone,
        owners: claims.into_iter().map(|claim| claim.map(|(_, place)| place)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address { host: "10.0.0.1".into(), port }
    }

    fn said_in(epoch: u64, nodes: &str) -> Opinion {
        let info = format!("cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_current_epoch:{epoch}\r\n");
        opinion(&info, nodes, &at(9), false).expect("it sees a majority")
    }

    fn said(nodes: &str) -> Opinion {
        said_in(0, nodes)
    }

    fn owners(opinions: &[Opinion], slots: &[u16]) -> Vec<Option<u16>> {
        let layout = layout(opinions).expect("a layout");
        slots.iter().map(|slot| layout.owner(*slot).map(|address| address.port)).collect()
    }

    const ONE: &str = "a 10.0.0.1:1@11 myself,master - 0 0 5 connected 0-99\n\
                       b 10.0.0.1:2@12,name master - 0 0 6 connected 100-199 300\n\
                       c 10.0.0.1:3@13 slave b 0 0 6 connected\n\
                       d :0@0 master,noaddr - 0 0 1 disconnected 400\n";

    #[test]
    fn one_opinion_is_enough() {
        let opinions = [said(ONE)];
        assert_eq!(
            owners(&opinions, &[0, 99, 100, 199, 200, 300, 400]),
            [Some(1), Some(1), Some(2), Some(2), None, Some(2), None]
        );
        let layout = layout(&opinions).expect("a layout");
        assert_eq!(layout.primaries, [at(1), at(2)]);
        assert_eq!(layout.everyone, [at(1), at(2), at(3)]);
        assert_eq!(super::layout(&[]), None);
    }

    #[test]
    fn of_two_that_claim_a_slot_the_newer_epoch_has_it() {
        // A failover that the first has not heard of.
        let other = "c 10.0.0.1:3@13 myself,master - 0 0 7 connected 100-199 300\n\
                     b 10.0.0.1:2@12 slave c 0 0 7 connected\n";
        for opinions in [[said(ONE), said(other)], [said(other), said(ONE)]] {
            assert_eq!(owners(&opinions, &[0, 150, 300]), [Some(1), Some(3), Some(3)]);
        }
    }

    #[test]
    fn nobody_claims_for_another_what_that_one_does_not() {
        // Slot 150 has moved to the first, and the second's epoch has grown since: a third still thinks the second has it.
        let first = "a 10.0.0.1:1@11 myself,master - 0 0 8 connected 0-99 150 [151-<-b]\n";
        let second = "b 10.0.0.1:2@12 myself,master - 0 0 9 connected 100-149 151-199 [151->-a]\n";
        let third = "c 10.0.0.1:3@13 myself,slave a 0 0 8 connected\n\
                     b 10.0.0.1:2@12 master - 0 0 9 connected 100-199\n";
        assert_eq!(owners(&[said(third), said(first), said(second)], &[150, 151]), [Some(1), Some(2)]);
    }

    #[test]
    fn servers_are_known_by_name_where_names_are_certified() {
        let address = |by_name| {
            let servers = opinion("cluster_state:ok", ONE, &at(9), by_name).expect("an opinion").servers;
            servers.iter().map(|server| server.address.host.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(address(false), ["10.0.0.1"; 3]);
        assert_eq!(address(true), ["10.0.0.1", "name", "10.0.0.1"]);
    }

    #[test]
    fn whoever_is_called_otherwise_is_known_all_the_same() {
        let named = Address { host: "name".into(), port: 2 };
        for (by_name, known, other) in [(false, at(2), named.clone()), (true, named, at(2))] {
            let opinion = opinion("cluster_state:ok", ONE, &at(9), by_name).expect("an opinion");
            let layout = layout(&[opinion]).expect("a layout");
            assert_eq!(layout.aliases, BTreeMap::from([(other, known)]));
        }
    }

    #[test]
    fn only_a_server_that_sees_a_majority_counts() {
        assert!(opinion("cluster_state:ok\r\n", ONE, &at(9), false).is_some());
        assert!(opinion("cluster_state:fail\r\n", ONE, &at(9), false).is_none());
    }

    #[test]
    fn what_is_older_than_what_was_believed_counts_for_nothing_until_it_is_all_there_is_for_long() {
        let began = Instant::now();
        let mut believed = Believed::default();
        let mut count = |seconds: u64, epochs: &[u64]| {
            let said = epochs.iter().map(|epoch| said_in(*epoch, ONE)).collect();
            believed.fresh(said, began + Duration::from_secs(seconds)).len()
        };
        assert_eq!(count(0, &[6, 7, 7]), 2);
        assert_eq!(count(1, &[6]), 0, "it was cut off");
        assert_eq!(count(20, &[6, 7]), 1);
        assert_eq!(count(40, &[]), 0);
        assert_eq!(count(41, &[6]), 0, "there was a newer one meanwhile");
        assert_eq!(count(70, &[6]), 0);
        assert_eq!(count(71, &[2, 2]), 2, "the epochs have begun anew");
        assert_eq!(count(72, &[1, 2]), 1);
    }

    #[test]
    fn a_primary_that_was_given_something_is_told() {
        let before = layout(&[said(ONE)]).expect("a layout");
        let given = ONE.replace("myself,master - 0 0 5", "myself,master - 0 0 7");
        let after = layout(&[said(&given)]).expect("a layout");
        assert_eq!(after.grown_since(&before).collect::<Vec<_>>(), [&at(1)]);
        assert_eq!(before.grown_since(&after).count(), 0);
    }
}

//! Which server serves which slots, as it is known now.
//!
//! A value, exchanged as a whole: whoever looks a key up takes no lock and sees one state of things.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::access::Address;
use super::keys;
use super::server::Server;
use crate::backend::Shard;

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;
/// In a table: no server.
const NOBODY: u16 = u16::MAX;

/// Which server serves which slots.
pub(super) struct Map {
    servers: Vec<Arc<Server>>,
    /// By slot, the index of a server. Absent: the first one serves all.
    table: Option<Box<[u16]>>,
    /// The lowest slot of each server that has one.
    shards: Vec<Shard>,
    /// Other addresses of servers.
    aliases: BTreeMap<Address, Address>,
}

impl Map {
    /// One server for everything.
    pub(super) fn single(server: Arc<Server>) -> Self {
        Self { servers: vec![server], table: None, shards: vec![Shard::ONLY], aliases: BTreeMap::new() }
    }

    /// Several servers; `owner` names the one of each slot, and `aliases` are what others may call them.
    pub(super) fn sharded(
        servers: Vec<Arc<Server>>,
        owner: impl Fn(u16) -> Option<Address>,
        aliases: BTreeMap<Address, Address>,
    ) -> Self {
        let numbers: HashMap<&Address, u16> = servers.iter().map(|server| &server.address).zip(0..NOBODY).collect();
        let table: Box<[u16]> =
            (0..SLOTS).map(|slot| owner(slot).and_then(|at| numbers.get(&at).copied()).unwrap_or(NOBODY)).collect();
        let shards = shards(&table);
        Self { servers, table: Some(table), shards, aliases }
    }

    /// The server of a key or channel.
    pub(super) fn at(&self, name: &str) -> Option<&Arc<Server>> {
        match &self.table {
            None => self.servers.first(),
            Some(_) => self.at_slot(keys::slot(name)),
        }
    }

    /// The server of a slot.
    pub(super) fn at_slot(&self, slot: u16) -> Option<&Arc<Server>> {
        self.servers.get(usize::from(self.number_at(slot)))
    }

    /// The server at an address, or that is called so by others.
    pub(super) fn server(&self, address: &Address) -> Option<&Arc<Server>> {
        let address = self.aliases.get(address).unwrap_or(address);
        self.servers.iter().find(|server| server.address == *address)
    }

    /// All servers that are connected, also those that have no slots.
    pub(super) fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard of a key or channel.
    pub(super) fn shard_of(&self, name: &str) -> Option<Shard> {
        if self.table.is_none() {
            return Some(Shard::ONLY);
        }
        let number = self.number_at(keys::slot(name));
        self.shards.iter().copied().find(|shard| number != NOBODY && self.number_at(shard.0) == number)
    }

    /// Whether both say the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Arc<Server>, &Arc<Server>)| Arc::ptr_eq(one, other);
        self.table == other.table
            && self.aliases == other.aliases
            && self.servers.len() == other.servers.len()
            && self.servers.iter().zip(&other.servers).all(is_same)
    }

    /// How many slots a server has; none where there are no slots.
    pub(super) fn slots_of(&self, server: &Arc<Server>) -> u32 {
        let number = self.servers.iter().zip(0_u16..).find(|(known, _)| Arc::ptr_eq(known, server));
        let count = |table: &[u16], number: u16| table.iter().filter(|at| **at == number).count();
        let slots = self.table.as_ref().zip(number).map(|(table, (_, number))| count(table, number));
        slots.and_then(|slots| u32::try_from(slots).ok()).unwrap_or_default()
    }

    /// How many slots nobody is known to serve.
    pub(super) fn uncovered(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.iter().filter(|number| **number == NOBODY).count())
    }

    fn number_at(&self, slot: u16) -> u16 {
        self.table.as_ref().map_or(0, |table| table.get(usize::from(slot)).copied().unwrap_or(NOBODY))
    }
}

/// The lowest slot of each server, in their order.
fn shards(table: &[u16]) -> Vec<Shard> {
    let mut seen = Vec::new();
    let mut shards = Vec::new();
    for (slot, number) in (0..).zip(table) {
        if *number != NOBODY && !seen.contains(number) {
            seen.push(*number);
            shards.push(Shard(slot));
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_named_by_its_lowest_slot() {
        assert_eq!(shards(&[NOBODY, 1, 1, 0, 1, 2, NOBODY]), [Shard(1), Shard(3), Shard(5)]);
        assert!(shards(&[NOBODY; 3]).is_empty());
    }
}

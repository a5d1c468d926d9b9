//! The hash chain that ties a log's entries together.
//!
//! Each entry's hash covers the hash before it, its own place and its payload, so one hash stands for a whole history.
//! After a failover that lost the end of a log, other changes may get the same numbers, or the same changes others; the
//! hashes differ, and whoever reads the next entry knows.

use mille_shared::Revision;
use mille_shared::log::ChainHash;
use sha2::{Digest, Sha256};

/// The hash of the entry that follows `previous`, stands at `revision` and carries `payload`: the first 64 bits of
/// SHA-256(previous ‖ epoch ‖ seq ‖ payload), numbers as 64 bits, most significant first.
#[must_use]
pub fn link(previous: ChainHash, revision: Revision, payload: &str) -> ChainHash {
    let digest = Sha256::new()
        .chain_update(previous.0)
        .chain_update(revision.epoch.to_be_bytes())
        .chain_update(revision.seq.to_be_bytes())
        .chain_update(payload.as_bytes())
        .finalize();
    let mut hash = [0; 8];
    hash.copy_from_slice(&digest[..8]);
    ChainHash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_payload_in_another_history_has_another_hash() {
        let place = |epoch, seq| Revision { epoch, seq };
        let one = link(ChainHash::ROOT, place(1, 0), "a");
        let other = link(ChainHash::ROOT, place(1, 0), "b");
        assert_ne!(one, other);
        assert_ne!(link(one, place(1, 1), "c"), link(other, place(1, 1), "c"));
        assert_ne!(link(one, place(1, 1), "c"), link(one, place(2, 1), "c"), "the same change in another epoch");
        assert_eq!(link(one, place(1, 1), "c"), link(link(ChainHash::ROOT, place(1, 0), "a"), place(1, 1), "c"));
    }
}

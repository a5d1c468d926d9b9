//! The hash chain that ties a log's entries together.
//!
//! Each entry's hash covers the hash before it and its own payload, so one hash stands for a whole history. After a
//! failover that lost the end of a log, other changes may get the same numbers; their hashes differ, and whoever reads
//! the next entry knows.

use mille_shared::log::ChainHash;
use sha2::{Digest, Sha256};

/// The hash of the entry that follows `previous` and carries `payload`: the first 64 bits of
/// SHA-256(previous ‖ payload).
#[must_use]
pub fn link(previous: ChainHash, payload: &str) -> ChainHash {
    let digest = Sha256::new().chain_update(previous.0).chain_update(payload.as_bytes()).finalize();
    let mut hash = [0; 8];
    hash.copy_from_slice(&digest[..8]);
    ChainHash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_payload_in_another_history_has_another_hash() {
        let one = link(ChainHash::ROOT, "a");
        let other = link(ChainHash::ROOT, "b");
        assert_ne!(one, other);
        assert_ne!(link(one, "c"), link(other, "c"));
        assert_eq!(link(one, "c"), link(link(ChainHash::ROOT, "a"), "c"));
    }
}

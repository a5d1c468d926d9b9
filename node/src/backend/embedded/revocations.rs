//! Revocations in memory.

use std::collections::HashMap;

use async_trait::async_trait;
use mille_shared::revocation::{Revocation, Revoked};
use mille_shared::{Timestamp, limits};

use super::{Store, lock};
use crate::backend::{Result, Revocations};

/// Per token or user, since when its tokens count no more, and when that is forgotten.
pub(super) type RevocationTable = HashMap<Revoked, (Timestamp, Timestamp)>;

#[async_trait]
impl Revocations for Store {
    async fn revoke(&self, revocation: &Revocation, until: Timestamp) -> Result<bool> {
        let now = self.now();
        let mut table = lock(&self.revocations);
        table.retain(|_, (_, end)| *end > now);
        let (at, end) = match table.get(&revocation.what) {
            Some((at, end)) => (revocation.at.max(*at), until.max(*end)),
            None if table.len() >= limits::REVOCATIONS_MAX => return Ok(false),
            None => (revocation.at, until),
        };
        table.insert(revocation.what.clone(), (at, end));
        Ok(true)
    }

    async fn list(&self) -> Result<Vec<(Revocation, Timestamp)>> {
        let now = self.now();
        let table = lock(&self.revocations);
        let held = table.iter().filter(|(_, (_, end))| *end > now);
        Ok(held.map(|(what, (at, end))| (Revocation { what: what.clone(), at: *at }, *end)).collect())
    }
}

impl Store {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(i64::try_from(self.clock.unix_ms()).unwrap_or(i64::MAX))
    }
}

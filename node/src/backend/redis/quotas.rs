//! Quotas in Redis: per user a bucket of operations, and a hash of who holds how many places.

use std::time::Duration;

use async_trait::async_trait;
use fred::types::Value;
use mille_shared::{NodeId, UserId};

use super::functions::{PLACES_HOLD, QUOTA_TAKE};
use super::keys;
use super::presence::millis;
use super::route::Redis;
use super::values::corrupt;
use crate::backend::{OperationsLease, PlacesClaim, Quotas, Result};

#[async_trait]
impl Quotas for Redis {
    async fn lease_operations(
        &self,
        user: &UserId,
        per_second: u32,
        burst: u32,
        asked: u32,
    ) -> Result<OperationsLease> {
        let args = [per_second, burst, asked].map(number).to_vec();
        let answer = self.call(QUOTA_TAKE, vec![keys::bucket(user)], args).await?.into_array();
        let numbers: Vec<_> = answer.iter().map(Value::as_u64).collect();
        match numbers[..] {
            [Some(0), Some(wait_ms)] => Ok(OperationsLease::None { retry_after: Duration::from_millis(wait_ms) }),
            [Some(granted), Some(_)] => {
                u32::try_from(granted).map(OperationsLease::Some).map_err(|_| corrupt("a lease"))
            }
            _ => Err(corrupt("a lease")),
        }
    }

    async fn hold_places(&self, user: &UserId, node: &NodeId, claim: PlacesClaim) -> Result<u32> {
        let PlacesClaim { wanted, kept, max, ttl } = claim;
        let args = vec![node.as_str().into(), number(wanted), number(kept), number(max), millis(ttl)];
        let held = self.call(PLACES_HOLD, vec![keys::places(user)], args).await?;
        held.as_u64().and_then(|held| u32::try_from(held).ok()).ok_or_else(|| corrupt("a number of places"))
    }
}

fn number(number: u32) -> Value {
    i64::from(number).into()
}

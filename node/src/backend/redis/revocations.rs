//! Revocations in Redis: a sorted set that knows when each is forgotten, and a hash that knows since when it counts.

use std::sync::Arc;

use async_trait::async_trait;
use fred::types::Value;
use mille_shared::revocation::{Revocation, Revoked};
use mille_shared::{Timestamp, TokenId, UserId, limits};

use super::functions::{REVOKE, REVOKED};
use super::keys;
use super::route::Redis;
use super::values::{corrupt, parse, parsed, text};
use crate::backend::{Result, Revocations};

const TOKEN: &str = "token";
const USER: &str = "user";
/// The cursor before the first page, and behind the last.
const FIRST: &str = "0";

#[async_trait]
impl Revocations for Redis {
    async fn revoke(&self, revocation: &Revocation, until: Timestamp) -> Result<bool> {
        let args = [
            name(&revocation.what),
            revocation.at.unix_ms.to_string(),
            until.unix_ms.to_string(),
            limits::REVOCATIONS_MAX.to_string(),
        ];
        let kept = self.call(REVOKE, both(), args.map(Value::from).into()).await?;
        Ok(kept.as_i64() == Some(1))
    }

    async fn list(&self) -> Result<Vec<(Revocation, Timestamp)>> {
        let (mut all, mut cursor) = (Vec::new(), Arc::<str>::from(FIRST));
        loop {
            let args = vec![Value::from(&*cursor)];
            let page = self.call_read_only(REVOKED, both(), args, None).await?.into_array();
            let Some((next, records)) = page.split_first() else { return Err(corrupt("the revocations")) };
            for record in records.chunks(3) {
                all.push(read(record)?);
            }
            cursor = text(next, "a cursor")?;
            if &*cursor == FIRST {
                return Ok(all);
            }
        }
    }
}

fn read(record: &[Value]) -> Result<(Revocation, Timestamp)> {
    let [name, at, until] = record else { return Err(corrupt("a revocation")) };
    let what = what(&text(name, "a revocation")?)?;
    let at = Timestamp::from_unix_ms(parsed(at, "a revocation's moment")?);
    Ok((Revocation { what, at }, end(until)?))
}

fn both() -> Vec<String> {
    vec![keys::REVOCATIONS.to_owned(), keys::REVOKED_AT.to_owned()]
}

fn name(what: &Revoked) -> String {
    match what {
        Revoked::Token(id) => format!("{TOKEN} {id}"),
        Revoked::User(id) => format!("{USER} {id}"),
    }
}

fn what(name: &str) -> Result<Revoked> {
    match name.split_once(' ') {
        Some((TOKEN, id)) => Ok(Revoked::Token(TokenId::new(id))),
        Some((USER, id)) => Ok(Revoked::User(UserId::new(id))),
        _ => Err(corrupt("what a revocation names")),
    }
}

/// A score as Redis writes it: large ones may be `1.7e+12`.
fn end(score: &Value) -> Result<Timestamp> {
    let ms: f64 = parse(&text(score, "a revocation's end")?, "a revocation's end")?;
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and whole milliseconds are exact for ages")]
    Ok(Timestamp::from_unix_ms(ms as i64))
}

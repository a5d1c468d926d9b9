//! Revoking tokens, for those who steer the cluster.

use async_graphql::{Context, Object};
use mille_shared::revocation::Revoked;
use mille_shared::{ErrorCode, LimitName, Timestamp, TokenId, UserId, limits};

use super::weights::WRITE;
use super::{codes, guard};
use crate::gateway::auth::{RevokeError, Revoker};
use crate::gateway::errors::ApiError;

/// Changes of what tokens are worth.
#[derive(Default)]
pub(super) struct TokenMutations;

#[Object]
impl TokenMutations {
    /// Revokes tokens: one by its id (`jti`), or all that a user has. Of a user, tokens issued (`iat`) at or before now count
    /// no more, by this node's clock; tokens issued later do. Their sockets close (4403) and their streams end on every node.
    /// Needs the scope `admin`, else `FORBIDDEN`. `LIMIT_EXCEEDED` when too many revocations are kept already.
    #[graphql(complexity = "WRITE")]
    async fn revoke_tokens(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Whose tokens. Either this or `tokenId`.")] user_id: Option<String>,
        #[graphql(desc = "Which token.")] token_id: Option<String>,
        #[graphql(desc = "When the last of these tokens expires, RFC 3339, so that the revocation need not be kept \
                          longer. Left out: it is kept for as long as the cluster is configured to.")]
        expires_at: Option<String>,
    ) -> Result<bool, ApiError> {
        guard::admin(ctx)?;
        let what = match (user_id, token_id) {
            (Some(user), None) => Revoked::User(UserId::parse(&user)?),
            (None, Some(token)) => Revoked::Token(TokenId::parse(&token)?),
            _ => return Err(codes::invalid("give either userId or tokenId")),
        };
        let expires_at = expires_at.map(|text| parse_time(&text)).transpose()?;
        let missing = || ApiError::new(ErrorCode::InternalError, "the schema was built without a revoker");
        ctx.data_opt::<Revoker>().ok_or_else(missing)?.revoke(what, expires_at).await?;
        Ok(true)
    }
}

fn parse_time(text: &str) -> Result<Timestamp, ApiError> {
    Timestamp::parse(text).ok_or_else(|| codes::invalid("expiresAt is written in RFC 3339"))
}

impl From<RevokeError> for ApiError {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Full => Self::met(ErrorCode::LimitExceeded, LimitName::Revocations, limits::REVOCATIONS_MAX),
            RevokeError::Expired => codes::invalid(error.to_string()),
            RevokeError::Store(error) => codes::unavailable(error.to_string()),
        }
    }
}

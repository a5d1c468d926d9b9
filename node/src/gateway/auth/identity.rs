//! Who a token says its bearer is.

use mille_shared::{TokenId, UserId};

/// A user as a good token describes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The token's `sub`.
    pub user_id: UserId,
    /// The name to show, if the token has one.
    pub name: Option<String>,
    /// The colour to show, if the token has one.
    pub color: Option<String>,
    /// Whether this is a program rather than a person.
    pub agent: bool,
    /// What the bearer may do beyond their projects.
    pub scopes: Scopes,
    /// The token's `exp`, in seconds since 1970. The leeway comes on top.
    pub expires_at: u64,
    /// The token's `iat`, in whole seconds since 1970, if it has one.
    pub issued_at: Option<u64>,
    /// The token's `jti`, if it has one.
    pub token_id: Option<TokenId>,
}

/// What a bearer may do beyond their projects. Scopes that mean nothing to us are not kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes {
    /// May see and steer the cluster.
    pub admin: bool,
    /// May report execution.
    pub executor: bool,
}

impl Scopes {
    /// Reads a `scope` claim: words separated by spaces.
    #[must_use]
    pub fn parse(claim: &str) -> Self {
        claim.split_ascii_whitespace().fold(Self::default(), |scopes, word| match word {
            "admin" => Self { admin: true, ..scopes },
            "executor" => Self { executor: true, ..scopes },
            _ => scopes,
        })
    }

    /// The scopes' names.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [(self.admin, "admin"), (self.executor, "executor")]
            .into_iter()
            .filter_map(|(has, name)| has.then_some(name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_a_whole_word() {
        assert_eq!(Scopes::parse("openid  executor").names(), ["executor"]);
        assert_eq!(Scopes::parse("administrator Admin admin,executor"), Scopes::default());
        assert_eq!(Scopes::parse("executor admin").names(), ["admin", "executor"]);
    }
}

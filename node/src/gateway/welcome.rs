//! What `--dev` prints: where to go, with a token that opens the doors if its secret is known to nobody else. Who gave the secret
//! signs their own, and finds none in what may be a log.

use std::fmt::Write;
use std::net::SocketAddr;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::auth;

/// The user of the printed links; also the owner of the project that a lone development node begins with.
pub const DEV_USER: &str = "dev";
/// How long the printed token is good.
const TOKEN_SECONDS: u64 = 12 * 60 * 60;

/// The text. `is_tls`: whether clients speak TLS to the node. `secret`: the node's own. `project` is the one to try, if there is
/// one.
#[must_use]
pub fn text(listen: SocketAddr, is_tls: bool, admin: SocketAddr, secret: Option<&str>, project: Option<i32>) -> String {
    let (http, ws) = if is_tls { ("https", "wss") } else { ("http", "ws") };
    let token = secret.and_then(token);
    let shown = token.as_deref().unwrap_or("<token>");
    let mut text = String::new();
    let _ = writeln!(text, "\n  DEVELOPMENT MODE: do not run this where others can reach it.\n");
    let _ = writeln!(text, "  GraphiQL   {http}://{listen}/graphql");
    let _ = writeln!(text, "  GraphQL    {http}://{listen}/graphql  {ws}://{listen}/graphql/ws");
    if let Some(project) = project {
        let _ = writeln!(text, "  Presence   {ws}://{listen}/ws/collaboration?project_id={project}&token={shown}");
    }
    let _ = writeln!(text, "  Probes     http://{admin}/readyz?verbose  http://{admin}/metrics");
    let _ = writeln!(text, "\n  Header     {{\"Authorization\": \"Bearer {shown}\"}}");
    if token.is_none() {
        let _ = writeln!(
            text,
            "  Token      one that is signed with your own key; in a local cluster: mille token --user {DEV_USER}"
        );
    }
    if let Some(project) = project {
        let _ = writeln!(
            text,
            "  Try        subscription {{ planDagDeltaChanged(projectId: {project}, snapshot: true) {{ revision operations {{ op path value }} }} }}"
        );
    }
    text
}

fn token(secret: &str) -> Option<String> {
    let claims = json!({
        "sub": DEV_USER,
        "name": "Developer",
        "scope": "admin executor",
        "jti": uuid::Uuid::new_v4().simple().to_string(),
        "iat": auth::unix_seconds(),
        "exp": auth::unix_seconds() + TOKEN_SECONDS,
    });
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_only_of_a_secret_that_is_the_nodes_own() {
        let here = SocketAddr::from(([127, 0, 0, 1], 4001));
        let own = text(here, false, here, Some("a secret of at least thirty-two bytes"), Some(7));
        assert!(own.contains("Bearer eyJ") && own.contains("project_id=7&token=eyJ"), "{own}");
        let given = text(here, true, here, None, Some(7));
        assert!(
            !given.contains("eyJ") && given.contains("DEVELOPMENT MODE") && given.contains("mille token"),
            "{given}"
        );
        assert!(given.contains("wss://127.0.0.1:4001/ws/collaboration?project_id=7&token=<token>"), "{given}");
    }
}

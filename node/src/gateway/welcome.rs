//! What `--dev` prints: where to go, with a token that opens the doors.

use std::fmt::Write;
use std::net::SocketAddr;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::auth;

/// The user of the printed links; also the owner of the project that a lone development node begins with.
pub const DEV_USER: &str = "dev";
/// How long the printed token is good.
const TOKEN_SECONDS: u64 = 12 * 60 * 60;

/// The text. `is_tls`: whether clients speak TLS to the node. `project` is the one to try, if there is one.
#[must_use]
pub fn text(listen: SocketAddr, is_tls: bool, admin: SocketAddr, secret: &str, project: Option<i32>) -> Option<String> {
    let (http, ws) = if is_tls { ("https", "wss") } else { ("http", "ws") };
    let claims = json!({
        "sub": DEV_USER,
        "name": "Developer",
        "scope": "admin executor",
        "jti": uuid::Uuid::new_v4().simple().to_string(),
        "iat": auth::unix_seconds(),
        "exp": auth::unix_seconds() + TOKEN_SECONDS,
    });
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).ok()?;
    let mut text = String::new();
    let _ = writeln!(text, "\n  DEVELOPMENT MODE: do not run this where others can reach it.\n");
    let _ = writeln!(text, "  GraphiQL   {http}://{listen}/graphql");
    let _ = writeln!(text, "  GraphQL    {http}://{listen}/graphql  {ws}://{listen}/graphql/ws");
    if let Some(project) = project {
        let _ = writeln!(text, "  Presence   {ws}://{listen}/ws/collaboration?project_id={project}&token={token}");
    }
    let _ = writeln!(text, "  Probes     http://{admin}/readyz?verbose  http://{admin}/metrics");
    let _ = writeln!(text, "\n  Header     {{\"Authorization\": \"Bearer {token}\"}}");
    if let Some(project) = project {
        let _ = writeln!(
            text,
            "  Try        subscription {{ planDagDeltaChanged(projectId: {project}, snapshot: true) {{ revision operations {{ op path value }} }} }}"
        );
    }
    Some(text)
}

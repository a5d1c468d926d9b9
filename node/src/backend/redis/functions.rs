//! The function library: loading it, and calling what is in it.
//!
//! A server that was replaced or emptied has no library. Then a call fails before anything ran, so it is safe to load
//! the library there and repeat the call once: see `route`.

use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{FredResult, FunctionInterface};
use fred::types::Value;
use tokio::sync::Semaphore;

use super::route::Redis;
use super::server::Way;
use super::server_code;
use crate::backend::{Lane, Result};

const LIBRARY: &str = include_str!("library.lua");
/// Its name there, which carries its version.
pub(super) const LIBRARY_NAME: &str = "mille_v8";
/// What a server says that does not have the library. The client library gives it no kind of its own.
const MISSING: &str = "Function not found";
/// How the refusal of a server begins whose memory is full.
const FULL: &str = "OOM";

/// A function of the library.
#[derive(Debug, Clone, Copy)]
pub(super) struct Function(pub(super) &'static str);

pub(super) const CREATE: Function = Function("mille_v8_create");
pub(super) const HEADS: Function = Function("mille_v8_heads");
pub(super) const COMMIT: Function = Function("mille_v8_commit");
pub(super) const REVIVE: Function = Function("mille_v8_revive");
pub(super) const CONFIRM: Function = Function("mille_v8_confirm");
pub(super) const NOTE_UNCHANGED: Function = Function("mille_v8_note_unchanged");
pub(super) const SNAPSHOT_STORE: Function = Function("mille_v8_snapshot_store");
pub(super) const SNAPSHOT_LOAD: Function = Function("mille_v8_snapshot_load");
pub(super) const PROJECT_CREATE: Function = Function("mille_v8_project_create");
pub(super) const PROJECT_DELETE: Function = Function("mille_v8_project_delete");
pub(super) const PROJECTS_READ: Function = Function("mille_v8_projects_read");
pub(super) const PLAN_ADD: Function = Function("mille_v8_plan_add");
pub(super) const MEMBER_SET: Function = Function("mille_v8_member_set");
pub(super) const MEMBER_REMOVE: Function = Function("mille_v8_member_remove");
pub(super) const PRESENCE_PUT: Function = Function("mille_v8_presence_put");
pub(super) const PRESENCE_RENEW: Function = Function("mille_v8_presence_renew");
pub(super) const LEASE_RENEW: Function = Function("mille_v8_lease_renew");
pub(super) const REVOKE: Function = Function("mille_v8_revoke");
pub(super) const REVOKED: Function = Function("mille_v8_revoked");
pub(super) const QUOTA_TAKE: Function = Function("mille_v8_quota_take");
pub(super) const PLACES_HOLD: Function = Function("mille_v8_places_hold");

/// Whose text of the library a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// Ours.
    Ours,
    /// That of whoever loaded it last, perhaps a node of another build: its functions promise the same.
    Somebodys,
}

/// Gives the server our library, in place of the same version of it that it may have. One whose memory is full takes none; it
/// serves as well if it has one.
pub(super) async fn load(client: &Client) -> FredResult<Text> {
    let refused = match client.function_load::<Value, _>(true, LIBRARY).await {
        Ok(_) => return Ok(Text::Ours),
        Err(error) => error,
    };
    if server_code(&refused) != Some(FULL) {
        return Err(refused);
    }
    let answer = client.fcall_ro::<Value, _, _, _>(HEADS.0, Vec::<String>::new(), Vec::<Value>::new()).await;
    answer.map(|_| Text::Somebodys).map_err(|_| refused)
}

/// Whether a call failed because the server does not have the library.
pub(super) fn is_missing(error: &FredError) -> bool {
    error.details().contains(MISSING)
}

impl Redis {
    /// Calls a function on the command connection. There is a key at least.
    pub(super) async fn call(&self, function: Function, keys: Vec<String>, args: Vec<Value>) -> Result<Value> {
        let call = |client: Client| {
            let (keys, args) = (keys.clone(), args.clone());
            async move { client.fcall(function.0, keys, args).await }
        };
        self.send(function.0, first(&keys), call).await
    }

    /// Calls a function that writes nothing, on the command connection. With `room`, so many at a time as that has, without
    /// those that wait to be sent on.
    pub(super) async fn call_read_only(
        &self,
        function: Function,
        keys: Vec<String>,
        args: Vec<Value>,
        room: Option<&Semaphore>,
    ) -> Result<Value> {
        let call = |client: Client| {
            let (keys, args) = (keys.clone(), args.clone());
            async move { client.fcall_ro(function.0, keys, args).await }
        };
        self.go(Way::Commands, function.0, first(&keys), call, room).await
    }

    /// Calls a function with or for something large, on one of the lane's connections.
    pub(super) async fn call_aside(
        &self,
        lane: Lane,
        function: Function,
        keys: Vec<String>,
        args: Vec<Value>,
    ) -> Result<Value> {
        let call = |client: Client| {
            let (keys, args) = (keys.clone(), args.clone());
            async move { client.fcall(function.0, keys, args).await }
        };
        self.aside(lane, function.0, first(&keys), call).await
    }
}

/// The key by which a call finds its server: all of them are of one slot.
fn first(keys: &[String]) -> &str {
    keys.first().map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use fred::error::ErrorKind;

    use super::*;

    #[test]
    fn every_function_that_is_called_is_in_the_library() {
        let called = [
            CREATE,
            HEADS,
            COMMIT,
            CONFIRM,
            REVIVE,
            NOTE_UNCHANGED,
            SNAPSHOT_STORE,
            SNAPSHOT_LOAD,
            PROJECT_CREATE,
            PROJECT_DELETE,
            PROJECTS_READ,
            PLAN_ADD,
            MEMBER_SET,
            MEMBER_REMOVE,
            PRESENCE_PUT,
            PRESENCE_RENEW,
            LEASE_RENEW,
            REVOKE,
            REVOKED,
            QUOTA_TAKE,
            PLACES_HOLD,
        ];
        for function in called {
            assert!(LIBRARY.contains(&format!("'{}'", function.0)), "{function:?}");
        }
        assert_eq!(LIBRARY.matches("\nregister('").count(), called.len());
    }

    /// What the contract suite does not use must not be allowed either, and the suite runs as this user.
    #[test]
    fn the_shipped_user_of_the_nodes_may_do_nothing_that_no_node_does() {
        const OF_THE_CONNECTION: [&str; 11] = [
            "hello",
            "auth",
            "ping",
            "info",
            "client|setname",
            "client|id",
            "function|load",
            "fcall",
            "fcall_ro",
            "publish",
            "sunsubscribe",
        ];
        let sent = [
            include_str!("confirm.rs"),
            include_str!("directory.rs"),
            include_str!("leases.rs"),
            include_str!("line.rs"),
            include_str!("log.rs"),
            include_str!("presence.rs"),
            include_str!("pubsub.rs"),
            include_str!("server.rs"),
            include_str!("topology.rs"),
        ]
        .concat();
        let users = include_str!("../../../../ops/redis-users.acl");
        let rules = users.split("user mille ").nth(1).and_then(|rest| rest.split("\n#").next()).unwrap_or_default();
        let granted: Vec<_> = rules.split_whitespace().filter_map(|word| word.strip_prefix('+')).collect();
        assert!(granted.len() > OF_THE_CONNECTION.len() && rules.contains(" -@all"), "{granted:?}");
        for command in granted {
            // A command of two words is sent as one with an argument.
            let words = command.replace('|', "\", &[\"");
            let is_used = OF_THE_CONNECTION.contains(&command)
                || LIBRARY.contains(&format!("redis.call('{}'", command.to_uppercase()))
                || LIBRARY.contains(&format!("redis.pcall('{}'", command.to_uppercase()))
                || sent.contains(&format!("(\"{words}\""))
                || sent.contains(&format!(", \"{words}\""));
            assert!(is_used, "{command} is allowed, and who sends it?");
        }
    }

    #[test]
    fn the_library_publishes_in_the_form_that_nodes_read() {
        assert!(LIBRARY.contains(&format!("local ENVELOPE = '{}'", crate::backend::envelope::TAG)));
    }

    #[test]
    fn the_library_has_the_name_that_is_told() {
        assert!(LIBRARY.starts_with(&format!("#!lua name={LIBRARY_NAME}\n")));
    }

    #[test]
    fn a_missing_function_is_recognised() {
        let error = FredError::new(ErrorKind::Unknown, "ERR Function not found");
        assert!(is_missing(&error));
    }
}

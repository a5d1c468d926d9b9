//! The shipped users of Redis, for servers of a test: nodes, replicas and sentinels get the rights they are shipped with
//! and no more. The test itself comes without a name and may do everything.

/// Who the nodes are.
pub const NODES_USER: &str = "mille";
/// What the nodes show.
pub const NODES_PASSWORD: &str = "nodes-of-a-test";
/// What replicas show to whom they follow.
pub(super) const REPLICAS_PASSWORD: &str = "replicas-of-a-test";
/// What sentinels show to the servers they watch.
pub(super) const SENTINELS_PASSWORD: &str = "sentinels-of-a-test";

/// What a sentinel wants to be shown, if anything, by nodes and by other sentinels.
pub(super) const SENTINELS_OWN_PASSWORD: &str = "asked-by-sentinels-of-a-test";

/// The name of the file that a server reads them from.
pub(super) const FILE: &str = "users.acl";

/// That file.
pub(super) fn file() -> String {
    let shipped = include_str!("../../../ops/redis-users.acl");
    let lines = shipped.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    // A line that begins with a blank goes on with the one before.
    let text = lines.collect::<Vec<_>>().join("\n").replace("\n ", " ");
    let users = text
        .replace("@NODES@", &format!(">{NODES_PASSWORD}"))
        .replace("@REPLICAS@", &format!("on >{REPLICAS_PASSWORD}"))
        .replace("@SENTINELS@", &format!("on >{SENTINELS_PASSWORD}"))
        .replace("@OPERATOR@", "off");
    let users = users.lines().filter(|line| !line.starts_with("user default "));
    users.chain(["user default on nopass ~* &* +@all"]).map(|line| format!("{line}\n")).collect()
}

/// Lines of a store's configuration with which it lets these users in, and follows others as one of them.
pub(super) fn settings() -> [String; 3] {
    [format!("aclfile {FILE}"), "masteruser replica".to_owned(), format!("masterauth {REPLICAS_PASSWORD}")]
}

//! The promise: what is shipped to be run is safe as it stands: nothing listens that need not, nobody is root, and no
//! secret has a default. Read as text; that the files work is shown by the tests that run them.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

fn shipped(file: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The lines below `head`, up to the next line that is indented no deeper. Without comments.
fn block(text: &str, head: &str) -> Result<String> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let found = lines.by_ref().find(|line| line.starts_with(head)).with_context(|| format!("no {head:?}"))?;
    let of_block: Vec<_> = lines.take_while(|line| line.is_empty() || depth(line) > depth(found)).collect();
    Ok(of_block.join("\n"))
}

const COMPOSE: &str = "docker-compose.cluster.yml";
const SERVICES: [&str; 5] = ["redis", "node1", "node2", "node3", "haproxy"];

#[test]
fn every_container_is_hardened_and_only_the_load_balancer_can_be_reached() -> Result<()> {
    let compose = shipped(COMPOSE)?;
    let hardened = block(&compose, "x-hardened:")?;
    for line in ["read_only: true", "cap_drop: [ALL]", "security_opt: [\"no-new-privileges:true\"]", "pids_limit: "] {
        ensure!(hardened.contains(line), "x-hardened lacks {line}");
    }
    let node = block(&compose, "x-node:")?;
    ensure!(node.contains("<<: *hardened") && node.contains("mem_limit: "), "a node is hardened and bounded");
    let services = block(&compose, "services:")?;
    let found = services.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).count();
    ensure!(found == SERVICES.len(), "{found} services: name each here");
    for name in SERVICES {
        let service = block(&services, &format!("  {name}:"))?;
        let is_node = name.starts_with("node");
        ensure!(service.contains(if is_node { "<<: *node" } else { "<<: *hardened" }), "{name} is not hardened");
        ensure!(is_node || service.contains("mem_limit: "), "{name} has no bound");
        ensure!(!service.contains("privileged:") && !service.contains("network_mode:"), "{name} has too much");
        let is_published = service.contains("ports:");
        ensure!(is_published == (name == "haproxy"), "{name} is published: {is_published}");
    }
    let ports = block(&services, "    ports:")?;
    ensure!(ports.trim() == "- \"4000:4000\"", "published: {ports}");
    let networks = block(&compose, "networks:")?;
    ensure!(block(&networks, "  back:")?.contains("internal: true"), "Redis' network leads nowhere else");
    Ok(())
}

#[test]
fn no_secret_has_a_default() -> Result<()> {
    let compose = shipped(COMPOSE)?;
    for secret in ["JWT_SECRET", "REDIS_PASSWORD"] {
        let asked = format!("${{{secret}:?");
        ensure!(compose.contains(&asked), "{secret} is not asked for");
        let uses = compose.matches(&format!("${{{secret}")).count();
        ensure!(uses == compose.matches(&asked).count(), "{secret} may be left out somewhere");
    }
    ensure!(compose.contains("${REDIS_OPERATOR_PASSWORD:-}"), "without a password nobody is an operator");
    Ok(())
}

#[test]
fn the_shipped_users_let_nobody_in_as_they_stand() -> Result<()> {
    let users = shipped("ops/redis-users.acl")?;
    let lines: Vec<&str> = users.lines().filter(|line| line.starts_with("user ")).collect();
    ensure!(lines[0].starts_with("user default off "), "{lines:?}");
    for line in &lines {
        ensure!(line.contains("-@all") || line.starts_with("user operator @OPERATOR@ "), "{line}: more than it names");
        ensure!(!line.contains('>') && !line.contains(" #"), "{line}: a password of ours");
    }
    ensure!(
        lines
            .iter()
            .filter(|line| line.contains("nopass"))
            .eq(["user probe on nopass resetkeys resetchannels -@all +ping"].iter())
    );
    Ok(())
}

#[test]
fn the_image_runs_a_node_as_nobody_special() -> Result<()> {
    let image = shipped("ops/Dockerfile")?;
    let last = image.rsplit("\nFROM ").next().context("a stage")?;
    ensure!(last.lines().any(|line| line == "USER 10001"), "the image runs as root");
    ensure!(!last.contains("SECRET") && !last.contains("PASSWORD"), "the image holds no secret");
    Ok(())
}

//! What a person needs in the first minute: addresses, links that work as they are, things to try.
//!
//! The tokens in it are real. They open a development cluster on this machine and nothing else.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::output::Output;
use crate::seed::{self, Sample};
use crate::state::{DEFAULT_DIR, State};
use crate::target::LOCAL_USER;
use crate::token::Claims;

/// Life of the tokens in the links: a working day and some.
const TTL: Duration = Duration::from_secs(12 * 3600);

/// Prints it; with `--json`, the state file's content and the links.
pub(crate) fn print(state: &State, dir: &Path, sample: Option<Sample>, detached: bool, output: &Output) -> Result<()> {
    let welcome = Welcome {
        state,
        dir,
        sample,
        detached,
        command: command(dir),
        demo: token(state, LOCAL_USER)?,
        alice: token(state, "alice")?,
        bob: token(state, "bob")?,
    };
    if output.is_json() {
        output.value(&welcome.json()?);
    } else {
        output.line(welcome.text());
    }
    Ok(())
}

struct Welcome<'a> {
    state: &'a State,
    dir: &'a Path,
    sample: Option<Sample>,
    detached: bool,
    command: (String, String),
    demo: String,
    alice: String,
    bob: String,
}

impl Welcome<'_> {
    fn door(&self) -> String {
        self.state.urls().into_iter().next().unwrap_or_default()
    }

    fn presence(&self, url: &str, token: &str) -> Option<String> {
        let socket = url.replacen("http", "ws", 1);
        self.sample.map(|sample| format!("{socket}/ws/collaboration?project_id={}&token={token}", sample.project))
    }

    fn last_node(&self) -> String {
        self.state.nodes.last().map(|node| node.url.clone()).unwrap_or_default()
    }

    fn json(&self) -> Result<Value> {
        let door = self.door();
        let mut value = serde_json::to_value(self.state)?;
        value["stateDir"] = self.dir.display().to_string().into();
        value["sample"] = match self.sample {
            Some(sample) => json!({ "name": seed::PROJECT, "projectId": sample.project, "planId": sample.plan }),
            None => Value::Null,
        };
        value["links"] = json!({
            "graphiql": format!("{door}/graphql"),
            "graphqlSocket": format!("{}/graphql/ws", door.replacen("http", "ws", 1)),
            "authorization": format!("Bearer {}", self.demo),
            "presenceAlice": self.presence(&door, &self.alice),
            "presenceBob": self.presence(&self.last_node(), &self.bob),
        });
        Ok(value)
    }

    fn text(&self) -> String {
        let (mille, flag) = &self.command;
        let door = self.door();
        let mut lines = vec![
            String::new(),
            format!("Mille runs: {} nodes. State and logs: {}", self.state.nodes.len(), self.dir.display()),
        ];
        let mut line = |text: String| lines.push(text);

        line(String::new());
        if let Some(proxy) = &self.state.proxy {
            line(format!("  load balancer  {}   pid {}", proxy.url, proxy.pid));
        }
        for node in &self.state.nodes {
            line(format!("  {:<13}  {}   admin {}   pid {}", node.name, node.url, node.admin_url, node.pid));
        }
        match self.state.redis.pid {
            Some(pid) => line(format!("  redis          {}   pid {pid}", self.state.redis.url)),
            None if !self.state.redis.servers.is_empty() => {
                line(format!("  redis          {}", self.state.redis.url));
                for one in &self.state.redis.servers {
                    line(format!("    {:<16}  port {}   pid {}", one.name, one.port, one.pid));
                }
            }
            None => line("  redis          the one you named".to_owned()),
        }

        line(String::new());
        line("Ready links (their tokens are good for 12 hours, on this cluster only)".to_owned());
        line(format!("  GraphiQL        {door}/graphql"));
        line(format!("    as {LOCAL_USER}, under \"Headers\": {{\"Authorization\": \"Bearer {}\"}}", self.demo));
        line(format!("  GraphQL socket  {}/graphql/ws", door.replacen("http", "ws", 1)));
        line("    graphql-transport-ws; the same as payload of connection_init".to_owned());
        if let Some(alice) = self.presence(&door, &self.alice) {
            line(format!("  presence alice  {alice}"));
        }
        if let Some(bob) = self.presence(&self.last_node(), &self.bob) {
            line(format!("  presence bob    {bob}"));
        }

        line(String::new());
        line("Try next".to_owned());
        line(format!("  {mille} status{flag}"));
        if let Some(sample) = self.sample {
            line(format!("  {mille} tail {}{flag}", sample.plan));
            line(format!(
                "    and, elsewhere, an edit of \"{}\" (project {}, plan {}):",
                seed::PROJECT,
                sample.project,
                sample.plan
            ));
            line(format!("  curl -s {door}/graphql -H 'Content-Type: application/json' \\"));
            line(format!("    -H \"Authorization: Bearer $({mille} token --user alice{flag})\" \\"));
            line(format!(
                "    -d '{{\"query\":\"mutation {{ updatePlanDagMetadata(projectId: {}, description: \\\"Hello\\\") {{ revision }} }}\"}}'",
                sample.project
            ));
        }
        if let Some(node) = self.state.nodes.last() {
            line(format!("  {mille} drain {}{flag}   # {0} leaves; nobody notices", node.name));
        }
        if let Some(node) = self.state.nodes.first() {
            line(format!("  kill -9 {}   # {} dies; the others go on", node.pid, node.name));
        }
        line(if self.detached {
            format!("  {mille} down{flag}   # stops it all")
        } else {
            "  Ctrl-C stops it all".to_owned()
        });
        lines.join("\n")
    }
}

fn token(state: &State, user: &str) -> Result<String> {
    let mut name = user.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Claims { name: Some(name), ..Claims::new(user, TTL) }.sign(&state.jwt_secret)
}

/// How this program is called from here, and the flag it needs to find `dir`.
fn command(dir: &Path) -> (String, String) {
    let here = std::env::current_dir().unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_else(|_| "mille".into());
    let program = match program.strip_prefix(&here) {
        Ok(relative) => format!("./{}", relative.display()),
        Err(_) => program.display().to_string(),
    };
    let found = here.ancestors().any(|ancestor| ancestor.join(DEFAULT_DIR) == dir);
    let flag = if found { String::new() } else { format!(" --state '{}'", dir.display()) };
    (program, flag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Node, Redis};

    #[test]
    fn the_links_lead_to_the_cluster_and_carry_tokens() {
        let node = |number: u16| Node {
            name: format!("node{number}"),
            url: format!("http://127.0.0.1:{}", 5000 + number),
            admin_url: format!("http://127.0.0.1:{}", 5100 + number),
            pid: 1,
        };
        let state = State {
            proxy: None,
            nodes: vec![node(1), node(2)],
            redis: Redis { url: "redis://127.0.0.1:5379".into(), pid: None, servers: Vec::new() },
            jwt_secret: "s".into(),
        };
        let welcome = Welcome {
            state: &state,
            dir: Path::new("/somewhere"),
            sample: Some(Sample { project: 7, plan: 9 }),
            detached: true,
            command: command(Path::new("/somewhere")),
            demo: "d.e.mo".into(),
            alice: "a".into(),
            bob: "b".into(),
        };
        let text = welcome.text();
        for part in [
            "http://127.0.0.1:5001/graphql",
            "ws://127.0.0.1:5001/graphql/ws",
            "ws://127.0.0.1:5002/ws/collaboration?project_id=7&token=b",
            "Bearer d.e.mo",
            "tail 9 --state '/somewhere'",
            "down --state '/somewhere'",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        let json = welcome.json().expect("it serializes");
        assert_eq!(json["links"]["presenceAlice"], "ws://127.0.0.1:5001/ws/collaboration?project_id=7&token=a");
        assert_eq!(json["proxy"], Value::Null);
    }
}

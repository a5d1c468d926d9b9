//! The promise: the layers and habits that the design lives by are kept, also at three in the morning.
//!
//! It reads the sources as text, without their comments. A rule that must be broken is broken here first,
//! with the reason beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A file longer than this tells more than one story.
const LINES_MAX: usize = 600;
/// Folders with sources of ours.
const CRATES: [&str; 5] = ["shared", "node", "tests", "chaos", "ops"];

/// A source file: its path below the root, and its code without comments.
struct Source {
    path: String,
    text: String,
    code: String,
}

/// Words that may only stand in certain places.
struct Rule {
    why: &'static str,
    /// Where the rule holds.
    within: &'static str,
    /// What it forbids.
    words: &'static [&'static str],
    /// Where it may stand all the same.
    except: &'static [&'static str],
}

const RULES: [Rule; 12] = [
    Rule {
        why: "the core is a machine without I/O: time and chance are its parameters",
        within: "node/core/",
        words: &[
            "tokio",
            "axum",
            "async_graphql",
            "fred",
            "deadpool",
            "rand",
            "Instant::now",
            "SystemTime",
            "std::thread",
        ],
        except: &[],
    },
    Rule {
        why: "the wire format does nothing by itself",
        within: "shared/",
        words: &[
            "tokio",
            "axum",
            "async_graphql",
            "fred",
            "rand",
            "Instant::now",
            "SystemTime",
            "now_utc",
            "now_utc",
            "std::net",
            "std::fs",
        ],
        except: &[],
    },
    Rule {
        why: "only the Redis backend knows its client",
        within: "node/src/",
        words: &["fred", "deadpool"],
        except: &["node/src/backend/redis", "node/src/telemetry.rs"],
    },
    Rule {
        why: "only the gateway knows HTTP and GraphQL; the composition root serves them",
        within: "node/src/",
        words: &["axum", "async_graphql"],
        except: &["node/src/gateway", "node/src/node.rs"],
    },
    Rule {
        why: "the environment has one reader",
        within: "node/src/",
        words: &["env::var", "env::vars", "env::var_os", "env::vars_os"],
        except: &["node/src/config", "node/src/gateway/graphql/contract.rs"],
    },
    Rule {
        why: "metrics are named in one place",
        within: "node/src/",
        words: &[
            "counter!",
            "gauge!",
            "histogram!",
            "describe_counter!",
            "describe_gauge!",
            "describe_histogram!",
            "\"ws_connections_active",
            "\"ws_messages_sent_total",
            "\"ws_buffer_full_total",
            "\"graphql_subscription_lag_total",
            "\"broadcast_channels_idle_cleaned_total",
        ],
        except: &["node/src/metrics"],
    },
    Rule {
        why: "every queue has a bound",
        within: "",
        words: &["unbounded_channel", "UnboundedSender", "UnboundedReceiver"],
        except: &["tests/tests/house_rules.rs"],
    },
    Rule {
        why: "nothing here needs it; what does belongs into a library that others check too",
        within: "",
        words: &["unsafe", "unsafe_code"],
        except: &["tests/tests/house_rules.rs"],
    },
    Rule {
        why: "a test waits for a state, in one bounded loop",
        within: "tests/",
        words: &["time::sleep", "thread::sleep", "sleep("],
        // A slow line to Redis is slow by waiting.
        except: &["tests/src/patience.rs", "tests/src/proxy.rs", "tests/tests/house_rules.rs"],
    },
    Rule {
        why: "a layer asks downwards only: nobody asks the gateway",
        within: "node/src/",
        words: &["crate::gateway"],
        except: &["node/src/gateway", "node/src/node.rs", "node/src/config", "node/src/main.rs", "node/src/lib.rs"],
    },
    Rule {
        why: "a layer asks downwards only: the backend knows ports, not projects",
        within: "node/src/backend",
        words: &["crate::project", "crate::bridge", "mille_core"],
        except: &[],
    },
    Rule {
        why: "a checker that shares code with the node shares its mistakes",
        within: "chaos/",
        words: &["mille_core", "mille_node"],
        except: &[],
    },
];

#[test]
fn every_word_stands_where_it_may() -> Result<()> {
    let sources = sources()?;
    let mut broken = Vec::new();
    for source in &sources {
        broken.extend(broken_rules(source));
    }
    ensure!(broken.is_empty(), "\n{}", broken.join("\n"));
    Ok(())
}

#[test]
fn every_file_says_first_what_it_is_for_and_tells_one_story() -> Result<()> {
    let mut broken = Vec::new();
    for source in sources()? {
        if !source.text.starts_with("//!") {
            broken.push(format!("{}: does not begin with //!", source.path));
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            broken.push(format!("{}: {lines} lines, more than {LINES_MAX}", source.path));
        }
    }
    ensure!(broken.is_empty(), "\n{}", broken.join("\n"));
    Ok(())
}

#[test]
fn the_core_depends_on_nothing_that_acts() -> Result<()> {
    for (manifest, allowed) in [
        (
            "node/core/Cargo.toml",
            &["mille-shared", "serde", "serde_json", "thiserror", "imbl", "indexmap", "sha2", "time"][..],
        ),
        ("shared/Cargo.toml", &["serde", "serde_json", "thiserror", "time"][..]),
    ] {
        let text = std::fs::read_to_string(root().join(manifest)).with_context(|| manifest.to_owned())?;
        let found = dependencies(&text);
        let foreign: Vec<_> = found.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        ensure!(foreign.is_empty(), "{manifest} asks for {foreign:?}; if it does not act, allow it here");
    }
    Ok(())
}

/// What compiles: the tree is asked, with every feature we use and for every system.
#[test]
fn there_is_one_crypto_backend() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = |package: &str| -> Result<String> {
        let output = Command::new(&cargo)
            .args(["tree", "--workspace", "--locked", "--edges", "normal,build,dev", "--prefix", "none"])
            .args(["--target", "all", "--format", "{p}", "--invert", package])
            .current_dir(root())
            .output()?;
        ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    ensure!(tree("aws-lc-rs")?.contains("mille-node"), "the backend we do use is not found: this test is blind");
    let ring = tree("ring")?;
    ensure!(ring.trim().is_empty(), "ring is a second crypto backend, wanted by:\n{ring}");
    Ok(())
}

/// Other ways to do TLS and cryptography than rustls on aws-lc-rs.
const OTHER_BACKENDS: [&str; 9] = [
    "boring",
    "boring-sys",
    "mbedtls",
    "native-tls",
    "openssl",
    "openssl-sys",
    "rustls-openssl",
    "rustls-rustcrypto",
    "wolfssl",
];

#[test]
fn the_lock_file_names_one_crypto_backend_and_one_registry() -> Result<()> {
    let locked = locked()?;
    let of_name = |name: &str| locked.iter().filter(|package| package.name == name).count();
    ensure!(of_name("aws-lc-rs") == 1 && of_name("aws-lc-sys") == 1, "aws-lc-rs is there once");
    let others: Vec<_> = OTHER_BACKENDS.iter().filter(|name| of_name(name) > 0).collect();
    ensure!(others.is_empty(), "second crypto backends: {others:?}");
    // rustls' certificate library may have ring (`ring?/alloc`), so cargo writes it down; it is never compiled, see above.
    let wants_ring = |package: &&Locked| package.dependencies.iter().any(|name| name == "ring");
    let askers: Vec<_> = locked.iter().filter(wants_ring).map(|package| package.name.as_str()).collect();
    ensure!(askers.iter().all(|name| *name == "rustls-webpki"), "ring is wanted by {askers:?}");

    let foreign: Vec<_> = locked.iter().filter(|package| !package.is_ours_or_of_the_registry()).collect();
    ensure!(foreign.is_empty(), "only crates.io and this workspace: {foreign:?}");
    Ok(())
}

/// What can be checked of `deny.toml` without cargo-deny.
#[test]
fn no_denied_crate_is_locked() -> Result<()> {
    let rules = std::fs::read_to_string(root().join("deny.toml"))?;
    let denied: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("{ crate = \"")?.split('"').next()).collect();
    ensure!(denied.contains(&"openssl-sys"), "no denied crates found: this test is blind");
    let locked = locked()?;
    // `ring`: see the rule about crypto backends.
    let found: Vec<_> =
        denied.iter().filter(|name| **name != "ring" && locked.iter().any(|p| p.name == **name)).collect();
    ensure!(found.is_empty(), "denied and locked: {found:?}");
    Ok(())
}

#[test]
fn nobody_writes_unsafe_code() -> Result<()> {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml"))?;
    ensure!(workspace.contains("unsafe_code = \"forbid\""), "the workspace forbids unsafe code");
    let members = members(&workspace);
    ensure!(members.len() >= 6, "only the members {members:?} found: this test is blind");
    for member in members {
        let manifest = std::fs::read_to_string(root().join(&member).join("Cargo.toml"))?;
        ensure!(manifest.contains("[lints]\nworkspace = true"), "{member} does not inherit the workspace's lints");
    }
    Ok(())
}

#[test]
fn the_rules_notice_what_they_forbid() {
    let breaks = |path: &str, text: &str| !broken_rules(&source(path.to_owned(), text.to_owned())).is_empty();
    assert!(breaks("node/core/src/plan.rs", "use tokio::time;"));
    assert!(breaks("node/core/src/plan.rs", "let now = Instant::now();"));
    assert!(breaks("node/src/project/actor.rs", "use fred::prelude::*;"));
    assert!(breaks("node/src/project/actor.rs", "use crate::gateway::Door;"));
    assert!(breaks("node/src/node.rs", "let x = std::env::var(\"X\");"));
    assert!(breaks("node/src/bridge/feed.rs", "counter!(\"x\").increment(1);"));
    assert!(breaks("node/src/gateway/http.rs", "let name = \"ws_messages_sent_total\";"));
    assert!(breaks("ops/src/main.rs", "let (a, b) = mpsc::unbounded_channel();"));
    assert!(breaks("tests/tests/edits.rs", "tokio::time::sleep(second).await;"));
    assert!(breaks("ops/src/main.rs", "let byte = unsafe { *pointer };"));
    assert!(breaks("ops/src/main.rs", "#[allow(unsafe_code)]"));
    assert!(!breaks("node/core/src/plan.rs", "let operand = 1; // tokio has no place here"));
    assert!(!breaks("node/src/backend/redis/log.rs", "use fred::prelude::*;"));
    assert!(!breaks("node/src/gateway/http.rs", "use axum::Router;"));
    assert_eq!(
        dependencies("[dependencies]\na.workspace = true\nb = \"1\"\n[dev-dependencies]\nc = \"1\"\n"),
        ["a", "b"]
    );
}

fn broken_rules(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for rule in RULES {
        if !source.path.starts_with(rule.within) || rule.except.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            for word in rule.words.iter().filter(|word| has_word(line, word)) {
                broken.push(format!("{}:{}: `{word}`, but {}", source.path, number + 1, rule.why));
            }
        }
    }
    broken
}

/// Whether `word` stands in the line with no letter before or after it.
fn has_word(line: &str, word: &str) -> bool {
    let is_letter = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let ends_open = !is_letter(word.chars().last());
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !is_letter(before) && (ends_open || !is_letter(after))
    })
}

/// The names below `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let name: String =
                line.chars().take_while(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect();
            names.push(name);
        }
    }
    names
}

/// The members of a workspace's manifest.
fn members(manifest: &str) -> Vec<String> {
    let list = manifest.lines().find_map(|line| line.strip_prefix("members = ["));
    let names = list.unwrap_or_default().split(',').map(|name| name.trim_matches([' ', '"', ']']).to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// A package of `Cargo.lock`.
#[derive(Debug, Default)]
struct Locked {
    name: String,
    source: Option<String>,
    dependencies: Vec<String>,
}

impl Locked {
    fn is_ours_or_of_the_registry(&self) -> bool {
        const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
        self.source.as_deref().map_or(self.name.starts_with("mille-"), |source| source == REGISTRY)
    }
}

fn locked() -> Result<Vec<Locked>> {
    let text = std::fs::read_to_string(root().join("Cargo.lock"))?;
    let packages: Vec<Locked> = text.split("[[package]]").skip(1).map(read_locked).collect();
    ensure!(packages.len() > 100, "only {} packages found: this test is blind", packages.len());
    Ok(packages)
}

fn read_locked(text: &str) -> Locked {
    let mut package = Locked::default();
    for line in text.lines() {
        let quoted = || line.split('"').nth(1).unwrap_or_default().to_owned();
        match line.split(" = ").next() {
            Some("name") => package.name = quoted(),
            Some("source") => package.source = Some(quoted()),
            // A dependency of which there are several versions has its version beside its name.
            _ if line.starts_with(" \"") => {
                package.dependencies.push(quoted().split(' ').next().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }
    package
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for folder in CRATES {
        collect(&root().join(folder), folder, &mut found)?;
    }
    ensure!(found.len() > 20, "only {} sources found: this test is blind", found.len());
    Ok(found)
}

fn collect(folder: &Path, name: &str, found: &mut Vec<Source>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{name}/{file}");
        if entry.file_type()?.is_dir() {
            if file != "target" && file != "node_modules" && !file.starts_with('.') {
                collect(&entry.path(), &path, found)?;
            }
        } else if file.ends_with(".rs") {
            let text = std::fs::read_to_string(entry.path())?;
            found.push(source(path, text));
        }
    }
    Ok(())
}

fn source(path: String, text: String) -> Source {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    Source { path, text, code }
}

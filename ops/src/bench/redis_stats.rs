//! How often Redis was asked for what: `INFO commandstats`, and nothing else of it.
//!
//! What a function calls is counted by Redis as if a client had: an edit that is one FCALL shows the XADD in it too.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::STEP_TIMEOUT;

/// Commands that are left out: asked by those who measure, or by those who keep connections alive.
const ASIDE: [&str; 4] = ["info", "ping", "hello", "client"];

/// Fewer per edit than this is no part of an edit but of what nodes do by themselves.
const PER_EDIT_MIN: f64 = 0.02;

/// Calls so far, by command.
///
/// # Errors
/// When the Redis at `url` (redis://host:port) does not answer.
pub(super) async fn calls(url: &str) -> Result<BTreeMap<String, u64>> {
    let address = url.strip_prefix("redis://").unwrap_or(url).trim_end_matches('/');
    let address = address.split('/').next().unwrap_or(address);
    timeout(STEP_TIMEOUT, ask(address)).await.context("Redis does not answer")?.context("Redis can't be asked")
}

async fn ask(address: &str) -> Result<BTreeMap<String, u64>> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(b"INFO commandstats\r\n").await?;
    let mut head = String::new();
    stream.read_line(&mut head).await?;
    let length = head.strip_prefix('$').with_context(|| format!("Redis said {head}"))?.trim().parse()?;
    ensure!(length < 1 << 20, "too long an answer");
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    Ok(read(&String::from_utf8_lossy(&text)))
}

/// `cmdstat_fcall:calls=3,usec=…`
fn read(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let calls = lines.filter_map(|(name, rest)| Some((name.to_owned(), rest.split(',').next()?.parse().ok()?)));
    calls.filter(|(name, _): &(String, u64)| !ASIDE.iter().any(|aside| name.split('|').next() == Some(aside))).collect()
}

/// Calls for each edit, by command, and `all`.
pub(super) fn per_edit(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    edits: u64,
) -> BTreeMap<String, f64> {
    let growth = after.iter().map(|(name, calls)| {
        let grown = calls.saturating_sub(before.get(name).copied().unwrap_or_default());
        (name.clone(), (grown as f64 / edits.max(1) as f64 * 1_000.0).round() / 1_000.0)
    });
    let mut per_edit: BTreeMap<String, f64> = growth.filter(|&(_, calls)| calls >= PER_EDIT_MIN).collect();
    let all = per_edit.values().sum();
    per_edit.insert("all".to_owned(), all);
    per_edit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_by_command_and_told_per_edit() {
        let text = |fcall: u64, publish: u64| {
            format!(
                "# Commandstats\r\ncmdstat_fcall:calls={fcall},usec=9,usec_per_call=9.00\r\n\
                 cmdstat_spublish:calls={publish},usec=1\r\ncmdstat_client|setname:calls=5,usec=1\r\ncmdstat_info:calls=7,usec=1\r\n"
            )
        };
        let (before, after) = (read(&text(100, 10)), read(&text(300, 11)));
        assert_eq!(before.keys().collect::<Vec<_>>(), ["fcall", "spublish"]);
        let per_edit = per_edit(&before, &after, 200);
        assert_eq!(per_edit, BTreeMap::from([("fcall".to_owned(), 1.0), ("all".to_owned(), 1.0)]));
    }
}

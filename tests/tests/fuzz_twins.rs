//! The promise: whatever bytes come from outside, reading them is an answer and never a panic, and what is read is within
//! its bounds. The checks are those of the fuzz targets (`tests/fuzz`), here on any compiler: first the corpora, then inputs
//! at random and mutations of the corpora.

#[path = "../fuzz/checks/mod.rs"]
mod checks;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use checks::{TARGETS, Target};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// Inputs of each target beside its corpus; `PROPTEST_CASES` asks for more.
const CASES: u32 = 2_000;
/// Pieces that break parsers more often than chance would find them.
const PIECES: [&str; 22] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ",",
    ":",
    "null",
    "-",
    "1e999",
    "18446744073709551615",
    "9223372036854775807",
    "-0.0",
    "\\ud800",
    "\u{0}",
    "\u{feff}",
    "💥",
    "\\u0000",
    ".",
    " ",
    "\n",
];

fn corpus(target: &Target) -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    files.iter().map(|file| Ok(std::fs::read(file)?)).collect()
}

/// One change of an input.
#[derive(Debug, Clone)]
enum Mutation {
    Flip(Index, u8),
    Insert(Index, usize),
    Cut(Index, Index),
    Double(Index, Index),
    /// A part of another input of the corpus.
    Splice(Index, Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
        (any::<Index>(), 0..PIECES.len()).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        any::<(Index, Index)>().prop_map(|(from, to)| Mutation::Cut(from, to)),
        any::<(Index, Index)>().prop_map(|(from, to)| Mutation::Double(from, to)),
        any::<(Index, Index, Index)>().prop_map(|(other, at, from)| Mutation::Splice(other, at, from)),
    ]
}

fn mutated(corpus: &[Vec<u8>], begin: Index, mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = begin.get(corpus).clone();
    for mutation in mutations {
        let place = |index: &Index| index.index(bytes.len() + 1);
        let range = |one: &Index, other: &Index| place(one).min(place(other))..place(one).max(place(other));
        match mutation {
            Mutation::Flip(at, byte) => {
                let at = place(at);
                bytes.get_mut(at).into_iter().for_each(|found| *found ^= byte);
            }
            Mutation::Insert(at, piece) => {
                let at = place(at);
                bytes.splice(at..at, PIECES[*piece].bytes());
            }
            Mutation::Cut(from, to) => drop(bytes.drain(range(from, to))),
            Mutation::Double(from, to) => {
                let part = bytes[range(from, to)].to_vec();
                let at = place(to);
                bytes.splice(at..at, part);
            }
            Mutation::Splice(other, at, from) => {
                let (other, at) = (other.get(corpus), place(at));
                let part = other[from.index(other.len() + 1)..].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn run(name: &str) -> Result<()> {
    let target = TARGETS.iter().find(|target| target.name == name).context("no such target")?;
    let corpus = corpus(target)?;
    ensure!(corpus.len() >= 10, "only {} inputs in the corpus of {name}: this test is blind", corpus.len());
    corpus.iter().for_each(|bytes| (target.check)(bytes));

    let inputs = prop_oneof![
        1 => vec(any::<u8>(), 0..200),
        1 => any::<String>().prop_map(String::into_bytes),
        6 => (any::<Index>(), vec(mutation(), 1..6)).prop_map(move |(begin, changes)| mutated(&corpus, begin, &changes)),
    ];
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    // What fails goes into the corpus; a file of seeds would only say it again.
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner.run(&inputs, |bytes| {
        (target.check)(&bytes);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn presence_frames() -> Result<()> {
    run("presence_frames")
}

#[test]
fn graphql_frames() -> Result<()> {
    run("graphql_frames")
}

#[test]
fn resume_tokens() -> Result<()> {
    run("resume_tokens")
}

#[test]
fn log_entries() -> Result<()> {
    run("log_entries")
}

#[test]
fn node_messages() -> Result<()> {
    run("node_messages")
}

#[test]
fn every_target_has_a_twin_and_a_binary() -> Result<()> {
    let (twins, manifest) = (include_str!("fuzz_twins.rs"), include_str!("../fuzz/Cargo.toml"));
    for Target { name, .. } in TARGETS {
        ensure!(twins.contains(&format!("run(\"{name}\")")), "{name} has no twin");
        ensure!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name} has no binary");
    }
    Ok(())
}

//! Reads what a node tells, and judges it: the text format of Prometheus, and our rules for names and labels.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// What one node tells.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    pub(crate) families: BTreeMap<String, Family>,
}

/// A name, and all that is told under it.
#[derive(Debug)]
pub(crate) struct Family {
    name: String,
    help: String,
    kind: String,
    /// By name and labels as they are written.
    pub(crate) series: BTreeMap<String, f64>,
}

impl Exposition {
    /// Reads a text in which each family stands together, after its help and its type, and no series is told twice.
    pub(crate) fn read(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line has no end");
        let (mut this, mut current) = (Self::default(), None);
        for line in text.lines().filter(|line| !line.is_empty()) {
            let in_line = || format!("in the line {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').with_context(in_line)?;
                current = Some((name.to_owned(), help.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').with_context(in_line)?;
                let (helped, help) = current.clone().with_context(in_line)?;
                ensure!(helped == name, "{name} has no help of its own");
                let family = Family { name: helped, help, kind: kind.to_owned(), series: BTreeMap::new() };
                ensure!(this.families.insert(name.to_owned(), family).is_none(), "{name} is told twice");
            } else {
                let (series, value) = line.rsplit_once(' ').with_context(in_line)?;
                let name = &current.as_ref().with_context(in_line)?.0;
                let family = this.families.get_mut(name).with_context(in_line)?;
                ensure!(family.owns(series), "{series} stands under {name}");
                let value = value.parse::<f64>().with_context(in_line)?;
                ensure!(family.series.insert(series.to_owned(), value).is_none(), "{series} is told twice");
            }
        }
        Ok(this)
    }
}

impl Family {
    fn owns(&self, series: &str) -> bool {
        let name = series.split('{').next().unwrap_or_default();
        match self.kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(&self.name)),
            _ => name == self.name,
        }
    }

    /// The rules for names, helps and labels.
    pub(crate) fn keeps_the_rules(&self) -> Result<()> {
        let Self { name, help, kind, series } = self;
        match kind.as_str() {
            "counter" => ensure!(name.ends_with("_total"), "the counter {name} does not end in _total"),
            "gauge" | "histogram" => ensure!(!name.ends_with("_total"), "the {kind} {name} ends in _total"),
            _ => bail!("{name} is a {kind}"),
        }
        ensure!(!series.is_empty(), "{name} has no series from the start");
        ensure!(help.len() > 20, "{name} has little help: {help}");
        let says_when = help.contains("Worry") || help.contains("Harmless") || help.contains("Nothing to worry");
        ensure!(says_when, "{name} does not say when to worry: {help}");
        for (word, unit) in [("in seconds", "_seconds"), ("Bytes that", "_bytes")] {
            ensure!(!help.contains(word) || name.ends_with(unit), "{name} is {word}, and its name does not say so");
        }
        if kind == "histogram" && name.ends_with("_seconds") {
            ensure!(help.contains("in seconds"), "{name} does not say its unit: {help}");
        }
        for series in series.keys() {
            for (label, value) in labels(series) {
                let is_word = !value.is_empty() && value.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                let is_code = label == "code" && value.len() == 4 && value.bytes().all(|b| b.is_ascii_digit());
                let is_bound = label == "le" && (value == "+Inf" || value.parse::<f64>().is_ok());
                ensure!(is_word || is_code || is_bound, "{series}: '{value}' is of no closed set");
                ensure!(!["user", "user_id", "project", "plan", "node"].contains(&label), "{series} is of one {label}");
            }
        }
        Ok(())
    }
}

fn labels(series: &str) -> impl Iterator<Item = (&str, &str)> {
    let inside = series.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
    inside.split(',').filter_map(|pair| pair.split_once('=')).map(|(label, value)| (label, value.trim_matches('"')))
}

#[test]
fn bad_texts_are_noticed() {
    let good = "# HELP a_total It counts what happens here. Worry.\n# TYPE a_total counter\na_total{why=\"b\"} 0\n";
    let judge = |text: &str| Exposition::read(text)?.families.values().try_for_each(Family::keeps_the_rules);
    assert!(judge(good).is_ok(), "{:?}", judge(good));
    for (from, to) in [
        ("a_total", "a"),
        ("counter", "gauge"),
        ("Worry", "Well"),
        ("\"b\"", "\"user-17\""),
        ("why=", "user_id="),
        ("} 0\n", "} 0\na_total{why=\"b\"} 0\n"),
        ("} 0\n", "} x\n"),
        ("a_total{", "b_total{"),
    ] {
        assert!(judge(&good.replace(from, to)).is_err(), "{from} as {to} went unnoticed");
    }
    assert!(judge(&format!("{good}{good}")).is_err(), "told twice");
}

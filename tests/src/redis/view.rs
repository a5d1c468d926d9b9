//! What the servers of a Redis Cluster say of it, read from `CLUSTER NODES`.

use std::ops::RangeInclusive;

use anyhow::{Context as _, Result};

/// One server, as another one (or itself) sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) is_primary: bool,
    /// Held for dead by a majority.
    pub(super) is_failed: bool,
    /// The primary that it follows.
    pub(super) follows: Option<String>,
    /// What it serves.
    pub(super) slots: Vec<RangeInclusive<u16>>,
}

impl Member {
    pub(super) fn serves(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }

    pub(super) fn slot_count(&self) -> usize {
        self.slots.iter().map(ExactSizeIterator::len).sum()
    }
}

/// Reads the answer to `CLUSTER NODES`.
pub(super) fn members(text: &str) -> Result<Vec<Member>> {
    text.lines().filter(|line| !line.is_empty()).map(member).collect()
}

fn member(line: &str) -> Result<Member> {
    let words: Vec<&str> = line.split(' ').collect();
    let [id, _address, flags, follows, _ping, _pong, _epoch, _link, slots @ ..] = &words[..] else {
        anyhow::bail!("no line of CLUSTER NODES: {line:?}");
    };
    let has = |flag: &str| flags.split(',').any(|found| found == flag);
    // A slot on its way stands in brackets, beside the range that has it.
    let slots = slots.iter().filter(|word| !word.starts_with('['));
    let slots = slots.map(|word| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Ok(first.parse()?..=last.parse()?)
    });
    Ok(Member {
        id: (*id).to_owned(),
        is_primary: has("master"),
        is_failed: has("fail"),
        follows: (*follows != "-").then(|| (*follows).to_owned()),
        slots: slots.collect::<Result<_>>().with_context(|| format!("slots in {line:?}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_others_is_read() -> Result<()> {
        let found = members(
            "aa 127.0.0.1:1@2 myself,master - 0 1 7 connected 0-99 101 [100->-bb] [7-<-bb]\n\
             bb 127.0.0.1:3@4,host slave,fail aa 0 1 7 disconnected\n",
        )?;
        assert_eq!(found[0].slots, [0..=99, 101..=101]);
        assert!(found[0].is_primary && !found[0].is_failed && found[0].follows.is_none());
        assert!(found[0].serves(99) && !found[0].serves(100) && found[0].slot_count() == 101);
        assert!(!found[1].is_primary && found[1].is_failed && found[1].follows.as_deref() == Some("aa"));
        assert!(members("nonsense").is_err());
        Ok(())
    }
}

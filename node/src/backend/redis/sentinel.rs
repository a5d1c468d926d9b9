//! Which server the sentinels call primary.
//!
//! Right after a failover they do not all know of it. Each says in which configuration epoch its word is; only a majority
//! makes a new one, so the newest is right, and where epochs are equal, what most say. Whether the server itself agrees is
//! looked at when it is connected to.

use std::collections::BTreeMap;

use super::access::Address;

/// What one sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) primary: Address,
    epoch: u64,
}

/// Reads the answers to `SENTINEL MASTER`, names and values, and to `GET-MASTER-ADDR-BY-NAME`, which is asked behind it and may be
/// refused. The former has the epoch. But while a failover ends it still has the old address beside the new epoch; the latter has
/// the new one as soon as the replica is promoted.
pub(super) fn word(
    answer: &BTreeMap<String, String>,
    place: Option<(String, String)>,
    asked: &Address,
) -> Option<Word> {
    let (host, port) = match place {
        Some(place) => place,
        None => (answer.get("ip")?.clone(), answer.get("port")?.clone()),
    };
    let primary = Address::read(&format!("{host}:{port}"), asked)?;
    Some(Word { primary, epoch: answer.get("config-epoch")?.parse().ok()? })
}

/// The words that are no older than what was believed before: a sentinel that has not heard of a failover yet would lead back
/// to the server that was deposed. All of them, if every one of the `sentinels` speaks and none has heard of that: they were made
/// anew.
pub(super) fn fresh(words: Vec<Word>, believed: u64, sentinels: usize) -> Vec<Word> {
    let is_fresh = |word: &Word| word.epoch >= believed;
    let are_made_anew = words.len() >= sentinels && !words.iter().any(is_fresh);
    words.into_iter().filter(|word| are_made_anew || is_fresh(word)).collect()
}

/// The newest epoch in which one of them speaks.
pub(super) fn newest(words: &[Word]) -> u64 {
    words.iter().map(|word| word.epoch).max().unwrap_or_default()
}

/// Whom to believe, the most likely first.
pub(super) fn candidates(words: &[Word]) -> Vec<Address> {
    let mut votes: BTreeMap<&Address, (u64, usize)> = BTreeMap::new();
    for Word { primary, epoch } in words {
        let (newest, count) = votes.entry(primary).or_default();
        *newest = (*newest).max(*epoch);
        *count += 1;
    }
    let mut candidates: Vec<_> = votes.into_iter().collect();
    candidates.sort_by_key(|(_, vote)| std::cmp::Reverse(*vote));
    candidates.into_iter().map(|(address, _)| address.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(port: u16, epoch: u64) -> Word {
        Word { primary: Address { host: "h".into(), port }, epoch }
    }

    fn first(words: &[Word]) -> Option<u16> {
        candidates(words).first().map(|address| address.port)
    }

    #[test]
    fn the_newest_word_counts_and_then_what_most_say() {
        assert_eq!(first(&[]), None);
        assert_eq!(first(&[said(1, 3), said(1, 3), said(2, 4)]), Some(2));
        assert_eq!(first(&[said(1, 0), said(2, 0), said(2, 0)]), Some(2));
    }

    #[test]
    fn a_word_older_than_one_that_was_believed_counts_for_nothing() {
        let old = || vec![said(1, 3), said(1, 3)];
        assert_eq!(fresh(old(), 3, 3), old());
        assert_eq!(fresh(vec![said(1, 3), said(2, 4)], 4, 3), [said(2, 4)]);
        assert!(fresh(old(), 4, 3).is_empty(), "the third, who led the failover, may only be late");
        assert_eq!(fresh(old(), 4, 2), old(), "nobody has ever heard of it");
    }

    #[test]
    fn a_word_is_read_by_its_names() {
        let asked = Address { host: "s".into(), port: 1 };
        let answer = |port: &str| {
            let pairs = [("ip", "h"), ("port", port), ("config-epoch", "7"), ("flags", "master")];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect()
        };
        assert_eq!(word(&answer("2"), None, &asked), Some(said(2, 7)));
        assert_eq!(word(&answer("none"), None, &asked), None);
        let promoted = Some(("h".to_owned(), "3".to_owned()));
        assert_eq!(word(&answer("2"), promoted, &asked), Some(said(3, 7)), "the place is the newer of the two");
    }
}

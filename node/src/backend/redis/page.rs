//! A page of a log, put together of several reads.
//!
//! An entry may have a hundred bytes or a million, and nobody knows before it comes. Five hundred large ones could not be read in
//! the time of one command, and nobody could open the plan. So a page begins with a few entries, unless somebody knows how large they
//! are; what they weigh says how many are asked for next. Of small ones that is all the rest.

use mille_shared::log::{LogEntry, LogPage};

use crate::backend::LOG_PAGE_BYTES;

/// Entries of the first read, before anything is known of their size. They may be large, all of them.
const FIRST_ENTRIES: usize = 16;
/// What a read brings, if its entries are as those of the read before.
const READ_BYTES: usize = 1024 * 1024;

/// A page that is being read.
pub(super) struct Page {
    entries: Vec<LogEntry>,
    limit: usize,
    /// Of the payloads behind the first.
    bytes: usize,
    /// Entries to ask for next.
    wanted: usize,
    /// Whether the log may hold more.
    has_more: bool,
}

impl Page {
    /// A page of up to so many entries, at least one. `entry_bytes`: how large each probably is.
    pub(super) fn of(limit: usize, entry_bytes: Option<usize>) -> Self {
        let first = entry_bytes.map_or(FIRST_ENTRIES, |bytes| (READ_BYTES / bytes.max(1)).max(1));
        Self { entries: Vec::new(), limit, bytes: 0, wanted: limit.min(first), has_more: true }
    }

    /// How many entries to ask for next, after the last that came. `None`: the page is done.
    pub(super) fn wanted(&self) -> Option<usize> {
        (self.wanted > 0).then_some(self.wanted)
    }

    /// The last entry that came.
    pub(super) fn last(&self) -> Option<&LogEntry> {
        self.entries.last()
    }

    /// Takes what came when as many were asked for as were wanted.
    pub(super) fn take(&mut self, came: Vec<LogEntry>) {
        let is_end = came.len() < self.wanted;
        self.wanted = 0;
        if let (Some(last), Some(next)) = (self.entries.last(), came.first())
            && !last.revision.precedes(next.revision)
        {
            // The log was trimmed meanwhile, or is another one: who asks for what follows is told, by what comes first.
            return;
        }
        let bytes: usize = came.iter().map(|entry| entry.payload.len()).sum();
        let fitting = READ_BYTES.saturating_mul(came.len()) / bytes.max(1);
        self.bytes += bytes;
        if self.entries.is_empty() {
            self.bytes -= came.first().map_or(0, |first| first.payload.len());
        }
        self.entries.extend(came);
        self.has_more = !is_end;
        if self.has_more && self.bytes < LOG_PAGE_BYTES {
            self.wanted = fitting.max(1).min(self.limit - self.entries.len());
        }
    }

    /// The page as far as it was read.
    pub(super) fn into_log_page(self) -> LogPage {
        LogPage { entries: self.entries, has_more: self.has_more }
    }
}

#[cfg(test)]
mod tests {
    use mille_shared::Revision;
    use mille_shared::limits::LOG_PAGE_ENTRIES;
    use mille_shared::log::ChainHash;
    use proptest::prelude::*;

    use super::*;

    /// A log whose entries have so many bytes.
    fn log(bytes: &[usize]) -> Vec<LogEntry> {
        let entry = |(seq, bytes): (usize, &usize)| LogEntry {
            revision: Revision { epoch: 1, seq: seq as u64 },
            hash: ChainHash::ROOT,
            payload: "x".repeat(*bytes).into(),
        };
        bytes.iter().enumerate().map(entry).collect()
    }

    /// Reads a page, and tells how many entries each read brought.
    fn read(log: &[LogEntry], limit: usize) -> (LogPage, Vec<usize>) {
        let (mut page, mut reads, mut rest) = (Page::of(limit, None), Vec::new(), log);
        while let Some(wanted) = page.wanted() {
            let (came, behind) = rest.split_at(rest.len().min(wanted));
            reads.push(came.len());
            page.take(came.to_vec());
            rest = behind;
        }
        (page.into_log_page(), reads)
    }

    #[test]
    fn small_entries_take_two_reads_a_page_and_few_of_them_one() {
        let log = log(&[300; LOG_PAGE_ENTRIES + 1]);
        let (page, reads) = read(&log, LOG_PAGE_ENTRIES);
        assert_eq!((page.entries.len(), page.has_more, reads.len()), (LOG_PAGE_ENTRIES, true, 2));
        let (page, reads) = read(&log[..10], LOG_PAGE_ENTRIES);
        assert_eq!((page.entries.len(), page.has_more, reads.len()), (10, false, 1));
    }

    #[test]
    fn small_entries_that_are_known_to_be_so_are_read_at_once() {
        assert_eq!(Page::of(LOG_PAGE_ENTRIES, Some(400)).wanted(), Some(LOG_PAGE_ENTRIES));
        assert_eq!(Page::of(LOG_PAGE_ENTRIES, Some(100_000)).wanted(), Some(10));
        assert_eq!(Page::of(LOG_PAGE_ENTRIES, Some(10_000_000)).wanted(), Some(1));
    }

    #[test]
    fn large_entries_are_read_few_at_a_time() {
        let (page, reads) = read(&log(&[100_000; 60]), LOG_PAGE_ENTRIES);
        assert!(page.has_more && page.entries.len() < 60, "{}", page.entries.len());
        assert_eq!(reads[0], FIRST_ENTRIES);
        assert!(reads[1..].iter().all(|read| read * 100_000 <= READ_BYTES), "{reads:?}");
        // The first read may be as large as its entries are, and is all of the page then.
        assert_eq!(read(&log(&[1_000_000; 60]), LOG_PAGE_ENTRIES).1, [FIRST_ENTRIES]);
    }

    #[test]
    fn what_does_not_follow_is_the_next_pages_to_tell() {
        let log = log(&[300; 40]);
        let mut page = Page::of(LOG_PAGE_ENTRIES, None);
        page.take(log[..FIRST_ENTRIES].to_vec());
        page.take(log[FIRST_ENTRIES + 1..].to_vec());
        assert_eq!(page.wanted(), None);
        assert_eq!(page.into_log_page(), LogPage { entries: log[..FIRST_ENTRIES].to_vec(), has_more: true });
    }

    proptest! {
        /// However large its entries are, page by page tells a log whole, and each page leads on.
        #[test]
        fn pages_tell_a_log_whole(
            bytes in prop::collection::vec(prop::sample::select(vec![0, 300, 100_000, 1_000_000]), 0..40),
            limit in 2_usize..50,
        ) {
            let log = log(&bytes);
            let mut told = 0;
            loop {
                let (page, _) = read(&log[told..], limit);
                prop_assert_eq!(&page.entries[..], &log[told..told + page.entries.len()]);
                told += page.entries.len();
                // Who asks from its own head on gets on only if something comes behind it.
                prop_assert!(!page.has_more || page.entries.len() >= 2 || told == log.len());
                if !page.has_more {
                    break;
                }
            }
            prop_assert_eq!(told, log.len());
        }
    }
}

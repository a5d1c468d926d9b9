//! Who hears which channel.
//!
//! Every message is looked up here, and hardly ever does anything change: so a look takes no lock and waits for nobody, and
//! a change makes a new table that shares all but a few entries with the one before.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use imbl::HashMap;
use mille_shared::PlanId;
use parking_lot::Mutex;

use super::feed::FeedSender;
use crate::backend::Channel;

/// The channels that are heard, and the line of each.
#[derive(Default)]
pub(super) struct Interests {
    table: ArcSwap<HashMap<Channel, Interest>>,
    /// Held while the table is exchanged, so that no change is lost.
    changing: Mutex<()>,
}

/// Who hears a channel, and how often they asked for it: an actor that closes a plan and opens it again may have both under
/// way, in any order.
#[derive(Clone)]
struct Interest {
    feed: FeedSender,
    times: usize,
}

impl Interests {
    /// Calls with the line that hears a channel, if one does.
    pub(super) fn with(&self, channel: Channel, tell: impl FnOnce(&FeedSender)) {
        if let Some(interest) = self.table.load().get(&channel) {
            tell(&interest.feed);
        }
    }

    /// Notes that a line hears a channel once more, or instead of another line.
    pub(super) fn add(&self, channel: Channel, feed: &FeedSender) {
        self.change(|table| {
            let before = table.get(&channel).filter(|interest| interest.feed.is_same(feed));
            let times = before.map_or(1, |interest| interest.times + 1);
            table.insert(channel, Interest { feed: feed.clone(), times });
        });
    }

    /// Notes that nobody hears a channel.
    pub(super) fn remove(&self, channel: Channel) {
        self.change(|table| drop(table.remove(&channel)));
    }

    /// Notes that a line hears a channel so many times less. Answers whether nobody hears it any more because of that.
    pub(super) fn subtract(&self, channel: Channel, feed: &FeedSender, times: usize) -> bool {
        let mut is_over = false;
        self.change(|table| {
            let Some(interest) = table.get_mut(&channel).filter(|interest| interest.feed.is_same(feed)) else { return };
            interest.times = interest.times.saturating_sub(times);
            is_over = interest.times == 0;
            if is_over {
                table.remove(&channel);
            }
        });
        is_over
    }

    /// The plans that are heard, by which line, and how often it asked for each.
    pub(super) fn plans(&self) -> Vec<(PlanId, FeedSender, usize)> {
        let table = self.table.load();
        let plans = table.iter().filter_map(|(channel, Interest { feed, times })| match channel {
            Channel::Plan(plan) => Some((*plan, feed.clone(), *times)),
            _ => None,
        });
        plans.collect()
    }

    /// How many plans are heard.
    pub(super) fn plan_count(&self) -> usize {
        self.table.load().keys().filter(|channel| matches!(channel, Channel::Plan(_))).count()
    }

    /// Every line that hears something, each once.
    pub(super) fn lines(&self) -> Vec<FeedSender> {
        let table = self.table.load();
        let lines: BTreeMap<usize, &FeedSender> =
            table.values().map(|Interest { feed, .. }| (feed.identity(), feed)).collect();
        lines.into_values().cloned().collect()
    }

    /// Every line that hears one of these channels, with those that it hears.
    pub(super) fn lines_of(&self, channels: &[Channel]) -> Vec<(FeedSender, Vec<Channel>)> {
        let table = self.table.load();
        let mut lines: BTreeMap<usize, (FeedSender, Vec<Channel>)> = BTreeMap::new();
        for channel in channels {
            let Some(Interest { feed, .. }) = table.get(channel) else { continue };
            let (_, theirs) = lines.entry(feed.identity()).or_insert_with(|| (feed.clone(), Vec::new()));
            theirs.push(*channel);
        }
        lines.into_values().collect()
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Channel, Interest>)) {
        let _turn = self.changing.lock();
        let mut table = HashMap::clone(&self.table.load());
        change(&mut table);
        self.table.store(Arc::new(table));
    }
}

//! The elements of a plan, in the order they were added, found by id and by place.
//!
//! A copy shares everything with what it was copied from, and a change of one copies the few dozen neighbours of what it
//! changes: so a change costs the same in a small plan and in a large one, and whoever holds a plan never makes the next
//! change dearer than that.

use std::hash::Hash;
use std::sync::Arc;

use imbl::{HashMap, Vector};

/// Elements with their ids.
#[derive(Debug)]
pub(super) struct Elements<K, R> {
    /// Which number each element was given.
    numbers: HashMap<K, u64>,
    /// By number, which is the order in which they were added.
    records: Vector<(u64, Arc<R>)>,
    /// The next element's.
    next: u64,
}

impl<K: Hash + Eq + Clone, R> Elements<K, R> {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn contains_key(&self, id: &K) -> bool {
        self.numbers.contains_key(id)
    }

    pub(super) fn get(&self, id: &K) -> Option<&Arc<R>> {
        self.get_full(id).map(|(_, record)| record)
    }

    /// The element and its place, counted from 0.
    pub(super) fn get_full(&self, id: &K) -> Option<(usize, &Arc<R>)> {
        let place = self.place(id)?;
        self.records.get(place).map(|(_, record)| (place, record))
    }

    /// The element and its place, counted from 0, to be changed.
    pub(super) fn get_full_mut(&mut self, id: &K) -> Option<(usize, &mut Arc<R>)> {
        let place = self.place(id)?;
        self.records.get_mut(place).map(|(_, record)| (place, record))
    }

    /// Adds one behind all others. Its id must be new.
    pub(super) fn push(&mut self, id: K, record: Arc<R>) {
        let former = self.numbers.insert(id, self.next);
        debug_assert!(former.is_none(), "an element is added once");
        self.records.push_back((self.next, record));
        self.next += 1;
    }

    /// Takes one out; those behind it move up. Answers where it was.
    pub(super) fn remove(&mut self, id: &K) -> Option<(usize, Arc<R>)> {
        let place = self.place(id)?;
        self.numbers.remove(id);
        let (_, record) = self.records.remove(place);
        Some((place, record))
    }

    pub(super) fn values(&self) -> impl ExactSizeIterator<Item = &Arc<R>> {
        self.records.iter().map(|(_, record)| record)
    }

    /// Where an element is now. Numbers grow with places, and none is behind the place that its number names: as many as were
    /// taken out before it, it has moved up.
    fn place(&self, id: &K) -> Option<usize> {
        let number = *self.numbers.get(id)?;
        let last = self.records.len().checked_sub(1)?;
        let farthest = usize::try_from(number).map_or(last, |place| place.min(last));
        if self.records.get(farthest).is_some_and(|(other, _)| *other == number) {
            return Some(farthest);
        }
        self.records.binary_search_by_key(&number, |(other, _)| *other).ok()
    }
}

impl<K, R> Clone for Elements<K, R>
where
    HashMap<K, u64>: Clone,
{
    fn clone(&self) -> Self {
        Self { numbers: self.numbers.clone(), records: self.records.clone(), next: self.next }
    }
}

impl<K, R> Default for Elements<K, R> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), records: Vector::new(), next: 0 }
    }
}

/// The same elements in the same order; what was there before them does not count.
impl<K, R: PartialEq> PartialEq for Elements<K, R> {
    fn eq(&self, other: &Self) -> bool {
        self.records.len() == other.records.len()
            && self.records.iter().zip(&other.records).all(|((_, one), (_, other))| one == other)
    }
}

/// Of several with one id, the last counts, at the place of the first.
impl<K: Hash + Eq + Clone, R> FromIterator<(K, Arc<R>)> for Elements<K, R> {
    fn from_iter<T: IntoIterator<Item = (K, Arc<R>)>>(elements: T) -> Self {
        let mut all = Self::default();
        for (id, record) in elements {
            match all.get_full_mut(&id) {
                Some((_, former)) => *former = record,
                None => all.push(id, record),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However elements come, go and change, they are where an ordered map has them, and a copy stays as it was.
        #[test]
        fn elements_are_found_where_they_are(steps in vec((0_u8..4, 0_u32..200), 0..600)) {
            let mut elements: Elements<u32, u64> = Elements::default();
            let mut model: IndexMap<u32, u64> = IndexMap::new();
            let mut copy = (elements.clone(), model.clone());
            for (turn, (what, id)) in (0_u64..).zip(steps) {
                match what {
                    0 => prop_assert_eq!(
                        elements.remove(&id).map(|(place, record)| (place, *record)),
                        model.shift_remove_full(&id).map(|(place, _, record)| (place, record))
                    ),
                    1 => {
                        let expected = model.get_full_mut(&id).map(|(place, _, record)| {
                            *record = turn;
                            place
                        });
                        let changed = elements.get_full_mut(&id).map(|(place, record)| {
                            *Arc::make_mut(record) = turn;
                            place
                        });
                        prop_assert_eq!(changed, expected);
                    }
                    _ if model.contains_key(&id) => {
                        prop_assert_eq!(elements.get(&id).map(|record| **record), model.get(&id).copied());
                    }
                    _ => {
                        elements.push(id, Arc::new(turn));
                        model.insert(id, turn);
                    }
                }
                prop_assert_eq!(elements.len(), model.len());
                if turn % 50 == 0 {
                    let (elements, model) = std::mem::replace(&mut copy, (elements.clone(), model.clone()));
                    prop_assert!(elements.values().map(|record| **record).eq(model.values().copied()));
                }
            }
            prop_assert!(elements.values().map(|record| **record).eq(model.values().copied()));
        }
    }
}

//! Which links of the chain are there, since when, and which of them nobody needs any more. Pure.
//!
//! A state in the past is its checkpoint and the links behind it. So a link is needed as long as the first
//! checkpoint behind it is younger than what must be restorable (`manifests.keep_secs`), and while a process
//! may still read the chain from there.

use std::collections::{BTreeMap, BTreeSet};

use super::manifest::CHECKPOINT_EVERY;
use contracts::clock::TimestampMs;

/// Links kept before the last checkpoint, for processes that are still reading the chain from an earlier one.
const KEPT_LINKS: u64 = CHECKPOINT_EVERY;

/// The numbers of the links that exist, and when each was written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Links {
    known: BTreeMap<u64, TimestampMs>,
    /// Those before are not known, whether or not they exist.
    from: u64,
}

impl Links {
    /// All links, as they were found. One whose time is not known counts as old.
    pub fn new(found: impl IntoIterator<Item = (u64, TimestampMs)>) -> Self {
        Self::from(0, found)
    }

    /// The links from the first number on.
    pub(crate) fn from(first: u64, found: impl IntoIterator<Item = (u64, TimestampMs)>) -> Self {
        Self { known: found.into_iter().collect(), from: first }
    }

    /// Whether those that are known are all that exist.
    pub(crate) fn are_all(&self) -> bool {
        self.from == 0
    }

    /// Adds those before the first that is known, out of a list of all.
    pub(crate) fn complete(&mut self, listed: Self) {
        let earlier = listed.known.into_iter().filter(|(number, _)| *number < self.from);
        self.known.extend(earlier);
        self.from = listed.from;
    }

    /// One more link.
    pub(crate) fn add(&mut self, number: u64, written_ms: TimestampMs) {
        self.known.insert(number, written_ms);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The last of them.
    pub fn last(&self) -> Option<u64> {
        self.known.keys().next_back().copied()
    }

    /// Whether there is one with this number.
    pub fn contains(&self, number: u64) -> bool {
        self.known.contains_key(&number)
    }

    /// Their numbers, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.known.keys().copied()
    }

    /// Leaves out those behind `last`.
    pub(crate) fn end_with(&mut self, last: u64) {
        self.known.retain(|number, _| *number <= last);
    }

    /// The checkpoint from which the state after link `number` can be read: all links from there to it exist.
    pub fn checkpoint_of(&self, number: u64) -> Option<u64> {
        let checkpoint = number - number % CHECKPOINT_EVERY;
        let links = self.known.range(checkpoint..=number).count() as u64;
        (links == number - checkpoint + 1).then_some(checkpoint)
    }

    /// The numbers of all links after which the state can be read, in order.
    pub fn readable(&self) -> Vec<u64> {
        let (mut readable, mut follows) = (Vec::new(), None);
        for number in self.numbers() {
            if number.is_multiple_of(CHECKPOINT_EVERY) || follows == Some(number) {
                readable.push(number);
                follows = Some(number + 1);
            }
        }
        readable
    }

    /// Takes out the links that nobody needs: those before the last checkpoint that was written by
    /// `before_ms` and is not among the last ones. The first link of an epoch stays for ever.
    pub(crate) fn take_outdated(
        &mut self,
        checkpoint: u64,
        openings: &BTreeSet<u64>,
        before_ms: TimestampMs,
    ) -> Vec<u64> {
        let old = self.known.range(..=checkpoint.saturating_sub(KEPT_LINKS)).rev();
        let mut old = old
            .filter(|(number, since_ms)| number.is_multiple_of(CHECKPOINT_EVERY) && **since_ms <= before_ms);
        let Some(first_kept) = old.next().map(|(number, _)| *number) else { return Vec::new() };
        let outdated: Vec<u64> = self
            .known
            .range(..first_kept)
            .map(|(number, _)| *number)
            .filter(|n| !openings.contains(n))
            .collect();
        outdated.iter().for_each(|number| _ = self.known.remove(number));
        outdated
    }

    /// Puts back those that could not be deleted.
    pub(crate) fn put_back(&mut self, numbers: Vec<u64>) {
        self.known.extend(numbers.into_iter().map(|number| (number, TimestampMs::MIN)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links from 0, one a second.
    fn links(end: u64) -> Links {
        Links::new((0..end).map(|number| (number, number as TimestampMs * 1000)))
    }

    fn outdated(links: &mut Links, before_ms: TimestampMs) -> Vec<u64> {
        let last = links.last().unwrap();
        links.take_outdated(last - last % CHECKPOINT_EVERY, &BTreeSet::from([0, 150]), before_ms)
    }

    #[test]
    fn old_links_go_by_their_age_and_never_the_last_ones() {
        let mut links = links(450);
        assert_eq!(outdated(&mut links, 99_000), [0; 0], "a state of that time needs them");
        assert_eq!(outdated(&mut links, 199_999), (1..100).collect::<Vec<_>>(), "100 was there by then");
        let next: Vec<u64> = (100..300).filter(|number| *number != 150).collect();
        assert_eq!(outdated(&mut links, TimestampMs::MAX), next, "and 300 to 449 stay");
        assert_eq!(outdated(&mut links, TimestampMs::MAX), [0; 0]);
        links.put_back(vec![120, 121]);
        assert_eq!(outdated(&mut links, 300_000), [120, 121]);
        assert!(links.contains(0) && links.contains(150), "what began an epoch stays");
    }

    #[test]
    fn those_before_the_first_that_is_known_are_added_once() {
        let mut some = Links::from(300, (300..450).map(|number| (number, 7)));
        assert!(!some.are_all());
        some.complete(links(449));
        assert!(some.are_all() && some.numbers().eq(0..450));
        assert_eq!((some.known[&299], some.known[&300]), (299_000, 7), "what was known stays");
    }

    #[test]
    fn a_state_can_be_read_where_no_link_is_missing() {
        let mut links = links(250);
        assert_eq!((links.checkpoint_of(199), links.checkpoint_of(200)), (Some(100), Some(200)));
        links.known.remove(&150);
        assert_eq!((links.checkpoint_of(149), links.checkpoint_of(151)), (Some(100), None));
        assert_eq!(links.checkpoint_of(250), None);
        let readable: Vec<u64> = (0..150).chain(200..250).collect();
        assert_eq!(links.readable(), readable);
    }
}

//! The next records of partitions, the least first.

use std::collections::BTreeSet;

use super::super::order::Head;

/// Heads in order. The first stands beside the others: mostly the next one is of the same partition, and the
/// others are only looked at.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// The least; `None` if there are none.
    first: Option<Head>,
    others: BTreeSet<Head>,
}

impl Heads {
    /// The least.
    pub(super) fn first(&self) -> Option<Head> {
        self.first
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    /// Adds one that is not there.
    pub(super) fn insert(&mut self, head: Head) {
        let greater = match self.first {
            Some(first) if first < head => Some(head),
            first => {
                self.first = Some(head);
                first
            }
        };
        self.others.extend(greater);
    }

    /// Takes the least away, and adds `next` for it.
    pub(super) fn replace_first(&mut self, next: Option<Head>) {
        if next.is_some_and(|next| self.others.first().is_none_or(|other| next < *other)) {
            self.first = next;
            return;
        }
        self.first = self.others.pop_first();
        if let Some(next) = next {
            self.insert(next);
        }
    }

    /// Takes the greatest away.
    pub(super) fn pop_last(&mut self) -> Option<Head> {
        self.others.pop_last().or_else(|| self.first.take())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is done to heads; their times are chosen, their partitions are numbers of their own.
    #[derive(Debug, Clone)]
    enum HeadStep {
        Insert(i64),
        ReplaceFirst(Option<i64>),
        PopLast,
    }

    fn step() -> impl Strategy<Value = HeadStep> {
        prop_oneof![
            (0..9_i64).prop_map(HeadStep::Insert),
            prop::option::of(0..9_i64).prop_map(HeadStep::ReplaceFirst),
            Just(HeadStep::PopLast),
        ]
    }

    proptest! {
        #[test]
        fn they_are_in_order_as_a_set_is(steps in prop::collection::vec(step(), 0..40)) {
            let (mut heads, mut set) = (Heads::default(), BTreeSet::new());
            for (number, step) in (0_u32..).zip(steps) {
                match step {
                    HeadStep::Insert(time) => {
                        heads.insert((time, number));
                        set.insert((time, number));
                    }
                    HeadStep::ReplaceFirst(time) => {
                        let next = time.map(|time| (time, number));
                        heads.replace_first(next);
                        set.pop_first();
                        set.extend(next);
                    }
                    HeadStep::PopLast => {
                        prop_assert_eq!(heads.pop_last(), set.pop_last());
                    }
                }
                prop_assert_eq!((heads.first(), heads.len()), (set.first().copied(), set.len()));
            }
        }
    }
}

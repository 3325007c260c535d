//! Filters of a frame's keys and types: they tell most frames apart that cannot hold what a read looks for.
//!
//! A Bloom filter has ten bits for each distinct value, in whole bytes, and none where there is no value.
//! Bit `n` is bit `n % 8` of byte `n / 8`, the lowest first. A value sets seven of them: with `h` the FNV-1a
//! hash of 64 bits of its bytes, mixed as SplitMix64 mixes, `low` and `high` the halves of `h`, and `step =
//! high | 1`, these are `(low + i * step) mod bits` for `i` from 0 to 6, in 64 bits. One value in a hundred
//! and twenty that is not there seems to be. All of it is part of the format, so it never changes.

use bytes::Bytes;

use contracts::{
    event::{Event, EventKey},
    filter::{EventCondition, EventField, ReadFilter, TextPattern},
};

const BITS_PER_VALUE: usize = 10;
const PROBES: u64 = 7;
/// The header whose values are in the filter of types.
const TYPE: &str = "type";

/// The filters of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameFilters {
    /// Of the keys of its events.
    pub keys: Bytes,
    /// Of what their header `type` says.
    pub types: Bytes,
}

/// The hashes of the values of a frame that is being written or read.
#[derive(Debug, Default)]
pub(super) struct FrameValues {
    keys: Vec<u64>,
    types: Vec<u64>,
}

impl FrameValues {
    /// Adds what an event has.
    pub(super) fn add(&mut self, event: &Event) {
        self.keys.extend(event.key.as_ref().map(EventKey::as_str).map(hash));
        self.types.extend(event.headers.get(TYPE).map(|text| hash(text)));
    }

    /// Ends the frame.
    pub(super) fn end(&mut self) -> FrameFilters {
        FrameFilters { keys: filter(&mut self.keys), types: filter(&mut self.types) }
    }
}

/// The filter of some values, which are forgotten.
fn filter(values: &mut Vec<u64>) -> Bytes {
    values.sort_unstable();
    values.dedup();
    let mut bytes = vec![0u8; (values.len() * BITS_PER_VALUE).div_ceil(8)];
    for value in values.drain(..) {
        for place in places(value, bytes.len()) {
            bytes[place / 8] |= 1 << (place % 8);
        }
    }
    bytes.into()
}

/// The bits of a value in a filter of so many bytes, of which there is at least one.
fn places(hash: u64, bytes: usize) -> impl Iterator<Item = usize> {
    let (low, step, bits) = (hash & 0xffff_ffff, (hash >> 32) | 1, 8 * bytes as u64);
    (0..PROBES).map(move |number| ((low + number * step) % bits) as usize)
}

fn hash(text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn may_hold(filter: &[u8], hash: u64) -> bool {
    !filter.is_empty() && places(hash, filter.len()).all(|place| filter[place / 8] & (1 << (place % 8)) != 0)
}

/// What a read looks for in filters: hashed once for all frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sought {
    keys: Vec<u64>,
    types: Vec<u64>,
}

impl Sought {
    /// What the events that a filter wants must have. A prefix and other headers are in no filter.
    pub(super) fn of(filter: &ReadFilter) -> Self {
        let mut sought = Self::default();
        for EventCondition { field, pattern } in filter.conditions.iter() {
            match (field, pattern) {
                (EventField::Key, TextPattern::Exact(text)) => sought.keys.push(hash(text)),
                (EventField::Header(name), TextPattern::Exact(text)) if name == TYPE => {
                    sought.types.push(hash(text));
                }
                _ => {}
            }
        }
        sought
    }

    /// Whether a frame with these filters may hold it all.
    pub(super) fn may_be_in(&self, filters: &FrameFilters) -> bool {
        self.keys.iter().all(|hash| may_hold(&filters.keys, *hash))
            && self.types.iter().all(|hash| may_hold(&filters.types, *hash))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter_of(texts: &[&str]) -> Bytes {
        filter(&mut texts.iter().map(|text| hash(text)).collect())
    }

    /// Computed apart from this program, by the words above.
    #[test]
    fn the_bits_are_what_they_always_were() {
        for (text, hashed) in GOLDEN_HASHES {
            assert_eq!(hash(text), hashed, "{text}");
        }
        for (texts, bytes) in GOLDEN_FILTERS {
            assert_eq!(filter_of(texts).as_ref(), bytes, "{texts:?}");
        }
    }

    const GOLDEN_HASHES: [(&str, u64); 5] = [
        ("", 0xf52a_15e9_a9b5_e89b),
        ("a", 0x02c0_bdbf_4814_20f8),
        ("customer 7", 0x17b3_de55_2ef4_6030),
        ("order.paid", 0xb7e3_bd9c_667f_1db3),
        ("\u{e9}", 0x2334_0361_7480_019e),
    ];

    const GOLDEN_FILTERS: [(&[&str], &[u8]); 4] = [
        (&[], &[]),
        (&["order.paid"], &[0x9b, 0x24]),
        (&["customer 7", "a \"b\"\\"], &[0x34, 0x6b, 0x96]),
        (&["a", "b", "c", "d", "e", "a"], &[0x04, 0xc7, 0x35, 0x98, 0x83, 0xeb, 0x50]),
    ];

    #[test]
    fn few_frames_are_read_in_vain() {
        let values: Vec<String> = (0..2000).map(|number| format!("customer-{number}")).collect();
        let keys = filter(&mut values.iter().map(|text| hash(text)).collect());
        assert_eq!(keys.len(), 2500);
        let in_vain = (0..10_000).filter(|number| may_hold(&keys, hash(&format!("order-{number}")))).count();
        assert!(in_vain < 200, "{in_vain} of 10,000");
    }

    #[test]
    fn only_whole_keys_and_types_are_sought() {
        let condition =
            |field: EventField, text: &str| EventCondition { field, pattern: TextPattern::parse(text) };
        let header = |name: &str| EventField::Header(name.to_owned());
        let of = |conditions: &[EventCondition]| {
            Sought::of(&ReadFilter { conditions: conditions.into(), ..ReadFilter::default() })
        };
        for condition in [
            condition(EventField::Key, "a*"),
            condition(header("type"), "a*"),
            condition(header("subject"), "a"),
            condition(header("Type"), "a"),
        ] {
            assert_eq!(of(std::slice::from_ref(&condition)), Sought::default(), "{condition:?}");
        }
        let sought = of(&[condition(EventField::Key, "k"), condition(header("type"), "t")]);
        for (keys, types, may_be) in [
            (vec!["k", "l"], vec!["t"], true),
            (vec!["k"], vec![], false),
            (vec![], vec!["t"], false),
            (vec!["l"], vec!["t"], false),
        ] {
            let filters = FrameFilters { keys: filter_of(&keys), types: filter_of(&types) };
            assert_eq!(sought.may_be_in(&filters), may_be, "{keys:?} {types:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_there_is_never_missed(texts in prop::collection::vec(any::<String>(), 0..50)) {
            let filter = filter(&mut texts.iter().map(|text| hash(text)).collect());
            prop_assert!(texts.iter().all(|text| may_hold(&filter, hash(text))));
        }
    }
}

//! The cursor of a read: the position in each partition and the filters of the read, as one opaque string.
//!
//! `base64url( version | flags | since? | until? | partition? | conditions? | base | width | runs | (gap,
//! length)* | differences | CRC32C )`, with numbers as varints. A run is of partitions with consecutive
//! numbers; each position is `base` plus a difference of `width` bits, the lowest bit first. Positions in a
//! table are mostly close to each other, so a thousand of them fit into a header. Conditions are `count |
//! (kind | name? | text)*`, each text behind its length. The checksum covers the table's name too, so that a
//! cursor of another table, or one made by hand, is refused.
//!
//! A read without conditions that goes forward has version 2, so that the program before this one can go on
//! with it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::encoding::{decode_varint, encode_varint};

use super::{Positions, ReadQuery};
use contracts::{
    filter::{EventCondition, EventField, ReadFilter, TextPattern, TimeFilter},
    name::TableName,
    read::ReadOrder,
    sequence::Offset,
    zigzag::{unzigzag, zigzag},
};

const VERSION: u8 = 3;
/// What has neither conditions nor another order than the usual one.
const PLAIN: u8 = 2;
/// Earlier versions gave cursors with `count | (partition, offset)*` after the filters, and consumers have
/// stored them.
const PAIRS: u8 = 1;
const SINCE: u8 = 1;
const UNTIL: u8 = 2;
const PARTITION: u8 = 4;
const CONDITIONS: u8 = 8;
const NEWEST: u8 = 16;
/// The flags that a version 2 or 1 may have.
const PLAIN_FLAGS: u8 = SINCE | UNTIL | PARTITION;
/// The kind of a condition: whether it is about a header, and whether its text is a prefix.
const OF_HEADER: u64 = 1;
const OF_PREFIX: u64 = 2;
/// Partitions that a cursor names at most. Equal positions take no bytes, so without a limit a few bytes
/// could claim billions.
const MAX_PARTITIONS: u64 = 1 << 16;

/// The text is not a cursor that a read of this table has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that a read of this table has given")]
pub struct BadCursor;

/// The cursor with which `query` continues at `next`.
pub fn encode(query: &ReadQuery, next: &Positions) -> String {
    let TimeFilter { since, until } = query.filter.time;
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = flag(since.is_some(), SINCE)
        | flag(until.is_some(), UNTIL)
        | flag(query.partition.is_some(), PARTITION)
        | flag(query.filter.looks_into_events(), CONDITIONS)
        | flag(query.order == ReadOrder::Newest, NEWEST);
    let mut bytes = vec![if flags & !PLAIN_FLAGS == 0 { PLAIN } else { VERSION }, flags];
    for bound in [since, until].into_iter().flatten() {
        encode_varint(zigzag(bound), &mut bytes);
    }
    if let Some(number) = query.partition {
        encode_varint(number.into(), &mut bytes);
    }
    if query.filter.looks_into_events() {
        encode_conditions(&query.filter.conditions, &mut bytes);
    }
    encode_positions(next, &mut bytes);
    let checksum = checksum(&query.table, &bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The read that a cursor continues.
///
/// # Errors
/// [`BadCursor`], whatever is wrong with it.
pub fn decode(table: &TableName, text: &str) -> Result<ReadQuery, BadCursor> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)?;
    let (body, stored) = bytes.split_last_chunk::<4>().ok_or(BadCursor)?;
    if u32::from_le_bytes(*stored) != checksum(table, body) {
        return Err(BadCursor);
    }
    let [version, flags, rest @ ..] = body else { return Err(BadCursor) };
    let mut rest = rest;
    let mut bound = |bit| (flags & bit != 0).then(|| number(&mut rest)).transpose();
    let (since, until, partition) = (bound(SINCE)?, bound(UNTIL)?, bound(PARTITION)?);
    let partition = partition.map(u32::try_from).transpose().map_err(|_| BadCursor)?;
    let conditions = match flags & CONDITIONS {
        0 => Vec::new(),
        _ => decode_conditions(&mut rest)?,
    };
    let from = match *version {
        VERSION if flags & !(PLAIN_FLAGS | CONDITIONS | NEWEST) == 0 => decode_positions(rest)?,
        PLAIN if flags & !PLAIN_FLAGS == 0 => decode_positions(rest)?,
        PAIRS if flags & !PLAIN_FLAGS == 0 => decode_pairs(rest)?,
        _ => return Err(BadCursor),
    };
    let time = TimeFilter { since: since.map(unzigzag), until: until.map(unzigzag) };
    let filter = ReadFilter { time, conditions: conditions.into() };
    let order = if flags & NEWEST == 0 { ReadOrder::Oldest } else { ReadOrder::Newest };
    Ok(ReadQuery { table: table.clone(), partition, filter, order, from })
}

fn encode_conditions(conditions: &[EventCondition], bytes: &mut Vec<u8>) {
    encode_varint(conditions.len() as u64, bytes);
    for EventCondition { field, pattern } in conditions {
        let (of_field, name) = match field {
            EventField::Key => (0, None),
            EventField::Header(name) => (OF_HEADER, Some(name)),
        };
        let (of_pattern, text) = match pattern {
            TextPattern::Exact(text) => (0, text),
            TextPattern::Prefix(text) => (OF_PREFIX, text),
        };
        encode_varint(of_field | of_pattern, bytes);
        for text in name.into_iter().chain([text]) {
            encode_varint(text.len() as u64, bytes);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
}

fn decode_conditions(bytes: &mut &[u8]) -> Result<Vec<EventCondition>, BadCursor> {
    let count = number(bytes)?;
    if !(1..=ReadFilter::MAX_CONDITIONS as u64).contains(&count) {
        return Err(BadCursor);
    }
    let mut conditions = Vec::new();
    for _ in 0..count {
        let kind = number(bytes)?;
        let field = match kind & OF_HEADER {
            0 => EventField::Key,
            _ => EventField::Header(text(bytes)?),
        };
        let pattern = match kind & !OF_HEADER {
            0 => TextPattern::Exact(text(bytes)?),
            OF_PREFIX => TextPattern::Prefix(text(bytes)?),
            _ => return Err(BadCursor),
        };
        conditions.push(EventCondition { field, pattern });
    }
    Ok(conditions)
}

fn text(bytes: &mut &[u8]) -> Result<String, BadCursor> {
    let length = usize::try_from(number(bytes)?).map_err(|_| BadCursor)?;
    let (text, rest) = bytes.split_at_checked(length).ok_or(BadCursor)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| BadCursor)
}

fn encode_positions(positions: &Positions, bytes: &mut Vec<u8>) {
    let base = positions.values().min().copied().unwrap_or(0);
    let width = positions.values().max().map_or(0, |most| 64 - (most - base).leading_zeros());
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in positions.keys() {
        match runs.last_mut() {
            Some((first, length)) if first.checked_add(*length) == Some(number) => *length += 1,
            _ => runs.push((number, 1)),
        }
    }
    encode_varint(base, bytes);
    encode_varint(width.into(), bytes);
    encode_varint(runs.len() as u64, bytes);
    let mut end = 0;
    for (first, length) in runs {
        encode_varint((first - end).into(), bytes);
        encode_varint(length.into(), bytes);
        end = first.saturating_add(length);
    }
    let (mut packed, mut filled) = (0u128, 0);
    for position in positions.values() {
        packed |= u128::from(position - base) << filled;
        filled += width;
        while filled >= 8 {
            bytes.push(packed.to_le_bytes()[0]);
            packed >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        bytes.push(packed.to_le_bytes()[0]);
    }
}

fn decode_positions(mut bytes: &[u8]) -> Result<Positions, BadCursor> {
    let (base, width, runs) = (number(&mut bytes)?, number(&mut bytes)?, number(&mut bytes)?);
    let width = u32::try_from(width).ok().filter(|width| *width <= 64).ok_or(BadCursor)?;
    let (mut numbers, mut end) = (Vec::new(), 0u64);
    for _ in 0..runs {
        let first = end.checked_add(number(&mut bytes)?).ok_or(BadCursor)?;
        let length = number(&mut bytes)?;
        end = first.checked_add(length).filter(|end| *end <= 1 << 32).ok_or(BadCursor)?;
        if length > MAX_PARTITIONS - numbers.len() as u64 {
            return Err(BadCursor);
        }
        numbers.extend((first..end).filter_map(|number| u32::try_from(number).ok()));
    }
    let (mut packed, mut filled, mut positions) = (0u128, 0, Positions::new());
    for number in numbers {
        while filled < width {
            let (byte, rest) = bytes.split_first().ok_or(BadCursor)?;
            packed |= u128::from(*byte) << filled;
            filled += 8;
            bytes = rest;
        }
        let difference = packed & ((1u128 << width) - 1);
        let position = u64::try_from(difference).ok().and_then(|difference| base.checked_add(difference));
        positions.insert(number, position.ok_or(BadCursor)?);
        packed >>= width;
        filled -= width;
    }
    if bytes.is_empty() { Ok(positions) } else { Err(BadCursor) }
}

fn decode_pairs(mut bytes: &[u8]) -> Result<Positions, BadCursor> {
    let mut positions = Positions::new();
    for _ in 0..number(&mut bytes)? {
        let partition = u32::try_from(number(&mut bytes)?).map_err(|_| BadCursor)?;
        positions.insert(partition, number(&mut bytes)?);
    }
    if bytes.is_empty() { Ok(positions) } else { Err(BadCursor) }
}

fn number(bytes: &mut &[u8]) -> Result<Offset, BadCursor> {
    decode_varint(bytes).map_err(|_| BadCursor)
}

fn checksum(table: &TableName, body: &[u8]) -> u32 {
    let table = if contracts::mutant("cursor_of_table") { "" } else { table.as_str() };
    crc32c::crc32c_append(crc32c::crc32c(table.as_bytes()), body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(name: &str) -> TableName {
        TableName::parse(name).unwrap()
    }

    fn query(partition: Option<u32>, filter: impl Into<ReadFilter>) -> ReadQuery {
        ReadQuery {
            table: table("t"),
            partition,
            filter: filter.into(),
            order: ReadOrder::Oldest,
            from: Positions::new(),
        }
    }

    fn condition() -> impl Strategy<Value = EventCondition> {
        let field = prop_oneof![Just(EventField::Key), any::<String>().prop_map(EventField::Header)];
        let pattern = prop_oneof![
            any::<String>().prop_map(TextPattern::Exact),
            any::<String>().prop_map(TextPattern::Prefix),
        ];
        (field, pattern).prop_map(|(field, pattern)| EventCondition { field, pattern })
    }

    /// Any read of the table.
    fn any_query() -> impl Strategy<Value = ReadQuery> {
        let time = any::<(Option<i64>, Option<i64>)>();
        let conditions = prop::collection::vec(condition(), 0..4);
        (time, conditions, any::<Option<u32>>(), any::<bool>()).prop_map(
            |((since, until), conditions, partition, is_newest)| {
                let filter = ReadFilter { time: TimeFilter { since, until }, conditions: conditions.into() };
                let order = if is_newest { ReadOrder::Newest } else { ReadOrder::Oldest };
                ReadQuery { order, ..query(partition, filter) }
            },
        )
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(query in any_query(), next: Positions) {
            let cursor = encode(&query, &next);
            let decoded = decode(&table("t"), &cursor).unwrap();
            prop_assert_eq!(
                (decoded.partition, decoded.filter, decoded.order, decoded.from),
                (query.partition, query.filter, query.order, next)
            );
            prop_assert!(decode(&table("u"), &cursor).is_err());
        }

        #[test]
        fn positions_near_each_other_come_out_too(
            base: u64,
            near in prop::collection::btree_map(0u32..40, 0u64..100, 0..40),
        ) {
            let next: Positions =
                near.into_iter().map(|(number, more)| (number, base.saturating_add(more))).collect();
            let cursor = encode(&query(None, TimeFilter::default()), &next);
            prop_assert_eq!(decode(&table("t"), &cursor).unwrap().from, next);
        }

        #[test]
        fn nothing_else_is_a_cursor(text: String, bytes: Vec<u8>) {
            prop_assert!(decode(&table("t"), &text).is_err());
            prop_assert!(decode(&table("t"), &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }
    }

    #[test]
    fn a_thousand_partitions_fit_into_a_header() {
        let length = |position: fn(u64) -> u64| {
            let next = (0..1000).map(|number| (number, position(number.into()))).collect();
            encode(&query(Some(7), TimeFilter { since: Some(i64::MIN), until: Some(i64::MAX) }), &next).len()
        };
        assert!(length(|number| (1 << 50) + number * 4190) <= 4096);
        assert!(length(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24) <= 9216);
        // Every second partition only.
        let sparse = (0..512).map(|number| (number * 2, (1 << 40) + u64::from(number) * 8000)).collect();
        assert!(encode(&query(None, TimeFilter::default()), &sparse).len() <= 4096);
    }

    #[test]
    fn filters_add_their_own_bytes_and_nothing_else() {
        let next: Positions =
            (0..1000).map(|number| (number, (1 << 40) + u64::from(number) * 4000)).collect();
        let condition = |name: &str, text: &str| EventCondition {
            field: EventField::Header(name.to_owned()),
            pattern: TextPattern::parse(text),
        };
        let plain = encode(&query(None, TimeFilter::default()), &next).len();
        let conditions = [condition("type", "order.*"), condition("subject", "7")].into();
        let filtered = encode(&query(None, ReadFilter { conditions, ..ReadFilter::default() }), &next).len();
        // A count, a kind and two lengths for each condition, in base64.
        let own = "typeorder.subject7".len() + 1 + 2 * 3;
        assert!(filtered - plain <= own * 4 / 3 + 2, "{plain} and {filtered} bytes");
        assert!(plain <= 4096);
    }

    #[test]
    fn conditions_that_claim_too_much_are_refused() {
        let cursor = |conditions: &[u8]| {
            let mut bytes = [&[VERSION, CONDITIONS], conditions, &[0, 0, 0]].concat();
            let checksum = checksum(&table("t"), &bytes);
            bytes.extend_from_slice(&checksum.to_le_bytes());
            decode(&table("t"), &URL_SAFE_NO_PAD.encode(bytes)).map(|query| query.filter.conditions.len())
        };
        assert_eq!(cursor(&[1, 0, 1, b'a']), Ok(1));
        for wrong in [
            &[0][..],
            &[1, 0, 200, 1, b'a'],
            &[1, 4, 1, b'a'],
            &[1, 0, 1, 0xFF],
            &[0xFF, 0xFF, 3, 0, 0],
            &[1, 1, 1, b'a'],
        ] {
            assert_eq!(cursor(wrong), Err(BadCursor), "{wrong:?}");
        }
        // No earlier program gave a cursor with flags that it did not know.
        for version in [PLAIN, PAIRS] {
            let mut bytes = vec![version, NEWEST, 0, 0, 0];
            let checksum = checksum(&table("t"), &bytes);
            bytes.extend_from_slice(&checksum.to_le_bytes());
            assert!(decode(&table("t"), &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }
    }

    #[test]
    fn cursors_of_earlier_programs_go_on() {
        let given = "AQMKgKCInJ56AgABAwFKn73k";
        let decoded = decode(&table("t"), given).unwrap();
        let filter = TimeFilter { since: Some(5), until: Some(2_100_000_000_000) };
        assert_eq!(
            (decoded.partition, decoded.filter, decoded.from),
            (None, filter.into(), Positions::from([(0, 1), (3, 1)]))
        );
        assert!(decode(&table("u"), given).is_err());
    }

    #[test]
    fn a_few_bytes_never_become_many_partitions() {
        let mut bytes = vec![VERSION, 0];
        for number in [5, 0, 1, 0, 1 << 31] {
            encode_varint(number, &mut bytes);
        }
        let checksum = checksum(&table("t"), &bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode(&table("t"), &URL_SAFE_NO_PAD.encode(bytes)).unwrap_err(), BadCursor);
    }
}

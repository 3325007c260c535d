//! The cursor of a read: where each partition stands and the filters of the read, as one opaque word.
//!
//! `base64url( 1 | flags | since? | until? | partition? | count | (partition, offset)* | CRC32C )`, numbers as varints. The
//! checksum covers the table's name too, so that a cursor of another table, or one made by hand, is refused.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::encoding::{decode_varint, encode_varint};

use super::{Positions, ReadQuery};
use crate::contracts::{name::TableName, storage::TimeFilter};

const VERSION: u8 = 1;
const SINCE: u8 = 1;
const UNTIL: u8 = 2;
const PARTITION: u8 = 4;

/// Not a cursor that this table's reads have given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that a read of this table has given")]
pub struct BadCursor;

/// The cursor with which `query` goes on at `next`.
pub fn encode(query: &ReadQuery, next: &Positions) -> String {
    let TimeFilter { since, until } = query.filter;
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = flag(since.is_some(), SINCE) | flag(until.is_some(), UNTIL) | flag(query.partition.is_some(), PARTITION);
    let mut bytes = vec![VERSION, flags];
    for bound in [since, until].into_iter().flatten() {
        encode_varint(zigzag(bound), &mut bytes);
    }
    if let Some(number) = query.partition {
        encode_varint(number.into(), &mut bytes);
    }
    encode_varint(next.len() as u64, &mut bytes);
    for (&number, &offset) in next {
        encode_varint(number.into(), &mut bytes);
        encode_varint(offset, &mut bytes);
    }
    let checksum = checksum(&query.table, &bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The read that a cursor goes on with.
///
/// # Errors
/// [`BadCursor`] whatever is wrong with it.
pub fn decode(table: &TableName, text: &str) -> Result<ReadQuery, BadCursor> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)?;
    let (body, stored) = bytes.split_last_chunk::<4>().ok_or(BadCursor)?;
    if u32::from_le_bytes(*stored) != checksum(table, body) {
        return Err(BadCursor);
    }
    let [VERSION, flags, rest @ ..] = body else { return Err(BadCursor) };
    let mut rest = rest;
    let mut number = || decode_varint(&mut rest).map_err(|_| BadCursor);
    let mut bound = |bit| (flags & bit != 0).then(&mut number).transpose();
    let (since, until, partition) = (bound(SINCE)?, bound(UNTIL)?, bound(PARTITION)?);
    let partition = partition.map(u32::try_from).transpose().map_err(|_| BadCursor)?;
    let mut from = Positions::new();
    for _ in 0..number()? {
        let partition = u32::try_from(number()?).map_err(|_| BadCursor)?;
        from.insert(partition, number()?);
    }
    let filter = TimeFilter { since: since.map(unzigzag), until: until.map(unzigzag) };
    Ok(ReadQuery { table: table.clone(), partition, filter, from })
}

fn checksum(table: &TableName, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(table.as_str().as_bytes()), body)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(name: &str) -> TableName {
        TableName::parse(name).unwrap()
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(since: Option<i64>, until: Option<i64>, partition: Option<u32>, next: Positions) {
            let query = ReadQuery { table: table("t"), partition, filter: TimeFilter { since, until }, from: Positions::new() };
            let cursor = encode(&query, &next);
            let decoded = decode(&table("t"), &cursor).unwrap();
            prop_assert_eq!((decoded.partition, decoded.filter, decoded.from), (partition, query.filter, next));
            prop_assert!(decode(&table("u"), &cursor).is_err());
        }

        #[test]
        fn nothing_else_is_a_cursor(text: String, bytes: Vec<u8>) {
            prop_assert!(decode(&table("t"), &text).is_err());
            prop_assert!(decode(&table("t"), &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }
    }
}

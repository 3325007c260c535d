//! The key and the bytes of a manifest: JSON with a checksum at its end, and the versions that can be read.

use serde::Deserialize;

use super::{link::Manifest, segment::SegmentEntry};
use crate::formats;
use contracts::error::StorageError;

/// The version that is written.
pub const VERSION: u32 = 4;
/// The first version that can be read. Version 1 repeated all consumer offsets whenever one changed, and had
/// no defaults of tables. Before version 4, manifests held the index of each segment, and formats had no
/// names.
const OLDEST: u32 = 1;

/// The prefix of all manifest keys.
pub const PREFIX: &str = contracts::shards::CHAIN;

/// The key of manifest `number` below the prefix.
pub fn key(number: u64) -> String {
    format!("{PREFIX}{number:020}.json")
}

/// The number in a manifest's key.
pub fn number(key: &str) -> Option<u64> {
    let number = key.strip_prefix(PREFIX)?.strip_suffix(".json")?.parse().ok()?;
    (self::key(number) == key).then_some(number)
}

/// What comes before and after the checksum, the last field: `,"crc32c":"0123abcd"}`.
const CHECKSUM: (&str, &str) = (",\"crc32c\":\"", "\"}");
const CHECKSUM_LEN: usize = CHECKSUM.0.len() + 8 + CHECKSUM.1.len();

/// A manifest's bytes: JSON, whose last field is the CRC32C of the JSON without that field.
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    match serde_json::to_vec(manifest) {
        Ok(bytes) => sealed(bytes),
        Err(error) => unreachable!("a manifest has only string keys: {error}"),
    }
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&bytes);
    bytes.pop(); // the closing brace
    bytes.extend_from_slice(format!("{}{checksum:08x}{}", CHECKSUM.0, CHECKSUM.1).as_bytes());
    bytes
}

/// Decodes manifest `number`.
///
/// # Errors
/// `Corrupt` if the bytes are damaged or another manifest's; `Refused` if a newer program wrote them.
pub fn decode(number: u64, bytes: &[u8]) -> Result<Manifest, StorageError> {
    let key = key(number);
    let damaged = |why: String| StorageError::corrupt(&key, why);
    let end = bytes
        .len()
        .checked_sub(CHECKSUM_LEN)
        .ok_or_else(|| damaged(format!("its {} bytes are too few", bytes.len())))?;
    let (body, checksum) = bytes.split_at(end);
    let body = [body, b"}"].concat();
    if checksum != format!("{}{:08x}{}", CHECKSUM.0, crc32c::crc32c(&body), CHECKSUM.1).as_bytes() {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    // The checksum matches, so these are the bytes that were written: an unknown field comes from a newer
    // program. To ignore it would lose it with the next checkpoint.
    let unknown = |why: String| {
        StorageError::Refused(format!("{key} was written by a newer program: {why}. Nothing was changed"))
    };
    let Versioned { version } = serde_json::from_slice(&body).map_err(|error| unknown(error.to_string()))?;
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(unknown(format!(
            "version {version} is unknown; this program knows {OLDEST} to {VERSION}"
        )));
    }
    let manifest: Manifest = serde_json::from_slice(&body).map_err(|error| unknown(error.to_string()))?;
    let entries = manifest.state.iter().flat_map(|state| &state.segments).chain(&manifest.changes.added);
    if let Some(id) = entries.filter_map(SegmentEntry::format_id).find(|id| formats::find(*id).is_none()) {
        return Err(unknown(format!("a segment has the format {id}")));
    }
    if manifest.number != number || manifest.checkpoint > number {
        return Err(damaged(format!(
            "it claims to be number {} with checkpoint {}",
            manifest.number, manifest.checkpoint
        )));
    }
    Ok(manifest)
}

/// The field that all versions have; read first, since the others depend on it.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[cfg(test)]
mod tests {
    use contracts::replica::EndedLog;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        formats::jsonl::{self, Framing},
        manifest::{Changes, IndexText, NamedLog, PartitionEntry, SegmentRef, tests::link_of},
    };

    #[test]
    fn keys_order_as_their_numbers() {
        assert!(key(9) < key(10));
        assert_eq!(number(&key(u64::MAX)), Some(u64::MAX));
    }

    fn manifest() -> Manifest {
        Manifest {
            nonce: Uuid::from_u128(3),
            store_id: Uuid::from_u128(4),
            written_ms: 5,
            ..link_of(7, Changes { deleted: vec!["a".to_owned()], ..Changes::default() })
        }
    }

    fn segment() -> SegmentEntry {
        SegmentEntry {
            table: "t".to_owned(),
            partition: 3,
            start: 5,
            end: 9,
            epoch: 1,
            rewrite: 0,
            format: Some(jsonl::newest(Framing::Zstd).to_string()),
            zstd: None,
            bytes: 100,
            sha256: "aa".to_owned(),
            appended_ms: 7,
            erased: 0,
            keys: 1,
            min_ms: 3,
            max_ms: 4,
            index: Some(IndexText::new(
                &serde_json::json!({"position": 60, "length": 40, "crc32c": 9, "frame_crc32c": 8}),
            )),
            frames: None,
        }
    }

    /// The bytes of a manifest, once and for all: what is written must be read by every later program.
    #[test]
    fn a_manifest_has_the_bytes_that_it_always_had() {
        let partitions = vec![PartitionEntry {
            table: "t".to_owned(),
            partition: 3,
            earliest: 0,
            end: 9,
            reserved_upto: 40,
        }];
        let changes = Changes { added: vec![segment()], partitions, ..Changes::default() };
        let bytes = encode(&Manifest { changes, ..manifest() });
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/manifest.json");
        if option_env!("UPDATE_DOCS").is_some() {
            std::fs::write(path, &bytes).unwrap();
        }
        assert!(std::fs::read(path).unwrap() == bytes, "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_manifest_is_json_and_comes_back() {
        let bytes = encode(&manifest());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&json["number"], json["crc32c"].as_str().unwrap().len()), (&7.into(), 8));
        assert_eq!(decode(7, &bytes).unwrap(), manifest());
        assert!(decode(8, &bytes).is_err());
    }

    #[test]
    fn what_is_said_of_a_log_has_names_that_stay() {
        let (stream, nonce) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let owner = Some("zombi-1".to_owned());
        let ended = Vec::new();
        let log = NamedLog { seq: 7, crc: 8, stream, generation: 0, ended, term: 3, nonce, owner, upto: 9 };
        let said = serde_json::to_value(&log).unwrap();
        let expected = serde_json::json!({
            "seq": 7, "crc": 8, "stream": stream, "term": 3, "nonce": nonce, "owner": "zombi-1", "upto": 9
        });
        assert_eq!(said, expected);
        let ended = vec![EndedLog { generation: 1, seq: 5, crc: 6 }];
        let log = NamedLog { generation: 2, ended, ..log };
        let said = serde_json::to_value(&log).unwrap();
        assert_eq!(said["generation"], 2);
        assert_eq!(said["ended"], serde_json::json!([{"generation": 1, "seq": 5, "crc": 6}]));
        let changes = Changes { log: Some(log), ..Changes::default() };
        let named = Manifest { changes, ..manifest() };
        assert_eq!(decode(7, &encode(&named)).unwrap(), named);
    }

    #[test]
    fn what_is_not_known_of_a_manifest_is_no_reason_to_pass_over_it() {
        let changes = Changes {
            removed: vec![SegmentRef { table: "t".to_owned(), partition: 0, start: 0, end: 1 }],
            ..Changes::default()
        };
        let known = serde_json::to_value(Manifest { changes, ..manifest() }).unwrap();
        for place in ["", "/removed/0"] {
            let mut json = known.clone();
            json.pointer_mut(place).unwrap()["hint"] = 1.into();
            let error = decode(7, &sealed(serde_json::to_vec(&json).unwrap())).unwrap_err();
            assert!(
                matches!(&error, StorageError::Refused(why) if why.contains("unknown field `hint`")),
                "{place}: {error}"
            );
        }
        let added = vec![SegmentEntry { format: Some("parquet/1".to_owned()), ..segment() }];
        let later = Manifest { changes: Changes { added, ..Changes::default() }, ..manifest() };
        let error = decode(7, &encode(&later)).unwrap_err();
        assert!(matches!(&error, StorageError::Refused(why) if why.contains("format parquet/1")), "{error}");
        let error = decode(7, &sealed(br#"{"version":99,"hint":1}"#.to_vec())).unwrap_err();
        assert!(matches!(&error, StorageError::Refused(why) if why.contains("version 99")), "{error}");
    }

    #[test]
    fn only_what_is_written_so_is_the_key_of_a_manifest() {
        assert_eq!(number(&key(7)), Some(7));
        for other in [
            "manifests/7.json",
            "manifests/+0000000000000000007.json",
            "manifests/x/00000000000000000007.json",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
        assert_eq!(number("manifests/99999999999999999999.json"), None);
    }

    proptest! {
        #[test]
        fn every_flipped_bit_and_every_cut_is_noticed(at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encode(&manifest());
            let at = at.index(bytes.len());
            prop_assert!(decode(7, &bytes[..at]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(7, &bytes).is_err());
        }
    }
}

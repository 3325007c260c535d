//! An entry of a shard's log, as bytes: protobuf whose last field is the CRC32C of all before it.
//!
//! | tag | field | |
//! |---|---|---|
//! | 1 | `version` | of this layout, 1 |
//! | 2, 3 | `term`, `nonce` | in which it was made, and what the term's owner drew for it |
//! | 4, 5 | `prev`, `prev_crc` | the entry before it, and that one's CRC |
//! | 6 | `now_ms` | the owner's clock |
//! | 7 | `term_begins` | a term: who owns the shard, which versions that pod reads, where a lost log ended |
//! | 8, 11 | `changes` | what a batch changes, in the engine's own form; as a zstd frame if it is long |
//! | 9 | `tick` | the owner is alive, and which pod it is |
//! | 10 | `yield` | the owner gives up the shard |
//! | 12 | `close` | nothing more is ever entered, as the cluster is left |
//! | 15 | `crc` | fixed32 |

use bytes::Bytes;
use prost::{Message, Oneof};
use uuid::Uuid;

use contracts::{
    clock::TimestampMs,
    replica::{EndedLog, LogMark},
    shared_log::{EntryKind, LogEntry, LogError},
};

/// The version of the layout that this program writes, and reads.
pub(crate) const VERSION: u32 = 1;
/// The most bytes of changes in one entry: a batch, and the one request that may be larger.
pub(crate) const MAX_CHANGES: usize = 32 << 20;
/// The most bytes of a body whose write fits into one entry in any case, with all that is stored beside them.
pub const MAX_BODY_BYTES: usize = MAX_CHANGES / 2;
/// Changes that are longer are compressed.
const COMPRESSED_FROM: usize = 1 << 10;
const LEVEL: i32 = 1;
/// The tag of the last field, and its length with the tag.
const CRC_TAG: u8 = (15 << 3) | 5;
const TRAILER: usize = 5;

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The term in which it was made.
    pub(crate) term: u64,
    /// What the term's owner drew for it.
    pub(crate) nonce: Uuid,
    /// The number of the entry before it.
    pub(crate) prev: u64,
    /// The CRC of that entry.
    pub(crate) prev_crc: u32,
    /// The owner's clock.
    pub(crate) now_ms: TimestampMs,
    /// What it says.
    pub(crate) body: EntryBody,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryBody {
    /// A term begins: this pod owns the shard, at this address. A log that was begun anew goes on `behind`
    /// the one before it.
    Term { pod: String, address: String, behind: Option<EndedLog> },
    /// What a batch changes.
    Changes(Bytes),
    /// The owner, which is this pod, is alive.
    Tick { pod: String },
    /// The owner gives up the shard, to this pod.
    Yield { to: String },
    /// Nobody owns the shard any more: the cluster becomes the store of one Zombi.
    Close,
}

impl EntryBody {
    /// What it is about, as far as the log must know it.
    pub(crate) fn kind(&self) -> EntryKind {
        if matches!(self, Self::Changes(_)) { EntryKind::Data } else { EntryKind::Term }
    }
}

/// Why bytes are no entry for this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    /// They are not what was stored.
    #[error("{0}")]
    Damaged(String),
    /// A newer program's: this one would misread it, or what follows.
    #[error("{0}: a newer program is at work, and this one cannot follow it")]
    Newer(String),
}

impl EntryError {
    fn damaged(why: impl ToString) -> Self {
        Self::Damaged(why.to_string())
    }
}

#[derive(Clone, PartialEq, Message)]
struct StoredEntry {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(bytes = "bytes", tag = "3")]
    nonce: Bytes,
    #[prost(uint64, tag = "4")]
    prev: u64,
    #[prost(fixed32, tag = "5")]
    prev_crc: u32,
    #[prost(int64, tag = "6")]
    now_ms: i64,
    #[prost(oneof = "StoredBody", tags = "7, 8, 9, 10, 11, 12")]
    body: Option<StoredBody>,
}

#[derive(Clone, PartialEq, Oneof)]
enum StoredBody {
    #[prost(message, tag = "7")]
    TermBegins(StoredTerm),
    #[prost(bytes = "bytes", tag = "8")]
    Changes(Bytes),
    #[prost(message, tag = "9")]
    Tick(StoredTick),
    #[prost(message, tag = "10")]
    Yield(StoredYield),
    #[prost(bytes = "bytes", tag = "11")]
    ChangesZstd(Bytes),
    #[prost(message, tag = "12")]
    Close(StoredClose),
}

#[derive(Clone, PartialEq, Message)]
struct StoredTerm {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(string, tag = "2")]
    address: String,
    /// The versions of entries that the pod reads.
    #[prost(uint32, repeated, tag = "3")]
    formats: Vec<u32>,
    #[prost(message, optional, tag = "4")]
    behind: Option<StoredEnd>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredEnd {
    #[prost(uint32, tag = "1")]
    generation: u32,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(fixed32, tag = "3")]
    crc: u32,
}

impl From<EndedLog> for StoredEnd {
    fn from(EndedLog { generation, seq, crc }: EndedLog) -> Self {
        Self { generation, seq, crc }
    }
}

impl From<StoredEnd> for EndedLog {
    fn from(StoredEnd { generation, seq, crc }: StoredEnd) -> Self {
        Self { generation, seq, crc }
    }
}

#[derive(Clone, PartialEq, Message)]
struct StoredTick {
    #[prost(string, tag = "1")]
    pod: String,
}

#[derive(Clone, PartialEq, Message)]
struct StoredYield {
    #[prost(string, tag = "1")]
    to: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredClose {}

impl Entry {
    /// The entry behind all that is applied at a mark, in the same term.
    pub(crate) fn behind(mark: &LogMark, now_ms: TimestampMs, body: EntryBody) -> Self {
        let LogMark { term, nonce, applied, crc, .. } = *mark;
        Self { term, nonce, prev: applied, prev_crc: crc, now_ms, body }
    }

    /// Its bytes, and the CRC at their end.
    pub(crate) fn encode(self) -> (Bytes, u32) {
        let body = match self.body {
            EntryBody::Term { pod, address, behind } => {
                let behind = behind.map(StoredEnd::from);
                StoredBody::TermBegins(StoredTerm { pod, address, formats: vec![VERSION], behind })
            }
            EntryBody::Changes(changes) => compressed(changes),
            EntryBody::Tick { pod } => StoredBody::Tick(StoredTick { pod }),
            EntryBody::Yield { to } => StoredBody::Yield(StoredYield { to }),
            EntryBody::Close => StoredBody::Close(StoredClose {}),
        };
        let stored = StoredEntry {
            version: VERSION,
            term: self.term,
            nonce: Bytes::copy_from_slice(self.nonce.as_bytes()),
            prev: self.prev,
            prev_crc: self.prev_crc,
            now_ms: self.now_ms,
            body: Some(body),
        };
        let mut bytes = stored.encode_to_vec();
        let crc = crc32c::crc32c(&bytes);
        bytes.push(CRC_TAG);
        bytes.extend_from_slice(&crc.to_le_bytes());
        (bytes.into(), crc)
    }

    /// Reads an entry, and its CRC.
    ///
    /// # Errors
    /// [`EntryError`].
    pub(crate) fn decode(bytes: &Bytes) -> Result<(Self, u32), EntryError> {
        let (length, crc) = checked(bytes)?;
        let stored = StoredEntry::decode(bytes.slice(..length)).map_err(EntryError::damaged)?;
        if stored.version != VERSION {
            let why = format!("it has version {}, and this program reads {VERSION}", stored.version);
            return Err(EntryError::Newer(why));
        }
        let unknown = || EntryError::Newer("it says nothing that this program knows".to_owned());
        let body = match stored.body.ok_or_else(unknown)? {
            StoredBody::TermBegins(StoredTerm { pod, address, formats, behind }) => {
                check_formats(&pod, &formats)?;
                EntryBody::Term { pod, address, behind: behind.map(EndedLog::from) }
            }
            StoredBody::Changes(changes) => EntryBody::Changes(changes),
            StoredBody::ChangesZstd(frame) => EntryBody::Changes(decompressed(&frame)?),
            StoredBody::Tick(StoredTick { pod }) => EntryBody::Tick { pod },
            StoredBody::Yield(StoredYield { to }) => EntryBody::Yield { to },
            StoredBody::Close(StoredClose {}) => EntryBody::Close,
        };
        let nonce = Uuid::from_slice(&stored.nonce).map_err(EntryError::damaged)?;
        let StoredEntry { term, prev, prev_crc, now_ms, .. } = stored;
        Ok((Self { term, nonce, prev, prev_crc, now_ms, body }, crc))
    }
}

/// The CRC of an entry, whatever it says.
///
/// # Errors
/// `Damaged`.
pub(crate) fn crc_of(bytes: &Bytes) -> Result<u32, EntryError> {
    checked(bytes).map(|(_, crc)| crc)
}

/// How many bytes of an entry its CRC is of, and that CRC.
fn checked(bytes: &[u8]) -> Result<(usize, u32), EntryError> {
    let Some(length) = bytes.len().checked_sub(TRAILER) else {
        return Err(EntryError::Damaged(format!("{} bytes are too few", bytes.len())));
    };
    let (covered, trailer) = bytes.split_at(length);
    let [tag, crc @ ..] = trailer else { unreachable!("the trailer has {TRAILER} bytes") };
    let actual = crc32c::crc32c(covered);
    if *tag != CRC_TAG || *crc != actual.to_le_bytes() {
        let why = format!("its checksum is {actual:08x}, and it ends with {trailer:02x?}");
        return Err(EntryError::Damaged(why));
    }
    Ok((length, actual))
}

/// The pod that owned a shard when the last entry about ownership was made, for who has no copy of it; `None`
/// if the owner had given it up, or the log is closed. It is a hint: the entry may be void, and the owner
/// gone since.
///
/// # Errors
/// `Damaged` if the entry cannot be read.
pub fn owner_by(entry: &LogEntry) -> Result<Option<String>, LogError> {
    Ok(match read(entry)?.body {
        EntryBody::Term { pod, .. } | EntryBody::Tick { pod } => Some(pod),
        EntryBody::Changes(_) | EntryBody::Yield { .. } | EntryBody::Close => None,
    })
}

/// The term that the last word about ownership is of.
///
/// # Errors
/// `Damaged` if the entry cannot be read.
pub fn term_by(entry: &LogEntry) -> Result<u64, LogError> {
    Ok(read(entry)?.term)
}

fn read(entry: &LogEntry) -> Result<Entry, LogError> {
    let damaged = |why: EntryError| LogError::Damaged { seq: entry.seq, what: why.to_string() };
    Entry::decode(&entry.bytes).map(|(read, _)| read).map_err(damaged)
}

/// Makes sure that the owner of a term reads what this program would enter if it owned the shard after it.
fn check_formats(pod: &str, formats: &[u32]) -> Result<(), EntryError> {
    if formats.contains(&VERSION) {
        return Ok(());
    }
    Err(EntryError::Newer(format!(
        "{pod} owns the shard and reads entries of versions {formats:?}, and this program writes {VERSION}"
    )))
}

/// Changes as they are stored: as they are if they are short, or become no shorter.
fn compressed(changes: Bytes) -> StoredBody {
    if changes.len() < COMPRESSED_FROM {
        return StoredBody::Changes(changes);
    }
    match zstd::bulk::compress(&changes, LEVEL) {
        Ok(frame) if frame.len() < changes.len() => StoredBody::ChangesZstd(frame.into()),
        _ => StoredBody::Changes(changes),
    }
}

/// Changes out of a frame, never more than [`MAX_CHANGES`] of them, whatever the frame says.
fn decompressed(frame: &[u8]) -> Result<Bytes, EntryError> {
    let said = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
    let size = said.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= MAX_CHANGES);
    let size = size.ok_or_else(|| EntryError::damaged("its changes have no length, or are too long"))?;
    zstd::bulk::decompress(frame, size).map(Bytes::from).map_err(EntryError::damaged)
}

#[cfg(test)]
mod tests {
    use contracts::shared_log::LogSeq;
    use proptest::prelude::*;

    use super::*;

    fn ends() -> impl Strategy<Value = EndedLog> {
        any::<(u32, u64, u32)>().prop_map(|(generation, seq, crc)| EndedLog { generation, seq, crc })
    }

    fn bodies() -> impl Strategy<Value = EntryBody> {
        prop_oneof![
            ("[a-z0-9-]{1,20}", "[a-z0-9.:-]{0,40}", prop::option::of(ends()))
                .prop_map(|(pod, address, behind)| EntryBody::Term { pod, address, behind }),
            prop::collection::vec(any::<u8>(), 0..3000).prop_map(|bytes| EntryBody::Changes(bytes.into())),
            (0usize..100_000).prop_map(|length| EntryBody::Changes(vec![7u8; length].into())),
            "[a-z0-9-]{0,20}".prop_map(|pod| EntryBody::Tick { pod }),
            "[a-z0-9-]{1,20}".prop_map(|to| EntryBody::Yield { to }),
            Just(EntryBody::Close),
        ]
    }

    fn entries() -> impl Strategy<Value = Entry> {
        (any::<u64>(), any::<u128>(), any::<u64>(), any::<u32>(), any::<i64>(), bodies()).prop_map(
            |(term, nonce, prev, prev_crc, now_ms, body)| {
                let nonce = Uuid::from_u128(nonce);
                Entry { term, nonce, prev, prev_crc, now_ms, body }
            },
        )
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(entry in entries()) {
            let (bytes, crc) = entry.clone().encode();
            prop_assert_eq!(Entry::decode(&bytes), Ok((entry, crc)));
        }

        #[test]
        fn every_flipped_bit_is_noticed(entry in entries(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = entry.encode().0.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Entry::decode(&bytes.into()).is_err());
        }

        #[test]
        fn other_bytes_are_no_entry(bytes: Vec<u8>) {
            prop_assert!(Entry::decode(&bytes.into()).is_err());
        }
    }

    fn tick() -> Entry {
        let nonce = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let body = EntryBody::Tick { pod: String::new() };
        Entry { term: 3, nonce, prev: 7, prev_crc: 0xdead_beef, now_ms: 1000, body }
    }

    #[test]
    fn the_bytes_stay_what_they_are() {
        let hex = |entry: Entry| contracts::hex::hex(&entry.encode().0);
        assert_eq!(
            hex(tick()),
            "080110031a100102030405060708090a0b0c0d0e0f1020072defbeadde30e8074a007d297e05cd"
        );
        let (pod, address) = ("zombi-1".to_owned(), "10.0.0.1:8080".to_owned());
        let body = EntryBody::Term { pod, address, behind: None };
        assert_eq!(
            hex(Entry { body, ..tick() }),
            "080110031a100102030405060708090a0b0c0d0e0f1020072defbeadde30e8073a1b0a077a6f6d62692d31120d\
             31302e302e302e313a383038301a01017d75d16dc9"
        );
        let behind = Some(EndedLog { generation: 1, seq: 7, crc: 8 });
        let body = EntryBody::Term { pod: "zombi-1".to_owned(), address: String::new(), behind };
        assert_eq!(
            hex(Entry { body, ..tick() }),
            "080110031a100102030405060708090a0b0c0d0e0f1020072defbeadde30e8073a170a077a6f6d62692d311a01\
             012209080110071d080000007dbc199180"
        );
        let body = EntryBody::Changes(Bytes::from_static(b"abc"));
        assert_eq!(
            hex(Entry { body, ..tick() }),
            "080110031a100102030405060708090a0b0c0d0e0f1020072defbeadde30e80742036162637d6cb82993"
        );
    }

    #[test]
    fn the_last_word_about_ownership_names_the_owner() {
        let owner = |body| {
            let bytes = Entry { body, ..tick() }.encode().0;
            owner_by(&LogEntry { seq: LogSeq(8), bytes }).unwrap()
        };
        let pod = || "zombi-1".to_owned();
        assert_eq!(owner(EntryBody::Tick { pod: pod() }), Some(pod()));
        assert_eq!(owner(EntryBody::Term { pod: pod(), address: String::new(), behind: None }), Some(pod()));
        assert_eq!(owner(EntryBody::Yield { to: pod() }), None);
        assert_eq!(owner(EntryBody::Close), None);
        let damaged = LogEntry { seq: LogSeq(8), bytes: Bytes::from_static(b"x") };
        assert!(matches!(owner_by(&damaged), Err(LogError::Damaged { .. })));
        assert!(matches!(term_by(&damaged), Err(LogError::Damaged { .. })));
        let entry = LogEntry { seq: LogSeq(8), bytes: tick().encode().0 };
        assert_eq!(term_by(&entry).unwrap(), tick().term);
    }

    /// A stored entry with its checksum, whatever it says.
    fn stored(version: u32, body: Option<StoredBody>) -> Bytes {
        let nonce = Bytes::copy_from_slice(tick().nonce.as_bytes());
        let entry = StoredEntry { version, nonce, body, ..StoredEntry::default() };
        let mut bytes = entry.encode_to_vec();
        let crc = crc32c::crc32c(&bytes);
        bytes.push(CRC_TAG);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.into()
    }

    #[test]
    fn what_a_newer_program_enters_is_refused_by_name_and_not_taken_for_damage() {
        let term = |formats| {
            let (pod, address) = ("zombi-1".to_owned(), String::new());
            Some(StoredBody::TermBegins(StoredTerm { pod, address, formats, behind: None }))
        };
        assert!(Entry::decode(&stored(VERSION, term(vec![VERSION, VERSION + 1]))).is_ok());
        for (bytes, said) in [
            (stored(VERSION + 1, term(vec![VERSION])), "version 2, and this program reads 1"),
            (
                stored(VERSION, term(vec![VERSION + 1])),
                "zombi-1 owns the shard and reads entries of versions [2]",
            ),
            (stored(VERSION, None), "nothing that this program knows"),
        ] {
            match Entry::decode(&bytes) {
                Err(error @ EntryError::Newer(_)) => assert!(error.to_string().contains(said), "{error}"),
                read => panic!("{read:?}"),
            }
        }
        assert!(matches!(Entry::decode(&Bytes::from_static(b"zombi")), Err(EntryError::Damaged(_))));
    }

    #[test]
    fn a_frame_that_says_too_much_is_not_opened() {
        let frame = zstd::bulk::compress(&vec![0u8; MAX_CHANGES + 1], LEVEL).unwrap();
        assert!(frame.len() < 10_000, "it is short, and would be long");
        assert!(decompressed(&frame).is_err());
    }

    #[test]
    fn what_is_long_is_compressed() {
        let body = EntryBody::Changes(vec![7u8; 100_000].into());
        assert!(Entry { body, ..tick() }.encode().0.len() < 1000);
    }
}

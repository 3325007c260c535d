//! Looks for damage in RocksDB's write-ahead log, and in its MANIFEST, which has the same format, before
//! RocksDB reads them.
//!
//! Replay ends at the first record that is not whole. After a power cut that is the last one, which was never
//! acknowledged. Damage in the middle looks the same to RocksDB, and everything after it would silently be
//! gone. But a batch is written only after the one before it has been synced. So if a whole record begins
//! after one that is not whole, that one was whole once, and has been damaged.
//!
//! Damage to the very last batch, and a log that was cut off, look like a power cut here: `synced` notices
//! them. There is one exception. A piece of a type that only recycled logs use, which are not enabled, makes
//! RocksDB's reader loop for ever, so it counts as damage anywhere.
//!
//! The format: blocks of 32 KiB; records in pieces that fit into blocks; the rest of a block that is too
//! short for a header is zero. A piece, little endian:
//! `CRC32C of type and data, masked (4) | length (2) | type (1) | data`.
//! <https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format>

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::synced::failed;
use contracts::error::StorageError;

/// RocksDB's file that names the current manifest. Without it, RocksDB takes a directory for an empty one.
pub(crate) const CURRENT: &str = "CURRENT";
const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
/// The types of the pieces with which a record begins.
const FULL: u8 = 1;
const FIRST: u8 = 2;
/// The greatest type that RocksDB writes here; greater ones are for options that are not set, such as
/// recycled logs.
const LAST: u8 = 4;

/// Checks the manifest of a database that is not open. Checks its logs too, if each batch in them was synced
/// before the next one was written: otherwise a power cut may leave a gap.
///
/// # Errors
/// `Corrupt` if one is damaged in its middle, `Unavailable` if one cannot be read.
pub(crate) fn check(database: &Path, is_synced: bool) -> Result<(), StorageError> {
    let logs = if is_synced { logs(database) } else { Ok(Vec::new()) };
    for path in logs.map_err(|error| failed(database, &error))?.into_iter().chain(manifest(database)) {
        let damage = File::open(&path).and_then(find_damage).map_err(|error| failed(&path, &error))?;
        if let Some(Damage { at, why }) = damage {
            return Err(StorageError::corrupt(
                path.display(),
                format!("the record at byte {at} is damaged: {why}"),
            ));
        }
    }
    Ok(())
}

/// The current manifest; `None` if there is no database, or its name cannot be read, which RocksDB reports
/// itself.
fn manifest(database: &Path) -> Option<PathBuf> {
    let name = std::fs::read_to_string(database.join(CURRENT)).ok()?;
    Some(database.join(name.trim_end())).filter(|path| path.is_file())
}

/// The logs of a database, in order.
pub(super) fn logs(database: &Path) -> io::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    let entries = match database.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(logs),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        // RocksDB's logs are numbered; its messages are in LOG, without an extension. Other files are
        // ignored.
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log"));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            logs.push(path);
        }
    }
    logs.sort();
    Ok(logs)
}

/// Damage that no power cut leaves.
#[derive(Debug, PartialEq, Eq)]
struct Damage {
    at: u64,
    why: String,
}

/// Finds the first byte that belongs to no whole record, if that is damage and not the end of the log.
fn find_damage(mut log: impl Read) -> io::Result<Option<Damage>> {
    let mut block = Vec::with_capacity(BLOCK);
    let (mut start, mut damaged) = (0, None);
    loop {
        block.clear();
        log.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        let mut at = 0;
        while block.len() - at >= HEADER {
            match (piece(&block[at..]), damaged) {
                (Some((FULL | FIRST, _)), Some(damaged)) => {
                    let why = format!("a whole record follows at byte {}", start + at as u64);
                    return Ok(Some(Damage { at: damaged, why }));
                }
                (Some((_, length)), _) => at += length,
                (None, known) => {
                    let kind = block[at + HEADER - 1];
                    if known.is_none() && kind > LAST {
                        return Ok(Some(Damage {
                            at: start + at as u64,
                            why: format!("its type is {kind}"),
                        }));
                    }
                    damaged = known.or(Some(start + at as u64));
                    // Continue only where a record can begin: elsewhere, bytes that look like one may be a
                    // payload's.
                    match end_of_damaged(&block[at..]) {
                        Some(length) => at += length,
                        None => break, // to the next block, which begins with a piece
                    }
                }
            }
        }
        if block.len() < BLOCK {
            return Ok(None);
        }
        start += BLOCK as u64;
    }
}

/// The length of the damaged piece at the front. If its length or its type was damaged, its checksum tells
/// where it ends, else its header does; `None` if neither can be right.
fn end_of_damaged(block: &[u8]) -> Option<usize> {
    let (&[c0, c1, c2, c3, l0, l1, kind], rest) = block.split_first_chunk::<HEADER>()?;
    let wanted = u32::from_le_bytes([c0, c1, c2, c3]);
    for kind in 1..=LAST {
        let mut checksum = crc32c::crc32c(&[kind]);
        for (place, byte) in rest.iter().enumerate() {
            checksum = crc32c::crc32c_append(checksum, std::slice::from_ref(byte));
            if mask(checksum) == wanted {
                return Some(HEADER + place + 1);
            }
        }
    }
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    ((1..=LAST).contains(&kind) && length <= rest.len()).then_some(HEADER + length)
}

/// The type and the length of the piece at the front, if it is whole.
fn piece(block: &[u8]) -> Option<(u8, usize)> {
    let (&[c0, c1, c2, c3, l0, l1, kind], rest) = block.split_first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    if kind == 0 || length > rest.len() {
        return None;
    }
    let checksum = crc32c::crc32c(&block[HEADER - 1..HEADER + length]);
    (mask(checksum) == u32::from_le_bytes([c0, c1, c2, c3])).then_some((kind, HEADER + length))
}

/// RocksDB masks the checksums that it stores, since its data may hold checksums itself.
fn mask(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use rocksdb::{DB, DBRecoveryMode, IteratorMode, Options, WriteOptions};

    use super::*;

    fn open(path: &Path) -> DB {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        DB::open(&options, path).unwrap()
    }

    /// What a killed process leaves: a log of `count` synced writes of all sizes, and the ends of the writes
    /// in it.
    fn killed(path: &Path, count: u32) -> (PathBuf, Vec<u64>) {
        let running = tempfile::tempdir().unwrap();
        let db = open(running.path());
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let mut ends = Vec::new();
        for number in 0..count {
            let value: Vec<u8> =
                (0..number * 7919 % 50_000).map(|place| (place * 31 + number) as u8).collect();
            db.put_opt(number.to_be_bytes(), value, &synced).unwrap();
            ends.push(logs(running.path()).unwrap()[0].metadata().unwrap().len());
        }
        for entry in running.path().read_dir().unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
        }
        (logs(path).unwrap().remove(0), ends)
    }

    #[test]
    fn a_flipped_bit_is_noticed_or_nothing_but_the_last_write_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let count = 20;
        let (log, ends) = killed(directory.path(), count);
        let whole = std::fs::read(&log).unwrap();
        check(directory.path(), true).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let last = ends[ends.len() - 2];
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            let damage = find_damage(bytes.as_slice()).unwrap();
            assert!(
                damage.is_some() || at as u64 >= last || is_padding(&whole, at),
                "a flip at {at} of {} is not noticed",
                whole.len()
            );
        }
    }

    /// Whether the byte is never read: it fills the end of a block.
    fn is_padding(log: &[u8], at: usize) -> bool {
        let (mut place, end) = (at / BLOCK * BLOCK, (at / BLOCK + 1) * BLOCK);
        while let Some((_, length)) = piece(&log[place..end.min(log.len())]) {
            place += length;
        }
        at >= place
    }

    #[test]
    fn a_type_of_recycled_logs_is_damage_even_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let (log, ends) = killed(directory.path(), 3);
        let mut bytes = std::fs::read(&log).unwrap();
        assert_eq!(bytes[ends[1] as usize + HEADER - 1], FULL);
        bytes[ends[1] as usize + HEADER - 1] ^= 4;
        let damage = find_damage(bytes.as_slice()).unwrap();
        assert_eq!(damage, Some(Damage { at: ends[1], why: "its type is 5".to_owned() }));
    }

    #[test]
    fn a_log_that_ends_early_is_what_a_power_cut_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let (log, ends) = killed(directory.path(), 20);
        let whole = std::fs::read(&log).unwrap();
        for cut in (0..whole.len()).step_by(997) {
            assert_eq!(find_damage(&whole[..cut]).unwrap(), None, "cut at {cut}");
            // The file may be as long as it was, with nothing in it.
            let mut zeroed = whole[..cut].to_vec();
            zeroed.resize(whole.len(), 0);
            assert_eq!(find_damage(zeroed.as_slice()).unwrap(), None, "zeroed from {cut}");
        }
        std::fs::write(&log, &whole[..ends[10] as usize + 3]).unwrap();
        check(directory.path(), true).unwrap();
        assert_eq!(open(directory.path()).iterator(IteratorMode::Start).count(), 11);
    }

    #[test]
    fn a_torn_batch_is_one_whatever_its_payload_looks_like() {
        let running = tempfile::tempdir().unwrap();
        let db = open(running.path());
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        db.put_opt(b"a", vec![b'a'; 1000], &synced).unwrap();
        let path = logs(running.path()).unwrap().remove(0);
        let record = std::fs::read(&path).unwrap();
        // A write whose payload holds a whole record, again and again.
        db.put_opt(b"b", record.repeat(60), &synced).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in (record.len()..whole.len()).step_by(101) {
            assert_eq!(find_damage(&whole[..cut]).unwrap(), None, "cut at {cut}");
            let mut zeroed = whole[..cut].to_vec();
            zeroed.resize(whole.len(), 0);
            assert_eq!(find_damage(zeroed.as_slice()).unwrap(), None, "zeroed from {cut}");
            // A page in the middle did not reach the disk, and those behind it did.
            let mut holed = whole.clone();
            let end = whole.len().min(cut + 4096);
            holed[cut..end].fill(0);
            assert_eq!(find_damage(holed.as_slice()).unwrap(), None, "a hole at {cut}");
        }
        drop(db);
        std::fs::write(running.path().join("notes.log"), b"not of RocksDB").unwrap();
        std::fs::write(running.path().join("0x1.log"), &whole[..50]).unwrap();
        check(running.path(), true).unwrap();
    }

    #[test]
    fn without_the_check_events_would_silently_be_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (log, ends) = killed(directory.path(), 20);
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[ends[10] as usize + 20] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        assert!(matches!(check(directory.path(), true), Err(StorageError::Corrupt { .. })));
        assert_eq!(open(directory.path()).iterator(IteratorMode::Start).count(), 11);
    }
}

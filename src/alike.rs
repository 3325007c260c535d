//! `zombi cluster verify`: whether two copies of a shard hold the same events. Each volume at rest is hashed
//! range by range; what one has said of its ranges is held against another.
//!
//! Copies drop what is in S3 by themselves, and one may be a little behind: only ranges that both have whole
//! are compared. A range in which one has erased more than the other says nothing either.

use std::{
    io::{self, BufRead, Lines, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    cluster::volumes,
    http::encode,
    inspect::InspectError,
    server::engine::{VolumeAtRest, open_at_rest},
    settings::Settings,
};
use contracts::{
    error::StorageError,
    hex::hex,
    name::Partition,
    read::ReadLimit,
    sequence::{Offset, Watermarks},
};

/// How much of a volume is read at once.
const CHUNK: ReadLimit = ReadLimit { records: 1000, bytes: 4 << 20 };

/// What is hashed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WantedRanges {
    /// Only this shard; `None` for all whose volumes are there.
    pub(crate) shard: Option<u32>,
    /// Events of each range, at least 1. A range begins with a multiple of it.
    pub(crate) events: u64,
}

/// What a copy says of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RangeHash {
    shard: u32,
    table: String,
    partition: u32,
    start: Offset,
    end: Offset,
    /// How many of its events are erased.
    erased: u64,
    /// The SHA-256 of its events.
    sha256: String,
}

/// A range that two copies do not hold alike.
#[derive(Debug, Serialize)]
struct DifferentRange<'a> {
    here: &'a RangeHash,
    there: &'a RangeHash,
}

/// What a comparison has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Ranges that both have alike.
    pub(crate) alike: u64,
    /// Ranges that they have and not alike.
    pub(crate) different: u64,
    /// Ranges that only one has, or of which one has erased more.
    pub(crate) passed_over: u64,
}

impl RangeHash {
    /// Where it stands among all of a pod's volumes.
    fn place(&self) -> (u32, &str, u32, Offset, Offset) {
        (self.shard, &self.table, self.partition, self.start, self.end)
    }
}

/// Prints what the volumes below the data directory hold: a line for each range, in order.
///
/// # Errors
/// [`InspectError::NotFound`] without such a volume; [`InspectError::Storage`] if one cannot be read.
pub(crate) fn list(
    settings: &Settings,
    wanted: WantedRanges,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    each(settings, wanted, &mut |range| print(out, &range))
}

/// Holds the volumes against what another pod has printed; prints a line for each range that differs.
///
/// # Errors
/// Those of [`list`]; [`InspectError::Usage`] if the other has not printed that.
pub(crate) fn compare(
    settings: &Settings,
    wanted: WantedRanges,
    other: impl BufRead,
    out: &mut dyn Write,
) -> Result<Compared, InspectError> {
    let mut comparison = Comparison { other: OtherRanges::new(other), found: Compared::default() };
    each(settings, wanted, &mut |here| {
        let different = comparison.add(&here)?;
        different.map_or(Ok(()), |there| print(out, &DifferentRange { here: &here, there: &there }))
    })?;
    comparison.end()
}

fn print(out: &mut dyn Write, line: &impl Serialize) -> Result<(), InspectError> {
    let text = serde_json::to_string(line).map_err(io::Error::from)?;
    Ok(writeln!(out, "{text}")?)
}

/// Hashes the ranges of all volumes that are wanted, in order.
fn each(
    settings: &Settings,
    wanted: WantedRanges,
    take: &mut dyn FnMut(RangeHash) -> Result<(), InspectError>,
) -> Result<(), InspectError> {
    let data_dir = &settings.process.data_dir;
    let unread = |error| InspectError::NotFound(format!("volume in {}: {error}", data_dir.display()));
    let mut is_there = false;
    for (path, shard) in volumes::found(data_dir).map_err(unread)? {
        let Some(shard) = shard.map(|shard| shard.number) else { continue };
        if wanted.shard.is_none_or(|wanted| wanted == shard) {
            is_there = true;
            CopyAtRest::open(settings, &path, (shard, wanted.events))?.each(take)?;
        }
    }
    if is_there {
        return Ok(());
    }
    Err(InspectError::NotFound(format!("volume of such a shard in {}", data_dir.display())))
}

/// A copy's volume that nobody uses.
struct CopyAtRest {
    volume: VolumeAtRest,
    shard: u32,
    events: u64,
}

impl CopyAtRest {
    fn open(settings: &Settings, path: &Path, (shard, events): (u32, u64)) -> Result<Self, StorageError> {
        Ok(Self { volume: open_at_rest(settings, path)?, shard, events })
    }

    fn each(&self, take: &mut dyn FnMut(RangeHash) -> Result<(), InspectError>) -> Result<(), InspectError> {
        for table in self.volume.tables().visible() {
            for (partition, status) in table.named_partitions() {
                for start in starts(status.watermarks, self.events) {
                    take(self.hash(&partition, start)?)?;
                }
            }
        }
        Ok(())
    }

    /// Hashes the range that begins at an offset, as readers would be told its events.
    fn hash(&self, partition: &Partition, start: Offset) -> Result<RangeHash, StorageError> {
        let end = start + self.events;
        let (mut sha256, mut erased, mut next, mut line) = (Sha256::new(), 0, start, Vec::new());
        while next < end {
            let page = self.volume.read(partition, next, CHUNK)?.map(|hot| hot.page);
            let Some(page) = page.filter(|page| page.next > next) else {
                let why = format!("{partition} ends at {next}, and should not before {end}");
                return Err(StorageError::corrupt("the volume", why));
            };
            next = page.next;
            for record in page.records.iter().filter(|record| record.offset < end) {
                erased += u64::from(record.event.is_erased());
                line.clear();
                encode::record(&mut line, record);
                line.push(b'\n');
                sha256.update(&line);
            }
        }
        let sha256 = hex(&sha256.finalize());
        let (table, partition) = (partition.table.to_string(), partition.number);
        Ok(RangeHash { shard: self.shard, table, partition, start, end, erased, sha256 })
    }
}

/// Where the ranges of a partition begin that a volume has whole.
fn starts(watermarks: Watermarks, events: u64) -> impl Iterator<Item = Offset> {
    let first = watermarks.low.div_ceil(events);
    (first..watermarks.next / events).map(move |number| number * events)
}

/// What another pod has printed, as it is read.
struct OtherRanges<R> {
    lines: Lines<R>,
    next: Option<RangeHash>,
}

impl<R: BufRead> OtherRanges<R> {
    fn new(other: R) -> Self {
        Self { lines: other.lines(), next: None }
    }

    /// The next range, which stays the next.
    ///
    /// # Errors
    /// [`InspectError::Usage`] if it is none, or comes before the last one.
    fn peek(&mut self) -> Result<Option<&RangeHash>, InspectError> {
        if self.next.is_none() {
            self.next = self.read(None)?;
        }
        Ok(self.next.as_ref())
    }

    /// The next range.
    ///
    /// # Errors
    /// Those of [`OtherRanges::peek`].
    fn take(&mut self) -> Result<Option<RangeHash>, InspectError> {
        self.peek()?;
        let Some(taken) = self.next.take() else { return Ok(None) };
        self.next = self.read(Some(&taken))?;
        Ok(Some(taken))
    }

    fn read(&mut self, last: Option<&RangeHash>) -> Result<Option<RangeHash>, InspectError> {
        let wrong =
            |why: String| InspectError::Usage(format!("that is not what zombi cluster verify prints: {why}"));
        let Some(line) = self.lines.next() else { return Ok(None) };
        let range: RangeHash = serde_json::from_str(&line?).map_err(|error| wrong(error.to_string()))?;
        if last.is_some_and(|last| last.place() >= range.place()) {
            return Err(wrong("its ranges are not in order".to_owned()));
        }
        Ok(Some(range))
    }
}

/// A comparison that goes on.
struct Comparison<R> {
    other: OtherRanges<R>,
    found: Compared,
}

impl<R: BufRead> Comparison<R> {
    /// Compares the next range of this pod's volumes; returns the other's if it differs.
    fn add(&mut self, here: &RangeHash) -> Result<Option<RangeHash>, InspectError> {
        while self.other.peek()?.is_some_and(|there| there.place() < here.place()) {
            self.other.take()?;
            self.found.passed_over += 1;
        }
        if self.other.peek()?.is_none_or(|there| there.place() != here.place()) {
            self.found.passed_over += 1;
            return Ok(None);
        }
        let Some(there) = self.other.take()? else { return Ok(None) };
        if there == *here {
            self.found.alike += 1;
        } else if there.erased != here.erased {
            self.found.passed_over += 1;
        } else {
            self.found.different += 1;
            return Ok(Some(there));
        }
        Ok(None)
    }

    /// What was found in the end.
    fn end(mut self) -> Result<Compared, InspectError> {
        while self.other.take()?.is_some() {
            self.found.passed_over += 1;
        }
        Ok(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(partition: u32, start: Offset, erased: u64, sha256: &str) -> RangeHash {
        let (table, sha256) = ("t".to_owned(), sha256.to_owned());
        RangeHash { shard: 7, table, partition, start, end: start + 10, erased, sha256 }
    }

    fn printed(ranges: &[RangeHash]) -> Vec<u8> {
        let mut out = Vec::new();
        ranges.iter().for_each(|range| print(&mut out, range).unwrap());
        out
    }

    /// What a comparison of these ranges with what another has printed finds, and which differ.
    fn compared(here: &[RangeHash], there: &[u8]) -> Result<(Compared, Vec<RangeHash>), InspectError> {
        let mut comparison = Comparison { other: OtherRanges::new(there), found: Compared::default() };
        let mut different = Vec::new();
        for range in here {
            different.extend(comparison.add(range)?);
        }
        Ok((comparison.end()?, different))
    }

    #[test]
    fn only_what_both_have_whole_is_compared() {
        let here = [range(0, 10, 0, "a"), range(0, 20, 0, "b"), range(0, 30, 1, "c"), range(1, 0, 0, "d")];
        let there = [
            range(0, 0, 0, "x"),
            range(0, 10, 0, "a"),
            range(0, 20, 0, "B"),
            range(0, 30, 2, "C"),
            range(2, 0, 0, "y"),
        ];
        let (found, different) = compared(&here, &printed(&there)).unwrap();
        assert_eq!(found, Compared { alike: 1, different: 1, passed_over: 4 });
        assert_eq!(different, [there[2].clone()]);
        let (found, _) = compared(&here, &printed(&here)).unwrap();
        assert_eq!(found, Compared { alike: 4, ..Compared::default() });
        assert_eq!(compared(&here, b"").unwrap().0.passed_over, 4);
        assert_eq!(compared(&[], &printed(&there)).unwrap().0.passed_over, 5);
    }

    #[test]
    fn what_nobody_has_printed_is_refused() {
        let here = [range(0, 10, 0, "a")];
        let unordered = printed(&[range(0, 20, 0, "b"), range(0, 10, 0, "a")]);
        for other in [&unordered[..], b"x\n", b"{}\n"] {
            assert!(matches!(compared(&here, other), Err(InspectError::Usage(_))));
        }
    }

    #[test]
    fn ranges_begin_with_multiples_and_are_whole() {
        let of = |low, next| {
            let watermarks = Watermarks { earliest: 0, low, flushed: low, next };
            starts(watermarks, 10).collect::<Vec<_>>()
        };
        assert_eq!(of(0, 9), [0; 0]);
        assert_eq!(of(0, 25), [0, 10]);
        assert_eq!(of(1, 30), [10, 20]);
        assert_eq!(of(15, 19), [0; 0]);
    }
}

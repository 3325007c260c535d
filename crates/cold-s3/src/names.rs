//! The keys of segments: how they are built, and how they are parsed. Pure.

use super::formats::{self, NamedSegment};
use contracts::{
    error::StorageError,
    name::{Partition, TableName},
    segment::SegmentMeta,
    sequence::OffsetRange,
};

/// The prefix of all segment keys.
pub const SEGMENTS: &str = "segments/";
/// The object that says where a chain's last checkpoint is: see `chain/hint.rs`. No manifest's key begins with it.
pub(crate) const HINT: &str = "last-checkpoint";

/// The key of a segment's object below the prefix.
///
/// # Errors
/// `Refused` if its format is not known.
pub fn key(partition: &Partition, meta: &SegmentMeta) -> Result<String, StorageError> {
    Ok(stem(partition, meta.range, meta.epoch, meta.rewrite) + formats::of(meta)?.extension())
}

/// The key of the object beside a segment, if its format has one.
pub fn beside(key: &str) -> Option<String> {
    formats::all().find_map(|format| format.beside_key(key))
}

/// What the keys of a partition's segments begin with.
pub fn directory(partition: &Partition) -> String {
    format!("{SEGMENTS}{}/{:05}/", partition.table, partition.number)
}

/// What the key of a segment has before its format's extension. Without a number of its own (0) it is what
/// the keys of all that were written anew with this range and epoch begin with.
pub(crate) fn stem(partition: &Partition, range: OffsetRange, epoch: u64, rewrite: u32) -> String {
    let stem = format!("{}{:020}-{:020}-{epoch:08}", directory(partition), range.start, range.end);
    // Only what was written anew by itself has this part.
    if rewrite == 0 { stem } else { format!("{stem}-{rewrite:04}") }
}

/// Parses the key of a segment or of the object beside one; `None` if it is neither.
pub fn parse(key: &str) -> Option<NamedSegment> {
    let mut parts = key.strip_prefix(SEGMENTS)?.split('/');
    let (table, partition, name) = (parts.next()?, parts.next()?, parts.next()?);
    let mut numbers = name.split_once('.')?.0.split('-').map(|number| number.parse::<u64>());
    let (start, end, epoch) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    let rewrite = match numbers.next() {
        None => 0,
        Some(number) => u32::try_from(number.ok()?).ok()?,
    };
    if start >= end {
        return None;
    }
    let (partition, range) = (
        Partition::new(TableName::parse(table).ok()?, partition.parse().ok()?),
        OffsetRange::new(start, end),
    );
    let stem = stem(&partition, range, epoch, rewrite);
    let extension = key.strip_prefix(&stem)?;
    let format = formats::all()
        .find(|format| extension == format.extension() || Some(extension) == format.beside())?;
    let key = (stem + format.extension()).into();
    Some(NamedSegment { key, partition, range, epoch, rewrite })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_is_of_and_no_other_does() {
        let partition = Partition::new(TableName::parse("a.b-c").unwrap(), 7);
        let range = OffsetRange::new(3, 12);
        let extensions = [(".jsonl.zst", ".jsonl.zst"), (".jsonl", ".jsonl"), (".jsonl.index", ".jsonl")];
        for (rewrite, (extension, segment)) in
            [0, 1, 12_345].into_iter().flat_map(|n| extensions.map(|e| (n, e)))
        {
            let key = stem(&partition, range, 4, rewrite) + extension;
            let segment = (stem(&partition, range, 4, rewrite) + segment).into();
            assert_eq!(
                parse(&key),
                Some(NamedSegment { key: segment, partition: partition.clone(), range, epoch: 4, rewrite }),
                "{key}"
            );
            for other in [
                key.replace("segments", "segment"),
                key.replace("00007", "7"),
                key.replace(".jsonl", ".json"),
                format!("{key}x"),
                key.replace("-00000004", "-00000004-0000"),
                key.replace("-00000004", "-00000004-7"),
            ] {
                assert_eq!(parse(&other), None, "{other}");
            }
        }
        assert_eq!(beside("x.jsonl").as_deref(), Some("x.jsonl.index"));
        assert_eq!(beside("x.jsonl.zst"), None);
    }
}

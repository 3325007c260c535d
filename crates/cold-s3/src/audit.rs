//! Audits a bucket: whether its manifests are consistent, and every segment is what they say. Changes
//! nothing.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{
    chain::{self, Found},
    fetch_whole, formats, manifest, names,
    s3::Objects,
    state::ColdState,
};
use contracts::{
    error::{StorageError, Tier},
    name::Partition,
    offload::offload,
    segment::SegmentMeta,
};

/// Audits at most, if a writer publishes during each of them.
const ATTEMPTS: usize = 10;
/// Segments that are read at once.
const PARALLEL_SEGMENTS: usize = 4;

/// The result of an audit.
#[derive(Debug, Default)]
pub struct Audit {
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
    /// Segments that were read and are intact.
    pub segments: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Offsets that are declared lost.
    pub lost_offsets: u64,
    /// Objects that no manifest names: being written, left over from a crash, or about to be deleted. Nothing
    /// is wrong with that.
    pub unnamed: Vec<String>,
}

/// Audits the bucket below a prefix. A writer may be at work: if it has published since the audit began,
/// findings may be segments that it replaced, and the audit starts again.
///
/// # Errors
/// `Unavailable` if the bucket cannot be read; damage is a finding.
pub async fn audit(objects: &Objects) -> Result<Audit, StorageError> {
    let mut attempts = 0;
    loop {
        let before = last_key(objects).await?;
        let audit = audit_once(objects).await?;
        attempts += 1;
        if audit.findings.is_empty() || attempts == ATTEMPTS || last_key(objects).await? == before {
            return Ok(audit);
        }
    }
}

async fn last_key(objects: &Objects) -> Result<Option<String>, StorageError> {
    Ok(objects.list(manifest::PREFIX, None).await?.pop())
}

async fn audit_once(objects: &Objects) -> Result<Audit, StorageError> {
    let mut audit = Audit::default();
    let found = match chain::load(objects).await {
        Err(StorageError::Corrupt { object, source }) => {
            audit.findings.push(format!("{object}: {source}"));
            return Ok(audit);
        }
        found => found?,
    };
    audit_chain(objects, &found, &mut audit).await?;
    let mut segments = Vec::new();
    for (partition, cold) in &found.state.partitions {
        audit.lost_offsets += cold.lost.iter().map(contracts::sequence::OffsetRange::len).sum::<u64>();
        segments.extend(cold.segments.iter().map(|meta| (partition.clone(), Arc::clone(meta))));
    }
    let named: Result<BTreeSet<String>, _> =
        segments.iter().map(|(partition, meta)| names::key(partition, meta)).collect();
    let named = named?;
    let keys = objects.list(names::SEGMENTS, None).await?;
    let is_named = |key: &String| names::parse(key).is_some_and(|found| named.contains(&found.segment));
    audit.unnamed = keys.into_iter().filter(|key| !is_named(key)).collect();
    let checks = stream::iter(segments).map(|(partition, meta)| async move {
        let checked = audit_segment(objects, &partition, &meta).await;
        (meta, checked)
    });
    let mut checks = checks.buffer_unordered(PARALLEL_SEGMENTS);
    while let Some((meta, checked)) = checks.next().await {
        match checked {
            Ok(()) => {
                audit.segments += 1;
                audit.events += meta.range.len();
                audit.bytes += meta.bytes;
            }
            Err(StorageError::Corrupt { object, source }) => {
                audit.findings.push(format!("{object}: {source}"))
            }
            Err(error) => return Err(error),
        }
    }
    audit.findings.sort();
    Ok(audit)
}

/// Reads the chain again from the checkpoint before the last one, if that still exists: the last checkpoint
/// must hold the state that the links before it add up to.
async fn audit_chain(objects: &Objects, found: &Found, audit: &mut Audit) -> Result<(), StorageError> {
    let Some(last) = &found.last else { return Ok(()) };
    let earlier = last.checkpoint.checked_sub(manifest::CHECKPOINT_EVERY);
    let Some(first) = earlier.filter(|first| found.numbers.contains(first)) else { return Ok(()) };
    let (mut state, mut epoch) = (None, None);
    for number in first..=last.number {
        let mut link = match chain::read(objects, number).await {
            Err(StorageError::Corrupt { object, source }) => {
                audit.findings.push(format!("{object}: {source}"));
                return Ok(());
            }
            link => link?,
        };
        if let Some(before) = epoch.replace(link.epoch)
            && (link.epoch < before || (link.epoch == before) == link.opens)
        {
            audit.findings.push(format!("{}: epoch {} follows {before}", manifest::key(number), link.epoch));
        }
        let applied = match &mut state {
            None => ColdState::begin(&mut link).map(|begun| state = Some(begun)),
            Some(state) => state.apply(&link),
        };
        if let Err(error) = applied {
            audit.findings.push(error.to_string());
            return Ok(());
        }
    }
    if state.is_some_and(|state| state != found.state) {
        audit.findings.push(format!(
            "{}: its state is not what the manifests before it add up to",
            manifest::key(last.checkpoint)
        ));
    }
    Ok(())
}

async fn audit_segment(
    objects: &Objects,
    partition: &Partition,
    meta: &Arc<SegmentMeta>,
) -> Result<(), StorageError> {
    let (segment, stored) = fetch_whole(objects, partition, Arc::clone(meta)).await?;
    let decoded = offload(move || formats::of(&segment.meta)?.decode(&segment, &stored, &mut drop)).await;
    decoded.map_err(|error| StorageError::unavailable(Tier::Cold, error))?
}

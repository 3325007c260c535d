//! Reads every manifest that is there, and adds them up: each is whole, continues the one before, and each
//! checkpoint holds what those before it add up to. On the way it notes what segments are that the last state
//! does not name any more, and that are kept so that an earlier one can be restored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream};

use super::Audit;
use crate::{
    chain::{Author, Found},
    manifest::{self, Manifest},
    names,
    place::ObjectPlace,
    state::{ColdState, Removed},
};
use contracts::{error::StorageError, name::Partition, segment::SegmentMeta};

/// Manifests read at once.
const PARALLEL_GETS: usize = 16;

/// Segments by their keys, and what their manifest says of them.
pub(super) type KeptSegments = BTreeMap<String, (Partition, Arc<SegmentMeta>)>;

/// Audits the chain up to its last link as it was found; what it says of segments that are kept. Links that upkeep
/// or a backup leave out are no findings: what the last state needs was read before.
///
/// # Errors
/// Those of the place; damage is a finding.
pub(super) async fn audit_chain(
    objects: &dyn ObjectPlace,
    found: &Found,
    audit: &mut Audit,
) -> Result<KeptSegments, StorageError> {
    let mut sum = ChainSum::new(found);
    let numbers: Vec<u64> = found.links.numbers().collect();
    let read = |number| async move { (number, objects.get(&manifest::key(number)).await) };
    let mut links = std::pin::pin!(stream::iter(numbers).map(read).buffered(PARALLEL_GETS));
    while let Some((number, bytes)) = links.next().await {
        // It was too old by now.
        let Some(bytes) = bytes? else {
            sum.interrupt();
            continue;
        };
        let added = manifest::decode(number, &bytes).and_then(|link| sum.add(link));
        match audit.whole(added)? {
            Some(findings) => audit.findings.extend(findings),
            None => sum.interrupt(),
        }
    }
    if sum.state.is_some_and(|state| state != found.state) {
        let last = found.last.as_ref().map_or(0, |last| last.number);
        audit
            .findings
            .push(format!("{}: the state is not what the manifests add up to", manifest::key(last)));
    }
    Ok(sum.kept)
}

/// What the links so far add up to.
struct ChainSum<'a> {
    found: &'a Found,
    /// `None` behind a gap, until the next checkpoint.
    state: Option<ColdState>,
    /// The number, the epoch and the author of the link before, if there is no gap.
    before: Option<(u64, u64, Author)>,
    kept: KeptSegments,
}

impl<'a> ChainSum<'a> {
    fn new(found: &'a Found) -> Self {
        Self { found, state: None, before: None, kept: KeptSegments::new() }
    }

    /// What comes next does not follow from what was.
    fn interrupt(&mut self) {
        (self.state, self.before) = (None, None);
    }

    /// Adds the next link; what is wrong with it.
    ///
    /// # Errors
    /// `Corrupt` if it contradicts itself or those before.
    fn add(&mut self, mut link: Manifest) -> Result<Vec<String>, StorageError> {
        let key = manifest::key(link.number);
        let mut findings = Vec::new();
        if self.before.is_some_and(|(number, ..)| number + 1 != link.number) {
            self.interrupt();
        }
        if let Some((_, before, author)) = self.before.replace((link.number, link.epoch, Author::of(&link))) {
            if link.epoch < before || (link.epoch == before) == link.opens {
                findings.push(format!("{key}: epoch {} follows {before}", link.epoch));
            }
            author.followed_by(&link)?;
        }
        self.note_added(&link)?;
        let is_checkpoint = link.state.is_some();
        let summed = match self.state.take() {
            Some(mut state) => {
                state.apply(&link)?;
                Some(state)
            }
            None => None,
        };
        let held = if is_checkpoint { Some(ColdState::begin(&mut link)?) } else { None };
        if let Some(held) = &held {
            self.note_named(held)?;
        }
        if let (Some(summed), Some(held)) = (&summed, &held)
            && !are_same(summed, held)
        {
            findings.push(format!("{key}: its state is not what the manifests before it add up to"));
        }
        self.state = held.or(summed);
        Ok(findings)
    }

    /// Notes what a link added, if it is kept by now.
    fn note_added(&mut self, link: &Manifest) -> Result<(), StorageError> {
        for entry in &link.changes.added {
            let damaged = |why: String| StorageError::corrupt(manifest::key(link.number), why);
            let (partition, meta) = entry.decode().map_err(damaged)?;
            self.note(&partition, &Arc::new(meta))?;
        }
        Ok(())
    }

    fn note_named(&mut self, state: &ColdState) -> Result<(), StorageError> {
        for (partition, cold) in &state.partitions {
            cold.segments.iter().try_for_each(|meta| self.note(partition, meta))?;
        }
        Ok(())
    }

    fn note(&mut self, partition: &Partition, meta: &Arc<SegmentMeta>) -> Result<(), StorageError> {
        let key = names::key(partition, meta)?;
        if self.found.state.retired.contains_key(&key) {
            self.kept.insert(key, (partition.clone(), Arc::clone(meta)));
        }
        Ok(())
    }
}

/// Whether a checkpoint holds what the links before it add up to. Some were written by programs that did not say yet
/// why a segment was removed.
fn are_same(summed: &ColdState, held: &ColdState) -> bool {
    if summed == held {
        return true;
    }
    let says_why = held.retired.values().any(|why| matches!(why, Removed::Taken(_)));
    !says_why
        && summed.retired.keys().eq(held.retired.keys())
        && ColdState { retired: held.retired.clone(), ..summed.clone() } == *held
}

/// Those that are still there.
pub(super) fn there(kept: KeptSegments, listed: &BTreeSet<String>) -> Vec<(Partition, Arc<SegmentMeta>)> {
    kept.into_iter().filter(|(key, _)| listed.contains(key)).map(|(_, segment)| segment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_checkpoint_need_not_say_why_segments_were_removed() {
        let state = |retired: &[(&str, Removed)]| ColdState {
            retired: retired.iter().map(|(key, why)| ((*key).to_owned(), *why)).collect(),
            ..ColdState::default()
        };
        let summed = state(&[("a", Removed::Replaced), ("b", Removed::Taken(7))]);
        for (retired, expected) in [
            (&[("a", Removed::Replaced), ("b", Removed::Taken(7))][..], true),
            (&[("a", Removed::Replaced), ("b", Removed::Replaced)], true),
            (&[("a", Removed::Replaced), ("b", Removed::Taken(8))], false),
            (&[("a", Removed::Taken(7)), ("b", Removed::Replaced)], false),
            (&[("a", Removed::Replaced)], false),
            (&[("a", Removed::Replaced), ("c", Removed::Replaced)], false),
        ] {
            assert_eq!(are_same(&summed, &state(retired)), expected, "{retired:?}");
        }
        let another = ColdState { openings: [7].into(), ..state(&[("a", Removed::Replaced)]) };
        assert!(!are_same(&summed, &another));
    }
}

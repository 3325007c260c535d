//! Decides what a restored store has: which tables, where its offsets go on, what holds its events, and what
//! is erased of them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::super::cover::{Piece, Preferred, cover};
use crate::{
    manifest::{self, Manifest},
    names,
    state::ColdState,
};
use contracts::{
    erasure::{ErasedPart, Erasure},
    error::StorageError,
    name::{Partition, TableName},
    segment::SegmentMeta,
    sequence::{Offset, OffsetRange},
};

/// Leaves only some tables.
pub(super) fn narrow(state: &mut ColdState, tables: &[TableName]) -> Result<(), StorageError> {
    if tables.is_empty() {
        return Ok(());
    }
    let unknown = tables.iter().find(|table| {
        !state.tables.contains_key(table.as_str()) && !state.partitions.keys().any(|one| one.table == **table)
    });
    if let Some(table) = unknown {
        return Err(StorageError::UnknownTable(table.clone()));
    }
    let is_wanted = |name: &str| tables.iter().any(|table| table.as_str() == name);
    state.partitions.retain(|partition, _| is_wanted(partition.table.as_str()));
    state.tables.retain(|name, _| is_wanted(name));
    state.consumers.retain(|key, _| is_wanted(&key.table));
    state.erasures.retain(|_, erasure| is_wanted(erasure.table.as_str()));
    Ok(())
}

/// Lets every partition go on at its end. A consumer may have committed an offset of an event that was never
/// in S3: its place is the end, too.
pub(super) fn close(state: &mut ColdState) {
    for cold in state.partitions.values_mut() {
        cold.reserved_upto = cold.end;
    }
    let ends: BTreeMap<(String, u32), u64> = state
        .partitions
        .iter()
        .map(|(partition, cold)| ((partition.table.to_string(), partition.number), cold.end))
        .collect();
    for (key, offset) in &mut state.consumers {
        let end = ends.get(&(key.table.clone(), key.partition)).copied().unwrap_or(0);
        *offset = end.min(*offset);
    }
}

/// Lets no partition of the restored tables go on below what the source has given since, to whatever events.
pub(super) fn reserve(state: &mut ColdState, latest: &ColdState) {
    let of_partitions = state.partitions.keys().map(|partition| partition.table.to_string());
    let tables: BTreeSet<String> = of_partitions.chain(state.tables.keys().cloned()).collect();
    for (partition, now) in &latest.partitions {
        if now.reserved_upto > 0 && tables.contains(partition.table.as_str()) {
            let cold = state.partitions.entry(partition.clone()).or_default();
            // Less than it was if the source has released since what it had not given.
            cold.reserved_upto = now.reserved_upto.max(cold.end);
        }
    }
}

/// What a state knows of that is to be erased, and what the links behind it say. Of events that had expired no
/// segment is written anew: only the erasures themselves say so, as they are listed before they are done.
pub(super) fn erased_by(state: &ColdState, links: &[Manifest]) -> BTreeMap<Partition, ErasedPart> {
    let since = links.iter().flat_map(|link| &link.changes.erasures);
    // Those of a cluster that the store was meanwhile stand in the link with which it came back.
    let elsewhere = links.iter().filter_map(|link| link.state.as_ref()).flat_map(|state| &state.erasures);
    let mut ranges: BTreeMap<Partition, Vec<(Offset, Offset)>> = BTreeMap::new();
    for erasure in state.erasures.values().chain(since).chain(elsewhere) {
        for (partition, part) in erasure.partitions() {
            ranges.entry(partition).or_default().extend(&part.ranges);
        }
    }
    let joined = |(partition, ranges): (Partition, _)| {
        let part = ErasedPart::joined(partition.number, ranges);
        (partition, part)
    };
    ranges.into_iter().map(joined).collect()
}

/// Adds the erasures that were asked for since and are not done: the restored store carries them out.
pub(super) fn add_erasures(state: &mut ColdState, latest: &ColdState) {
    let is_wanted = |erasure: &&Erasure| {
        !erasure.is_done() && state.partitions.keys().any(|partition| partition.table == erasure.table)
    };
    let open: Vec<Erasure> = latest.erasures.values().filter(is_wanted).cloned().collect();
    state.erasures.extend(open.into_iter().map(|erasure| (erasure.id, erasure)));
}

/// Leaves of each erasure the events that are restored. Offsets behind the end of a partition may be given to
/// other events.
pub(super) fn clip_erasures(state: &mut ColdState) {
    let ColdState { partitions, erasures, .. } = state;
    for Erasure { table, parts, .. } in erasures.values_mut() {
        for part in parts.iter_mut() {
            let partition = Partition::new(table.clone(), part.partition);
            let end = partitions.get(&partition).map_or(0, |cold| cold.end);
            part.ranges.iter_mut().for_each(|(_, until)| *until = end.min(*until));
            part.ranges.retain(|(start, until)| start < until);
        }
        parts.retain(|part| !part.ranges.is_empty());
    }
}

/// Whether something was erased between an earlier state and the last one, or may be half erased in it.
pub(super) fn is_erased_since(state: &ColdState, latest: &ColdState) -> bool {
    latest.erasures.values().any(|erasure| state.erasures.get(&erasure.id) != Some(erasure))
}

/// The erasures that a store lists at the least before it forgets old ones, unless `erase.keep` says less.
const LISTED_ERASURES: usize = 1000;

/// Of the pieces the first of which nobody can tell whether it holds what was erased since manifest `number`:
/// links behind it are missing, and with them what replaced the piece. What a link behind the last gap added,
/// or the last state names, was made from what was right by then.
pub(super) fn doubtful<'a>(
    (then, number): (&ColdState, u64),
    latest: &ColdState,
    links: &[Manifest],
    pieces: &'a [(Partition, Piece)],
) -> Result<Option<&'a Partition>, StorageError> {
    let (mut next, mut behind_gap) = (number + 1, None);
    for (at, link) in links.iter().enumerate() {
        if link.number != next || has_moved(link) {
            behind_gap = Some(at);
        }
        next = link.number + 1;
    }
    let Some(behind_gap) = behind_gap else { return Ok(None) };
    let mut told = BTreeSet::new();
    for link in &links[behind_gap..] {
        for entry in &link.changes.added {
            let damaged = |why: String| StorageError::corrupt(manifest::key(link.number), why);
            let (partition, meta) = entry.decode().map_err(damaged)?;
            told.insert(names::key(&partition, &meta)?);
        }
    }
    for (partition, cold) in &latest.partitions {
        for meta in &cold.segments {
            told.insert(names::key(partition, meta)?);
        }
    }
    let are_some_forgotten = latest.erasures.len() >= LISTED_ERASURES
        || then.erasures.keys().any(|id| !latest.erasures.contains_key(id));
    let is_erased = |table: &TableName| {
        let mut since = latest.erasures.values().filter(|one| then.erasures.get(&one.id) != Some(*one));
        are_some_forgotten || since.any(|one| one.table == *table)
    };
    for (partition, piece) in pieces {
        if is_erased(&partition.table) && !told.contains(&names::key(partition, &piece.meta)?) {
            return Ok(Some(partition));
        }
    }
    Ok(None)
}

/// Whether a store came back from elsewhere with a link: what happened there is in no link before it. A writer
/// releases nothing as it opens a chain, and has the whole state in a checkpoint only.
fn has_moved(link: &Manifest) -> bool {
    let is_checkpoint = link.number.is_multiple_of(manifest::CHECKPOINT_EVERY);
    link.opens && link.state.is_some() && (link.released || !is_checkpoint)
}

/// The segments that are known and whose objects are there. They are added in the order in which manifests
/// named them: where something was erased, what is older counts no more.
pub(super) struct Segments {
    there: BTreeSet<String>,
    known: BTreeMap<Partition, Vec<Arc<SegmentMeta>>>,
}

impl Segments {
    pub(super) fn new(there: BTreeSet<String>) -> Self {
        Self { there, known: BTreeMap::new() }
    }

    fn add(&mut self, partition: &Partition, meta: &Arc<SegmentMeta>) -> Result<(), StorageError> {
        let is_there = self.there.contains(&names::key(partition, meta)?);
        let known = self.known.entry(partition.clone()).or_default();
        if meta.erased > 0 {
            // A backup may still have what they were made from, with the events that were erased.
            known.retain(|older| {
                older.range.overlap(meta.range).is_empty() || (!is_there && older.erased > 0)
            });
        }
        if is_there {
            known.push(Arc::clone(meta));
        }
        Ok(())
    }

    pub(super) fn add_state(&mut self, state: &ColdState) -> Result<(), StorageError> {
        for (partition, cold) in &state.partitions {
            cold.segments.iter().try_for_each(|meta| self.add(partition, meta))?;
        }
        Ok(())
    }

    pub(super) fn add_link(&mut self, link: &Manifest) -> Result<(), StorageError> {
        let of_state = link.state.iter().filter(|_| has_moved(link)).flat_map(|state| &state.segments);
        for entry in of_state.chain(&link.changes.added) {
            let damaged = |why: String| StorageError::corrupt(manifest::key(link.number), why);
            let (partition, meta) = entry.decode().map_err(damaged)?;
            self.add(&partition, &Arc::new(meta))?;
        }
        Ok(())
    }

    /// What holds all events of a state; otherwise what nothing holds.
    pub(super) fn pieces(
        &self,
        state: &ColdState,
    ) -> Result<Vec<(Partition, Piece)>, (Partition, OffsetRange)> {
        let mut pieces = Vec::new();
        for (partition, cold) in &state.partitions {
            let known = self.known.get(partition).map(Vec::as_slice).unwrap_or_default();
            for run in cold.segments.chunk_by(|one, next| one.range.end == next.range.start) {
                let wanted = OffsetRange::new(run[0].range.start, run[run.len() - 1].range.end);
                let found = cover(wanted, known, Preferred::Whole);
                if let Some(hole) = found.holes.first() {
                    return Err((partition.clone(), *hole));
                }
                pieces.extend(found.pieces.into_iter().map(|piece| (partition.clone(), piece)));
            }
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::cover::tests::meta, *};
    use crate::{
        formats::jsonl::tests::segment_of,
        manifest::{Changes, ConsumerKey, SegmentEntry, tests::link_of},
        state::ColdPartition,
    };
    fn partition(table: &str) -> Partition {
        Partition::new(TableName::parse(table).unwrap(), 0)
    }

    fn state() -> ColdState {
        let mut state = ColdState::default();
        for table in ["a", "b"] {
            let cold = ColdPartition {
                segments: vec![meta(0, 5, 1), meta(5, 9, 1), meta(20, 30, 1)],
                lost: vec![OffsetRange::new(9, 20)],
                earliest: 2,
                end: 30,
                reserved_upto: 1000,
            };
            state.partitions.insert(partition(table), cold);
            let key = ConsumerKey { group: "g".to_owned(), table: table.to_owned(), partition: 0 };
            state.consumers.insert(key, 33);
        }
        state
    }

    fn there(keys: &[(u64, u64)]) -> BTreeSet<String> {
        keys.iter().map(|(start, end)| names::key(&partition("a"), &meta(*start, *end, 1)).unwrap()).collect()
    }

    #[test]
    fn some_tables_are_restored_with_what_belongs_to_them() {
        let mut narrowed = state();
        narrow(&mut narrowed, &[partition("b").table]).unwrap();
        assert_eq!(narrowed.partitions.keys().collect::<Vec<_>>(), [&partition("b")]);
        assert!(narrowed.consumers.keys().all(|key| key.table == "b"));
        let unknown = narrow(&mut narrowed, &[partition("a").table]);
        assert!(matches!(unknown, Err(StorageError::UnknownTable(_))));
    }

    #[test]
    fn a_store_whose_source_is_gone_goes_on_at_its_ends() {
        let mut closed = state();
        close(&mut closed);
        assert!(closed.partitions.values().all(|cold| cold.reserved_upto == 30));
        assert!(closed.consumers.values().all(|offset| *offset == 30));
    }

    #[test]
    fn what_the_source_has_given_since_is_reserved() {
        let (mut then, mut latest) = (state(), state());
        narrow(&mut then, &[partition("a").table]).unwrap();
        then.partitions.values_mut().for_each(|cold| cold.reserved_upto = 2000);
        let another = Partition { number: 7, ..partition("a") };
        latest.partitions.insert(another.clone(), ColdPartition { reserved_upto: 50, ..Default::default() });
        reserve(&mut then, &latest);
        let reserved: Vec<_> = then.partitions.iter().map(|(one, cold)| (one, cold.reserved_upto)).collect();
        assert_eq!(
            reserved,
            [(&partition("a"), 1000), (&another, 50)],
            "and nothing of other tables, nor what was released"
        );
        assert_eq!((then.partitions[&partition("a")].end, then.partitions[&another].end), (30, 0));
    }

    #[test]
    fn events_are_taken_from_where_they_are_now() {
        let mut state = state();
        narrow(&mut state, &[partition("a").table]).unwrap();
        let mut segments = Segments::new(there(&[(0, 5), (5, 9), (20, 30)]));
        segments.add_state(&state).unwrap();
        let pieces = segments.pieces(&state).unwrap();
        assert!(pieces.len() == 3 && pieces.iter().all(|(_, piece)| piece.is_whole()));
        // Merged since, with later events; the object of the merged one is there, those of the others not.
        let mut segments = Segments::new(there(&[(0, 9), (20, 40)]));
        segments.add_state(&state).unwrap();
        assert_eq!(segments.pieces(&state), Err((partition("a"), OffsetRange::new(0, 9))));
        for merged in [meta(0, 9, 1), meta(20, 40, 1)] {
            segments.add(&partition("a"), &merged).unwrap();
        }
        let pieces = segments.pieces(&state).unwrap();
        let ranges: Vec<_> = pieces.iter().map(|(_, piece)| (piece.range.end, piece.is_whole())).collect();
        assert_eq!(ranges, [(9, true), (30, false)]);
    }

    #[test]
    fn what_was_erased_since_is_not_taken_from_older_objects() {
        let mut state = state();
        narrow(&mut state, &[partition("a").table]).unwrap();
        let anew = Arc::new(SegmentMeta { rewrite: 1, erased: 1, ..(*meta(0, 5, 1)).clone() });
        // A backup that was renewed after the erasure has both.
        let mut all = there(&[(0, 5), (5, 9), (20, 30)]);
        all.insert(names::key(&partition("a"), &anew).unwrap());
        let mut segments = Segments::new(all);
        segments.add_state(&state).unwrap();
        assert_eq!(segments.pieces(&state).unwrap()[0].1.meta, meta(0, 5, 1), "of itself it is right");
        segments.add(&partition("a"), &anew).unwrap();
        assert_eq!(segments.pieces(&state).unwrap()[0].1.meta, anew);
        // Merged, and then expired: nothing that is left has the events as they should be.
        let mut segments = Segments::new(there(&[(0, 5), (5, 9), (20, 30)]));
        segments.add_state(&state).unwrap();
        segments.add(&partition("a"), &anew).unwrap();
        assert_eq!(segments.pieces(&state), Err((partition("a"), OffsetRange::new(0, 5))));
    }

    /// A segment of the same name as `meta` has, with an index.
    fn built(start: u64, end: u64) -> Arc<SegmentMeta> {
        Arc::new(segment_of(partition("a"), OffsetRange::new(start, end)).meta)
    }

    #[test]
    fn what_may_have_been_erased_in_a_gap_is_not_taken() {
        let link = |number: u64, added: &[Arc<SegmentMeta>]| {
            let added = added.iter().map(|meta| SegmentEntry::new(&partition("a"), meta)).collect();
            link_of(number, Changes { added, ..Changes::default() })
        };
        let (mut then, mut latest) = (state(), state());
        narrow(&mut then, &[partition("a").table]).unwrap();
        // Of what there was the last state names the second; the first was merged, or has expired.
        latest.partitions.get_mut(&partition("a")).unwrap().segments.remove(0);
        let piece = |meta: Arc<SegmentMeta>| (partition("a"), Piece { range: meta.range, meta });
        let (old, kept) = (vec![piece(meta(0, 5, 1))], vec![piece(meta(5, 9, 1))]);
        let whole = [link(8, &[]), link(9, &[])];
        let gap = [link(8, &[]), link(11, &[]), link(12, &[])];
        let found = |latest: &ColdState, links: &[Manifest], pieces: &[(Partition, Piece)]| {
            doubtful((&then, 7), latest, links, pieces).unwrap().cloned()
        };
        assert_eq!(found(&latest, &gap, &old), None, "nothing was erased");
        let erased = |table: &str| {
            let asked = Erasure::asked(partition(table).table, vec![ErasedPart::of(0, vec![1])], 7);
            Erasure { done_ms: Some(9), parts: Vec::new(), ..asked }
        };
        for table in ["b", "a"] {
            let erasure = erased(table);
            latest.erasures.insert(erasure.id, erasure);
            let is_told = table == "b";
            assert_eq!(found(&latest, &gap, &old), (!is_told).then(|| partition("a")), "{table}");
        }
        assert_eq!((found(&latest, &whole, &old), found(&latest, &gap, &kept)), (None, None));
        let added = [link(8, &[]), link(11, &[]), link(12, &[built(0, 5)])];
        assert_eq!(found(&latest, &added, &old), None, "it was made behind the gap");
        let before = [link(8, &[built(0, 5)]), link(11, &[])];
        assert_eq!(found(&latest, &before, &old), Some(partition("a")));
    }

    #[test]
    fn a_store_that_came_back_is_known_by_its_link_whatever_its_number() {
        for (number, opens, released, has_state, expected) in [
            (107, true, true, true, true),
            (100, true, true, true, true),
            (100, true, false, true, false),
            (107, true, false, false, false),
            (100, false, true, true, false),
            (107, false, true, false, false),
        ] {
            let state = has_state.then(|| ColdState::default().checkpoint());
            let link = Manifest { opens, released, state, ..link_of(number, Changes::default()) };
            assert_eq!(has_moved(&link), expected, "{number} {opens} {released} {has_state}");
        }
    }

    #[test]
    fn links_say_what_was_erased() {
        let erasure = |table: &str, ranges: &[(u64, u64)]| {
            let part = ErasedPart { partition: 0, ranges: ranges.to_vec() };
            Erasure::asked(partition(table).table, vec![part], 7)
        };
        let asked = [erasure("a", &[(7, 9), (12, 13)]), erasure("b", &[(0, 4)]), erasure("a", &[(2, 8)])];
        let done = Erasure { done_ms: Some(9), parts: Vec::new(), ..asked[0].clone() };
        let link = |number, erasures: &[Erasure]| {
            link_of(number, Changes { erasures: erasures.to_vec(), ..Changes::default() })
        };
        // The first was asked for before, and is done by the last link.
        let mut state = ColdState::default();
        state.erasures.insert(asked[0].id, asked[0].clone());
        let found = erased_by(&state, &[link(9, &[]), link(10, &asked[1..]), link(11, &[done])]);
        let ranges: Vec<_> = found.into_iter().map(|(partition, part)| (partition, part.ranges)).collect();
        assert_eq!(ranges, [(partition("a"), vec![(2, 9), (12, 13)]), (partition("b"), vec![(0, 4)])]);
    }

    #[test]
    fn erasures_are_of_events_that_are_restored() {
        let (mut then, mut latest) = (state(), state());
        let erasure = |table: &str, offsets: Vec<u64>| {
            Erasure::asked(partition(table).table, vec![ErasedPart::of(0, offsets)], 7)
        };
        let (early, open) = (erasure("a", vec![1]), erasure("a", vec![3, 29, 30, 31]));
        let (other, done) = (erasure("c", vec![1]), Erasure { done_ms: Some(9), ..erasure("b", vec![2]) });
        then.erasures.insert(early.id, early.clone());
        latest.erasures = then.erasures.clone();
        assert!(!is_erased_since(&then, &latest));
        for erasure in [&open, &other, &done] {
            latest.erasures.insert(erasure.id, erasure.clone());
        }
        assert!(is_erased_since(&then, &latest));
        add_erasures(&mut then, &latest);
        clip_erasures(&mut then);
        assert_eq!(then.erasures.len(), 2);
        assert_eq!(then.erasures[&early.id], early);
        assert_eq!(then.erasures[&open.id].parts, [ErasedPart::of(0, vec![3, 29])]);
        narrow(&mut then, &[partition("b").table]).unwrap();
        assert!(then.erasures.is_empty());
    }
}

//! Whether an entry continues the log, and where the log stands after it. Pure. All copies see the same
//! entries in the same order, so all of them judge alike; what does not continue the log is void for
//! everybody: an owner's entry that comes late, behind one that is not the last, or in a term that is over.
//!
//! One that follows another entry of the last one's number is not void: no order of the same entries explains
//! it. Whoever made it has read another log than this volume, which must not go on as if it had that one.

use super::{
    entry::{Entry, EntryBody, EntryError},
    standing::another_log,
};
use contracts::{
    error::StorageError,
    replica::{AppliedEntry, LogMark},
    shared_log::LogEntry,
};

/// What an entry is for a volume with this mark; `None` if it closes the log. A void one changes nothing but
/// the mark.
///
/// # Errors
/// Why this volume can apply no more: `Corrupt` if the entry is damaged, or one before it is missing;
/// `Refused` if it is of another log, or a newer program made it.
pub(super) fn judge(mark: &LogMark, found: &LogEntry) -> Result<Option<AppliedEntry>, StorageError> {
    if found.seq <= mark.seq() {
        return Err(corrupt(format!("entry {} comes after entry {}", found.seq, mark.applied)));
    }
    let (entry, crc) = Entry::decode(&found.bytes).map_err(|error| unread(found, &error))?;
    let Entry { term, nonce, prev, prev_crc, now_ms, body } = entry;
    if prev > mark.applied {
        return Err(corrupt(format!("entry {} follows entry {prev}, which is missing", found.seq)));
    }
    let continues = prev == mark.applied;
    if continues && prev_crc != mark.crc {
        return Err(StorageError::Refused(another_log(mark.seq())));
    }
    let mut next = LogMark { applied: found.seq.0, crc, ..mark.clone() };
    let is_in_force = continues && (term, nonce) == (mark.term, mark.nonce) && mark.owner.is_some();
    let mut changes = None;
    match body {
        EntryBody::Term { behind, .. } if continues && behind != mark.ended.last().copied() => {
            return Err(corrupt(format!(
                "entry {} goes on behind {behind:?}, and the volume behind {:?}: the log before this one was \
                 lost, and they do not agree where it ended",
                found.seq,
                mark.ended.last()
            )));
        }
        EntryBody::Term { pod, .. } if continues && term == mark.term + 1 => {
            next = LogMark { term, nonce, owner: Some(pod), yielded_to: None, ..next };
        }
        // Whoever closes the log has read all of it, and needs no term.
        EntryBody::Close if continues => return Ok(None),
        EntryBody::Changes(entered) if is_in_force => changes = Some(entered),
        EntryBody::Yield { to } if is_in_force => (next.owner, next.yielded_to) = (None, Some(to)),
        EntryBody::Term { .. }
        | EntryBody::Changes(_)
        | EntryBody::Yield { .. }
        | EntryBody::Tick { .. }
        | EntryBody::Close => {}
    }
    Ok(Some(AppliedEntry { now_ms, changes, mark: next }))
}

/// What errors call the log.
pub(super) const LOG: &str = "the shard's log";

fn corrupt(why: String) -> StorageError {
    StorageError::corrupt(LOG, why)
}

fn unread(found: &LogEntry, error: &EntryError) -> StorageError {
    let why = format!("entry {}: {error}", found.seq);
    match error {
        EntryError::Damaged(_) => corrupt(why),
        EntryError::Newer(_) => StorageError::Refused(format!(
            "{LOG}: {why}. Nothing was changed. Start the newer program on this pod too"
        )),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use contracts::{replica::EndedLog, shared_log::LogSeq};
    use uuid::Uuid;

    use super::*;

    /// A log, and where a volume that has applied all of it stands.
    struct JudgedLog {
        mark: LogMark,
    }

    impl JudgedLog {
        fn new() -> Self {
            Self { mark: LogMark::beginning(Uuid::from_u128(1)) }
        }

        /// An entry as whoever has read all of it would append it.
        fn entry(&self, term: u64, nonce: u128, body: EntryBody) -> Entry {
            let LogMark { applied, crc, .. } = self.mark;
            let nonce = Uuid::from_u128(nonce);
            Entry { term, nonce, prev: applied, prev_crc: crc, now_ms: 5, body }
        }

        fn found(&self, entry: Entry) -> LogEntry {
            LogEntry { seq: LogSeq(self.mark.applied + 1), bytes: entry.encode().0 }
        }

        /// Judges an entry and goes on behind it; what it changes.
        fn judge(&mut self, entry: Entry) -> Option<Bytes> {
            let judged = judge(&self.mark, &self.found(entry)).unwrap().expect("it does not close the log");
            assert_eq!(judged.mark.applied, self.mark.applied + 1);
            self.mark = judged.mark;
            judged.changes
        }

        fn begin(&mut self, term: u64, nonce: u128, pod: &str) {
            let behind = self.mark.ended.last().copied();
            let body = EntryBody::Term { pod: pod.to_owned(), address: String::new(), behind };
            self.judge(self.entry(term, nonce, body));
        }
    }

    fn changes() -> EntryBody {
        EntryBody::Changes(Bytes::from_static(b"x"))
    }

    #[test]
    fn only_the_term_in_force_changes_anything() {
        let mut log = JudgedLog::new();
        assert_eq!(log.judge(log.entry(0, 0, changes())), None, "nobody owns it");
        log.begin(1, 7, "zombi-0");
        assert_eq!(log.mark.owner.as_deref(), Some("zombi-0"));
        assert!(log.judge(log.entry(1, 7, changes())).is_some());
        assert_eq!(log.judge(log.entry(1, 8, changes())), None, "another process of the same term");
        assert_eq!(log.judge(log.entry(2, 7, changes())), None);
        log.begin(3, 9, "zombi-1");
        assert_eq!(log.mark.owner.as_deref(), Some("zombi-0"), "a term is never left out");
        log.begin(2, 9, "zombi-1");
        assert_eq!((log.mark.term, log.mark.owner.as_deref()), (2, Some("zombi-1")));
        assert_eq!(log.judge(log.entry(1, 7, changes())), None, "overtaken");
        assert!(log.judge(log.entry(2, 9, changes())).is_some());
    }

    #[test]
    fn what_does_not_follow_the_last_entry_is_void() {
        let mut log = JudgedLog::new();
        log.begin(1, 7, "zombi-0");
        let late = log.entry(1, 7, changes());
        assert!(log.judge(log.entry(1, 7, changes())).is_some());
        assert_eq!(log.judge(late), None, "appended behind an entry that is not the last");
        assert!(log.judge(log.entry(1, 7, changes())).is_some(), "and so it goes on");
    }

    #[test]
    fn what_follows_another_entry_of_the_last_ones_number_stops_a_copy() {
        let mut log = JudgedLog::new();
        log.begin(1, 7, "zombi-0");
        let begins = EntryBody::Term { pod: "zombi-1".to_owned(), address: String::new(), behind: None };
        let crc = log.mark.crc ^ 1;
        for entry in [log.entry(1, 7, changes()), log.entry(2, 8, begins), log.entry(1, 7, EntryBody::Close)]
        {
            let why = judge(&log.mark, &log.found(Entry { prev_crc: crc, ..entry })).unwrap_err().to_string();
            assert!(why.contains("entry 1 of the shard's log is not the one"), "{why}");
        }
    }

    #[test]
    fn after_a_yield_nothing_but_a_term_counts() {
        let mut log = JudgedLog::new();
        log.begin(1, 7, "zombi-0");
        log.judge(log.entry(1, 7, EntryBody::Yield { to: "zombi-1".to_owned() }));
        assert_eq!((log.mark.owner.clone(), log.mark.yielded_to.as_deref()), (None, Some("zombi-1")));
        assert_eq!(log.judge(log.entry(1, 7, changes())), None);
        log.begin(2, 9, "zombi-2");
        assert_eq!((log.mark.owner.as_deref(), log.mark.yielded_to.clone()), (Some("zombi-2"), None));
    }

    #[test]
    fn only_who_has_read_all_of_a_log_closes_it() {
        let mut log = JudgedLog::new();
        log.begin(1, 7, "zombi-0");
        let late = log.entry(1, 7, EntryBody::Close);
        log.judge(log.entry(1, 7, changes()));
        assert_eq!(log.judge(late), None, "void");
        for owner in [Some("zombi-0".to_owned()), None] {
            log.mark.owner = owner;
            let closing = log.found(log.entry(1, 7, EntryBody::Close));
            assert!(judge(&log.mark, &closing).unwrap().is_none());
        }
    }

    #[test]
    fn a_log_that_was_begun_anew_behind_another_place_stops_a_copy() {
        let end = |seq| EndedLog { generation: 0, seq, crc: 5 };
        let mut log = JudgedLog::new();
        log.mark = LogMark { generation: 1, ended: vec![end(7)], ..log.mark };
        for behind in [None, Some(end(8)), Some(EndedLog { crc: 6, ..end(7) })] {
            let body = EntryBody::Term { pod: "zombi-0".to_owned(), address: String::new(), behind };
            let why = judge(&log.mark, &log.found(log.entry(1, 7, body))).unwrap_err().to_string();
            assert!(why.contains("where it ended"), "{why}");
        }
        log.begin(1, 7, "zombi-0");
        assert_eq!((log.mark.term, &log.mark.ended), (1, &vec![end(7)]));
        assert!(log.judge(log.entry(1, 7, changes())).is_some());
    }

    #[test]
    fn holes_and_damage_stop_a_copy() {
        let mut log = JudgedLog::new();
        log.begin(1, 7, "zombi-0");
        let ahead = Entry { prev: 9, ..log.entry(1, 7, changes()) };
        assert!(judge(&log.mark, &log.found(ahead)).unwrap_err().to_string().contains("missing"));
        let again = LogEntry { seq: log.mark.seq(), ..log.found(log.entry(1, 7, changes())) };
        assert!(judge(&log.mark, &again).is_err());
        let cut = LogEntry { bytes: Bytes::from_static(b"zombi"), ..log.found(log.entry(1, 7, changes())) };
        assert!(judge(&log.mark, &cut).unwrap_err().to_string().contains("entry 2"));
    }
}

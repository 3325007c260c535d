//! Appends to a store and to the map, with keys that come again.

use std::collections::{BTreeMap, HashMap};

use contracts::{
    append::Append, error::StorageError, event::Event, name::PartitionNumber, payload::Payload,
    sequence::Offset,
};

use super::{ModelWorld, event_key};
use crate::store::{key_of, table};

impl ModelWorld {
    /// Makes events, and says which text each has.
    pub(super) fn events(
        &mut self,
        events: &[(PartitionNumber, Option<u8>)],
    ) -> Vec<(PartitionNumber, Event, String)> {
        let mut made = Vec::new();
        for (partition, key) in events {
            self.payloads += 1;
            // A key mostly comes with what it came with before: then it is a retry.
            let text = match key {
                Some(key) if !self.payloads.is_multiple_of(8) => format!("of key {key}"),
                _ => format!("{}-{}", self.payloads, "x".repeat(self.payloads as usize * 7 % 90)),
            };
            let event = Event {
                payload: Payload::text(text.clone()),
                timestamp_ms: 1_000 * (self.payloads as i64 * 31 % 17),
                appended_ms: 1_700_000_000_000,
                key: event_key(&text),
                idempotency_key: key.map(key_of),
                headers: BTreeMap::new(),
            };
            made.push((*partition, event, text));
        }
        made
    }

    pub(super) async fn append(
        &mut self,
        events: Vec<(PartitionNumber, Option<u8>)>,
        expected: Option<bool>,
    ) {
        let made = self.events(&events);
        let next = self.sheets[&events[0].0].next;
        let expected_offset = expected.map(|is_right| if is_right { next } else { next + 1 });
        let sent = made.iter().map(|(partition, event, _)| (*partition, event.clone())).collect();
        let append = Append { table: table(), events: sent, expected_offset, made_by: None };
        let answer = self.store().hot.append(append).await;
        if self.clashes(&made, &events) {
            assert!(matches!(answer, Err(StorageError::KeyReused { .. })), "{answer:?}");
            return;
        }
        let has_new = events
            .iter()
            .any(|(partition, key)| key.is_none_or(|key| !self.sheets[partition].keys.contains_key(&key)));
        let fits = expected_offset.is_none_or(|expected| {
            events.iter().all(|(partition, _)| self.sheets[partition].next == expected)
        });
        if has_new && !fits {
            assert!(matches!(answer, Err(StorageError::OffsetMismatch { .. })), "{answer:?}");
            return;
        }
        let places: Vec<_> = answer.unwrap().iter().map(|one| (one.offset, one.duplicate)).collect();
        assert_eq!(places, self.note(&events, &made));
    }

    /// Whether a key comes with something else than it came with before, or earlier in the same request.
    fn clashes(
        &self,
        made: &[(PartitionNumber, Event, String)],
        events: &[(PartitionNumber, Option<u8>)],
    ) -> bool {
        let mut seen: HashMap<(PartitionNumber, u8), &String> = HashMap::new();
        let keyed = events
            .iter()
            .zip(made)
            .filter_map(|((partition, key), (.., text))| Some((*partition, (*key)?, text)));
        keyed.into_iter().any(|(partition, key, text)| match self.sheets[&partition].keys.get(&key) {
            Some((_, known)) => known.as_ref().is_some_and(|known| known != text),
            None => *seen.entry((partition, key)).or_insert(text) != text,
        })
    }

    /// Does to the map what an append does; answers the places.
    pub(super) fn note(
        &mut self,
        events: &[(PartitionNumber, Option<u8>)],
        made: &[(PartitionNumber, Event, String)],
    ) -> Vec<(Offset, bool)> {
        self.exists = true;
        let mut places = Vec::new();
        for ((partition, key), (_, _, text)) in events.iter().zip(made) {
            let sheet = self.sheets.get_mut(partition).unwrap();
            if let Some((first, _)) = key.and_then(|key| sheet.keys.get(&key)) {
                places.push((*first, true));
                continue;
            }
            let offset = sheet.next;
            sheet.events.insert(offset, text.clone());
            sheet.next += 1;
            sheet.keys.extend(key.map(|key| (key, (offset, Some(text.clone())))));
            places.push((offset, false));
        }
        places
    }
}

//! Decides which objects a backup copies, which it compares, and which it has. Pure.

use std::collections::BTreeMap;

use super::records::BackupEntry;
use crate::{
    formats, names,
    state::{ColdState, Removed},
};
use contracts::error::StorageError;

/// An object that a backup should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedObject {
    /// Its key.
    pub key: String,
    /// Its length; 0 if the state does not say.
    pub bytes: u64,
    /// Its SHA-256, if the state says.
    pub sha256: Option<String>,
    /// Whether the backup is no backup without it.
    pub is_needed: bool,
}

/// What is to be done with the objects that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyPlan {
    /// These are not there.
    pub copy: Vec<WantedObject>,
    /// These are there, and nobody knows whether they are the same: a run before this one was killed.
    pub check: Vec<WantedObject>,
    /// These are there with the same SHA-256.
    pub held: Vec<BackupEntry>,
}

impl CopyPlan {
    /// The bytes that will be read, as far as they are known.
    pub fn bytes(&self) -> u64 {
        self.copy.iter().chain(&self.check).map(|object| object.bytes).sum()
    }
}

/// The objects that a state needs, and those that retention or DELETE took away and are still kept.
pub(super) fn wanted(state: &ColdState) -> Result<Vec<WantedObject>, StorageError> {
    let mut wanted = Vec::new();
    let unknown = |key: String, is_needed| WantedObject { key, bytes: 0, sha256: None, is_needed };
    for (partition, cold) in &state.partitions {
        for meta in &cold.segments {
            let key = names::key(partition, meta)?;
            // The object beside a segment first, as a writer puts it.
            wanted.extend(formats::of(meta)?.beside_key(&key).map(|beside| unknown(beside, true)));
            let (bytes, sha256) = (meta.bytes, Some(meta.sha256.clone()));
            wanted.push(WantedObject { key, bytes, sha256, is_needed: true });
        }
    }
    for (key, why) in &state.retired {
        // What was merged has its events in what replaced it.
        if matches!(why, Removed::Taken(_)) && names::parse(key).is_some() {
            wanted.extend(names::beside(key).map(|beside| unknown(beside, false)));
            wanted.push(unknown(key.clone(), false));
        }
    }
    Ok(wanted)
}

/// What is to be done, given the lengths of the objects that are `there` and what the last run has listed.
pub fn plan(
    wanted: Vec<WantedObject>,
    there: &BTreeMap<String, u64>,
    listed: &BTreeMap<String, BackupEntry>,
) -> CopyPlan {
    let mut plan = CopyPlan::default();
    for object in wanted {
        let length = there.get(&object.key);
        let entry = listed.get(&object.key).filter(|entry| {
            length == Some(&entry.bytes) && object.sha256.as_ref().is_none_or(|sha| *sha == entry.sha256)
        });
        match (length, entry) {
            (None, _) => plan.copy.push(object),
            (Some(_), Some(entry)) => plan.held.push(entry.clone()),
            (Some(_), None) => plan.check.push(object),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sha() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("b".to_owned())]
    }

    fn wanted_objects() -> impl Strategy<Value = Vec<WantedObject>> {
        let object = (0u64..3, prop::option::of(sha()), any::<bool>());
        prop::collection::btree_map(0..20u8, object, 0..20).prop_map(|objects| {
            let object = |(key, (bytes, sha256, is_needed)): (u8, _)| WantedObject {
                key: key.to_string(),
                bytes,
                sha256,
                is_needed,
            };
            objects.into_iter().map(object).collect()
        })
    }

    proptest! {
        /// Every object is copied, compared or held; only what is missing is copied, and nothing is held that
        /// could be another.
        #[test]
        fn nothing_is_copied_twice_and_nothing_is_taken_for_the_same(
            wanted in wanted_objects(),
            there in prop::collection::btree_map(0..20u8, 0u64..3, 0..20),
            listed in prop::collection::btree_map(0..20u8, (0u64..3, sha()), 0..20),
        ) {
            let there: BTreeMap<String, u64> =
                there.into_iter().map(|(key, bytes)| (key.to_string(), bytes)).collect();
            let listed: BTreeMap<String, BackupEntry> = listed
                .into_iter()
                .map(|(key, (bytes, sha256))| {
                    let key = key.to_string();
                    (key.clone(), BackupEntry { key, bytes, sha256 })
                })
                .collect();
            let planned = plan(wanted.clone(), &there, &listed);
            let count = planned.copy.len() + planned.check.len() + planned.held.len();
            prop_assert_eq!(count, wanted.len());
            prop_assert!(planned.copy.iter().all(|object| !there.contains_key(&object.key)));
            prop_assert!(planned.check.iter().all(|object| there.contains_key(&object.key)));
            for entry in &planned.held {
                let object = wanted.iter().find(|object| object.key == entry.key).unwrap();
                prop_assert!(object.sha256.as_ref().is_none_or(|sha| *sha == entry.sha256));
                prop_assert_eq!(there.get(&entry.key), Some(&entry.bytes));
            }
            // A second run has it all.
            let all: BTreeMap<String, BackupEntry> = wanted
                .iter()
                .map(|object| {
                    let sha256 = object.sha256.clone().unwrap_or_default();
                    let (key, bytes) = (object.key.clone(), object.bytes);
                    (key.clone(), BackupEntry { key, bytes, sha256 })
                })
                .collect();
            let there = all.iter().map(|(key, entry)| (key.clone(), entry.bytes)).collect();
            let again = plan(wanted.clone(), &there, &all);
            prop_assert_eq!((again.held.len(), again.bytes()), (wanted.len(), 0));
        }
    }
}

//! States that are dealt out and put together, and records that differ.

use std::collections::BTreeSet;

use super::{
    record::{ClusterRecord, ClusterShape},
    split::{merge, split},
};
use crate::{
    manifest::ConsumerKey,
    state::{ColdPartition, ColdState},
};
use contracts::{
    name::{Partition, TableName},
    shards::shard_of,
};

fn whole() -> ColdState {
    let mut state = ColdState { openings: [0, 7].into(), ..ColdState::default() };
    for number in 0..40 {
        let table = format!("table-{number}");
        let name = TableName::parse(&table).unwrap();
        let cold = ColdPartition { earliest: 3, end: 3, reserved_upto: 3, ..ColdPartition::default() };
        state.partitions.insert(Partition::new(name, number % 3), cold);
        state.consumers.insert(ConsumerKey { group: "g".to_owned(), table, partition: number % 3 }, 2);
    }
    state
}

#[test]
fn every_table_goes_to_its_shard_and_all_of_them_are_the_whole() {
    for shards in [1, 2, 12, 100] {
        let parts = split(&whole(), shards).unwrap();
        assert_eq!(parts.len(), shards as usize);
        for (number, part) in parts.iter().enumerate() {
            let of = |partition: &Partition| shard_of(&partition.table, shards) as usize;
            assert!(part.partitions.keys().all(|partition| of(partition) == number));
            assert!(part.openings.is_empty(), "they belong to a chain");
        }
        assert_eq!(merge(parts, shards, [0, 7].into()).unwrap(), whole());
    }
}

#[test]
fn a_table_on_two_shards_is_damage() {
    let mut parts = split(&whole(), 2).unwrap();
    let stray = parts[0].partitions.iter().next().map(|(name, cold)| (name.clone(), cold.clone())).unwrap();
    parts[1].partitions.insert(stray.0, stray.1);
    assert!(merge(parts, 2, BTreeSet::new()).is_err());
}

#[test]
fn a_record_is_json_and_says_how_settings_differ() {
    let shape = ClusterShape { pods: 3, shards: 12, copies: 1 };
    let record = ClusterRecord::new(shape);
    let json: serde_json::Value = serde_json::from_slice(&record.encode()).unwrap();
    let expected = serde_json::json!({
        "version": 1, "cluster": record.cluster, "shards": 12, "copies": 1, "hash": "sha256-64", "pods": 3,
    });
    assert_eq!(json, expected);
    assert_eq!(ClusterRecord::decode(&record.encode()).unwrap(), record);
    assert!(record.check(shape).is_ok());
    let other = ClusterShape { pods: 4, shards: 6, ..shape };
    let why = record.check(other).unwrap_err().to_string();
    for said in ["cluster.pods is 4, and the cluster has 3", "cluster.shards is 6, and the cluster has 12"] {
        assert!(why.contains(said), "{why}");
    }
    let copied = ClusterRecord::new(ClusterShape { copies: 2, ..shape });
    assert_eq!(copied.pods, None, "its shards are bound to no pod");
    for text in [r#"{"version":2,"shards":1,"copies":1,"hash":"sha256-64"}"#, "{}", ""] {
        assert!(ClusterRecord::decode(text.as_bytes()).is_err(), "{text}");
    }
}

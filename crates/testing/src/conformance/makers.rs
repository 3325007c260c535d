//! Quotas of makers: what a principal has made is counted, over crashes too, and one more is refused whole.

use std::sync::Arc;

use contracts::{
    append::Append,
    catalog::{TableChange, TableSettings},
    consumers::Commit,
    error::StorageError,
    maker::{Maker, MakerLimits},
    name::{GroupName, Partition, PartitionNumber, TableName},
    recovery::{Recovered, RecoveredOffset, RecoveredTable},
};
use futures_util::future::join_all;

use super::{Volume, VolumeCase, event};

const TABLES: MakerLimits = MakerLimits { tables: Some(2), partitions: None, groups: None };
const PARTITIONS: MakerLimits = MakerLimits { tables: None, partitions: Some(3), groups: None };
const GROUPS: MakerLimits = MakerLimits { tables: None, partitions: None, groups: Some(1) };

fn maker(principal: &str, limits: MakerLimits) -> Option<Maker> {
    Some(Maker { principal: Arc::from(principal), limits })
}

fn name(table: &str) -> TableName {
    TableName::parse(table).unwrap()
}

fn named_group(group: &str) -> GroupName {
    GroupName::parse(group).unwrap()
}

/// The quota that refused something, and its limit; `None` if it was done.
fn refusal<T>(answer: Result<T, StorageError>) -> Option<(&'static str, u64)> {
    match answer {
        Ok(_) => None,
        Err(StorageError::OverQuota { quota, limit }) => Some((quota, limit)),
        Err(error) => panic!("{error}"),
    }
}

impl<V: Volume> VolumeCase<V> {
    /// Appends one event to each of these partitions.
    async fn append_by(
        &self,
        by: &Option<Maker>,
        table: &str,
        partitions: &[PartitionNumber],
    ) -> Option<(&'static str, u64)> {
        let events = partitions.iter().map(|partition| (*partition, event(0, None))).collect();
        let append = Append { table: name(table), events, expected_offset: None, made_by: by.clone() };
        refusal(self.hot().append(append).await)
    }

    async fn configure_by(&self, by: &Option<Maker>, table: &str) -> Option<(&'static str, u64)> {
        let change = TableChange { made_by: by.clone(), ..TableChange::default() };
        refusal(self.hot().configure_table(name(table), change).await)
    }

    /// Commits the first offset of a partition that is there.
    async fn commit_by(&self, by: &Option<Maker>, group: &str) -> Option<(&'static str, u64)> {
        let offsets = vec![(Partition::new(name("t"), 0), 0)];
        let group = named_group(group);
        let commit = Commit { group, offsets, force: false, made_by: by.clone() };
        refusal(self.hot().commit(commit).await)
    }

    async fn delete(&self, table: &str) {
        self.hot().delete_table(name(table)).await.unwrap();
    }

    async fn delete_named_group(&self, group: &str) {
        self.hot().delete(named_group(group)).await.unwrap();
    }
}

pub(super) async fn tables_are_counted_by_who_made_them<V: Volume>(mut z: VolumeCase<V>) {
    let (one, other) = (maker("token:one", TABLES), maker("token:other", TABLES));
    let over = Some(("tables", 2));
    assert_eq!(z.append_by(&one, "a", &[0]).await, None);
    assert_eq!(z.configure_by(&one, "b").await, None);
    for _ in 0..2 {
        assert_eq!(z.append_by(&one, "c", &[0]).await, over);
        assert_eq!(z.configure_by(&one, "c").await, over);
        assert!(z.hot().tables().get(&name("c")).is_none(), "nothing was made");
        assert_eq!(z.append_by(&one, "a", &[0, 1]).await, None, "it is there");
        assert_eq!(z.configure_by(&one, "b").await, None, "it is there");
        z.crash().await;
    }
    assert_eq!(z.append_by(&other, "c", &[0]).await, None, "each has its own");
    assert_eq!(z.append_by(&None, "d", &[0]).await, None, "nobody is counted");
    assert_eq!(z.append_by(&one, "c", &[0]).await, None, "it is there");
    z.delete("a").await;
    assert_eq!(z.append_by(&one, "e", &[0]).await, None, "a deleted table counts no longer");
    assert_eq!(z.append_by(&one, "a", &[0]).await, over, "it would be made again");
    assert_eq!(z.configure_by(&one, "a").await, over);
    assert!(z.hot().table(&name("a")).is_none(), "it stays deleted");
    assert_eq!(z.append_by(&other, "a", &[0]).await, None, "it is now the table of who made it again");
    z.crash().await;
    assert_eq!(z.append_by(&other, "f", &[0]).await, over);
    z.delete("b").await;
    // Those that wait together count together.
    let names: Vec<String> = (0..8).map(|n| format!("many-{n}")).collect();
    let answers = join_all(names.iter().map(|table| z.append_by(&one, table, &[0]))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 1, "{answers:?}");
    let lowered = maker("token:one", MakerLimits { tables: Some(0), ..TABLES });
    assert_eq!(z.append_by(&lowered, "e", &[0]).await, None, "what is there stays");
}

pub(super) async fn partitions_are_counted_by_who_made_them<V: Volume>(mut z: VolumeCase<V>) {
    let one = maker("token:one", PARTITIONS);
    let over = Some(("partitions", 3));
    assert_eq!(z.append_by(&one, "t", &[0, 7, 0]).await, None);
    assert_eq!(z.append_by(&one, "u", &[1]).await, None);
    for _ in 0..2 {
        let before = z.watermarks(0).next;
        assert_eq!(z.append_by(&one, "t", &[0, 1]).await, over);
        assert_eq!((z.watermarks(0).next, z.watermarks(1).next), (before, 0), "nothing was written");
        assert_eq!(z.append_by(&one, "v", &[0]).await, over);
        assert!(z.hot().tables().get(&name("v")).is_none(), "nor was its table made");
        assert_eq!(z.append_by(&one, "t", &[0, 7]).await, None, "they are there");
        z.crash().await;
    }
    assert_eq!(z.append_by(&None, "t", &[1]).await, None, "nobody is counted");
    assert_eq!(z.append_by(&one, "t", &[1]).await, None, "it is there");
    // Its offsets are remembered, and so is the partition.
    z.delete("t").await;
    z.crash().await;
    assert_eq!(z.append_by(&one, "u", &[0]).await, over);
    assert_eq!(z.append_by(&one, "t", &[0, 7]).await, None);
}

pub(super) async fn groups_are_counted_by_who_made_them<V: Volume>(mut z: VolumeCase<V>) {
    let (one, other) = (maker("token:one", GROUPS), maker("token:other", GROUPS));
    let over = Some(("groups", 1));
    assert_eq!(z.append_by(&None, "t", &[0]).await, None);
    assert_eq!(z.commit_by(&one, "g").await, None);
    for _ in 0..2 {
        assert_eq!(z.commit_by(&one, "h").await, over);
        assert_eq!(z.hot().groups().await.unwrap(), [named_group("g")]);
        assert_eq!(z.commit_by(&one, "g").await, None, "it is there");
        z.crash().await;
    }
    assert_eq!(z.commit_by(&other, "h").await, None, "each has its own");
    assert_eq!(z.commit_by(&None, "i").await, None, "nobody is counted");
    assert_eq!(z.commit_by(&one, "h").await, None, "it is there");
    z.delete_named_group("g").await;
    z.crash().await;
    assert_eq!(z.commit_by(&one, "k").await, None, "a deleted group counts no longer");
    assert_eq!(z.commit_by(&other, "g").await, over, "it would be made again");
    z.delete_named_group("h").await;
    assert_eq!(z.commit_by(&other, "g").await, None, "it is now the group of who made it again");
    assert_eq!(z.commit_by(&one, "h").await, over);
    // With a table go the groups that have no offsets elsewhere.
    z.delete("t").await;
    z.crash().await;
    assert!(z.hot().groups().await.unwrap().is_empty());
    assert_eq!(z.append_by(&None, "t", &[0]).await, None);
    assert_eq!(z.commit_by(&one, "h").await, None);
    assert_eq!(z.commit_by(&one, "g").await, over);
}

pub(super) async fn what_a_recovery_leaves_is_still_counted<V: Volume>(mut z: VolumeCase<V>) {
    let limits = MakerLimits { tables: Some(2), groups: Some(1), ..MakerLimits::default() };
    let one = maker("token:one", limits);
    assert_eq!(z.append_by(&one, "t", &[0]).await, None);
    assert_eq!(z.append_by(&one, "u", &[0]).await, None);
    assert_eq!(z.commit_by(&one, "g").await, None);
    let recover = async |z: &VolumeCase<V>, group: &str| {
        let table = |table: &str, is_deleted| RecoveredTable {
            name: name(table),
            settings: TableSettings::default(),
            is_deleted,
        };
        let consumer =
            RecoveredOffset { group: named_group(group), partition: Partition::new(name("t"), 0), offset: 1 };
        let recovered = Recovered {
            tables: vec![table("t", false), table("u", true), table("v", false)],
            partitions: Vec::new(),
            consumers: Some(vec![consumer]),
        };
        z.hot().recover(recovered).await.unwrap();
    };
    recover(&z, "g").await;
    z.crash().await;
    assert_eq!(z.commit_by(&one, "h").await, Some(("groups", 1)), "g is still its own");
    assert_eq!(z.append_by(&one, "w", &[0]).await, None, "u is deleted, and v is nobody's");
    assert_eq!(z.append_by(&one, "x", &[0]).await, Some(("tables", 2)));
    recover(&z, "i").await;
    z.crash().await;
    assert_eq!(z.hot().groups().await.unwrap(), [named_group("i")]);
    assert_eq!(z.commit_by(&one, "h").await, None, "g is gone, and i is nobody's");
}

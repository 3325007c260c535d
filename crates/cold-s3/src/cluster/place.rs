//! A shard of a cluster, wherever the cluster is: in a bucket, or in a backup.

use async_trait::async_trait;
use bytes::Bytes;

use super::record::ClusterRecord;
use crate::{
    chain,
    names::{self, SEGMENTS},
    place::{FoundObject, ObjectPlace},
    s3::{Created, Objects},
};
use contracts::{error::StorageError, name::TableName, shards::Shard};

/// A shard of the cluster in a place. The segments are those of its tables among all that are there; all
/// other objects are its own, below its directory.
#[derive(Debug, Clone, Copy)]
pub struct ShardPlace<'a> {
    whole: &'a dyn ObjectPlace,
    shard: Shard,
}

impl<'a> ShardPlace<'a> {
    /// A shard of the cluster in a place.
    pub fn new(whole: &'a dyn ObjectPlace, shard: Shard) -> Self {
        Self { whole, shard }
    }

    /// All shards of the cluster in a place, in order.
    pub fn all(whole: &'a dyn ObjectPlace, record: &ClusterRecord) -> Vec<Self> {
        let of = record.shards;
        (0..of).map(|number| Self::new(whole, Shard { number, of })).collect()
    }

    /// The shards that a pod has begun, in order: the others have nothing.
    ///
    /// # Errors
    /// `Refused` if there is none, or one has segments and no manifests; those of the place.
    pub async fn begun(
        whole: &'a dyn ObjectPlace,
        record: &ClusterRecord,
    ) -> Result<Vec<Self>, StorageError> {
        let mut begun = Vec::new();
        for shard in Self::all(whole, record) {
            if chain::links(&shard).await?.last().is_some() {
                begun.push(shard);
            } else {
                // One that has lost its manifests is not passed over without a word.
                chain::refuse_lost_chain(&shard).await?;
            }
        }
        if begun.is_empty() {
            return Err(StorageError::Refused(format!(
                "no pod has begun a shard of the cluster in {}: there is nothing in it",
                whole.place()
            )));
        }
        Ok(begun)
    }

    /// Which one it is.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// The key of an object in the whole place.
    fn full(&self, key: &str) -> String {
        if key.starts_with(SEGMENTS) { key.to_owned() } else { self.shard.directory() + key }
    }

    /// The key of an object as the shard has it; `None` if it is another shard's.
    fn own(&self, full: String) -> Option<String> {
        if full.starts_with(SEGMENTS) {
            // What is no segment is found once: in the first shard.
            let is_own = match names::parse(&full) {
                Some(found) => self.shard.has(&found.partition.table),
                None => self.shard.number == 0,
            };
            return is_own.then_some(full);
        }
        full.strip_prefix(&self.shard.directory()).map(str::to_owned)
    }
}

#[async_trait]
impl ObjectPlace for ShardPlace<'_> {
    fn place(&self) -> String {
        self.whole.place() + &self.shard.directory()
    }

    fn named(&self, key: &str) -> String {
        self.whole.named(&self.full(key))
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StorageError> {
        self.whole.get(&self.full(key)).await
    }

    async fn listed(&self, below: &str) -> Result<Vec<FoundObject>, StorageError> {
        let found = self.whole.listed(&self.full(below)).await?.into_iter();
        let own = |object: FoundObject| {
            let FoundObject { key, bytes, modified_ms } = object;
            Some(FoundObject { key: self.own(key)?, bytes, modified_ms })
        };
        Ok(found.filter_map(own).collect())
    }

    async fn first(&self, below: &str) -> Result<Option<String>, StorageError> {
        if below.starts_with(SEGMENTS) {
            // The first of them may be another shard's.
            return Ok(self.listed(below).await?.into_iter().next().map(|object| object.key));
        }
        let found = self.whole.first(&self.full(below)).await?;
        Ok(found.and_then(|key| self.own(key)))
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<Created, StorageError> {
        self.whole.create(&self.full(key), body).await
    }

    async fn replace(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        self.whole.replace(&self.full(key), body).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.whole.delete(&self.full(key)).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn owns(&self, table: &TableName) -> bool {
        self.shard.has(table)
    }

    fn in_bucket(&self) -> Option<&Objects> {
        // Only segments are copied by the store itself, and those have one key for all shards.
        self.whole.in_bucket()
    }
}

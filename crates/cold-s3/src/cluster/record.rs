//! `cluster.json`: what a cluster is, for ever. Created once, by whichever pod comes first.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    chain, manifest,
    names::SEGMENTS,
    place::ObjectPlace,
    s3::{Created, Objects},
};
use contracts::{error::StorageError, shards::CLUSTER};

/// The version of `cluster.json`.
const VERSION: u32 = 1;
/// How tables are dealt out to shards: see `contracts::shards`.
const HASH: &str = "sha256-64";
/// The most shards that a cluster has.
const MOST_SHARDS: u32 = 1000;

/// What the settings say of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterShape {
    /// How many pods there are.
    pub pods: u32,
    /// How many shards.
    pub shards: u32,
    /// How many pods have each.
    pub copies: u32,
}

/// What a cluster is, as its bucket says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterRecord {
    /// The version of this object.
    pub version: u32,
    /// The cluster's own name.
    pub cluster: Uuid,
    /// How many shards it has.
    pub shards: u32,
    /// How many pods have each.
    pub copies: u32,
    /// How tables are dealt out.
    pub hash: String,
    /// How many pods there are, where each shard is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<u32>,
}

impl ClusterRecord {
    /// Of a new cluster.
    pub fn new(shape: ClusterShape) -> Self {
        let ClusterShape { pods, shards, copies } = shape;
        let pods = (copies == 1).then_some(pods);
        Self { version: VERSION, cluster: Uuid::new_v4(), shards, copies, hash: HASH.to_owned(), pods }
    }

    /// Reads the bytes of one.
    ///
    /// # Errors
    /// `Refused` if they are another program's.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let record: Self = serde_json::from_slice(bytes)
            .map_err(|error| StorageError::Refused(format!("{CLUSTER} cannot be read: {error}")))?;
        let is_known = (record.version, record.hash.as_str()) == (VERSION, HASH);
        if !is_known || !(1..=MOST_SHARDS).contains(&record.shards) {
            return Err(StorageError::Refused(format!(
                "{CLUSTER} has version {}, hash {:?} and {} shards; this program knows version {VERSION}, \
                 {HASH:?}, and from 1 to {MOST_SHARDS} shards",
                record.version, record.hash, record.shards
            )));
        }
        Ok(record)
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        match serde_json::to_vec(self) {
            Ok(bytes) => bytes.into(),
            Err(error) => unreachable!("it has only string keys: {error}"),
        }
    }

    /// Refuses settings that say something else, and says what.
    ///
    /// # Errors
    /// `Refused` with every difference.
    pub fn check(&self, shape: ClusterShape) -> Result<(), StorageError> {
        let differs = |name: &str, here: u32, there: u32| {
            (here != there).then(|| format!("cluster.{name} is {here}, and the cluster has {there}"))
        };
        let differences: Vec<String> = [
            differs("shards", shape.shards, self.shards),
            differs("copies", shape.copies, self.copies),
            self.pods.and_then(|pods| differs("pods", shape.pods, pods)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if differences.is_empty() {
            return Ok(());
        }
        Err(StorageError::Refused(format!(
            "the settings are not those of the cluster in the bucket ({CLUSTER}): {}. Shards and copies are \
             fixed; the number of pods is changed by zombi cluster resize --pods M. Nothing was changed",
            differences.join("; ")
        )))
    }
}

/// What a place says, if it holds a cluster.
///
/// # Errors
/// `Unavailable` or `Denied`; `Refused` if another program wrote it.
pub async fn recorded(place: &dyn ObjectPlace) -> Result<Option<ClusterRecord>, StorageError> {
    let bytes = place.get(CLUSTER).await?;
    bytes.map(|bytes| ClusterRecord::decode(&bytes)).transpose()
}

/// The same of a cluster that is one: whose shards have it all.
///
/// # Errors
/// Those of [`recorded`]; `Refused` if an adoption was cut off, and the chain of one Zombi still counts.
pub async fn settled(place: &dyn ObjectPlace) -> Result<Option<ClusterRecord>, StorageError> {
    let Some(record) = recorded(place).await? else { return Ok(None) };
    check_adopted(place).await?;
    Ok(Some(record))
}

/// Refuses a cluster whose adoption was cut off: the one Zombi may still start, and must not find a cluster
/// at work.
async fn check_adopted(place: &dyn ObjectPlace) -> Result<(), StorageError> {
    let links = chain::links(place).await?;
    let Some(last) = links.last() else { return Ok(()) };
    if chain::read(place, last).await?.moved {
        return Ok(());
    }
    Err(StorageError::Refused(format!(
        "{}manifests/ is the chain of one Zombi, which the cluster has not adopted in full, or has not left \
         in full: run zombi cluster adopt again, or zombi cluster leave. Nothing was changed",
        place.place()
    )))
}

/// Joins the cluster that the bucket holds; begins one if the prefix is empty.
///
/// # Errors
/// `Refused` if the cluster is another than the settings say, or the prefix holds something else;
/// `Unavailable` or `Denied`.
pub async fn join(objects: &Objects, shape: ClusterShape) -> Result<ClusterRecord, StorageError> {
    let there = match recorded(objects).await? {
        Some(record) => record,
        None => begin(objects, shape).await?,
    };
    there.check(shape)?;
    check_adopted(objects).await?;
    Ok(there)
}

/// Creates the record of a new cluster in an empty prefix.
async fn begin(objects: &Objects, shape: ClusterShape) -> Result<ClusterRecord, StorageError> {
    for below in [manifest::PREFIX, SEGMENTS] {
        if let Some(key) = objects.list_page(below, None).await?.into_iter().next() {
            // Another pod may have begun it meanwhile, and have written already.
            if let Some(record) = recorded(objects).await? {
                return Ok(record);
            }
            return Err(StorageError::Refused(format!(
                "{}{key} exists, and there is no {CLUSTER}: this prefix holds the store of one Zombi. Let \
                 the cluster have it with zombi cluster adopt, or use another prefix. Nothing was changed",
                objects.place()
            )));
        }
    }
    let record = ClusterRecord::new(shape);
    match objects.create(CLUSTER, record.encode()).await? {
        Created::Yes => Ok(record),
        // Another pod was faster, or this one's own answer was lost.
        Created::Exists => recorded(objects).await?.ok_or_else(|| {
            StorageError::Refused(format!("{CLUSTER} existed and is gone: somebody takes the cluster apart"))
        }),
    }
}

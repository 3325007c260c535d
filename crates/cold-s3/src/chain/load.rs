//! Reads the chain: from its last checkpoint on, or what another writer has added since.

use futures_util::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::hint;
use crate::{
    links::Links,
    manifest::{self, Manifest},
    names,
    place::ObjectPlace,
    s3::Objects,
    state::ColdState,
};
use contracts::{
    error::{StorageError, Tier},
    manifests::BucketEmptied,
    shards::CLUSTER,
};

/// Manifests read at once when the chain is opened.
pub(super) const PARALLEL_GETS: usize = 16;

/// The chain as it was found.
#[derive(Debug, Default, Clone)]
pub struct Found {
    /// The state after its last link.
    pub state: ColdState,
    /// Its last link; `None` for a new store.
    pub last: Option<Manifest>,
    /// The links that exist: all of them, or those from the last checkpoint on.
    pub links: Links,
}

/// Reads the chain: the last checkpoint and the links after it.
///
/// # Errors
/// `Unavailable`; `Denied` if the last link's checkpoint is gone; `Refused` if there are segments and no
/// manifests; `Corrupt` if a link is missing, damaged, or contradicts those before it.
pub async fn load(objects: &dyn ObjectPlace) -> Result<Found, StorageError> {
    load_upto(objects, None).await
}

/// Reads the chain up to link `upto`, as if those behind it did not exist.
///
/// # Errors
/// Those of [`load`].
pub async fn load_upto(objects: &dyn ObjectPlace, upto: Option<u64>) -> Result<Found, StorageError> {
    let mut links = links(objects).await?;
    links.end_with(upto.unwrap_or(u64::MAX));
    load_listed(objects, links).await
}

/// Reads the chain as an opening needs it: of its links only those from the last checkpoint on are known, if
/// a hint says where that is.
///
/// # Errors
/// Those of [`load`].
pub(crate) async fn load_last(objects: &Objects) -> Result<Found, StorageError> {
    let Some(checkpoint) = hint::read(objects).await.filter(|number| *number > 0) else {
        return load(objects).await;
    };
    let links = links_from(objects, checkpoint).await?;
    if links.last().is_none() { load(objects).await } else { load_listed(objects, links).await }
}

async fn load_listed(objects: &dyn ObjectPlace, links: Links) -> Result<Found, StorageError> {
    let Some(last) = links.last() else {
        let Err(refused) = refuse_lost_chain(objects).await else { return Ok(Found::default()) };
        // A chain is begun before its first segment is put: if it was begun only now, it is listed by now.
        let links = self::links(objects).await?;
        return if links.last().is_none() {
            Err(refused)
        } else {
            Box::pin(load_listed(objects, links)).await
        };
    };
    let mut last = read(objects, last).await?;
    // A link without its checkpoint: the bucket was emptied under a writer, which then put one more link.
    let checkpoint = manifest::key(last.checkpoint);
    if !links.contains(last.checkpoint) && objects.get(&checkpoint).await?.is_none() {
        let why =
            format!("{} exists, but {checkpoint}, on which it builds, is gone", manifest::key(last.number));
        return Err(StorageError::denied(Tier::Cold, BucketEmptied(why)));
    }
    // A whole state is large: it is read once, and moved out of its manifest instead of copied.
    let (mut state, mut before) = match last.checkpoint == last.number {
        true => (ColdState::begin(&mut last)?, Author::of(&last)),
        false => {
            let mut checkpoint = read(objects, last.checkpoint).await?;
            (ColdState::begin(&mut checkpoint)?, Author::of(&checkpoint))
        }
    };
    let mut rest = stream::iter(last.checkpoint + 1..=last.number)
        .map(|number| read(objects, number))
        .buffered(PARALLEL_GETS);
    while let Some(link) = rest.try_next().await? {
        before = before.followed_by(&link)?;
        state.apply(&link)?;
    }
    drop(rest);
    Ok(Found { state, last: Some(last), links })
}

/// Who wrote a link, and of which store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Author {
    store_id: Uuid,
    nonce: Uuid,
}

impl Author {
    /// Of a link.
    pub(crate) fn of(link: &Manifest) -> Self {
        Self { store_id: link.store_id, nonce: link.nonce }
    }

    /// The author of the next link: the same one, or one who took over with it. Other links were brought
    /// together from different chains, and to apply one to the state of another would mix two stores.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn followed_by(self, link: &Manifest) -> Result<Self, StorageError> {
        let next = Self::of(link);
        let why = if next.store_id != self.store_id {
            format!("it is of store {}, and the one before it of store {}", next.store_id, self.store_id)
        } else if next.nonce != self.nonce && !link.opens {
            "another writer than that of the one before it wrote it, and did not take over".to_owned()
        } else {
            return Ok(next);
        };
        Err(StorageError::corrupt(manifest::key(link.number), why))
    }
}

/// The first segment of this store, if there is one.
async fn first_segment(objects: &dyn ObjectPlace) -> Result<Option<String>, StorageError> {
    if !objects.is_shared() {
        return objects.first(names::SEGMENTS).await;
    }
    // Only the first start of a shard comes here.
    let mut keys = objects.listed(names::SEGMENTS).await?.into_iter().map(|object| object.key);
    Ok(keys.find(|key| names::parse(key).is_some_and(|found| objects.owns(&found.partition.table))))
}

/// Refuses what has no manifests and is no new store all the same.
///
/// # Errors
/// `Refused` if it is a cluster's, or has segments; those of the place.
pub(crate) async fn refuse_lost_chain(objects: &dyn ObjectPlace) -> Result<(), StorageError> {
    refuse_clusters(objects).await?;
    match first_segment(objects).await? {
        None => Ok(()),
        // A new chain would start again at offset 0, and give the offsets of these segments a second time.
        Some(key) => Err(StorageError::Refused(format!(
            "there are segments below this prefix (such as {key}) but no manifest: the manifests were \
             deleted, or never copied. This is not a new store. Restore the objects below manifests/, or \
             make them anew from the segments: zombi manifest rebuild. Nothing was changed"
        ))),
    }
}

/// Refuses a prefix without manifests that is a cluster's: what seems to be an empty store is not one.
async fn refuse_clusters(objects: &dyn ObjectPlace) -> Result<(), StorageError> {
    if objects.is_shared() || objects.get(CLUSTER).await?.is_none() {
        return Ok(());
    }
    Err(StorageError::Refused(format!(
        "{}{CLUSTER} exists: this prefix belongs to a cluster, and one Zombi cannot open it. Set \
         cluster.pods as that says, or use another prefix. Nothing was changed",
        objects.place()
    )))
}

/// Lists the links.
///
/// # Errors
/// `Unavailable` or `Denied`.
pub(crate) async fn links(objects: &dyn ObjectPlace) -> Result<Links, StorageError> {
    let found = objects.listed(manifest::PREFIX).await?.into_iter();
    Ok(Links::new(found.filter_map(|object| Some((manifest::number(&object.key)?, object.modified_ms)))))
}

/// Lists the links from one on.
async fn links_from(objects: &Objects, first: u64) -> Result<Links, StorageError> {
    let before = first.checked_sub(1).map(manifest::key);
    let found = objects.listed_after(manifest::PREFIX, before.as_deref()).await?.into_iter();
    let found = found.filter_map(|object| Some((manifest::number(&object.key)?, object.modified_ms)));
    Ok(Links::from(first, found))
}

/// Reads the links that another writer has added meanwhile. One by one: reading the whole chain again could
/// take longer than a busy writer takes for its next link, and a takeover would never win.
///
/// # Errors
/// Those of reading the chain.
pub async fn follow(objects: &dyn ObjectPlace, mut found: Found) -> Result<Found, StorageError> {
    let known = found.links.len();
    while let Some(last) = &found.last {
        let number = last.number + 1;
        let Some(bytes) = objects.get(&manifest::key(number)).await? else { break };
        let link = manifest::decode(number, &bytes)?;
        if link.opens {
            return load(objects).await; // a takeover, by a third writer or by our own late PUT
        }
        Author::of(last).followed_by(&link)?;
        found.state.apply(&link)?;
        found.links.add(number, link.written_ms);
        found.last = Some(link);
    }
    // Nothing was added, so the link that beat us is gone again: only a full read can tell what happened.
    if found.links.len() == known { load(objects).await } else { Ok(found) }
}

/// Reads one link.
///
/// # Errors
/// `Unavailable`; `Corrupt` if it is missing or damaged.
pub async fn read(objects: &dyn ObjectPlace, number: u64) -> Result<Manifest, StorageError> {
    let key = manifest::key(number);
    let bytes = objects
        .get(&key)
        .await?
        .ok_or_else(|| StorageError::corrupt(&key, "the manifest chain needs it, and it is not there"))?;
    manifest::decode(number, &bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::{
        manifest::{Changes, tests::link_of},
        s3::{Created, FoundObject},
    };

    /// A place where nothing was, in which another writer begins a chain once its manifests were listed.
    #[derive(Debug)]
    struct BegunMeanwhile {
        opening: Option<Vec<u8>>,
        lists: AtomicU64,
    }

    #[async_trait]
    impl ObjectPlace for BegunMeanwhile {
        fn place(&self) -> String {
            String::new()
        }

        async fn get(&self, key: &str) -> Result<Option<Bytes>, StorageError> {
            Ok(self.opening.clone().filter(|_| key == manifest::key(0)).map(Bytes::from))
        }

        async fn listed(&self, _: &str) -> Result<Vec<FoundObject>, StorageError> {
            let is_there = self.opening.is_some() && self.lists.fetch_add(1, Relaxed) > 0;
            let opening = FoundObject { key: manifest::key(0), bytes: 1, modified_ms: 0 };
            Ok(Some(opening).filter(|_| is_there).into_iter().collect())
        }

        async fn first(&self, _: &str) -> Result<Option<String>, StorageError> {
            Ok(Some("segments/t/00000/0-1-00000001.jsonl.zst".to_owned()))
        }

        async fn create(&self, _: &str, _: Bytes) -> Result<Created, StorageError> {
            unreachable!("it is only read")
        }

        async fn replace(&self, _: &str, _: Bytes) -> Result<(), StorageError> {
            unreachable!("it is only read")
        }

        async fn delete(&self, _: &str) -> Result<(), StorageError> {
            unreachable!("it is only read")
        }
    }

    #[tokio::test]
    async fn segments_without_manifests_are_a_lost_chain_unless_it_was_begun_only_now() {
        let state = Some(ColdState::default().checkpoint());
        let opening = Manifest { state, ..link_of(0, Changes::default()) };
        let place = BegunMeanwhile { opening: Some(manifest::encode(&opening)), lists: AtomicU64::new(0) };
        assert_eq!(load(&place).await.unwrap().last.map(|last| last.number), Some(0));
        let place = BegunMeanwhile { opening: None, ..place };
        assert!(matches!(load(&place).await, Err(StorageError::Refused(_))));
    }
}

//! Finds out at the start whether the store keeps its word: of many that create one object, exactly one may win, LIST
//! shows what was put, and GET gives it back. The fence between two writers stands on the first; on the others, that what leaves the
//! volume can still be read.

use bytes::Bytes;
use futures_util::future::try_join_all;
use uuid::Uuid;

use super::s3::{Created, Objects};
use crate::contracts::error::{StorageError, Tier};

/// How many try to create the same object at once.
const CREATORS: usize = 8;

/// How often it is tried again when answers were lost.
const ATTEMPTS: usize = 5;

/// Probes the store, with an object of its own that is deleted afterwards.
///
/// # Errors
/// `Refused` with what the store does wrong; `Unavailable`.
pub async fn probe(objects: &Objects) -> Result<(), StorageError> {
    for _ in 0..ATTEMPTS {
        let key = format!("probe/{}", Uuid::new_v4());
        let result = create_and_list(objects, &key).await;
        let deleted = objects.delete(&key).await;
        if result? {
            return deleted;
        }
    }
    Err(StorageError::unavailable(Tier::Cold, NoAnswer))
}

/// The store answered, but the winner's answer was lost every time.
#[derive(Debug, thiserror::Error)]
#[error("of {CREATORS} that created one object none was told that it had, {ATTEMPTS} times")]
struct NoAnswer;

/// Whether the store keeps its word; `false` if it cannot be told, because the winner's answer was lost.
async fn create_and_list(objects: &Objects, key: &str) -> Result<bool, StorageError> {
    let racing = (0..CREATORS).map(|creator| objects.create(key, Bytes::from(format!("creator {creator}"))));
    let winners = try_join_all(racing).await?.into_iter().filter(|created| *created == Created::Yes).count();
    if winners > 1 {
        return Err(refused(format!("{CREATORS} created one object with If-None-Match: *, and {winners} were told that they had")));
    }
    if objects.create(key, Bytes::from_static(b"late")).await? == Created::Yes {
        return Err(refused("an object that was there was created again".to_owned()));
    }
    if objects.list(key, None).await? != [key] {
        return Err(refused("LIST does not show an object that was just put".to_owned()));
    }
    read(objects, key).await?;
    Ok(winners == 1)
}

/// Reads what stands there, whole and in part.
async fn read(objects: &Objects, key: &str) -> Result<(), StorageError> {
    let refused = |found: String| Err(StorageError::Refused(format!("the S3 store does not give back what was put: {found}")));
    let whole = objects.get(key).await?;
    let Some(whole) = whole.filter(|whole| whole.starts_with(b"creator ")) else { return refused("GET gives something else".to_owned()) };
    match objects.get_range(key, 1..4).await {
        Ok(part) if part == whole[1..4] => Ok(()),
        Ok(_) => refused("GET of a range gives something else".to_owned()),
        Err(error @ StorageError::Corrupt { .. }) => refused(format!("GET of a range: {error}")),
        Err(error) => Err(error),
    }
}

/// Probes a store that is not asked to keep two writers apart: what was put can be read.
///
/// # Errors
/// `Refused` with what the store does wrong; `Unavailable`.
pub async fn probe_unfenced(objects: &Objects) -> Result<(), StorageError> {
    let key = format!("probe/{}", Uuid::new_v4());
    objects.create(&key, Bytes::from_static(b"creator 0")).await?;
    let found = read(objects, &key).await;
    let deleted = objects.delete(&key).await;
    found.and(deleted)
}

fn refused(found: String) -> StorageError {
    StorageError::Refused(format!(
        "the S3 store cannot keep two writers apart: {found}. Use one that honours conditional writes (AWS, MinIO, Ceph, R2). If you \
         make sure by other means that never more than one Zombi uses this bucket and prefix, set s3.unfenced = true"
    ))
}

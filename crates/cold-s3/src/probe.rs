//! Finds out at the start whether the store keeps its word: of many that create one object, exactly one may
//! win, LIST shows what was put, and GET gives it back, of the class that segments have too. The fence
//! between two writers stands on the first; on the others, that what leaves the volume can still be read.

use bytes::Bytes;
use futures_util::future::try_join_all;
use tracing::warn;
use uuid::Uuid;

use super::s3::{self, Created, Objects};
use contracts::error::{Cause, StorageError, Tier};

/// How many try to create the same object at once.
const CREATORS: usize = 8;

/// How often it is tried again when answers were lost.
const ATTEMPTS: usize = 5;

/// Probes the store, with objects of its own that are deleted afterwards, where that is allowed.
///
/// # Errors
/// `Refused` with what the store does wrong; `Denied` with what it refuses; `Unavailable`.
pub async fn probe(objects: &Objects) -> Result<(), StorageError> {
    for _ in 0..ATTEMPTS {
        let key = format!("probe/{}", Uuid::new_v4());
        let result = match create_and_list(objects, &key).await {
            Ok(true) => read_class(objects, &key).await.map(|()| true),
            result => result,
        };
        tidy(objects, &key, result.is_ok()).await;
        if result? {
            return Ok(());
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
    let created = match try_join_all(racing).await {
        Ok(created) => created,
        Err(error) => return Err(about_the_condition(objects, key, error).await),
    };
    let winners = created.into_iter().filter(|created| *created == Created::Yes).count();
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

/// Each store says in words of its own that it does not know a condition, and says the same of much else.
/// That it is the condition shows the same PUT without it.
async fn about_the_condition(objects: &Objects, key: &str, error: StorageError) -> StorageError {
    if !s3::is_vague(&error) || objects.put_over(key, Bytes::from_static(b"creator 0")).await.is_err() {
        return error;
    }
    match error {
        StorageError::Denied { tier, source } => StorageError::denied(tier, NoCondition { source }),
        error => error,
    }
}

/// A PUT is refused with a condition, and taken without.
#[derive(Debug, thiserror::Error)]
#[error(
    "{source}. Without If-None-Match: * the same PUT is taken: the store does not know that condition, which keeps two writers apart. If \
     you make sure by other means that never more than one Zombi uses this bucket and prefix, set s3.unfenced = true"
)]
struct NoCondition {
    source: Cause,
}

/// Puts an object as segments are, if they have a class of their own, and reads it.
async fn read_class(objects: &Objects, key: &str) -> Result<(), StorageError> {
    if !objects.has_storage_class() {
        return Ok(());
    }
    let key = format!("{key}-class");
    let found = match objects.put_segment(&key, Bytes::from_static(b"creator 0")).await {
        Ok(()) => read(objects, &key).await,
        Err(error) => Err(error),
    };
    tidy(objects, &key, found.is_ok()).await;
    found.map_err(|error| match error {
        // Without the class all this has just been done.
        StorageError::Denied { tier, source } => StorageError::denied(tier, NoClass { source }),
        error => error,
    })
}

/// An object cannot be put and read in the class that segments are to have.
#[derive(Debug, thiserror::Error)]
#[error("segments cannot be stored as s3.storage_class says: {source}")]
struct NoClass {
    source: Cause,
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
/// `Refused` with what the store does wrong; `Denied` with what it refuses; `Unavailable`.
pub async fn probe_unfenced(objects: &Objects) -> Result<(), StorageError> {
    let key = format!("probe/{}", Uuid::new_v4());
    objects.create(&key, Bytes::from_static(b"creator 0")).await?;
    let found = match read(objects, &key).await {
        Ok(()) => read_class(objects, &key).await,
        Err(error) => Err(error),
    };
    tidy(objects, &key, found.is_ok()).await;
    found
}

/// Deletes an object of the probe's. Nothing stands on that: where it is not allowed, what nobody needs any
/// more stays.
async fn tidy(objects: &Objects, key: &str, is_well: bool) {
    if let Err(error) = objects.delete(key).await
        && is_well
    {
        warn!(%error, "the probe's object cannot be deleted; where that stays so, what nobody needs any more stays too");
    }
}

fn refused(found: String) -> StorageError {
    StorageError::Refused(format!(
        "the S3 store cannot keep two writers apart: {found}. Use one that honours conditional writes (AWS, MinIO, Ceph, R2). If you \
         make sure by other means that never more than one Zombi uses this bucket and prefix, set s3.unfenced = true"
    ))
}

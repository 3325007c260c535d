//! Probes the store at each start: of several PUTs that create one object exactly one may win, LIST shows a
//! new object, and GET returns its bytes, also in the storage class of segments. The fence between two
//! writers relies on the first; everything that leaves the volume relies on the others.

use bytes::Bytes;
use futures_util::future::try_join_all;
use tracing::warn;
use uuid::Uuid;

use super::s3::{self, Created, Objects};
use contracts::error::{Cause, StorageError, Tier};

/// PUTs that race to create the same object.
const CREATORS: usize = 8;

/// Attempts when the winner's answer was lost.
const ATTEMPTS: usize = 5;

/// Probes the store with objects of its own, and deletes them afterwards where that is allowed.
///
/// # Errors
/// `Refused` if the store breaks a rule that Zombi relies on; `Denied` if it rejects a request;
/// `Unavailable`.
pub(crate) async fn probe(objects: &Objects) -> Result<(), StorageError> {
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
#[error(
    "probing the store failed {ATTEMPTS} times: none of {CREATORS} PUTs that create one object was answered \
     with success"
)]
struct NoAnswer;

/// Whether the store passed; `false` if that is unknown, because the winner's answer was lost.
async fn create_and_list(objects: &Objects, key: &str) -> Result<bool, StorageError> {
    let racing = (0..CREATORS).map(|creator| objects.create(key, Bytes::from(format!("creator {creator}"))));
    let created = match try_join_all(racing).await {
        Ok(created) => created,
        Err(error) => return Err(about_the_condition(objects, key, error).await),
    };
    let winners = created.into_iter().filter(|created| *created == Created::Yes).count();
    if winners > 1 {
        return Err(refused(format!(
            "of {CREATORS} PUTs of one object with If-None-Match: *, {winners} succeeded"
        )));
    }
    if objects.create(key, Bytes::from_static(b"late")).await? == Created::Yes {
        return Err(refused("a PUT with If-None-Match: * overwrote an object".to_owned()));
    }
    if objects.list(key, None).await? != [key] {
        return Err(refused("LIST does not show a new object".to_owned()));
    }
    read(objects, key).await?;
    Ok(winners == 1)
}

/// Adds what to do about it if the store rejects the condition. Stores have no common code for that, and use
/// the same codes for much else: it is the condition if the same PUT succeeds without it.
async fn about_the_condition(objects: &Objects, key: &str, error: StorageError) -> StorageError {
    if !s3::is_vague(&error) || objects.put_over(key, Bytes::from_static(b"creator 0")).await.is_err() {
        return error;
    }
    match error {
        StorageError::Denied { tier, source } => StorageError::denied(tier, NoCondition { source }),
        error => error,
    }
}

/// The store rejects a PUT with the condition and takes it without.
#[derive(Debug, thiserror::Error)]
#[error(
    "{source}. The same PUT succeeds without If-None-Match: *, so the store does not support that \
     condition, which keeps two writers apart. Use another store. Or make sure by other means that only one \
     Zombi uses this bucket and prefix, and set s3.unfenced = true"
)]
struct NoCondition {
    source: Cause,
}

/// Puts an object in the storage class of segments, if there is one, and reads it.
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
        // The same requests have just succeeded without the class, so it must be the class.
        StorageError::Denied { tier, source } => StorageError::denied(tier, NoClass { source }),
        error => error,
    })
}

/// An object cannot be put and read in the storage class of segments.
#[derive(Debug, thiserror::Error)]
#[error("segments cannot be stored and read in the class that s3.storage_class sets: {source}")]
struct NoClass {
    source: Cause,
}

/// Reads an object of the probe, whole and in part.
async fn read(objects: &Objects, key: &str) -> Result<(), StorageError> {
    let refused = |found: String| {
        Err(StorageError::Refused(format!("the S3 store does not return what was put: {found}")))
    };
    let whole = objects.get(key).await?;
    let Some(whole) = whole.filter(|whole| whole.starts_with(b"creator ")) else {
        return refused("GET returned something else".to_owned());
    };
    match objects.get_range(key, 1..4).await {
        Ok(part) if part == whole[1..4] => Ok(()),
        Ok(_) => refused("GET of a range returned something else".to_owned()),
        Err(error @ StorageError::Corrupt { .. }) => refused(format!("GET of a range: {error}")),
        Err(error) => Err(error),
    }
}

/// Probes a store that is not relied on to keep two writers apart: only whether an object can be read after
/// its PUT.
///
/// # Errors
/// Those of [`probe`].
pub(crate) async fn probe_unfenced(objects: &Objects) -> Result<(), StorageError> {
    let key = format!("probe/{}", Uuid::new_v4());
    objects.create(&key, Bytes::from_static(b"creator 0")).await?;
    let found = match read(objects, &key).await {
        Ok(()) => read_class(objects, &key).await,
        Err(error) => Err(error),
    };
    tidy(objects, &key, found.is_ok()).await;
    found
}

/// Deletes an object of the probe. A failure is only a warning: without the right to delete, Zombi works, and
/// the bucket grows.
async fn tidy(objects: &Objects, key: &str, is_well: bool) {
    if let Err(error) = objects.delete(key).await
        && is_well
    {
        warn!(
            %error,
            "the object of the start's probe cannot be deleted; without the right to delete, the bucket \
             keeps every object"
        );
    }
}

fn refused(found: String) -> StorageError {
    StorageError::Refused(format!(
        "the S3 store cannot keep two writers apart: {found}. Use one that honours conditional writes (AWS, \
         MinIO, Ceph, R2). Or make sure by other means that only one Zombi uses this bucket and prefix, and \
         set s3.unfenced = true"
    ))
}

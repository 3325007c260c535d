//! A volume's identity: its format, and the store that it belongs to.

use ::rocksdb::{DB, WriteBatch, WriteOptions};
use uuid::Uuid;

use super::{
    handles::{family, unavailable},
    keys::{self, cf, meta},
    upgrade,
};
use contracts::error::StorageError;

/// Reads the volume's identity, or creates one if the volume is new. Upgrades an earlier format first.
///
/// # Errors
/// `Refused` if the format is unknown; `Corrupt` or `Unavailable`.
pub(super) fn identify(db: &DB) -> Result<Uuid, StorageError> {
    let family = family(db, cf::META);
    let damaged = |why: String| StorageError::corrupt("the volume's identity", why);
    let get = |key| db.get_cf(family, key).map_err(unavailable);
    match (get(meta::FORMAT)?, get(meta::STORE_ID)?) {
        (Some(format), Some(id)) => {
            let format =
                keys::decode_u32(&format).ok_or_else(|| damaged("the format is not a number".to_owned()))?;
            if !upgrade::upgrade(db, format)? {
                return Err(StorageError::Refused(format!(
                    "the volume has format {format}, and this program knows {} to {}: another program wrote \
                     it. Nothing was changed. Start that program again",
                    upgrade::OLDEST,
                    keys::FORMAT
                )));
            }
            Uuid::from_slice(&id).map_err(|error| damaged(error.to_string()))
        }
        (None, None) => {
            let id = Uuid::new_v4();
            let mut writes = WriteBatch::default();
            writes.put_cf(family, meta::FORMAT, keys::FORMAT.to_be_bytes());
            writes.put_cf(family, meta::STORE_ID, id.as_bytes());
            let mut options = WriteOptions::default();
            options.set_sync(true);
            db.write_opt(writes, &options).map_err(unavailable)?;
            Ok(id)
        }
        _ => Err(damaged("format and store id must be there together".to_owned())),
    }
}

/// The identity of a volume whose format can be read as it is; `None` for another format.
pub(super) fn read_identity(db: &DB) -> Result<Option<Uuid>, StorageError> {
    let get = |key| db.get_cf(family(db, cf::META), key).map_err(unavailable);
    let format = get(meta::FORMAT)?.and_then(|format| keys::decode_u32(&format));
    let is_read = format.is_some_and(upgrade::may_be_read);
    let Some(id) = get(meta::STORE_ID)?.filter(|_| is_read) else { return Ok(None) };
    let damaged = |error: uuid::Error| StorageError::corrupt("the volume's identity", error.to_string());
    Uuid::from_slice(&id).map(Some).map_err(damaged)
}

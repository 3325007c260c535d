//! What RocksDB's own interface gives: column families and errors.

use ::rocksdb::{ColumnFamily, DB};
use contracts::error::{StorageError, Tier};

/// RocksDB's error, as one of the hot tier.
pub(super) fn unavailable(error: ::rocksdb::Error) -> StorageError {
    if error.kind() == ::rocksdb::ErrorKind::Corruption {
        StorageError::corrupt("RocksDB", error)
    } else {
        StorageError::unavailable(Tier::Hot, error)
    }
}

pub(super) fn family<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    let Some(family) = db.cf_handle(name) else {
        unreachable!("column family {name} is opened with the database");
    };
    family
}

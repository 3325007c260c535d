//! A volume that no server uses: opened to read what is on it, and nothing else.

use std::sync::Arc;

use uuid::Uuid;

use super::{catalog::SharedCatalog, keys::PartitionKey, options::OpenOptions, rocksdb::Db, table_id, wal};
use contracts::{
    catalog::Tables,
    clock::Clock,
    error::StorageError,
    name::Partition,
    read::{HotPage, ReadLimit, Wanted},
    sequence::Offset,
};

/// The open volume. Closed when dropped.
#[derive(Debug)]
pub struct VolumeAtRest {
    db: Arc<Db>,
    catalog: Arc<SharedCatalog>,
}

impl VolumeAtRest {
    /// Opens the volume in a directory, and makes none.
    ///
    /// # Errors
    /// `Refused` if there is none; `Unavailable` if it is in use; `Corrupt` if it is damaged.
    pub fn open(options: &OpenOptions, clock: Arc<dyn Clock>) -> Result<Self, StorageError> {
        if !options.path.join(wal::CURRENT).exists() {
            let path = options.path.display();
            return Err(StorageError::Refused(format!("{path} holds no volume. Nothing was made")));
        }
        let (db, catalog) = Db::open(options, clock)?;
        Ok(Self { db, catalog })
    }

    /// The store that it holds.
    pub fn store_id(&self) -> Uuid {
        self.db.store_id()
    }

    /// Its tables.
    pub fn tables(&self) -> Arc<Tables> {
        self.catalog.tables()
    }

    /// Reads a partition from an offset on.
    ///
    /// # Errors
    /// `UnknownTable`, `Corrupt` or `Unavailable`.
    pub fn read(
        &self,
        partition: &Partition,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Option<HotPage>, StorageError> {
        let key =
            PartitionKey { table: table_id(&self.catalog, &partition.table)?, partition: partition.number };
        let pages = self.db.read(&partition.table, &[(key, from)], &Wanted::all(limit))?;
        Ok(pages.into_iter().next())
    }
}

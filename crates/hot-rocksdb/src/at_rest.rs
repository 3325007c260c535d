//! A volume that no server uses: opened to read what is on it, and nothing else. Nothing is written to it.

use std::{
    fs::{File, OpenOptions as FileOptions},
    io,
    path::Path,
    sync::Arc,
};

use rustix::fs::{FlockOperation, fcntl_lock};
use uuid::Uuid;

use super::{
    catalog::SharedCatalog,
    keys::{PartitionKey, cf, meta},
    options::OpenOptions,
    rocksdb::Db,
    table_id, wal,
};
use contracts::{
    catalog::Tables,
    clock::Clock,
    erasure::Erasure,
    error::{StorageError, Tier},
    name::Partition,
    read::{HotPage, ReadLimit, Wanted},
    sequence::Offset,
};

/// The open volume. Closed when dropped.
#[derive(Debug)]
pub struct VolumeAtRest {
    db: Arc<Db>,
    catalog: Arc<SharedCatalog>,
    /// Held as a server holds it, which RocksDB does not do for who only reads.
    _lock: Option<File>,
}

/// What RocksDB locks.
const LOCK: &str = "LOCK";

impl VolumeAtRest {
    /// Opens the volume in a directory, and makes none.
    ///
    /// # Errors
    /// `Refused` if there is none, or it is of a format that must be upgraded to be read; `Unavailable` if it
    /// is in use; `Corrupt` if it is damaged.
    pub fn open(options: &OpenOptions, clock: Arc<dyn Clock>) -> Result<Self, StorageError> {
        if !options.path.join(wal::CURRENT).exists() {
            let path = options.path.display();
            return Err(StorageError::Refused(format!("{path} holds no volume. Nothing was made")));
        }
        let lock = lock(&options.path)?;
        let (db, catalog) = Db::open_read_only(options, clock)?;
        Ok(Self { db, catalog, _lock: lock })
    }

    /// The store that it holds.
    pub fn store_id(&self) -> Uuid {
        self.db.store_id()
    }

    /// Its tables.
    pub fn tables(&self) -> Arc<Tables> {
        self.catalog.tables()
    }

    /// The erasures that it has noted.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub fn erasures(&self) -> Result<Vec<Erasure>, StorageError> {
        let stored = self.db.scan(cf::META, meta::ERASURE, meta::ERASURE);
        stored.map(|pair| Erasure::decode(&pair?.1)).collect()
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

/// Locks a volume as a server does; a copy may lack the file.
fn lock(path: &Path) -> Result<Option<File>, StorageError> {
    let failed = |error: io::Error| {
        let why = format!("data_dir {} is in use, or cannot be locked: {error}", path.display());
        StorageError::unavailable(Tier::Hot, io::Error::new(error.kind(), why))
    };
    let file = match FileOptions::new().write(true).open(path.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
    Ok(Some(file))
}

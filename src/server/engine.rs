//! The engine behind every store, RocksDB's: how volumes are opened, served and closed. The one place of the
//! process that chooses it; nothing else names its types, but for the settings that its crate declares.

use std::{path::Path, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{task, time::Instant};
use tracing::{error, info, warn};

use super::error::ServerError;
use crate::settings::Settings;
use contracts::{
    clock::{Clock, SystemClock},
    engine::Engine,
    error::StorageError,
    fence::Fence,
    heartbeat::Heartbeat,
};
use hot_rocksdb::{
    HotParts, RocksHot, catalog::SharedCatalog, options::OpenOptions, request::WriterOptions, rocksdb::Db,
};

/// A volume that no server uses, to be read.
pub(crate) use hot_rocksdb::at_rest::VolumeAtRest;
/// How full a disk is, the memory that volumes share, and what one takes of it.
pub(super) use hot_rocksdb::{
    disk::Disk,
    options::{SharedMemory, WRITE_BUFFERS},
};

/// Files that a volume at rest may have open.
const AT_REST_FILES: i32 = 256;

/// An open volume, and what was found on it. No engine works on it yet.
pub(super) struct FoundVolume {
    db: Arc<Db>,
    catalog: Arc<SharedCatalog>,
}

/// What an engine is given beside its volume.
pub(super) struct EngineParts {
    /// How full the volume's disk is.
    pub(super) disk: Arc<Disk>,
    /// The time of day.
    pub(super) clock: Arc<dyn Clock>,
    /// Closed when another writer takes over the bucket.
    pub(super) fence: Arc<Fence>,
    /// The writer's heartbeat.
    pub(super) heartbeat: Arc<Heartbeat>,
}

/// An engine on its volume.
pub(super) struct OpenEngine {
    /// The engine, in all its roles.
    pub(super) hot: Arc<dyn Engine>,
    /// The volume's writer, which is to be run.
    pub(super) writer: BoxFuture<'static, Result<(), StorageError>>,
    /// The volume, which is to be closed.
    pub(super) volume: ServedVolume,
}

/// A volume that an engine works on.
pub(super) struct ServedVolume(Arc<Db>);

impl FoundVolume {
    /// Builds the engine on it.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` if the volume cannot be read.
    pub(super) fn serve(self, parts: EngineParts, settings: &Settings) -> Result<OpenEngine, StorageError> {
        let Self { db, catalog } = self;
        let EngineParts { disk, clock, fence, heartbeat } = parts;
        let volume = ServedVolume(Arc::clone(&db));
        let parts = HotParts { db, catalog, disk, clock, fence, heartbeat };
        let (hot, writer) = RocksHot::new(parts, writer_options(settings))?;
        Ok(OpenEngine { hot, writer: Box::pin(writer.run()), volume })
    }
}

impl ServedVolume {
    /// Closes it once nobody uses it any more.
    pub(super) async fn close(self) {
        let Self(db) = self;
        match task::spawn_blocking(move || db.close()).await {
            Ok(Ok(())) => info!("volume closed"),
            Ok(Err(error)) => warn!(%error, "the volume was not closed cleanly; its log has everything"),
            Err(error) => error!(%error, "closing the volume failed"),
        }
    }
}

/// Opens the volume in the data directory, which may have a long log to replay. The error names the path, as
/// operators know the volume by that.
///
/// # Errors
/// [`ServerError`] if it cannot be opened.
pub(super) async fn open_volume(
    settings: &Settings,
    memory: SharedMemory,
    max_open_files: i32,
) -> Result<FoundVolume, ServerError> {
    let options = open_options(settings, &settings.process.data_dir, max_open_files);
    let began = Instant::now();
    let opened =
        task::spawn_blocking(move || Db::open_sharing(&options, &memory, SystemClock::shared())).await;
    let path = settings.process.data_dir.display().to_string();
    let opened = opened.map_err(|source| ServerError::Io {
        what: format!("opening data_dir {path}"),
        source: source.into(),
    })?;
    let (db, catalog) = opened.map_err(|source| {
        if source.to_string().contains(&path) { source.into() } else { ServerError::Volume { path, source } }
    })?;
    info!(
        path = %settings.process.data_dir.display(),
        volume = %db.store_id(),
        took_ms = began.elapsed().as_millis() as u64,
        "volume opened"
    );
    Ok(FoundVolume { db, catalog })
}

/// How full the disk is on which the data directory is.
///
/// # Errors
/// [`ServerError::Io`] if nobody can tell.
pub(super) fn open_disk(settings: &Settings) -> Result<Arc<Disk>, ServerError> {
    let disk = Disk::new(&settings.process.data_dir, settings.disk);
    let data_dir = settings.process.data_dir.display();
    let what = || format!("cannot read the free space of data_dir {data_dir}");
    Ok(Arc::new(disk.map_err(|source| ServerError::Io { what: what(), source })?))
}

/// Opens the volume in a directory, which no server uses, to read it.
///
/// # Errors
/// Those of [`VolumeAtRest::open`].
pub(crate) fn open_at_rest(settings: &Settings, path: &Path) -> Result<VolumeAtRest, StorageError> {
    VolumeAtRest::open(&open_options(settings, path, AT_REST_FILES), SystemClock::shared())
}

fn open_options(settings: &Settings, path: &Path, max_open_files: i32) -> OpenOptions {
    OpenOptions {
        path: path.to_owned(),
        durability: settings.process.durability,
        keys: settings.keys,
        hot: settings.hot,
        max_open_files,
    }
}

fn writer_options(settings: &Settings) -> WriterOptions {
    WriterOptions {
        durability: settings.process.durability,
        keys: settings.keys,
        hot: settings.hot,
        limits: settings.store,
        tables: settings.new_tables,
    }
}

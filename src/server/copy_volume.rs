//! The volume of a copy of a shard. The log and the bucket have all that is on it, so damage is repaired by
//! beginning anew; the damaged volume is kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tracing::error;

use super::{
    engine::{FoundVolume, SharedMemory, open_volume},
    error::ServerError,
    shard_mark,
    shards::make_directory,
};
use crate::settings::Settings;
use cold_s3::cluster::ClusterRecord;
use contracts::{error::StorageError, shards::Shard};

/// Opens the volume of a copy. A damaged one is set aside, and an empty one opened instead.
///
/// # Errors
/// [`ServerError`] if it cannot be opened, or is another shard's.
pub(super) async fn open_copy_volume(
    settings: &Settings,
    (shard, record): (Shard, &ClusterRecord),
    (memory, files): (SharedMemory, i32),
) -> Result<FoundVolume, ServerError> {
    let path = &settings.process.data_dir;
    make_directory(path)?;
    shard_mark::check(path, shard, record)?;
    let damage = match open_volume(settings, memory.clone(), files).await {
        Err(ServerError::Storage(error @ StorageError::Corrupt { .. })) => error,
        Err(ServerError::Volume { source: error @ StorageError::Corrupt { .. }, .. }) => error,
        opened => return opened,
    };
    let aside = free_name(path);
    error!(
        path = %path.display(),
        aside = %aside.display(),
        %damage,
        "the volume is damaged: it is set aside, and the copy begins anew from the bucket and the log"
    );
    let failed = |source| ServerError::Io { what: format!("cannot set {} aside", path.display()), source };
    fs::rename(path, &aside).map_err(failed)?;
    make_directory(path)?;
    shard_mark::check(path, shard, record)?;
    open_volume(settings, memory, files).await
}

/// A name beside a volume that nothing has.
fn free_name(volume: &Path) -> PathBuf {
    let named = |number: u32| {
        let mut name = volume.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        PathBuf::from(name)
    };
    let is_free = |path: &PathBuf| !path.exists();
    (1..).map(named).find(is_free).unwrap_or_else(|| named(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_volume_is_set_aside_under_a_name_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("007");
        assert_eq!(free_name(&volume), directory.path().join("007.damaged-1"));
        fs::create_dir(directory.path().join("007.damaged-1")).unwrap();
        assert_eq!(free_name(&volume), directory.path().join("007.damaged-2"));
    }
}

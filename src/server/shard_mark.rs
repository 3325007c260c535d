//! Keeps volumes apart: that of one Zombi, and those of a cluster's shards, each with a file `SHARD` in it
//! that says which one it is.

use std::{fs, io, path::Path};

use super::error::ServerError;
pub(super) use crate::cluster::volumes::{directory, volume};
use crate::cluster::volumes::{mark, mark_text};
use cold_s3::cluster::ClusterRecord;
use contracts::{error::StorageError, shards::Shard};

/// What every volume of RocksDB has.
const CURRENT: &str = "CURRENT";

/// Refuses a data directory with shards, or of one, for one Zombi.
///
/// # Errors
/// [`ServerError::Storage`].
pub(super) fn refuse_shards(data_dir: &Path) -> Result<(), ServerError> {
    if directory(data_dir).is_dir() || mark(data_dir).is_file() {
        return Err(refused(format!(
            "data_dir {} holds shards of a cluster, and cluster.pods is 0. Set cluster.pods, or start with \
             an empty volume after zombi cluster leave. Nothing was changed",
            data_dir.display()
        )));
    }
    Ok(())
}

/// Refuses a data directory with the volume of one Zombi for a cluster.
///
/// # Errors
/// [`ServerError::Storage`].
pub(super) fn refuse_single(data_dir: &Path) -> Result<(), ServerError> {
    if data_dir.join(CURRENT).exists() {
        return Err(refused(format!(
            "data_dir {} is the volume of one Zombi, and cluster.pods is set. Start that Zombi again and \
             stop it cleanly, adopt its bucket with zombi cluster adopt, and start the pods with empty \
             volumes. Nothing was changed",
            data_dir.display()
        )));
    }
    Ok(())
}

/// Checks that the volume of a shard is that of this shard of this cluster; marks a new one.
///
/// # Errors
/// [`ServerError::Storage`] if it is another's, [`ServerError::Io`] if it cannot be marked.
pub(super) fn check(path: &Path, shard: Shard, record: &ClusterRecord) -> Result<(), ServerError> {
    let (mark, text) = (mark(path), mark_text(record.cluster, shard));
    let failed = |source| ServerError::Io { what: format!("cannot use {}", mark.display()), source };
    match fs::read_to_string(&mark) {
        Ok(found) if found == text => Ok(()),
        Ok(found) => Err(refused(format!(
            "{} says that this is the volume of {:?}, and not of {:?}. Use that volume, or an empty one, \
             which is recovered from S3. Nothing was changed",
            mark.display(),
            found.trim(),
            text.trim()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.join(CURRENT).exists() {
                let path = path.display();
                return Err(refused(format!(
                    "{path} has a volume, and nothing says whose. Nothing was changed"
                )));
            }
            write(&mark, text.as_bytes()).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Writes a file that is there whole or not at all.
pub(super) fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let half = path.with_extension("new");
    fs::write(&half, contents)?;
    fs::File::open(&half)?.sync_all()?;
    fs::rename(&half, path)?;
    match path.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn refused(why: String) -> ServerError {
    ServerError::Storage(StorageError::Refused(why))
}

#[cfg(test)]
mod tests {
    use cold_s3::cluster::ClusterShape;

    use super::*;

    #[test]
    fn a_volume_is_one_shards_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let record = ClusterRecord::new(ClusterShape { pods: 1, shards: 2, copies: 1 });
        let shard = Shard { number: 1, of: 2 };
        check(directory.path(), shard, &record).unwrap();
        check(directory.path(), shard, &record).unwrap();
        let other = ClusterRecord::new(ClusterShape { pods: 1, shards: 2, copies: 1 });
        assert!(check(directory.path(), shard, &other).is_err(), "another cluster");
        assert!(check(directory.path(), Shard { number: 0, of: 2 }, &record).is_err());
        assert!(refuse_shards(directory.path()).is_err());
        assert!(refuse_single(directory.path()).is_ok());
        let unmarked = tempfile::tempdir().unwrap();
        fs::write(unmarked.path().join(CURRENT), "").unwrap();
        assert!(check(unmarked.path(), shard, &record).is_err());
        assert!(refuse_single(unmarked.path()).is_err() && refuse_shards(unmarked.path()).is_ok());
    }
}

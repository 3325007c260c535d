//! Where a pod keeps the volumes of its shards, and how each of them says which one it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use contracts::shards::Shard;

/// Below the data directory: the volumes of shards.
const SHARDS: &str = "shards";
/// In the volume of a shard: which one it is.
const MARK: &str = "SHARD";

/// Where the volumes of shards are.
pub(crate) fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join(SHARDS)
}

/// Where the volume of a shard is.
pub(crate) fn volume(data_dir: &Path, shard: Shard) -> PathBuf {
    directory(data_dir).join(shard.name())
}

/// The file in a shard's volume that says which one it is.
pub(crate) fn mark(volume: &Path) -> PathBuf {
    volume.join(MARK)
}

/// What that file holds.
pub(crate) fn mark_text(cluster: Uuid, shard: Shard) -> String {
    format!("{cluster} {} of {}\n", shard.name(), shard.of)
}

/// The shard that such a text names.
pub(crate) fn marked(text: &str) -> Option<Shard> {
    let mut words = text.split_ascii_whitespace();
    let (Some(_cluster), Some(number), Some("of"), Some(of)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    Some(Shard { number: number.parse().ok()?, of: of.parse().ok()? })
}

/// The volumes in a data directory, each with its shard: those of a pod, or the one of one Zombi.
///
/// # Errors
/// Those of reading the directory. What is there without a mark is left out: nothing was ever written to it.
/// So is a damaged volume that was set aside, whose name goes on behind a dot: another has taken its place.
pub(crate) fn found(data_dir: &Path) -> io::Result<Vec<(PathBuf, Option<Shard>)>> {
    if let Some(shard) = read(data_dir)? {
        return Ok(vec![(data_dir.to_owned(), Some(shard))]);
    }
    let shards = directory(data_dir);
    if !shards.is_dir() {
        return Ok(vec![(data_dir.to_owned(), None)]);
    }
    let mut volumes = Vec::new();
    for entry in fs::read_dir(shards)? {
        let path = entry?.path();
        if path.extension().is_some() {
            continue;
        }
        if let Some(shard) = read(&path)? {
            volumes.push((path, Some(shard)));
        }
    }
    volumes.sort();
    Ok(volumes)
}

/// The shard that the mark of a volume names; `None` if it has none.
fn read(volume: &Path) -> io::Result<Option<Shard>> {
    match fs::read_to_string(mark(volume)) {
        Ok(text) => Ok(marked(&text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volumes_of_a_pod_are_found_by_their_marks() {
        let shard = Shard { number: 7, of: 12 };
        let text = mark_text(Uuid::nil(), shard);
        assert_eq!(marked(&text), Some(shard));
        for wrong in ["", "x", "x y of 12", "x 7 for 12", "x 7 of"] {
            assert_eq!(marked(wrong), None, "{wrong}");
        }
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path();
        assert_eq!(found(data_dir).unwrap(), [(data_dir.to_owned(), None)]);
        for number in [7, 3] {
            let path = volume(data_dir, Shard { number, of: 12 });
            fs::create_dir_all(&path).unwrap();
            fs::write(mark(&path), mark_text(Uuid::nil(), Shard { number, of: 12 })).unwrap();
        }
        fs::create_dir(data_dir.join("shards/008")).unwrap();
        let numbers: Vec<u32> =
            found(data_dir).unwrap().iter().map(|(_, shard)| shard.unwrap().number).collect();
        assert_eq!(numbers, [3, 7]);
        assert_eq!(found(&volume(data_dir, shard)).unwrap()[0].1, Some(shard), "also by itself");
    }
}

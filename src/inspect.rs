//! Shows an operator what a bucket holds: `zombi verify`, `zombi segment` and `zombi manifest`. Reads only,
//! so a server may be running; but for `verify --delete-unnamed`.

use std::io::{self, Write};

use serde_json::json;

use crate::settings::{Settings, environment};
use cold_s3::{
    audit::{self, Audit},
    backup::{cluster_in, load_consistent},
    cluster::{ShardPlace, recorded},
    formats,
    manifest::{self, Manifest},
    names,
    place::ObjectPlace,
    s3::{Objects, S3Options},
    unnamed::{delete_unnamed, must_have_stopped},
    watcher::Watcher,
};
use contracts::{error::StorageError, shards::Shard};

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    /// The settings of the bucket cannot be used.
    #[error("{0}")]
    Options(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// No bucket is configured.
    #[error("s3.bucket is not set, and no other place is named: there is nothing to look at")]
    NoBucket,
    /// The object or manifest does not exist.
    #[error("there is no {0}")]
    NotFound(String),
    /// The audit has found something wrong.
    #[error("{0} findings")]
    Findings(usize),
    /// The bucket cannot be read, or holds something damaged.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// The output cannot be written.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Lists the segments that exist, of one table or of all: key, events, bytes. Lists lost offsets too. Of a
/// cluster one shard after the other.
///
/// # Errors
/// [`InspectError`].
pub(crate) async fn list(
    place: &dyn ObjectPlace,
    table: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let Some(cluster) = cluster_in(place).await? else { return list_store(place, table, out).await };
    for shard in ShardPlace::all(place, &cluster) {
        list_store(&shard, table, out).await?;
    }
    Ok(())
}

async fn list_store(
    place: &dyn ObjectPlace,
    table: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let found = load_consistent(place).await?;
    for (partition, cold) in &found.state.partitions {
        if table.is_some_and(|table| table != partition.table.as_str()) {
            continue;
        }
        for meta in &cold.segments {
            writeln!(
                out,
                "{}\t{} events\t{} bytes",
                names::key(partition, meta)?,
                meta.range.len(),
                meta.bytes
            )?;
        }
        for lost in &cold.lost {
            writeln!(out, "lost with a volume: {partition} {lost}")?;
        }
    }
    Ok(())
}

/// What an audit is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VerifyOptions {
    /// One JSON object, and no text.
    pub(crate) json: bool,
    /// Whether objects that no manifest names are deleted, if nothing is wrong.
    pub(crate) delete_unnamed: bool,
}

/// Audits a bucket or a backup, and prints the findings.
///
/// # Errors
/// [`InspectError::Findings`] if something is wrong, [`InspectError::NotFound`] if the place holds no store;
/// those of [`delete_unnamed`].
pub(crate) async fn verify(
    place: &dyn ObjectPlace,
    asked: VerifyOptions,
    watcher: &dyn Watcher,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    if asked.delete_unnamed {
        // Before all is read in vain; it is looked at again then.
        Box::pin(must_have_stopped(place)).await?;
    }
    let Audit { findings, segments, events, bytes, kept, lost_offsets, mut unnamed } =
        Box::pin(audit::audit_all(place, watcher)).await?;
    if segments == 0 && findings.is_empty() {
        Box::pin(refuse_nothing(place)).await?;
    }
    let (mut deleted, mut ended) = (Vec::new(), Ok(()));
    if asked.delete_unnamed && findings.is_empty() {
        ended = Box::pin(delete_unnamed(place, &mut deleted)).await;
        deleted.sort();
        unnamed.retain(|key| deleted.binary_search(key).is_err());
    }
    if asked.json {
        let mut said = json!({
            "findings": findings, "segments": segments, "events": events, "bytes": bytes,
            "kept_segments": kept, "lost_offsets": lost_offsets, "unnamed": unnamed,
        });
        if asked.delete_unnamed {
            said["deleted"] = json!(deleted);
        }
        writeln!(out, "{said}")?;
    } else {
        for finding in &findings {
            writeln!(out, "WRONG {finding}")?;
        }
        for key in &unnamed {
            writeln!(out, "named by no manifest: {key}")?;
        }
        for key in &deleted {
            writeln!(out, "named by no manifest, and deleted: {key}")?;
        }
        // In a backup no segment is counted as kept: all are in its list.
        let and_kept = match kept {
            0 => String::new(),
            _ => format!(", and {kept} that are kept so that an earlier state can be restored"),
        };
        writeln!(
            out,
            "{segments} segments with {events} events in {bytes} bytes are right{and_kept}; {lost_offsets} \
             offsets are declared lost"
        )?;
    }
    ended?;
    if findings.is_empty() { Ok(()) } else { Err(InspectError::Findings(findings.len())) }
}

/// Refuses a place that holds no store: whoever asks has meant another one, or a backup that was never made.
///
/// # Errors
/// [`InspectError::NotFound`] if there is none; those of the place.
async fn refuse_nothing(place: &dyn ObjectPlace) -> Result<(), InspectError> {
    if cluster_in(place).await?.is_some() || load_consistent(place).await?.last.is_some() {
        return Ok(());
    }
    Err(InspectError::NotFound(format!("store at {}: neither a manifest nor a segment", place.place())))
}

/// Prints a segment's events, a JSON line each.
///
/// # Errors
/// [`InspectError`].
pub(crate) async fn cat(settings: &Settings, key: &str, out: &mut dyn Write) -> Result<(), InspectError> {
    let bytes = objects(settings)
        .await?
        .get(key)
        .await?
        .ok_or_else(|| InspectError::NotFound(format!("object {key}")))?;
    match formats::of_key(key) {
        Some(format) => format.print(&bytes, out)?,
        None => out.write_all(&bytes)?,
    }
    Ok(())
}

/// Which manifest is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShownManifest {
    /// Its number; the last if `None`.
    pub(crate) number: Option<u64>,
    /// Of a cluster, whose shard's.
    pub(crate) shard: Option<u32>,
}

/// Prints one manifest as JSON.
///
/// # Errors
/// [`InspectError`]; of the kind `Usage` if a cluster is asked without a shard, or one store for a shard.
pub(crate) async fn show(
    settings: &Settings,
    ShownManifest { number, shard }: ShownManifest,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let objects = objects(settings).await?;
    let shard = shard_in(&objects, shard).await?;
    let of_shard = shard.map(|shard| ShardPlace::new(&objects, shard));
    let place: &dyn ObjectPlace = match &of_shard {
        Some(place) => place,
        None => &objects,
    };
    let manifest: Manifest = match number {
        Some(number) => {
            let bytes = place.get(&manifest::key(number)).await?;
            let missing = || InspectError::NotFound(format!("manifest {number} below this prefix"));
            manifest::decode(number, &bytes.ok_or_else(missing)?)?
        }
        None => load_consistent(place)
            .await?
            .last
            .ok_or_else(|| InspectError::NotFound("manifest below this prefix".to_owned()))?,
    };
    serde_json::to_writer_pretty(&mut *out, &manifest).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// The shard that is meant, if the place holds a cluster.
async fn shard_in(place: &dyn ObjectPlace, asked: Option<u32>) -> Result<Option<Shard>, InspectError> {
    // Also of one that is just adopted, or taken apart.
    match (recorded(place).await?.map(|cluster| cluster.shards), asked) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(InspectError::Usage("this is the store of one Zombi: it has no shards".to_owned()))
        }
        (Some(of), Some(number)) if number < of => Ok(Some(Shard { number, of })),
        (Some(of), _) => {
            Err(InspectError::Usage(format!("this is a cluster: say --shard, from 0 to {}", of - 1)))
        }
    }
}

/// The settings' own bucket and prefix.
///
/// # Errors
/// [`InspectError`].
pub(crate) async fn objects(settings: &Settings) -> Result<Objects, InspectError> {
    let options = S3Options::from_settings(&settings.s3, &environment()).map_err(InspectError::Options)?;
    let options = options.ok_or(InspectError::NoBucket)?;
    Ok(Objects::connect(&options).await)
}

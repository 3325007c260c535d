//! Shows an operator what a bucket holds: `zombi verify`, `zombi segment` and `zombi manifest`. Reads only,
//! so a server may be running.

use std::io::{self, Write};

use serde_json::json;

use crate::settings::{Settings, environment};
use cold_s3::{
    audit::{self, Audit},
    chain,
    manifest::Manifest,
    names,
    place::ObjectPlace,
    s3::{Objects, S3Options},
    watcher::Watcher,
};
use contracts::error::StorageError;

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

/// Lists the segments that exist, of one table or of all: key, events, bytes. Lists lost offsets too.
///
/// # Errors
/// [`InspectError`].
pub(crate) async fn list(
    place: &dyn ObjectPlace,
    table: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let found = chain::load(place).await?;
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

/// Audits a bucket or a backup, and prints the findings.
///
/// # Errors
/// [`InspectError::Findings`] if something is wrong.
pub(crate) async fn verify(
    place: &dyn ObjectPlace,
    json: bool,
    watcher: &dyn Watcher,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let Audit { findings, segments, events, bytes, lost_offsets, unnamed } =
        Box::pin(audit::audit_watched(place, watcher)).await?;
    if json {
        let said = json!({
            "findings": findings, "segments": segments, "events": events, "bytes": bytes,
            "lost_offsets": lost_offsets, "unnamed": unnamed,
        });
        writeln!(out, "{said}")?;
        return if findings.is_empty() { Ok(()) } else { Err(InspectError::Findings(findings.len())) };
    }
    for finding in &findings {
        writeln!(out, "WRONG {finding}")?;
    }
    for key in &unnamed {
        writeln!(out, "named by no manifest: {key}")?;
    }
    writeln!(
        out,
        "{segments} segments with {events} events in {bytes} bytes are right; {lost_offsets} offsets are \
         declared lost"
    )?;
    if findings.is_empty() { Ok(()) } else { Err(InspectError::Findings(findings.len())) }
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
    if key.ends_with(".zst") {
        zstd::stream::copy_decode(bytes.as_ref(), out)?;
    } else {
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Prints one manifest, the last if none is named, as JSON.
///
/// # Errors
/// [`InspectError`].
pub(crate) async fn show(
    settings: &Settings,
    number: Option<u64>,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let objects = objects(settings).await?;
    let manifest: Manifest = match number {
        Some(number) => chain::read(&objects, number).await?,
        None => chain::load(&objects)
            .await?
            .last
            .ok_or_else(|| InspectError::NotFound("manifest below this prefix".to_owned()))?,
    };
    serde_json::to_writer_pretty(&mut *out, &manifest).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
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

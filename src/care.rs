//! `zombi backup`, `zombi restore` and `zombi manifest rebuild` on the places that the command line names.

use crate::{
    inspect::{self, InspectError},
    settings::{Settings, environment},
};
use cold_s3::{
    backup::{self, BackupReport, RebuildOptions, RebuildReport, RestoreOptions, RestoreReport, SaveOptions},
    directory::Directory,
    place::{Location, ObjectPlace},
    s3::{Objects, S3Options},
    watcher::Watcher,
};

/// A place that the command line names; the settings' own bucket and prefix if it names none.
///
/// # Errors
/// [`InspectError::Usage`] if it is no place, [`InspectError::NoBucket`] if nothing names one.
pub(crate) async fn place(
    settings: &Settings,
    named: Option<&str>,
) -> Result<Box<dyn ObjectPlace>, InspectError> {
    let Some(named) = named else { return Ok(Box::new(inspect::objects(settings).await?)) };
    match Location::parse(named).map_err(InspectError::Usage)? {
        Location::Directory(path) => Ok(Box::new(Directory::new(path))),
        Location::Bucket { bucket, prefix } => {
            let mut s3 = settings.s3.clone();
            (s3.bucket, s3.prefix) = (Some(bucket), prefix);
            let options = S3Options::from_settings(&s3, &environment()).map_err(InspectError::Options)?;
            Ok(Box::new(Objects::connect(&options.ok_or(InspectError::NoBucket)?).await))
        }
    }
}

/// Makes or renews a backup.
///
/// # Errors
/// [`InspectError`].
pub(crate) async fn save(
    settings: &Settings,
    (from, to): (Option<&str>, &str),
    options: SaveOptions,
    watcher: &dyn Watcher,
) -> Result<BackupReport, InspectError> {
    let (from, to) = (place(settings, from).await?, place(settings, Some(to)).await?);
    Ok(Box::pin(backup::save(&*from, &*to, options, watcher)).await?)
}

/// Restores a store or a backup.
///
/// # Errors
/// [`InspectError`].
pub(crate) async fn restore(
    settings: &Settings,
    (from, to): (Option<&str>, &str),
    options: RestoreOptions,
    watcher: &dyn Watcher,
) -> Result<RestoreReport, InspectError> {
    let (from, to) = (place(settings, from).await?, place(settings, Some(to)).await?);
    Ok(Box::pin(backup::restore(&*from, &*to, options, watcher)).await?)
}

/// Makes manifests anew.
///
/// # Errors
/// [`InspectError`].
pub(crate) async fn rebuild(
    settings: &Settings,
    named: Option<&str>,
    options: RebuildOptions,
    watcher: &dyn Watcher,
) -> Result<RebuildReport, InspectError> {
    let place = place(settings, named).await?;
    Ok(Box::pin(backup::rebuild(&*place, options, watcher)).await?)
}

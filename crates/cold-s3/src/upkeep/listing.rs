//! Lists objects page by page, so that their keys are never all in memory.

use crate::S3Cold;
use contracts::error::StorageError;

/// Passes on the keys that begin with `below`, in order.
///
/// # Errors
/// `Unavailable`; the first of `take`.
pub(super) async fn each_page(
    cold: &S3Cold,
    below: &str,
    mut take: impl FnMut(Vec<String>) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let mut last: Option<String> = None;
    loop {
        let page = cold.objects().list_page(below, last.as_deref()).await?;
        let Some(end) = page.last().cloned() else { return Ok(()) };
        take(page)?;
        last = Some(end);
    }
}

//! What backups and restores need of a bucket: lists with lengths, and copies that the store makes by itself.

use aws_sdk_s3::error::ProvideErrorMetadata;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Created, Objects};
use contracts::{clock::TimestampMs, error::StorageError, metrics};

impl Objects {
    /// Has the store copy an object from another prefix or bucket of the same store, with the same key.
    /// A segment gets the storage class of segments. Whether there was one to copy.
    ///
    /// # Errors
    /// `Unavailable`: the copy may exist all the same. `Denied`, also by a store that cannot copy.
    #[tracing::instrument(name = "s3_copy", level = "debug", skip_all, fields(key))]
    pub(crate) async fn copy_from(
        &self,
        source: &Self,
        key: &str,
        is_segment: bool,
    ) -> Result<bool, StorageError> {
        let class = self.object_options.storage_class.clone().filter(|_| is_segment);
        let request = self
            .client
            .copy_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .copy_source(escaped(&format!("{}/{}", source.bucket, source.full(key))))
            .set_server_side_encryption(self.object_options.sse.clone())
            .set_ssekms_key_id(self.object_options.kms_key_id.clone())
            .set_storage_class(class);
        let started = Instant::now();
        let answer = Box::pin(request.send()).await; // it has a field for every header of two objects
        let is_gone = answer.as_ref().is_err_and(|error| error.code() == Some("NoSuchKey"));
        metrics::s3_request("copy", answer.is_ok() || is_gone, started.elapsed());
        match answer {
            Ok(_) => Ok(true),
            Err(_) if is_gone => Ok(false),
            Err(error) => Err(self.failed("copy", key, error)),
        }
    }

    /// The objects whose keys begin with `below`, after `start_after`, in order.
    ///
    /// # Errors
    /// `Unavailable` or `Denied`.
    #[tracing::instrument(name = "s3_list", level = "debug", skip_all, fields(below))]
    pub(crate) async fn listed_after(
        &self,
        below: &str,
        start_after: Option<&str>,
    ) -> Result<Vec<FoundObject>, StorageError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.full(below));
        let request = request.set_start_after(start_after.map(|key| self.full(key)));
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        let mut started = Instant::now();
        while let Some(page) = pages.next().await {
            metrics::s3_request("list", page.is_ok(), started.elapsed());
            let page = page.map_err(|error| self.failed("list", below, error))?;
            started = Instant::now();
            found.extend(page.contents().iter().filter_map(|object| {
                let modified = object.last_modified().and_then(|time| time.to_millis().ok());
                Some(FoundObject {
                    key: self.own(object.key()?)?.to_owned(),
                    bytes: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    modified_ms: modified.unwrap_or(TimestampMs::MIN),
                })
            }));
        }
        Ok(found)
    }

    /// Creates an object unless it exists; a segment in the storage class of segments.
    ///
    /// # Errors
    /// Those of [`Objects::create`].
    pub(crate) async fn create_as(
        &self,
        key: &str,
        body: Bytes,
        is_segment: bool,
    ) -> Result<Created, StorageError> {
        if !self.is_fenced() && self.get(key).await?.is_some() {
            return Ok(Created::Exists);
        }
        let class = self.object_options.storage_class.clone().filter(|_| is_segment);
        self.put_new(key, body, class, self.is_fenced()).await
    }
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundObject {
    /// Its key below the prefix.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When it was put, by the store's clock; `TimestampMs::MIN` if the store does not say.
    pub modified_ms: TimestampMs,
}

/// A key as the header that names the source of a copy wants it.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_escaped_as_the_header_wants_it() {
        assert_eq!(escaped("b/segments/t/00000/1-2.jsonl.zst"), "b/segments/t/00000/1-2.jsonl.zst");
        assert_eq!(escaped("b/a prefix+\u{e9}/k"), "b/a%20prefix%2B%C3%A9/k");
    }
}

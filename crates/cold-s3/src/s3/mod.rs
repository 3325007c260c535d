//! Objects over aws-sdk-s3: get, ranged get, create-only put, list, delete. Knows nothing of their content.

mod connect;
mod copy;
mod credentials;
mod environment;
mod refusal;
mod shard;

pub use self::{
    connect::{Credentials, ObjectOptions, S3Options},
    copy::FoundObject,
};

use std::{ops::Range, sync::Arc, time::Duration};

use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::list_objects_v2::ListObjectsV2Output,
    primitives::ByteStream,
    types::{CreateBucketConfiguration, StorageClass},
};
use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tracing::warn;

use self::refusal::{S3Refusal, is_there, message, refusal, status};
use contracts::{
    error::{StorageError, Tier},
    metrics,
    shards::Shard,
};

/// The objects below one prefix of one bucket.
#[derive(Debug, Clone)]
pub struct Objects {
    client: Client,
    bucket: String,
    prefix: String,
    /// The shard whose chain this is about; `None` for a store that is one.
    shard: Option<Shard>,
    region: String,
    body_timeout: Duration,
    is_unfenced: bool,
    object_options: Arc<ObjectOptions>,
}

/// The outcome of a create-only PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was created.
    Yes,
    /// An object existed already; it may come from an earlier attempt of this very PUT.
    Exists,
}

/// Why a request failed.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("S3 {operation} of {bucket}/{key}: {message}")]
struct FailedRequest {
    operation: &'static str,
    bucket: String,
    key: String,
    message: String,
    /// Whether the store's answer does not tell what it rejects.
    is_vague: bool,
    #[source]
    source: Source,
}

/// Whether a store rejected a request without telling what is wrong with it.
pub(super) fn is_vague(error: &StorageError) -> bool {
    let StorageError::Denied { source, .. } = error else { return false };
    source.downcast_ref::<FailedRequest>().is_some_and(|failed| failed.is_vague)
}

impl Objects {
    /// The objects below `prefix` of `bucket`, with a client that exists.
    pub fn new(client: Client, bucket: String, prefix: String) -> Self {
        let region = client.config().region().map(ToString::to_string).unwrap_or_default();
        Self {
            client,
            bucket,
            prefix,
            shard: None,
            region,
            body_timeout: Duration::from_secs(30),
            is_unfenced: false,
            object_options: Arc::default(),
        }
    }

    /// Where the objects are, for people.
    pub fn place(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    /// Whether the store is relied on to keep two writers apart.
    pub fn is_fenced(&self) -> bool {
        !self.is_unfenced
    }

    /// Whether segments have a storage class of their own.
    pub fn has_storage_class(&self) -> bool {
        self.object_options.storage_class.is_some()
    }

    /// Creates the bucket unless it exists; without the right to create one, assumes that it exists.
    ///
    /// # Errors
    /// `Unavailable`; `Denied`.
    pub async fn create_bucket(&self) -> Result<(), StorageError> {
        // AWS needs the region in the request everywhere but in us-east-1, where it rejects it.
        let constraint = (!self.region.is_empty() && self.region != "us-east-1").then(|| {
            CreateBucketConfiguration::builder().location_constraint(self.region.as_str().into()).build()
        });
        let made = self
            .client
            .create_bucket()
            .bucket(&self.bucket)
            .set_create_bucket_configuration(constraint)
            .send()
            .await;
        match made {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")) => {
                Ok(())
            }
            // The right to use a bucket does not imply the right to create one. If it does not exist, the
            // next request says so.
            Err(error) if error.code() == Some("AccessDenied") => {
                warn!(
                    bucket = self.bucket,
                    "s3.create_bucket is set, but these credentials may not create buckets; assuming that \
                     the bucket exists"
                );
                Ok(())
            }
            Err(error) => Err(self.failed("create bucket", "", error)),
        }
    }

    /// Puts an object of a segment unless it exists: segments are never overwritten, and a repeated PUT does
    /// no harm.
    ///
    /// # Errors
    /// `Unavailable`: the object may exist all the same. `Corrupt` if it exists with other bytes.
    #[tracing::instrument(name = "s3_put", level = "debug", skip_all, fields(key))]
    pub async fn put_segment(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        let class = self.object_options.storage_class.clone();
        let found = if self.is_fenced() {
            if self.put_new(key, body.clone(), class, true).await? == Created::Yes {
                return Ok(());
            }
            self.get(key).await?
        } else {
            let found = self.get(key).await?;
            if found.is_none() {
                return self.put_new(key, body, class, false).await.map(drop);
            }
            found
        };
        match found {
            Some(found) if found == body => Ok(()),
            Some(_) => Err(StorageError::corrupt(
                self.full(key),
                "the object exists with other bytes than this segment has; nothing was overwritten",
            )),
            None => Err(self.unavailable(
                "create",
                key,
                "the object existed and was deleted meanwhile".to_owned(),
                "retry".into(),
            )),
        }
    }

    /// Creates an object unless it exists. With `s3.unfenced`, a GET before an unconditional PUT takes the
    /// place of the condition.
    ///
    /// # Errors
    /// `Unavailable`: the object may have been created all the same. `Denied`, also by a store that does not
    /// support the condition.
    pub async fn create(&self, key: &str, body: Bytes) -> Result<Created, StorageError> {
        self.create_as(key, body, false).await
    }

    /// Puts an object whether or not it exists.
    ///
    /// # Errors
    /// Those of [`Objects::create`].
    pub(crate) async fn put_over(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        self.put_new(key, body, None, false).await.map(drop)
    }

    #[tracing::instrument(name = "s3_create", level = "debug", skip_all, fields(key))]
    async fn put_new(
        &self,
        key: &str,
        body: Bytes,
        class: Option<StorageClass>,
        only_new: bool,
    ) -> Result<Created, StorageError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_if_none_match(only_new.then(|| "*".to_owned()))
            .set_server_side_encryption(self.object_options.sse.clone())
            .set_ssekms_key_id(self.object_options.kms_key_id.clone())
            .set_storage_class(class)
            .body(ByteStream::from(body));
        let started = Instant::now();
        let answer = request.send().await;
        let is_settled = answer.is_ok() || answer.as_ref().is_err_and(is_there);
        metrics::s3_request("create", is_settled, started.elapsed());
        match answer {
            Ok(_) => Ok(Created::Yes),
            Err(error) if is_there(&error) => Ok(Created::Exists),
            Err(error) => Err(self.failed("create", key, error)),
        }
    }

    /// A whole object; `None` if it does not exist.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StorageError> {
        self.get_bytes(key, None).await
    }

    /// A range of an object: all of its bytes, or an error.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt` if the object is gone or shorter.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let wanted = range.end - range.start;
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let Some(body) = self.get_bytes(key, Some(header)).await? else {
            return Err(StorageError::corrupt(
                self.full(key),
                "the object does not exist, but a manifest names it",
            ));
        };
        if body.len() as u64 != wanted {
            let why = format!("{} bytes were returned for {wanted} at {}", body.len(), range.start);
            return Err(StorageError::corrupt(self.full(key), why));
        }
        Ok(body)
    }

    #[tracing::instrument(name = "s3_get", level = "debug", skip_all, fields(key))]
    async fn get_bytes(&self, key: &str, range: Option<String>) -> Result<Option<Bytes>, StorageError> {
        let operation = if range.is_some() { "get_range" } else { "get" };
        let request = self.client.get_object().bucket(&self.bucket).key(self.full(key)).set_range(range);
        let started = Instant::now();
        let answer = match request.send().await {
            Err(error) if error.code() == Some("NoSuchKey") => {
                metrics::s3_request(operation, true, started.elapsed());
                return Ok(None);
            }
            Err(error) if status(&error) == Some(416) => {
                metrics::s3_request(operation, true, started.elapsed());
                return Err(StorageError::corrupt(self.full(key), "it is shorter than a manifest says"));
            }
            answer => answer,
        };
        metrics::s3_request(operation, answer.is_ok(), started.elapsed());
        let body = answer.map_err(|error| self.failed("get", key, error))?.body;
        // The client's own time-out covers the answer only up to its head.
        let bytes = match timeout(self.body_timeout, body.collect()).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(source)) => {
                return Err(self.unavailable(
                    "get",
                    key,
                    "the answer broke off before its end".to_owned(),
                    source.into(),
                ));
            }
            Err(source) => {
                return Err(self.unavailable(
                    "get",
                    key,
                    "the answer arrived too slowly".to_owned(),
                    source.into(),
                ));
            }
        };
        Ok(Some(bytes.into_bytes()))
    }

    /// The keys that begin with `below`, after `start_after`, in order.
    ///
    /// # Errors
    /// `Unavailable`.
    #[tracing::instrument(name = "s3_list", level = "debug", skip_all, fields(below))]
    pub async fn list(&self, below: &str, start_after: Option<&str>) -> Result<Vec<String>, StorageError> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.full(below))
            .set_start_after(start_after.map(|key| self.full(key)));
        let mut pages = request.into_paginator().send();
        let mut keys = Vec::new();
        let mut started = Instant::now();
        while let Some(page) = pages.next().await {
            metrics::s3_request("list", page.is_ok(), started.elapsed());
            let page = page.map_err(|error| self.failed("list", below, error))?;
            started = Instant::now();
            keys.extend(self.keys(&page));
        }
        Ok(keys)
    }

    /// One page of the keys that begin with `below`, after `start_after`, in order; empty at the end.
    ///
    /// # Errors
    /// `Unavailable`.
    #[tracing::instrument(name = "s3_list", level = "debug", skip_all, fields(below))]
    pub async fn list_page(
        &self,
        below: &str,
        start_after: Option<&str>,
    ) -> Result<Vec<String>, StorageError> {
        let started = Instant::now();
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.full(below));
        let page = request.set_start_after(start_after.map(|key| self.full(key))).send().await;
        metrics::s3_request("list", page.is_ok(), started.elapsed());
        let page = page.map_err(|error| self.failed("list", below, error))?;
        Ok(self.keys(&page).collect())
    }

    /// The keys of one page of a list, without the prefix.
    fn keys(&self, page: &ListObjectsV2Output) -> impl Iterator<Item = String> {
        page.contents().iter().filter_map(|object| Some(self.own(object.key()?)?.to_owned()))
    }

    /// Deletes an object, if it exists.
    ///
    /// # Errors
    /// `Unavailable`: it may be deleted all the same.
    #[tracing::instrument(name = "s3_delete", level = "debug", skip_all, fields(key))]
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let started = Instant::now();
        let answer = self.client.delete_object().bucket(&self.bucket).key(self.full(key)).send().await;
        // Some stores answer with an error if there is no object.
        let is_gone = answer.is_ok() || answer.as_ref().is_err_and(|error| error.code() == Some("NoSuchKey"));
        metrics::s3_request("delete", is_gone, started.elapsed());
        match answer {
            Err(error) if !is_gone => Err(self.failed("delete", key, error)),
            _ => Ok(()),
        }
    }

    fn failed<E>(&self, operation: &'static str, key: &str, error: SdkError<E>) -> StorageError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        match refusal(&error, &self.region) {
            Some(S3Refusal { cure, is_vague }) => {
                let message = format!("{}; {cure}", message(&error));
                StorageError::denied(
                    Tier::Cold,
                    FailedRequest { is_vague, ..self.failure(operation, key, message, error.into()) },
                )
            }
            None => self.unavailable(operation, key, message(&error), error.into()),
        }
    }

    fn unavailable(
        &self,
        operation: &'static str,
        key: &str,
        message: String,
        source: Source,
    ) -> StorageError {
        StorageError::unavailable(Tier::Cold, self.failure(operation, key, message, source))
    }

    fn failure(&self, operation: &'static str, key: &str, message: String, source: Source) -> FailedRequest {
        FailedRequest {
            operation,
            bucket: self.bucket.clone(),
            key: self.full(key),
            message,
            is_vague: false,
            source,
        }
    }
}

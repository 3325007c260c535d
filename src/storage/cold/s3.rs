//! Objects over aws-sdk-s3: get, ranged get, put, create-only put, list, delete. Knows nothing of what they hold.

use std::{iter, ops::Range, sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_s3::{
    Client,
    config::{RequestChecksumCalculation, ResponseChecksumValidation},
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::{CreateBucketConfiguration, ServerSideEncryption, StorageClass},
};
use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::{
    contracts::error::{StorageError, Tier},
    metrics,
};

/// Where the bucket is.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// The server, if it is not AWS; then paths name the bucket.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// What every key begins with: empty, or ending with `/`.
    pub prefix: String,
    /// How long one attempt of a request may take.
    pub attempt_timeout: Duration,
    /// How often a request is tried.
    pub attempts: u32,
    /// Whether requests carry checksums of the SDK's wherever there may be one.
    pub with_checksums: bool,
    /// Whether the store cannot keep two writers apart, and is not asked to.
    pub is_unfenced: bool,
    /// Credentials that were read elsewhere than by the usual AWS chain.
    pub credentials: Option<Credentials>,
    /// Certificates of authorities that are trusted, as PEM, instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// How objects are stored.
    pub stored: Stored,
}

/// A key pair, and the token that may go with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Whose.
    pub key_id: String,
    /// The secret.
    pub secret: String,
    /// The token.
    pub token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// How objects are stored.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Encrypted so by the server, if it is said.
    pub sse: Option<ServerSideEncryption>,
    /// With this key, if it is said.
    pub kms_key_id: Option<String>,
    /// Segments in this class, if it is said.
    pub storage_class: Option<StorageClass>,
}

/// The objects below one prefix of one bucket.
#[derive(Debug, Clone)]
pub struct Objects {
    client: Client,
    bucket: String,
    prefix: String,
    region: String,
    body_timeout: Duration,
    is_unfenced: bool,
    stored: Arc<Stored>,
}

/// What became of a create-only put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is the one that was sent.
    Yes,
    /// An object stood there already; it may be an earlier attempt of this very put.
    Exists,
}

/// What a request failed of.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("S3 {operation} of {bucket}/{key}: {message}")]
struct Failed {
    operation: &'static str,
    bucket: String,
    key: String,
    message: String,
    /// Whether it was refused in words that do not say what it is about.
    is_vague: bool,
    #[source]
    source: Source,
}

/// Whether a store refused a request in words that do not say what it is about.
pub(super) fn is_vague(error: &StorageError) -> bool {
    let StorageError::Denied { source, .. } = error else { return false };
    source.downcast_ref::<Failed>().is_some_and(|failed| failed.is_vague)
}

impl Objects {
    /// The objects below `prefix` of `bucket`, over a client.
    pub fn new(client: Client, bucket: String, prefix: String) -> Self {
        let region = client.config().region().map(ToString::to_string).unwrap_or_default();
        Self { client, bucket, prefix, region, body_timeout: Duration::from_secs(30), is_unfenced: false, stored: Arc::default() }
    }

    /// A client for the bucket. Credentials come from the usual AWS chain. Sends nothing yet.
    pub async fn connect(options: &S3Options) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5).min(options.attempt_timeout))
            .operation_attempt_timeout(options.attempt_timeout)
            .build();
        let mut shared = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(options.region.clone()))
            .retry_config(RetryConfig::standard().with_max_attempts(options.attempts))
            .timeout_config(timeouts);
        if let Some(Credentials { key_id, secret, token }) = options.credentials.clone() {
            shared = shared.credentials_provider(aws_sdk_s3::config::Credentials::new(key_id, secret, token, None, "environment"));
        }
        if let Some(pem) = &options.authorities {
            shared = shared.http_client(trusting(pem));
        }
        let shared = shared.load().await;
        // Segments and manifests carry checksums of their own, and many servers reject the optional ones.
        let (calculate, validate) = match options.with_checksums {
            true => (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported),
            false => (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired),
        };
        let mut config =
            aws_sdk_s3::config::Builder::from(&shared).request_checksum_calculation(calculate).response_checksum_validation(validate);
        if let Some(endpoint) = &options.endpoint {
            config = config.endpoint_url(endpoint).force_path_style(true);
        }
        let objects = Self::new(Client::from_conf(config.build()), options.bucket.clone(), options.prefix.clone());
        let (is_unfenced, stored) = (options.is_unfenced, Arc::new(options.stored.clone()));
        Self { body_timeout: options.attempt_timeout, is_unfenced, stored, ..objects }
    }

    /// Whether the store is asked to keep two writers apart.
    pub fn is_fenced(&self) -> bool {
        !self.is_unfenced
    }

    /// Whether segments are put in a class of their own.
    pub fn has_storage_class(&self) -> bool {
        self.stored.storage_class.is_some()
    }

    /// Makes the bucket unless it is there; without the right to make one it is taken to be there.
    ///
    /// # Errors
    /// `Unavailable`; `Denied`.
    pub async fn create_bucket(&self) -> Result<(), StorageError> {
        // Outside its first region AWS wants to be told where.
        let constraint = (!self.region.is_empty() && self.region != "us-east-1")
            .then(|| CreateBucketConfiguration::builder().location_constraint(self.region.as_str().into()).build());
        let made = self.client.create_bucket().bucket(&self.bucket).set_create_bucket_configuration(constraint).send().await;
        match made {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")) => Ok(()),
            // Who may use a bucket need not have the right to make one; whether it is there shows as soon as it is used.
            Err(error) if error.code() == Some("AccessDenied") => {
                warn!(bucket = self.bucket, "s3.create_bucket is set, and these credentials may not make buckets: it is taken to be there");
                Ok(())
            }
            Err(error) => Err(self.failed("create bucket", "", error)),
        }
    }

    /// Puts a segment unless it is there: segments are never overwritten, and a repeated put does no harm.
    ///
    /// # Errors
    /// `Unavailable`: it may be there all the same. `Corrupt` if other bytes stand there.
    #[tracing::instrument(name = "s3_put", level = "debug", skip_all, fields(key))]
    pub async fn put_segment(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        let class = self.stored.storage_class.clone();
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
            Some(_) => Err(StorageError::corrupt(self.full(key), "other bytes stand there than this segment has; nothing was overwritten")),
            None => Err(self.unavailable("create", key, "it was there, and is not any more".to_owned(), "try again".into())),
        }
    }

    /// Puts an object unless one is there. A store that cannot keep two writers apart is looked at first, and then it is put.
    ///
    /// # Errors
    /// `Unavailable`: it may have been created all the same. `Denied`: a store that does not know the condition says so in its own words.
    pub async fn create(&self, key: &str, body: Bytes) -> Result<Created, StorageError> {
        if !self.is_fenced() && self.get(key).await?.is_some() {
            return Ok(Created::Exists);
        }
        self.put_new(key, body, None, self.is_fenced()).await
    }

    /// Puts an object over whatever stands there. For the probe: what a store takes so, and not by [`Objects::create`], it refuses for the
    /// condition.
    ///
    /// # Errors
    /// Those of [`Objects::create`].
    pub(super) async fn put_over(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        self.put_new(key, body, None, false).await.map(drop)
    }

    #[tracing::instrument(name = "s3_create", level = "debug", skip_all, fields(key))]
    async fn put_new(&self, key: &str, body: Bytes, class: Option<StorageClass>, only_new: bool) -> Result<Created, StorageError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_if_none_match(only_new.then(|| "*".to_owned()))
            .set_server_side_encryption(self.stored.sse.clone())
            .set_ssekms_key_id(self.stored.kms_key_id.clone())
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

    /// A whole object; `None` if there is none.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StorageError> {
        self.get_bytes(key, None).await
    }

    /// A part of an object, whole or an error.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt` if the object is gone or shorter.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let wanted = range.end - range.start;
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let Some(body) = self.get_bytes(key, Some(header)).await? else {
            return Err(StorageError::corrupt(self.full(key), "the object is gone, and a manifest names it"));
        };
        if body.len() as u64 != wanted {
            let why = format!("{} bytes came for {wanted} at {}", body.len(), range.start);
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
                return Err(StorageError::corrupt(self.full(key), "it ends before what a manifest says that it holds"));
            }
            answer => answer,
        };
        metrics::s3_request(operation, answer.is_ok(), started.elapsed());
        let body = answer.map_err(|error| self.failed("get", key, error))?.body;
        // The client's own timeout ends with the answer's head.
        let bytes = match timeout(self.body_timeout, body.collect()).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(source)) => return Err(self.unavailable("get", key, "the answer broke off".to_owned(), source.into())),
            Err(source) => return Err(self.unavailable("get", key, "the answer came too slowly".to_owned(), source.into())),
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
            keys.extend(page.contents().iter().filter_map(|object| Some(object.key()?.strip_prefix(&self.prefix)?.to_owned())));
            if cfg!(bug_first_page_only) {
                break;
            }
        }
        Ok(keys)
    }

    /// The next keys that begin with `below`, after `start_after`, in order: as many as S3 gives at once; none at the end.
    ///
    /// # Errors
    /// `Unavailable`.
    #[tracing::instrument(name = "s3_list", level = "debug", skip_all, fields(below))]
    pub async fn list_page(&self, below: &str, start_after: Option<&str>) -> Result<Vec<String>, StorageError> {
        let started = Instant::now();
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.full(below));
        let page = request.set_start_after(start_after.map(|key| self.full(key))).send().await;
        metrics::s3_request("list", page.is_ok(), started.elapsed());
        let page = page.map_err(|error| self.failed("list", below, error))?;
        Ok(page.contents().iter().filter_map(|object| Some(object.key()?.strip_prefix(&self.prefix)?.to_owned())).collect())
    }

    /// Deletes an object; it does no harm if there is none.
    ///
    /// # Errors
    /// `Unavailable`: it may be gone all the same.
    #[tracing::instrument(name = "s3_delete", level = "debug", skip_all, fields(key))]
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let started = Instant::now();
        let answer = self.client.delete_object().bucket(&self.bucket).key(self.full(key)).send().await;
        // Not every store takes it for done where there is none.
        let is_gone = answer.is_ok() || answer.as_ref().is_err_and(|error| error.code() == Some("NoSuchKey"));
        metrics::s3_request("delete", is_gone, started.elapsed());
        match answer {
            Err(error) if !is_gone => Err(self.failed("delete", key, error)),
            _ => Ok(()),
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn failed<E>(&self, operation: &'static str, key: &str, error: SdkError<E>) -> StorageError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        match refusal(&error, &self.region) {
            Some(Refusal { cure, is_vague }) => {
                let message = format!("{}; {cure}", message(&error));
                StorageError::denied(Tier::Cold, Failed { is_vague, ..self.failure(operation, key, message, error.into()) })
            }
            None => self.unavailable(operation, key, message(&error), error.into()),
        }
    }

    fn unavailable(&self, operation: &'static str, key: &str, message: String, source: Source) -> StorageError {
        StorageError::unavailable(Tier::Cold, self.failure(operation, key, message, source))
    }

    fn failure(&self, operation: &'static str, key: &str, message: String, source: Source) -> Failed {
        Failed { operation, bucket: self.bucket.clone(), key: self.full(key), message, is_vague: false, source }
    }
}

/// A client that trusts these authorities, and no others.
fn trusting(pem: &[u8]) -> aws_smithy_runtime_api::client::http::SharedHttpClient {
    use aws_smithy_http_client::{
        Builder,
        tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
    };
    let store = TrustStore::empty().with_pem_certificate(pem);
    let Ok(context) = TlsContext::builder().with_trust_store(store).build() else { unreachable!("nothing of it can be wrong yet") };
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(context).build_https()
}

/// What waiting does not heal.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    /// What can be done about it.
    cure: String,
    /// Whether what was said does not tell what it is about.
    is_vague: bool,
}

impl Refusal {
    fn clear(cure: impl Into<String>) -> Self {
        Self { cure: cure.into(), is_vague: false }
    }

    fn vague(cure: impl Into<String>) -> Self {
        Self { cure: cure.into(), is_vague: true }
    }
}

/// What is refused, and waiting does not heal; `None` for other errors.
fn refusal<E>(error: &SdkError<E>, region: &str) -> Option<Refusal>
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    if let SdkError::ConstructionFailure(_) = error {
        return Some(Refusal::clear("the request cannot be made: check s3.endpoint, s3.bucket and s3.region"));
    }
    // Where no answer came, nobody told who we are, or who answered was not to be spoken with.
    let Some(response) = error.raw_response() else { return unsent(error).map(Refusal::clear) };
    let header = |name: &str| response.headers().get(name);
    let status = response.status().as_u16();
    let elsewhere = || {
        let told = header("x-amz-bucket-region").unwrap_or("another one");
        Some(Refusal::clear(format!("the bucket is in region {told}: set s3.region (now {region}), or check s3.endpoint")))
    };
    let code = code(error);
    if code.is_some_and(heals) {
        return None;
    }
    if let Some(cure) = code.and_then(cure) {
        return Some(Refusal::clear(cure));
    }
    match (code, status) {
        (Some("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"), _)
        | (_, 301 | 307 | 308) => elsewhere(),
        (_, 401 | 403) => Some(Refusal::clear(
            "the store, or something before it, does not let these credentials in: check s3.endpoint and AWS_ACCESS_KEY_ID",
        )),
        (_, 408 | 409 | 425 | 429) => None,
        (Some("NotImplemented" | "MethodNotAllowed"), _) | (_, 501) => {
            Some(Refusal::vague("the store does not know what Zombi needs of it: check s3.endpoint"))
        }
        (None, 300..=399) => {
            let place = header("location").unwrap_or("another place");
            Some(Refusal::vague(format!("what answers sends to {place}, as no S3 does: check s3.endpoint")))
        }
        (None, 400..=499) => Some(Refusal::vague("what answers is no S3: check s3.endpoint, its scheme and its port")),
        (Some(_), 300..=499) => {
            Some(Refusal::vague("the store does not take what it is asked: check s3.endpoint, s3.bucket and the other settings of s3"))
        }
        _ => None,
    }
}

/// What goes by itself, with another try, a clock that is set right, or a store that has less to do.
fn heals(code: &str) -> bool {
    ["Throttl", "Timeout", "Internal", "SlowDown", "TooManyRequests", "Unavailable"].iter().any(|part| code.contains(part))
        || matches!(code, "RequestTimeTooSkewed" | "IncompleteBody" | "BadDigest" | "XAmzContentSHA256Mismatch" | "RequestLimitExceeded")
        || matches!(code, "OperationAborted" | "ConditionalRequestConflict" | "PriorRequestNotComplete" | "BandwidthLimitExceeded")
}

/// What can be done about a refusal whose code says what it is about.
fn cure(code: &str) -> Option<&'static str> {
    Some(match code {
        "NoSuchBucket" => {
            "make the bucket, or set s3.create_bucket = true; s3.bucket names it. If it has been there, its server came back without its disk: bring that back"
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => {
            "give these credentials the right to get, put, delete and list in s3.bucket below s3.prefix"
        }
        "InvalidAccessKeyId" | "InvalidToken" | "ExpiredToken" | "TokenRefreshRequired" | "UnrecognizedClientException" => {
            "the store does not know AWS_ACCESS_KEY_ID, or its token"
        }
        "SignatureDoesNotMatch" => "AWS_SECRET_ACCESS_KEY does not go with AWS_ACCESS_KEY_ID",
        "InvalidBucketName" => "check s3.bucket",
        "InvalidLocationConstraint" => "check s3.region",
        "TooManyBuckets" => "make the bucket yourself, or have more allowed",
        "KeyTooLong" | "KeyTooLongError" => "s3.prefix is too long",
        "InvalidStorageClass" => "check s3.storage_class",
        "InvalidObjectState" => {
            "objects of its class cannot be read at once: check s3.storage_class, and what the bucket archives by itself"
        }
        "InvalidEncryptionAlgorithmError" => "check s3.sse",
        _ if code.starts_with("KMS.") => "check s3.sse and s3.kms_key_id",
        _ if code.contains("Quota") => "make room in the bucket, or allow more",
        _ => return None,
    })
}

/// What is wrong where no answer came, if waiting does not heal that. The SDK's own errors have no names in here: they are known by what
/// each of them says for itself, not by what all of them say together.
fn unsent(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let is_any = |text: &str| any_cause(error, |_, said| said == text);
    if any_cause(error, |_, said| said.contains("invalid peer certificate")) {
        return Some(
            "the certificate is not trusted: AWS_CA_BUNDLE names a file of the authorities that are, s3.endpoint the server and the name \
             that its certificate must have",
        );
    }
    // Bytes that are no TLS, where s3.endpoint begins with https; and bytes that are no HTTP.
    if any_cause(error, |_, said| said.contains("corrupt message of type InvalidContentType")) {
        return Some("what answers does not speak TLS: check whether s3.endpoint is to begin with http://, and its port");
    }
    if any_cause(error, |cause, _| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)) {
        return Some("what answers does not speak HTTP: check s3.endpoint, its scheme and its port");
    }
    if any_cause(error, |cause, _| format!("{cause:?}").starts_with("ResolveEndpointError")) {
        return Some("there can be no such address: check s3.endpoint, s3.bucket and s3.region");
    }
    // Nobody of those who may have credentials was set up to have any. One who was, and does not answer, is waited for.
    if is_any("the credential provider was not enabled") {
        return Some("there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role for the pod");
    }
    if is_any("the credentials provider was not properly configured") {
        return Some("the credentials are set up wrongly: check AWS_PROFILE, AWS_ROLE_ARN and the files that they are about");
    }
    let refused = ["AccessDenied", "InvalidIdentityToken", "IDPRejectedClaim", "IdpRejectedClaim", "RegionDisabled", "ValidationError"];
    if is_any("service error") && any_cause(error, |_, said| refused.iter().any(|code| said.contains(code))) {
        return Some("the role is not given: check AWS_ROLE_ARN, and whom it trusts");
    }
    None
}

/// Whether an error or one of its causes is one of these; each is shown with what it says.
fn any_cause(error: &(dyn std::error::Error + 'static), is: impl Fn(&(dyn std::error::Error + 'static), &str) -> bool) -> bool {
    iter::successors(Some(error), |error| error.source()).any(|cause| is(cause, &cause.to_string()))
}

/// The code of an answer, if it has one. `NotFound` is the SDK's own word for a 404 that says nothing.
fn code<E>(error: &SdkError<E>) -> Option<&str>
where
    E: ProvideErrorMetadata,
{
    error.code().filter(|code| !matches!(*code, "" | "NotFound"))
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// What people are told of a failed request.
fn message<E>(error: &SdkError<E>) -> String
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match (code(error), error.raw_response()) {
        (Some(code), _) => format!("{code}: {}", error.message().unwrap_or("no message")),
        // Not S3 itself, but something on the way.
        (None, Some(response)) => format!("HTTP status {}", response.status()),
        (None, None) => {
            let text = with_causes(error);
            let waits = ["loading credentials", "credentials error", "credentials provider timed out", "identity resolver timed out"];
            if waits.iter().any(|part| text.contains(part)) {
                return format!("{text}; AWS_ACCESS_KEY_ID is not set, and who is to have credentials instead does not give any");
            }
            text
        }
    }
}

/// What an error says, and why, down to its first cause.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        // Some say themselves what their cause says.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether a create-only put was refused because an object stands there.
fn is_there<E>(error: &SdkError<E>) -> bool
where
    E: ProvideErrorMetadata,
{
    error.code() == Some("PreconditionFailed") || status(error) == Some(412)
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt, io};

    use aws_sdk_s3::{config::http::HttpResponse, error::ErrorMetadata, operation::get_object::GetObjectError, primitives::SdkBody};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("dispatch failure")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("io error: {0}")]
    struct Middle(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_its_causes_and_each_of_them_once() {
        let error = Outer(Middle(io::Error::other("connection refused")));
        assert_eq!(with_causes(&error), "dispatch failure: io error: connection refused");
    }

    fn answered(status: u16, metadata: ErrorMetadata) -> SdkError<GetObjectError> {
        let response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        SdkError::service_error(GetObjectError::generic(metadata), response)
    }

    fn coded(status: u16, code: &str) -> SdkError<GetObjectError> {
        answered(status, ErrorMetadata::builder().code(code).build())
    }

    #[test]
    fn an_answer_is_told_by_its_code_or_its_status() {
        let slow = answered(503, ErrorMetadata::builder().code("SlowDown").message("later").build());
        assert_eq!(message(&slow), "SlowDown: later");
        assert_eq!(message(&answered(503, ErrorMetadata::builder().build())), "HTTP status 503");
    }

    #[test]
    fn what_waiting_heals_is_waited_for_and_nothing_else_is() {
        let healing = [
            (408, ""),
            (409, "ConditionalRequestConflict"),
            (409, ""),
            (425, ""),
            (429, ""),
            (400, "RequestTimeout"),
            (403, "RequestTimeTooSkewed"),
            (400, "IncompleteBody"),
            (400, "BadDigest"),
            (400, "ThrottlingException"),
            (400, "KMS.ThrottlingException"),
            (503, "SlowDown"),
            (500, ""),
            (502, ""),
            (200, ""),
        ];
        for (status, code) in healing {
            assert_eq!(refusal(&coded(status, code), "r"), None, "{status} {code}");
        }
        // What is wrong, a word of what can be done about it, and whether that is known.
        let lasting = [
            (302, "", "s3.endpoint", true),
            (303, "", "s3.endpoint", true),
            (304, "", "s3.endpoint", true),
            (400, "", "s3.endpoint", true),
            (404, "", "s3.endpoint", true),
            (404, "NotFound", "s3.endpoint", true),
            (405, "", "s3.endpoint", true),
            (411, "", "s3.endpoint", true),
            (400, "InvalidArgument", "s3.endpoint", true),
            (405, "MethodNotAllowed", "s3.endpoint", true),
            (501, "NotImplemented", "s3.endpoint", true),
            (301, "", "s3.region", false),
            (400, "InvalidLocationConstraint", "s3.region", false),
            (400, "KMS.NotFoundException", "s3.kms_key_id", false),
            (400, "InvalidStorageClass", "s3.storage_class", false),
            (403, "InvalidObjectState", "s3.storage_class", false),
            (400, "XMinioAdminBucketQuotaExceeded", "room", false),
            (403, "", "AWS_ACCESS_KEY_ID", false),
            (404, "NoSuchBucket", "s3.bucket", false),
        ];
        for (status, code, word, is_vague) in lasting {
            let refusal = refusal(&coded(status, code), "r").unwrap_or_else(|| panic!("{status} {code} is waited for"));
            assert!(refusal.cure.contains(word) && refusal.is_vague == is_vague, "{status} {code}: {refusal:?}");
            assert!(!refusal.cure.contains("unfenced"), "{status} {code}: {refusal:?}");
        }
    }

    /// Errors that say this, each because of the next.
    #[derive(Debug)]
    struct Says(&'static str, Option<Box<Says>>);

    impl fmt::Display for Says {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Says {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    fn chain(texts: &[&'static str]) -> Says {
        let (&first, rest) = texts.split_first().unwrap();
        Says(first, (!rest.is_empty()).then(|| Box::new(chain(rest))))
    }

    #[test]
    fn without_an_answer_the_cause_decides_and_not_the_words_beside_it() {
        let nobody = "the credential provider was not enabled";
        let failed = "an error occurred while loading credentials";
        let cases: [(&[&'static str], Option<&str>); 10] = [
            // A metadata service that does not answer, where there is none.
            (
                &["dispatch failure", "other", nobody, "no credentials found in chain. Attempted:\n  Ec2InstanceMetadata: timed out"],
                Some("AWS_ACCESS_KEY_ID"),
            ),
            (&["dispatch failure", "other", failed, "dispatch failure", "io error", "client error (Connect)", "dns error"], None),
            (&["dispatch failure", "other", failed, "dispatch failure", "io error", "Connection refused (os error 111)"], None),
            (&["dispatch failure", "other", failed, "service error", "unhandled error (Throttling)"], None),
            (&["dispatch failure", "other", failed, "service error", "unhandled error (AccessDenied)"], Some("AWS_ROLE_ARN")),
            (&["dispatch failure", "other", "credentials provider timed out after 5 seconds"], None),
            (&["dispatch failure", "other", "the credentials provider was not properly configured", "a loop"], Some("AWS_PROFILE")),
            (&["dispatch failure", "io error", "client error (Connect)", "invalid peer certificate: UnknownIssuer"], Some("AWS_CA_BUNDLE")),
            (&["dispatch failure", "io error", "received corrupt message of type InvalidContentType"], Some("http://")),
            (&["dispatch failure", "timeout", "client error (Connect)", "operation timed out"], None),
        ];
        for (texts, expected) in cases {
            let found = unsent(&chain(texts));
            match expected {
                None => assert_eq!(found, None, "{texts:?}"),
                Some(word) => assert!(found.is_some_and(|cure| cure.contains(word)), "{texts:?}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn an_address_that_there_cannot_be_is_refused() {
        let options = S3Options {
            bucket: "events".to_owned(),
            endpoint: None,
            region: "us-east-2!".to_owned(),
            prefix: String::new(),
            attempt_timeout: Duration::from_secs(1),
            attempts: 1,
            with_checksums: false,
            is_unfenced: false,
            credentials: Some(Credentials { key_id: "zombi".to_owned(), secret: "zombi-secret".to_owned(), token: None }),
            authorities: None,
            stored: Stored::default(),
        };
        let error = Objects::connect(&options).await.get("k").await.unwrap_err();
        assert!(matches!(error, StorageError::Denied { .. }) && error.to_string().contains("s3.region"), "{error}");
    }
}

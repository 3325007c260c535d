//! The settings of the bucket, of what is written to it, and of how it is kept small.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::{BrokenRules, MAX_SECS, MAX_WAIT_SECS, Seconds, Section};

/// When requests to S3 carry checksums beyond those that Zombi's own objects have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Checksums {
    /// Where the operation wants one; every server takes that.
    WhenRequired,
    /// Wherever there may be one, as the SDK would by itself.
    WhenSupported,
}

/// How segments are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Frames of zstd.
    Zstd,
    /// Plain lines.
    None,
}

/// How the server encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encryption {
    /// With keys of S3's own.
    #[serde(rename = "AES256")]
    Aes256,
    /// With a key of the key management service.
    #[serde(rename = "aws:kms")]
    Kms,
}

/// The bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct S3Settings {
    /// The bucket; without one Zombi is hot only.
    pub bucket: Option<String>,
    /// The S3 server, if it is not AWS. Unset: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// The region. Unset: `AWS_REGION` or `AWS_DEFAULT_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// What every key begins with.
    pub prefix: String,
    /// Create the bucket if it is missing.
    pub create_bucket: bool,
    /// Accept a store that ignores `If-None-Match`. You must then make sure that only one Zombi writes.
    pub unfenced: bool,
    /// `when_supported` adds the SDK's own checksums, which some servers reject.
    pub checksums: Checksums,
    /// Seconds that one attempt of a request may take.
    #[schemars(range(min = 1, max = MAX_WAIT_SECS))]
    pub attempt_timeout_secs: Seconds,
    /// Attempts of a request in all.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// How the store encrypts objects: `AES256` or `aws:kms`. Unset: the bucket's default.
    pub sse: Option<Encryption>,
    /// The key for `aws:kms`. Unset: the account's own.
    pub kms_key_id: Option<String>,
    /// The storage class of segments; manifests keep the bucket's own.
    pub storage_class: Option<String>,
    /// Seconds that writes are taken for without seeing the manifests in S3: then 503 `fence_unknown`, until
    /// S3 answers again. A volume that takes over waits that long, and 5 seconds more, before it takes
    /// writes. 0: writes go on without S3, and what is acknowledged after another volume has taken over is
    /// on the old one alone. Not with `cluster.copies` of 2 or 3, where the log keeps a second writer out.
    #[schemars(range(max = MAX_WAIT_SECS))]
    pub lease_secs: Seconds,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            bucket: None,
            endpoint: None,
            region: None,
            prefix: String::new(),
            create_bucket: false,
            unfenced: false,
            checksums: Checksums::WhenRequired,
            attempt_timeout_secs: Seconds::new(30),
            attempts: 3,
            sse: None,
            kms_key_id: None,
            storage_class: None,
            lease_secs: Seconds::new(0),
        }
    }
}

impl Section for S3Settings {
    const NAME: &'static str = "s3";

    fn check(&self, broken: &mut BrokenRules) {
        broken.unless(
            self.bucket.as_deref() != Some(""),
            "s3.bucket must not be empty: leave it out to be hot only",
        );
        broken.unless(!self.prefix.starts_with('/'), "s3.prefix must not begin with /");
        broken.unless(
            !self.prefix.contains(char::is_control),
            "s3.prefix has a character that no key may have",
        );
        let is_name = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        for (key, value) in [
            ("s3.bucket", &self.bucket),
            ("s3.region", &self.region),
            ("s3.kms_key_id", &self.kms_key_id),
            ("s3.storage_class", &self.storage_class),
        ] {
            let holds = value.as_deref().is_none_or(is_name);
            let shown = value.as_deref().unwrap_or("");
            broken.unless(holds, format!("{key} is {shown:?}: it must be a word without white space"));
        }
        if let Some(endpoint) = &self.endpoint
            && let Err(why) = check_endpoint(endpoint)
        {
            broken.unless(false, format!("s3.endpoint: {why}"));
        }
        let has_its_kind = self.kms_key_id.is_none() || self.sse == Some(Encryption::Kms);
        broken.unless(has_its_kind, "s3.kms_key_id goes with s3.sse = aws:kms");
    }
}

/// Checks the address of an S3 server.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return Err("it must begin with http:// or https://");
    };
    if !["http", "https"].contains(&scheme) {
        return Err("it must begin with http:// or https://");
    }
    // Addresses are shown in many places.
    if rest.contains('@') {
        return Err(
            "it must not hold a user: credentials have places of their own, see docs/operations/iam.md",
        );
    }
    if rest.contains(['?', '#']) {
        return Err("it must have neither a query nor a fragment");
    }
    let is_right =
        !rest.is_empty() && !rest.starts_with('/') && endpoint.bytes().all(|byte| byte.is_ascii_graphic());
    if is_right {
        Ok(())
    } else {
        Err("it must name a server behind http:// or https://, without white space")
    }
}

/// Segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SegmentSettings {
    /// `zstd` or `none`.
    pub compression: Compression,
}

impl Default for SegmentSettings {
    fn default() -> Self {
        Self { compression: Compression::Zstd }
    }
}

impl Section for SegmentSettings {
    const NAME: &'static str = "segment";
}

/// What is kept of S3 in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheSettings {
    /// Cached frames of segments, as they are stored.
    #[schemars(range(max = 64_u64 << 30))]
    pub cache_bytes: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

impl Section for CacheSettings {
    const NAME: &'static str = "cold";
}

/// Merging of small segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompactionSettings {
    /// Neighbouring segments of about one size that are merged into one.
    #[schemars(range(min = 2, max = 256))]
    pub min_segments: usize,
    /// The largest object that a merge may make.
    #[schemars(range(min = 1, max = 4_u64 << 30))]
    pub max_bytes: u64,
    /// Seconds that merged objects stay after they were replaced, for readers that still use them.
    #[schemars(range(max = MAX_SECS))]
    pub grace_secs: Seconds,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        Self { min_segments: 10, max_bytes: 64 << 20, grace_secs: Seconds::new(600) }
    }
}

impl Section for CompactionSettings {
    const NAME: &'static str = "compaction";
}

/// What is kept of what is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManifestSettings {
    /// Seconds that what retention or DELETE removed stays in S3, and how far back a restore can reach.
    #[schemars(range(max = MAX_SECS))]
    pub keep_secs: Seconds,
}

impl Default for ManifestSettings {
    fn default() -> Self {
        Self { keep_secs: Seconds::new(2 * 24 * 60 * 60) }
    }
}

impl Section for ManifestSettings {
    const NAME: &'static str = "manifests";
}

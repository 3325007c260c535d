//! The settings of the S3 client, and how it is built from them.

use std::{sync::Arc, time::Duration};

use aws_config::{
    BehaviorVersion, ConfigLoader, Region, identity::IdentityCache, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_s3::{
    Client,
    config::{RequestChecksumCalculation, ResponseChecksumValidation},
    types::{ServerSideEncryption, StorageClass},
};

use super::{Objects, credentials::RereadCredentials};

/// Where the bucket is, and how requests are sent.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// The server, if it is not AWS; the bucket's name is then part of the path.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// The prefix of every key: empty, or ending with `/`.
    pub prefix: String,
    /// How long one attempt of a request may take.
    pub attempt_timeout: Duration,
    /// Attempts of a request before it fails.
    pub attempts: u32,
    /// Whether the SDK adds its own checksums wherever they are supported.
    pub with_checksums: bool,
    /// Whether the store cannot keep two writers apart, and is not relied on to.
    pub is_unfenced: bool,
    /// Credentials that were read already; `None` to use the usual AWS chain.
    pub credentials: Option<Credentials>,
    /// Whether the usual chain finds them in a file, which is read again when S3 rejects them.
    pub has_credentials_file: bool,
    /// Certificates of the authorities to trust instead of the system's, as PEM.
    pub authorities: Option<Vec<u8>>,
    /// How the server stores objects.
    pub objects: ObjectOptions,
}

/// A key pair, and the token that may go with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's id.
    pub key_id: String,
    /// The secret access key.
    pub secret: String,
    /// The session token, for temporary credentials.
    pub token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// How the server stores objects; `None` everywhere for the bucket's defaults.
#[derive(Debug, Clone, Default)]
pub struct ObjectOptions {
    /// The encryption by the server.
    pub sse: Option<ServerSideEncryption>,
    /// The key that it uses.
    pub kms_key_id: Option<String>,
    /// The storage class of segments; manifests have none.
    pub storage_class: Option<StorageClass>,
}

impl Objects {
    /// The objects of a bucket, with a new client. Sends no request yet.
    pub async fn connect(options: &S3Options) -> Self {
        let mut shared = loader(options);
        let reread = options.has_credentials_file.then(|| {
            let options = options.clone();
            RereadCredentials::new(move || loader(&options))
        });
        if let Some(Credentials { key_id, secret, token }) = options.credentials.clone() {
            shared = shared.credentials_provider(aws_sdk_s3::config::Credentials::new(
                key_id,
                secret,
                token,
                None,
                "environment",
            ));
        }
        if let Some(reread) = &reread {
            shared = shared.credentials_provider(reread.clone());
        }
        let shared = shared.load().await;
        // Segments and manifests carry checksums of their own, and many servers reject the optional ones.
        let (calculate, validate) = match options.with_checksums {
            true => (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported),
            false => (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired),
        };
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .request_checksum_calculation(calculate)
            .response_checksum_validation(validate);
        if let Some(reread) = reread {
            // It keeps them itself, for as long as S3 takes them.
            config = config.interceptor(reread).identity_cache(IdentityCache::no_cache());
        }
        if let Some(endpoint) = &options.endpoint {
            config = config.endpoint_url(endpoint).force_path_style(true);
        }
        let objects =
            Self::new(Client::from_conf(config.build()), options.bucket.clone(), options.prefix.clone());
        let (is_unfenced, object_options) = (options.is_unfenced, Arc::new(options.objects.clone()));
        Self { body_timeout: options.attempt_timeout, is_unfenced, object_options, ..objects }
    }
}

/// What is read of the environment and its files, and how requests are sent.
fn loader(options: &S3Options) -> ConfigLoader {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5).min(options.attempt_timeout))
        .operation_attempt_timeout(options.attempt_timeout)
        .build();
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(options.region.clone()))
        .retry_config(RetryConfig::standard().with_max_attempts(options.attempts))
        .timeout_config(timeouts);
    match &options.authorities {
        Some(pem) => loader.http_client(trusting(pem)),
        None => loader,
    }
}

/// An HTTP client that trusts these authorities and no others.
fn trusting(pem: &[u8]) -> aws_smithy_runtime_api::client::http::SharedHttpClient {
    use aws_smithy_http_client::{
        Builder,
        tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
    };
    let store = TrustStore::empty().with_pem_certificate(pem);
    let Ok(context) = TlsContext::builder().with_trust_store(store).build() else {
        unreachable!("certificates are not parsed before the first connection")
    };
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(context).build_https()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::error::StorageError;

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
            credentials: Some(Credentials {
                key_id: "zombi".to_owned(),
                secret: "zombi-secret".to_owned(),
                token: None,
            }),
            has_credentials_file: false,
            authorities: None,
            objects: ObjectOptions::default(),
        };
        let error = Objects::connect(&options).await.get("k").await.unwrap_err();
        assert!(
            matches!(error, StorageError::Denied { .. }) && error.to_string().contains("s3.region"),
            "{error}"
        );
    }
}

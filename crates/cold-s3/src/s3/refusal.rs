//! What an error of S3 means: whether a retry can succeed, what to do about it if not, and its text for
//! people.

use std::iter;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use contracts::error::with_causes;

/// An error that no retry can heal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct S3Refusal {
    /// What to do about it.
    pub(super) cure: String,
    /// Whether the answer does not tell what the store rejects.
    pub(super) is_vague: bool,
}

impl S3Refusal {
    fn clear(cure: impl Into<String>) -> Self {
        Self { cure: cure.into(), is_vague: false }
    }

    fn vague(cure: impl Into<String>) -> Self {
        Self { cure: cure.into(), is_vague: true }
    }
}

/// The refusal that an error is; `None` if a retry can succeed.
pub(super) fn refusal<E>(error: &SdkError<E>, region: &str) -> Option<S3Refusal>
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    if let SdkError::ConstructionFailure(_) = error {
        return Some(S3Refusal::clear(
            "the request cannot be built: check s3.endpoint, s3.bucket and s3.region",
        ));
    }
    // Without an answer, credentials are missing, or the server does not speak our protocol.
    let Some(response) = error.raw_response() else { return unsent(error).map(S3Refusal::clear) };
    let header = |name: &str| response.headers().get(name);
    let status = response.status().as_u16();
    let elsewhere = || {
        let told = header("x-amz-bucket-region").unwrap_or("another one");
        Some(S3Refusal::clear(format!(
            "the bucket is in region {told}: set s3.region (now {region}), or check s3.endpoint"
        )))
    };
    let code = code(error);
    if code.is_some_and(heals) {
        return None;
    }
    if let Some(cure) = code.and_then(cure) {
        return Some(S3Refusal::clear(cure));
    }
    match (code, status) {
        (
            Some(
                "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException",
            ),
            _,
        )
        | (_, 301 | 307 | 308) => elsewhere(),
        (_, 401 | 403) => Some(S3Refusal::clear(
            "the store, or a proxy in front of it, rejects these credentials: check s3.endpoint and \
             AWS_ACCESS_KEY_ID",
        )),
        (_, 408 | 409 | 425 | 429) => None,
        (Some("NotImplemented" | "MethodNotAllowed"), _) | (_, 501) => {
            Some(S3Refusal::vague("the store does not support a request that Zombi needs: check s3.endpoint"))
        }
        (None, 300..=399) => {
            let place = header("location").unwrap_or("another place");
            Some(S3Refusal::vague(format!(
                "the server redirects to {place}, which S3 never does: check s3.endpoint"
            )))
        }
        (None, 400..=499) => {
            Some(S3Refusal::vague("the server is not S3: check s3.endpoint, its scheme and its port"))
        }
        (Some(_), 300..=499) => Some(S3Refusal::vague(
            "the store rejects the request: check s3.endpoint, s3.bucket and the other settings of s3",
        )),
        _ => None,
    }
}

/// Codes of errors that pass: with a retry, when a clock is set right, or when the store has less load.
fn heals(code: &str) -> bool {
    ["Throttl", "Timeout", "Internal", "SlowDown", "TooManyRequests", "Unavailable"]
        .iter()
        .any(|part| code.contains(part))
        || matches!(
            code,
            "RequestTimeTooSkewed"
                | "IncompleteBody"
                | "BadDigest"
                | "XAmzContentSHA256Mismatch"
                | "RequestLimitExceeded"
        )
        || matches!(
            code,
            "OperationAborted"
                | "ConditionalRequestConflict"
                | "PriorRequestNotComplete"
                | "BandwidthLimitExceeded"
        )
}

/// What to do about an error whose code tells what is wrong.
fn cure(code: &str) -> Option<&'static str> {
    Some(match code {
        "NoSuchBucket" => {
            "there is no such bucket: create it; the server's own, which s3.bucket names, is created with \
             s3.create_bucket = true. If it existed before, the store has come back without its disk: \
             restore that"
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => {
            "give these credentials the right to get, put, delete and list objects in s3.bucket below \
             s3.prefix"
        }
        "InvalidAccessKeyId"
        | "InvalidToken"
        | "ExpiredToken"
        | "TokenRefreshRequired"
        | "UnrecognizedClientException" => "the store does not know AWS_ACCESS_KEY_ID, or its token",
        "SignatureDoesNotMatch" => "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID",
        "InvalidBucketName" => "check s3.bucket",
        "InvalidLocationConstraint" => "check s3.region",
        "TooManyBuckets" => "create the bucket yourself, or raise the account's limit",
        "KeyTooLong" | "KeyTooLongError" => "s3.prefix is too long",
        "InvalidStorageClass" => "check s3.storage_class",
        "InvalidObjectState" => {
            "objects of its storage class must be restored before they can be read: check s3.storage_class \
             and the bucket's lifecycle rules"
        }
        "InvalidEncryptionAlgorithmError" => "check s3.sse",
        _ if code.starts_with("KMS.") => "check s3.sse and s3.kms_key_id",
        _ if code.contains("Quota") => "make room in the bucket, or raise its quota",
        _ => return None,
    })
}

/// What to do about an error without an answer, if no retry can heal it. The SDK's error types cannot be
/// named here, so they are recognized by their texts: by each cause's own text, since the texts of a whole
/// chain mix several causes.
fn unsent(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let is_any = |text: &str| any_cause(error, |_, said| said == text);
    if any_cause(error, |_, said| said.contains("invalid peer certificate")) {
        return Some(
            "the server's certificate is not trusted: AWS_CA_BUNDLE must name a file with the authority \
             that issued it, and s3.endpoint must name the server as the certificate does",
        );
    }
    // An answer without TLS though s3.endpoint begins with https://, or an answer that is not HTTP.
    if any_cause(error, |_, said| said.contains("corrupt message of type InvalidContentType")) {
        return Some(
            "the server does not speak TLS: check whether s3.endpoint should begin with http://, and its \
             port",
        );
    }
    if any_cause(error, |cause, _| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)) {
        return Some("the server does not speak HTTP: check s3.endpoint, its scheme and its port");
    }
    if any_cause(error, |cause, _| format!("{cause:?}").starts_with("ResolveEndpointError")) {
        return Some("these settings do not make an address: check s3.endpoint, s3.bucket and s3.region");
    }
    // No source of credentials is set up. One that is set up and does not answer is retried instead.
    if is_any("the credential provider was not enabled") {
        return Some(
            "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role for the \
             pod",
        );
    }
    if is_any("the credentials provider was not properly configured") {
        return Some(
            "the source of the credentials is set up wrongly: check AWS_PROFILE, AWS_ROLE_ARN and the files \
             that they use",
        );
    }
    let refused = [
        "AccessDenied",
        "InvalidIdentityToken",
        "IDPRejectedClaim",
        "IdpRejectedClaim",
        "RegionDisabled",
        "ValidationError",
    ];
    if is_any("service error") && any_cause(error, |_, said| refused.iter().any(|code| said.contains(code))) {
        return Some("the role cannot be assumed: check AWS_ROLE_ARN and the role's trust policy");
    }
    None
}

/// Whether an error or one of its causes passes a test of the cause and its text.
fn any_cause(
    error: &(dyn std::error::Error + 'static),
    is: impl Fn(&(dyn std::error::Error + 'static), &str) -> bool,
) -> bool {
    iter::successors(Some(error), |error| error.source()).any(|cause| is(cause, &cause.to_string()))
}

/// The code of an answer, if it has one. `NotFound` is the SDK's own code for a 404 without one.
fn code<E>(error: &SdkError<E>) -> Option<&str>
where
    E: ProvideErrorMetadata,
{
    error.code().filter(|code| !matches!(*code, "" | "NotFound"))
}

pub(super) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The text of a failed request, for people.
pub(super) fn message<E>(error: &SdkError<E>) -> String
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match (code(error), error.raw_response()) {
        (Some(code), _) => format!("{code}: {}", error.message().unwrap_or("no message")),
        // Not from S3 itself but from a proxy on the way.
        (None, Some(response)) => format!("HTTP status {}", response.status()),
        (None, None) => {
            let text = with_causes(error);
            let waits = [
                "loading credentials",
                "credentials error",
                "credentials provider timed out",
                "identity resolver timed out",
            ];
            if waits.iter().any(|part| text.contains(part)) {
                return format!(
                    "{text}; AWS_ACCESS_KEY_ID is not set, and the configured source of credentials \
                     returned none"
                );
            }
            text
        }
    }
}

/// Whether a create-only PUT was rejected because the object exists.
pub(super) fn is_there<E>(error: &SdkError<E>) -> bool
where
    E: ProvideErrorMetadata,
{
    error.code() == Some("PreconditionFailed") || status(error) == Some(412)
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt, io};

    use aws_sdk_s3::{
        config::http::HttpResponse, error::ErrorMetadata, operation::get_object::GetObjectError,
        primitives::SdkBody,
    };

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
            let refusal =
                refusal(&coded(status, code), "r").unwrap_or_else(|| panic!("{status} {code} is waited for"));
            assert!(
                refusal.cure.contains(word) && refusal.is_vague == is_vague,
                "{status} {code}: {refusal:?}"
            );
            assert!(!refusal.cure.contains("unfenced"), "{status} {code}: {refusal:?}");
        }
    }

    const LOADING: &str = "an error occurred while loading credentials";

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

    /// The word must be in what is to be done about errors that say this, each because of the next; without
    /// one, a retry can heal them.
    fn expect(texts: &[&'static str], word: Option<&str>) {
        let found = unsent(&chain(texts));
        match word {
            None => assert_eq!(found, None, "{texts:?}"),
            Some(word) => assert!(found.is_some_and(|cure| cure.contains(word)), "{texts:?}: {found:?}"),
        }
    }

    #[test]
    fn without_credentials_the_cause_decides_and_not_the_words_beside_it() {
        let cases: [(&[&'static str], Option<&str>); 7] = [
            // A metadata service that does not answer, where there is none.
            (
                &[
                    "the credential provider was not enabled",
                    "no credentials found in chain. Attempted:\n  Ec2InstanceMetadata: timed out",
                ],
                Some("AWS_ACCESS_KEY_ID"),
            ),
            (&[LOADING, "dispatch failure", "io error", "client error (Connect)", "dns error"], None),
            (&[LOADING, "dispatch failure", "io error", "Connection refused (os error 111)"], None),
            (&[LOADING, "service error", "unhandled error (Throttling)"], None),
            (&[LOADING, "service error", "unhandled error (AccessDenied)"], Some("AWS_ROLE_ARN")),
            (&["credentials provider timed out after 5 seconds"], None),
            (&["the credentials provider was not properly configured", "a loop"], Some("AWS_PROFILE")),
        ];
        for (texts, word) in cases {
            expect(&[["dispatch failure", "other"].as_slice(), texts].concat(), word);
        }
    }

    #[test]
    fn without_an_answer_the_cause_decides_and_not_the_words_beside_it() {
        let cases: [(&[&'static str], Option<&str>); 3] = [
            (
                &["io error", "client error (Connect)", "invalid peer certificate: UnknownIssuer"],
                Some("AWS_CA_BUNDLE"),
            ),
            (&["io error", "received corrupt message of type InvalidContentType"], Some("http://")),
            (&["timeout", "client error (Connect)", "operation timed out"], None),
        ];
        for (texts, word) in cases {
            expect(&[["dispatch failure"].as_slice(), texts].concat(), word);
        }
    }
}

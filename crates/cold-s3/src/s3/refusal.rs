//! What an error of S3 means: whether waiting can heal it, what can be done about it if not, and what people
//! are told.

use std::iter;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// What waiting does not heal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct S3Refusal {
    /// What can be done about it.
    pub(super) cure: String,
    /// Whether what was said does not tell what it is about.
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

/// What is refused, and waiting does not heal; `None` for other errors.
pub(super) fn refusal<E>(error: &SdkError<E>, region: &str) -> Option<S3Refusal>
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    if let SdkError::ConstructionFailure(_) = error {
        return Some(S3Refusal::clear("the request cannot be made: check s3.endpoint, s3.bucket and s3.region"));
    }
    // Where no answer came, nobody told who we are, or who answered was not to be spoken with.
    let Some(response) = error.raw_response() else { return unsent(error).map(S3Refusal::clear) };
    let header = |name: &str| response.headers().get(name);
    let status = response.status().as_u16();
    let elsewhere = || {
        let told = header("x-amz-bucket-region").unwrap_or("another one");
        Some(S3Refusal::clear(format!("the bucket is in region {told}: set s3.region (now {region}), or check s3.endpoint")))
    };
    let code = code(error);
    if code.is_some_and(heals) {
        return None;
    }
    if let Some(cure) = code.and_then(cure) {
        return Some(S3Refusal::clear(cure));
    }
    match (code, status) {
        (Some("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"), _)
        | (_, 301 | 307 | 308) => elsewhere(),
        (_, 401 | 403) => Some(S3Refusal::clear(
            "the store, or something before it, does not let these credentials in: check s3.endpoint and AWS_ACCESS_KEY_ID",
        )),
        (_, 408 | 409 | 425 | 429) => None,
        (Some("NotImplemented" | "MethodNotAllowed"), _) | (_, 501) => {
            Some(S3Refusal::vague("the store does not know what Zombi needs of it: check s3.endpoint"))
        }
        (None, 300..=399) => {
            let place = header("location").unwrap_or("another place");
            Some(S3Refusal::vague(format!("what answers sends to {place}, as no S3 does: check s3.endpoint")))
        }
        (None, 400..=499) => Some(S3Refusal::vague("what answers is no S3: check s3.endpoint, its scheme and its port")),
        (Some(_), 300..=499) => {
            Some(S3Refusal::vague("the store does not take what it is asked: check s3.endpoint, s3.bucket and the other settings of s3"))
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

/// What is wrong where no answer came, if waiting does not heal that. The SDK's own errors have no names in
/// here: they are known by what each of them says for itself, not by what all of them say together.
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
    // Nobody of those who may have credentials was set up to have any. One who was, and does not answer, is
    // waited for.
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

pub(super) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// What people are told of a failed request.
pub(super) fn message<E>(error: &SdkError<E>) -> String
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
pub(super) fn is_there<E>(error: &SdkError<E>) -> bool
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
}

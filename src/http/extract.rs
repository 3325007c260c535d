//! Paths and headers become values that are right by their type, or a problem that says what is wrong with
//! them.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, Uri, header, request::Parts},
};
use utoipa::IntoParams;

use super::{
    code::Code,
    error::Problem,
    heads,
    limits::Limits,
    media::{self, NDJSON_NAMES},
    scope::RequestScope,
    strict::OTLP,
};
use crate::auth::policy::Resource;
use contracts::name::{GroupName, PartitionNumber, TableName};

/// The headers with the partition of events that name none.
static PARTITION_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-partition"), HeaderName::from_static("zombi-partition")];
/// The media type of one JSON document.
const JSON: &str = "application/json";
/// What the names of clients begin with that send nothing but OTLP.
const OTLP_CLIENTS: [&[u8]; 3] = [b"OpenTelemetry Collector", b"OTel-OTLP-Exporter", b"OTel OTLP Exporter"];
/// Parameters of a content type that name the message of a protobuf body.
const MESSAGE_TYPES: [&str; 2] = ["messageType", "proto"];
/// The header with the idempotency key of an event that has none (draft-ietf-httpapi-idempotency-key-header).
const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// The `{table}` of a path, with which the caller may do what the route does.
#[derive(IntoParams)]
#[into_params(names("table"), parameter_in = Path)]
pub struct Table(
    /// The table
    #[param(value_type = String, example = "events")]
    pub TableName,
);

/// Whether the `{table}` of a path is a table's name, on a route that is open to everybody.
pub(super) struct OpenTable;

impl<S: Send + Sync> FromRequestParts<S> for OpenTable {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        table_of(parts).map(|_| Self)
    }
}

/// The `{group}` of a path, with which the caller may do what the route does.
#[derive(IntoParams)]
#[into_params(names("group"), parameter_in = Path)]
pub struct GroupPath(
    /// The consumer group
    #[param(value_type = String, example = "billing")]
    pub GroupName,
);

/// The `{group}` of a path where the body says what the caller needs: the handler decides.
pub(super) struct AnyGroup(pub GroupName);

impl<S: Send + Sync> FromRequestParts<S> for AnyGroup {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        group_of(parts).map(Self)
    }
}

/// The group that a path names.
fn group_of(parts: &Parts) -> Result<GroupName, Problem> {
    let text = RequestScope::parameter(parts, 0)?;
    GroupName::parse(&text).map_err(|error| Problem::new(Code::BadGroupName, error))
}

impl<S: Send + Sync> FromRequestParts<S> for Table {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match parts.extensions.get::<RequestScope>() {
            Some(scope) => Self::of(&parts.uri, scope),
            None => Self::of(&parts.uri, &RequestScope::default()),
        }
    }
}

impl Table {
    /// The table of a request, by its address and by what it carries.
    ///
    /// # Errors
    /// 400 if it is no name, 403 if the caller may not do with it what the route does.
    pub(super) fn of(uri: &Uri, scope: &RequestScope) -> Result<Self, Problem> {
        let name = table_name(&scope.named(uri, 0)?)?;
        let sent = match () {
            () if contracts::mutant("right_on_the_raw_path") => uri.path().split('/').nth(2),
            () if contracts::mutant("right_on_the_last_segment") => uri.path().rsplit('/').next(),
            () if contracts::mutant("right_on_tables") => Some(""),
            () => None,
        };
        if let Some(sent) = sent {
            if let Ok(sent) = TableName::parse(sent) {
                scope.caller.allow(Resource::Table(&sent))?;
            }
            return Ok(Self(name));
        }
        scope.caller.allow(Resource::Table(&name))?;
        Ok(Self(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for GroupPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let name = group_of(parts)?;
        if !contracts::mutant("right_on_groups") {
            RequestScope::allow(parts, Resource::Group(&name))?;
        }
        Ok(Self(name))
    }
}

/// The table that a path names.
fn table_of(parts: &Parts) -> Result<TableName, Problem> {
    table_name(&RequestScope::parameter(parts, 0)?)
}

/// The name of a table, from outside.
///
/// # Errors
/// 400 with the rule.
pub fn table_name(text: &str) -> Result<TableName, Problem> {
    TableName::parse(text).map_err(|error| Problem::new(Code::BadTableName, error))
}

/// The encodings of a write's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// One JSON document.
    Json,
    /// One protobuf message.
    Protobuf,
    /// JSON lines, streamed.
    Ndjson,
}

/// The encoding of the body, by its content type. It is JSON if there is none, and for the form type that
/// `curl -d` sends by itself.
///
/// # Errors
/// 415 for another type.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Encoding::Json) };
    // As nearly everybody writes it: no copy in lower case is made of that.
    if value == JSON {
        return Ok(Encoding::Json);
    }
    let text = value.to_str().unwrap_or("not text");
    let essence = media::essence(text);
    match essence.as_str() {
        "" | JSON | "application/x-www-form-urlencoded" => Ok(Encoding::Json),
        "application/x-protobuf" | "application/protobuf" => Ok(Encoding::Protobuf),
        name if NDJSON_NAMES.contains(&name) => Ok(Encoding::Ndjson),
        _ => Err(unsupported(format!(
            "content type {text:?} is not supported: send application/json, application/x-protobuf or \
             application/x-ndjson"
        ))),
    }
}

/// Checks that a body may be JSON; `detail` says that it must be.
///
/// # Errors
/// 415 for another type.
pub(super) fn json_only(headers: &HeaderMap, detail: &str) -> Result<(), Problem> {
    // What else other paths take is of no use here.
    if matches!(encoding(headers), Ok(Encoding::Json)) { Ok(()) } else { Err(unsupported(detail)) }
}

/// Checks that a protobuf body is not said to be another message than `ours`, and does not come from an
/// exporter of OTLP.
///
/// # Errors
/// 415 if it is; 400 if it does.
pub(super) fn message_type(headers: &HeaderMap, ours: &str) -> Result<(), Problem> {
    let client = headers.get(header::USER_AGENT).map_or(b"".as_slice(), |value| value.as_bytes());
    if OTLP_CLIENTS.iter().any(|name| client.starts_with(name)) {
        return Err(Problem::new(Code::BadProtobuf, OTLP));
    }
    let content_type = heads::content_type(headers).unwrap_or_default();
    let said = |name: &str| MESSAGE_TYPES.iter().any(|known| name.eq_ignore_ascii_case(known));
    match media::parameters(content_type).find(|(name, value)| said(name) && *value != ours) {
        Some((_, other)) => {
            Err(unsupported(format!("the body is said to be {other}: this path takes {ours}")))
        }
        None => Ok(()),
    }
}

/// 415; `detail` says what is supported.
pub fn unsupported(detail: impl ToString) -> Problem {
    Problem::new(Code::UnsupportedMediaType, detail)
}

/// The partition of events that name none, if a header names one.
///
/// # Errors
/// 400 if it is not a number, or two headers differ; 422 if it is out of range.
pub fn partition_header(headers: &HeaderMap, limits: &Limits) -> Result<Option<PartitionNumber>, Problem> {
    let mut found: Option<u64> = None;
    for value in PARTITION_HEADERS.iter().flat_map(|name| headers.get_all(name)) {
        let digits = value
            .to_str()
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        // More digits than a number here can have are still a number, and out of range.
        let number = digits.map(|text| text.parse().unwrap_or(u64::MAX)).ok_or_else(|| {
            Problem::new(Code::BadPartition, format!("X-Partition {value:?} is not a number"))
        })?;
        if found.replace(number).is_some_and(|other| other != number) {
            return Err(Problem::new(Code::BadPartition, "the headers name two different partitions"));
        }
    }
    found.map(|number| partition_number(number.into(), limits)).transpose()
}

/// The idempotency key of an event that has none, if the header has one: a quoted string or a bare word.
///
/// # Errors
/// 400 if it is neither, or if there are two.
pub fn key_header(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(KEY_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |why: &str| Problem::new(Code::BadRequest, format!("Idempotency-Key {value:?} {why}"));
    if values.next().is_some() {
        return Err(wrong("is not the only one"));
    }
    let text = value.to_str().map_err(|_| wrong("is not text"))?.trim();
    let Some(quoted) = text.strip_prefix('"') else {
        return if text.is_empty() || text.contains('"') {
            Err(wrong("is neither a word nor a quoted string"))
        } else {
            Ok(Some(text.to_owned()))
        };
    };
    let (mut key, mut characters) = (String::new(), quoted.chars());
    loop {
        match characters.next() {
            Some('"') if characters.as_str().is_empty() => return Ok(Some(key)),
            Some('\\') => match characters.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(wrong("has a broken escape")),
            },
            Some(character) if character != '"' => key.push(character),
            _ => return Err(wrong("is not a whole quoted string")),
        }
    }
}

/// The number of a partition, from outside.
///
/// # Errors
/// 422 if it is not below `limits.partitions_per_table`.
pub fn partition_number(number: i128, limits: &Limits) -> Result<PartitionNumber, Problem> {
    let limit = limits.partitions_per_table;
    let known = PartitionNumber::try_from(number).ok().filter(|number| *number < limit);
    known.ok_or_else(|| {
        Problem::new(
            Code::PartitionOutOfRange,
            format!("partition {number} is not from 0 to {}", limit.saturating_sub(1)),
        )
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_partition_stands_in_one_header_or_alike_in_two() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            partition_header(&headers(pairs), &Limits::default()).ok()
        };
        assert_eq!(of(&[]), Some(None));
        assert_eq!(of(&[("x-partition", "7"), ("zombi-partition", "07")]), Some(Some(7)));
        for wrong in [
            vec![("x-partition", "7"), ("zombi-partition", "8")],
            vec![("x-partition", "")],
            vec![("x-partition", "-1")],
            vec![("x-partition", "1024")],
            vec![("x-partition", "99999999999999999999")],
        ] {
            assert_eq!(of(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_protobuf_body_is_ours_or_does_not_say_what_it_is() {
        for (content_type, is_ours) in [
            ("application/x-protobuf", true),
            ("application/x-protobuf; messageType=\"zombi.v1.Event\"", true),
            ("application/x-protobuf;messagetype=zombi.v1.Event", true),
            ("application/x-protobuf; messageType=\"zombi.v1.BulkWriteRequest\"", false),
            ("application/x-protobuf;proto=io.prometheus.write.v2.Request", false),
            ("application/x-protobuf;messageType=zombi.v1.Event;proto=x", false),
            ("application/x-protobuf;messageType=zombi.v1.Event;messageType=x", false),
            ("application/x-protobuf;a=\";messageType=x\"", true),
        ] {
            let checked = message_type(&headers(&[("content-type", content_type)]), "zombi.v1.Event");
            assert_eq!(checked.is_ok(), is_ours, "{content_type}");
        }
    }

    #[test]
    fn a_key_is_a_quoted_string_or_a_word() {
        let of = |value: &'static str| key_header(&headers(&[("idempotency-key", value)])).ok().flatten();
        for (value, key) in [
            ("k", "k"),
            ("\"a b\"", "a b"),
            ("\"a\\\"b\\\\\"", "a\"b\\"),
            (" 8e03978e-40d5 ", "8e03978e-40d5"),
        ] {
            assert_eq!(of(value).as_deref(), Some(key), "{value}");
        }
        for wrong in ["", "\"", "\"a", "\"a\"b", "a\"b", "\"a\\b\""] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert!(key_header(&headers(&[("idempotency-key", "a"), ("idempotency-key", "a")])).is_err());
    }
}

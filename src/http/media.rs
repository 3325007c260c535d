//! What a content type says of a body.

use axum::http::HeaderMap;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type},
    },
};

use super::heads;

/// The names of JSON lines.
pub(super) const NDJSON_NAMES: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

/// What kind of content a content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// One JSON value: `*/json` or `*+json`.
    Json,
    /// Text: `text/*`.
    Text,
    /// JSON lines, by any of their names.
    Lines,
    /// Anything else.
    Bytes,
}

/// How `/openapi.json` describes a body that is bytes and no JSON.
pub struct BinaryBody;

impl PartialSchema for BinaryBody {
    fn schema() -> RefOr<Schema> {
        let bytes = ObjectBuilder::new().schema_type(Type::String);
        let bytes = bytes.format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        bytes.description(Some("Bytes as they are.")).into()
    }
}

impl ToSchema for BinaryBody {}

impl MediaKind {
    /// The kind of a content type, whatever its parameters and case.
    pub fn of(content_type: &str) -> Self {
        Self::of_essence(&essence(content_type))
    }

    /// The kind of a media type as [`essence`] gives it.
    pub(super) fn of_essence(essence: &str) -> Self {
        match essence.split_once('/') {
            Some((_, "json")) => Self::Json,
            Some((_, subtype)) if subtype.ends_with("+json") => Self::Json,
            _ if NDJSON_NAMES.contains(&essence) => Self::Lines,
            Some(("text", _)) => Self::Text,
            _ => Self::Bytes,
        }
    }

    /// The kind of a request's body; of one without a content type, [`MediaKind::Bytes`].
    pub(super) fn of_body(headers: &HeaderMap) -> Self {
        heads::content_type(headers).map_or(Self::Bytes, Self::of)
    }
}

/// A media type without parameters, in lower case.
pub(super) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A parameter of a media type, without the quotes that it may stand in.
pub(super) fn parameter<'a>(content_type: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = content_type.split(';').skip(1).filter_map(|one| one.split_once('='));
    let (_, value) = parameters.find(|(found, _)| found.trim().eq_ignore_ascii_case(name))?;
    let value = value.trim();
    Some(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_says_what_a_body_is() {
        for (content_type, kind) in [
            ("application/json", MediaKind::Json),
            ("Text/JSON; charset=utf-8", MediaKind::Json),
            ("application/vnd.github+json", MediaKind::Json),
            ("application/vnd.Api+Json;v=1", MediaKind::Json),
            ("text/plain; charset=latin1", MediaKind::Text),
            ("text/csv", MediaKind::Text),
            ("application/x-ndjson", MediaKind::Lines),
            ("APPLICATION/JSONL", MediaKind::Lines),
            ("application/octet-stream", MediaKind::Bytes),
            ("application/x-www-form-urlencoded", MediaKind::Bytes),
            ("application/jsonp", MediaKind::Bytes),
            ("json", MediaKind::Bytes),
            ("", MediaKind::Bytes),
        ] {
            assert_eq!(MediaKind::of(content_type), kind, "{content_type}");
        }
    }

    #[test]
    fn a_parameter_may_be_quoted() {
        let content_type = r#"application/x-protobuf; charset=x; MessageType="zombi.v1.Event" ;q=1"#;
        assert_eq!(parameter(content_type, "messageType"), Some("zombi.v1.Event"));
        assert_eq!(parameter("application/x-protobuf;messagetype=a.B", "messageType"), Some("a.B"));
        assert_eq!(parameter("application/x-protobuf", "messageType"), None);
        assert_eq!(parameter("messageType=x", "messageType"), None);
    }
}

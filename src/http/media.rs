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

/// The parameters of a media type: their names, and their values without the quotes that these may stand in.
/// What a backslash in quotes stands for is not undone.
pub(super) fn parameters(content_type: &str) -> impl Iterator<Item = (&str, &str)> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let is_end = move |letter: char| {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ';' => return !is_quoted,
            _ => {}
        }
        false
    };
    content_type.split(is_end).skip(1).filter_map(|one| one.split_once('=')).map(|(name, value)| {
        let value = value.trim();
        let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        (name.trim(), quoted.unwrap_or(value))
    })
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
        let of = |content_type| parameters(content_type).collect::<Vec<_>>();
        assert_eq!(of(content_type), [("charset", "x"), ("MessageType", "zombi.v1.Event"), ("q", "1")]);
        assert_eq!(of(r#"a/b;x=";y=1\";";z=2"#), [("x", r#";y=1\";"#), ("z", "2")]);
        assert!(of("application/x-protobuf").is_empty() && of("messageType=x").is_empty());
    }
}

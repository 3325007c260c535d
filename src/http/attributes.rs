//! The attributes of CloudEvents 1.0 and the kinds of their data: the rules that writing and reading share.

use super::{
    media::{self, MediaKind},
    times,
};

/// The only version there is.
pub(super) const VERSION: &str = "1.0";
/// Attributes that every CloudEvent has.
pub(super) const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// Attributes of the specification that may be left out, but not be empty.
pub(super) const CORE: [&str; 4] = ["datacontenttype", "dataschema", "subject", "time"];
/// An extension that may be left out, but not be empty: events with equal ones belong together.
pub(super) const PARTITION_KEY: &str = "partitionkey";
/// What a read adds: where the event is. A write drops them, so that what was read can be sent again.
pub(super) const PARTITION: &str = "zombipartition";
/// See [`PARTITION`].
pub(super) const OFFSET: &str = "zombioffset";
/// What a read adds to an event that was erased.
pub(super) const ERASED: &str = "zombierased";

/// Whether an attribute may have this name: lower-case letters and digits, and not that of the data.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name != "data"
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Whether it is an attribute that only reads add.
pub(super) fn is_of_reads(name: &str) -> bool {
    [PARTITION, OFFSET, ERASED].contains(&name)
}

/// Whether a read may show a header of an event as this attribute.
pub(super) fn may_be(name: &str, value: &str) -> bool {
    let is_right = match name {
        "time" => times::rfc3339(value).is_ok(),
        "datacontenttype" => is_media_type(value),
        _ if CORE.contains(&name) || name == PARTITION_KEY => !value.is_empty(),
        _ => true,
    };
    is_right && is_name(name) && !is_of_reads(name)
}

/// Whether a text is a media type (RFC 2046), with or without parameters.
pub(super) fn is_media_type(text: &str) -> bool {
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let essence = media::essence(text);
    essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

/// What kind of data a content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataKind {
    /// A JSON value.
    Json,
    /// Text.
    Text,
    /// Anything else.
    Bytes,
}

impl DataKind {
    /// The kind that a content type says.
    pub(super) fn of(content_type: &str) -> Self {
        let essence = media::essence(content_type);
        match MediaKind::of_essence(&essence) {
            MediaKind::Json => Self::Json,
            MediaKind::Text => Self::Text,
            // In structured mode it is sent as a text.
            _ if essence.ends_with("/xml") || essence.ends_with("+xml") => Self::Text,
            _ => Self::Bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_an_attribute_is_known_by_its_name_and_value() {
        for (name, value, may_be_one) in [
            ("extension1", "", true),
            ("subject", "s", true),
            ("subject", "", false),
            ("time", "2018-04-05T17:31:00Z", true),
            ("time", "yesterday", false),
            ("datacontenttype", "text/plain; charset=utf-8", true),
            ("datacontenttype", "text", false),
            ("data", "x", false),
            ("data_base64", "x", false),
            ("X", "x", false),
            ("content-type", "text/plain", false),
            ("zombioffset", "7", false),
            ("", "x", false),
        ] {
            assert_eq!(may_be(name, value), may_be_one, "{name}={value}");
        }
    }
}

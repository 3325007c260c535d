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
/// What a read adds to an event that was erased. A write refuses it: nothing of the event is left.
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
        "source" => is_uri_reference(value),
        "dataschema" => is_uri(value),
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

/// Whether a text is a URI (RFC 3986): it has a scheme.
pub(super) fn is_uri(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme)) && is_uri_reference(text)
}

/// Whether a text that is not empty is a URI or a reference to one (RFC 3986).
pub(super) fn is_uri_reference(text: &str) -> bool {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    // A colon before the first slash ends a scheme.
    let first = rest.split(['/', '?']).next().unwrap_or_default();
    let has_scheme = first.split_once(':').is_none_or(|(scheme, _)| is_scheme(scheme));
    // Square brackets stand around an address in the authority, and nowhere else.
    let behind_scheme = first.split_once(':').map_or(rest, |(scheme, _)| &rest[scheme.len() + 1..]);
    let (authority, path) = match behind_scheme.strip_prefix("//") {
        None => ("", behind_scheme),
        Some(rest) => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
    };
    let has_brackets = |text: &str| text.contains(['[', ']']);
    !text.is_empty()
        && has_scheme
        && has_uri_characters(text)
        && !has_brackets(path)
        && !has_brackets(fragment)
        && !fragment.contains('#')
        && authority.contains('[') == authority.contains(']')
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Whether all characters may be in a URI, and each `%` begins a byte.
fn has_uri_characters(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_right = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&byte),
        };
        if !is_right {
            return false;
        }
    }
    true
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
            ("source", "/mycontext", true),
            ("source", "my context", false),
            ("dataschema", "https://example.com/schema", true),
            ("dataschema", "/schema", false),
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

    #[test]
    fn uris_and_references_are_told_from_other_texts() {
        for (text, is_one, is_reference) in [
            ("https://github.com/cloudevents?a=b#c", true, true),
            ("mailto:cncf-wg-serverless@lists.cncf.io", true, true),
            ("urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", true, true),
            ("http://[2001:db8::1]:8080/a", true, true),
            ("/cloudevents/spec/pull/123", false, true),
            ("1-555-123-4567", false, true),
            ("//authority/path", false, true),
            ("#fragment", false, true),
            ("a/b:c", false, true),
            ("a%20b", false, true),
            ("", false, false),
            ("a b", false, false),
            ("1:2", false, false),
            (":a", false, false),
            ("a%2", false, false),
            ("a%zz", false, false),
            ("a[0]", false, false),
            ("a#b#c", false, false),
            ("http://[::1/a", false, false),
            ("<a>", false, false),
            ("caf\u{e9}", false, false),
            ("{a}", false, false),
        ] {
            assert_eq!((is_uri(text), is_uri_reference(text)), (is_one, is_reference), "{text}");
        }
    }
}

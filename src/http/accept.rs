//! The shape of an answer: `Accept` with its lists and weights (RFC 9110 12.5.1).

use axum::http::{HeaderMap, header};

use super::{code::Code, error::Problem, media::NDJSON_NAMES};

/// The shapes of the answer to a read. Among those wanted equally the first is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A page as one JSON object.
    Json,
    /// The whole rest, one JSON record a line.
    Ndjson,
    /// A page as one protobuf message.
    Protobuf,
    /// Server-sent events.
    Events,
    /// A page as a batch of CloudEvents.
    CloudEvents,
}

/// The names of each shape.
const NAMES: [(Shape, &[&str]); 5] = [
    (Shape::Json, &["application/json"]),
    (Shape::Ndjson, &NDJSON_NAMES),
    (Shape::Protobuf, &["application/x-protobuf", "application/protobuf"]),
    (Shape::Events, &["text/event-stream"]),
    (Shape::CloudEvents, &["application/cloudevents-batch+json"]),
];

/// Those that may stand for JSON where that alone is refused.
const OTHERS: [Shape; 3] = [Shape::Ndjson, Shape::Protobuf, Shape::CloudEvents];

/// How much something is wanted, in thousandths; 0 means never.
type Weight = u16;

/// The shape that `Accept` wants most. A shape other than JSON must be named, so that `*/*` never gets an
/// endless stream. If no shape of ours is named, it is JSON, or where that is refused another one that has an
/// end.
///
/// # Errors
/// 406 if JSON is refused and nothing else of ours is wanted.
pub(super) fn shape(headers: &HeaderMap) -> Result<Shape, Problem> {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let wanted: Vec<(String, Weight)> = lines.flat_map(ranges).filter_map(range).collect();
    let weight =
        |name: &str| wanted.iter().filter(|(range, _)| range == name).map(|(_, weight)| *weight).max();
    let mut best: Option<(Weight, Shape)> = None;
    for (shape, names) in NAMES {
        let named = names.iter().filter_map(|name| weight(name)).max().filter(|weight| *weight > 0);
        if let Some(named) = named.filter(|named| best.is_none_or(|(most, _)| *named > most)) {
            best = Some((named, shape));
        }
    }
    let any = weight("application/*").or_else(|| weight("*/*"));
    let json = weight("application/json").or(any);
    let best = best.or_else(|| {
        // JSON is refused, and by a pattern anything else is wanted: another answer that has an end.
        let is_left = |names: &[&str]| names.iter().all(|name| weight(name) != Some(0));
        let mut others = NAMES.iter().filter(|(shape, names)| OTHERS.contains(shape) && is_left(names));
        let other = others.next().filter(|_| json == Some(0))?;
        any.filter(|any| *any > 0).map(|any| (any, other.0))
    });
    match (best, json) {
        (None, Some(0)) => Err(Problem::new(
            Code::NotAcceptable,
            "Accept refuses every media type that the answer can have: accept application/json",
        )),
        (None, _) => Ok(Shape::Json),
        (Some((most, _)), Some(json)) if json > most => Ok(Shape::Json),
        (Some((_, shape)), _) => Ok(shape),
    }
}

/// Whether `Accept` wants JSON by its own name.
pub(super) fn names_json(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(ranges).filter_map(range).any(|(name, weight)| name == "application/json" && weight > 0)
}

/// The members of a list. A comma in quotes separates nothing (RFC 9110 5.6.4).
fn ranges(line: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    line.split(move |letter| {
        let parts = letter == ',' && !is_quoted;
        is_quoted ^= letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && is_quoted && !is_escaped;
        parts
    })
}

/// A media range in lower case, and its weight; `None` if the text is not one.
fn range(text: &str) -> Option<(String, Weight)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| name.contains('/'))?.to_ascii_lowercase();
    let weights = parts
        .filter_map(|part| part.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    let mut weight = 1000;
    for (_, text) in weights {
        weight = thousandths(text.trim())?;
    }
    Some((name, weight))
}

/// `0`, `0.5`, `1.000`.
fn thousandths(text: &str) -> Option<Weight> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_short = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let weight =
        whole.parse::<Weight>().ok()?.checked_mul(1000)? + format!("{part:0<3}").parse::<Weight>().ok()?;
    (is_short && weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(lines: &[&'static str]) -> Option<Shape> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT, HeaderValue::from_static(line));
        }
        shape(&headers).ok()
    }

    #[test]
    fn json_is_wanted_where_it_is_named() {
        for (line, is_named) in [
            ("application/json", true),
            ("application/json, text/plain, */*", true),
            ("text/plain, Application/JSON;q=0.1", true),
            ("application/json;q=0, */*", false),
            ("*/*", false),
            ("application/*", false),
            ("application/cloudevents+json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(line));
            assert_eq!(names_json(&headers), is_named, "{line}");
        }
        assert!(!names_json(&HeaderMap::new()));
    }

    #[test]
    fn the_most_wanted_shape_is_taken() {
        for (lines, wanted) in [
            (vec![], Shape::Json),
            (vec!["*/*"], Shape::Json),
            (vec!["text/html, application/xhtml+xml, */*;q=0.8"], Shape::Json),
            (vec!["application/x-ndjson"], Shape::Ndjson),
            (vec!["Application/JSONL; charset=utf-8"], Shape::Ndjson),
            (vec!["application/x-ndjson, */*"], Shape::Ndjson),
            (vec!["application/x-ndjson;q=0.5, */*"], Shape::Json),
            (vec!["application/json, text/event-stream"], Shape::Json),
            (vec!["text/event-stream, application/json"], Shape::Json),
            (vec!["text/event-stream", "application/json;q=0.9"], Shape::Events),
            (vec!["text/event-stream;q=0, application/json"], Shape::Json),
            (vec!["text/event-stream; Q=0.000"], Shape::Json),
            (vec!["application/protobuf;q=0.2, application/x-ndjson;q=0.1"], Shape::Protobuf),
            (vec!["application/json;q=0, application/x-protobuf"], Shape::Protobuf),
            (vec!["application/json;profile=\"a,b\";q=0, application/x-ndjson;q=0.1"], Shape::Ndjson),
            (vec!["text/*"], Shape::Json),
            (vec!["*/*, application/json;q=0"], Shape::Ndjson),
            (vec!["application/json;q=0", "application/*;q=0.5"], Shape::Ndjson),
            (vec!["application/json;q=0, application/x-ndjson;q=0, */*;q=0.1"], Shape::Protobuf),
            (vec!["text/html"], Shape::Json),
            (vec!["application/cloudevents-batch+json"], Shape::CloudEvents),
            (vec!["application/cloudevents-batch+json, application/json"], Shape::Json),
            (vec!["application/cloudevents-batch+json, */*;q=0.1"], Shape::CloudEvents),
            (vec!["application/cloudevents+json"], Shape::Json),
            (vec!["application/x-ndjson;q=2"], Shape::Json),
            (vec!["application/x-ndjson;q=0.1234, nonsense"], Shape::Json),
        ] {
            assert_eq!(of(&lines), Some(wanted), "{lines:?}");
        }
        for lines in [
            vec!["application/json;q=0"],
            vec!["*/*;q=0"],
            vec!["application/json;q=0, text/event-stream;q=0"],
        ] {
            assert_eq!(of(&lines), None, "{lines:?}");
        }
    }
}

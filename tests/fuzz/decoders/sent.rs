//! What clients send: bodies, headers, queries and cursors.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use contracts::{
    error::Overload,
    filter::ReadFilter,
    json::JsonScanner,
    name::TableName,
    partitioner,
    payload::{Payload, write_json_string},
    read::ReadOrder,
};
use tiering::{Positions, ReadQuery, cursor};
use zombi::http::{
    coding::{Coding, DecodeStep, Decoder as BodyDecoder},
    connection::Connection,
    extract::table_name,
    filters::conditions,
    limits::Limits,
    media::MediaKind,
    memory::Budget,
    params::{
        AfterParam, FilteredParams, LastParam, LimitParam, OffsetParam, OrderParam, TimeParam, WaitParam,
    },
    records::{CloudEventHead, CloudEventMode, NewEvent, RawEnvelope, RawSettings, RecordParser},
};

use super::{base64, stored::goes_round};

pub(super) fn with_parser<T>(partition: Option<u32>, take: impl FnOnce(RecordParser<'_>) -> T) -> T {
    let limits = Limits::default();
    take(RecordParser { limits: &limits, now_ms: 0, traceparent: None, partition, idempotency_key: None })
}

/// An event that was sent comes back as it went in.
fn sent_goes_round(NewEvent { partition, event }: NewEvent) {
    let chosen = event.key.as_ref().map_or(0, |key| partitioner::partition_of(key, 7));
    assert!(chosen < 7);
    goes_round(partition.unwrap_or(chosen), event);
}

pub(super) fn json(data: &[u8]) {
    if let Ok(event) = with_parser(None, |parser| parser.json_event(data)) {
        sent_goes_round(event);
    }
}

pub(super) fn bulk(data: &[u8]) {
    let budget = Budget::new(1 << 30, 100, Overload::Memory);
    let mut reserved = budget.receiving(&Connection::default());
    let events = with_parser(Some(3), |parser| {
        let json = parser.json_bulk(data, &mut reserved);
        json.or_else(|_| parser.protobuf_bulk(Bytes::copy_from_slice(data), &mut reserved))
    });
    events.into_iter().flatten().for_each(sent_goes_round);
}

/// What is read in one pass is the same as what serde makes of it.
pub(super) fn quick(data: &[u8]) {
    let mut scanner = JsonScanner::new(data);
    if let Some(value) = scanner.as_mut().and_then(JsonScanner::value)
        && scanner.is_some_and(|scanner| scanner.is_at_end())
    {
        let slow = Payload::from_json(Some(serde_json::from_slice(data).unwrap()), None).unwrap();
        assert_eq!(Payload::scanned(value), slow);
    }
    let budget = Budget::new(1 << 30, 100, Overload::Memory);
    let mut reserved = [(); 2].map(|()| budget.receiving(&Connection::default()));
    with_parser(Some(3), |parser| {
        parser.is_quick(data);
        parser.is_quick_bulk(data, reserved.each_mut());
    });
    if let Ok(text) = std::str::from_utf8(data) {
        let mut written = Vec::new();
        write_json_string(&mut written, text);
        assert_eq!(written, serde_json::to_vec(text).unwrap());
    }
}

pub(super) fn protobuf(data: &[u8]) {
    if let Ok(event) = with_parser(None, |parser| parser.protobuf_event(Bytes::copy_from_slice(data))) {
        sent_goes_round(event);
    }
}

pub(super) fn ndjson(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        json(line.strip_suffix(b"\r").unwrap_or(line));
    }
}

/// A request: its headers, a line each, and behind an empty line its body.
fn request(data: &[u8]) -> (HeaderMap, Bytes) {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((data, b"".as_slice()), |end| (&data[..end], &data[end + 2..]));
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(100) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()))
        {
            headers.append(name, value);
        }
    }
    (headers, Bytes::copy_from_slice(body))
}

/// A CloudEvent has all that it must have, in whichever mode it comes.
pub(super) fn cloudevents(data: &[u8]) {
    let budget = Budget::new(1 << 30, 100, Overload::Memory);
    let mut reserved = budget.receiving(&Connection::default());
    let events = with_parser(None, |parser| {
        let mut events: Vec<NewEvent> = parser.structured_cloud_event(data).into_iter().collect();
        events.extend(parser.cloud_event_batch(data, &mut reserved).into_iter().flatten());
        let (headers, body) = request(data);
        drop(CloudEventMode::of(&headers).map(|mode| mode.map(|mode| mode.seen_in(&body))));
        if let Ok(head) = CloudEventHead::of_headers(&headers, &Limits::DEFAULT) {
            events.extend(parser.binary_cloud_event(head, body));
        }
        events
    });
    for event in events {
        let headers = &event.event.headers;
        for name in ["specversion", "id", "source", "type"] {
            assert!(headers.get(name).is_some_and(|value| !value.is_empty()), "{name}");
        }
        assert!(event.event.key.is_some() && event.event.idempotency_key.is_some());
        sent_goes_round(event);
    }
}

/// A raw body comes back byte for byte, but for a byte order mark before JSON.
pub(super) fn raw(data: &[u8]) {
    let (headers, body) = request(data);
    let envelope = RawEnvelope::of(&headers, &RawSettings::default(), &Limits::DEFAULT).unwrap_or_default();
    let budget = Budget::new(1 << 30, 100, Overload::Memory);
    let mut reserved = budget.receiving(&Connection::default());
    with_parser(Some(3), |parser| {
        for kind in [MediaKind::Json, MediaKind::Text, MediaKind::Bytes] {
            if let Ok(event) = parser.raw_event(kind, body.clone(), &envelope) {
                assert!(body.ends_with(event.event.payload.bytes()));
                sent_goes_round(event);
            }
        }
        drop(parser.raw_line(&body, &envelope, 7).map(sent_goes_round));
        parser.raw_elements(&body, &envelope, &mut reserved).into_iter().flatten().for_each(sent_goes_round);
    });
}

/// A body that is not coded as it says ends with an error, and one that is comes out the same in whatever
/// pieces it comes.
pub(super) fn coding(data: &[u8]) {
    for coding in Coding::ALL {
        let whole = decoded(coding, data, data.len().max(1));
        assert_eq!(whole, decoded(coding, data, 1));
    }
}

/// What a body decodes to, up to a mebibyte; `None` if it does not.
fn decoded(coding: Coding, data: &[u8], piece: usize) -> Option<Vec<u8>> {
    let (mut decoder, mut pieces, mut text) = (BodyDecoder::new(coding), data.chunks(piece), Vec::new());
    while text.len() < 1 << 20 {
        match decoder.step().ok()? {
            DecodeStep::Piece(more) => text.extend_from_slice(&more),
            DecodeStep::End => return Some(text),
            DecodeStep::Hungry => match pieces.next() {
                Some(piece) => decoder.feed(Bytes::copy_from_slice(piece)),
                None => decoder.end(),
            },
        }
    }
    text.truncate(1 << 20);
    Some(text)
}

pub(super) fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(WaitParam(text.to_owned()).up_to(Duration::from_secs(55)));
    drop(LimitParam(text.to_owned()).up_to(10_000));
    drop(OffsetParam(text.to_owned()).offset("offset"));
    drop(LastParam(text.to_owned()).up_to(10_000));
    drop(OrderParam(text.to_owned()).order());
    drop(AfterParam(text.to_owned()).place());
    drop(TimeParam(text.to_owned()).bound("since"));
    if let Ok(name) = table_name(text) {
        assert_eq!(name.as_str(), text);
    }
}

/// What a query filters by comes out of the cursor that carries it.
pub(super) fn filters(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(read) = FilteredParams::<Vec<(String, String)>>::parse(text) else { return };
    assert!(read.headers.iter().all(|(name, _)| name.starts_with("header.")));
    assert!(read.params.iter().all(|(name, _)| !name.starts_with("header.")));
    let named = read.params.iter().filter(|(name, _)| ["key", "type", "subject"].contains(&name.as_str()));
    let pairs = named.chain(&read.headers).map(|(name, value)| (name.as_str(), value.as_str()));
    let Ok(conditions) = conditions(pairs, &Limits::default()) else { return };
    let query = ReadQuery {
        table: TableName::parse("t").unwrap(),
        partition: None,
        filter: ReadFilter { conditions: conditions.into(), ..ReadFilter::default() },
        order: ReadOrder::Newest,
        from: Positions::new(),
    };
    let again = cursor::decode(&query.table, &cursor::encode(&query, &query.from)).unwrap();
    assert_eq!((again.filter, again.order), (query.filter, query.order));
}

pub(super) fn cursor(data: &[u8]) {
    let table = TableName::parse("t").unwrap();
    // Most bytes fail the checksum: give them the right one, too.
    let checksum = crc32c::crc32c_append(crc32c::crc32c(b"t"), data).to_le_bytes();
    let texts = [String::from_utf8_lossy(data).into_owned(), base64(&[data, &checksum].concat())];
    for query in texts.iter().filter_map(|text| cursor::decode(&table, text).ok()) {
        let again = cursor::decode(&table, &cursor::encode(&query, &query.from)).unwrap();
        assert_eq!(
            (again.partition, again.filter, again.order, again.from),
            (query.partition, query.filter, query.order, query.from)
        );
    }
}

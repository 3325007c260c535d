//! What is done with the bytes: decode them, and where that works, hold the decoder to what it says.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use cold_s3::{
    formats::{
        LocatedSegment, SegmentFormat,
        jsonl::{self, Framing, frame::OpenFrame, index, line},
    },
    manifest,
    state::ColdState,
};
use contracts::{
    clock::SystemClock,
    error::Overload,
    event::{Event, Record},
    json::JsonScanner,
    name::{GroupName, Partition, TableName},
    payload::{Payload, write_json_string},
    segment::{FormatId, SegmentMeta},
    sequence::OffsetRange,
};
use futures_util::FutureExt;
use hot_rocksdb::{
    codec, idempotency, keys,
    sequence::{PartitionState, TimeSlice},
};
use tiering::cursor;
use zombi::{
    auth::{
        jwt::{Verifier, keys::KeySet},
        policy::{Policy, Resource},
        principal::Principal,
        settings::OidcSettings,
        tokens::{self, Tokens},
        verb::Verb,
    },
    http::{
        coding::{Coding, DecodeStep, Decoder as BodyDecoder},
        connection::Connection,
        encode,
        extract::table_name,
        limits::Limits,
        memory::Budget,
        params::{LimitParam, OffsetParam, TimeParam, WaitParam},
        records::RecordParser,
    },
    net::tls::certificate::named_by,
    settings::{Reads, Settings},
};

/// Takes any bytes; what panics is a bug.
pub(crate) type Decoder = fn(&[u8]);

/// The decoders, by the names of their corpora.
pub(crate) const ALL: [(&str, Decoder); 18] = [
    ("json", json),
    ("bulk", bulk),
    ("quick", quick),
    ("protobuf", protobuf),
    ("ndjson", ndjson),
    ("coding", coding),
    ("query", query),
    ("cursor", cursor),
    ("keys", stored_keys),
    ("stored", stored),
    ("segment", segment),
    ("manifest", manifest),
    ("config", config),
    ("policy", policy),
    ("tokens", tokens),
    ("jwks", jwks),
    ("jwt", jwt),
    ("certificate", certificate),
];

fn with_parser<T>(partition: Option<u32>, take: impl FnOnce(RecordParser<'_>) -> T) -> T {
    let limits = Limits::default();
    take(RecordParser { limits: &limits, now_ms: 0, traceparent: None, partition, key: None })
}

/// An event that was taken in comes back as it went in, whichever way it goes.
fn goes_round(partition: u32, event: Event) {
    assert_eq!(codec::decode(&codec::encode(event.clone())).unwrap(), event);
    let record = Record { partition, offset: 7, event };
    let mut written = Vec::new();
    for kind in [line::Kind::Bare, line::Kind::WithPartition] {
        written.clear();
        line::write(&mut written, kind, &record);
        let frame = Bytes::copy_from_slice(&written);
        let text = std::str::from_utf8(&frame).unwrap().strip_suffix('\n').unwrap();
        assert!(!text.contains('\n'), "an event is one line");
        assert_eq!(line::read(kind, partition, &frame, text).unwrap(), record);
    }
    let mut shown = Vec::new();
    encode::record(&mut shown, &record);
    // Numbers may be greater than any type: it only has to be JSON.
    let _: &serde_json::value::RawValue = serde_json::from_slice(&shown).unwrap();
}

fn json(data: &[u8]) {
    if let Ok((partition, event)) = with_parser(None, |parser| parser.json_event(data)) {
        goes_round(partition, event);
    }
}

fn bulk(data: &[u8]) {
    let budget = Budget::new(1 << 30, 100, Overload::Memory);
    let mut reserved = budget.receiving(&Connection::default());
    let events = with_parser(Some(3), |parser| {
        let json = parser.json_bulk(data, &mut reserved);
        json.or_else(|_| parser.protobuf_bulk(Bytes::copy_from_slice(data), &mut reserved))
    });
    events.into_iter().flatten().for_each(|(partition, event)| goes_round(partition, event));
}

/// What is read in one pass is the same as what serde makes of it.
fn quick(data: &[u8]) {
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

fn protobuf(data: &[u8]) {
    if let Ok((partition, event)) =
        with_parser(None, |parser| parser.protobuf_event(Bytes::copy_from_slice(data)))
    {
        goes_round(partition, event);
    }
}

fn ndjson(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        json(line.strip_suffix(b"\r").unwrap_or(line));
    }
}

/// A body that is not coded as it says ends with an error, and one that is comes out the same in whatever
/// pieces it comes.
fn coding(data: &[u8]) {
    for coding in [Coding::Gzip, Coding::Zstd] {
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

fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(WaitParam(text.to_owned()).up_to(Duration::from_secs(55)));
    drop(LimitParam(text.to_owned()).up_to(10_000));
    drop(OffsetParam(text.to_owned()).offset("offset"));
    drop(TimeParam(text.to_owned()).bound("since"));
    if let Ok(name) = table_name(text) {
        assert_eq!(name.as_str(), text);
    }
}

fn cursor(data: &[u8]) {
    let table = TableName::parse("t").unwrap();
    // Most bytes fail the checksum: give them the right one, too.
    let checksum = crc32c::crc32c_append(crc32c::crc32c(b"t"), data).to_le_bytes();
    let texts = [String::from_utf8_lossy(data).into_owned(), base64(&[data, &checksum].concat())];
    for query in texts.iter().filter_map(|text| cursor::decode(&table, text).ok()) {
        let again = cursor::decode(&table, &cursor::encode(&query, &query.from)).unwrap();
        assert_eq!((again.partition, again.filter, again.from), (query.partition, query.filter, query.from));
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(bytes)
}

fn stored_keys(data: &[u8]) {
    if let Some(key) = keys::decode_partition(data) {
        assert_eq!(keys::partition(key), data);
    }
    if let Some((key, offset)) = keys::decode_event(data) {
        assert_eq!(keys::event(key, offset), data);
    }
    if let Some((sequence, key, end)) = keys::decode_flushed_run(data) {
        assert_eq!(keys::flushed_run(sequence, key, end), data);
    }
    if let Some((group, key)) = keys::decode_consumer(data) {
        assert_eq!(keys::consumer(&group, key), data);
    }
    let _ = keys::decode_u64(data);
    if let Some(end) = keys::after_prefix(data) {
        assert!(end.as_slice() > data);
    }
}

fn stored(data: &[u8]) {
    drop(codec::decode(data));
    // The same bytes behind a header that fits.
    drop(codec::decode(&[&[1], crc32c::crc32c(data).to_le_bytes().as_slice(), data].concat()));
    if let Some(first) = idempotency::decode(data) {
        assert_eq!(idempotency::decode(&idempotency::encode(first)), Some(first));
    }
    if let Ok(state) = PartitionState::decode(data) {
        state.watermarks.check(&"a partition");
    }
    drop(TimeSlice::decode(data));
}

/// A segment of so many events, of a partition that is always the same.
fn placed(format: FormatId, events: u64) -> LocatedSegment {
    let meta = SegmentMeta {
        range: OffsetRange::new(0, events),
        epoch: 1,
        format,
        bytes: 100,
        sha256: String::new(),
        appended_ms: 0,
        min_ms: 0,
        max_ms: 0,
        keys: 0,
        index: Box::default(),
    };
    LocatedSegment {
        key: "o".into(),
        partition: Partition::new(TableName::parse("t").unwrap(), 0),
        meta: Arc::new(meta),
    }
}

fn segment(data: &[u8]) {
    let stored = Bytes::copy_from_slice(data);
    let lines = data.iter().filter(|byte| **byte == b'\n').count() as u64;
    for format in jsonl::ALL {
        for events in [lines, 1, 2] {
            let placed = placed(format.id(), events);
            let opened = OpenFrame::open(format, &placed, placed.meta.range, &stored);
            for record in opened.iter().flat_map(|frame| frame.records(0)).flatten() {
                drop(record);
            }
            drop(index::decode(&placed, data, Framing::Zstd));
            drop(index::decode(&placed, data, Framing::Plain));
        }
    }
    let frame = Bytes::from(String::from_utf8_lossy(data).into_owned());
    for text in std::str::from_utf8(&frame).unwrap().lines() {
        // What stands behind a frame's checksum was written by a Zombi: a payload is not looked at again, and
        // here it may be anything.
        let read =
            [line::Kind::Bare, line::Kind::WithPartition].map(|kind| line::read(kind, 0, &frame, text).ok());
        let event = read.into_iter().flatten().next().map(|record| record.event);
        if let Some(event) =
            event.filter(|event| Payload::new(event.payload.kind(), event.payload.bytes().clone()).is_ok())
        {
            goes_round(0, event);
        }
    }
}

fn manifest(data: &[u8]) {
    drop(manifest::decode(0, data));
    // The same without the checksum, which most bytes fail.
    let Ok(mut manifest) = serde_json::from_slice::<manifest::Manifest>(data) else { return };
    let bytes = manifest::encode(&manifest);
    if let Ok(again) = manifest::decode(manifest.number, &bytes) {
        assert_eq!(manifest::encode(&again), bytes);
    }
    let mut state = ColdState::default();
    let applied = match manifest.state.is_some() {
        true => ColdState::begin(&mut manifest).map(|begun| state = begun),
        false => state.apply(&manifest),
    };
    if applied.is_ok() {
        drop(state.check(&manifest.changes));
    }
}

fn config(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(data).unwrap();
    if let Ok(config) = Settings::load(Some(file.path().to_owned()), BTreeMap::new(), Vec::new(), Reads::All)
    {
        assert!(config.to_yaml().is_ok());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for setting in Settings::all() {
        drop(Settings::load(None, [(setting.env.clone(), text.to_owned())], Vec::new(), Reads::All));
    }
}

/// A policy decides about anybody, and lets nobody in without a credential unless it says so.
fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(principal) = text.parse::<Principal>() {
        assert_eq!(principal.to_string(), text);
    }
    let Ok(policy) = Policy::parse(text) else { return };
    let (table, group) = (TableName::parse("orders").unwrap(), GroupName::parse("billing").unwrap());
    for resource in [Resource::Table(&table), Resource::Group(&group), Resource::Server] {
        for verb in [Verb::Append, Verb::Read, Verb::Commit, Verb::Rewind, Verb::Manage, Verb::Operate] {
            let decision = policy.decide(&Principal::Anonymous, verb, resource);
            assert!(!decision.is_allowed() || text.contains("anonymous") || text.contains('\\'));
            let named = Principal::ServiceAccount { namespace: "shop".into(), name: "checkout".into() };
            policy.decide(&named, verb, resource);
            policy.quota(&named);
        }
    }
}

/// No error of a file of tokens tells one, and nobody has a token that the file does not have.
fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_token = tokens::is_token(text);
    assert!(Tokens::default().find(text, 0).is_err());
    match Tokens::parse(text) {
        Ok(tokens) => assert!(tokens.find(text, 0).is_err() || is_token),
        Err(error) => {
            let error = error.to_string();
            let shows_one = |rest: &str| rest.starts_with(|letter: char| letter.is_ascii_alphanumeric());
            assert!(!error.split("zmb_").skip(1).any(shows_one), "{error}");
        }
    }
}

/// A set that is taken has a key.
fn jwks(data: &[u8]) {
    if let Ok(set) = KeySet::parse(data) {
        assert!(set.count() > 0);
    }
}

/// A verifier that knows one key, whose other half nobody has.
fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(include_bytes!("corpus/jwks/p256")).unwrap();
        let settings = OidcSettings {
            issuer: Some("https://issuer.example".to_owned()),
            jwks_file: Some(file.path().to_owned()),
            ..OidcSettings::default()
        };
        let nowhere = file.path().with_extension("data");
        Verifier::open(&settings, &nowhere, SystemClock::shared()).unwrap().unwrap()
    })
}

/// Nobody can sign, whatever a token says of itself.
fn jwt(data: &[u8]) {
    let texts = [String::from_utf8_lossy(data).into_owned(), format!("{}.e30.AAAA", base64(data))];
    for token in texts {
        let verified = verifier().verify(&token).now_or_never();
        assert!(verified.expect("the keys of a file are not waited for").is_err());
    }
}

/// Whom a certificate names can stand in a policy and in a line of the log.
fn certificate(data: &[u8]) {
    if let Some(shown) = named_by(data) {
        assert!(!shown.uri.is_empty() && shown.uri.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

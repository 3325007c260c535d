//! The events that are sent: about 300 bytes of JSON each, the same at every run.

use std::ops::Range;

/// A payload: a JSON object of about 230 bytes.
pub(crate) fn payload(number: usize) -> String {
    format!(
        "{{\"order\":\"o-{number:08}\",\"customer\":\"c-{:06}\",\"status\":\"{}\",\
         \"total_cents\":{},\"currency\":\"EUR\",\
         \"items\":[{{\"sku\":\"A-{:05}\",\"count\":{}}},{{\"sku\":\"B-{:05}\",\"count\":{}}}],\
         \"warehouse\":\"{}\",\"note\":\"leave it at the door {}\"}}",
        number * 7919 % 1_000_003,
        ["created", "paid", "packed", "shipped"][number % 4],
        number * 31 % 100_000,
        number * 17 % 99_991,
        number % 5 + 1,
        number * 13 % 99_989,
        number % 3 + 1,
        ["north", "south", "east", "west"][number / 4 % 4],
        number * 104_729 % 9973,
    )
}

/// When an event happened: a second after the one before.
pub(crate) fn timestamp_ms(number: usize) -> i64 {
    1_700_000_000_000 + number as i64 * 1000
}

/// A record as JSON, one line without its end.
pub(crate) fn json_record(number: usize, partitions: usize, key: Option<&str>) -> String {
    let key = key.map(|key| format!(",\"idempotency_key\":\"{key}\"")).unwrap_or_default();
    format!(
        "{{\"payload\":{},\"partition\":{},\"timestamp_ms\":{}{key}}}",
        payload(number),
        number % partitions,
        timestamp_ms(number)
    )
}

/// Records as NDJSON, in 4 partitions.
pub(crate) fn lines(numbers: Range<usize>) -> String {
    lines_in(4, numbers)
}

/// Records as NDJSON, in so many partitions.
pub(crate) fn lines_in(partitions: usize, numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|number| json_record(number, partitions, None) + "\n").collect()
}

/// The same, of about 1 kB each.
pub(crate) fn large_lines_in(partitions: usize, numbers: impl Iterator<Item = usize>) -> String {
    let line = |number: usize| {
        let parts = [0, 1, 2, 3].map(|part| payload(4 * number + part)).join(",");
        format!(
            "{{\"payload\":[{parts}],\"partition\":{},\"timestamp_ms\":{}}}\n",
            number % partitions,
            timestamp_ms(number)
        )
    };
    numbers.map(line).collect()
}

/// A record as protobuf: the message `zombi.v1.Event`.
pub(crate) fn protobuf_record(number: usize, partitions: usize) -> zombi::proto::v1::Event {
    zombi::proto::v1::Event {
        payload: payload(number).into_bytes().into(),
        partition: Some((number % partitions) as u32),
        timestamp_ms: Some(timestamp_ms(number)),
        payload_kind: zombi::proto::v1::PayloadKind::Text.into(),
        ..Default::default()
    }
}

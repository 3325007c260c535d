//! Server-sent events: ids that a client resumes with, with each event where they are short, with each batch
//! where they are not.

use std::collections::BTreeSet;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::EVENT_STREAM;
use testing::{Sent, TestServer};

/// What is written at once at most, and a record more.
const BATCH_BYTES: usize = (64 << 10) + 1024;

/// An open stream of events.
struct OpenTail {
    response: Response,
    text: String,
    /// The last id that came, as a browser remembers it.
    last_id: String,
}

/// An event: its record, and whether it had an id.
struct StreamedEvent {
    record: Value,
    has_id: bool,
}

impl OpenTail {
    async fn open(z: &TestServer, last_id: &str) -> Self {
        let request = z.request(Method::GET, "/tables/t").header("accept", EVENT_STREAM);
        let request = if last_id.is_empty() { request } else { request.header("last-event-id", last_id) };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Self { response, text: String::new(), last_id: last_id.to_owned() }
    }

    /// The next event with a record; comments and marks are passed over, their ids are not.
    async fn next(&mut self) -> StreamedEvent {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(|value| value.trim_start().to_owned())
                };
                let (id, data) = (field("id:"), field("data:").filter(|_| field("event:").is_none()));
                let has_id = id.is_some();
                if let Some(id) = id {
                    self.last_id = id;
                }
                if let Some(data) = data {
                    return StreamedEvent { record: serde_json::from_str(&data).unwrap(), has_id };
                }
            }
            let piece = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

/// Where a record is.
fn place(record: &Value) -> (u64, u64) {
    (record["partition"].as_u64().unwrap(), record["offset"].as_u64().unwrap())
}

#[tokio::test]
async fn with_up_to_64_partitions_each_event_has_an_id_and_resumes_exactly_behind_it() {
    let z = TestServer::start().await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 64, 320).await;
    let mut tail = OpenTail::open(&z, "").await;
    let (mut records, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..320 {
        let event = tail.next().await;
        assert!(event.has_id, "{}", event.record);
        records.push(event.record);
        ids.push(tail.last_id.clone());
    }
    assert_eq!(Sent::from_records(&records), sent);
    for at in [0, 1, 63, 64, 200, 318] {
        let mut resumed = OpenTail::open(&z, &ids[at]).await;
        for record in &records[at + 1..] {
            assert_eq!(resumed.next().await.record, *record, "behind {at}");
        }
    }
    // Live as well.
    z.post("/tables/t", &json!({"payload": "live", "partition": 5})).await;
    let event = tail.next().await;
    assert!(event.has_id && event.record["payload"] == "live", "{}", event.record);
    let mut resumed = OpenTail::open(&z, &ids[319]).await;
    assert_eq!(resumed.next().await.record["payload"], "live");
}

#[tokio::test]
async fn with_more_partitions_the_last_event_of_each_batch_has_one_and_nothing_is_missed() {
    const EVENTS: usize = 6000;
    let z = TestServer::start().await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 65, EVENTS).await;
    let mut tail = OpenTail::open(&z, "").await;
    let (mut records, mut known, mut ids, mut since) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..EVENTS {
        let event = tail.next().await;
        since += event.record.to_string().len();
        assert!(since <= BATCH_BYTES, "{since} bytes without an id");
        if event.has_id {
            (ids, since) = (ids + 1, 0);
        }
        records.push(event.record);
        known.push(tail.last_id.clone());
    }
    assert_eq!(Sent::from_records(&records), sent);
    assert_eq!(since, 0, "nothing came behind the last event, and it has an id");
    assert!(ids < EVENTS / 2, "{ids} ids with {EVENTS} events");

    let all: BTreeSet<_> = records.iter().map(place).collect();
    for seen in [1, 700, 3001, EVENTS - 1] {
        // Cut off behind so many, with the last id that came before.
        let mut places: BTreeSet<_> = records[..seen].iter().map(place).collect();
        let mut resumed = OpenTail::open(&z, &known[seen - 1]).await;
        let mut again = Vec::new();
        while places.len() < EVENTS {
            let record = resumed.next().await.record;
            places.insert(place(&record));
            again.push(record);
        }
        assert_eq!(places, all);
        // In the same order, and no event of before the id.
        assert_eq!(records[EVENTS - again.len()..], again, "cut off behind {seen}");
    }

    // Live, an event is a batch by itself.
    z.post("/tables/t", &json!({"payload": "live"})).await;
    let event = tail.next().await;
    assert!(event.has_id && event.record["payload"] == "live", "{}", event.record);
    let (last, mut resumed) = (known.last().unwrap(), OpenTail::open(&z, known.last().unwrap()).await);
    assert_eq!(resumed.next().await.record["payload"], "live", "behind {last}");
}

#[tokio::test]
async fn batches_go_over_the_partitions_however_few_events_each_has() {
    const PARTITIONS: usize = 1000;
    let z = TestServer::start().await;
    let mut tail = {
        let records: Vec<_> = (0..PARTITIONS)
            .map(|number| json!({"payload": number, "partition": number, "timestamp_ms": number}))
            .collect();
        assert_eq!(z.post("/tables/t/bulk", &json!({"records": records})).await.0, StatusCode::CREATED);
        OpenTail::open(&z, "").await
    };
    let (mut ids, mut last) = (0, false);
    for number in 0..PARTITIONS {
        let event = tail.next().await;
        assert_eq!(event.record["payload"], number);
        ids += usize::from(event.has_id);
        last = event.has_id;
    }
    assert!(last, "nothing is behind the last event, and it has an id");
    // By bytes there are two; a slow machine ends some by time.
    assert!(ids < PARTITIONS / 5, "{ids} ids with {PARTITIONS} events of as many partitions");
}

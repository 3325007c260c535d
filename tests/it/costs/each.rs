//! What single things cost: requests to S3, bytes, syncs, allocations.

use std::sync::Arc;

use std::{ops::Range, sync::atomic::Ordering::SeqCst};

use allocation_counter::measure;
use cold_s3::formats::{
    self, LocatedSegment, SegmentObjects,
    jsonl::{self, Framing},
};
use contracts::{
    event::Record,
    name::{Partition, TableName},
    segment::SegmentId,
};
use hot_rocksdb::codec;
use reqwest::StatusCode;
use serde_json::{Value, json};
use zombi::http::{encode, limits::Limits, records::RecordParser};

use super::counted::written;
use testing::TestServer;

/// About 300 bytes of JSON, as a service would send it.
fn record(number: usize) -> Value {
    json!({
        "payload": {
            "carrier": "UA", "flight": number, "tailnum": format!("N{}", 10_000 + number * 7919 % 90_000),
            "origin": "EWR", "dest": "IAH",
            "sched_dep_time": 515, "dep_time": 517, "dep_delay": 2,
            "sched_arr_time": 819, "arr_time": 830, "arr_delay": 11, "distance": 1400,
        },
        "timestamp_ms": 1_357_035_300_000_u64 + number as u64,
        "partition": number % 4,
        "idempotency_key": format!("2013-01-01/UA{number}/EWR/0515"),
    })
}

async fn bulks(z: &TestServer, bulks: Range<usize>) -> usize {
    let mut sent = 0;
    for bulk in bulks {
        let records: Vec<_> = (bulk * 1000..(bulk + 1) * 1000).map(record).collect();
        let body = json!({"records": records}).to_string();
        sent += body.len();
        assert_eq!(z.post_bytes("/tables/t/bulk", "application/json", body).await.0, StatusCode::CREATED);
    }
    sent
}

#[tokio::test]
async fn a_thousand_events_sent_together_are_one_batch_written_once() {
    let z = TestServer::start().await;
    bulks(&z, 0..1).await;
    let (before, batches) = (written(&z), z.metric("zombi_append_batch_requests_count").await);
    let sent = bulks(&z, 1..11).await;
    assert_eq!(
        z.metric("zombi_append_batch_requests_count").await - batches,
        10.0,
        "a batch, and so a sync, for each bulk"
    );
    let written = written(&z) - before;
    assert!(written < sent * 3 / 2, "{written} bytes were written for {sent} bytes of events");
}

#[tokio::test]
async fn a_flush_costs_a_put_for_each_partition_and_one_for_all() {
    let z = TestServer::start_tiered(&[("compaction.interval_secs", "3600")]).await;
    let sent = bulks(&z, 0..5).await;
    let store = z.store();
    let before = (store.puts.load(SeqCst), store.lists.load(SeqCst));
    z.flush_and_evict().await;
    assert_eq!((store.puts.load(SeqCst) - before.0, store.lists.load(SeqCst) - before.1), (4 + 1, 0));
    let stored: usize = z.objects("segments/").iter().map(|(_, body)| body.len()).sum();
    assert!(stored * 8 < sent, "{sent} bytes of events take {stored} in S3");
    let (_, manifest) = z.objects("manifests/").pop().unwrap();
    assert!(manifest.len() < 4096, "{} bytes of manifest for four segments", manifest.len());
}

#[test]
fn an_event_costs_few_allocations_on_each_path() {
    let limits = Limits::default();
    let parser = RecordParser {
        limits: &limits,
        now_ms: 0,
        traceparent: None,
        partition: None,
        idempotency_key: None,
    };
    let bodies: Vec<Vec<u8>> = (0..1000).map(|number| record(number).to_string().into_bytes()).collect();
    let mut stored = Vec::with_capacity(1000);
    let taken = measure(|| {
        stored.extend(bodies.iter().map(|body| codec::encode(parser.json_event(body).unwrap().event)))
    });
    assert!(taken.count_total <= 4 * 1000, "taking 1,000 events in: {taken:?}");

    let mut records = Vec::with_capacity(1000);
    let read = measure(|| {
        let record = |(offset, bytes): (u64, &Vec<u8>)| Record {
            partition: 0,
            offset,
            event: codec::decode(bytes).unwrap(),
        };
        records.extend((0..).zip(&stored).map(record));
    });
    assert!(read.count_total <= 2 * 1000, "reading 1,000 events from hot: {read:?}");

    let partition = Partition::new(TableName::parse("t").unwrap(), 0);
    let format = formats::find(jsonl::newest(Framing::Zstd)).unwrap();
    let mut encoder = format.builder(SegmentId { partition: partition.clone(), start: 0, epoch: 1 });
    let encoded = measure(|| records.iter().for_each(|record| encoder.push(record)));
    assert!(encoded.count_total <= 100, "encoding a segment of 1,000 events: {encoded:?}");
    let segment = encoder.finish().unwrap();
    let mut cold = Vec::with_capacity(1000);
    let placed = LocatedSegment { key: "o".into(), partition, meta: Arc::new(segment.meta) };
    let stored = SegmentObjects { body: segment.body, beside: None };
    let decoded = measure(|| format.decode(&placed, &stored, &mut |record| cold.push(record)).unwrap());
    assert!(decoded.count_total <= 1000 + 100, "reading 1,000 events from cold: {decoded:?}");
    assert_eq!(cold, records);

    let mut out = Vec::with_capacity(1 << 20);
    let shown = measure(|| cold.iter().for_each(|record| encode::record(&mut out, record)));
    assert_eq!(shown.count_total, 0, "writing 1,000 events as JSON: {shown:?}");
}

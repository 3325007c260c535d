//! Cursors fit where they have to: into a URL, a header, a line of a log, even those of a thousand
//! partitions.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde_json::{Value, json};

use testing::{Sent, TestServer};

const PARTITIONS: u64 = 1000;
/// What a cursor may have where positions are near each other, and where they are not.
const NEAR: usize = 4096;
const FAR: usize = 9216;

/// Follows cursors to the end; the records, and the length of each cursor.
async fn follow(z: &TestServer, query: &str, limit: usize) -> (Vec<Value>, Vec<usize>) {
    let (mut records, mut lengths) = (Vec::new(), Vec::new());
    let mut path = format!("/tables/t?limit={limit}{query}");
    loop {
        let (status, mut page) = z.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page:.500}");
        let Value::Array(found) = page["records"].take() else { panic!("no records in {page:.500}") };
        records.extend(found);
        let cursor = page["next_cursor"].as_str().unwrap();
        lengths.push(cursor.len());
        if page["has_more"] == false {
            return (records, lengths);
        }
        path = format!("/tables/t?limit={limit}&cursor={cursor}");
    }
}

fn offsets(records: &[Value]) -> BTreeMap<u64, Vec<u64>> {
    let mut offsets = BTreeMap::<_, Vec<_>>::new();
    for record in records {
        offsets
            .entry(record["partition"].as_u64().unwrap())
            .or_default()
            .push(record["offset"].as_u64().unwrap());
    }
    offsets
}

#[tokio::test]
async fn cursors_of_a_thousand_partitions_are_short_also_after_a_lost_volume() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    // Not as many in each.
    sent.append(&z, "t", PARTITIONS, 2500).await;
    // The longest filter that there may be. Nothing has what it asks for; it gets on all the same.
    let long = "x".repeat(224 - "none".len());
    let (status, page) =
        z.get(&format!("/tables/t?limit=1&header.none={long}&since=0&until=253402300799999")).await;
    assert_eq!(status, StatusCode::OK, "{page:.500}");
    assert!(page["next_cursor"].as_str().unwrap().len() <= NEAR, "{page:.500}");
    let (status, problem) = z.get(&format!("/tables/t?limit=1&header.none={long}x")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("bad_query")), "{problem}");
    for query in ["", "&since=0&until=253402300799999", "&since=2020-01-01T00:00:00.000000001Z"] {
        let (records, lengths) = follow(&z, query, 97).await;
        assert_eq!(Sent::from_records(&records), sent, "{query:?}");
        assert!(lengths.iter().all(|length| *length <= NEAR), "{query:?}: {lengths:?}");
    }
    z.flush_and_evict().await;
    let (_, before) = z.get("/tables/t?limit=1300").await;
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;

    // What is written now is far behind what was written before.
    let records: Vec<_> =
        (0..PARTITIONS).map(|partition| json!({"payload": "after", "partition": partition})).collect();
    let (status, body) = z.post("/tables/t/bulk", &json!({"records": records})).await;
    assert_eq!(status, StatusCode::CREATED, "{body:.500}");
    assert!(body["offsets"][0].as_u64().unwrap() >= 1 << 28, "{body:.500}");
    let (records, lengths) = follow(&z, "", 350).await;
    assert_eq!(records.len(), 3500);
    assert!(lengths.iter().all(|length| *length <= FAR), "{lengths:?}");
    let (_, page) = z.get(&format!("/tables/t?limit=1&header.none={long}&since=0")).await;
    assert!(page["next_cursor"].as_str().unwrap().len() <= FAR, "{page:.500}");
    assert!(*lengths.last().unwrap() <= NEAR, "all positions are near each other again: {lengths:?}");
    for (partition, offsets) in offsets(&records) {
        let old = sent.0[&partition].len();
        assert_eq!(offsets[..old], (0..old as u64).collect::<Vec<_>>(), "partition {partition}");
        assert_eq!(offsets.len(), old + 1, "partition {partition}");
    }
    // A cursor from before the loss goes on.
    let cursor = before["next_cursor"].as_str().unwrap();
    let rest = follow(&z, &format!("&cursor={cursor}"), 1000).await.0;
    assert_eq!(rest.len(), 3500 - 1300);
    assert_eq!(rest, records[1300..]);
}

#[tokio::test]
async fn a_cursor_that_was_changed_anywhere_is_refused() {
    let z = TestServer::start().await;
    Sent::default().append(&z, "t", 100, 500).await;
    let cursor = z.get("/tables/t?limit=250").await.1["next_cursor"].as_str().unwrap().to_owned();
    for at in 0..cursor.len() {
        let mut changed = cursor.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let (status, problem) = z.get(&format!("/tables/t?cursor={changed}")).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &json!("bad_cursor")),
            "changed at {at} of {}",
            cursor.len()
        );
    }
    for changed in
        [&cursor[1..], &cursor[..cursor.len() - 1], &format!("{cursor}A"), &format!("{cursor}{cursor}")]
    {
        let (status, problem) = z.get(&format!("/tables/t?cursor={changed}")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("bad_cursor")), "{changed}");
    }
}

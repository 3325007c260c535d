//! Newest first, and the last ones.

use std::sync::atomic::Ordering::SeqCst;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{BEGAN_MS, event, numbers, page, write};
use testing::TestServer;

/// Follows the cursors of a read that goes back, to where it ends.
async fn back(z: &TestServer, query: &str, limit: usize) -> Vec<Value> {
    let (mut records, mut query) = (Vec::new(), format!("order=newest&limit={limit}&{query}"));
    loop {
        let page = page(z, &query).await;
        records.extend(page["records"].as_array().unwrap().iter().cloned());
        assert_eq!(page["up_to_date"], false, "it goes away from the end");
        if page["has_more"] == false {
            assert_eq!(page["next_cursor"], Value::Null, "{page}");
            return records;
        }
        query = format!("limit={limit}&cursor={}", page["next_cursor"].as_str().unwrap());
    }
}

#[tokio::test]
async fn newest_first_is_the_reverse_in_any_pages_hot_and_cold() {
    const EVENTS: usize = 300;
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..200, 3).await;
    z.flush_and_evict().await;
    write(&z, 200..EVENTS, 3).await;
    let since = BEGAN_MS + 100;
    for _ in 0..2 {
        for query in [
            String::new(),
            "partition=1".to_owned(),
            format!("since={since}&until={}", since + 50),
            "type=order.*".to_owned(),
            "header.Region=eu&partition=2".to_owned(),
        ] {
            let mut forward = z.read_all("t", &format!("limit=1000&{query}")).await;
            forward.reverse();
            for limit in [1, 7, 1000] {
                assert_eq!(back(&z, &query, limit).await, forward, "{query} by {limit}");
            }
        }
        z.flush_and_evict().await;
    }
    let request = z.request(Method::GET, "/tables/t?order=newest&format=ndjson");
    let text = request.send().await.unwrap().text().await.unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(numbers(&records), (0..EVENTS as u64).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_read_that_goes_back_is_not_moved_by_what_is_written_flushed_and_evicted() {
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..120, 2).await;
    let first = page(&z, "order=newest&limit=20").await;
    let mut found = numbers(first["records"].as_array().unwrap());
    let mut cursor = first["next_cursor"].as_str().unwrap().to_owned();
    for round in 0.. {
        // New events, and a partition that was not there when the read began.
        write(&z, 120 + round * 10..130 + round * 10, 5).await;
        if round % 2 == 0 {
            z.flush_and_evict().await;
        }
        let page = page(&z, &format!("limit=20&cursor={cursor}")).await;
        found.extend(numbers(page["records"].as_array().unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(found, (0..120).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn it_goes_back_from_an_offset_and_ends_at_the_earliest() {
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..30, 1).await;
    z.flush_and_evict().await;
    write(&z, 30..40, 1).await;
    for (offset, first) in [(40, Some(39)), (39, Some(39)), (30, Some(30)), (29, Some(29)), (0, Some(0))] {
        let found = numbers(&back(&z, &format!("partition=0&offset={offset}"), 6).await);
        assert_eq!(found.first().copied(), first, "from {offset}");
        assert_eq!(found.len() as u64, first.unwrap() + 1, "from {offset}");
    }
    assert!(back(&z, "partition=9", 5).await.is_empty(), "nobody has written there");
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    write(&z, 40..42, 1).await;
    assert_eq!(numbers(&back(&z, "", 10).await), [41, 40]);
    let (status, problem) = z.get("/tables/t?order=newest&partition=0&offset=5").await;
    assert_eq!((status, &problem["earliest"]), (StatusCode::GONE, &json!(40)), "{problem}");
}

#[tokio::test]
async fn what_goes_back_does_not_follow() {
    let z = TestServer::start().await;
    write(&z, 0..10, 1).await;
    let cursor = page(&z, "order=newest&limit=3").await["next_cursor"].as_str().unwrap().to_owned();
    for (query, accept) in [
        ("order=newest".to_owned(), "text/event-stream"),
        (format!("cursor={cursor}"), "text/event-stream"),
        (format!("cursor={cursor}&wait=1s"), "application/json"),
    ] {
        let request = z.request(Method::GET, &format!("/tables/t?{query}")).header("accept", accept);
        let (status, problem) = testing::server::answer(request.send().await.unwrap()).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("bad_query")), "{query}");
    }
}

#[tokio::test]
async fn the_last_ones_come_in_the_usual_order_and_the_cursor_goes_on() {
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..200, 3).await;
    for _ in 0..2 {
        for last in [1, 7, 150, 200, 500] {
            let page = page(&z, &format!("last={last}")).await;
            let expected: Vec<u64> = (200_u64.saturating_sub(last)..200).collect();
            assert_eq!(numbers(page["records"].as_array().unwrap()), expected, "last={last}");
            assert_eq!((&page["has_more"], &page["up_to_date"]), (&json!(false), &json!(true)));
        }
        // A page may be shorter, and its cursor goes on to the end.
        assert_eq!(numbers(&z.read_all("t", "last=50&limit=8").await), (150..200).collect::<Vec<_>>());
        let paid: Vec<u64> = (0..200).filter(|number| number % 4 == 1).collect();
        assert_eq!(numbers(&z.read_all("t", "last=12&type=order.paid").await), paid[paid.len() - 12..]);
        let one: Vec<u64> = (0..200).filter(|number| number % 3 == 1).collect();
        assert_eq!(numbers(&z.read_all("t", "last=5&partition=1").await), one[one.len() - 5..]);
        assert!(z.read_all("t", "last=5&type=missing").await.is_empty());
        z.flush_and_evict().await;
    }
    // None of them is the end.
    let end = page(&z, "last=0").await;
    assert_eq!((&end["count"], &end["up_to_date"]), (&json!(0), &json!(true)), "{end}");
    z.post("/tables/t", &event(200, 3)).await;
    let cursor = end["next_cursor"].as_str().unwrap();
    assert_eq!(numbers(page(&z, &format!("cursor={cursor}")).await["records"].as_array().unwrap()), [200]);
}

#[tokio::test]
async fn the_end_of_a_large_segment_costs_its_index_and_its_last_frame() {
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..20_000, 1).await;
    z.flush_and_evict().await;
    let gets = || z.store().gets.load(SeqCst);
    for query in ["order=newest&limit=10", "last=10"] {
        let before = gets();
        let mut found = numbers(page(&z, query).await["records"].as_array().unwrap());
        found.sort_unstable();
        assert_eq!(found, (19_990..20_000).collect::<Vec<_>>(), "{query}");
        assert!(gets() - before <= 2, "{query}: {} GETs", gets() - before);
    }
}

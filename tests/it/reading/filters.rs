//! Filters by header, and what their cursors and pages say.

use std::sync::atomic::Ordering::SeqCst;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{BEGAN_MS, KINDS, numbers, page, write};
use testing::TestServer;

/// What a filter wants of the events of these numbers.
fn wanted(upto: usize, wants: impl Fn(usize) -> bool) -> Vec<u64> {
    (0..upto).filter(|number| wants(*number)).map(|number| number as u64).collect()
}

#[tokio::test]
async fn filters_are_what_an_event_must_meet_all_of_hot_and_cold() {
    const EVENTS: usize = 600;
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..EVENTS, 3).await;
    let is_kind = |prefix: &'static str| move |number: usize| KINDS[number % 4].starts_with(prefix);
    for _ in 0..2 {
        for limit in [7, 1000] {
            let read = async |query: &str| numbers(&z.read_all("t", &format!("{query}&limit={limit}")).await);
            assert_eq!(read("type=order.paid").await, wanted(EVENTS, is_kind("order.paid")));
            assert_eq!(read("header.type=order.paid").await, wanted(EVENTS, is_kind("order.paid")));
            assert_eq!(read("type=order.*").await, wanted(EVENTS, is_kind("order.")));
            assert_eq!(read("type=*").await, wanted(EVENTS, |_| true));
            assert_eq!(read("type=order.*&header.type=*").await, wanted(EVENTS, is_kind("order.")));
            assert_eq!(
                read("type=order.*&header.type=order.paid").await,
                wanted(EVENTS, is_kind("order.paid"))
            );
            assert_eq!(read("type=order.made&header.type=order.paid").await, wanted(EVENTS, |_| false));
            assert_eq!(read("type=order").await, wanted(EVENTS, |_| false));
            assert_eq!(read("header.Region=eu").await, wanted(EVENTS, |number| number.is_multiple_of(2)));
            assert_eq!(read("header.region=eu").await, wanted(EVENTS, |_| false), "names are exact");
            assert_eq!(
                read("subject=customer-3&header.Region=us&type=order.*").await,
                wanted(EVENTS, |number| number % 7 == 3 && number % 2 == 1 && is_kind("order.")(number))
            );
            let since = BEGAN_MS + 200;
            assert_eq!(
                read(&format!("subject=customer-3&since={since}&until={}", since + 100)).await,
                wanted(EVENTS, |number| number % 7 == 3 && (200..300).contains(&number))
            );
            assert_eq!(
                read("subject=customer-3&partition=2&offset=50").await,
                wanted(EVENTS, |number| number % 7 == 3 && number % 3 == 2 && number / 3 >= 50)
            );
        }
        z.flush_and_evict().await;
    }
    let request = z.request(Method::GET, "/tables/t?subject=customer-5&format=ndjson");
    let text = request.send().await.unwrap().text().await.unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(numbers(&records), wanted(EVENTS, |number| number % 7 == 5));
}

#[tokio::test]
async fn a_key_is_read_from_its_partition_and_from_others_where_senders_put_it_there() {
    let z = TestServer::start_tiered(&[]).await;
    assert_eq!(z.put("/tables/t/config", &json!({"partitions": 4})).await.0, StatusCode::CREATED);
    let record = |number: usize| json!({"payload": number, "key": format!("customer-{}", number % 5)});
    let records: Vec<_> = (0..100).map(record).collect();
    let (status, body) = z.post("/tables/t/bulk", &json!({"records": records})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    z.flush_and_evict().await;
    let gets = || z.store().gets.load(SeqCst);
    let before = gets();
    assert_eq!(numbers(&z.read_all("t", "key=customer-3").await), wanted(100, |number| number % 5 == 3));
    assert!(gets() - before <= 1, "{} GETs for one partition of one frame", gets() - before);
    assert_eq!(
        z.read_all("t", "key=customer-*&limit=1000").await.len(),
        100,
        "a prefix may be in any partition"
    );
    assert!(z.read_all("t", "key=customer-9").await.is_empty());
    assert!(z.read_all("t", "key=customer").await.is_empty());

    // Its sender wants it elsewhere.
    let home = z.read_all("t", "key=customer-3").await[0]["partition"].as_u64().unwrap();
    let elsewhere = json!({"payload": 103, "key": "customer-3", "partition": (home + 1) % 4});
    assert_eq!(z.post("/tables/t", &elsewhere).await.0, StatusCode::CREATED);
    let found = numbers(&z.read_all("t", "key=customer-3").await);
    assert_eq!((found.len(), found.contains(&103)), (21, true), "{found:?}");
    // And when the table grows.
    assert_eq!(z.put("/tables/t/config", &json!({"partitions": 16})).await.0, StatusCode::OK);
    assert_eq!(z.read_all("t", "key=customer-3").await.len(), 21);
}

#[tokio::test]
async fn a_page_looks_at_so_much_and_then_says_that_there_is_more() {
    const EVENTS: usize = 60_000;
    let z = TestServer::start_tiered(&[("limits.page_scan_events", "5000")]).await;
    write(&z, 0..EVENTS, 2).await;
    for _ in 0..2 {
        // No filter of a frame knows what a type begins with, so events are looked at, cold ones too.
        let (mut query, mut pages, mut cursors) = ("type=missing*".to_owned(), 0, Vec::new());
        loop {
            let page = page(&z, &query).await;
            pages += 1;
            assert_eq!(page["count"], 0, "{page}");
            let cursor = page["next_cursor"].as_str().unwrap().to_owned();
            assert!(!cursors.contains(&cursor), "the place of a read that finds nothing moves on");
            assert_eq!(page["up_to_date"], json!(page["has_more"] == false));
            if page["has_more"] == false {
                break;
            }
            query = format!("cursor={cursor}");
            cursors.push(cursor);
        }
        assert!((2..=20).contains(&pages), "{pages} pages to look at {EVENTS} events");
        // It stands at the end, and does not look again at what it has looked at.
        let end = cursors.last().unwrap().clone();
        let before = z.metric("zombi_hot_scanned_events_total").await;
        assert_eq!(page(&z, &query).await["has_more"], false);
        let scanned = z.metric("zombi_hot_scanned_events_total").await - before;
        assert!(scanned <= 10_000.0, "{scanned} events for what was left behind {end}");
        z.flush_and_evict().await;
    }
    // What bounds of time alone decide is exact all the same.
    let until = BEGAN_MS + 10;
    let page = page(&z, &format!("until={until}&limit=10")).await;
    assert_eq!((&page["count"], &page["has_more"]), (&json!(10), &json!(false)), "{page}");
}

#[tokio::test]
async fn cursors_carry_filters_beside_what_they_were() {
    let z = TestServer::start().await;
    write(&z, 0..500, 250).await;
    // To the end, where the places are the same.
    let plain = page(&z, "limit=1000").await["next_cursor"].as_str().unwrap().len();
    let filtered = page(&z, "limit=1000&type=order.*&subject=*").await;
    let filtered = filtered["next_cursor"].as_str().unwrap().len();
    assert!(filtered <= plain + 40, "{plain} and {filtered} bytes");
}

#[tokio::test]
async fn filters_have_bounds() {
    let z = TestServer::start_with(&[("limits.filters", "2"), ("limits.filter_bytes", "100")]).await;
    write(&z, 0..1, 1).await;
    assert_eq!(z.get("/tables/t?type=*&subject=*").await.0, StatusCode::OK);
    let long = format!("/tables/t?type={}", "x".repeat(97));
    for path in ["/tables/t?type=*&subject=*&key=*", long.as_str()] {
        let (status, problem) = z.get(path).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("bad_query")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("limits.filter"), "{problem}");
    }
}

#[tokio::test]
async fn beside_a_filter_times_still_say_which_frames_are_fetched() {
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..20_000, 1).await;
    z.flush_and_evict().await;
    let gets = || z.store().gets.load(SeqCst);
    let before = gets();
    let (since, until) = (BEGAN_MS + 9_000, BEGAN_MS + 9_010);
    let query = format!("type=order.paid&since={since}&until={until}");
    assert_eq!(numbers(&z.read_all("t", &query).await), [9_001, 9_005, 9_009]);
    // The index, and the frame; two where one ends among them.
    assert!(gets() - before <= 3, "{} GETs", gets() - before);
    let before = gets();
    assert!(z.read_all("t", &format!("type=order.paid&since={}", BEGAN_MS + 20_000)).await.is_empty());
    assert_eq!(gets(), before, "no segment reaches so far");
}

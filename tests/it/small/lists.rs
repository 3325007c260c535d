//! Lists of what clients have named: in pages, and `/stats` no longer than it is read.

use futures_util::{StreamExt, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::write_to;
use testing::{TestServer, process::peak_bytes, server::answer};

/// Tables `t000` and so on: each number names the partitions that its table gets.
async fn make(z: &TestServer, count: u32, partitions: impl Fn(u32) -> u32) {
    let writes = (0..count).map(|number| {
        let partitions = partitions(number);
        async move { write_to(z, &format!("t{number:03}"), 0..partitions).await }
    });
    let written: Vec<_> = stream::iter(writes).buffered(32).collect().await;
    for (status, body) in written {
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
}

/// The names on a page.
fn names(page: &Value) -> Vec<String> {
    page["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| table["table"].as_str().unwrap().to_owned())
        .collect()
}

/// All pages of the tables.
async fn walk(z: &TestServer, limit: Option<usize>) -> Vec<Value> {
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let limit = limit.map_or_else(String::new, |limit| format!("&limit={limit}"));
        let (status, page) =
            z.get(&format!("/tables?{}", format!("{after}{limit}").trim_start_matches('&'))).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        assert!(!names(&page).is_empty() || pages.is_empty(), "a page that goes no further: {page}");
        let is_last = page["has_more"] == false;
        assert_eq!(page["next"].is_null(), is_last, "{page}");
        after = format!("&after={}", page["next"].as_str().unwrap_or_default());
        pages.push(page);
        if is_last {
            return pages;
        }
    }
}

#[tokio::test]
async fn tables_are_listed_in_pages_and_each_is_on_one_of_them() {
    let z = TestServer::start().await;
    let (_, page) = z.get("/tables").await;
    assert_eq!(page, json!({"tables": [], "has_more": false, "next": null}));
    make(&z, 130, |number| 1 + number % 3).await;
    let all: Vec<_> = (0..130).map(|number| format!("t{number:03}")).collect();
    for limit in [1, 7, 65, 129, 130, 131, 1000] {
        let pages = walk(&z, Some(limit)).await;
        assert_eq!(pages.iter().flat_map(names).collect::<Vec<_>>(), all, "by {limit}");
        assert!(pages.iter().all(|page| names(page).len() <= limit), "by {limit}");
        assert_eq!(pages.len(), 130_usize.div_ceil(limit), "by {limit}");
    }
    assert_eq!(walk(&z, None).await.iter().flat_map(names).collect::<Vec<_>>(), all);
    let (_, page) = z.get("/tables?after=t004&limit=1").await;
    assert_eq!((&page["tables"][0]["table"], &page["next"]), (&json!("t005"), &json!("t005")));
    assert_eq!(page["tables"][0]["partitions"].as_array().unwrap().len(), 3);
    // A name that is not there has a place all the same.
    assert_eq!(names(&z.get("/tables?after=t004x&limit=1").await.1), ["t005"]);
    assert_eq!(z.get("/tables?after=zzz").await.1, json!({"tables": [], "has_more": false, "next": null}));
    for query in ["limit=0", "limit=10001", "limit=-1", "limit=x", "colour=red", "limit=1&limit=2"] {
        let (status, problem) = z.get(&format!("/tables?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {problem}");
    }

    let (_, stats) = z.get("/stats").await;
    let shown: Vec<_> = stats["tables"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(shown, all[..100], "the first hundred by name");
    let totals = &stats["totals"];
    let partitions: u64 = (0..130_u64).map(|number| 1 + number % 3).sum();
    assert_eq!((&totals["tables"], &totals["partitions"]), (&json!(130), &json!(partitions)), "{totals}");
    assert_eq!(totals["unflushed_events"], totals["partitions"], "one event each: {totals}");
    assert!(totals["hot_bytes"].as_u64().unwrap() > 0, "{totals}");
    let keys = &stats["idempotency"];
    assert!(["keys", "bytes", "window_secs"].iter().all(|name| keys[name].is_number()), "{keys}");
}

#[tokio::test]
async fn a_page_of_tables_ends_at_its_bytes_and_goes_on_with_however_large_a_table() {
    let z = TestServer::start_with(&[("limits.page_bytes", "4096")]).await;
    // The fourth alone is more than a page.
    make(&z, 12, |number| if number == 3 { 200 } else { 5 }).await;
    let pages = walk(&z, None).await;
    let all: Vec<_> = (0..12).map(|number| format!("t{number:03}")).collect();
    assert_eq!(pages.iter().flat_map(names).collect::<Vec<_>>(), all);
    assert!(pages.len() > 2, "{} pages", pages.len());
    for page in &pages {
        assert!(
            page.to_string().len() < 8192 || names(page).len() == 1,
            "a page of {} bytes",
            page.to_string().len()
        );
    }
    let large = pages
        .iter()
        .flat_map(|page| page["tables"].as_array().unwrap())
        .find(|table| table["table"] == "t003")
        .unwrap();
    assert_eq!(large["partitions"].as_array().unwrap().len(), 200);
}

#[tokio::test]
async fn lists_of_many_partitions_asked_for_by_many_take_little() {
    let z = TestServer::start().await;
    make(&z, 30, |_| 1000).await;
    let before = peak_bytes(z.pid());
    for path in ["/tables", "/stats", "/metrics", "/tables/t000/partitions"] {
        let answers: Vec<_> = stream::iter(0..32)
            .map(|_| z.request(reqwest::Method::GET, path).send())
            .buffer_unordered(32)
            .collect()
            .await;
        let mut given = 0;
        for response in answers {
            let (status, body) = answer(response.unwrap()).await;
            given += usize::from(status == StatusCode::OK);
            // There may be more answers under way than may be, and no more than that.
            assert!(status == StatusCode::OK || body["reason"] == "answers", "{path}: {status} {body}");
        }
        assert!(given > 0, "{path}: nobody got it");
    }
    // All of it is about 4 MB of text; 32 of them at once, each more than once on its way, would be far
    // beyond.
    let grown = peak_bytes(z.pid()).saturating_sub(before);
    assert!(grown < 256 << 20, "{} MiB for lists of 30,000 partitions", grown >> 20);
}

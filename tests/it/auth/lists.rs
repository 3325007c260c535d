//! Lists show what their reader may read: on every page, and in what a page says of the next.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::secured::{Secured, binding, policy};

/// Tables between which others are hidden, in order.
const SHOWN: [&str; 4] = ["b", "d", "m.1", "m.2"];
const HIDDEN: [&str; 5] = ["a-hidden", "c-hidden", "e-hidden", "m-hidden", "z-hidden"];

async fn with_tables() -> Secured {
    let bindings = [
        binding("reader", "consumer", &["b", "d", "m.*"], &["billing", "b-*"]),
        binding("writer", "producer", &["*"], &[]),
        binding("boss", "operator", &["*"], &["*"]),
    ];
    let s = Secured::start(&policy(&bindings), &["reader", "writer", "nobody", "boss"], &[]).await;
    for table in SHOWN.iter().chain(&HIDDEN) {
        let written = s.post("boss", &format!("/tables/{table}"), &json!({"payload": 1})).await;
        assert_eq!(written.0, StatusCode::CREATED, "{table}: {}", written.1);
    }
    s
}

/// The names on a page, and what it says of the next.
async fn page(s: &Secured, who: &str, query: &str) -> (Vec<String>, Value, Value) {
    let (status, page) = s.get(who, &format!("/tables{query}")).await;
    assert_eq!(status, StatusCode::OK, "{who}: {page}");
    let text = page.to_string();
    assert!(who == "boss" || !text.contains("hidden"), "{who} sees a hidden name at {query}: {text}");
    let names =
        page["tables"].as_array().unwrap().iter().map(|table| table["table"].as_str().unwrap().to_owned());
    (names.collect(), page["has_more"].clone(), page["next"].clone())
}

#[tokio::test]
async fn a_list_of_tables_shows_those_that_may_be_read() {
    let s = with_tables().await;
    let (names, has_more, next) = page(&s, "reader", "").await;
    assert_eq!(
        (names.as_slice(), has_more, next),
        (&SHOWN.map(str::to_owned)[..], json!(false), json!(null))
    );
    assert_eq!(page(&s, "boss", "").await.0.len(), SHOWN.len() + HIDDEN.len());
    // A right to append shows nothing, and no right shows nothing.
    for who in ["writer", "nobody"] {
        assert_eq!(page(&s, who, "").await, (Vec::new(), json!(false), json!(null)), "{who}");
        assert_eq!(page(&s, who, "?limit=1").await, (Vec::new(), json!(false), json!(null)), "{who}");
    }
}

#[tokio::test]
async fn pages_of_any_length_end_where_the_last_that_may_be_read_is() {
    let s = with_tables().await;
    for limit in 1..=5 {
        let (mut names, mut after) = (Vec::new(), String::new());
        for turn in 1.. {
            let (found, has_more, next) = page(&s, "reader", &format!("?limit={limit}{after}")).await;
            assert!(found.len() <= limit, "{found:?}");
            names.extend(found);
            assert_eq!(has_more, json!(names.len() < SHOWN.len()), "limit {limit}, page {turn}");
            if has_more == false {
                assert_eq!(next, json!(null), "limit {limit}, page {turn}");
                break;
            }
            assert_eq!(next.as_str(), names.last().map(String::as_str), "limit {limit}, page {turn}");
            after = format!("&after={}", next.as_str().unwrap());
        }
        assert_eq!(names, SHOWN, "limit {limit}");
    }
    // Behind a name that its reader cannot know, or that is not there.
    for (after, left) in [("c-hidden", 3), ("c-missing", 3), ("e-hidden", 2), ("z-hidden", 0), ("0", 4)] {
        assert_eq!(page(&s, "reader", &format!("?after={after}")).await.0.len(), left, "{after}");
    }
}

#[tokio::test]
async fn many_tables_that_may_not_be_read_hide_none_that_may() {
    let s = with_tables().await;
    for number in 0..300 {
        let path = format!("/tables/c-hidden-{number}/config");
        assert_eq!(s.put("boss", &path, &json!({})).await.0, StatusCode::CREATED);
    }
    let (names, has_more, next) = page(&s, "reader", "?limit=2").await;
    assert_eq!(
        (names.as_slice(), has_more, next),
        (&["b".to_owned(), "d".to_owned()][..], json!(true), json!("d"))
    );
    let (names, has_more, _) = page(&s, "reader", "?limit=2&after=d").await;
    assert_eq!((names.len(), has_more), (2, json!(false)));
}

#[tokio::test]
async fn a_list_of_groups_shows_those_that_may_be_asked() {
    let s = with_tables().await;
    let commits = [
        ("billing", json!({"table": "b", "offset": 1})),
        ("b-1", json!({"commits": [{"table": "b", "offset": 1}, {"table": "a-hidden", "offset": 1}]})),
        ("hidden-1", json!({"table": "b", "offset": 1})),
        ("c-hidden", json!({"table": "a-hidden", "offset": 1})),
    ];
    for (group, commit) in commits {
        let committed = s.post("boss", &format!("/consumers/{group}/commit"), &commit).await;
        assert_eq!(committed.0, StatusCode::OK, "{group}: {}", committed.1);
    }
    let (status, listed) = s.get("reader", "/consumers").await;
    assert_eq!((status, &listed["groups"]), (StatusCode::OK, &json!(["b-1", "billing"])), "{listed}");
    assert!(!listed.to_string().contains("hidden"), "{listed}");
    let shown = s.get("reader", "/consumers/b-1").await.1;
    assert!(!shown.to_string().contains("hidden"), "{shown}");
    for who in ["writer", "nobody"] {
        let (status, listed) = s.get(who, "/consumers").await;
        assert_eq!((status, &listed["groups"]), (StatusCode::OK, &json!([])), "{who}: {listed}");
    }
    let all = s.get("boss", "/consumers").await.1;
    assert_eq!(all["groups"], json!(["b-1", "billing", "c-hidden", "hidden-1"]));
}

//! `zombi tail`: the last events and the next ones, over every break.

use serde_json::{Value, json};

use super::scripted::{Scene, Scripted, ok};

fn record(offset: u64) -> Value {
    json!({"payload": format!("event {offset}"), "timestamp_ms": 0, "partition": 0, "offset": offset})
}

fn page(offsets: &[u64], cursor: &str) -> Scene {
    let records: Vec<Value> = offsets.iter().map(|offset| record(*offset)).collect();
    ok(json!({"records": records, "count": offsets.len(), "has_more": false, "next_cursor": cursor}))
}

/// An event of a stream, with its place.
fn event(offset: u64) -> String {
    format!("data: {}\nid: c{offset}\n\n", record(offset))
}

#[tokio::test]
async fn the_last_events_are_asked_for_by_number() {
    let server = Scripted::start(vec![page(&[7, 8], "c9")]).await;
    let ran = server.command(&["tail", "t", "-n", "2", "--key", "k*", "-o", "payload"]).run().await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "event 7\nevent 8\n"), "{}", ran.err);
    let heard = server.heard();
    assert_eq!((heard.len(), heard[0].line.as_str()), (1, "GET /tables/t?key=k*&last=2"));
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_resumed_and_nothing_comes_twice() {
    let gone = json!({"code": "offset_expired", "detail": "gone", "next_cursor": "c40"});
    let scenes = vec![
        page(&[7, 8], "c9"),
        // Without an id in the middle of a batch, and with a place at its end.
        Scene::Events(format!(": hello\n\n{}data: {}\n\n", event(9), record(10))),
        Scene::Events(format!("{}{}{}event: caught-up\nid: c13\n\n", event(9), event(10), event(11))),
        Scene::Json(410, "", gone),
        Scene::Events(event(40)),
        Scene::Silence,
        Scene::Json(404, "", json!({"code": "unknown_table", "detail": "it was deleted"})),
    ];
    let server = Scripted::start(scenes).await;
    let ran = server.command(&["tail", "t", "-n", "2", "-f", "-o", "name"]).run().await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("offset_expired: gone; going on behind the gap"), "{}", ran.err);
    assert!(ran.err.contains("unknown_table: it was deleted"), "{}", ran.err);
    assert_eq!(ran.out, "t/0/7\nt/0/8\nt/0/9\nt/0/10\nt/0/11\nt/0/40\n");
    let heard = server.heard();
    let places: Vec<&str> = heard[1..]
        .iter()
        .map(|heard| {
            assert_eq!(heard.line, "GET /tables/t", "a place stands for all parameters");
            heard.headers.lines().find_map(|line| line.strip_prefix("last-event-id: ")).unwrap()
        })
        .collect();
    assert_eq!(places, ["c9", "c9", "c13", "c40", "c40", "c40"]);
}

#[tokio::test]
async fn without_any_of_the_last_the_next_ones_come_all_the_same() {
    let last = json!({"code": "unknown_table", "detail": "the end"});
    let scenes = vec![page(&[8], "c9"), Scene::Events(event(9)), Scene::Json(404, "", last)];
    let server = Scripted::start(scenes).await;
    let ran = server.command(&["tail", "t", "-n", "0", "-f", "-o", "payload"]).run().await;
    assert_eq!(ran.out, "event 9\n", "{}", ran.err);
    assert_eq!(server.heard()[0].line, "GET /tables/t?last=1");
}

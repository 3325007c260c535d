//! What an operator sees: numbers by their names, what is turned away, and who has deleted or changed what.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use testing::{
    TestServer,
    faults::{Fault, Operation},
    process::Start,
    server::{answer, eventually},
};

/// The value of a series; its name stands with its labels.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("there is no {series} in:\n{metrics}")).parse().unwrap()
}

#[tokio::test]
async fn every_number_that_alerts_and_dashboards_ask_for_is_there_from_the_first_scrape() {
    let z = TestServer::start_tiered(&[("hot.max_bytes", "123456000")]).await;
    let metrics = z.admin_metrics().await;
    let exact = [
        ("zombi_ready", 1.0),
        ("zombi_cold_enabled", 1.0),
        ("zombi_hot_max_bytes", 123_456_000.0),
        ("zombi_idempotency_keys", 0.0),
        ("zombi_partitions", 0.0),
        ("zombi_consumer_groups", 0.0),
        ("zombi_upkeep_failures_total", 0.0),
        ("zombi_recoveries_total", 0.0),
        ("zombi_log_lines_dropped_total", 0.0),
        (r#"zombi_refused_total{reason="hot_full"}"#, 0.0),
        (r#"zombi_budget_waiting_requests{budget="memory"}"#, 0.0),
        (r#"zombi_budget_waiting_requests{budget="answers"}"#, 0.0),
        (r#"zombi_budget_waiting_requests{budget="hot_reads"}"#, 0.0),
        (r#"zombi_budget_waiting_requests{budget="cold_reads"}"#, 0.0),
    ];
    for (series, expected) in exact {
        assert_eq!(value(&metrics, series), expected, "{series}");
    }
    let (free, all) = (value(&metrics, "zombi_disk_free_bytes"), value(&metrics, "zombi_disk_bytes"));
    assert!(0.0 < free && free < all, "{free} of {all} bytes are free");
    // It was opened a moment ago.
    assert!(value(&metrics, "zombi_s3_last_contact_timestamp_seconds") > 1.7e9);
    let build = metrics.lines().find(|line| line.starts_with("zombi_build_info{")).unwrap();
    assert!(build.contains(r#"version=""#) && build.contains(r#"revision=""#), "{build}");
    if cfg!(not(target_os = "linux")) {
        return;
    }
    let (open, most) = (value(&metrics, "process_open_fds"), value(&metrics, "process_max_fds"));
    assert!(0.0 < open && open < most, "{open} of {most} descriptors are open");
    assert!(value(&metrics, "zombi_memory_max_bytes") > value(&metrics, "process_resident_memory_bytes"));
}

#[tokio::test]
async fn the_version_says_which_commit_it_is() {
    let ended = Start::command(&["--version"]).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let said = ended.said.trim();
    assert!(said.starts_with("zombi ") && said.contains(" (") && said.ends_with(')'), "{said}");
}

#[tokio::test]
async fn a_recovery_is_counted() {
    let first = TestServer::start_tiered(&[]).await;
    first.post("/tables/t", &json!({"payload": 1})).await;
    first.flush_and_evict().await;
    let mut second = first.beside();
    drop(first);
    second.run().await;
    assert_eq!(second.metric("zombi_recoveries_total").await, 1.0);
    assert_eq!(second.read_all("t", "").await.len(), 1);
    // A start on a volume that is well recovers nothing.
    assert_eq!(second.terminate().await, Some(0));
    second.run().await;
    assert_eq!(second.metric("zombi_recoveries_total").await, 0.0);
}

#[tokio::test]
async fn what_is_turned_away_is_logged_at_once_and_then_counted() {
    let mut z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    z.set("limits.disk_reserve_bytes", "1000000000000000");
    z.set("log.format", "json");
    z.crash().await;
    let asked = Instant::now();
    let request =
        z.request(Method::POST, "/tables/t").header("x-request-id", "first").json(&json!({"payload": 1}));
    assert_eq!(answer(request.send().await.unwrap()).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let first: Value = serde_json::from_str(&z.log_line("turning a request away").await).unwrap();
    let found = [&first["level"], &first["reason"], &first["request_id"]];
    assert_eq!(found, ["WARN", "disk_full", "first"], "{first}");
    assert!(first["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{first}");

    let refused = |_| async { z.post("/tables/t", &json!({"payload": 1})).await.0 };
    let refused = join_all((0..20).map(refused)).await;
    assert!(refused.iter().all(|status| *status == StatusCode::SERVICE_UNAVAILABLE), "{refused:?}");
    let line = z.log_line("turned away since the last line").await;
    assert!(asked.elapsed() >= Duration::from_secs(9), "it is not said sooner than after ten seconds");
    let counted: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&counted["reason"], &counted["count"]), (&json!("disk_full"), &json!(20)), "{counted}");
    assert_eq!(z.metric(r#"zombi_refused_total{reason="disk_full"}"#).await, 21.0);
    // What is counted when it ends is said before it ends.
    z.post("/tables/t", &json!({"payload": 1})).await;
    z.signal("TERM").await;
    let last: Value = serde_json::from_str(&z.log_line("turned away since the last line").await).unwrap();
    assert_eq!((&last["reason"], &last["count"]), (&json!("disk_full"), &json!(1)), "{last}");
    assert_eq!(z.wait().await, Some(0));
}

#[tokio::test]
async fn who_deletes_or_changes_what_is_logged_whatever_the_level_is() {
    let mut z = TestServer::start_with(&[("log.format", "json")]).await;
    for table in ["t", "u"] {
        z.post(&format!("/tables/{table}"), &json!({"payload": 1})).await;
    }
    let level = z.client.put(z.admin_url("/log/level")).json(&json!({"level": "off"}));
    assert_eq!(answer(level.send().await.unwrap()).await.0, StatusCode::OK);
    let commit =
        |offset: u64, force: bool| json!({"table": "t", "partition": 0, "offset": offset, "force": force});
    assert_eq!(z.put("/tables/t/config", &json!({"retention_secs": 3600})).await.0, StatusCode::OK);
    let erase = json!({"offsets": [0], "reason": "ticket 7"});
    assert_eq!(z.post("/tables/t/erase", &erase).await.0, StatusCode::ACCEPTED);
    assert_eq!(z.post("/consumers/g/commit", &commit(1, false)).await.0, StatusCode::OK);
    assert_eq!(z.post("/consumers/g/commit", &commit(0, true)).await.0, StatusCode::OK);
    assert_eq!(z.post("/consumers/g/reset", &json!({"table": "t", "to": "latest"})).await.0, StatusCode::OK);
    assert_eq!(z.delete("/consumers/g").await.0, StatusCode::NO_CONTENT);
    assert_eq!(z.delete("/tables/u").await.0, StatusCode::NO_CONTENT);
    let expected = [
        ("settings changed", "table", "t", "retention_secs 3600"),
        ("erasure asked for", "table", "t", "events 1: ticket 7"),
        ("commit forced", "group", "g", "t/0 to 0"),
        ("consumer group moved", "group", "g", "t/0 to 1"),
        ("consumer group deleted", "group", "g", ""),
        ("table deleted", "table", "u", ""),
    ];
    for (message, what, name, detail) in expected {
        let line: Value = serde_json::from_str(&z.log_line(message).await).unwrap();
        assert_eq!((&line["message"], &line[what]), (&json!(message), &json!(name)), "{line}");
        assert_eq!(line["peer"], "127.0.0.1", "{line}");
        assert!(line["detail"].as_str().unwrap_or("").contains(detail), "{line}");
    }
    // An ordinary commit is none of these, nor is what was refused.
    assert_eq!(z.post("/consumers/h/commit", &commit(1, false)).await.0, StatusCode::OK);
    assert_eq!(z.delete("/tables/nope").await.0, StatusCode::NOT_FOUND);
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    let next: Value = serde_json::from_str(&z.log_line("").await).unwrap();
    assert_eq!((&next["message"], &next["table"]), (&json!("table deleted"), &json!("t")), "{next}");
}

#[tokio::test]
async fn who_waits_for_a_turn_to_read_from_s3_is_counted() {
    let z = TestServer::start_tiered(&[("limits.cold_reads", "1"), ("s3.attempts", "1")]).await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    z.flush_and_evict().await;
    z.store().faults.add(Operation::SegmentGet, Fault::Hang, 1000);
    let (client, url) = (z.client.clone(), z.url("/tables/t"));
    let reads: Vec<_> = (0..3).map(|_| tokio::spawn(client.get(&url).send())).collect();
    let waiting = r#"zombi_budget_waiting_requests{budget="cold_reads"}"#;
    eventually("two wait for the one that reads", || async { z.metric(waiting).await == 2.0 }).await;
    z.store().faults.clear();
    for read in reads {
        drop(read.await.unwrap());
    }
    eventually("nobody waits any more", || async { z.metric(waiting).await == 0.0 }).await;
}

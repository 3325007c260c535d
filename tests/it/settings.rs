//! Settings of tables, groups, keys and the bucket, and which pod of a set may be a writer.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use testing::{
    TestServer,
    process::Start,
    s3::Put,
    server::{PATIENCE, eventually},
};

fn unknown_table((status, problem): (StatusCode, Value)) {
    let expected = (StatusCode::NOT_FOUND, &json!("unknown_table"), &json!("not_written"));
    assert_eq!((status, &problem["code"], &problem["outcome"]), expected, "{problem}");
}

#[tokio::test]
async fn where_tables_are_not_made_by_writes_they_are_made_by_their_settings() {
    let mut z = TestServer::start_tiered(&[("tables.auto_create", "false")]).await;
    let record = json!({"payload": 1});
    unknown_table(z.post("/tables/t", &record).await);
    unknown_table(z.post("/tables/t/bulk", &json!({"records": [record]})).await);
    unknown_table(z.post_bytes("/tables/t", "application/x-ndjson", format!("{record}\n")).await);
    unknown_table(z.post_bytes("/tables/t", "application/x-protobuf", vec![0x0a, 1, b'x']).await);
    assert_eq!(z.get("/tables/t/config").await.0, StatusCode::NOT_FOUND);
    assert_eq!(z.put("/tables/t/config", &json!({})).await.0, StatusCode::CREATED, "it makes the table");
    assert_eq!(z.put("/tables/t/config", &json!({})).await.0, StatusCode::OK, "it was there");
    let (status, page) = z.get("/tables/t").await;
    assert_eq!((status, &page["count"]), (StatusCode::OK, &json!(0)), "{page}");
    assert_eq!(z.post("/tables/t", &record).await.0, StatusCode::CREATED);
    unknown_table(z.post("/tables/u", &record).await);
    // Over a start, and over the loss of the volume; one that was never written, too.
    assert_eq!(z.put("/tables/empty/config", &json!({"retention_secs": 60})).await.0, StatusCode::CREATED);
    z.crash().await;
    assert_eq!(z.post("/tables/t", &record).await.0, StatusCode::CREATED);
    assert_eq!(z.post("/tables/empty", &record).await.0, StatusCode::CREATED);
    z.flush_and_evict().await;
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    assert_eq!(z.post("/tables/t", &record).await.0, StatusCode::CREATED);
    assert_eq!(z.get("/tables/empty/config").await.1["retention_secs"], 60);
    // One that was deleted is not there any more.
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    unknown_table(z.post("/tables/t", &record).await);
    assert_eq!(z.put("/tables/t/config", &json!({})).await.0, StatusCode::CREATED);
    assert_eq!(z.post("/tables/t", &record).await.0, StatusCode::CREATED);
}

/// What holds for a table, and which of it is its own.
async fn config(z: &TestServer, table: &str) -> (Value, BTreeSet<String>) {
    let (status, mut config) = z.get(&format!("/tables/{table}/config")).await;
    assert_eq!(status, StatusCode::OK, "{config}");
    let own = config.as_object_mut().unwrap().remove("own").unwrap();
    (config, own.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect())
}

async fn holds(z: &TestServer, table: &str, expected: Value, own: &[&str]) {
    assert_eq!(config(z, table).await, (expected, own.iter().map(|name| (*name).to_owned()).collect()));
}

#[tokio::test]
async fn a_table_has_the_defaults_until_it_has_its_own_and_gives_back_what_is_null() {
    let defaults = [
        ("tables.retention_secs", "1000000"),
        ("tables.retention_bytes", "2000000"),
        ("tables.partitions", "4"),
    ];
    let mut z = TestServer::start_with(&defaults).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    let shown = |secs: u64, bytes: u64, partitions: u64| {
        json!({
            "retention_secs": secs,
            "retention_bytes": bytes,
            "partitions": partitions,
        })
    };
    holds(&z, "t", shown(1_000_000, 2_000_000, 4), &[]).await;
    let (status, _) = z.put("/tables/t/config", &json!({"retention_secs": 500_000})).await;
    assert_eq!(status, StatusCode::OK);
    holds(&z, "t", shown(500_000, 2_000_000, 4), &["retention_secs"]).await;
    // What is left out stays.
    assert_eq!(z.put("/tables/t/config", &json!({"partitions": 8})).await.0, StatusCode::OK);
    assert_eq!(z.put("/tables/t/config", &json!({})).await.0, StatusCode::OK);
    holds(&z, "t", shown(500_000, 2_000_000, 8), &["retention_secs", "partitions"]).await;
    z.crash().await;
    holds(&z, "t", shown(500_000, 2_000_000, 8), &["retention_secs", "partitions"]).await;
    assert_eq!(
        z.put("/tables/t/config", &json!({"retention_secs": null, "retention_bytes": 3_000_000})).await.0,
        StatusCode::OK
    );
    holds(&z, "t", shown(1_000_000, 3_000_000, 8), &["retention_bytes", "partitions"]).await;

    let wrong = [
        (json!({"partitions": 7}), 422, "partitions_shrink"),
        (json!({"retention_secs": 1, "partitions": 2}), 422, "partitions_shrink"),
        (json!({"partitions": 1025}), 422, ""),
        (json!({"retention": 1}), 400, "bad_json"),
        (json!({"retention_secs": -1}), 400, "bad_json"),
        (json!({"retention_secs": "60"}), 400, "bad_json"),
        (json!([60]), 400, "bad_json"),
        (json!([]), 400, "bad_json"),
        (json!(null), 400, "bad_json"),
    ];
    for (body, status, code) in wrong {
        let (found, problem) = z.put("/tables/t/config", &body).await;
        assert_eq!(found.as_u16(), status, "{body}: {problem}");
        assert!(code.is_empty() || problem["code"] == code, "{body}: {problem}");
        let (found, _) = z.put("/tables/never/config", &body).await;
        assert!(
            code == "partitions_shrink" || found.is_client_error(),
            "{body} for a table that is not there"
        );
    }
    holds(&z, "t", shown(1_000_000, 3_000_000, 8), &["retention_bytes", "partitions"]).await;
    // A table of nobody's own choice, where there are no defaults.
    let plain = TestServer::start().await;
    assert_eq!(plain.put("/tables/t/config", &json!({})).await.0, StatusCode::CREATED);
    holds(&plain, "t", json!({"retention_secs": null, "retention_bytes": null, "partitions": 1}), &[]).await;
}

#[tokio::test]
async fn the_default_retention_takes_from_tables_that_have_none_of_their_own() {
    let z =
        TestServer::start_with(&[("tables.retention_secs", "1"), ("compaction.interval_secs", "1")]).await;
    assert_eq!(
        z.put("/tables/kept/config", &json!({"retention_secs": 1_000_000})).await.0,
        StatusCode::CREATED
    );
    let records = vec![json!({"payload": "x"}); 5000];
    for table in ["kept", "dropped"] {
        assert_eq!(
            z.post(&format!("/tables/{table}/bulk"), &json!({"records": records})).await.0,
            StatusCode::CREATED
        );
    }
    eventually("what is old has gone", || async {
        z.partition("dropped", 0).await["earliest"].as_u64().unwrap() >= 4096
    })
    .await;
    assert_eq!(z.partition("kept", 0).await["earliest"], 0);
}

#[tokio::test]
async fn a_group_that_has_not_committed_for_long_is_forgotten_and_one_that_has_is_not() {
    const EXPIRE: u64 = 5;
    let expire = EXPIRE.to_string();
    let mut z =
        TestServer::start_with(&[("consumers.expire_secs", &expire), ("compaction.interval_secs", "1")])
            .await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    let commit = json!({"table": "t", "partition": 0, "offset": 1});
    assert_eq!(z.post("/consumers/idle/commit", &commit).await.0, StatusCode::OK);
    // Another commits the same offset all the time; unless this machine stands still, that is often enough.
    let (mut last, mut longest, began) = (Instant::now(), Duration::ZERO, Instant::now());
    let is_gone = loop {
        assert_eq!(z.post("/consumers/busy/commit", &commit).await.0, StatusCode::OK);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        let (status, _) = z.get("/consumers/idle").await;
        if status == StatusCode::NOT_FOUND || began.elapsed() > PATIENCE {
            break status == StatusCode::NOT_FOUND;
        }
        sleep(Duration::from_millis(100)).await;
    };
    assert!(is_gone, "a group is there {:?} after its last commit", began.elapsed());
    assert!(began.elapsed() >= Duration::from_secs(EXPIRE - 1), "it has gone after {:?}", began.elapsed());
    if longest < Duration::from_secs(EXPIRE - 1) {
        assert_eq!(z.get("/consumers").await.1["groups"], json!(["busy"]));
    }
    z.log_line("idle").await; // it is said
    assert_eq!(z.get("/consumers/idle/offset?table=t&partition=0").await.1["offset"], json!(null));
    z.crash().await;
    assert_eq!(z.get("/consumers/idle").await.0, StatusCode::NOT_FOUND, "a start brings it back");
    assert_eq!(z.post("/consumers/idle/commit", &commit).await.0, StatusCode::OK, "it may begin again");
}

/// What was put while a server with these settings wrote and flushed, and stopped.
async fn puts(settings: &[(&str, &str)]) -> Vec<Put> {
    let mut z = TestServer::tiered(settings).await;
    z.store().watch_puts();
    z.run().await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    z.flush_and_evict().await;
    assert_eq!(z.read_all("t", "").await.len(), 1);
    assert_eq!(z.terminate().await, Some(0));
    let puts = z.store().object_puts();
    assert!(
        ["/segments/", "/manifests/"].iter().all(|kind| puts.iter().any(|put| put.path.contains(kind))),
        "{puts:?}"
    );
    puts
}

#[tokio::test]
async fn what_is_put_says_how_it_is_encrypted_and_segments_of_what_class_they_are() {
    let (sse, key, class) = (
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-storage-class",
    );
    for put in puts(&[]).await {
        assert!(
            [sse, key, class].iter().all(|name| put.header(name).is_empty()),
            "nothing was asked for: {put:?}"
        );
    }
    let (mut segments, mut probes) = (0, 0);
    for put in puts(&[("s3.sse", "AES256"), ("s3.storage_class", "STANDARD_IA")]).await {
        assert_eq!((put.header(sse), put.header(key)), ("AES256", ""), "{put:?}");
        // The start tries out what segments will be.
        let (is_segment, is_probe) =
            (put.path.contains("/segments/"), put.path.contains("/probe/") && put.path.ends_with("-class"));
        assert_eq!(put.header(class), if is_segment || is_probe { "STANDARD_IA" } else { "" }, "{put:?}");
        segments += usize::from(is_segment);
        probes += usize::from(is_probe);
    }
    assert!(segments > 0 && probes > 0, "{segments} segments and {probes} probes of the class");
    for put in puts(&[("s3.sse", "aws:kms"), ("s3.kms_key_id", "alias/zombi")]).await {
        assert_eq!(
            (put.header(sse), put.header(key), put.header(class)),
            ("aws:kms", "alias/zombi", ""),
            "{put:?}"
        );
    }
    for put in puts(&[("s3.sse", "aws:kms")]).await {
        assert_eq!((put.header(sse), put.header(key)), ("aws:kms", ""), "{put:?}");
    }
    let ended = Start::command(&["config", "check"]).set("s3.sse", "rot13").ended().await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("s3.sse") && ended.said.contains("rot13"), "{}", ended.said);
}

#[tokio::test]
async fn a_file_with_lists_for_sections_or_keys_that_stand_twice_is_refused_and_named() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("zombi.yaml");
    let check = || Start::command(&["config", "check"]).env("ZOMBI_CONFIG", &path.display().to_string());
    let wrong = [
        ("consumers: [60]\n", "consumers"),
        ("limits:\n  - 5\n", "limits"),
        ("flush:\n  interval_secs: 5\nport: 8081\nflush:\n  parallel: 2\n", "flush"),
        ("flush:\n  interval_secs: 5\n  interval_secs: 6\n", "interval_secs"),
    ];
    for (text, word) in wrong {
        std::fs::write(&path, text).unwrap();
        let ended = check().ended().await;
        assert_eq!(ended.code, Some(2), "{text}: {}", ended.said);
        assert!(ended.said.contains(word) && ended.said.contains("zombi.yaml"), "{text}: {}", ended.said);
    }
    std::fs::write(&path, "flush:\n  interval_secs: 5\nport: 8081\n").unwrap();
    let ended = check().ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

#[tokio::test]
async fn only_the_first_pod_of_a_set_is_a_writer() {
    let first = TestServer::start_tiered(&[("pod", "zombi-0")]).await;
    assert_eq!(first.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    first.flush_and_evict().await;
    let objects = first.objects("");
    let endpoint = first.s3.as_ref().unwrap().endpoint();
    for pod in ["zombi-1", "zombi-10", "zombi-a-0-2"] {
        let volume = TempDir::new().unwrap();
        let start = Start::serve(&volume.path().join("db")).set("host", "127.0.0.1").with_bucket(&endpoint);
        let ended = start.env("ZOMBI_POD", pod).ended().await;
        assert_eq!(ended.code, Some(2), "{pod}: {}", ended.said);
        assert!(
            ended.said.contains(pod) && (ended.said.contains("ZOMBI_POD") || ended.said.contains("pod")),
            "{}",
            ended.said
        );
        assert_eq!(first.objects(""), objects, "{pod} touched the bucket");
        assert!(!volume.path().join("db/CURRENT").exists(), "{pod} made a volume");
    }
    assert_eq!(first.post("/tables/t", &json!({"payload": 2})).await.0, StatusCode::CREATED);
    first.flush_and_evict().await;
    for pod in ["zombi-0", "zombi-a-1-0", "zombi"] {
        let volume = TempDir::new().unwrap();
        let process = Start::serve(&volume.path().join("db"))
            .set("host", "127.0.0.1")
            .env("ZOMBI_POD", pod)
            .ready()
            .await;
        assert_eq!(process.get(process.main(), "/readyz").await.0, StatusCode::OK, "{pod}");
    }
}

#[tokio::test]
async fn numbers_have_ranges_that_are_checked_before_anything_is_begun() {
    let keys = [
        "idempotency.window_secs",
        "idempotency.min_window_secs",
        "manifests.keep_secs",
        "consumers.expire_secs",
        "tables.partitions",
        "limits.partitions",
        "limits.groups",
        "limits.group_offsets",
        "limits.tails",
        "limits.cold_reads",
        "limits.record_headers",
        "limits.body_secs",
        "limits.body_min_bytes_per_sec",
        "limits.idle_secs",
        "limits.wait_secs",
        "limits.peer_percent",
        "limits.admin_connections",
        "limits.header_timeout_secs",
        "shutdown.flush_secs",
        "shutdown.drain_secs",
        "shutdown.delay_secs",
        "flush.interval_secs",
        "hot.keep_secs",
        "compaction.interval_secs",
        "s3.attempt_timeout_secs",
    ];
    for key in keys {
        for value in ["18446744073709551615", "9223372036854775807", "-1"] {
            let ended = Start::command(&["config", "check"]).set(key, value).ended().await;
            assert_eq!(ended.code, Some(2), "{key} = {value}: {}", ended.said);
            assert!(ended.said.contains(key), "{key} = {value} is not named: {}", ended.said);
        }
    }
    for (key, value) in
        [("limits.peer_percent", "101"), ("limits.peer_percent", "0"), ("tables.partitions", "0")]
    {
        let ended = Start::command(&["config", "check"]).set(key, value).ended().await;
        assert!(ended.code == Some(2) && ended.said.contains(key), "{key} = {value}: {}", ended.said);
    }
}

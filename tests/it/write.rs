//! Writes: every encoding, duplicates, limits, wrong input.

use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use testing::{TestServer, server::answer};

const NDJSON: &str = "application/x-ndjson";
const PROTOBUF: &str = "application/x-protobuf";

#[tokio::test]
async fn a_json_record_comes_back_as_it_went_in() {
    let z = TestServer::start_tiered(&[]).await;
    let records = [
        json!({"payload": "text with \"quotes\", \u{e9} and \u{0}", "timestamp_ms": 1}),
        json!({
            "payload": {"b": [1, 2.50, null], "a": "\u{e9}"},
            "timestamp_ms": 2,
            "headers": {"k": "v", "a": ""},
        }),
        json!({"payload": null, "timestamp_ms": 3}),
        json!({"payload": "", "timestamp_ms": 4, "idempotency_key": "k/\u{e9}"}),
        json!({"payload_base64": "AP+A", "timestamp_ms": 5}),
        json!({"payload_base64": "aGVsbG8=", "timestamp_ms": -62_135_596_800_000_i64}),
    ];
    for record in &records {
        let (status, body) = z.post("/tables/t", record).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    let hot = z.read_all("t", "").await;
    for (sent, found) in records.iter().zip(&hot) {
        for (field, value) in sent.as_object().unwrap() {
            assert_eq!(found[field], *value, "{field} of {sent}");
        }
    }
    z.flush_and_evict().await;
    assert_eq!(z.partition("t", 0).await["low"], 6);
    assert_eq!(z.read_all("t", "").await, hot);
}

#[tokio::test]
async fn json_text_is_kept_byte_for_byte() {
    let z = TestServer::start_tiered(&[]).await;
    let text = "{ \"a\" : 1.0e2,\n\t\"a\" : [ ] }";
    z.post_bytes("/tables/t", "application/json", format!("{{\"payload\": {text} }}")).await;
    for _ in 0..2 {
        let request = z.request(Method::GET, "/tables/t").header("accept", PROTOBUF);
        let bytes = request.send().await.unwrap().bytes().await.unwrap();
        let page = zombi::proto::v1::ReadResponse::decode(bytes).unwrap();
        assert_eq!(page.records[0].payload, text);
        z.flush_and_evict().await;
    }
}

#[tokio::test]
async fn protobuf_goes_in_and_out() {
    let z = TestServer::start_tiered(&[]).await;
    let event = |payload: &'static [u8], key: Option<&str>| zombi::proto::v1::Event {
        payload: payload.into(),
        timestamp_ms: Some(5),
        idempotency_key: key.map(str::to_owned),
        headers: [("h".to_owned(), "v".to_owned())].into(),
        ..Default::default()
    };
    let request =
        z.request(Method::POST, "/tables/t").header("content-type", PROTOBUF).header("x-partition", "7");
    let (status, body) =
        answer(request.body(event(b"text", Some("k")).encode_to_vec()).send().await.unwrap()).await;
    assert_eq!((status, body), (StatusCode::CREATED, json!({"offset": 0, "partition": 7, "table": "t"})));
    let bulk =
        zombi::proto::v1::BulkWriteRequest { records: vec![event(&[255, 0], None), event(b"text", None)] };
    let request =
        z.request(Method::POST, "/tables/t/bulk").header("content-type", PROTOBUF).header("x-partition", "7");
    let (status, body) = answer(request.body(bulk.encode_to_vec()).send().await.unwrap()).await;
    assert_eq!(
        (status, body),
        (StatusCode::CREATED, json!({"offsets": [1, 2], "count": 2, "duplicates": 0}))
    );

    for low in [0, 3] {
        assert_eq!(z.partition("t", 7).await["low"], low);
        let (_, page) = z.get("/tables/t?partition=7&offset=0").await;
        assert_eq!(
            page["records"][0],
            json!({
                "payload": "text",
                "timestamp_ms": 5,
                "partition": 7,
                "offset": 0,
                "idempotency_key": "k",
                "headers": {"h": "v"},
            })
        );
        assert_eq!(page["records"][1]["payload_base64"], "/wA=");
        let request = z.request(Method::GET, "/tables/t").header("accept", PROTOBUF);
        let page =
            zombi::proto::v1::ReadResponse::decode(request.send().await.unwrap().bytes().await.unwrap())
                .unwrap();
        assert_eq!(
            (page.count, page.has_more, page.records[1].payload.as_ref()),
            (3, false, [255u8, 0].as_slice())
        );
        z.flush_and_evict().await;
    }

    for bad in ["x", "-1", "1.0", "", "+1"] {
        let request =
            z.request(Method::POST, "/tables/t").header("content-type", PROTOBUF).header("x-partition", bad);
        let (status, body) =
            answer(request.body(event(b"x", None).encode_to_vec()).send().await.unwrap()).await;
        assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &json!("bad_partition")), "{bad:?}");
    }
    let (status, body) = z.post_bytes("/tables/t", PROTOBUF, vec![255u8, 255]).await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &json!("bad_protobuf")));
}

#[tokio::test]
async fn a_stream_is_committed_line_by_line_up_to_the_bad_one() {
    let z = TestServer::start().await;
    let line = |n: usize| {
        format!(
            "{}\n",
            json!({"payload": format!("{n}"), "partition": n % 3, "idempotency_key": format!("{n}")})
        )
    };
    let body: String = (0..10_000).map(line).collect();
    let (status, summary) = z.post_bytes("/tables/t", NDJSON, body.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{summary}");
    assert_eq!((&summary["count"], &summary["duplicates"]), (&json!(10_000), &json!(0)));
    assert_eq!(summary["partitions"]["0"], json!({"first": 0, "last": 3333}));
    let (status, summary) = z.post_bytes("/tables/t", NDJSON, body).await;
    assert_eq!((status, &summary["duplicates"]), (StatusCode::CREATED, &json!(10_000)));

    let bad = format!("{}\n{}{{\"payload\": }}\n{}", line(10_000), line(10_001), line(10_002));
    let (status, problem) = z.post_bytes("/tables/t", NDJSON, bad).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        (&problem["code"], &problem["line"], &problem["committed"]),
        (&json!("bad_json"), &json!(4), &json!(3)),
        "{problem}"
    );
    let all = z.read_all("t", "limit=10000").await;
    assert_eq!(all.len(), 10_002);
}

#[tokio::test]
async fn a_bulk_write_is_all_or_nothing() {
    let z = TestServer::start().await;
    let records = json!({"records": [{"payload": "a"}, {"payload": "b", "partition": 5000}]});
    let (status, problem) = z.post("/tables/t/bulk", &records).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        (&problem["code"], &problem["index"], &problem["outcome"]),
        (&json!("partition_out_of_range"), &json!(1), &json!("not_written"))
    );
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);

    let many: Vec<Value> = (0..10_001).map(|_| json!({"payload": 1})).collect();
    let (status, problem) = z.post("/tables/t/bulk", &json!({"records": many})).await;
    assert_eq!((status, &problem["index"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!(10_000)));
}

#[tokio::test]
async fn equal_keys_give_one_event() {
    let mut z = TestServer::start_tiered(&[]).await;
    let record =
        |key: &str, partition: u32| json!({"payload": "x", "idempotency_key": key, "partition": partition});
    let bulk = json!({"records": [record("a", 0), record("a", 0), record("a", 1), record("b", 0)]});
    let (_, body) = z.post("/tables/t/bulk", &bulk).await;
    assert_eq!(body, json!({"offsets": [0, 0, 0, 1], "count": 4, "duplicates": 1}));

    let writes = (0..50).map(|_| z.post("/tables/t", &bulk["records"][3]));
    for (status, body) in futures_util::future::join_all(writes).await {
        assert_eq!((status, &body["offset"], &body["duplicate"]), (StatusCode::OK, &json!(1), &json!(true)));
    }
    let concurrent = record("c", 0);
    let answers = futures_util::future::join_all((0..50).map(|_| z.post("/tables/t", &concurrent))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count(), 1);
    assert!(answers.iter().all(|(_, body)| body["offset"] == 2));

    z.flush_and_evict().await;
    z.crash().await;
    assert_eq!(z.partition("t", 0).await["low"], 3);
    let (status, body) = z.post("/tables/t", &concurrent).await;
    assert_eq!(
        (status, body),
        (StatusCode::OK, json!({"offset": 2, "partition": 0, "table": "t", "duplicate": true}))
    );
}

#[tokio::test]
async fn an_expected_offset_is_checked_in_the_same_step() {
    let z = TestServer::start().await;
    assert_eq!(z.post("/tables/t?expected_offset=0", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    let (status, problem) = z.post("/tables/t?expected_offset=0", &json!({"payload": 1})).await;
    assert_eq!(
        (status, &problem["code"], &problem["next"]),
        (StatusCode::CONFLICT, &json!("offset_mismatch"), &json!(1))
    );
    let racing = json!({"payload": 2});
    let answers =
        futures_util::future::join_all((0..30).map(|_| z.post("/tables/t?expected_offset=1", &racing))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count(), 1);
}

#[tokio::test]
async fn a_whole_number_of_any_length_is_out_of_range_and_no_mistake_of_form() {
    let z = TestServer::start().await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    for digits in [20, 39, 400] {
        let huge = "9".repeat(digits);
        for (path, body, code) in [
            ("/tables/t", format!("{{\"payload\": 1, \"partition\": {huge}}}"), "partition_out_of_range"),
            ("/tables/t", format!("{{\"payload\": 1, \"partition\": -{huge}}}"), "partition_out_of_range"),
            ("/tables/t", format!("{{\"payload\": 1, \"timestamp_ms\": {huge}}}"), "timestamp_out_of_range"),
            ("/consumers/g/commit", format!("{{\"table\": \"t\", \"offset\": {huge}}}"), "commit_beyond_end"),
            (
                "/consumers/g/reset",
                format!("{{\"table\": \"t\", \"to\": {{\"partition\": 0, \"offset\": {huge}}}}}"),
                "commit_beyond_end",
            ),
            ("/tables/t/erase", format!("{{\"partition\": 0, \"offsets\": [{huge}]}}"), "erase_beyond_end"),
        ] {
            let (status, problem) = z.post_bytes(path, "application/json", body.clone()).await;
            assert_eq!((status.as_u16(), &problem["code"]), (422, &json!(code)), "{path} {body}: {problem}");
        }
    }
}

/// Writes that are refused: path, content type, body; status and code.
const INVALID_WRITES: &[(&str, &str, &str, u16, &str)] = &[
    ("/tables/a%20b", "application/json", "{\"payload\": 1}", 400, "bad_table_name"),
    ("/tables/t", "application/json", "{\"payload\": 1", 400, "bad_json"),
    ("/tables/t", "application/json", "{\"payload\": 1} x", 400, "bad_json"),
    ("/tables/t", "application/json", "", 400, "bad_json"),
    ("/tables/t", "application/json", "{\"payload\": 1, \"x\": 1}", 400, "bad_json"),
    ("/tables/t", "application/json", "{}", 400, "bad_payload"),
    ("/tables/t", "application/json", "{\"payload\": 1, \"payload_base64\": \"\"}", 400, "bad_payload"),
    ("/tables/t", "application/json", "{\"payload_base64\": \"*\"}", 400, "bad_payload"),
    ("/tables/t", "application/json", "{\"payload\": 1, \"partition\": 1024}", 422, "partition_out_of_range"),
    ("/tables/t", "application/json", "{\"payload\": 1, \"partition\": -1}", 422, "partition_out_of_range"),
    (
        "/tables/t",
        "application/json",
        "{\"payload\": 1, \"timestamp_ms\": 253402300800000}",
        422,
        "timestamp_out_of_range",
    ),
    (
        "/tables/t",
        "application/json",
        "{\"payload\": 1, \"idempotency_key\": \"\"}",
        422,
        "idempotency_key_out_of_range",
    ),
    ("/tables/t", "text/plain", "{\"payload\": 1}", 415, "unsupported_media_type"),
    ("/tables/t?x=1", "application/json", "{\"payload\": 1}", 400, "bad_query"),
    (
        "/tables/t",
        "application/json",
        "{\"payload\": 1, \"timestamp_ms\": -62135596800001}",
        422,
        "timestamp_out_of_range",
    ),
    ("/tables/t", "application/x-protobuf", "\u{1}", 400, "bad_protobuf"),
    ("/tables/t/bulk", "application/json", "{\"records\": []}", 400, "no_records"),
    ("/tables/t/bulk", NDJSON, "", 415, "unsupported_media_type"),
];

#[tokio::test]
async fn invalid_writes_are_rejected_and_nothing_is_written() {
    let z = TestServer::start().await;
    let deep = format!("{{\"payload\": {}{}}}", "[".repeat(129), "]".repeat(129));
    let large = format!("{{\"payload\": \"{}\"}}", "x".repeat((1 << 20) + 1));
    let many = json!({"records": vec![json!({"payload": 1}); 10_001]}).to_string();
    let too_much: [(&str, &str, &str, u16, &str); 3] = [
        ("/tables/t", "application/json", &deep, 400, "bad_payload"),
        ("/tables/t", "application/json", &large, 413, "record_too_large"),
        ("/tables/t/bulk", "application/json", &many, 413, "too_many_records"),
    ];
    for (path, content_type, body, status, code) in INVALID_WRITES.iter().copied().chain(too_much) {
        let (found, problem) = z.post_bytes(path, content_type, body.to_owned()).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &json!(code)), "{path} {body:.80}");
        assert_eq!(problem["outcome"], "not_written", "{problem}");
        assert!(code != "record_too_large" || problem["index"] == 0, "{problem}");
        assert!(code != "too_many_records" || problem["index"] == 10_000, "{problem}");
        assert!(problem["request_id"].is_string() && problem["detail"].is_string(), "{problem}");
    }
    let (status, _) = z.post_bytes("/tables/t", "application/json", vec![b' '; (8 << 20) + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    for partition in ["x", "-1", "", "1.0"] {
        let request = z.request(Method::POST, "/tables/t").header("content-type", PROTOBUF);
        let (status, problem) =
            answer(request.header("x-partition", partition).body("").send().await.unwrap()).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &json!("bad_partition")),
            "{partition}"
        );
    }
    assert_eq!(z.get("/tables").await.1, json!({"tables": [], "has_more": false, "next": null}));
    let limit = format!("{{\"payload\": {}{}}}", "[".repeat(128), "]".repeat(128));
    assert_eq!(
        z.post_bytes("/tables/t", "application/json", limit).await.0,
        StatusCode::CREATED,
        "128 deep is not too deep"
    );
}

#[tokio::test]
async fn without_a_bucket_nothing_can_be_waited_for() {
    let z = TestServer::start().await;
    let (status, problem) = z.post("/tables/t?wait_for=cold", &json!({"payload": 1})).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("no_cold_tier")), "{problem}");
    assert_eq!(problem["outcome"], "not_written", "{problem}");
}

#[tokio::test]
async fn a_stream_that_writes_nothing_waits_for_nothing() {
    let z = TestServer::start_tiered(&[]).await;
    for (query, body, status) in [
        ("", "", StatusCode::CREATED),
        ("", "\n\n", StatusCode::CREATED),
        ("&on_error=skip", "x\n", StatusCode::OK),
    ] {
        let path = format!("/tables/t?wait_for=cold{query}");
        let (answered, summary) = z.post_bytes(&path, "application/x-ndjson", body).await;
        assert_eq!((answered, &summary["count"]), (status, &json!(0)), "{body:?}: {summary}");
        assert_eq!(summary["rejected_count"].as_u64().unwrap_or(0), u64::from(body == "x\n"), "{summary}");
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_the_sync_the_answer_is_202() {
    let z = TestServer::start_with(&[("durability", "os")]).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_full_hot_tier_turns_writes_away_and_nothing_is_lost() {
    let z = TestServer::start_with(&[("hot.max_bytes", "1000")]).await;
    let mut written = 0;
    let problem = loop {
        let (status, body) = z.post("/tables/t", &json!({"payload": "x".repeat(100)})).await;
        match status {
            StatusCode::CREATED => written += 1,
            _ => break body,
        }
        assert!(written < 20);
    };
    assert_eq!(
        (&problem["code"], &problem["reason"], &problem["outcome"]),
        (&json!("overloaded"), &json!("hot_full"), &json!("not_written"))
    );
    assert_eq!(z.read_all("t", "").await.len(), written);
}

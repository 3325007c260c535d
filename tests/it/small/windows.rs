//! zstd frames that ask for a large window: a decoder would take it before the first byte is there.

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{is_still_small, post_packed};
use testing::{
    TestServer,
    frames::{filling, last, of_length, window},
    raw::{self, chunk, post_head},
    server::{answer, eventually},
};

#[tokio::test]
async fn a_window_of_eight_mebibytes_is_taken_and_a_larger_one_is_not() {
    let z = TestServer::start().await;
    let record = b"{\"payload\":\"x\"}".to_vec();
    let protobuf = vec![0x0a, 1, b'x'];
    z.post("/tables/t", &json!({"payload": "x"})).await;
    let routes = [
        ("/tables/t", "application/json", record.clone()),
        ("/tables/t", "application/x-ndjson", record),
        ("/tables/t", "application/x-protobuf", protobuf.clone()),
        ("/tables/t/bulk", "application/json", b"{\"records\":[{\"payload\":\"x\"}]}".to_vec()),
        ("/tables/t/bulk", "application/x-protobuf", [vec![0x0a, 3], protobuf].concat()),
        ("/consumers/g/commit", "application/json", b"{\"table\":\"t\",\"offset\":1}".to_vec()),
    ];
    for (path, content_type, body) in routes {
        for head in [window(10, 0), window(22, 7), window(23, 0)] {
            let (status, answer) =
                post_packed(&z, path, content_type, "zstd", [head, last(&body)].concat()).await;
            assert!(status.is_success(), "{path} as {content_type}: {status} {answer}");
        }
        let before = z.partition("t", 0).await["next"].clone();
        let too_large = [
            window(23, 1),
            window(24, 0),
            window(27, 0),
            window(31, 0),
            window(41, 7),
            of_length(100 << 20),
            of_length(u32::MAX),
        ];
        for head in too_large {
            let (status, problem) =
                post_packed(&z, path, content_type, "zstd", [head, last(&body)].concat()).await;
            assert!(status.is_client_error(), "{path} as {content_type}: {status} {problem}");
        }
        assert_eq!(z.partition("t", 0).await["next"], before, "{path} as {content_type}");
    }
    // What the tools make at their best: a window of 8 MiB, used.
    let line = format!("{{\"payload\":\"{}\"}}\n", "y".repeat(100_000));
    let packed = zstd::encode_all(line.repeat(90).as_bytes(), 19).unwrap();
    let (status, body) = post_packed(&z, "/tables/lines", "application/x-ndjson", "zstd", packed).await;
    assert_eq!((status, &body["count"]), (StatusCode::CREATED, &json!(90)), "{body}");
}

#[tokio::test]
async fn windows_are_charged_to_the_memory_for_bodies_and_take_it_from_nobody() {
    let z = TestServer::start_with(&[("limits.body_idle_secs", "600")]).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    // Every window is filled with blank lines, and kept: 100 times 8 MiB, and ten times 128 MiB.
    for (connections, log, blocks) in [(10, 27, 1024), (100, 23, 80)] {
        let head = post_head(
            "/tables/t",
            "application/x-ndjson",
            "content-encoding: zstd\r\ntransfer-encoding: chunked\r\n",
        );
        let filled = chunk(&[window(log, 0), filling(b'\n').repeat(blocks)].concat());
        let held = join_all((0..connections).map(|_| async {
            let mut socket = raw::send(z.address(), &head).await;
            drop(socket.write_all(&filled).await);
            socket
        }))
        .await;
        for number in 0..20 {
            let record = json!({"payload": number});
            let response = z
                .client
                .post(z.url("/tables/t"))
                .header("connection", "close")
                .json(&record)
                .send()
                .await
                .unwrap();
            let (status, body) = answer(response).await;
            assert_eq!(status, StatusCode::CREATED, "{connections} windows of 2^{log} bytes: {body}");
        }
        let packed = [window(23, 0), last(b"{\"payload\":1}")].concat();
        // It may be asked to come again, until one of those has made room that stand still.
        eventually(&format!("one more window beside {connections} of 2^{log} bytes"), async || {
            let (status, body) =
                post_packed(&z, "/tables/t", "application/json", "zstd", packed.clone()).await;
            assert!(status == StatusCode::CREATED || body["reason"] == "memory", "{status} {body}");
            status == StatusCode::CREATED
        })
        .await;
        is_still_small(&z, "windows");
        drop(held);
    }
    eventually("their memory is there again", || async {
        let body = format!("{{\"payload\":\"{}\"}}", "x".repeat(1_000_000));
        z.post_bytes("/tables/t", "application/json", body).await.0 == StatusCode::CREATED
    })
    .await;
}

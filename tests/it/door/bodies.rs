//! Compressed bodies: several members are one body, in whatever pieces they come, and nothing hides behind
//! the last.

use std::io;

use futures_util::stream;
use prost::Message;
use reqwest::{Body, Method, StatusCode};
use serde_json::json;
use zombi::proto::v1::PayloadKind;

use super::{
    JSON, NDJSON, PROTOBUF, ask, bulk_of, count, deflate_of, event, expect_problem, gzip_of, payloads, post,
    snappy_of, zstd_of,
};
use testing::TestServer;

type Coder = fn(&[u8]) -> Vec<u8>;

/// Snappy is not among them: it has no end of its own, so a body that is cut between frames looks whole.
const CODINGS: [(&str, Coder); 3] = [("gzip", gzip_of), ("zstd", zstd_of), ("deflate", deflate_of)];

/// A frame of zstd that holds nothing: decoders pass over it.
const SKIPPABLE: &[u8] = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc";

/// `text` as members, the later ones beginning at each of `cuts`.
fn members(code: Coder, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut start = 0;
    let mut body = Vec::new();
    for end in cuts.iter().copied().chain([text.len()]) {
        body.extend(code(&text[start..end]));
        start = end;
    }
    body
}

/// A body that arrives in pieces of `size` bytes.
fn in_pieces(body: &[u8], size: usize) -> Body {
    let pieces: Vec<io::Result<Vec<u8>>> = body.chunks(size).map(|piece| Ok(piece.to_vec())).collect();
    Body::wrap_stream(stream::iter(pieces))
}

#[tokio::test]
async fn several_members_are_one_body_in_pieces_of_any_size() {
    let z = TestServer::start().await;
    let text: String = (0..12).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    let text = text.as_bytes();
    for (coding, code) in CODINGS {
        // The first ends at a line's end, another is empty, others begin inside a line, the last holds one
        // byte.
        let mut body = members(code, text, &[70, 70, 93, 100, text.len() - 1]);
        if coding == "zstd" {
            body = [SKIPPABLE, &body, SKIPPABLE].concat();
        }
        let first = code(&text[..70]).len();
        for size in [1, 2, 7, 19, first, body.len()] {
            let table = format!("{coding}-{size}");
            let headers = [("content-type", NDJSON), ("content-encoding", coding)];
            let (status, summary) =
                ask(post(&z, &format!("/tables/{table}"), &headers, in_pieces(&body, size))).await;
            assert_eq!((status.as_u16(), &summary["count"]), (201, &json!(12)), "{table}: {summary}");
            assert_eq!(payloads(&z, &table).await, (0..12).collect::<Vec<i32>>(), "{table}");
        }
        // With its length said, in one piece.
        let headers = [("content-type", NDJSON), ("content-encoding", coding)];
        assert_eq!(ask(post(&z, "/tables/whole", &headers, body)).await.1["count"], 12);
        // Members that hold nothing are no lines.
        let (status, summary) =
            ask(post(&z, "/tables/none", &headers, [code(b""), code(b"")].concat())).await;
        assert!(status.is_success() && summary["count"] == 0, "{summary}");
    }
    assert_eq!(count(&z, "whole").await, 12 * CODINGS.len());
}

#[tokio::test]
async fn every_kind_of_body_may_have_several_members() {
    let z = TestServer::start().await;
    let bulk = bulk_of(vec![event("four", PayloadKind::Text), event("five", PayloadKind::Text)]);
    let bodies = [
        ("/tables/t", JSON, br#"{"payload":"one"}"#.to_vec()),
        ("/tables/t/bulk", JSON, br#"{"records":[{"payload":"two"}]}"#.to_vec()),
        ("/tables/t", PROTOBUF, event("three", PayloadKind::Text).encode_to_vec()),
        ("/tables/t/bulk", PROTOBUF, bulk),
        ("/consumers/g/commit", JSON, br#"{"table":"t","partition":0,"offset":1,"force":true}"#.to_vec()),
    ];
    for (coding, code) in CODINGS {
        for (path, content_type, text) in &bodies {
            let body = members(code, text, &[0, 3, text.len() / 2, text.len()]);
            for size in [1, 5, body.len()] {
                let headers = [("content-type", *content_type), ("content-encoding", coding)];
                let (status, answer) = ask(post(&z, path, &headers, in_pieces(&body, size))).await;
                assert!(status.is_success(), "{path} {content_type} {coding} {size}: {answer}");
            }
        }
    }
    let round = [
        "one", "one", "one", "two", "two", "two", "three", "three", "three", "four", "five", "four", "five",
        "four", "five",
    ];
    assert_eq!(payloads(&z, "t").await, round.repeat(CODINGS.len()));
    let settings = members(gzip_of, br#"{"retention_secs":1000}"#, &[4]);
    let request = z
        .request(Method::PUT, "/tables/t/config")
        .header("content-type", JSON)
        .header("content-encoding", "gzip");
    assert_eq!(ask(request.body(settings)).await.1["retention_secs"], 1000);
}

/// A body of two members and what may have happened to it.
fn broken(coding: &str, code: Coder, text: &[u8]) -> Vec<(String, Vec<u8>)> {
    let cut = text.len() / 2;
    let whole = members(code, text, &[cut]);
    let first = code(&text[..cut]).len();
    let mut broken = Vec::new();
    for behind in [
        b"garbage".as_slice(),
        b"\0",
        &[0; 512],
        b"\x1f",
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f",
        b"\n",
        b"{\"payload\":2}",
    ] {
        broken.push((format!("{coding} with {behind:?} behind it"), [whole.as_slice(), behind].concat()));
    }
    broken.push((
        format!("{coding} with the end of a member behind it"),
        [&whole[..], &whole[whole.len() - 4..]].concat(),
    ));
    broken.push((
        format!("{coding} with garbage between"),
        [&whole[..first], b"garbage", &whole[first..]].concat(),
    ));
    for end in (1..whole.len()).filter(|end| *end != first) {
        broken.push((format!("{coding} cut at {end} of {}", whole.len()), whole[..end].to_vec()));
    }
    if coding == "gzip" {
        // The checksum of each member.
        for at in [first - 8, whole.len() - 8] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            broken.push((format!("gzip with byte {at} flipped"), flipped));
        }
    }
    broken
}

#[tokio::test]
async fn what_is_no_member_breaks_the_body_wherever_it_stands() {
    let z = TestServer::start().await;
    let record = br#"{"payload":"first"}"#;
    let bulk = br#"{"records":[{"payload":1},{"payload":2}]}"#;
    for (coding, code) in CODINGS {
        for (path, text) in [("/tables/t", record.as_slice()), ("/tables/t/bulk", bulk)] {
            for (what, body) in broken(coding, code, text) {
                for size in [1, body.len()] {
                    let headers = [("content-type", JSON), ("content-encoding", coding)];
                    let answer = ask(post(&z, path, &headers, in_pieces(&body, size))).await;
                    expect_problem(format!("{path} {what}"), &answer, 400, "body_broken")
                        .with("outcome", "not_written");
                }
            }
        }
        let other = if coding == "gzip" { "zstd" } else { "gzip" };
        for body in [code(record), record.to_vec()] {
            let headers = [("content-type", JSON), ("content-encoding", other)];
            expect_problem(
                format!("not {other}"),
                &ask(post(&z, "/tables/t", &headers, body)).await,
                400,
                "body_broken",
            );
        }
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "nothing was written");
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_how_many_of_its_lines_are_stored() {
    let z = TestServer::start().await;
    let text: String = (0..40).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    for (coding, code) in CODINGS {
        for (number, (what, body)) in broken(coding, code, text.as_bytes()).into_iter().enumerate() {
            let table = format!("{coding}{number}");
            let headers = [("content-type", NDJSON), ("content-encoding", coding)];
            let answer =
                ask(post(&z, &format!("/tables/{table}"), &headers, in_pieces(&body, 1 + number % 50))).await;
            let stored = count(&z, &table).await;
            expect_problem(&what, &answer, 400, "body_broken").with("committed", stored);
            if stored > 0 {
                assert_eq!(payloads(&z, &table).await, (0..stored).collect::<Vec<usize>>(), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn members_are_bounded_together() {
    let z = TestServer::start().await;
    let mebibyte = vec![b' '; 1 << 20];
    for (coding, code) in CODINGS {
        let body = code(&mebibyte).repeat(20);
        let headers = [("content-type", JSON), ("content-encoding", coding)];
        expect_problem(
            coding,
            &ask(post(&z, "/tables/t", &headers, body.clone())).await,
            413,
            "body_too_large",
        );
        let headers = [("content-type", NDJSON), ("content-encoding", coding)];
        expect_problem(coding, &ask(post(&z, "/tables/t", &headers, body)).await, 413, "record_too_large");
    }
}

#[tokio::test]
async fn content_codings_are_known_by_all_their_names_in_any_case() {
    let z = TestServer::start().await;
    let plain = br#"{"payload":1}"#;
    let (gzip, zstd, deflate, snappy) = (gzip_of(plain), zstd_of(plain), deflate_of(plain), snappy_of(plain));
    let mut written = 0;
    for (names, body) in [
        (["gzip", "GZIP", "Gzip", "x-gzip", "X-GZip"].as_slice(), gzip.as_slice()),
        (&["zstd", "ZSTD", "Zstd"], &zstd),
        (&["deflate", "Deflate"], &deflate),
        (&["snappy", "SNAPPY"], &snappy),
        (&["identity", "Identity", "IDENTITY", ""], plain),
    ] {
        for name in names {
            for content_type in [JSON, NDJSON] {
                let headers = [("content-type", content_type), ("content-encoding", *name)];
                let (status, answer) = ask(post(&z, "/tables/t", &headers, body.to_vec())).await;
                assert_eq!(status, StatusCode::CREATED, "{name:?} {content_type}: {answer}");
                written += 1;
            }
        }
    }
    let commit = gzip_of(br#"{"table":"t","offset":1}"#);
    let headers = [("content-type", JSON), ("content-encoding", "X-GZIP")];
    assert_eq!(ask(post(&z, "/consumers/g/commit", &headers, commit)).await.0, StatusCode::OK);
    for name in ["br", "compress", "gzip2", "none", "*"] {
        let headers = [("content-type", JSON), ("content-encoding", name)];
        expect_problem(
            name,
            &ask(post(&z, "/tables/t", &headers, gzip.clone())).await,
            415,
            "unsupported_media_type",
        )
        .with("outcome", "not_written");
    }
    // More than one coding on one body: not half of it.
    for headers in [
        [("content-encoding", "gzip, zstd"), ("a", "b")],
        [("content-encoding", "gzip"), ("content-encoding", "zstd")],
    ] {
        let (status, answer) = ask(post(&z, "/tables/t", &headers, gzip.clone())).await;
        assert!(status.is_client_error(), "{headers:?}: {answer}");
    }
    assert_eq!(count(&z, "t").await, written);
}

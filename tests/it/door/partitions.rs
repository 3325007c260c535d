//! The partition in a header is that of the records that name none, in every encoding; a record that names
//! another is refused.

use prost::Message;
use reqwest::StatusCode;
use serde_json::{Value, json};
use zombi::proto::v1::{self, PayloadKind};

use super::{
    JSON, JsonAnswer, NDJSON, PROTOBUF, ask, bulk_of, count, event, expect_problem, payloads, post,
    post_lines,
};
use testing::TestServer;

const TOO_MANY: &str = "too_many_partitions";

/// How a record is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum RecordForm {
    Json,
    Protobuf,
    Bulk,
    ProtobufBulk,
    Lines,
}

const FORMS: [RecordForm; 5] =
    [RecordForm::Json, RecordForm::Protobuf, RecordForm::Bulk, RecordForm::ProtobufBulk, RecordForm::Lines];

/// Sends a record that names `own`; where there may be several, behind one that names none.
async fn send(
    z: &TestServer,
    table: &str,
    form: RecordForm,
    headers: &[(&str, &str)],
    own: Option<u32>,
) -> JsonAnswer {
    let none = json!({"payload": "none"});
    let mut record = json!({"payload": "own"});
    if let Some(own) = own {
        record["partition"] = json!(own);
    }
    let proto = v1::Event { partition: own, ..event("own", PayloadKind::Text) };
    let (path, content_type, body) = match form {
        RecordForm::Json => ("", JSON, record.to_string().into_bytes()),
        RecordForm::Protobuf => ("", PROTOBUF, proto.encode_to_vec()),
        RecordForm::Bulk => ("/bulk", JSON, json!({"records": [none, record]}).to_string().into_bytes()),
        RecordForm::ProtobufBulk => {
            ("/bulk", PROTOBUF, bulk_of(vec![event("none", PayloadKind::Text), proto]))
        }
        RecordForm::Lines => ("", NDJSON, format!("{none}\n\n{record}\n{none}").into_bytes()),
    };
    let headers = [headers, &[("content-type", content_type)]].concat();
    ask(post(z, &format!("/tables/{table}{path}"), &headers, body)).await
}

/// Where the records with a payload are.
async fn places(z: &TestServer, table: &str, payload: &str) -> Vec<Value> {
    let records = z.read_all(table, "").await;
    records
        .iter()
        .filter(|record| record["payload"] == payload)
        .map(|record| record["partition"].clone())
        .collect()
}

#[tokio::test]
async fn a_header_is_the_partition_of_records_that_name_none_and_no_others() {
    let z = TestServer::start().await;
    // The header, what the record says, and where it goes, if it is taken.
    let cases: [(Option<&str>, Option<u32>, Option<u32>); 11] = [
        (None, None, Some(0)),
        (None, Some(5), Some(5)),
        (Some("7"), None, Some(7)),
        (Some("7"), Some(7), Some(7)),
        (Some("0"), None, Some(0)),
        (Some("0"), Some(0), Some(0)),
        (Some("1023"), None, Some(1023)),
        (Some("7"), Some(5), None),
        (Some("7"), Some(0), None),
        (Some("0"), Some(5), None),
        (Some("7"), Some(1023), None),
    ];
    for name in ["x-partition", "Zombi-Partition"] {
        for (number, (header, own, place)) in cases.into_iter().enumerate() {
            for form in FORMS {
                let (table, what) = (
                    format!("{name}{number}{form:?}"),
                    format!("{name} {header:?}, record {own:?}, {form:?}"),
                );
                let headers: Vec<_> = header.into_iter().map(|value| (name, value)).collect();
                let answer = send(&z, &table, form, &headers, own).await;
                let Some(place) = place else {
                    refused(&z, &table, form, &answer, &what).await;
                    continue;
                };
                assert_eq!(answer.0, StatusCode::CREATED, "{what}: {}", answer.1);
                assert_eq!(places(&z, &table, "own").await, [place], "{what}");
                let others = places(&z, &table, "none").await;
                let of_header = header.map_or(0, |header| header.parse::<u32>().unwrap());
                assert!(others.iter().all(|other| *other == of_header), "{what}: {others:?}");
                assert!(
                    !matches!(form, RecordForm::Json | RecordForm::Protobuf)
                        || answer.1["partition"] == place,
                    "{what}: {}",
                    answer.1
                );
            }
        }
    }
}

async fn refused(z: &TestServer, table: &str, form: RecordForm, answer: &JsonAnswer, what: &str) {
    let problem = expect_problem(what, answer, 400, "bad_partition").with("outcome", "not_written");
    let stored = match form {
        RecordForm::Json | RecordForm::Protobuf => 0,
        RecordForm::Bulk | RecordForm::ProtobufBulk => {
            problem.with("index", 1);
            0
        }
        RecordForm::Lines => {
            // An empty line is a line.
            problem.with("line", 3);
            1
        }
    };
    assert_eq!(count(z, table).await, stored, "{what}");
}

#[tokio::test]
async fn a_header_that_is_no_partition_is_refused_in_every_encoding() {
    let z = TestServer::start().await;
    for form in FORMS {
        for name in ["x-partition", "zombi-partition"] {
            for value in ["x", "-1", "", "1.0", "+1", "0x1", "1,2", "1 2"] {
                let answer = send(&z, "t", form, &[(name, value)], None).await;
                expect_problem(format!("{name}: {value:?}, {form:?}"), &answer, 400, "bad_partition")
                    .with("outcome", "not_written");
            }
            // Not cut to 32 bits, which would be 7.
            for value in
                ["1024", "4294967295", "4294967303", "18446744073709551615", "99999999999999999999999"]
            {
                let answer = send(&z, "t", form, &[(name, value)], None).await;
                expect_problem(
                    format!("{name}: {value:?}, {form:?}"),
                    &answer,
                    422,
                    "partition_out_of_range",
                );
            }
        }
        for headers in [
            [("x-partition", "1"), ("x-partition", "2")],
            [("zombi-partition", "1"), ("zombi-partition", "2")],
            [("x-partition", "1"), ("zombi-partition", "2")],
            [("zombi-partition", "1"), ("x-partition", "0")],
            [("x-partition", "1"), ("zombi-partition", "one")],
        ] {
            for own in [None, Some(1), Some(2)] {
                let answer = send(&z, "t", form, &headers, own).await;
                expect_problem(format!("{headers:?}, {own:?}, {form:?}"), &answer, 400, "bad_partition");
            }
        }
        assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "{form:?}: nothing was written");
        let both = [("x-partition", "3"), ("zombi-partition", "3")];
        let (status, answer) = send(&z, "both", form, &both, None).await;
        assert_eq!(status, StatusCode::CREATED, "{form:?}: {answer}");
    }
    assert!(places(&z, "both", "own").await.iter().all(|place| *place == 3));
}

#[tokio::test]
async fn what_is_checked_of_a_partition_is_checked_of_the_headers() {
    let z = TestServer::start().await;
    let records = json!({"records": [{"payload": 1}, {"payload": 2, "partition": 7}]}).to_string();
    let headers = [("content-type", JSON), ("x-partition", "7")];
    for (expected, status) in [(0, 201), (0, 409), (2, 201)] {
        let path = format!("/tables/t/bulk?expected_offset={expected}");
        let answer = ask(post(&z, &path, &headers, records.clone())).await;
        assert_eq!(answer.0.as_u16(), status, "expected_offset={expected}: {}", answer.1);
    }
    // A key is known in the partition that it went to.
    let record = json!({"payload": 1, "idempotency_key": "k"}).to_string();
    for (partition, status) in [("7", 201), ("7", 200), ("8", 201)] {
        let headers = [("content-type", JSON), ("x-partition", partition)];
        let answer = ask(post(&z, "/tables/t", &headers, record.clone())).await;
        assert_eq!(answer.0.as_u16(), status, "partition {partition}: {}", answer.1);
    }
}

/// Lines that name their partitions.
fn lines_to(partitions: impl IntoIterator<Item = u32>) -> Vec<String> {
    let line =
        |(number, partition): (usize, u32)| json!({"payload": number, "partition": partition}).to_string();
    partitions.into_iter().enumerate().map(line).collect()
}

#[tokio::test]
async fn a_stream_names_the_line_whose_partition_is_one_too_many() {
    let z = TestServer::start_with(&[("limits.partitions", "3")]).await;
    let send = async |path: &str, lines: Vec<String>| {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        post_lines(&z, path, &lines).await
    };
    let mut near = lines_to([0, 1, 2, 3, 0]);
    // An empty line is a line.
    near.insert(2, String::new());
    let answer = send("/tables/t", near).await;
    expect_problem("near", &answer, 422, TOO_MANY).with("line", 5).with("committed", 4);
    assert_eq!(payloads(&z, "t").await, [0, 1, 2]);
    // Far behind the first, whichever batch it comes with.
    let far = lines_to((0..9000).map(|number| if number == 8500 { 3 } else { number % 3 }));
    let answer = send("/tables/t", far).await;
    expect_problem("far", &answer, 422, TOO_MANY).with("line", 8501).with("committed", 8500);
    assert_eq!(count(&z, "t").await, 8503);
    // None of another table may be made: that is said of the first line.
    for (what, partitions) in [("one partition", [0, 0, 0]), ("several", [0, 1, 2])] {
        let answer = send("/tables/other", lines_to(partitions)).await;
        expect_problem(what, &answer, 422, TOO_MANY).with("line", 1).with("committed", 0);
    }
    let answer = send("/tables/other/raw", vec!["1".to_owned(), "2".to_owned()]).await;
    expect_problem("payloads", &answer, 422, TOO_MANY).with("line", 1).with("committed", 0);
    assert_eq!(count(&z, "other").await, 0);
}

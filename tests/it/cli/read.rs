//! `zombi read`: all of a table or a part of it, in every form, and where it goes on.

use serde_json::{Value, json};
use testing::{Sent, TestServer, command::CommandLine};

use super::{FAILED, USAGE, lines, one, says, zombi};

/// Three events in two partitions, at known times.
async fn filled(table: &str) -> TestServer {
    let z = TestServer::start().await;
    let records = json!({"records": [
        {"payload": {"order": 7}, "timestamp_ms": 1_000, "idempotency_key": "a"},
        {"payload": "text", "timestamp_ms": 2_000, "partition": 1, "headers": {"h": "v"}},
        {"payload_base64": "/wA=", "timestamp_ms": 3_000},
    ]});
    assert_eq!(z.post(&format!("/tables/{table}/bulk"), &records).await.0, 201);
    z
}

#[tokio::test]
async fn a_pipe_gets_the_records_as_the_server_has_them() {
    let z = filled("t").await;
    let expected = z.read_all("t", "").await;
    assert_eq!(lines(&zombi(&z, &["read", "t"]).await), expected);
    assert_eq!(lines(&zombi(&z, &["--output", "json", "read", "t"]).await), expected);
    let payload = CommandLine::new(&["read", "t", "-o", "payload", "--partition", "1"]).at(&z).run().await;
    assert_eq!(payload.out, "text\n");
    assert_eq!(zombi(&z, &["read", "t", "-o", "name"]).await.out, "t/0/0\nt/1/0\nt/0/1\n");
    let yaml = zombi(&z, &["read", "t", "-o", "yaml", "-n", "1"]).await.out;
    let expected = "payload:\n  order: 7\ntimestamp_ms: 1000\npartition: 0\noffset: 0\nidempotency_key: a\n";
    assert_eq!(yaml, expected);
}

#[tokio::test]
async fn a_table_has_columns() {
    let z = filled("t").await;
    let expected = "\
PARTITION  OFFSET  TIME                      KEY  PAYLOAD
        0       0  1970-01-01T00:00:01.000Z       {\"order\":7}
        1       0  1970-01-01T00:00:02.000Z       text
        0       1  1970-01-01T00:00:03.000Z       base64:/wA=
";
    assert_eq!(zombi(&z, &["read", "t", "-o", "table"]).await.out, expected);
    let wide = "\
PARTITION  OFFSET  TIME                      KEY  IDEMPOTENCY KEY  HEADERS  PAYLOAD
        0       0  1970-01-01T00:00:01.000Z       a                         {\"order\":7}
        1       0  1970-01-01T00:00:02.000Z                        h=v      text
        0       1  1970-01-01T00:00:03.000Z                                 base64:/wA=
";
    assert_eq!(zombi(&z, &["read", "t", "-o", "wide"]).await.out, wide);
}

#[tokio::test]
async fn parts_are_by_partition_offset_time_and_number() {
    let z = filled("t").await;
    for (words, expected) in [
        (&["--partition", "0"][..], "t/0/0 t/0/1"),
        (&["--partition", "0", "--offset", "1"], "t/0/1"),
        (&["--since", "1970-01-01T00:00:02Z"], "t/1/0 t/0/1"),
        (&["--since", "2000", "--until", "3000"], "t/1/0"),
        (&["--since", "1h"], ""),
        (&["--until", "1h"], "t/0/0 t/1/0 t/0/1"),
        (&["-n", "2"], "t/0/0 t/1/0"),
        (&["-n", "100"], "t/0/0 t/1/0 t/0/1"),
    ] {
        let words = [&["read", "t", "-o", "name"][..], words].concat();
        let names: Vec<String> = zombi(&z, &words).await.out.lines().map(str::to_owned).collect();
        assert_eq!(names.join(" "), expected, "{words:?}");
    }
    for (words, named) in [
        (&["--offset", "1"][..], "--partition"),
        (&["--partition", "0", "--offset", "1", "--since", "1h"], "--since"),
        (&["--since", "yesterday"], "RFC 3339"),
        (&["-n", "0"], "0"),
    ] {
        let words = [&["read", "t"][..], words].concat();
        says(named, &CommandLine::new(&words).at(&z).run().await, USAGE, &[named]);
    }
}

#[tokio::test]
async fn many_pages_are_one_list() {
    let z = TestServer::start().await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 5_000).await;
    let read = lines(&zombi(&z, &["read", "t"]).await);
    assert_eq!(Sent::from_records(&read), sent);
    assert_eq!(lines(&zombi(&z, &["read", "t", "-n", "2345"]).await).len(), 2345);
}

#[tokio::test]
async fn pages_are_as_small_as_the_server_wants_them() {
    let z = TestServer::start_with(&[("limits.page_records", "7")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 100).await;
    assert_eq!(Sent::from_records(&lines(&zombi(&z, &["read", "t"]).await)), sent);
    assert_eq!(lines(&zombi(&z, &["read", "t", "-n", "33"]).await).len(), 33);
    assert_eq!(lines(&zombi(&z, &["tail", "t", "-n", "6"]).await).len(), 6);
    let tail = zombi(&z, &["tail", "t"]).await;
    assert!(tail.err.contains("no more than 7") && tail.err.contains("limits.page_records"), "{}", tail.err);
    assert_eq!(lines(&tail).len(), 7);
    let bench = one(&zombi(&z, &["bench", "b", "--duration", "300ms", "--size", "1"]).await);
    assert_eq!(bench["read_back"]["right"], true, "{bench}");
    assert_eq!(bench["bytes"], 55 * bench["events"].as_u64().unwrap(), "what says whose it is: {bench}");
}

#[tokio::test]
async fn that_there_is_nothing_is_said_to_people_only() {
    let z = filled("t").await;
    for words in [
        &["read", "t", "--since", "1h"][..],
        &["tail", "t", "--key", "nobody"],
        &["segments", "t"],
        &["consumers"],
    ] {
        let ran = zombi(&z, &[words, &["-o", "table"]].concat()).await;
        assert!(ran.out.is_empty() && ran.err.contains("no "), "{words:?}: {}{}", ran.out, ran.err);
        let piped = zombi(&z, words).await;
        assert_eq!((piped.out.as_str(), piped.err.as_str()), ("", ""), "{words:?}");
    }
}

#[tokio::test]
async fn a_cursor_file_makes_each_run_go_on_where_the_last_one_ended() {
    let z = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("place").display().to_string();
    let read = async || lines(&zombi(&z, &["read", "t", "--cursor-file", &place, "--since", "0"]).await);
    let mut sent = Sent::default();
    let mut all: Vec<Value> = Vec::new();
    for count in [10, 1500, 1] {
        sent.append(&z, "t", 2, count).await;
        let found = read().await;
        assert_eq!(found.len(), count);
        all.extend(found);
        assert_eq!(read().await, Vec::<Value>::new(), "there is nothing new");
    }
    assert_eq!(Sent::from_records(&all), sent);
    // A part of what there is, and then the rest.
    sent.append(&z, "t", 2, 10).await;
    let some = lines(&zombi(&z, &["read", "t", "--cursor-file", &place, "-n", "4"]).await);
    all.extend(some);
    all.extend(read().await);
    assert_eq!(Sent::from_records(&all), sent);
    // A place that is none.
    std::fs::write(&place, "no cursor").unwrap();
    let command = CommandLine::new(&["read", "t", "--cursor-file", &place]).at(&z);
    says("two words", &command.run().await, USAGE, &["place"]);
    std::fs::write(&place, "nonsense").unwrap();
    says("nonsense", &command.run().await, FAILED, &["bad_cursor"]);
}

#[tokio::test]
async fn a_place_that_is_gone_is_an_error_that_says_how_to_go_on() {
    let z = TestServer::start().await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 10).await;
    assert_eq!(z.delete("/tables/t").await.0, 204);
    assert_eq!(z.post("/tables/t", &json!({"payload": "new"})).await.0, 201);
    let ran = CommandLine::new(&["read", "t", "--partition", "0", "--offset", "3"]).at(&z).run().await;
    says("deleted events", &ran, FAILED, &["offset_expired", "--cursor-file"]);
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("place");
    std::fs::write(&place, ran.err.lines().last().unwrap()).unwrap();
    let read = zombi(&z, &["read", "t", "--cursor-file", &place.display().to_string()]).await;
    assert_eq!(one(&read)["payload"], "new");
}

#[tokio::test]
async fn who_has_read_enough_is_no_error() {
    let z = TestServer::start().await;
    Sent::default().append(&z, "t", 1, 5_000).await;
    let mut running = CommandLine::new(&["read", "t"]).at(&z).begin();
    assert!(running.line().await.contains("event 0"));
    assert_eq!(running.closed().await, Some(0));
}

/// Nothing is printed by which it would notice.
#[tokio::test]
async fn who_follows_a_quiet_table_and_has_seen_enough_is_no_error() {
    let z = TestServer::start().await;
    Sent::default().append(&z, "t", 1, 3).await;
    let mut running = CommandLine::new(&["tail", "t", "-f"]).at(&z).begin();
    assert!(running.line().await.contains("event 0"));
    assert_eq!(running.closed().await, Some(0));
}

//! On a terminal: tables that fit it, bars while something goes on, and nothing of either in a pipe.

use serde_json::json;
use testing::{Sent, TestServer, command::CommandLine};

use super::{FAILED, lines, one, scripted::Scripted, zombi};

#[tokio::test]
async fn a_terminal_gets_a_table_that_fits() {
    let z = TestServer::start().await;
    let long = "x".repeat(300);
    let records = json!({"records": [
        {"payload": {"order": 7}, "timestamp_ms": 1_000},
        {"payload": format!("\u{1b}[2J{long}"), "timestamp_ms": 2_000},
    ]});
    assert_eq!(z.post("/tables/t/bulk", &records).await.0, 201);
    let ran = CommandLine::new(&["read", "t"]).at(&z).on_terminal(80).await;
    let cut = format!("\\u{{1b}}[2J{}…", "x".repeat(20));
    let expected = format!(
        "\
PARTITION  OFFSET  TIME                      KEY  PAYLOAD
        0       0  1970-01-01T00:00:01.000Z       {{\"order\":7}}
        0       1  1970-01-01T00:00:02.000Z       {cut}
"
    );
    assert_eq!((ran.code, ran.out), (Some(0), expected));
    let wide = CommandLine::new(&["read", "t", "-o", "wide"]).at(&z).on_terminal(80).await.out;
    assert!(wide.contains(&long), "nothing is cut off");
    let tables = CommandLine::new(&["tables"]).at(&z).on_terminal(80).await.out;
    assert!(tables.starts_with("TABLE  PARTITIONS  EVENTS"), "{tables}");
}

#[tokio::test]
async fn a_bar_shows_how_far_it_is_and_how_long_it_takes() {
    let z = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("numbers");
    std::fs::write(&file, (0..50_000).map(|number| format!("{number:0100}\n")).collect::<String>()).unwrap();
    let name = file.display().to_string();
    let shown = CommandLine::new(&["append", "t", "-f", &name]).at(&z).on_terminal(120).await;
    assert_eq!(shown.code, Some(0), "{}", shown.out);
    for word in ["%", "events", "MiB", "/s", " left", "EVENTS/S"] {
        assert!(shown.out.contains(word), "{word:?} is not shown:\n{:?}", shown.out);
    }
    assert!(shown.out.contains("\n") && shown.out.contains("50,000"), "{:?}", shown.out);
    // In a pipe there is the summary and nothing else.
    let piped = zombi(&z, &["append", "u", "-f", &name]).await;
    assert_eq!((&one(&piped)["count"], piped.err.as_str()), (&json!(50_000), ""));
}

#[tokio::test]
async fn a_bar_promises_nothing_before_anything_is_done() {
    // It hangs up on everybody.
    let z = Scripted::start(Vec::new()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    std::fs::write(&file, "one\ntwo\n").unwrap();
    let name = file.display().to_string();
    let shown = z.command(&["append", "t", "-f", &name, "--timeout", "2s"]).on_terminal(120).await;
    assert_eq!(shown.code, Some(FAILED), "{}", shown.out);
    assert!(shown.out.contains("--:--:-- left") && !shown.out.contains("00:00:00"), "{:?}", shown.out);
}

#[tokio::test]
async fn whatever_takes_long_shows_that_it_goes_on() {
    let z = TestServer::start_tiered(&[]).await;
    Sent::default().append(&z, "t", 1, 5_000).await;
    for (words, shown) in [
        (&["read", "t"][..], &["events"][..]),
        (&["bench", "b", "--duration", "500ms"], &["appending", " events"]),
        (&["flush"], &["moving events to S3"]),
    ] {
        let ran = CommandLine::new(words).at(&z).watched(120).await;
        assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.err);
        for word in shown {
            assert!(ran.err.contains(word), "{words:?}: {word:?} is not shown: {:?}", ran.err);
        }
        // What is piped has nothing of it.
        assert!(!lines(&ran).is_empty() && !ran.out.contains('\u{1b}'), "{words:?}: {:.300}", ran.out);
        let piped = CommandLine::new(words).at(&z).run().await;
        assert_eq!(piped.err, "", "{words:?}");
    }
}

#[tokio::test]
async fn a_terminal_that_can_nothing_gets_neither_bars_nor_colours() {
    let z = TestServer::start().await;
    Sent::default().append(&z, "t", 1, 10).await;
    for (name, value) in [("TERM", "dumb"), ("NO_COLOR", "1")] {
        for words in [&["tables"][..], &["read", "t"], &["consumers"]] {
            let ran = CommandLine::new(words).at(&z).env(name, value).on_terminal(80).await;
            assert_eq!(ran.code, Some(0), "{}", ran.out);
            assert!(!ran.out.contains('\u{1b}'), "{words:?}: {:?}", ran.out);
        }
    }
    let dumb = CommandLine::new(&["flush"]).at(&z).env("TERM", "dumb").on_terminal(80).await;
    assert!(dumb.out.contains("no_cold_tier") && !dumb.out.contains('\u{1b}'), "{:?}", dumb.out);
}

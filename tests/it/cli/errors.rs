//! How a command ends when the server says no, is not there, or is another one; and whom it believes.

use std::time::Duration;

use serde_json::json;
use testing::{
    TestServer,
    command::{CommandLine, Ran},
};
use tokio::{net::TcpListener, time::Instant};

use super::{
    FAILED, USAGE, one, says,
    scripted::{Scene, Scripted, ok},
    zombi,
};

#[tokio::test]
async fn a_refusal_is_said_with_its_code_and_its_request() {
    let z = TestServer::start().await;
    let ran = CommandLine::new(&["read", "nope"]).at(&z).run().await;
    says("no such table", &ran, FAILED, &["zombi: unknown_table: ", "nope", "request_id "]);
    assert_eq!(ran.out, "");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_at_once() {
    // Nobody listens there any more.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for words in [&["tables"][..], &["read", "t"], &["consumers"], &["flush"]] {
        let ran = CommandLine::new(words).env("ZOMBI_URL", &url).run().await;
        says(&url, &ran, FAILED, &[url.as_str(), "cannot be reached", "refused"]);
    }
    // What has work to do waits a while, and not for ever.
    let began = Instant::now();
    let ran = CommandLine::new(&["append", "t", "--url", &url, "--timeout", "1s"]).input("a\n").run().await;
    says("append", &ran, FAILED, &["cannot be reached", "trying again"]);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ran = CommandLine::new(&["tables", "--url", &url, "--timeout", "300ms"]).run().await;
    says("silence", &ran, FAILED, &["no answer within 300ms"]);
}

#[tokio::test]
async fn flags_win_over_the_environment_and_may_stand_before_the_command() {
    let z = TestServer::start().await;
    let url = z.url("");
    for words in [&["--url", &url, "tables"][..], &["tables", "--url", &url]] {
        let ran = CommandLine::new(words).at(&z).env("ZOMBI_URL", "http://127.0.0.1:1").run().await;
        assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.err);
    }
    for (url, named) in
        [("localhost:8080", "http://"), ("http://u:p@z", "--token-file"), ("http://z/?a", "path")]
    {
        let ran = CommandLine::new(&["tables"]).env("ZOMBI_URL", url).run().await;
        says(url, &ran, USAGE, &["ZOMBI_URL ", named]);
        says(url, &CommandLine::new(&["tables", "--url", url]).run().await, USAGE, &["--url ", named]);
    }
    for words in [
        &["--set", "port=1", "tables"][..],
        &["--url", "http://z", "verify"],
        &["tables", "-o", "csv"],
        &["--config", "/nowhere", "token", "new", "a"],
    ] {
        says("a flag of others", &CommandLine::new(words).run().await, USAGE, &[]);
    }
}

#[tokio::test]
async fn names_that_kubernetes_injects_are_nobodys_business() {
    let z = TestServer::start().await;
    for words in [&["tables"][..], &["consumers"], &["append", "t"], &["completions", "bash"]] {
        let ran = CommandLine::new(words).at(&z).env("ZOMBI_PORT", "tcp://10.0.0.1:8080");
        let ran = ran.env("ZOMBI_SERVICE_HOST", "10.0.0.1").env("ZOMBI_WHATEVER", "1").run().await;
        assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.err);
    }
    let check =
        CommandLine::new(&["config", "check"]).env("ZOMBI_URL", "http://z").env("ZOMBI_TOKEN_FILE", "/t");
    assert_eq!(check.run().await.code, Some(0), "a server lets the names of clients pass");
}

#[tokio::test]
async fn what_waiting_can_heal_is_tried_again_and_what_it_cannot_is_not() {
    let busy = Scene::Json(503, "retry-after: 1\r\n", json!({"code": "overloaded", "detail": "full"}));
    let page = ok(json!({"tables": [], "has_more": false, "next": null}));
    let server = Scripted::start(vec![busy.clone(), Scene::Silence, page.clone()]).await;
    let began = Instant::now();
    let ran = server.command(&["tables"]).run().await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.err.contains("overloaded: full; trying again") && ran.err.contains("answers again"),
        "{}",
        ran.err
    );
    assert!(began.elapsed() >= Duration::from_secs(1), "it waits as long as it is told to");
    assert_eq!(server.heard().len(), 3);

    let impatient = Scripted::start(vec![busy, page.clone()]).await;
    let ran = impatient.command(&["tables", "--timeout", "500ms"]).run().await;
    says("no time to wait", &ran, FAILED, &["overloaded: full"]);
    let bug = Scene::Json(500, "", json!({"code": "internal", "detail": "a bug", "request_id": "7"}));
    let server = Scripted::start(vec![bug; 10]).await;
    says("a bug", &server.command(&["tables"]).run().await, FAILED, &["internal: a bug (request_id 7)"]);
    assert_eq!(server.heard().len(), 3);
    let other = Scene::Json(418, "", json!({"detail": "no\u{1b}[31m teapot"}));
    let ran = Scripted::start(vec![other]).await.command(&["tables"]).run().await;
    says("another server", &ran, FAILED, &[r"http_418: no\u{1b}[31m teapot"]);
    let other = ok(json!(["no", "tables"]));
    let ran = Scripted::start(vec![other]).await.command(&["tables"]).run().await;
    says("another server", &ran, FAILED, &["does not answer as Zombi does"]);
    let moved = Scene::Json(308, "location: https://elsewhere.example/\r\n", json!(null));
    let ran = Scripted::start(vec![moved]).await.command(&["tables"]).run().await;
    says("moved", &ran, FAILED, &["https://elsewhere.example/", "--url"]);
}

#[tokio::test]
async fn a_token_is_read_for_each_request_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let name = file.display().to_string();
    std::fs::write(&file, "first-token\n").unwrap();
    let no = Scene::Json(401, "", json!({"code": "unauthenticated", "detail": "no"}));
    let page = |next: Option<&str>| ok(json!({"tables": [], "has_more": next.is_some(), "next": next}));
    let server = Scripted::start(vec![page(None), no.clone()]).await;
    for words in [&["tables", "--token-file", &name][..], &["tables"]] {
        let ran: Ran = server.command(words).env("ZOMBI_TOKEN_FILE", &name).run().await;
        assert!(!ran.err.contains("first-token") && !ran.out.contains("first-token"), "{}", ran.err);
    }
    let heard = server.heard();
    assert_eq!(heard.len(), 2, "a token that did not change is not sent again");
    assert!(
        heard.iter().all(|heard| heard.headers.contains("authorization: bearer first-token")),
        "{heard:?}"
    );
    for (text, named) in [("", "does not hold a token"), ("a\nb", "does not hold a token")] {
        std::fs::write(&file, text).unwrap();
        says(named, &server.command(&["tables", "--token-file", &name]).run().await, USAGE, &[named, &name]);
    }
    let missing = server.command(&["tables", "--token-file", "/nowhere/token"]).run().await;
    says("no file", &missing, USAGE, &["/nowhere/token"]);
}

#[tokio::test]
async fn a_whole_answer_is_read_in_every_form() {
    let z = TestServer::start().await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, 201);
    let yaml = zombi(&z, &["tables", "-o", "yaml"]).await.out;
    assert!(yaml.starts_with("table: t\n") && yaml.contains("\n  next: 1\n"), "{yaml}");
    assert_eq!(one(&zombi(&z, &["tables", "-o", "json"]).await)["table"], "t");
    for words in
        [&["tables", "-o", "payload"][..], &["consumers", "-o", "payload"], &["flush", "-o", "payload"]]
    {
        says("payload", &CommandLine::new(words).at(&z).run().await, USAGE, &["payload"]);
    }
}

//! What the environment says of S3 and of the log: taken where the setting is not given, and never a reason
//! to panic or to be silent.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, sync::atomic::Ordering::SeqCst};

use hyper::http::request::Parts;
use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{FAILED, USAGE, says, says_one_of};
use testing::{
    faults::StandingRefusal,
    process::Start,
    s3::{ACCESS_KEY, ObjectStore, S3Server, SECOND_ACCESS_KEY, SECRET_KEY},
    server::{BUCKET, eventually},
};

async fn store() -> S3Server {
    let server = S3Server::start(([127, 0, 0, 1], 0).into(), ObjectStore::default()).await.unwrap();
    server.store.make_bucket(BUCKET);
    server.store.watch_puts();
    server
}

fn serve(volume: &TempDir) -> Start {
    Start::serve(&volume.path().join("db")).set("host", "127.0.0.1")
}

#[tokio::test]
async fn credentials_that_are_missing_or_cannot_be_sent_are_named() {
    let s3 = store().await;
    let volume = TempDir::new().unwrap();
    let with_bucket = serve(&volume).with_bucket(&s3.endpoint());
    let none = with_bucket.clone().without_env("AWS_ACCESS_KEY_ID").without_env("AWS_SECRET_ACCESS_KEY");
    let ended = none.ended().await;
    says("no credentials", &ended, FAILED, &["credentials", "AWS_ACCESS_KEY_ID"]);
    let half = with_bucket.clone().without_env("AWS_SECRET_ACCESS_KEY");
    let ended = half.ended().await;
    says("half of a key pair", &ended, FAILED, &["AWS_SECRET_ACCESS_KEY"]);

    // What a Secret often holds: white space around it is taken off, with a word, or refused by name.
    let (newline, spaces) = (format!("{ACCESS_KEY}\n"), format!(" {SECRET_KEY}\r\n"));
    let untrimmed = [
        ("AWS_ACCESS_KEY_ID", with_bucket.clone().env("AWS_ACCESS_KEY_ID", &newline)),
        ("AWS_SECRET_ACCESS_KEY", with_bucket.clone().env("AWS_SECRET_ACCESS_KEY", &spaces)),
    ];
    for (name, start) in untrimmed {
        let said = start.says_at_start().await;
        assert!(said.contains(name), "{name} is not named:\n{said}");
    }
    // What can be no header at all is refused by name.
    let impossible = [
        ("AWS_ACCESS_KEY_ID", with_bucket.clone().env("AWS_ACCESS_KEY_ID", "zom\nbi")),
        ("AWS_ACCESS_KEY_ID", with_bucket.clone().env("AWS_ACCESS_KEY_ID", "z\u{1}mbi")),
        ("AWS_SESSION_TOKEN", with_bucket.clone().env("AWS_SESSION_TOKEN", "to\nken")),
    ];
    for (name, start) in impossible {
        let ended = start.ended().await;
        says(name, &ended, USAGE, &[name]);
    }
    // What is empty was to be a key.
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        for value in ["", " \n"] {
            let ended = with_bucket.clone().env(name, value).ended().await;
            says(name, &ended, USAGE, &[name, "empty"]);
        }
    }
}

/// Without a key pair of its own.
fn without_keys(start: Start) -> Start {
    start.without_env("AWS_ACCESS_KEY_ID").without_env("AWS_SECRET_ACCESS_KEY")
}

#[tokio::test]
async fn who_has_no_credentials_is_told_so_where_a_metadata_service_is_silent() {
    let (s3, volume) = (store().await, TempDir::new().unwrap());
    // Connections are taken, and nothing is ever said on them, as where packets are dropped.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let start =
        without_keys(serve(&volume).with_bucket(&s3.endpoint())).env("AWS_EC2_METADATA_DISABLED", "false");
    let start =
        start.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &format!("http://{}", silent.local_addr().unwrap()));
    says(
        "a silent metadata service",
        &start.ended().await,
        FAILED,
        &["there are no credentials", "AWS_ACCESS_KEY_ID"],
    );
}

#[tokio::test]
async fn a_role_that_cannot_be_asked_for_now_is_waited_for() {
    let (s3, volume) = (store().await, TempDir::new().unwrap());
    let token = volume.path().join("token");
    std::fs::write(&token, "a token").unwrap();
    let start = without_keys(serve(&volume).with_bucket(&s3.endpoint()))
        .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/zombi");
    let start = start.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token.display().to_string());
    // Nothing listens there.
    let mut process = start.env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1").begin();
    process
        .until("the bucket cannot be reached: there is nothing on the volume to serve without it: retrying")
        .await;
    assert!(
        process.said.contains("AWS_ACCESS_KEY_ID") && !process.said.contains("there are no credentials"),
        "{}",
        process.said
    );
    assert!(!process.has_ended());
}

#[tokio::test]
async fn endpoints_that_are_no_urls_are_refused_by_name() {
    let volume = TempDir::new().unwrap();
    for endpoint in [
        "127.0.0.1:9000",
        "minio:9000",
        "minio",
        "//minio:9000",
        "ftp://minio:9000",
        "http://",
        "http:// minio",
    ] {
        let ended = serve(&volume).with_bucket(endpoint).ended().await;
        assert!([Some(FAILED), Some(USAGE)].contains(&ended.code), "{endpoint}: {}", ended.said);
        says_one_of(endpoint, &ended.said, &["s3.endpoint"]);
        says_one_of(endpoint, &ended.said, &["http://", "scheme", "URL"]);
    }
    let ended = serve(&volume).with_bucket("http://minio:secret@127.0.0.1:9000").ended().await;
    says_one_of("a user", &ended.said, &["s3.endpoint: it must not hold a user"]);
    assert!(!ended.said.contains("secret"), "{}", ended.said);
    // Where it comes from is named, too.
    let from_aws = serve(&volume).set("s3.bucket", BUCKET).env("AWS_ENDPOINT_URL", "minio:9000");
    let from_aws = from_aws.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    let ended = from_aws.ended().await;
    assert!([Some(FAILED), Some(USAGE)].contains(&ended.code), "{}", ended.said);
    says_one_of("AWS_ENDPOINT_URL", &ended.said, &["AWS_ENDPOINT_URL", "s3.endpoint"]);
}

#[tokio::test]
async fn a_word_that_is_no_level_is_refused_and_not_taken_for_silence() {
    let volume = TempDir::new().unwrap();
    for level in ["warning", "verbose", "informational", "info,warning", "zombi=loud"] {
        let word = level.rsplit([',', '=']).next().unwrap();
        let ended = serve(&volume).env("ZOMBI_LOG_LEVEL", level).ended().await;
        says(level, &ended, USAGE, &[word]);
        says_one_of(level, &ended.said, &["ZOMBI_LOG_LEVEL", "log.level"]);
        let ended = Start::command(&["config", "check"]).set("log.level", level).ended().await;
        says(level, &ended, USAGE, &["log.level"]);
        assert!(!volume.path().join("db").exists(), "{level}: it began all the same");
    }
    for level in ["warn", "INFO", "debug", "zombi=debug,info", "off"] {
        let ended = Start::command(&["config", "check"]).env("ZOMBI_LOG_LEVEL", level).ended().await;
        says(level, &ended, 0, &[]);
    }
}

/// The region that requests are signed for.
fn region(s3: &S3Server) -> String {
    let put = s3.store.object_puts().pop().expect("something was put");
    // Credential=KEY/DATE/REGION/s3/aws4_request
    let scope = put
        .header("authorization")
        .split("Credential=")
        .nth(1)
        .unwrap_or_else(|| panic!("{put:?}"))
        .to_owned();
    scope.split('/').nth(2).unwrap().to_owned()
}

#[tokio::test]
async fn the_region_is_the_settings_then_aws_names_then_the_first() {
    let (set, region_name, default_name) =
        (("s3.region", "eu-set-1"), ("AWS_REGION", "eu-env-2"), ("AWS_DEFAULT_REGION", "eu-env-3"));
    let cases = [
        (vec![], None, "us-east-1"),
        (vec![default_name], None, "eu-env-3"),
        (vec![default_name, region_name], None, "eu-env-2"),
        (vec![default_name, ("AWS_REGION", "")], None, "eu-env-3"),
        (vec![("AWS_REGION", ""), ("AWS_DEFAULT_REGION", " ")], None, "us-east-1"),
        (vec![default_name, region_name], Some(set), "eu-set-1"),
        (vec![region_name, ("ZOMBI_S3_REGION", "eu-zombi-4")], None, "eu-zombi-4"),
    ];
    for (environment, setting, expected) in cases {
        let (s3, volume) = (store().await, TempDir::new().unwrap());
        let mut start = serve(&volume).with_bucket(&s3.endpoint());
        for (name, value) in &environment {
            start = start.env(name, value);
        }
        if let Some((key, value)) = setting {
            start = start.set(key, value);
        }
        drop(start.ready().await);
        assert_eq!(region(&s3), expected, "{environment:?} {setting:?}");
    }
}

#[tokio::test]
async fn the_endpoint_is_the_settings_then_aws_names_and_paths_name_the_bucket() {
    // Nothing listens there.
    let nowhere = "http://127.0.0.1:1";
    let cases: [(&[&str], &[&str], bool); 4] = [
        (&["AWS_ENDPOINT_URL"], &[], false),
        (&["AWS_ENDPOINT_URL_S3"], &["AWS_ENDPOINT_URL"], false),
        (&[], &["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"], true),
        (&["ZOMBI_S3_ENDPOINT"], &["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"], false),
    ];
    for (right, wrong, is_set) in cases {
        let (s3, volume) = (store().await, TempDir::new().unwrap());
        let mut start = serve(&volume).set("s3.bucket", BUCKET).set("s3.attempts", "1");
        start = start.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        for name in right {
            start = start.env(name, &s3.endpoint());
        }
        for name in wrong {
            start = start.env(name, nowhere);
        }
        if is_set {
            start = start.set("s3.endpoint", &s3.endpoint());
        }
        drop(start.ready().await);
        let puts = s3.store.object_puts();
        assert!(!puts.is_empty(), "{right:?} before {wrong:?}: it was not asked");
        assert!(puts.iter().all(|put| put.path.starts_with(&format!("/{BUCKET}/"))), "{puts:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_empty_hides_no_other() {
    let (s3, volume) = (store().await, TempDir::new().unwrap());
    let start = serve(&volume).set("s3.bucket", BUCKET).set("s3.attempts", "1");
    let start = start.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    drop(start.env("AWS_ENDPOINT_URL_S3", "").env("AWS_ENDPOINT_URL", &s3.endpoint()).ready().await);
    assert!(!s3.store.object_puts().is_empty(), "it was not asked");
}

/// A file of credentials, as a Secret that is mounted holds one.
fn credentials(volume: &TempDir, key: &str) -> String {
    let path = volume.path().join("credentials");
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Whether a request is signed with the first of the two keys that the server knows.
fn is_of_first_key(head: &Parts) -> bool {
    let signed = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    signed.is_some_and(|text| text.contains(&format!("Credential={ACCESS_KEY}/")))
}

#[tokio::test]
async fn a_file_of_credentials_is_read_again_when_s3_rejects_what_it_held() {
    let (s3, volume) = (store().await, TempDir::new().unwrap());
    let file = credentials(&volume, ACCESS_KEY);
    let start = without_keys(serve(&volume).with_bucket(&s3.endpoint()));
    let process = start.env("AWS_SHARED_CREDENTIALS_FILE", &file).ready().await;
    let append = "/tables/t?wait_for=cold";
    let (status, body) = process.post(process.main(), append, &json!({"payload": 1})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");

    // The key is withdrawn before anybody has changed the file: the volume goes on by itself.
    let withdrawn = StandingRefusal::only(is_of_first_key, 403, "InvalidAccessKeyId");
    s3.store.refuse(Some(withdrawn));
    let (status, body) = process.post(process.main(), "/tables/t", &json!({"payload": 2})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    eventually("S3 is asked with the withdrawn key", || async { s3.store.refused.load(SeqCst) > 0 }).await;

    credentials(&volume, SECOND_ACCESS_KEY);
    eventually("everything is flushed with the new key, without a restart", || async {
        process.post(process.main(), "/flush", &json!(null)).await.0 == StatusCode::OK
    })
    .await;
    let (status, body) = process.post(process.main(), append, &json!({"payload": 3})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn a_variable_that_is_no_text_is_named_and_not_passed_over() {
    let volume = TempDir::new().unwrap();
    let bytes = OsStr::from_bytes(b"/tmp/\xff");
    let ended = serve(&volume).env("ZOMBI_HOST", bytes).ended().await;
    says("a value", &ended, USAGE, &["ZOMBI_HOST is not UTF-8"]);
    let said = serve(&volume).env("ANOTHER_HOST", bytes).says_at_start().await;
    assert!(said.contains("ready"), "another program's is nobody's business here: {said}");
}

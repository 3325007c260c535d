//! What S3 can say at the start: that which waiting may heal is waited for, and that which it cannot ends a
//! start that has nothing to serve. A volume that can serve by itself does, and the probe shows what is wrong
//! with the bucket.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hyper::{Method, http::request::Parts};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{FAILED, says, says_one_of};
use testing::{
    TestServer,
    faults::StandingRefusal,
    process::{Ended, Start},
    s3::{ObjectStore, S3Server},
    server::{BUCKET, answer, eventually},
};

/// A store that answers so, with the bucket made.
async fn store(refusal: StandingRefusal) -> S3Server {
    let server = S3Server::start(([127, 0, 0, 1], 0).into(), ObjectStore::default()).await.unwrap();
    server.store.make_bucket(BUCKET);
    server.store.watch_puts();
    server.store.refuse(Some(refusal));
    server
}

/// A start on a volume with the bucket of a store.
fn serve(volume: &TempDir, s3: &S3Server) -> Start {
    Start::serve(&volume.path().join("db")).set("host", "127.0.0.1").with_bucket(&s3.endpoint())
}

/// A start on an empty volume with a store that answers so; it must end by itself.
async fn refused(refusal: StandingRefusal) -> (S3Server, Ended) {
    refused_with(refusal, &[]).await
}

/// The same, with settings.
async fn refused_with(refusal: StandingRefusal, settings: &[(&str, &str)]) -> (S3Server, Ended) {
    let (volume, s3) = (TempDir::new().unwrap(), store(refusal).await);
    let start = settings.iter().fold(serve(&volume, &s3), |start, (key, value)| start.set(key, value));
    let ended = start.ended().await;
    (s3, ended)
}

/// What no waiting heals, and what must be said of it, all of the first and one of the second.
fn permanent() -> Vec<(StandingRefusal, Vec<&'static str>, Vec<&'static str>)> {
    let elsewhere = |status, code| StandingRefusal {
        region: Some("eu-central-7"),
        ..StandingRefusal::of_all(status, code)
    };
    let key = vec!["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "credentials"];
    vec![
        (
            StandingRefusal::of_all(404, "NoSuchBucket"),
            vec!["NoSuchBucket", "s3.bucket", BUCKET],
            vec!["s3.create_bucket", "s3.bucket"],
        ),
        (
            StandingRefusal::of_all(403, "AccessDenied"),
            vec!["AccessDenied"],
            vec!["s3.", "AWS_", "credentials"],
        ),
        (StandingRefusal::of_all(403, "InvalidAccessKeyId"), vec!["InvalidAccessKeyId"], key.clone()),
        (StandingRefusal::of_all(403, "SignatureDoesNotMatch"), vec!["SignatureDoesNotMatch"], key),
        (
            elsewhere(301, "PermanentRedirect"),
            vec!["eu-central-7", "s3.region"],
            vec!["redirect", "Redirect", "region"],
        ),
        (
            elsewhere(307, "TemporaryRedirect"),
            vec!["eu-central-7", "s3.region"],
            vec!["redirect", "Redirect", "region"],
        ),
        (elsewhere(400, "AuthorizationHeaderMalformed"), vec!["eu-central-7", "s3.region"], vec!["region"]),
        // What answers is no S3: a console, a proxy, a port where TLS is spoken.
        (StandingRefusal::of_all(302, ""), vec!["302", "s3.endpoint"], vec!["s3.endpoint"]),
        (StandingRefusal::of_all(404, ""), vec!["404", "s3.endpoint"], vec!["s3.endpoint"]),
        (StandingRefusal::of_all(400, ""), vec!["400", "s3.endpoint"], vec!["s3.endpoint"]),
        (
            StandingRefusal::of_all(405, "MethodNotAllowed"),
            vec!["MethodNotAllowed", "s3.endpoint"],
            vec!["s3.endpoint"],
        ),
        (
            StandingRefusal::of_all(400, "InvalidLocationConstraint"),
            vec!["InvalidLocationConstraint", "s3.region"],
            vec!["s3.region"],
        ),
    ]
}

#[tokio::test]
async fn what_waiting_cannot_heal_ends_a_start_with_nothing_to_serve_and_names_setting_and_cause() {
    let starts = permanent().into_iter().map(|(refusal, words, one_of)| async move {
        let (s3, ended) = refused(refusal).await;
        says(refusal.code, &ended, FAILED, &words);
        says_one_of(refusal.code, &ended.said, &one_of);
        assert!(s3.store.keys(BUCKET, "").is_empty(), "{}: something was written", refusal.code);
    });
    join_all(starts).await;
}

/// The kinds of requests, apart from each other.
fn is_get_of_object(head: &Parts) -> bool {
    head.method == Method::GET && !is_list(head)
}

fn is_list(head: &Parts) -> bool {
    head.method == Method::GET && head.uri.query().is_some_and(|query| query.contains("list-type"))
}

fn is_put(head: &Parts) -> bool {
    head.method == Method::PUT
}

fn is_conditional(head: &Parts) -> bool {
    head.method == Method::PUT && head.headers.contains_key("if-none-match")
}

fn is_of_class(head: &Parts) -> bool {
    head.headers.contains_key("x-amz-storage-class")
}

fn is_get_of_class(head: &Parts) -> bool {
    is_get_of_object(head) && head.uri.path().ends_with("-class")
}

fn is_delete(head: &Parts) -> bool {
    head.method == Method::DELETE
}

fn makes_bucket(head: &Parts) -> bool {
    head.method == Method::PUT && head.uri.path().trim_matches('/') == BUCKET
}

#[tokio::test]
async fn rights_that_are_missing_are_noticed_at_the_start_and_not_by_the_first_reader() {
    let kinds = [is_get_of_object as fn(&Parts) -> bool, is_list, is_put];
    let starts = kinds.map(|kind| async move {
        let (_s3, ended) = refused(StandingRefusal::only(kind, 403, "AccessDenied")).await;
        says("one right is missing", &ended, FAILED, &["AccessDenied"]);
    });
    join_all(starts).await;
    // What is read back is not what was put: somebody in between answers by itself.
    let (_s3, ended) = refused(StandingRefusal::only(is_get_of_object, 200, "NotWhatWasPut")).await;
    says("other bytes are read back", &ended, FAILED, &[]);
    says_one_of("other bytes are read back", &ended.said, &["read", "GET", "get"]);
}

/// How servers say that they do not know conditional writes.
fn without_conditions() -> Vec<StandingRefusal> {
    let says = |status, code| StandingRefusal::only(is_conditional, status, code);
    vec![
        says(501, "NotImplemented"),
        says(400, "InvalidArgument"),
        says(400, "InvalidRequest"),
        says(304, "NotModified"),
    ]
}

#[tokio::test]
async fn a_store_that_cannot_create_on_condition_is_refused_and_taken_as_it_is_where_that_is_said() {
    let tried = without_conditions().into_iter().map(|refusal| async move {
        let what = format!("{} {}", refusal.status, refusal.code);
        let (s3, ended) = refused(refusal).await;
        says(&what, &ended, FAILED, &["s3.unfenced"]);
        assert!(s3.store.keys(BUCKET, "").is_empty(), "{what}: something was written");

        let mut z = TestServer::tiered(&[("s3.unfenced", "true")]).await;
        z.store().watch_puts();
        z.store().refuse(Some(refusal));
        z.run().await;
        assert_eq!(z.post("/tables/t", &json!({"payload": "kept"})).await.0, StatusCode::CREATED);
        z.flush_and_evict().await;
        assert_eq!(z.read_all("t", "").await[0]["payload"], "kept", "{what}");
        let puts = z.store().object_puts();
        assert!(puts.len() >= 2, "a segment and a manifest at least: {puts:?}");
        let conditional: Vec<_> = puts.iter().filter(|put| !put.header("if-none-match").is_empty()).collect();
        assert!(conditional.is_empty(), "{what}: {conditional:?}");
    });
    join_all(tried).await;
}

#[tokio::test]
async fn what_else_is_wrong_with_a_put_is_not_taken_for_its_condition() {
    let wrong = [
        (StandingRefusal::only(is_put, 400, "KMS.NotFoundException"), "s3.kms_key_id"),
        (StandingRefusal::only(is_conditional, 400, "KeyTooLongError"), "s3.prefix"),
        (StandingRefusal::only(is_put, 400, "XMinioAdminBucketQuotaExceeded"), "room"),
        (StandingRefusal::only(is_put, 400, "InvalidArgument"), "s3.endpoint"),
        (StandingRefusal::only(is_put, 501, "NotImplemented"), "s3.endpoint"),
        (StandingRefusal::only(is_put, 400, ""), "s3.endpoint"),
    ];
    let starts = wrong.map(|(refusal, word)| async move {
        let (_s3, ended) = refused(refusal).await;
        says(refusal.code, &ended, FAILED, &[refusal.code, word]);
        assert!(!ended.said.contains("s3.unfenced"), "{}: {}", refusal.code, ended.said);
    });
    join_all(starts).await;
}

#[tokio::test]
async fn a_class_that_segments_cannot_have_is_named_at_the_start() {
    let wrong = [
        StandingRefusal::only(is_of_class, 400, "InvalidStorageClass"),
        StandingRefusal::only(is_of_class, 400, "InvalidArgument"),
        StandingRefusal::only(is_of_class, 501, "NotImplemented"),
        // It is put, and stands where it cannot be read.
        StandingRefusal::only(is_get_of_class, 403, "InvalidObjectState"),
    ];
    let starts = wrong.map(|refusal| async move {
        for unfenced in ["false", "true"] {
            let (s3, ended) =
                refused_with(refusal, &[("s3.storage_class", "FROZEN"), ("s3.unfenced", unfenced)]).await;
            says(refusal.code, &ended, FAILED, &[refusal.code, "s3.storage_class"]);
            assert!(s3.store.keys(BUCKET, "").is_empty(), "{}: something was left", refusal.code);
        }
    });
    join_all(starts).await;
}

#[tokio::test]
async fn rights_that_a_start_can_do_without_are_missed_with_a_word() {
    // To delete; and to make a bucket, where it is there already.
    for (refusal, word) in [
        (StandingRefusal::only(is_delete, 403, "AccessDenied"), "cannot be deleted"),
        (StandingRefusal::only(makes_bucket, 403, "AccessDenied"), "s3.create_bucket"),
    ] {
        let (volume, s3) = (TempDir::new().unwrap(), store(refusal).await);
        let process = serve(&volume, &s3).set("s3.create_bucket", "true").ready().await;
        assert!(process.said.contains(word), "nothing of {word:?} in:\n{}", process.said);
        let (status, body) =
            process.post(process.main(), "/tables/t?wait_for=cold", &json!({"payload": 1})).await;
        assert_eq!(status, StatusCode::CREATED, "{word}: {body}");
        assert_eq!(process.terminate().await, Some(0));
    }
    // Where it is not there, that is what is said.
    let s3 = S3Server::start(([127, 0, 0, 1], 0).into(), ObjectStore::default()).await.unwrap();
    s3.store.refuse(Some(StandingRefusal::only(makes_bucket, 403, "AccessDenied")));
    let volume = TempDir::new().unwrap();
    let ended = serve(&volume, &s3).set("s3.create_bucket", "true").ended().await;
    says("a bucket that may not be made", &ended, FAILED, &["NoSuchBucket", "s3.create_bucket"]);
}

#[tokio::test]
async fn what_waiting_may_heal_is_waited_for_and_the_probe_says_what_for() {
    let transient = [
        (503, "SlowDown"),
        (500, "InternalError"),
        (429, "TooManyRequests"),
        (503, "ServiceUnavailable"),
        (403, "RequestTimeTooSkewed"),
        (400, "RequestTimeout"),
    ];
    let waits = transient.map(|(status, code)| async move {
        let (volume, s3) = (TempDir::new().unwrap(), store(StandingRefusal::of_all(status, code)).await);
        let mut process = serve(&volume, &s3).begin();
        process.until("listening on the admin port").await;
        eventually("it tries again and again", || async { s3.store.refused.load(SeqCst) >= 3 }).await;
        assert!(!process.has_ended(), "{code}: it did not wait");
        assert_eq!(process.get(process.admin(), "/livez").await.0, StatusCode::OK);
        assert_eq!(process.get(process.admin(), "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        let (process_get, admin) = (&process, process.admin());
        let says_why = || async {
            let (_, probe) = process_get.get(admin, "/readyz?verbose").await;
            bucket_of(&probe).is_some_and(|check| {
                check["status"] == "unavailable" && check["detail"].to_string().contains(code)
            })
        };
        eventually("the probe says why", says_why).await;
        s3.store.refuse(None);
        process.until("ready").await;
        assert_eq!(
            process.post(process.main(), "/tables/t", &json!({"payload": 1})).await.0,
            StatusCode::CREATED
        );
    });
    join_all(waits).await;
}

/// What a probe says of the bucket.
fn bucket_of(probe: &Value) -> Option<&Value> {
    probe["checks"].as_array()?.iter().find(|check| check["name"] == "bucket")
}

/// The probe's status code, and what it says of the bucket.
async fn bucket(z: &TestServer) -> (StatusCode, Value) {
    let (status, probe) = answer(z.client.get(z.admin_url("/readyz?verbose")).send().await.unwrap()).await;
    (status, bucket_of(&probe).cloned().unwrap_or_else(|| panic!("nothing is said of the bucket: {probe}")))
}

/// A volume that has something that S3 has not yet serves, whatever S3 says, shows it, and goes on with S3
/// when that is over.
async fn serves_alone(refusal: StandingRefusal, word: &str) {
    let what = format!("{} {}", refusal.status, refusal.code);
    let mut z = TestServer::tiered(&[("s3.attempts", "1")]).await;
    z.run().await;
    assert_eq!(z.post("/tables/t", &json!({"payload": "before"})).await.0, StatusCode::CREATED);
    let (status, check) = bucket(&z).await;
    assert_eq!((status, &check["status"]), (StatusCode::OK, &json!("ok")), "{what}: {check}");
    z.kill().await;
    z.store().refuse(Some(refusal));
    z.run().await;
    assert_eq!(z.post("/tables/t", &json!({"payload": "during"})).await.0, StatusCode::CREATED, "{what}");
    let (status, page) = z.get("/tables/t").await;
    assert_eq!((status, &page["count"]), (StatusCode::OK, &json!(2)), "{what}: {page}");
    let (status, check) = bucket(&z).await;
    assert_eq!((status, &check["status"]), (StatusCode::OK, &json!("unavailable")), "{what}: {check}");
    assert!(check["detail"].as_str().unwrap().contains(word), "{what}: nothing of {word:?} in {check}");
    let (_, brief) = answer(z.client.get(z.admin_url("/readyz")).send().await.unwrap()).await;
    assert_eq!(brief["status"], "ok", "{what}: {brief}");

    z.store().refuse(None);
    eventually("the bucket is well", || async { bucket(&z).await.1["status"] == "ok" }).await;
    eventually("it flushes", || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK }).await;
    let payloads: Vec<_> = z.read_all("t", "").await.iter().map(|record| record["payload"].clone()).collect();
    assert_eq!(payloads, ["before", "during"], "{what}");
    z.audit().await;
}

#[tokio::test]
async fn a_volume_that_can_serve_does_and_the_probe_shows_the_buckets_trouble() {
    let of_bucket = permanent().into_iter().map(|(refusal, words, _)| (refusal, words[0]));
    let conditions = without_conditions().into_iter().map(|refusal| (refusal, "s3.unfenced"));
    let missing = [(StandingRefusal::only(is_get_of_object, 403, "AccessDenied"), "AccessDenied")];
    let all: Vec<_> = of_bucket.chain(conditions).chain(missing).collect();
    // A few at a time: each is a server.
    for some in all.chunks(4) {
        join_all(some.iter().map(|(refusal, word)| serves_alone(*refusal, word))).await;
    }
}

#[tokio::test]
async fn a_bucket_that_goes_bad_under_way_is_shown_and_ends_nothing() {
    let z = TestServer::start_tiered(&[("s3.attempts", "1"), ("flush.interval_secs", "0")]).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    z.store().refuse(Some(StandingRefusal::of_all(403, "InvalidAccessKeyId")));
    assert_eq!(z.post("/tables/t", &json!({"payload": 2})).await.0, StatusCode::CREATED);
    eventually("it is shown", || async {
        let (status, check) = bucket(&z).await;
        status == StatusCode::OK
            && check["status"] == "unavailable"
            && check["detail"].to_string().contains("InvalidAccessKeyId")
    })
    .await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 3})).await.0, StatusCode::CREATED);
    z.store().refuse(None);
    eventually("it is well again", || async { bucket(&z).await.1["status"] == "ok" }).await;
    eventually("it flushes", || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK }).await;
    assert_eq!(z.read_all("t", "").await.len(), 3);
}

/// A bucket that can be read and takes nothing more.
async fn is_shown_for_as_long_as_it_takes_nothing(refusal: StandingRefusal) {
    let z = TestServer::start_tiered(&[("s3.attempts", "1"), ("flush.interval_secs", "0")]).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    z.store().refuse(Some(refusal));
    assert_eq!(z.post("/tables/t", &json!({"payload": 2})).await.0, StatusCode::CREATED);
    eventually("it is shown", || async { bucket(&z).await.1["status"] == "unavailable" }).await;
    // Every two seconds it is looked at, and what is there can be read.
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        let (status, check) = bucket(&z).await;
        assert_eq!((status, &check["status"]), (StatusCode::OK, &json!("unavailable")), "{check}");
        let detail = check["detail"].to_string();
        assert!(detail.contains(refusal.code) && !detail.contains("unfenced"), "{check}");
        sleep(Duration::from_millis(50)).await;
    }
    z.store().refuse(None);
    eventually("it is well again", || async { bucket(&z).await.1["status"] == "ok" }).await;
    eventually("it flushes", || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK }).await;
    assert_eq!(z.read_all("t", "").await.len(), 2);
    z.audit().await;
}

#[tokio::test]
async fn a_bucket_that_takes_nothing_more_is_shown_for_as_long_as_that_is_so() {
    let puts = [(403, "AccessDenied"), (400, "InvalidArgument"), (501, "NotImplemented")];
    join_all(puts.map(|(status, code)| {
        is_shown_for_as_long_as_it_takes_nothing(StandingRefusal::only(is_put, status, code))
    }))
    .await;
}

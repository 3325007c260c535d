//! Tables that are deleted at once.

use hyper::http::request::Parts;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{KEEPING, done, erase, holders, secrets, write};
use testing::{
    TestServer,
    faults::{Fault, Operation, StandingRefusal},
    server::{answer, eventually},
};

/// Deletes the table; the erasure that goes with it, if one does.
async fn delete(z: &TestServer, query: &str) -> (StatusCode, Option<String>) {
    let answer = z.request(Method::DELETE, &format!("/tables/t{query}")).send().await.unwrap();
    let place = answer.headers().get("location").map(|place| place.to_str().unwrap().to_owned());
    (answer.status(), place)
}

#[tokio::test]
async fn now_leaves_nothing_of_the_table_and_without_it_objects_stay_for_a_while() {
    for tiered in [true, false] {
        let z = if tiered { TestServer::start_tiered(&KEEPING).await } else { TestServer::start().await };
        write(&z, 0..6).await;
        if tiered {
            z.flush_and_evict().await;
            write(&z, 6..8).await;
            assert_eq!(delete(&z, "?now=false").await, (StatusCode::NO_CONTENT, None));
            z.post("/flush", &json!(null)).await;
            assert!(!holders(&z, &secrets(0)[0]).is_empty(), "it can still be found");
        }
        // It may be said later, too.
        let (status, place) = delete(&z, "?now=true").await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        let place = place.unwrap();
        let mut shown = Value::Null;
        eventually("it is done", async || {
            shown = z.get(&place).await.1;
            shown["status"] == "done"
        })
        .await;
        let count = if tiered { 8 } else { 6 };
        for number in 0..count {
            for secret in secrets(number) {
                assert_eq!(holders(&z, &secret), [""; 0], "{number} {shown}");
            }
        }
        assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
        let (_, written) = z.post("/tables/t", &json!({"payload": "later"})).await;
        assert_eq!(written["offset"], count);
        assert_eq!(z.get("/tables/t").await.1["count"], 1);
        if tiered {
            z.post("/flush", &json!(null)).await;
            z.audit().await;
        }
    }
}

#[tokio::test]
async fn now_is_true_or_false_and_a_table_that_never_was_is_not_found() {
    let z = TestServer::start().await;
    write(&z, 0..1).await;
    assert_eq!(delete(&z, "?now=1").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(delete(&z, "?then=true").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(z.delete("/tables/none?now=true").await.0, StatusCode::NOT_FOUND);
    assert_eq!(z.get("/tables/t").await.1["count"], 1);
}

#[tokio::test]
async fn one_erasure_too_many_is_refused_and_a_table_that_is_deleted_now_goes_with_the_next_attempt() {
    let z = TestServer::start_tiered(&[&KEEPING[..], &[("erase.pending", "1")]].concat()).await;
    write(&z, 0..4).await;
    z.flush_and_evict().await;
    let no_deletes = |head: &Parts| head.method == Method::DELETE;
    z.store().refuse(Some(StandingRefusal::only(no_deletes, 403, "AccessDenied")));
    let stuck = erase(&z, &json!({"offsets": [1]})).await;

    let asked =
        z.request(Method::POST, "/tables/t/erase").json(&json!({"offsets": [2]})).send().await.unwrap();
    assert!(asked.headers().contains_key("retry-after"));
    let (status, problem) = answer(asked).await;
    let told = |problem: &Value| ["code", "reason"].map(|name| problem[name].clone());
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert_eq!(told(&problem), [json!("overloaded"), json!("erasures")], "{problem}");
    let (status, problem) = z.delete("/tables/t?now=true").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert_eq!(told(&problem), [json!("overloaded"), json!("erasures")], "{problem}");
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "that much is done");

    z.store().refuse(None);
    done(&z, &stuck).await;
    let (status, place) = delete(&z, "?now=true").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let place = place.unwrap();
    eventually("it is done", async || z.get(&place).await.1["status"] == "done").await;
    for number in 0..4 {
        for secret in secrets(number) {
            assert_eq!(holders(&z, &secret), [""; 0], "{number}");
        }
    }
    z.audit().await;
}

/// A segment that is on its way to S3 while its table is deleted arrives after that, and is named by nobody.
#[tokio::test]
async fn now_waits_for_what_is_on_its_way() {
    let z = TestServer::start_tiered(&KEEPING).await;
    write(&z, 0..6).await;
    z.store().faults.add(Operation::SegmentPut, Fault::Held, 1);
    let flush = tokio::spawn(z.request(Method::POST, "/flush").send());
    eventually("a PUT is held", async || z.store().faults.left() == 0).await;
    let (status, place) = delete(&z, "?now=true").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let place = place.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_ne!(z.get(&place).await.1["status"], "done", "the segment is still under way");
    }
    z.store().faults.clear();
    drop(flush.await);
    eventually("it is done", async || z.get(&place).await.1["status"] == "done").await;
    for number in 0..6 {
        for secret in secrets(number) {
            assert_eq!(holders(&z, &secret), [""; 0], "{number}");
        }
    }
    z.post("/flush", &json!(null)).await;
    z.audit().await;
}

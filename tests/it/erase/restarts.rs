//! An erasure goes on after a kill between any two of its steps, and on another volume.

use std::collections::BTreeSet;

use hyper::http::request::Parts;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{KEEPING, done, erase, event, expect_erased, expect_kept, write};
use crate::recovery::copy;
use testing::{TestServer, faults::StandingRefusal, server::eventually};

/// Every place between two durable steps.
const POINTS: [&str; 10] = [
    "erase-noted",
    "erase-listed",
    "erase-overwritten",
    "erase-scrubbed",
    "erase-hot-done",
    "erase-put",
    "erase-published",
    "erase-deleted",
    "erase-forgotten",
    "erase-listed-done",
];

/// Events in a segment and in hot.
async fn filled() -> TestServer {
    let z = TestServer::start_tiered(&KEEPING).await;
    write(&z, 0..4).await;
    z.flush_and_evict().await;
    write(&z, 4..8).await;
    z
}

/// Asks for the erasure of an event in each tier; the process ends at the point.
async fn erase_until(z: &mut TestServer, point: &str) {
    z.kill().await;
    z.try_run_with(&format!("{point}=return")).await.unwrap();
    let asked = z.request(Method::POST, "/tables/t/erase").json(&json!({"offsets": [1, 5]}));
    drop(asked.send().await);
    z.wait().await;
}

async fn is_erased(z: &TestServer, number: usize) -> bool {
    let (status, page) = z.get(&format!("/tables/t?partition=0&offset={number}&limit=1")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["records"][0]["erased"] == true
}

#[tokio::test]
async fn a_kill_between_any_two_steps_delays_it_and_no_more() {
    for point in POINTS {
        let mut z = filled().await;
        erase_until(&mut z, point).await;
        z.run().await;
        // It is known by nobody here, as its answer may not have come.
        eventually(&format!("erased after {point}"), async || {
            is_erased(&z, 1).await && is_erased(&z, 5).await && all_gone(&z)
        })
        .await;
        for number in 0..8 {
            match [1, 5].contains(&number) {
                true => expect_erased(&z, number).await,
                false => expect_kept(&z, number).await,
            }
        }
        for number in [1, 5] {
            let (status, body) = z.post("/tables/t", &event(number)).await;
            assert_eq!((status, &body["offset"]), (StatusCode::OK, &json!(number)), "{point}: {body}");
        }
        eventually("all of it is cold", async || z.post("/flush", &json!(null)).await.0 == StatusCode::OK)
            .await;
        z.audit().await;
    }
}

/// Asks for the erasure of an event in each segment. The process may end before its answer comes.
async fn ask(z: &TestServer) {
    let request = z.request(Method::POST, "/tables/t/erase").json(&json!({"offsets": [1, 5]}));
    drop(request.send().await);
}

/// The erasures that the manifests list.
fn listed(z: &TestServer) -> BTreeSet<String> {
    let ids = |(_, body): (String, bytes::Bytes)| {
        let manifest: Value = serde_json::from_slice(&body).unwrap();
        let erasures = [&manifest["erasures"], &manifest["state"]["erasures"]];
        let all = erasures.into_iter().filter_map(|list| list.as_array().cloned()).flatten();
        all.map(|erasure| erasure["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    z.objects("manifests/").into_iter().flat_map(ids).collect()
}

fn all_gone(z: &TestServer) -> bool {
    let secrets = [1, 5].map(super::secrets);
    secrets.iter().flatten().all(|secret| super::holders(z, secret).is_empty())
}

#[tokio::test]
async fn a_volume_that_takes_over_goes_on_with_it() {
    for point in ["erase-hot-done", "erase-put", "erase-published"] {
        let mut z = filled().await;
        assert_eq!(z.post("/flush", &json!(null)).await.0, StatusCode::OK);
        z.kill().await;
        z.try_run_with(&format!("{point}=return")).await.unwrap();
        ask(&z).await;
        z.wait().await;
        // It is listed before it is answered, and before any of its steps.
        let listed = listed(&z);
        assert_eq!(listed.len(), 1, "{point}: {listed:?}");
        let mut second = z.beside();
        second.run().await;
        done(&second, listed.first().unwrap()).await;
        for number in [1, 5] {
            expect_erased(&second, number).await;
            let (status, body) = second.post("/tables/t", &event(number)).await;
            assert_eq!((status, &body["duplicate"]), (StatusCode::OK, &json!(true)), "{point}: {body}");
        }
        second.audit().await;
        // The first volume comes back as an older copy: what it still holds is not read, and goes.
        second.terminate().await;
        z.run().await;
        expect_erased(&z, 1).await;
        expect_erased(&z, 5).await;
    }
}

/// While the first cannot go on, the second is in the manifests all the same.
#[tokio::test]
async fn two_that_wait_go_on_though_the_volume_is_lost() {
    let mut z = filled().await;
    assert_eq!(z.post("/flush", &json!(null)).await.0, StatusCode::OK);
    let of_segments = |head: &Parts| head.method == Method::GET && head.uri.path().contains("/segments/");
    z.store().refuse(Some(StandingRefusal::only(of_segments, 403, "AccessDenied")));
    let first = erase(&z, &json!({"offsets": [1]})).await;
    let second = erase(&z, &json!({"offsets": [5]})).await;
    assert_eq!(listed(&z), BTreeSet::from([first.clone(), second.clone()]));
    z.kill().await;
    z.store().refuse(None);
    let mut other = z.beside();
    other.run().await;
    for (id, number) in [(first, 1), (second, 5)] {
        done(&other, &id).await;
        for secret in super::secrets(number) {
            let found = other.objects("segments/").into_iter().filter(|(_, body)| {
                super::holds(&zstd::decode_all(&body[..]).unwrap_or_default(), secret.as_bytes())
            });
            assert_eq!(found.count(), 0, "{number}");
        }
    }
    other.audit().await;
}

/// What S3 did not take is on the volume alone. `salvage` says so.
#[tokio::test]
async fn one_that_no_manifest_lists_is_told_by_salvage() {
    let mut z = filled().await;
    z.kill().await;
    z.try_run_with("erase-noted=return").await.unwrap();
    ask(&z).await;
    z.wait().await;
    assert!(listed(&z).is_empty());
    let (is_right, text) = z.look(&["salvage"]).await;
    assert!(is_right, "{text}");
    for words in ["the manifests do not list it", "partition 0 [1, 2) [5, 6)"] {
        assert!(text.contains(words), "nothing of {words:?} in {text}");
    }
    let (is_right, text) = z.look(&["salvage", "--dry-run", "--json"]).await;
    assert!(is_right, "{text}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    let parts = json!([{"partition": 0, "ranges": [[1, 2], [5, 6]]}]);
    assert_eq!(shown["erasures"][0]["parts"], parts, "{shown}");
    // It is carried out where the volume is.
    z.run().await;
    eventually("it is erased", async || is_erased(&z, 1).await && all_gone(&z)).await;
}

/// A copy of the volume from before the erasure holds the events in its files: these are scrubbed, though the
/// copy was killed before, and though S3 has all of its events, so that there is nothing to evict.
#[tokio::test]
async fn an_older_copy_of_the_volume_brings_nothing_back() {
    let mut z = TestServer::start_tiered(&KEEPING).await;
    write(&z, 0..8).await;
    z.kill().await;
    let old = tempfile::tempdir().unwrap();
    copy(&z.data_dir(), &old.path().join("db"));
    z.run().await;
    z.flush_and_evict().await;
    let id = erase(&z, &json!({"offsets": [1, 5]})).await;
    done(&z, &id).await;
    z.kill().await;
    copy(&old.path().join("db"), &z.data_dir());
    assert!(!super::holders(&z, &super::secret(1)).is_empty(), "the copy has it");
    z.try_run_with("recovery-emptied=return").await.unwrap_err();
    z.run().await;
    for number in 0..8 {
        match [1, 5].contains(&number) {
            true => expect_erased(&z, number).await,
            false => expect_kept(&z, number).await,
        }
    }
    done(&z, &id).await;
    z.audit().await;
}

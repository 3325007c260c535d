//! An erasure goes on after a kill between any two of its steps, and on another volume.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{KEEPING, done, event, expect_erased, expect_kept, write};
use testing::{TestServer, server::eventually};

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

/// Asks for the erasure of an event in each segment; its id, if there is an answer.
async fn asked(z: &TestServer) -> Option<String> {
    let request = z.request(Method::POST, "/tables/t/erase").json(&json!({"offsets": [1, 5]}));
    let shown: Value = request.send().await.ok()?.json().await.ok()?;
    Some(shown["id"].as_str()?.to_owned())
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
        // Listed in the manifests by then, or the next step is not reached.
        z.try_run_with(&format!("{point}=return")).await.unwrap();
        let id = asked(&z).await;
        z.wait().await;
        // It may have ended before its answer came.
        let Some(id) = id else { continue };
        let listed = z.objects("manifests/").iter().any(|(_, body)| super::holds(body, id.as_bytes()));
        let mut second = z.beside();
        second.run().await;
        if !listed {
            continue; // it was killed first, and the volume with its note is the one that is gone
        }
        done(&second, &id).await;
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

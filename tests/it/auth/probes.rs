//! Probes, which are answered to everybody: on the main port they name nothing of what S3 said.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::secured::{NO_ONE, Secured, ask, binding, policy};
use testing::{
    faults::StandingRefusal,
    server::{BUCKET, eventually},
};

/// What a probe says of the bucket.
fn bucket(probe: &Value) -> (String, String) {
    let checks = probe["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "bucket").unwrap();
    let text = |name: &str| check[name].as_str().unwrap().to_owned();
    (text("status"), text("detail"))
}

#[tokio::test]
async fn what_s3_said_is_shown_on_the_admin_port_only() {
    let mut s = Secured::start_tiered(&policy(&[binding("boss", "owner", &["*"], &[])]), &["boss"]).await;
    assert_eq!(s.post("boss", "/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    s.z.kill().await;
    s.z.set("s3.attempts", "1");
    s.z.store().refuse(Some(StandingRefusal::of_all(404, "NoSuchBucket")));
    s.z.run().await;
    let path = "/readyz?verbose";
    eventually("the probe shows the trouble", || async {
        bucket(&ask(s.admin(NO_ONE, Method::GET, path)).await.1).0 == "unavailable"
    })
    .await;
    let (_, whole) = ask(s.admin(NO_ONE, Method::GET, path)).await;
    assert!(bucket(&whole).1.contains("NoSuchBucket"), "{whole}");
    // For whoever is known, too: the path has no right of its own.
    for who in [NO_ONE, "boss"] {
        for path in [path, "/console/api/readyz?verbose"] {
            let (status, probe) = s.get(who, path).await;
            let (state, detail) = bucket(&probe);
            assert_eq!((status, state.as_str()), (StatusCode::OK, "unavailable"), "{path}: {probe}");
            assert!(detail.contains("admin port"), "{path}: {probe}");
            let text = probe.to_string();
            assert!(!text.contains("NoSuchBucket") && !text.contains(BUCKET), "{path}: {probe}");
        }
    }
    s.z.store().refuse(None);
    eventually("the bucket is well", || async { bucket(&s.get(NO_ONE, path).await.1).0 == "ok" }).await;
}

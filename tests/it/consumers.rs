//! Consumer groups.

use reqwest::{Method, StatusCode};
use serde_json::json;

use testing::{Sent, TestServer};

#[tokio::test]
async fn offsets_are_committed_and_survive_a_crash() {
    let mut z = TestServer::start().await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 20).await;
    let (status, body) =
        z.post("/consumers/g/commit", &json!({"table": "t", "partition": 1, "offset": 4})).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let commits = json!({"commits": [
        {"topic": "t", "partition": 0, "offset": 10},
        {"table": "t", "partition": 1, "offset": 5},
    ]});
    assert_eq!(z.post("/consumers/g/commit", &commits).await.0, StatusCode::OK);
    z.crash().await;
    let (_, body) = z.get("/consumers/g/offset?table=t&partition=1").await;
    assert_eq!(body, json!({"group": "g", "table": "t", "partition": 1, "offset": 5, "lag": 5}));
    let (_, body) = z.get("/consumers/other/offset?table=t&partition=1").await;
    assert_eq!(body, json!({"group": "other", "table": "t", "partition": 1, "offset": null, "lag": 10}));
    let (_, body) = z.get("/consumers/g").await;
    assert_eq!(body["offsets"].as_array().unwrap().len(), 2);
    assert_eq!(z.get("/consumers").await.1, json!({"groups": ["g"]}));
}

#[tokio::test]
async fn an_offset_steps_back_only_when_forced_and_never_beyond_the_end() {
    let z = TestServer::start().await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 10).await;
    let commit =
        |offset: u64, force: bool| json!({"table": "t", "partition": 0, "offset": offset, "force": force});
    assert_eq!(z.post("/consumers/g/commit", &commit(10, false)).await.0, StatusCode::OK);
    let (status, problem) = z.post("/consumers/g/commit", &commit(11, true)).await;
    assert_eq!(
        (status, &problem["code"], &problem["next"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("commit_beyond_end"), &json!(10))
    );
    let (status, problem) = z.post("/consumers/g/commit", &commit(3, false)).await;
    assert_eq!((status, &problem["committed"]), (StatusCode::CONFLICT, &json!(10)));
    assert_eq!(z.post("/consumers/g/commit", &commit(3, true)).await.0, StatusCode::OK);
    assert_eq!(z.get("/consumers/g/offset?table=t").await.1["offset"], 3);
}

#[tokio::test]
async fn groups_are_apart_and_can_be_forgotten() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    for group in ["a", "a.b", "a-"] {
        z.post(&format!("/consumers/{group}/commit"), &json!({"table": "t", "offset": 1})).await;
    }
    let response = z.request(Method::DELETE, "/consumers/a").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(z.get("/consumers").await.1, json!({"groups": ["a-", "a.b"]}));
    assert_eq!(z.get("/consumers/a").await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        z.request(Method::DELETE, "/consumers/a").send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        z.post("/consumers/g/commit", &json!({"table": "nope", "offset": 0})).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        z.post("/consumers/a%2Fb/commit", &json!({"table": "t", "offset": 0})).await.0,
        StatusCode::BAD_REQUEST
    );
}

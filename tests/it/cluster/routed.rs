//! Requests about one table, wherever they come in.

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::json;
use testing::{
    TestCluster, raw,
    server::{answer, eventually},
};
use tokio::io::AsyncWriteExt;

use super::{append, get_with};

#[tokio::test]
async fn any_pod_takes_any_write_and_any_read() {
    let cluster = TestCluster::start(&[]).await;
    for owner in 0..3 {
        let table = cluster.table_of(owner);
        for pod in &cluster.pods {
            append(pod, &table, 5).await;
        }
        let read: Vec<_> = {
            let mut read = Vec::new();
            for pod in &cluster.pods {
                read.push(pod.read_all(&table, "limit=4").await);
            }
            read
        };
        assert_eq!(read[0].len(), 15);
        assert!(read.iter().all(|one| *one == read[0]), "all pods say the same");
        for pod in &cluster.pods {
            let (_, _, headers) = get_with(pod, &format!("/tables/{table}"), ("accept", "*/*")).await;
            assert_eq!(headers["zombi-owner"], format!("zombi-{owner}").as_str());
        }
    }
}

#[tokio::test]
async fn every_pod_says_the_same_of_an_answer_that_is_left_out() {
    let cluster = TestCluster::start(&[]).await;
    let table = cluster.table_of(1);
    append(&cluster.pods[0], &table, 3).await;
    for accept in ["application/json", "application/x-ndjson"] {
        let mut heads = Vec::new();
        for pod in &cluster.pods {
            let head = pod.request(Method::HEAD, &format!("/tables/{table}")).header("accept", accept);
            let head = head.send().await.unwrap();
            let headers = head.headers();
            let length = headers.get("content-length").map(|length| length.to_str().unwrap().to_owned());
            heads.push((head.status(), headers["content-type"].clone(), length));
        }
        assert!(heads.iter().all(|head| *head == heads[1]), "{accept}: {heads:?}");
    }
}

#[tokio::test]
async fn what_a_handler_refuses_is_refused_by_every_pod_alike() {
    let cluster = TestCluster::start(&[]).await;
    let table = cluster.table_of(1);
    append(&cluster.pods[0], &table, 1).await;
    for pod in &cluster.pods {
        let (status, problem) = pod.post(&format!("/tables/{table}"), &json!({"payload": 1, "odd": 2})).await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_json")), "{problem}");
        assert_eq!(problem["outcome"], "not_written");
        let (status, problem) = pod.get(&format!("/tables/{table}?partition=0&offset=99")).await;
        assert_eq!((status.as_u16(), &problem["code"]), (416, &json!("offset_beyond_end")), "{problem}");
        let (status, problem) = pod.get("/tables/a%20b").await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_table_name")), "{problem}");
    }
}

#[tokio::test]
async fn a_pod_that_stops_answers_who_waits_for_another_ones_events_with_what_there_is() {
    let mut cluster = TestCluster::start(&[]).await;
    let path = format!("/tables/{}", cluster.table_of(1));
    let owner = &cluster.pods[1];
    append(owner, &cluster.table_of(1), 1).await;
    let (_, page) = owner.get(&path).await;
    let waits = format!("{path}?wait=55s&cursor={}", page["next_cursor"].as_str().unwrap());
    let before = owner.metric("zombi_http_connections").await;
    let poll = tokio::spawn(cluster.pods[0].request(Method::GET, &waits).send());
    eventually("it waits at the owner", async || owner.metric("zombi_http_connections").await > before).await;
    assert_eq!(cluster.pods[0].terminate().await, Some(0));
    let (status, page) = answer(poll.await.unwrap().unwrap()).await;
    assert_eq!((status.as_u16(), &page["count"]), (200, &json!(0)), "{page}");
}

#[tokio::test]
async fn whoever_waits_for_a_word_is_told_by_any_pod_what_the_owner_decides() {
    let cluster = TestCluster::start(&[]).await;
    let path = format!("/tables/{}", cluster.table_of(1));
    let large = ((8 << 20) + 1).to_string();
    for pod in &cluster.pods {
        let ask = async |content_type: &str, length: &str| {
            let headers = format!("content-length: {length}\r\nexpect: 100-continue\r\n");
            raw::send(pod.address(), raw::post_head(&path, content_type, &headers)).await
        };
        for (content_type, length, status) in
            [("text/csv", "13", 415), ("application/json", large.as_str(), 413)]
        {
            let answer = raw::read_until(&mut ask(content_type, length).await, "}").await;
            assert_eq!(raw::status(&answer), status, "nobody asks for its body: {answer}");
        }
        let mut socket = ask("application/json", "13").await;
        let word = raw::read_until(&mut socket, "\r\n\r\n").await;
        assert_eq!(raw::status(&word), 100, "{word}");
        socket.write_all(b"{\"payload\":1}").await.unwrap();
        let answer = raw::read_until(&mut socket, "}").await;
        assert_eq!(raw::status(&answer), 201, "{answer}");
    }
    let commit = "POST /consumers/a%20b/commit HTTP/1.1\r\nhost: z\r\ncontent-type: application/json\r\n\
                  content-length: 13\r\nexpect: 100-continue\r\n\r\n";
    let mut socket = raw::send(cluster.pods[0].address(), commit).await;
    let answer = raw::read_until(&mut socket, "}").await;
    assert_eq!(raw::status(&answer), 400, "{answer}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_told_by_any_pod_alike() {
    let cluster = TestCluster::start(&[]).await;
    let path = format!("/tables/{}", cluster.table_of(1));
    let mut told = Vec::new();
    for pod in &cluster.pods {
        let head = raw::post_head(&path, "application/json", "content-length: 20\r\n");
        let mut socket = raw::send(pod.address(), head + "{").await;
        // The client has no more to send, and still wants its answer.
        socket.shutdown().await.unwrap();
        let answer = raw::read_to_end(&mut socket).await;
        let problem = raw::json(&answer);
        told.push((raw::status(&answer), problem["code"].clone(), problem["outcome"].clone()));
    }
    assert!(told.iter().all(|one| *one == told[1]), "{told:?}");
    assert_eq!(cluster.pods[0].get(&path).await.0, 404, "nothing of it was written");
}

#[tokio::test]
async fn a_refusal_is_counted_once_whichever_pod_is_asked() {
    let cluster = TestCluster::start(&[]).await;
    let path = format!("/tables/{}", cluster.table_of(1));
    for pod in &cluster.pods {
        assert_eq!(pod.get(&path).await.0, 404);
    }
    let (_, stats) = cluster.pods[0].get("/stats").await;
    assert_eq!(stats["errors_total"], 3, "{stats}");
}

#[tokio::test]
async fn a_request_is_passed_on_once_and_the_owner_is_named() {
    let cluster = TestCluster::start(&[]).await;
    let table = cluster.table_of(2);
    append(&cluster.pods[2], &table, 1).await;
    let path = format!("/tables/{table}");
    let (status, problem, headers) = get_with(&cluster.pods[0], &path, ("zombi-hop", "1")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (421, &json!("moved")), "{problem}");
    assert_eq!(headers["zombi-owner"], "zombi-2");
    let (status, body, _) = get_with(&cluster.pods[2], &path, ("zombi-hop", "1")).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_killed_pod_stops_its_shards_only_and_they_wait_for_it() {
    let mut cluster = TestCluster::start(&[]).await;
    let tables: Vec<String> = (0..3).map(|owner| cluster.table_of(owner)).collect();
    for table in &tables {
        append(&cluster.pods[0], table, 3).await;
    }
    cluster.pods[1].kill().await;
    for (owner, table) in tables.iter().enumerate() {
        let (status, body) =
            cluster.pods[0].post(&format!("/tables/{table}"), &json!({"payload": "x"})).await;
        if owner == 1 {
            assert_eq!((status.as_u16(), &body["code"]), (503, &json!("forward_failed")), "{body}");
            assert_eq!((&body["outcome"], &body["pod"]), (&json!("not_written"), &json!("zombi-1")));
        } else {
            assert_eq!(status, 201, "{body}");
        }
    }
    cluster.pods[1].run().await;
    assert_eq!(cluster.pods[0].read_all(&tables[1], "").await.len(), 3);
    let (status, body) =
        cluster.pods[2].post(&format!("/tables/{}", tables[1]), &json!({"payload": "x"})).await;
    assert_eq!(status, 201, "{body}");
}

#[tokio::test]
async fn a_pod_that_lost_its_volume_recovers_its_shards_from_the_bucket() {
    let mut cluster = TestCluster::start(&[]).await;
    let table = cluster.table_of(1);
    append(&cluster.pods[0], &table, 7).await;
    cluster.pods[0].flush_and_evict().await;
    cluster.pods[1].kill().await;
    std::fs::remove_dir_all(cluster.pods[1].data_dir()).unwrap();
    cluster.pods[1].run().await;
    assert_eq!(cluster.pods[2].read_all(&table, "").await.len(), 7);
}

#[tokio::test]
async fn events_are_streamed_through_and_a_client_that_leaves_ends_the_chain() {
    let cluster = TestCluster::start(&[]).await;
    let table = cluster.table_of(1);
    append(&cluster.pods[1], &table, 1).await;
    let (asked, owner) = (&cluster.pods[0], &cluster.pods[1]);
    let path = format!("/tables/{table}?partition=0&offset=0");
    let response =
        asked.request(Method::GET, &path).header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut pieces = response.bytes_stream();
    let mut seen = String::new();
    for number in 0..3 {
        while seen.matches("data:").count() <= number {
            seen += &String::from_utf8_lossy(&pieces.next().await.unwrap().unwrap());
        }
        append(owner, &table, 1).await;
    }
    let before = owner.metric("zombi_http_connections").await;
    drop(pieces);
    eventually("the owner's end of it ends", async || owner.metric("zombi_http_connections").await < before)
        .await;
}

//! The S3 client by itself, over the real protocol.

use std::sync::atomic::Ordering::SeqCst;

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Builder, Credentials, Region, retry::RetryConfig},
};
use bytes::Bytes;
use cold_s3::s3::{Created, Objects};
use contracts::error::StorageError;

use testing::s3::{ACCESS_KEY, ObjectStore, S3Server, SECRET_KEY};

async fn connect() -> (S3Server, Objects) {
    let server = S3Server::start(([127, 0, 0, 1], 0).into(), ObjectStore::default()).await.unwrap();
    let config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .region(Region::new("us-east-1"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(server.endpoint())
        .force_path_style(true);
    let objects =
        Objects::new(Client::from_conf(config.build()), "bucket".to_owned(), "some/prefix/".to_owned());
    objects.create_bucket().await.unwrap();
    objects.create_bucket().await.unwrap();
    (server, objects)
}

#[tokio::test]
async fn objects_are_put_and_got_whole_and_in_parts() {
    let (server, objects) = connect().await;
    objects.put_segment("k", Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(objects.get("k").await.unwrap().unwrap(), "0123456789");
    assert_eq!(objects.get_range("k", 3..5).await.unwrap(), "34");
    assert_eq!(objects.get("nothing").await.unwrap(), None);
    assert!(matches!(objects.get_range("k", 8..20).await, Err(StorageError::Corrupt { .. })));
    assert!(matches!(objects.get_range("nothing", 0..1).await, Err(StorageError::Corrupt { .. })));
    assert_eq!(server.store.keys("bucket", ""), ["some/prefix/k"]);
    objects.put_segment("k", Bytes::from_static(b"0123456789")).await.unwrap();
    let other = objects.put_segment("k", Bytes::from_static(b"other")).await;
    assert!(matches!(other, Err(StorageError::Corrupt { .. })), "{other:?}");
    assert_eq!(objects.get("k").await.unwrap().unwrap(), "0123456789", "a segment is never written over");
}

#[tokio::test]
async fn of_many_creators_one_wins() {
    let (_server, objects) = connect().await;
    let racing = (0..8).map(|n| objects.create("k", Bytes::from(vec![n])));
    let outcomes: Vec<_> =
        futures_util::future::join_all(racing).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Created::Yes).count(), 1);
    let winner = outcomes.iter().position(|outcome| *outcome == Created::Yes).unwrap();
    assert_eq!(objects.get("k").await.unwrap().unwrap(), vec![winner as u8]);
}

#[tokio::test]
async fn a_list_has_all_pages() {
    let (server, objects) = connect().await;
    for n in 0..25 {
        objects.put_segment(&format!("d/{n:03}"), Bytes::new()).await.unwrap();
    }
    objects.put_segment("e", Bytes::new()).await.unwrap();
    server.store.list_page.store(2, SeqCst);
    let keys = objects.list("d/", None).await.unwrap();
    assert_eq!(keys, (0..25).map(|n| format!("d/{n:03}")).collect::<Vec<_>>());
    assert_eq!(objects.list("d/", Some("d/022")).await.unwrap(), ["d/023", "d/024"]);
}

#[tokio::test]
async fn a_server_that_fails_is_unavailable_and_says_why() {
    let (server, objects) = connect().await;
    server.store.is_down.store(true, SeqCst);
    let error = objects.put_segment("k", Bytes::new()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(
        error.to_string().contains("SlowDown") && error.to_string().contains("bucket/some/prefix/k"),
        "{error}"
    );
}

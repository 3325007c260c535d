//! The level of the log, as operators and others set it: short, and never a word that turns the log off
//! without saying so.

use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use testing::process::Start;

/// A list of filters of about so many bytes.
fn filters(bytes: usize) -> String {
    let filters: Vec<_> = (0..bytes / 16).map(|number| format!("target{number:05}=warn")).collect();
    filters.join(",")
}

#[tokio::test]
async fn a_level_has_at_most_four_kibibytes_and_is_a_level() {
    let volume = TempDir::new().unwrap();
    let start = Start::serve(&volume.path().join("db")).set("host", "127.0.0.1");
    let process = start.ready().await;
    for level in ["zombi=debug,info", "warn", "off", "info", &filters(3500)] {
        let (status, body) = process.put(process.admin(), "/log/level", &json!({"level": level})).await;
        assert_eq!((status, &body["level"]), (StatusCode::OK, &json!(level)), "{body}");
    }
    let kept = process.get(process.admin(), "/log/level").await.1;
    for level in [
        filters(5000),
        filters(1_300_000),
        "warning".to_owned(),
        "info,verbose".to_owned(),
        "zombi=loud".to_owned(),
    ] {
        let (status, problem) = process.put(process.admin(), "/log/level", &json!({"level": level})).await;
        assert!(
            status == StatusCode::BAD_REQUEST || status == StatusCode::PAYLOAD_TOO_LARGE,
            "{level:.100}: {status} {problem}"
        );
        assert!(problem["detail"].is_string(), "{level:.100}: {problem}");
    }
    assert_eq!(process.get(process.admin(), "/log/level").await.1, kept, "what was refused changes nothing");
    assert_eq!(process.terminate().await, Some(0));

    let long = filters(5000);
    let ended = start.set("log.level", &long).ended().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.said.contains("log.level"), "{:.1000}", ended.said);
}

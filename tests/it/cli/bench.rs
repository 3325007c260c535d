//! `zombi bench`: it measures, and it notices what is not there.

use serde_json::json;
use testing::{TestServer, command::CommandLine};

use super::{USAGE, one, says, zombi};

#[tokio::test]
async fn what_was_acknowledged_is_read_back() {
    let z = TestServer::start().await;
    assert_eq!(z.post("/tables/t", &json!({"payload": "of others", "partition": 1})).await.0, 201);
    for more in [&["--batch", "1"][..], &["--batch", "50", "--rate", "2000"]] {
        let words =
            ["bench", "t", "--connections", "4", "--size", "100", "--duration", "1s", "--partition", "1"];
        let report = one(&zombi(&z, &[&words[..], more].concat()).await);
        let events = report["events"].as_u64().unwrap();
        assert!(events > 0 && report["bytes"] == 100 * events, "{report}");
        assert_eq!(report["read_back"], json!({"events": events, "right": true}));
        let latency = &report["latency_ms"];
        assert!(latency["p50"].as_f64() <= latency["p99"].as_f64(), "{report}");
        assert!(latency["p99"].as_f64() <= latency["max"].as_f64() && latency["max"].is_number(), "{report}");
    }
    let table = zombi(&z, &["bench", "t", "--duration", "200ms", "-o", "table"]).await.out;
    assert!(table.starts_with("TABLE  EVENTS  EVENTS/S"), "{table}");
    assert!(table.lines().nth(1).unwrap().ends_with("right"), "{table}");
    for words in [&["bench", "t", "--batch", "0"][..], &["bench", "t", "--duration", "soon"]] {
        says("nonsense", &CommandLine::new(words).at(&z).run().await, USAGE, &[]);
    }
}

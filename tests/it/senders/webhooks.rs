//! The handshake with which senders of webhooks begin (HTTP 1.1 Web Hooks for Event Delivery).

use reqwest::Method;
use serde_json::json;

use super::{is_there, send};
use testing::TestServer;

#[tokio::test]
async fn a_sender_that_asks_may_deliver() {
    let z = TestServer::start().await;
    for path in ["/tables/t", "/tables/t/raw"] {
        for more in [vec![], vec![("webhook-request-rate", "120")]] {
            let asking = [vec![("webhook-request-origin", "eventemitter.example.com")], more].concat();
            let answer = send(&z, Method::OPTIONS, path, &asking, "").await;
            answer.is_bare(
                200,
                &[
                    ("webhook-allowed-origin", "eventemitter.example.com"),
                    ("webhook-allowed-rate", "*"),
                    ("allow", "POST"),
                ],
            );
        }
    }
    assert!(!is_there(&z, "t").await, "nothing is written by that");
    // Whoever asks for something else is told what there is, as before.
    let plain = send(&z, Method::OPTIONS, "/tables/t", &[], "").await;
    assert_eq!((plain.status, &plain.json()["code"]), (405, &json!("method_not_allowed")), "{plain:?}");
    assert!(plain.header("allow").contains("POST") && plain.header("webhook-allowed-origin").is_empty());
    let preflight = [("origin", "https://evil.example.com"), ("access-control-request-method", "POST")];
    let refused = send(&z, Method::OPTIONS, "/tables/t", &preflight, "").await;
    assert!(refused.status >= 400 && refused.header("access-control-allow-origin").is_empty(), "{refused:?}");
    let wrong = [("webhook-request-origin", "eventemitter.example.com")];
    let refused = send(&z, Method::OPTIONS, "/tables/a%20b", &wrong, "").await;
    assert_eq!(refused.status, 400, "{refused:?}");
}

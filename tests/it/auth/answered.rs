//! What came for a request, and what was due.

use reqwest::{Response, header::HeaderMap};
use serde_json::{Value, json};

use testing::server::TestRequest;

/// An answer of a server that asks who is there.
pub(super) struct AuthAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// Its JSON; null if there is none.
    pub(super) body: Value,
}

/// Sends a request.
pub(super) async fn decided(request: TestRequest) -> AuthAnswer {
    AuthAnswer::of(request.send().await.unwrap()).await
}

impl AuthAnswer {
    pub(super) async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
        Self { status, headers, body }
    }

    /// The status; with a 401 its reason if there is one, with other problems their code.
    pub(super) fn decision(&self) -> String {
        let more = if self.status == 401 { &self.body["reason"] } else { &self.body["code"] };
        match more.as_str() {
            Some(more) => format!("{} {more}", self.status),
            None => self.status.to_string(),
        }
    }

    /// The decision must be `due`, or one of several, as in `400|401 expired`. What a refused write says
    /// beside that is looked at too.
    #[track_caller]
    pub(super) fn expect(&self, what: &str, due: &str) {
        let decision = self.decision();
        let is_due = due.split('|').any(|one| one == decision);
        assert!(is_due, "{what}: {decision}, where {due} is due: {}", self.body);
        if self.status == 401 {
            self.expect_challenge(what);
        }
        if self.status >= 400 {
            assert_eq!(self.body["outcome"], "not_written", "{what}: {}", self.body);
        }
        if decision == "503 auth_unavailable" {
            assert_eq!(self.headers["retry-after"], "1", "{what}");
        }
    }

    /// A 401 says how to come in. It names an error only where a credential was looked at (RFC 6750, 3.1).
    #[track_caller]
    fn expect_challenge(&self, what: &str) {
        assert_eq!(self.body["code"], json!("unauthenticated"), "{what}: {}", self.body);
        let challenges: Vec<_> = self.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges.len(), 1, "{what}: {challenges:?}");
        let challenge = challenges[0].to_str().unwrap();
        if self.body["reason"].is_null() {
            assert_eq!(challenge, "Bearer realm=\"zombi\"", "{what}");
        } else {
            assert!(challenge.starts_with("Bearer "), "{what}: {challenge}");
            assert!(challenge.contains("error=\"invalid_token\""), "{what}: {challenge}");
        }
    }

    /// All that came, to look for what should not be in it.
    pub(super) fn text(&self) -> String {
        format!("{:?} {}", self.headers, self.body)
    }
}

//! The console: pages that show what their visitor may see, to browsers with and without a session.

mod faces;
mod pages;
mod rights;
mod sessions;
mod writes;

use reqwest::{Client, Method, Response, StatusCode, redirect::Policy};
use serde_json::json;

use testing::{
    TestServer,
    server::{PATIENCE, TestClient, TestRequest},
};

/// What every page says that it may load and do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A page as a browser gets it.
struct BrowserPage {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl BrowserPage {
    async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        // Where a line may break is no part of what is shown.
        let text = response.text().await.unwrap().replace("<wbr>", "");
        Self { status, headers, text }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Whether the text stands on it.
    fn shows(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

/// A browser: it follows nothing by itself, and has at most one cookie.
struct Browser {
    client: TestClient,
    base: String,
    cookie: Option<String>,
}

impl Browser {
    fn at(z: &TestServer) -> Self {
        let client =
            Client::builder().tls_certs_only([]).redirect(Policy::none()).timeout(PATIENCE).build().unwrap();
        Self { client: z.client.beside(client), base: z.url(""), cookie: None }
    }

    fn request(&self, method: Method, path: &str) -> TestRequest {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.cookie {
            Some(cookie) => request.header("cookie", format!("zombi_console={cookie}")),
            None => request,
        }
    }

    async fn get(&self, path: &str) -> BrowserPage {
        BrowserPage::of(self.request(Method::GET, path).send().await.unwrap()).await
    }

    /// Sends a form as a page of ours does.
    async fn post(&self, path: &str, form: &str) -> BrowserPage {
        self.post_from(path, form, &[("origin", &self.base), ("sec-fetch-site", "same-origin")]).await
    }

    async fn post_from(&self, path: &str, form: &str, headers: &[(&str, &str)]) -> BrowserPage {
        let request =
            self.request(Method::POST, path).header("content-type", "application/x-www-form-urlencoded");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        BrowserPage::of(request.body(form.to_owned()).send().await.unwrap()).await
    }

    /// Signs in; the page that came.
    async fn sign_in(&mut self, token: &str) -> BrowserPage {
        let page = self.post("/console/sign-in", &format!("token={token}&next=%2Fconsole%2Ftables")).await;
        self.cookie = session_of(&page);
        page
    }
}

/// The session's id in the cookie that an answer sets.
fn session_of(page: &BrowserPage) -> Option<String> {
    let (pair, _) = page.header("set-cookie").split_once(';')?;
    let id = pair.strip_prefix("zombi_console=")?;
    (!id.is_empty()).then(|| id.to_owned())
}

/// A table with two events and a group that has read one.
async fn fill(z: &TestServer) {
    for payload in [json!({"n": 1}), json!("two")] {
        let (status, answer) = z.post("/tables/orders", &json!({"payload": payload, "key": "k1"})).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    let commit = json!({"table": "orders", "offset": 1});
    assert_eq!(z.post("/consumers/billing/commit", &commit).await.0, StatusCode::OK);
}

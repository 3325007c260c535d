//! What pages for people need of HTTP: who asks for one, the API asked within the process, forms, and answers
//! that are HTML.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, Query, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header, request::Parts},
    response::{IntoResponse, Response},
};
use maud::Markup;

pub(crate) use super::body::Incoming;
use super::{
    code::Code,
    connection::Connection,
    context::{OwnBody, REQUEST_ID},
    error::Problem,
    heads,
    limits::Limits,
    media,
    origin::FETCH_SITE,
    queries,
    route_table::Routes,
    scope::{RequestScope, RequestSender},
    state::AppState,
};

/// Below this path stands the API as the console has it.
pub(crate) const API: &str = "/console/api";
/// Bytes of an answer that a page shows.
const ANSWER_BYTES: usize = 16 << 20;
/// Bytes of a form: the longest field is a token.
const FORM_BYTES: usize = 16 << 10;
/// What of a request goes with everything that its page asks. Its id, so that logs have one for both.
const PASSED_ON: [HeaderName; 4] = [header::AUTHORIZATION, header::COOKIE, header::HOST, REQUEST_ID];
/// What others call a token in a query. Here it lets nobody in, and pages must not repeat it.
const TOKENS: [&str; 2] = ["access_token", "token"];
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whoever asks for a page, and for which.
pub(crate) struct Visitor {
    /// The path and the query, as they were sent.
    pub(crate) address: String,
    /// The name and port that were asked for.
    pub(crate) host: String,
    /// Whether a proxy says that it speaks TLS with the client. Anybody may say so.
    pub(crate) says_https: bool,
    /// Whether the browser says that a page of ours sent the request.
    pub(crate) is_from_our_page: bool,
    query: Vec<(String, String)>,
    parameters: Vec<String>,
    headers: HeaderMap,
    connection: Arc<Connection>,
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Ok(RequestSender { connection, .. }) = RequestSender::from_request_parts(parts, state).await;
        let query: Vec<(String, String)> = queries::fields_of(&parts.uri)?;
        if query.iter().any(|(name, _)| TOKENS.contains(&name.as_str())) {
            let detail = "a token in an address is in every log on the way: sign in with it";
            return Err(Problem::new(Code::BadQuery, detail));
        }
        let count = parts.extensions.get::<RequestScope>().map_or(0, |scope| scope.parameters.count());
        let parameter = |place| RequestScope::parameter(parts, place).map(|text| text.into_owned());
        let parameters: Result<Vec<String>, Problem> = (0..count).map(parameter).collect();
        let text = |name: HeaderName| heads::text(&parts.headers, name);
        let host = heads::host(&parts.uri, &parts.headers).to_owned();
        // What the browser says of the page counts more. That `Origin` is ours was checked before.
        let is_from_our_page = match text(FETCH_SITE) {
            Some(site) => site == "same-origin",
            None => parts.headers.contains_key(header::ORIGIN),
        };
        let says_https = text(FORWARDED_PROTO).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let mut headers = HeaderMap::new();
        for name in PASSED_ON {
            for value in parts.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        if let Ok(host) = HeaderValue::from_str(&host) {
            headers.insert(header::HOST, host);
        }
        Ok(Self {
            address: parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            host,
            says_https,
            is_from_our_page,
            query,
            parameters: parameters?,
            headers,
            connection,
        })
    }
}

impl Visitor {
    /// A parameter of the query; `None` if it is empty or not there.
    pub(crate) fn asks(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    /// What the path says for the first of its names.
    pub(crate) fn named(&self) -> &str {
        self.parameters.first().map_or("", String::as_str)
    }

    /// What of the request goes with everything that its page asks.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The id of the request.
    pub(crate) fn request_id(&self) -> &str {
        heads::text(&self.headers, REQUEST_ID).unwrap_or_default()
    }

    /// Where the visitor is.
    pub(crate) fn peer(&self) -> IpAddr {
        self.connection.address
    }
}

/// What the API says to a page.
#[derive(Debug, Clone)]
pub(crate) struct ApiAnswer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The body; empty if it broke off or is too long to be shown.
    pub(crate) body: Bytes,
}

impl ApiAnswer {
    /// Reads an answer.
    pub(crate) async fn read(response: Response) -> Self {
        let status = response.status();
        match to_bytes(response.into_body(), ANSWER_BYTES).await {
            Ok(body) => Self { status, body },
            Err(_) => Self { status: StatusCode::BAD_GATEWAY, body: Bytes::new() },
        }
    }
}

/// The API, for pages that show its answers.
pub(crate) struct PageApi {
    routes: Routes,
}

impl PageApi {
    /// The API that these routes are.
    pub(super) fn new(routes: Routes) -> Self {
        Self { routes }
    }

    /// Asks as the visitor, with the visitor's rights: GET, or POST of JSON. `path` has its query.
    pub(crate) async fn ask(&self, visitor: &Visitor, path: &str, json: Option<Vec<u8>>) -> Response {
        let Ok(uri) = format!("{API}{path}").parse::<Uri>() else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let mut headers = visitor.headers.clone();
        let (method, body) = match json {
            None => (Method::GET, Body::empty()),
            Some(json) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (Method::POST, Body::from(json))
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        // An answer that is cut off does not end the connection: the page says so.
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        self.routes.answer(request, Arc::clone(&visitor.connection)).await
    }
}

/// The fields of a form.
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Receives a form.
    ///
    /// # Errors
    /// 415 for anything else, 413 if it is too long, 400 if it cannot be read.
    pub(crate) async fn receive(incoming: Incoming, state: &AppState) -> Result<Self, Problem> {
        let sent = heads::content_type(&incoming.headers).unwrap_or_default();
        if media::essence(sent) != "application/x-www-form-urlencoded" {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "a form is application/x-www-form-urlencoded",
            ));
        }
        let limits = Limits { body_bytes: FORM_BYTES, decoded_body_bytes: FORM_BYTES, ..*state.limits };
        let (body, _share) = incoming.receive(&limits, &state.inflight).await?;
        Self::parse(&body)
    }

    /// Reads a form.
    ///
    /// # Errors
    /// 400.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let broken = || Problem::new(Code::BadRequest, "the form cannot be read");
        let text = std::str::from_utf8(body).map_err(|_| broken())?;
        let uri = Uri::builder().path_and_query(format!("/?{text}")).build().map_err(|_| broken())?;
        let Query(fields) = Query::try_from_uri(&uri).map_err(|_| broken())?;
        Ok(Self(fields))
    }

    /// A field; `None` if it is empty or not there.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }
}

/// A page as an answer. It stays a page whatever its status is.
pub(crate) fn page(status: StatusCode, markup: Markup) -> Response {
    let mut response = (status, markup).into_response();
    response.extensions_mut().insert(OwnBody);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn visitor(uri: &str, headers: &[(&'static str, &str)]) -> Visitor {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, _) = request.body(Body::empty()).unwrap().into_parts();
        Visitor::from_request_parts(&mut parts, &()).await.unwrap()
    }

    #[tokio::test]
    async fn a_visitor_asks_for_what_the_query_says_and_passes_on_its_credential_only() {
        let headers = [
            ("host", "zombi:1"),
            ("cookie", "a=b"),
            ("origin", "http://zombi:1"),
            ("x-a", "b"),
            ("x-request-id", "mine"),
        ];
        let visitor = visitor("/console/events?table=t&key=&since=+1%202+&table=u", &headers).await;
        assert_eq!((visitor.asks("table"), visitor.asks("key")), (Some("t"), None));
        assert_eq!((visitor.asks("since"), visitor.asks("until")), (Some("1 2"), None));
        assert_eq!((visitor.host.as_str(), visitor.is_from_our_page), ("zombi:1", true));
        let passed_on: Vec<_> = visitor.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(passed_on, ["cookie", "host", "x-request-id"]);
        assert_eq!(visitor.request_id(), "mine");
    }

    #[tokio::test]
    async fn what_a_browser_says_of_the_page_counts_more_than_its_origin() {
        let cases: [(&[(&'static str, &str)], bool); 5] = [
            (&[], false),
            (&[("origin", "http://a")], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none"), ("origin", "http://a")], false),
            (&[("sec-fetch-site", "same-site"), ("origin", "http://a")], false),
        ];
        for (headers, is_ours) in cases {
            assert_eq!(visitor("/", headers).await.is_from_our_page, is_ours, "{headers:?}");
        }
    }

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let form = Form::parse(b"token=a%2Bb+c&next=%2Fconsole%3Fa%3D%C3%A9&empty=").unwrap();
        assert_eq!(form.field("token"), Some("a+b c"));
        assert_eq!(form.field("next"), Some("/console?a=\u{e9}"));
        assert_eq!((form.field("empty"), form.field("other")), (None, None));
        assert!(Form::parse(b"\xff").is_err());
        assert!(Form::parse(b"a b").is_err());
    }
}

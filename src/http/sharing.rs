//! What a browser is told of an answer to a page of an origin that `http.origins` lists: that the page may
//! see it, and beforehand which requests it may send (the Fetch Standard calls that CORS). No cookie counts
//! here, so a page is never told that it may send any.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};

use super::origin::HttpSettings;

/// Headers that a page may send, beside those of the next constant.
const ALLOWED: &str = "accept, authorization, content-encoding, content-type, idempotency-key, \
                       last-event-id, prefer, traceparent, tracestate, x-partition, x-request-id";
/// How headers begin whose names tell of an event.
const OF_EVENTS: [&str; 2] = ["zombi-", "ce-"];
/// Names of such headers that are allowed at once.
const MAX_OF_EVENTS: usize = 64;
/// Headers of an answer that a page may see, beside those that every page may.
const EXPOSED: &str = "allow, link, location, preference-applied, retry-after, www-authenticate, x-request-id, \
                       zombi-count, zombi-cursor, zombi-duplicate, zombi-duplicates, zombi-lost, \
                       zombi-offset, zombi-partition";
/// For how long a browser need not ask again, in seconds.
const MAX_AGE: &str = "600";

/// A request of a page of a listed origin.
pub(super) struct SharedWith {
    origin: HeaderValue,
    /// What it wants to send later, if the browser asks for that; empty for nothing out of the ordinary.
    asks_for: Option<Vec<HeaderName>>,
}

impl SharedWith {
    /// Whom the answer to a request is shared with; `None` for anybody but pages of listed origins.
    pub(super) fn of(request: &Request, http: &HttpSettings) -> Option<Self> {
        if http.origins.is_empty() {
            return None;
        }
        let headers = request.headers();
        let origin = headers.get(header::ORIGIN)?;
        if !http.lists(origin.to_str().ok()?) {
            return None;
        }
        let is_preflight = *request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Some(Self { origin: origin.clone(), asks_for: is_preflight.then(|| of_events(headers)) })
    }

    /// What a preflight gets instead of a refusal of its method: a path tells which methods it has. Nobody is
    /// asked for a credential here, as browsers send none.
    pub(super) fn instead_of(&self, refusal: Response) -> Response {
        let Some(asks_for) = &self.asks_for else { return refusal };
        let Some(methods) = refusal.headers().get(header::ALLOW).cloned() else { return refusal };
        if refusal.status() != StatusCode::METHOD_NOT_ALLOWED {
            return refusal;
        }
        let allowed = asks_for.iter().fold(ALLOWED.to_owned(), |all, name| all + ", " + name.as_str());
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        response
    }

    /// Lets the page see an answer, a refusal too.
    pub(super) fn mark(self, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

/// The headers that a page asks for and whose names tell of an event.
fn of_events(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let names = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    let names = names.filter_map(|name| name.trim().parse::<HeaderName>().ok());
    let is_of_event = |name: &HeaderName| OF_EVENTS.iter().any(|start| name.as_str().starts_with(start));
    names.filter(is_of_event).take(MAX_OF_EVENTS).collect()
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    const PAGE: &str = "https://console.example.com";

    fn shared(method: Method, headers: &[(&str, &str)]) -> Option<SharedWith> {
        let http = HttpSettings { origins: vec![PAGE.to_owned()], ..HttpSettings::default() };
        let request = Request::builder().method(method).uri("/tables/t");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        SharedWith::of(&request.body(Body::empty()).unwrap(), &http)
    }

    fn refusal(status: StatusCode) -> Response {
        (status, [(header::ALLOW, "GET,HEAD,POST")]).into_response()
    }

    #[test]
    fn only_pages_of_listed_origins_are_told_anything() {
        for headers in [
            vec![],
            vec![("origin", "https://elsewhere.example")],
            vec![("origin", "null")],
            vec![("origin", "http://console.example.com")],
            vec![("origin", "https://console.example.com:8443")],
            vec![("origin", "https://console.example.com.elsewhere.example")],
        ] {
            assert!(shared(Method::GET, &headers).is_none(), "{headers:?}");
        }
        let mut headers = HeaderMap::new();
        shared(Method::GET, &[("origin", PAGE)]).unwrap().mark(&mut headers);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], PAGE);
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }

    #[test]
    fn a_preflight_is_told_the_methods_of_its_path_and_the_headers_that_count() {
        let asks = [
            ("origin", PAGE),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization, zombi-key,CE-Type, cookie, x-evil, zombi key"),
        ];
        let preflight = shared(Method::OPTIONS, &asks).unwrap();
        let told = preflight.instead_of(refusal(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(told.status(), StatusCode::NO_CONTENT);
        assert_eq!(told.headers()[header::ACCESS_CONTROL_ALLOW_METHODS], "GET,HEAD,POST");
        let allowed = told.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        let allowed: Vec<&str> = allowed.split(", ").collect();
        for name in ["authorization", "content-type", "zombi-key", "ce-type"] {
            assert!(allowed.contains(&name), "{name} in {allowed:?}");
        }
        assert!(!allowed.iter().any(|name| name.contains("cookie") || name.contains("evil") || *name == "*"));
        for status in [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND, StatusCode::OK] {
            assert_eq!(preflight.instead_of(refusal(status)).status(), status, "that is no path's");
        }
        let other = shared(Method::OPTIONS, &asks[..1]).unwrap();
        assert_eq!(other.instead_of(refusal(StatusCode::METHOD_NOT_ALLOWED)).status().as_u16(), 405);
    }
}

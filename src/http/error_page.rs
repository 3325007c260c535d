//! Errors as pages, at the paths where people look. What the API answers below them stays what it is.

use axum::{
    body::to_bytes,
    http::{StatusCode, header},
    response::Response,
};

use super::error::PROBLEM_JSON;

/// Makes a page of a problem: of its status and its JSON.
pub(crate) type ErrorPage = fn(StatusCode, &[u8]) -> Response;

/// Where the pages are.
const PAGES: &str = "/console";
/// The first name below it that is none of theirs.
const API: &str = "api";
/// Bytes of a problem that are read.
const PROBLEM_BYTES: usize = 64 << 10;

/// Whether people look at a path.
pub(super) fn is_looked_at(path: &str) -> bool {
    match path.strip_prefix(PAGES) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('/').is_some_and(|below| below.split('/').next() != Some(API)),
        None => false,
    }
}

/// The answer as a page, if it is a problem. Its other headers stay.
pub(super) async fn shown(page: ErrorPage, response: Response) -> Response {
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON);
    if !is_problem {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let problem = to_bytes(body, PROBLEM_BYTES).await.unwrap_or_default();
    let (made, body) = page(parts.status, &problem).into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(made.headers);
    Response::from_parts(parts, body)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::HeaderValue, response::IntoResponse};

    use super::*;

    #[test]
    fn people_look_at_pages_and_not_at_the_api_below_them() {
        for path in ["/console", "/console/", "/console/nothing", "/console/tables/api", "/console/apis"] {
            assert!(is_looked_at(path), "{path}");
        }
        for path in ["/", "/tables", "/consoles", "/console/api", "/console/api/tables", "/docs/console"] {
            assert!(!is_looked_at(path), "{path}");
        }
    }

    #[tokio::test]
    async fn a_problem_becomes_a_page_and_anything_else_stays() {
        let page: ErrorPage = |status, problem| {
            let text = format!("{status}: {}", String::from_utf8_lossy(problem));
            ([(header::CONTENT_TYPE, "text/html")], text).into_response()
        };
        let of = |kind: &'static str| {
            let mut response = Response::new(Body::from("{}"));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            response
        };
        let problem = shown(page, of(PROBLEM_JSON)).await;
        assert_eq!(problem.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(problem.headers()[header::CONTENT_TYPE], "text/html");
        assert_eq!(problem.headers()[header::ALLOW], "GET");
        let body = to_bytes(problem.into_body(), 100).await.unwrap();
        assert_eq!(body, "405 Method Not Allowed: {}");
        let other = shown(page, of("application/json")).await;
        assert_eq!(other.headers()[header::CONTENT_TYPE], "application/json");
    }
}

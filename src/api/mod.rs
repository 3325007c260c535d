//! HTTP: the whole route table. Turns requests into calls of the contracts, and their answers into bytes.

pub mod body;
pub mod code;
pub mod encode;
pub mod error;
pub mod extract;
pub mod handlers;
pub mod limits;
pub mod memory;
pub mod state;
pub mod stats;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::time::Instant;
use tower_http::{catch_panic::CatchPanicLayer, decompression::RequestDecompressionLayer};
use tracing::error;

use self::{
    code::Code,
    error::Problem,
    handlers::{consumers, docs, events, ops, read, tables},
    state::{AppState, OpsState},
    stats::Stats,
};
use crate::metrics;

/// The routes of the main port.
pub fn router(state: AppState) -> Router {
    let (ops, stats, limits) = (state.ops.clone(), Arc::clone(&state.stats), Arc::clone(&state.limits));
    let data = Router::new()
        .route("/tables", get(tables::list))
        .route("/tables/{table}", post(events::write).get(read::read))
        .route("/tables/{table}/bulk", post(events::write_bulk))
        .route("/tables/{table}/flush", post(ops::flush_table))
        .route("/tables/{table}/partitions", get(tables::partitions))
        .route("/consumers", get(consumers::groups))
        .route("/consumers/{group}", get(consumers::offsets).delete(consumers::delete))
        .route("/consumers/{group}/commit", post(consumers::commit))
        .route("/consumers/{group}/offset", get(consumers::offset))
        .route("/docs/errors", get(docs::errors))
        .route("/stats", get(ops::stats))
        .route("/flush", post(ops::flush))
        .with_state(state);
    let decompress = RequestDecompressionLayer::new();
    let data = data.layer(decompress).layer(middleware::from_fn_with_state(limits, body::mark_compressed));
    layers(data.merge(probes(ops)), Some(stats))
}

/// The routes of the admin port: served from before the store opens.
pub fn admin_router(ops: OpsState) -> Router {
    layers(probes(ops.clone()).merge(Router::new().route("/flush", post(ops::flush_admin)).with_state(ops)), None)
}

fn probes(ops: OpsState) -> Router {
    Router::new()
        .route("/livez", get(ops::livez))
        .route("/health", get(ops::livez))
        .route("/healthz", get(ops::livez))
        .route("/readyz", get(ops::readyz))
        .route("/startupz", get(ops::startupz))
        .route("/metrics", get(ops::metrics))
        .with_state(ops)
}

/// What every route gets: panics become answers, errors become problems, requests are counted.
fn layers(router: Router, stats: Option<Arc<Stats>>) -> Router {
    router
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(DefaultBodyLimit::disable()) // `body` has limits of its own, for streams too
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(body::discard_refused))
        .layer(middleware::from_fn(error::finish))
        .layer(middleware::from_fn_with_state(stats, count))
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    error!(panic = text.unwrap_or("not a text"), "a request panicked");
    Problem::new(Code::Internal, "the server failed; its log says why").into_response()
}

/// The methods that are counted by name.
const STANDARD: [Method; 7] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];

async fn count(State(stats): State<Option<Arc<Stats>>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let response = next.run(request).await;
    // Methods of the client's own making must not make labels.
    let method = if STANDARD.contains(&method) { method.as_str() } else { "other" };
    let status = response.status();
    metrics::http_request(route.as_deref().unwrap_or("unmatched"), method, status.as_u16(), started.elapsed());
    if let Some(stats) = stats.filter(|_| status.is_client_error() || status.is_server_error()) {
        stats.failed();
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_problem_too_and_leaves_a_writes_outcome_open() {
        async fn broken() {
            panic!("on purpose")
        }
        let router = layers(Router::new().route("/tables/{table}", post(broken)), None);
        let request = Request::post("/tables/t").header("x-request-id", "mine").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&problem["code"], &problem["outcome"], &problem["request_id"]),
            (&"internal".into(), &"unknown".into(), &"mine".into())
        );
    }
}

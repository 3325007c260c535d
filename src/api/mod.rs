//! HTTP: the whole route table. Turns requests into calls of the contracts, and their answers into bytes.

#[cfg(feature = "bench")]
pub mod bench;
pub mod body;
pub mod code;
pub mod encode;
pub mod error;
pub mod extract;
pub mod handlers;
pub mod limits;
pub mod memory;
pub mod observe;
pub mod schema;
pub mod state;
pub mod stats;
pub mod trace;

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
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use self::{
    code::Code,
    error::Problem,
    handlers::{consumers, docs, events, ops, read, tables},
    state::{AppState, OpsState},
    stats::Stats,
};
use crate::metrics;

/// Who we are, in `/openapi.json`.
#[derive(OpenApi)]
#[openapi(info(
    title = "Zombi",
    description = "An event store for Kubernetes: RocksDB hot, S3 cold, one ordered read over both. Every error is explained at `/docs/errors`."
))]
struct Description;

/// The routes of the main port and their description.
fn described() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(events::write, read::read, tables::delete_table))
        .routes(routes!(events::write_bulk))
        .routes(routes!(tables::list))
        .routes(routes!(tables::partitions))
        .routes(routes!(tables::table_config, tables::configure_table))
        .routes(routes!(consumers::groups))
        .routes(routes!(consumers::offsets, consumers::delete))
        .routes(routes!(consumers::commit))
        .routes(routes!(consumers::offset))
        .routes(routes!(ops::stats))
        .routes(routes!(ops::flush))
        .routes(routes!(ops::flush_table))
}

/// What `/openapi.json` says.
pub fn description() -> utoipa::openapi::OpenApi {
    let (_, mut description) = described().split_for_parts();
    let (_, probes) = probes().split_for_parts();
    description.merge(probes);
    description
}

/// The routes of the main port.
pub fn router(state: AppState) -> Router {
    let (ops, stats, limits) = (state.ops.clone(), Arc::clone(&state.stats), Arc::clone(&state.limits));
    let (head_bytes, exports) = (limits.header_bytes, state.exports_traces);
    let (data, _) = described().split_for_parts();
    #[cfg(feature = "bench")]
    let data = data.merge(bench::routes(&state));
    let (probes, _) = probes().split_for_parts();
    let pages = SwaggerUi::new("/docs").url("/openapi.json", description());
    let data = data
        .with_state(state)
        .layer(RequestDecompressionLayer::new())
        .layer(middleware::from_fn_with_state(limits, body::mark_compressed))
        .merge(probes.with_state(ops))
        .route("/docs/errors", get(docs::errors))
        .merge(pages);
    layers(data, head_bytes, exports, Some(stats))
}

/// The routes of the admin port: served from before the store opens.
pub fn admin_router(ops: OpsState, head_bytes: usize) -> Router {
    let (probes, _) = probes().split_for_parts();
    let admin = probes.route("/flush", post(ops::flush_admin)).route("/log/level", get(ops::log_level).put(ops::set_log_level));
    layers(admin.with_state(ops), head_bytes, false, None)
}

fn probes() -> OpenApiRouter<OpsState> {
    OpenApiRouter::new()
        .routes(routes!(ops::livez))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::startupz))
        .routes(routes!(ops::metrics))
        .route("/health", get(ops::livez))
        .route("/healthz", get(ops::livez))
}

/// What every route gets: panics become answers, errors become problems, requests are counted.
fn layers(router: Router, head_bytes: usize, exports_traces: bool, stats: Option<Arc<Stats>>) -> Router {
    router
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(DefaultBodyLimit::disable()) // `body` has limits of its own, for streams too
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(head_bytes, bound_head))
        .layer(middleware::from_fn(body::discard_refused))
        .layer(middleware::from_fn(error::finish))
        .layer(middleware::from_fn_with_state(exports_traces, trace::trace))
        .layer(middleware::from_fn_with_state(stats, count))
}

/// Refuses a request whose path and headers are over the limit.
async fn bound_head(State(most): State<usize>, request: Request, next: Next) -> Response {
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let bytes = path + request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>();
    if bytes > most {
        return Problem::new(Code::HeadTooLarge, format!("path and headers have {bytes} bytes, limits.header_bytes is {most}"))
            .into_response();
    }
    next.run(request).await
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

    #[test]
    fn the_committed_description_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let text = description().to_pretty_json().unwrap() + "\n";
        if option_env!("UPDATE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == text, "run UPDATE_DOCS=1 cargo test --lib");
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let description = serde_json::to_value(description()).unwrap();
        let operations = description["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
        let mut names: Vec<_> = operations.filter_map(|operation| operation["operationId"].as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_too_and_leaves_a_writes_outcome_open() {
        async fn broken() {
            panic!("on purpose")
        }
        let router = layers(Router::new().route("/tables/{table}", post(broken)), 8192, false, None);
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

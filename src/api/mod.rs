//! HTTP: the whole route table. Turns requests into calls of the contracts, and their answers into bytes.

pub mod accept;
pub mod answers;
#[cfg(feature = "bench")]
pub mod bench;
pub mod body;
pub mod code;
pub mod coding;
pub mod connection;
pub mod encode;
pub mod error;
pub mod extract;
pub mod handlers;
pub mod limits;
pub mod memory;
pub mod observe;
pub mod origin;
pub mod pace;
pub mod records;
pub mod schema;
pub mod state;
pub mod stats;
pub mod strict;
pub mod surround;
pub mod tails;
pub mod times;
pub mod trace;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::Response,
    routing::{get, post},
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use self::{
    code::Code,
    error::Problem,
    handlers::{consumers, docs, events, ops, read, tables},
    limits::Limits,
    origin::HttpSettings,
    state::{AppState, OpsState},
    surround::{Surroundings, surround},
};

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
    let ops = Arc::clone(&state.ops);
    let stats = Some(Arc::clone(&state.stats));
    let around = Surroundings { limits: Arc::clone(&state.limits), exports_traces: state.exports_traces, http: state.http.clone(), stats };
    let (data, _) = described().split_for_parts();
    #[cfg(feature = "bench")]
    let data = data.merge(bench::routes(&state));
    let (probes, _) = probes().split_for_parts();
    let pages = Router::from(SwaggerUi::new("/docs").url("/openapi.json", description()));
    let pages = pages.route("/docs/errors", get(docs::errors)).layer(middleware::map_response(of_pages));
    surrounded(data.with_state(state).merge(probes.with_state(ops)).merge(pages), around)
}

/// The routes of the main port until the store is open: probes, and a refusal of everything else.
pub fn starting_router(ops: OpsState, limits: Arc<Limits>, http: HttpSettings) -> Router {
    let (probes, _) = probes().split_for_parts();
    let starting = async || {
        let detail = "the server is starting: its volume and its bucket are being opened";
        Problem::new(Code::Starting, detail).not_written().retry_after(Duration::from_secs(1))
    };
    let around = Surroundings { limits, exports_traces: false, http, stats: None };
    probes.with_state(ops).fallback(starting).layer(middleware::from_fn_with_state(Arc::new(around), surround))
}

/// Pages load their own scripts and styles, and nothing from elsewhere.
async fn of_pages(mut response: Response) -> Response {
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// The routes of the admin port: served from before the store opens.
pub fn admin_router(ops: OpsState, limits: Arc<Limits>) -> Router {
    let (probes, _) = probes().split_for_parts();
    let admin = probes.route("/flush", post(ops::flush_admin)).route("/log/level", get(ops::log_level).put(ops::set_log_level));
    surrounded(admin.with_state(ops), Surroundings { limits, exports_traces: false, http: HttpSettings::default(), stats: None })
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

fn surrounded(router: Router, around: Surroundings) -> Router {
    router.fallback(|| async { StatusCode::NOT_FOUND }).layer(middleware::from_fn_with_state(Arc::new(around), surround))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};
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
        let around = Surroundings { limits: Arc::default(), exports_traces: false, http: HttpSettings::default(), stats: None };
        let router = surrounded(Router::new().route("/tables/{table}", post(broken)), around);
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

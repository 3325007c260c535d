//! HTTP: the routes of every port. Requests become calls of the contracts, and what these return becomes
//! bytes.

mod accept;
mod access;
mod answers;
mod attributes;
mod audited;
mod body;
mod callers_body;
mod callers_right;
pub(crate) mod changes;
mod code;
pub mod coding;
mod commits;
pub mod connection;
mod context;
pub mod encode;
mod end_pings;
mod error;
mod error_page;
pub mod extract;
pub mod filters;
mod forwarded;
mod frames;
mod heads;
mod json_body;
pub mod last_piece;
pub mod limits;
pub mod media;
pub mod memory;
pub(crate) mod observe;
pub(crate) mod origin;
mod pace;
pub(crate) mod pages;
pub mod params;
mod pause;
mod problem_text;
mod queries;
pub mod records;
pub(crate) mod refusals;
mod route;
mod route_table;
mod routes;
pub mod scope;
pub(crate) mod shards;
pub mod shared_body;
mod sharing;
pub mod state;
pub(crate) mod stats;
mod strict;
mod surround;
pub(crate) mod tails;
mod times;
mod trace;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, Method, StatusCode, header},
    middleware,
    response::Response,
    routing::get,
};
use utoipa::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

pub(crate) use self::route_table::RouteTable;
pub use self::route_table::Routes;
use self::{
    code::Code,
    error::Problem,
    origin::{HostCheck, HttpSettings},
    pages::PageApi,
    route::Surroundings,
    route_table::described,
    routes::{
        consumers::{self, commit, reset},
        docs,
        events::{bulk, cloudevents, raw, write},
        ops::{cluster, flush, log_level, numbers, probes, settings},
        read,
        tables::{self, config, erase, segments},
    },
    shards::{Gathered, Reach, TrunkAnswerer, TrunkApi},
    state::{AppState, OpsState, OwnShards},
};
use crate::{auth::verb::Verb, cluster::Cluster};

/// The head of `/openapi.json`.
#[derive(OpenApi)]
#[openapi(info(
    title = "Zombi",
    description = "An event store for Kubernetes: RocksDB hot, S3 cold, one ordered read over both. \
                   Every error is explained at `/docs/errors`."
))]
struct Description;

/// The routes of the main port that need the open store.
fn store_routes(surroundings: &Arc<Surroundings>) -> RouteTable<AppState> {
    RouteTable::described(Arc::clone(surroundings), Description::openapi())
        .direct(Verb::Append, Reach::Table, described!(write::write))
        .direct(Verb::Read, Reach::Table, described!(read::read))
        .route(Verb::Manage, Reach::Table, described!(tables::delete_table))
        .direct(Verb::Append, Reach::Table, described!(bulk::write_bulk))
        .route(Verb::Append, Reach::Table, described!(raw::write_raw))
        .options(Verb::Open, "/tables/{table}", cloudevents::handshake)
        .options(Verb::Open, "/tables/{table}/raw", cloudevents::raw_handshake)
        .route(Verb::Read, Reach::All(Gathered::Tables), described!(tables::list))
        .route(Verb::Read, Reach::Table, described!(tables::partitions))
        .route(Verb::Read, Reach::Table, described!(segments::segments))
        .route(Verb::Read, Reach::Table, described!(config::table_config))
        .route(Verb::Manage, Reach::Table, described!(config::configure_table))
        .route(Verb::Commit, Reach::All(Gathered::Groups), described!(consumers::groups))
        .route(Verb::Commit, Reach::All(Gathered::Group), described!(consumers::offsets))
        .route(Verb::Rewind, Reach::All(Gathered::GroupDeleted), described!(consumers::delete))
        .route(Verb::Commit, Reach::BodyTables, described!(commit::commit))
        .route(Verb::Rewind, Reach::BodyTable, described!(reset::reset))
        .route(Verb::Commit, Reach::QueryTable, described!(consumers::offset))
        .route(Verb::Operate, Reach::All(Gathered::Stats), described!(numbers::stats))
        .route(Verb::Operate, Reach::This, described!(settings::settings))
        .route(Verb::Operate, Reach::All(Gathered::Flush), described!(flush::flush))
        .route(Verb::Manage, Reach::TableFlush, described!(flush::flush_table))
        .route(Verb::Manage, Reach::Table, described!(erase::erase))
        .route(Verb::Manage, Reach::Table, described!(erase::erasure))
}

/// Probes, metrics and what the cluster is, which the main port has from the first moment. The metrics name
/// tables and groups, and where others must show who they are, probes leave names out.
fn ops_routes(surroundings: &Arc<Surroundings>) -> RouteTable<OpsState> {
    let probes = probe_routes(surroundings);
    let probes = probes.route(Verb::Open, Reach::This, described!(probes::readyz));
    let probes = probes.route(Verb::Open, Reach::This, described!(probes::startupz));
    let metrics: RouteTable<OpsState> = RouteTable::new(Arc::clone(surroundings));
    let metrics = metrics.route(Verb::Operate, Reach::This, described!(numbers::metrics));
    let metrics = metrics.route(Verb::Operate, Reach::This, described!(cluster::cluster));
    metrics.route(Verb::Operate, Reach::Numbered, described!(cluster::move_shard)).merge(probes)
}

/// The probes that say the same on every port.
fn probe_routes(surroundings: &Arc<Surroundings>) -> RouteTable<OpsState> {
    // A probe knows an address only, so it is answered whatever name it asks for.
    let any_name = Arc::new(Surroundings { http: None, ..Surroundings::clone(surroundings) });
    RouteTable::new(any_name)
        .route(Verb::Open, Reach::This, described!(probes::livez))
        .get(Verb::Open, "/health", probes::livez)
        .get(Verb::Open, "/healthz", probes::livez)
}

/// Pages for people, and the description.
fn pages(surroundings: &Arc<Surroundings>) -> RouteTable {
    let pages: Router = SwaggerUi::new("/docs").url("/openapi.json", description()).into();
    let pages = pages.route("/docs/errors", get(docs::errors)).layer(middleware::map_response(of_pages));
    let paths = ["/docs", "/docs/", "/docs/{*rest}", "/openapi.json"];
    RouteTable::new(Arc::clone(surroundings)).add_router(Verb::Open, &paths, pages)
}

/// What `/openapi.json` says.
pub fn description() -> utoipa::openapi::OpenApi {
    let surroundings = Arc::default();
    let mut description = store_routes(&surroundings).description();
    description.merge(ops_routes(&surroundings).description());
    description
}

/// The routes of the main port, with those that another room adds.
#[cfg(not(feature = "bench"))]
pub(crate) fn routes(state: AppState, more: RouteTable) -> Routes {
    table(state).merge(more).finish(nothing_here)
}

/// The same, and those of the main port over other states below other paths.
#[cfg(feature = "bench")]
pub(crate) fn routes_beside<const N: usize>(
    state: AppState,
    more: RouteTable,
    others: [(&str, AppState); N],
) -> Routes {
    let below = others.into_iter().map(|(path, state)| table(state).below(path));
    below.fold(table(state).merge(more), RouteTable::merge).finish(nothing_here)
}

/// What surrounds requests of the console: a session counts, and only our own pages may send what changes
/// something. Pages of `http.origins` have the API itself.
fn of_console(state: &AppState) -> Arc<Surroundings> {
    Arc::new(Surroundings {
        header_bytes: state.header_bytes,
        exports_traces: state.exports_traces,
        http: Some(HttpSettings { origins: Vec::new(), ..state.http.clone() }),
        gate: state.ops.gate.clone(),
        takes_sessions: true,
        cluster: cluster_of(state),
        ..Surroundings::default()
    })
}

/// A table for pages of the console.
pub(crate) fn console_table<S: Clone + Send + Sync + 'static>(state: &AppState) -> RouteTable<S> {
    RouteTable::new(of_console(state))
}

/// The API as the console has it, below [`pages::API`]: the same handlers and the same rights, and a session
/// counts. All of it only reads.
pub(crate) fn console_api(state: &AppState) -> RouteTable {
    let surroundings = of_console(state);
    let ops = with_log_level(ops_routes(&surroundings)).with_state(Arc::clone(&state.ops));
    let all = over_stores(store_routes(&surroundings), state).merge(ops);
    all.only(|route| route.method == Some(Method::GET)).below(pages::API)
}

/// What pages ask within the process: [`console_api`], and resets of consumer groups, which no path leads to.
pub(crate) fn api_of_pages(state: &AppState) -> PageApi {
    let table: RouteTable<AppState> = console_table(state);
    let resets = over_stores(table.route(Verb::Rewind, Reach::BodyTable, described!(reset::reset)), state);
    PageApi::new(console_api(state).merge(resets.below(pages::API)).finish(nothing_here))
}

/// The route table of the main port.
fn table(state: AppState) -> RouteTable {
    let surroundings = Arc::new(Surroundings {
        header_bytes: state.header_bytes,
        exports_traces: state.exports_traces,
        http: Some(state.http.clone()),
        gate: state.ops.gate.clone(),
        cluster: cluster_of(&state),
        stats: Some(Arc::clone(&state.stats)),
        ..Surroundings::default()
    });
    let ops = over_owners(with_log_level(ops_routes(&surroundings)), &state);
    let all = over_stores(store_routes(&surroundings), &state).merge(ops).merge(pages(&surroundings));
    if state.shards.is_some() { all.merge(trunks(&surroundings, &state)) } else { all }
}

/// Where trunks of other pods begin. What comes over them is what comes to the main port about tables.
fn trunks(surroundings: &Arc<Surroundings>, state: &AppState) -> RouteTable {
    let routes = over_stores(store_routes(surroundings), state).finish(nothing_here);
    let answerer: TrunkAnswerer = Arc::new(move |request, connection| routes.answer(request, connection));
    let api = TrunkApi { answerer, stopping: state.stopping.clone() };
    trunk_routes(surroundings).with_state(Arc::new(api))
}

/// Open, as pods have no right of their own: by the cluster's secret they are known before, and to anybody
/// else nothing is here.
fn trunk_routes(surroundings: &Arc<Surroundings>) -> RouteTable<Arc<TrunkApi>> {
    // Pods call each other by names that `http.hosts` need not list: what they pass on has the client's.
    let any_name = Surroundings { http: None, ..Surroundings::clone(surroundings) };
    let table: RouteTable<Arc<TrunkApi>> = RouteTable::new(Arc::new(any_name));
    table.post(Verb::Open, shards::TRUNK, shards::trunk)
}

/// Gives handlers of the process their state; what is about one shard goes to the pod that owns it.
fn over_owners(table: RouteTable<OpsState>, state: &AppState) -> RouteTable {
    let Some(OwnShards { shards, .. }) = &state.shards else {
        return table.with_state(Arc::clone(&state.ops));
    };
    table.with_states(|route, maker| {
        let here = maker(Arc::clone(&state.ops));
        shards.of_process(route.reach(), here)
    })
}

/// Gives handlers the store that they work on: the one there is, or that of the shard which a request is
/// about.
fn over_stores(table: RouteTable<AppState>, state: &AppState) -> RouteTable {
    let Some(OwnShards { shards, stores }) = &state.shards else { return table.with_state(state.clone()) };
    table.with_states(|route, maker| shards.endpoint(route.reach(), stores, maker))
}

/// The cluster whose pods pass requests on.
fn cluster_of(state: &AppState) -> Option<Arc<Cluster>> {
    state.shards.as_ref().map(|own| Arc::clone(&own.shards.cluster))
}

/// The routes of the main port until the store is open: probes and metrics, and a refusal of everything else.
pub fn starting_routes(ops: OpsState, header_bytes: usize, http: HttpSettings) -> Routes {
    let gate = ops.gate.clone();
    let surroundings =
        Arc::new(Surroundings { header_bytes, http: Some(http), gate, ..Surroundings::default() });
    ops_routes(&surroundings).with_state(ops).finish(starting)
}

/// How the admin port lets in.
#[derive(Debug, Clone, Copy)]
pub struct AdminDoor {
    /// Bytes that path and headers of a request may have.
    pub header_bytes: usize,
    /// Whether more than probes and metrics wants the right to operate: the setting `auth.admin`.
    pub asks_who: bool,
    /// Whether the main port speaks TLS, as this one never does.
    pub has_tls_beside_it: bool,
}

/// The routes of the admin port, which is served before the store opens.
pub fn admin_routes(ops: OpsState, door: AdminDoor) -> Routes {
    let surroundings = Arc::new(Surroundings {
        header_bytes: door.header_bytes,
        http: Some(HttpSettings::default()),
        host_check: HostCheck::AnyName,
        gate: ops.gate.clone(),
        lets_anybody_in: !door.asks_who,
        tokens_from_here_only: door.has_tls_beside_it,
        ..Surroundings::default()
    });
    admin_table(&surroundings).with_state(ops).finish(nothing_here)
}

fn admin_table(surroundings: &Arc<Surroundings>) -> RouteTable<OpsState> {
    // The kubelet and Prometheus have no credentials, and whoever looks here is to see what is wrong.
    let probes = probe_routes(surroundings).get(Verb::Open, "/readyz", probes::readyz_admin).get(
        Verb::Open,
        "/startupz",
        probes::startupz_admin,
    );
    let metrics: RouteTable<OpsState> = RouteTable::new(Arc::clone(surroundings));
    let metrics = metrics.get(Verb::Open, "/metrics", numbers::metrics);
    let shown = metrics.get(Verb::Operate, "/cluster", cluster::cluster);
    let shown = shown.post(Verb::Operate, "/cluster/shards/{shard}/move", cluster::move_shard);
    with_log_level(shown.merge(probes)).post(Verb::Operate, "/flush", flush::flush_admin)
}

fn with_log_level(table: RouteTable<OpsState>) -> RouteTable<OpsState> {
    table.get(Verb::Operate, "/log/level", log_level::log_level).put(
        Verb::Operate,
        "/log/level",
        log_level::set_log_level,
    )
}

/// Answers at paths that no route knows.
async fn nothing_here() -> StatusCode {
    StatusCode::NOT_FOUND
}

/// Answers everything but probes and metrics until the store is open.
async fn starting() -> Problem {
    still_starting()
}

/// What is asked for needs the store, which is not open yet.
fn still_starting() -> Problem {
    let detail = "the server is starting: its volume and its bucket are being opened";
    Problem::new(Code::Starting, detail).not_written().retry_after(Duration::from_secs(1))
}

/// Pages load their own scripts and styles, and nothing from elsewhere.
async fn of_pages(mut response: Response) -> Response {
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                  frame-ancestors 'none'; base-uri 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::{route_table::RouteVerb, *};

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
        let operations = description["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values());
        let mut names: Vec<_> =
            operations.filter_map(|operation| operation["operationId"].as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }

    #[test]
    fn every_route_says_what_it_does_and_which_shards_it_is_about() {
        let surroundings = Arc::default();
        let store = store_routes(&surroundings);
        let ops = ops_routes(&surroundings);
        let trunks = trunk_routes(&surroundings);
        let routes: Vec<_> = store
            .verbs()
            .chain(ops.verbs())
            .chain(trunks.verbs())
            .map(|route| {
                (route.method.as_ref().unwrap().as_str(), route.path.as_str(), route.verb, route.reach)
            })
            .collect();
        let expected = [
            ("POST", "/tables/{table}", Verb::Append, Reach::Table),
            ("GET", "/tables/{table}", Verb::Read, Reach::Table),
            ("DELETE", "/tables/{table}", Verb::Manage, Reach::Table),
            ("POST", "/tables/{table}/bulk", Verb::Append, Reach::Table),
            ("POST", "/tables/{table}/raw", Verb::Append, Reach::Table),
            ("OPTIONS", "/tables/{table}", Verb::Open, Reach::This),
            ("OPTIONS", "/tables/{table}/raw", Verb::Open, Reach::This),
            ("GET", "/tables", Verb::Read, Reach::All(Gathered::Tables)),
            ("GET", "/tables/{table}/partitions", Verb::Read, Reach::Table),
            ("GET", "/tables/{table}/segments", Verb::Read, Reach::Table),
            ("GET", "/tables/{table}/config", Verb::Read, Reach::Table),
            ("PUT", "/tables/{table}/config", Verb::Manage, Reach::Table),
            ("GET", "/consumers", Verb::Commit, Reach::All(Gathered::Groups)),
            ("GET", "/consumers/{group}", Verb::Commit, Reach::All(Gathered::Group)),
            ("DELETE", "/consumers/{group}", Verb::Rewind, Reach::All(Gathered::GroupDeleted)),
            ("POST", "/consumers/{group}/commit", Verb::Commit, Reach::BodyTables),
            ("POST", "/consumers/{group}/reset", Verb::Rewind, Reach::BodyTable),
            ("GET", "/consumers/{group}/offset", Verb::Commit, Reach::QueryTable),
            ("GET", "/stats", Verb::Operate, Reach::All(Gathered::Stats)),
            ("GET", "/settings", Verb::Operate, Reach::This),
            ("POST", "/flush", Verb::Operate, Reach::All(Gathered::Flush)),
            ("POST", "/tables/{table}/flush", Verb::Manage, Reach::TableFlush),
            ("POST", "/tables/{table}/erase", Verb::Manage, Reach::Table),
            ("GET", "/tables/{table}/erase/{id}", Verb::Manage, Reach::Table),
            ("GET", "/metrics", Verb::Operate, Reach::This),
            ("GET", "/cluster", Verb::Operate, Reach::This),
            ("POST", "/cluster/shards/{shard}/move", Verb::Operate, Reach::Numbered),
            ("GET", "/livez", Verb::Open, Reach::This),
            ("GET", "/health", Verb::Open, Reach::This),
            ("GET", "/healthz", Verb::Open, Reach::This),
            ("GET", "/readyz", Verb::Open, Reach::This),
            ("GET", "/startupz", Verb::Open, Reach::This),
            // Of clusters only.
            ("POST", "/cluster/trunk/1", Verb::Open, Reach::This),
        ];
        assert_eq!(routes, expected);

        let description = serde_json::to_value(description()).unwrap();
        for (path, item) in description["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
                let said =
                    routes.iter().filter(|route| (route.0, route.1) == (method.as_str(), path.as_str()));
                assert_eq!(said.count(), 1, "{method} {path}");
            }
        }
    }

    #[test]
    fn every_route_of_the_admin_port_says_what_it_does() {
        let surroundings = Arc::default();
        let admin = admin_table(&surroundings);
        let of_admin: Vec<_> = admin
            .verbs()
            .map(|route| (route.method.as_ref().unwrap().as_str(), route.path.as_str(), route.verb))
            .collect();
        // All of them: what is open here nobody is asked for.
        let expected = [
            ("GET", "/metrics", Verb::Open),
            ("GET", "/cluster", Verb::Operate),
            ("POST", "/cluster/shards/{shard}/move", Verb::Operate),
            ("GET", "/livez", Verb::Open),
            ("GET", "/health", Verb::Open),
            ("GET", "/healthz", Verb::Open),
            ("GET", "/readyz", Verb::Open),
            ("GET", "/startupz", Verb::Open),
            ("GET", "/log/level", Verb::Operate),
            ("PUT", "/log/level", Verb::Operate),
            ("POST", "/flush", Verb::Operate),
        ];
        assert_eq!(of_admin, expected);
    }

    /// What a route is about, for people.
    fn resource(route: &RouteVerb) -> &'static str {
        match (route.method.as_ref().map(Method::as_str), route.path.as_str()) {
            _ if route.verb == Verb::Open => "-",
            (_, "/tables") => "each table that is listed",
            (_, "/consumers") => "each group that is listed",
            (Some("GET"), "/consumers/{group}") => "group; `read` on each table that is shown",
            (_, "/consumers/{group}/offset") => "group; `read` on the table",
            (_, "/consumers/{group}/commit") => "group, with `force` `rewind` on it; `read` on each table",
            (_, "/consumers/{group}/reset") => {
                "group, with `dry_run` only `commit` on it; `read` on the table"
            }
            (_, path) if path.contains("{table}") => "table",
            (_, path) if path.contains("{group}") => "group",
            _ => "server",
        }
    }

    #[test]
    fn the_committed_table_of_routes_is_up_to_date() {
        let surroundings = Arc::default();
        let (store, ops) = (store_routes(&surroundings), ops_routes(&surroundings));
        let ops = with_log_level(ops);
        let rows = store.verbs().chain(ops.verbs()).map(|route| {
            let method = route.method.as_ref().unwrap();
            format!("| {method} | `{}` | {} | {} |\n", route.path, route.verb.name(), resource(route))
        });
        let rows: String = rows.collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once("<!-- routes -->\n").unwrap();
        let (_, after) = rest.split_once("<!-- /routes -->").unwrap();
        let head = "| method | path | verb | resource |\n|---|---|---|---|\n";
        let expected = format!("{before}<!-- routes -->\n{head}{rows}<!-- /routes -->{after}");
        if option_env!("UPDATE_DOCS").is_some() {
            std::fs::write(path, &expected).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == expected, "run UPDATE_DOCS=1 cargo test --lib");
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_too_and_leaves_a_writes_outcome_open() {
        async fn broken() {
            panic!("on purpose")
        }
        let table: RouteTable = RouteTable::new(Arc::default());
        let routes = table.post(Verb::Append, "/tables/{table}", broken).finish(nothing_here);
        let request = Request::post("/tables/t").header("host", "z").header("x-request-id", "mine");
        let request = request.body(Body::empty()).unwrap();
        let response = routes.answer(request, Arc::default()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&problem["code"], &problem["outcome"], &problem["request_id"]),
            (&"internal".into(), &"unknown".into(), &"mine".into())
        );
    }
}

//! What each route wants, and who has it: every route of every port, asked by everybody.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;

use super::secured::{NO_ONE, Secured, ask, binding, expect, policy};
use testing::{TestServer, process::Start, server::answer};

/// What a route wants of who asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RouteRight {
    Append,
    Read,
    Commit,
    Rewind,
    Manage,
    Operate,
    /// A list wants a credential, and shows what its principal may read.
    Listed,
    Nothing,
}

impl RouteRight {
    /// The roles that have it. Each principal is called as its role.
    fn is_given(self, who: &str) -> bool {
        match self {
            Self::Append => ["producer", "owner", "operator"].contains(&who),
            Self::Read | Self::Commit => ["consumer", "owner", "operator"].contains(&who),
            Self::Rewind | Self::Manage => ["owner", "operator"].contains(&who),
            Self::Operate => who == "operator",
            Self::Listed => who != NO_ONE,
            Self::Nothing => true,
        }
    }
}

/// Who asks: one of each built-in role for table `t` and group `g`, one of no role, and one without a
/// credential.
const EVERYBODY: [&str; 6] = ["producer", "consumer", "owner", "operator", "nobody", NO_ONE];

/// A route: method, path, body, and what it wants.
type RouteCase = (Method, &'static str, &'static str, RouteRight);

const RECORD: &str = r#"{"payload":1}"#;
const RESET: &str = r#"{"table":"t","to":"earliest"}"#;
/// What shows without doing needs less.
const RESET_DRY: &str = r#"{"table":"t","to":"earliest","dry_run":true}"#;

/// The id of an erasure that there is not.
const NO_ERASURE: &str = "00000000-0000-4000-8000-000000000000";

/// All routes of the main port. Those that delete stand last.
const MAIN: &[RouteCase] = &[
    (Method::POST, "/tables/{table}", RECORD, RouteRight::Append),
    (Method::POST, "/tables/{table}/bulk", r#"{"records":[{"payload":1}]}"#, RouteRight::Append),
    (Method::POST, "/tables/{table}/raw", RECORD, RouteRight::Append),
    (Method::GET, "/tables/{table}", "", RouteRight::Read),
    (Method::HEAD, "/tables/{table}", "", RouteRight::Read),
    (Method::GET, "/tables/{table}/partitions", "", RouteRight::Read),
    (Method::HEAD, "/tables/{table}/partitions", "", RouteRight::Read),
    (Method::GET, "/tables/{table}/config", "", RouteRight::Read),
    (Method::HEAD, "/tables/{table}/config", "", RouteRight::Read),
    (Method::GET, "/tables/{table}/segments", "", RouteRight::Read),
    (Method::HEAD, "/tables/{table}/segments", "", RouteRight::Read),
    (Method::PUT, "/tables/{table}/config", "{}", RouteRight::Manage),
    (Method::POST, "/tables/{table}/flush", "", RouteRight::Manage),
    (Method::POST, "/tables/{table}/erase", r#"{"offsets":[0]}"#, RouteRight::Manage),
    (Method::GET, "/tables/{table}/erase/{id}", "", RouteRight::Manage),
    (Method::HEAD, "/tables/{table}/erase/{id}", "", RouteRight::Manage),
    (Method::GET, "/tables", "", RouteRight::Listed),
    (Method::HEAD, "/tables", "", RouteRight::Listed),
    (Method::GET, "/consumers", "", RouteRight::Listed),
    (Method::HEAD, "/consumers", "", RouteRight::Listed),
    (Method::POST, "/consumers/{group}/commit", r#"{"table":"t","offset":1}"#, RouteRight::Commit),
    (Method::POST, "/consumers/{group}/reset", RESET, RouteRight::Rewind),
    (Method::POST, "/consumers/{group}/reset", RESET_DRY, RouteRight::Commit),
    (Method::GET, "/consumers/{group}", "", RouteRight::Commit),
    (Method::HEAD, "/consumers/{group}", "", RouteRight::Commit),
    (Method::GET, "/consumers/{group}/offset?table=t", "", RouteRight::Commit),
    (Method::HEAD, "/consumers/{group}/offset?table=t", "", RouteRight::Commit),
    (Method::GET, "/stats", "", RouteRight::Operate),
    (Method::HEAD, "/stats", "", RouteRight::Operate),
    (Method::GET, "/settings", "", RouteRight::Operate),
    (Method::HEAD, "/settings", "", RouteRight::Operate),
    (Method::POST, "/flush", "", RouteRight::Operate),
    (Method::GET, "/metrics", "", RouteRight::Operate),
    (Method::HEAD, "/metrics", "", RouteRight::Operate),
    (Method::GET, "/cluster", "", RouteRight::Operate),
    (Method::HEAD, "/cluster", "", RouteRight::Operate),
    (Method::POST, "/cluster/shards/{shard}/move", "{}", RouteRight::Operate),
    (Method::GET, "/livez", "", RouteRight::Nothing),
    (Method::GET, "/readyz", "", RouteRight::Nothing),
    (Method::GET, "/readyz?verbose", "", RouteRight::Nothing),
    (Method::GET, "/startupz", "", RouteRight::Nothing),
    (Method::GET, "/health", "", RouteRight::Nothing),
    (Method::GET, "/healthz", "", RouteRight::Nothing),
    (Method::GET, "/openapi.json", "", RouteRight::Nothing),
    (Method::GET, "/docs", "", RouteRight::Nothing),
    (Method::GET, "/docs/", "", RouteRight::Nothing),
    (Method::GET, "/docs/index.html", "", RouteRight::Nothing),
    (Method::GET, "/docs/errors", "", RouteRight::Nothing),
    (Method::OPTIONS, "/tables/{table}", "", RouteRight::Nothing),
    (Method::OPTIONS, "/tables/{table}/raw", "", RouteRight::Nothing),
    (Method::OPTIONS, "/tables/{table}/bulk", "", RouteRight::Nothing),
    (Method::OPTIONS, "/consumers/{group}/commit", "", RouteRight::Nothing),
    (Method::OPTIONS, "/consumers/{group}/reset", "", RouteRight::Nothing),
    // Pages are open by themselves: what they show they ask the API for. See `console`.
    (Method::GET, "/", "", RouteRight::Nothing),
    (Method::GET, "/console", "", RouteRight::Nothing),
    (Method::GET, "/console/", "", RouteRight::Nothing),
    (Method::GET, "/console/tables", "", RouteRight::Nothing),
    (Method::GET, "/console/events", "", RouteRight::Nothing),
    (Method::GET, "/console/consumers", "", RouteRight::Nothing),
    (Method::GET, "/console/health", "", RouteRight::Nothing),
    (Method::GET, "/console/shards", "", RouteRight::Nothing),
    (Method::GET, "/console/sign-in", "", RouteRight::Nothing),
    (Method::POST, "/console/sign-in", "", RouteRight::Nothing),
    (Method::GET, "/console/assets/{name}", "", RouteRight::Nothing),
    (Method::GET, "/console/api/tables", "", RouteRight::Listed),
    (Method::GET, "/console/api/tables/{table}", "", RouteRight::Read),
    (Method::GET, "/console/api/tables/{table}/partitions", "", RouteRight::Read),
    (Method::GET, "/console/api/tables/{table}/config", "", RouteRight::Read),
    (Method::GET, "/console/api/tables/{table}/segments", "", RouteRight::Read),
    (Method::GET, "/console/api/tables/{table}/erase/{id}", "", RouteRight::Manage),
    (Method::GET, "/console/api/consumers", "", RouteRight::Listed),
    (Method::GET, "/console/api/consumers/{group}", "", RouteRight::Commit),
    (Method::GET, "/console/api/consumers/{group}/offset?table=t", "", RouteRight::Commit),
    (Method::GET, "/console/api/stats", "", RouteRight::Operate),
    (Method::GET, "/console/api/settings", "", RouteRight::Operate),
    (Method::GET, "/console/api/metrics", "", RouteRight::Operate),
    (Method::GET, "/console/api/cluster", "", RouteRight::Operate),
    (Method::GET, "/console/api/log/level", "", RouteRight::Operate),
    (Method::GET, "/console/api/livez", "", RouteRight::Nothing),
    (Method::GET, "/console/api/readyz?verbose", "", RouteRight::Nothing),
    (Method::GET, "/console/api/startupz", "", RouteRight::Nothing),
    (Method::GET, "/console/api/health", "", RouteRight::Nothing),
    (Method::GET, "/console/api/healthz", "", RouteRight::Nothing),
    (Method::DELETE, "/consumers/{group}", "", RouteRight::Rewind),
    (Method::DELETE, "/tables/{table}", "", RouteRight::Manage),
];

/// All routes of the admin port.
const ADMIN: &[RouteCase] = &[
    (Method::GET, "/livez", "", RouteRight::Nothing),
    (Method::GET, "/readyz", "", RouteRight::Nothing),
    (Method::GET, "/startupz", "", RouteRight::Nothing),
    (Method::GET, "/health", "", RouteRight::Nothing),
    (Method::GET, "/healthz", "", RouteRight::Nothing),
    (Method::GET, "/metrics", "", RouteRight::Nothing),
    (Method::GET, "/cluster", "", RouteRight::Operate),
    (Method::POST, "/cluster/shards/{shard}/move", "{}", RouteRight::Operate),
    (Method::POST, "/flush", "", RouteRight::Operate),
    (Method::GET, "/log/level", "", RouteRight::Operate),
    (Method::PUT, "/log/level", r#"{"level":"info"}"#, RouteRight::Operate),
];

/// Everybody, and a table with a group.
async fn with_everybody(settings: &[(&str, &str)]) -> Secured {
    let bindings =
        ["producer", "consumer", "owner", "operator"].map(|role| binding(role, role, &["t"], &["g"]));
    let s = Secured::start(&policy(&bindings), &EVERYBODY[..5], settings).await;
    assert_eq!(s.post("owner", "/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    let commit = json!({"table": "t", "offset": 1});
    assert_eq!(s.post("owner", "/consumers/g/commit", &commit).await.0, StatusCode::OK);
    s
}

/// A path with something for each of its names.
fn named(path: &str) -> String {
    let path = path.replace("{table}", "t").replace("{group}", "g").replace("{shard}", "0");
    path.replace("{id}", NO_ERASURE)
}

/// Asks a route for everybody.
async fn ask_for_everybody(s: &Secured, is_admin: bool, (method, path, body, wanted): &RouteCase) {
    let path = named(path);
    for who in EVERYBODY {
        let request = if is_admin {
            s.admin(who, method.clone(), &path)
        } else {
            s.request(who, method.clone(), &path)
        };
        let request = request.header("content-type", "application/json").body(*body);
        let response = request.send().await.unwrap();
        let what = format!("{who:?} asks {method} {path}, which wants {wanted:?}");
        let has_challenge = response.headers().contains_key("www-authenticate");
        let (status, problem) = answer(response).await;
        let code = problem["code"].as_str().filter(|_| method != Method::HEAD);
        match (wanted.is_given(who), who) {
            (true, _) => {
                let status = status.as_u16();
                assert!(status != 401 && status != 403 && status < 500, "{what}: {status} {problem}");
            }
            (false, NO_ONE) => {
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}: {problem}");
                assert!(code.is_none_or(|code| code == "unauthenticated"), "{what}: {problem}");
                assert!(has_challenge, "{what}: no WWW-Authenticate");
            }
            (false, _) => {
                assert_eq!(status, StatusCode::FORBIDDEN, "{what}: {problem}");
                assert!(code.is_none_or(|code| code == "forbidden"), "{what}: {problem}");
                assert!(!has_challenge, "{what}: another credential is not asked for");
            }
        }
    }
}

#[tokio::test]
async fn each_route_of_the_main_port_lets_in_who_has_its_right() {
    let s = with_everybody(&[]).await;
    for route in MAIN {
        ask_for_everybody(&s, false, route).await;
    }
}

#[tokio::test]
async fn each_route_of_the_admin_port_lets_in_who_has_its_right() {
    let s = with_everybody(&[]).await;
    for route in ADMIN {
        ask_for_everybody(&s, true, route).await;
    }
}

#[tokio::test]
async fn the_log_level_stands_on_the_main_port_for_operators() {
    let s = with_everybody(&[]).await;
    for (method, body) in [(Method::GET, ""), (Method::PUT, r#"{"level":"info"}"#)] {
        ask_for_everybody(&s, false, &(method, "/log/level", body, RouteRight::Operate)).await;
    }
    assert_eq!(s.get("operator", "/log/level").await, (StatusCode::OK, json!({"level": "info"})));
}

#[tokio::test]
async fn the_admin_port_can_be_left_open() {
    let s = with_everybody(&[("auth.admin", "false")]).await;
    for (method, path, body, _) in ADMIN {
        let request =
            s.admin(NO_ONE, method.clone(), &named(path)).header("content-type", "application/json");
        let (status, answer) = ask(request.body(*body)).await;
        assert!(![401, 403].contains(&status.as_u16()), "{method} {path}: {answer}");
    }
    // The main port is not meant by it.
    expect("a flush", &s.post(NO_ONE, "/flush", &json!(null)).await, 401, "unauthenticated");
}

/// Whether a route of the main port stands above.
fn is_known(method: &str, path: &str) -> bool {
    MAIN.iter().any(|route| route.0 == *method && route.1.split('?').next() == Some(path))
}

#[tokio::test]
async fn no_route_is_missing_here() {
    let s = with_everybody(&[]).await;
    let (_, description) = s.get(NO_ONE, "/openapi.json").await;
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            assert!(is_known(&method, path), "{method} {path} is described, and nobody tries it here");
        }
    }
    // And those that are not described: what a path answers to.
    for (_, path, ..) in MAIN {
        let place = path.split('?').next().unwrap();
        let there = named(place);
        let response = s.request("operator", Method::PATCH, &there).send().await.unwrap();
        let allow = response.headers().get("allow").map(|value| value.to_str().unwrap().to_owned());
        for method in allow.iter().flat_map(|allow| allow.split(',')).map(str::trim) {
            let is_of_get = method == "HEAD" && is_known("GET", place);
            assert!(is_of_get || is_known(method, place), "{method} {place}: nobody tries it here");
        }
    }
}

#[tokio::test]
async fn where_there_is_nothing_nobody_gets_in() {
    let s = with_everybody(&[]).await;
    for path in ["/nothing", "/tables/t/nothing", "/consumers", "/tables", "/Tables/t"] {
        for method in [Method::POST, Method::PATCH] {
            let (status, body) = ask(s.request(NO_ONE, method.clone(), path)).await;
            assert!([401, 404, 405].contains(&status.as_u16()), "{method} {path}: {status} {body}");
        }
    }
}

#[tokio::test]
async fn an_operator_of_one_table_operates_the_server_and_manages_that_table_only() {
    let s = with_everybody(&[]).await;
    for path in ["/stats", "/metrics"] {
        assert_eq!(s.get("operator", path).await.0, StatusCode::OK, "{path}");
    }
    assert_eq!(s.get("operator", "/tables/other").await.0, StatusCode::FORBIDDEN);
    assert_eq!(s.delete("operator", "/tables/other").await.0, StatusCode::FORBIDDEN);
    assert_eq!(s.delete("operator", "/consumers/other").await.0, StatusCode::FORBIDDEN);
    let made = s.put("operator", "/tables/other/config", &json!({})).await;
    assert_eq!(made.0, StatusCode::FORBIDDEN, "{}", made.1);
}

#[tokio::test]
async fn without_auth_all_is_open_and_the_start_says_so_once() {
    let volume = TempDir::new().unwrap();
    let start = Start::serve(&volume.path().join("db")).set("host", "127.0.0.1");
    let said = start.says_at_start().await;
    let warnings = said.lines().filter(|line| line.contains(" WARN ") && line.contains("auth"));
    assert_eq!(warnings.count(), 1, "{said}");

    let z = TestServer::start().await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    // A credential is not looked at.
    for credential in ["Bearer nonsense", "Basic x", "Bearer"] {
        let request = z.request(Method::GET, "/tables/t").header("authorization", credential);
        let (status, page) = answer(request.send().await.unwrap()).await;
        assert_eq!((status, &page["count"]), (StatusCode::OK, &json!(1)), "{credential}: {page}");
    }
    let metrics = answer(z.request(Method::GET, "/metrics").send().await.unwrap()).await.1;
    let is_said = metrics.as_str().unwrap().lines().any(|line| line == "zombi_auth_enabled 0");
    assert!(is_said, "{metrics}");
}

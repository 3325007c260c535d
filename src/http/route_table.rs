//! The route table of a port. A route can only be added together with its verb, with the shards that it is
//! about, and with what surrounds it. The finished table finds a request's route itself: a router that boxes
//! and clones what is below each layer would cost an append a quarter of its time.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{Request, State},
    handler::Handler,
    http::{self, HeaderValue, Method, header},
    response::Response,
};
use tokio::time::Instant;
use utoipa::openapi::{Components, OpenApi};
use utoipa_axum::router::UtoipaMethodRouter;

use super::{
    connection::Connection,
    error::Problem,
    error_page::{self, ErrorPage},
    route::{AnswerFuture, Endpoint, FoundRoute, HandlerEndpoint, HandlerMaker, Route, Surroundings},
    scope::{MOST_NAMES, PathParameters, RouteRequest},
    shards::{Reach, RouteReach},
    shared_body::{SentBody, SharedBody},
    surround::surround,
};
use crate::auth::verb::Verb;
use contracts::metrics::HttpCounts;

/// A handler that waits for its state.
type Stateless<S> = Box<dyn Fn(S) -> Endpoint + Send + Sync>;

/// A handler together with its description: see [`RouteTable::route`].
macro_rules! described {
    ($($part:ident)::+) => {
        (::utoipa_axum::routes!($($part)::+), $($part)::+)
    };
}
pub(super) use described;

/// Routes that take a state of type `S`.
pub(crate) struct RouteTable<S = ()> {
    surroundings: Arc<Surroundings>,
    description: OpenApi,
    routes: Vec<AddedRoute<S>>,
    error_page: Option<ErrorPage>,
}

/// A route of a table that is not finished.
struct AddedRoute<S> {
    route: RouteVerb,
    surroundings: Arc<Surroundings>,
    endpoint: Stateless<S>,
}

/// A route and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteVerb {
    /// Its method; a `GET` answers `HEAD` too. `None` for any method.
    pub method: Option<Method>,
    /// Its path, with `{names}` for what varies.
    pub path: String,
    /// What it does.
    pub verb: Verb,
    /// Which shards it is about.
    pub reach: Reach,
}

impl RouteVerb {
    /// Of a route that each pod answers by itself.
    fn of_this_pod(verb: Verb, method: Option<Method>, path: &str) -> Self {
        Self { method, path: path.to_owned(), verb, reach: Reach::This }
    }

    /// What decides by whom its requests are answered.
    pub(super) fn reach(&self) -> RouteReach<'_> {
        RouteReach { path: &self.path, verb: self.verb, reach: self.reach }
    }
}

/// The finished routes of a port.
pub struct Routes {
    paths: matchit::Router<Vec<Arc<Route>>>,
    /// Answers requests for paths that no route has.
    otherwise: Arc<Route>,
    /// Shows errors where people look.
    error_page: Option<ErrorPage>,
}

impl<S> RouteTable<S>
where
    S: Clone + Send + Sync + 'static,
{
    /// A table without routes.
    pub(super) fn new(surroundings: Arc<Surroundings>) -> Self {
        Self { surroundings, description: OpenApi::default(), routes: Vec::new(), error_page: None }
    }

    /// A table without routes whose description begins with `description`.
    pub(super) fn described(surroundings: Arc<Surroundings>, description: OpenApi) -> Self {
        Self { description, ..Self::new(surroundings) }
    }

    /// Adds a described route, as [`described!`] gives it.
    pub(super) fn route<H, T>(
        self,
        verb: Verb,
        reach: Reach,
        (described, handler): (UtoipaMethodRouter<S>, H),
    ) -> Self
    where
        H: Handler<T, S, Future = AnswerFuture>,
        T: 'static,
    {
        self.described_as((verb, reach), described, || of_handler(handler.clone()))
    }

    /// The same, for a handler that many requests reach: it takes the request and returns the answer as they
    /// are, with nothing of axum between.
    pub(super) fn direct<H, F>(
        self,
        verb: Verb,
        reach: Reach,
        (described, handler): (UtoipaMethodRouter<S>, H),
    ) -> Self
    where
        H: Fn(State<S>, RouteRequest) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        self.described_as((verb, reach), described, || of_direct(handler.clone()))
    }

    fn described_as(
        self,
        (verb, reach): (Verb, Reach),
        (schemas, paths, _): UtoipaMethodRouter<S>,
        endpoint: impl Fn() -> Stateless<S>,
    ) -> Self {
        let mut table = self;
        for (path, item) in &paths.paths {
            let operations = [
                (Method::GET, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::DELETE, &item.delete),
            ];
            for (method, _) in operations.into_iter().filter(|(_, operation)| operation.is_some()) {
                let route = RouteVerb { reach, ..RouteVerb::of_this_pod(verb, Some(method), path) };
                table = table.add(route, endpoint());
            }
        }
        let components = table.description.components.get_or_insert_with(Components::new);
        components.schemas.extend(schemas);
        for (path, item) in paths.paths {
            match table.description.paths.paths.get_mut(&path) {
                Some(others) => others.merge_operations(item),
                None => drop(table.description.paths.paths.insert(path, item)),
            }
        }
        table
    }

    /// Adds a `GET` that is not described, and that each pod answers by itself.
    pub(crate) fn get<H, T>(self, verb: Verb, path: &str, handler: H) -> Self
    where
        H: Handler<T, S, Future = AnswerFuture>,
        T: 'static,
    {
        self.add(RouteVerb::of_this_pod(verb, Some(Method::GET), path), of_handler(handler))
    }

    /// Adds a `POST` of this kind.
    pub(crate) fn post<H, T>(self, verb: Verb, path: &str, handler: H) -> Self
    where
        H: Handler<T, S, Future = AnswerFuture>,
        T: 'static,
    {
        self.add(RouteVerb::of_this_pod(verb, Some(Method::POST), path), of_handler(handler))
    }

    /// Adds an `OPTIONS` of this kind.
    pub(super) fn options<H, T>(self, verb: Verb, path: &str, handler: H) -> Self
    where
        H: Handler<T, S, Future = AnswerFuture>,
        T: 'static,
    {
        self.add(RouteVerb::of_this_pod(verb, Some(Method::OPTIONS), path), of_handler(handler))
    }

    /// Adds a `PUT` of this kind.
    pub(super) fn put<H, T>(self, verb: Verb, path: &str, handler: H) -> Self
    where
        H: Handler<T, S, Future = AnswerFuture>,
        T: 'static,
    {
        self.add(RouteVerb::of_this_pod(verb, Some(Method::PUT), path), of_handler(handler))
    }

    fn add(mut self, route: RouteVerb, endpoint: Stateless<S>) -> Self {
        self.routes.push(AddedRoute { route, surroundings: Arc::clone(&self.surroundings), endpoint });
        self
    }

    /// Adds paths that a router built elsewhere answers, whatever the method. All of them do the same.
    pub(super) fn add_router(self, verb: Verb, paths: &[&str], router: Router) -> Self {
        paths.iter().fold(self, |table, path| {
            let router = router.clone();
            let endpoint = Box::new(move |_: S| Endpoint::of_router(router.clone()));
            table.add(RouteVerb::of_this_pod(verb, None, path), endpoint)
        })
    }

    /// Gives the handlers their state.
    pub(crate) fn with_state(self, state: S) -> RouteTable {
        let Self { surroundings, description, routes, error_page } = self;
        let routes = routes.into_iter().map(|AddedRoute { route, surroundings, endpoint }| {
            let endpoint = endpoint(state.clone());
            AddedRoute { route, surroundings, endpoint: already(endpoint) }
        });
        RouteTable { routes: routes.collect(), surroundings, description, error_page }
    }

    /// Gives the handlers states that are chosen for each request: `choose` makes one endpoint of what gives
    /// a route's handler its state.
    pub(super) fn with_states(
        self,
        choose: impl Fn(&RouteVerb, HandlerMaker<S>) -> HandlerEndpoint,
    ) -> RouteTable {
        let Self { surroundings, description, routes, error_page } = self;
        let routes = routes.into_iter().map(|AddedRoute { route, surroundings, endpoint }| {
            let maker: HandlerMaker<S> = Box::new(move |state| endpoint(state).into_handler());
            let endpoint = Endpoint::Handler(choose(&route, maker));
            AddedRoute { route, surroundings, endpoint: already(endpoint) }
        });
        RouteTable { routes: routes.collect(), surroundings, description, error_page }
    }

    /// Adds the routes of another table, with their own surroundings.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.routes.extend(other.routes);
        self.error_page = self.error_page.or(other.error_page);
        self.description.merge(other.description);
        self
    }

    /// Shows errors as pages where people look, also at paths that no route takes.
    pub(crate) fn with_error_page(mut self, page: ErrorPage) -> Self {
        self.error_page = Some(page);
        self
    }

    /// The routes that `keeps` wants, without their description.
    pub(super) fn only(mut self, keeps: impl Fn(&RouteVerb) -> bool) -> Self {
        self.routes.retain(|added| keeps(&added.route));
        self.description = OpenApi::default();
        self
    }

    /// The same routes below a path.
    pub(super) fn below(mut self, prefix: &str) -> Self {
        for added in &mut self.routes {
            added.route.path = format!("{prefix}{}", added.route.path);
        }
        self
    }

    /// What `/openapi.json` says of these routes.
    pub(super) fn description(self) -> OpenApi {
        self.description
    }

    /// Every route, and what it does.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare them with the documents"))]
    pub(super) fn verbs(&self) -> impl Iterator<Item = &RouteVerb> {
        self.routes.iter().map(|added| &added.route)
    }
}

impl RouteTable {
    /// The finished routes. `otherwise` answers requests for paths that they do not know; it has no verb.
    ///
    /// # Panics
    /// If two routes take the same requests, or a path is invalid or has too many names: a mistake in the
    /// table, which the first start shows.
    pub(super) fn finish<H, T>(self, otherwise: H) -> Routes
    where
        H: Handler<T, (), Future = AnswerFuture>,
        T: 'static,
    {
        let endpoint = of_handler(otherwise)(());
        let unmatched = Route::without_verb("unmatched", Arc::clone(&self.surroundings), endpoint);
        let mut by_path: BTreeMap<String, Vec<Route>> = BTreeMap::new();
        for AddedRoute { route, surroundings, endpoint } in self.routes {
            let RouteVerb { method, path, verb, .. } = route;
            let route = Route {
                method,
                verb: Some(verb),
                surroundings,
                endpoint: endpoint(()),
                counts: HttpCounts::new(&path),
            };
            by_path.entry(path).or_default().push(route);
        }
        let mut paths = matchit::Router::new();
        for (path, mut routes) in by_path {
            assert!(path.matches('{').count() <= MOST_NAMES, "route {path}: too many names");
            routes.extend(Route::of_other_methods(&path, &routes));
            let routes = routes.into_iter().map(Arc::new).collect();
            if let Err(error) = paths.insert(path.as_str(), routes) {
                panic!("route {path}: {error}");
            }
        }
        Routes { paths, otherwise: Arc::new(unmatched), error_page: self.error_page }
    }
}

impl Routes {
    /// Answers a request that arrived on a connection. The future is in a box from the beginning: it is
    /// large, and would be moved by each that passes it on.
    pub fn answer<B: Into<SentBody>>(
        &self,
        request: http::Request<B>,
        connection: Arc<Connection>,
    ) -> AnswerFuture {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let body = SharedBody::of(body.into(), &parts.headers);
        let request = Request::from_parts(parts, Body::empty());
        let is_head = request.method() == Method::HEAD;
        let page = self.error_page.filter(|_| error_page::is_looked_at(request.uri().path()));
        let answering = Box::pin(surround(started, self.find(&request), request, body, connection));
        if page.is_none() && !is_head {
            return answering;
        }
        Box::pin(async move {
            let response = answering.await;
            let response = match page {
                Some(page) => error_page::shown(page, response).await,
                None => response,
            };
            if is_head { without_body(response) } else { response }
        })
    }

    /// The route of a request.
    fn find(&self, request: &Request) -> FoundRoute {
        let path = request.uri().path();
        let Ok(found) = self.paths.at(path) else {
            return FoundRoute { route: Arc::clone(&self.otherwise), parameters: PathParameters::default() };
        };
        let route = found.value.iter().find(|route| route.takes(request.method()));
        let parameters = PathParameters::of(path, found.params.iter().map(|(_, value)| value));
        FoundRoute { route: Arc::clone(route.unwrap_or(&self.otherwise)), parameters }
    }
}

/// All requests are answered by a router that was built elsewhere.
impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        let otherwise = Route::without_verb("unmatched", Arc::default(), Endpoint::of_router(router));
        Self { paths: matchit::Router::new(), otherwise: Arc::new(otherwise), error_page: None }
    }
}

/// A handler that has its state already.
fn already(endpoint: Endpoint) -> Stateless<()> {
    Box::new(move |()| endpoint.clone())
}

fn of_handler<H, T, S>(handler: H) -> Stateless<S>
where
    H: Handler<T, S, Future = AnswerFuture>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    Box::new(move |state: S| Endpoint::of_handler(handler.clone(), state))
}

fn of_direct<H, F, S>(handler: H) -> Stateless<S>
where
    H: Fn(State<S>, RouteRequest) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response, Problem>> + Send + 'static,
    S: Clone + Send + Sync + 'static,
{
    Box::new(move |state: S| Endpoint::of_direct(handler.clone(), state))
}

/// The answer to `HEAD`: that to `GET` without its body, but with its length where that is known.
fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(parts, Body::empty())
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Method, Request, StatusCode, header},
        response::IntoResponse,
    };
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;
    use crate::http::{code::Code, error::Problem};

    async fn problem(routes: &Routes, method: Method, path: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "z");
        let request = request.body(Body::empty()).unwrap();
        let response = routes.answer(request, Arc::default()).await;
        let (status, allow) = (response.status(), response.headers().get(header::ALLOW).cloned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let mut problem: Value = serde_json::from_slice(&body).unwrap();
        problem["allow"] = allow.map_or(Value::Null, |allow| allow.to_str().unwrap().into());
        (status, problem)
    }

    #[tokio::test]
    async fn each_method_of_a_path_has_its_own_verb_and_what_no_route_takes_has_none() {
        async fn refuse() -> Problem {
            Problem::new(Code::OffsetMismatch, "on purpose")
        }
        let table: RouteTable = RouteTable::new(Arc::default());
        let table = table.post(Verb::Append, "/t", refuse).get(Verb::Read, "/t", refuse).put(
            Verb::Manage,
            "/t",
            refuse,
        );
        let table = table.get(Verb::Append, "/only", refuse);
        let said: Vec<_> = table
            .verbs()
            .map(|route| (route.method.clone().unwrap(), route.path.as_str(), route.verb))
            .collect();
        let expected = [
            (Method::POST, "/t", Verb::Append),
            (Method::GET, "/t", Verb::Read),
            (Method::PUT, "/t", Verb::Manage),
            (Method::GET, "/only", Verb::Append),
        ];
        assert_eq!(said, expected);
        let routes = table.finish(|| async { StatusCode::NOT_FOUND });
        for (method, path, status, outcome) in [
            (Method::POST, "/t", 409, Some("not_written")),
            (Method::GET, "/t", 409, None),
            (Method::PUT, "/t", 409, None),
            (Method::DELETE, "/t", 405, None),
            (Method::GET, "/only", 409, Some("not_written")),
            (Method::PUT, "/only", 405, None),
            (Method::POST, "/only", 405, Some("not_written")),
            (Method::GET, "/nowhere", 404, None),
            (Method::POST, "/nowhere", 404, Some("not_written")),
        ] {
            let (found, problem) = problem(&routes, method.clone(), path).await;
            assert_eq!(
                (found.as_u16(), problem["outcome"].as_str()),
                (status, outcome),
                "{method} {path}: {problem}"
            );
            let allow =
                (status == 405).then_some(if path == "/t" { "POST,GET,HEAD,PUT" } else { "GET,HEAD" });
            assert_eq!(problem["allow"].as_str(), allow, "{method} {path}: {problem}");
        }
    }
    #[tokio::test]
    async fn a_direct_handler_and_the_same_as_one_of_axums_answer_alike() {
        async fn name(State(()): State<()>, request: RouteRequest) -> Result<Response, Problem> {
            let name = request.scope.named(&request.parts.uri, 0)?;
            if name == "none" {
                return Err(Problem::new(Code::OffsetMismatch, "on purpose").with("next", 7));
            }
            Ok(axum::Json(serde_json::json!({"name": name})).into_response())
        }
        let endpoints: [Stateless<()>; 3] = [
            of_direct(name),
            of_handler(name),
            Box::new(|()| Endpoint::Handler(of_direct(name)(()).into_handler())),
        ];
        for endpoint in endpoints {
            let table: RouteTable = RouteTable::new(Arc::default());
            let route = RouteVerb::of_this_pod(Verb::Append, Some(Method::POST), "/t/{name}");
            let table = table.add(route, endpoint);
            let routes = table.finish(|| async { StatusCode::NOT_FOUND });
            let (status, answer) = problem(&routes, Method::POST, "/t/a%20b").await;
            assert_eq!((status.as_u16(), &answer["name"]), (200, &"a b".into()), "{answer}");
            for (path, status, code, next) in [
                ("/t/none", 409, "offset_mismatch", Value::from(7)),
                ("/t/%ff", 400, "bad_path", Value::Null),
            ] {
                let (found, problem) = problem(&routes, Method::POST, path).await;
                let said = (found.as_u16(), problem["code"].as_str(), &problem["next"]);
                assert_eq!(said, (status, Some(code), &next), "{problem}");
                assert_eq!(problem["outcome"], "not_written", "{problem}");
            }
        }
    }
}

//! The route table of a port. A route can only be added together with its verb, and with what surrounds it:
//! so the surrounding layer knows the verb before the request reaches a handler, at no cost to the request.

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    middleware,
    routing::{self, MethodRouter},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::{
    surround::{Surrounded, Surroundings, surround},
    verb::Verb,
};

/// Routes that take a state of type `S`.
pub(super) struct RouteTable<S = ()> {
    surroundings: Arc<Surroundings>,
    router: OpenApiRouter<S>,
    verbs: Vec<RouteVerb>,
}

/// A route and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteVerb {
    /// Its method; a `GET` answers `HEAD` too.
    pub method: &'static str,
    /// Its path, with `{names}` for what varies.
    pub path: String,
    /// What it does.
    pub verb: Verb,
}

impl<S> RouteTable<S>
where
    S: Clone + Send + Sync + 'static,
{
    /// A table without routes.
    pub(super) fn new(surroundings: Arc<Surroundings>) -> Self {
        Self { surroundings, router: OpenApiRouter::default(), verbs: Vec::new() }
    }

    /// A table without routes whose description begins with `description`.
    pub(super) fn described(surroundings: Arc<Surroundings>, description: OpenApi) -> Self {
        Self { router: OpenApiRouter::with_openapi(description), ..Self::new(surroundings) }
    }

    /// Adds described routes of one path that do the same. Others of that path may be added with another
    /// verb.
    pub(super) fn route(mut self, verb: Verb, routes: UtoipaMethodRouter<S>) -> Self {
        let (schemas, paths, methods) = routes;
        for (path, item) in &paths.paths {
            let operations =
                [("GET", &item.get), ("PUT", &item.put), ("POST", &item.post), ("DELETE", &item.delete)];
            for (method, _) in operations.into_iter().filter(|(_, operation)| operation.is_some()) {
                self.verbs.push(RouteVerb { method, path: path.clone(), verb });
            }
        }
        let methods = self.with_verb(verb, methods);
        self.router = self.router.routes((schemas, paths, methods));
        self
    }

    /// Adds a `GET` that is not described.
    pub(super) fn get<H, T>(self, verb: Verb, path: &str, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.plain(verb, "GET", path, routing::get(handler))
    }

    /// Adds a `POST` that is not described.
    pub(super) fn post<H, T>(self, verb: Verb, path: &str, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.plain(verb, "POST", path, routing::post(handler))
    }

    /// Adds a `PUT` that is not described.
    pub(super) fn put<H, T>(self, verb: Verb, path: &str, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.plain(verb, "PUT", path, routing::put(handler))
    }

    /// Adds a router that was built elsewhere and whose routes all do the same. They are not listed in
    /// [`verbs`](Self::verbs).
    pub(super) fn add_router(mut self, verb: Verb, router: Router<S>) -> Self {
        let router: Router<S> =
            router.layer(middleware::from_fn_with_state(self.surrounded(Some(verb)), surround));
        self.router = self.router.merge(OpenApiRouter::from(router));
        self
    }

    /// Adds the routes of another table, with their own surroundings.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.verbs.extend(other.verbs);
        self
    }

    /// Gives the handlers their state.
    pub(super) fn with_state(self, state: S) -> RouteTable {
        let Self { surroundings, router, verbs } = self;
        RouteTable { surroundings, router: router.with_state(state), verbs }
    }

    /// What `/openapi.json` says of these routes.
    pub(super) fn description(self) -> OpenApi {
        self.router.into_openapi()
    }

    /// Every route that was added by itself, and what it does.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare them with the documents"))]
    pub(super) fn verbs(&self) -> &[RouteVerb] {
        &self.verbs
    }

    fn plain(mut self, verb: Verb, method: &'static str, path: &str, methods: MethodRouter<S>) -> Self {
        self.verbs.push(RouteVerb { method, path: path.to_owned(), verb });
        let methods = self.with_verb(verb, methods);
        self.router = self.router.route(path, methods);
        self
    }

    fn with_verb(&self, verb: Verb, methods: MethodRouter<S>) -> MethodRouter<S> {
        let known = layered(methods, self.surrounded(Some(verb)));
        // Of two default answers to other methods `merge` keeps the later one: such a request has no verb.
        let unknown = layered(MethodRouter::new(), self.surrounded(None));
        known.merge(unknown)
    }

    fn surrounded(&self, verb: Option<Verb>) -> Surrounded {
        Surrounded { surroundings: Arc::clone(&self.surroundings), verb }
    }
}

impl RouteTable {
    /// The finished router. `otherwise` answers requests for paths that it does not know; they have no verb.
    pub(super) fn into_router<H, T>(self, otherwise: H) -> Router
    where
        H: Handler<T, ()>,
        T: 'static,
    {
        let otherwise: Router = Router::new().fallback(otherwise);
        let otherwise: Router =
            otherwise.layer(middleware::from_fn_with_state(self.surrounded(None), surround));
        let router: Router = self.router.into();
        router.merge(otherwise)
    }
}

fn layered<S>(methods: MethodRouter<S>, state: Surrounded) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    methods.layer(middleware::from_fn_with_state(state, surround))
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Method, Request, StatusCode, header},
    };
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::http::{code::Code, error::Problem};

    async fn problem(router: &Router, method: Method, path: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
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
        let said: Vec<_> =
            table.verbs().iter().map(|route| (route.method, route.path.as_str(), route.verb)).collect();
        let expected = [
            ("POST", "/t", Verb::Append),
            ("GET", "/t", Verb::Read),
            ("PUT", "/t", Verb::Manage),
            ("GET", "/only", Verb::Append),
        ];
        assert_eq!(said, expected);
        let router = table.into_router(|| async { StatusCode::NOT_FOUND });
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
            let (found, problem) = problem(&router, method.clone(), path).await;
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
}

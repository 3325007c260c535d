//! A route of a port, and what is the same for all routes of its kind.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    handler::Handler,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{
    FutureExt,
    future::{Either, Map},
};
use tower::ServiceExt;

use super::{
    error::Problem,
    origin::{HostCheck, HttpSettings},
    scope::{PathParameters, RequestScope, RouteRequest},
    stats::Stats,
};
use crate::{
    auth::{gate::Gate, verb::Verb},
    cluster::Cluster,
    net::settings::NetSettings,
};
use contracts::metrics::HttpCounts;

/// An answer of one of axum's handlers that is being made.
pub(super) type AnswerFuture = Pin<Box<dyn Future<Output = Response> + Send>>;
/// One of axum's handlers with its state.
pub(super) type HandlerEndpoint = Arc<dyn Fn(Request) -> AnswerFuture + Send + Sync>;
/// An answer of a direct handler that is being made.
pub(super) type DirectFuture = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;
/// Gives a handler its state.
pub(super) type HandlerMaker<S> = Box<dyn Fn(S) -> HandlerEndpoint + Send + Sync>;
/// A direct handler with its state.
pub(super) type DirectEndpoint = Arc<dyn Fn(RouteRequest) -> DirectFuture + Send + Sync>;
/// An answer of either that is being made.
pub(super) type EndpointFuture = Either<
    Map<AnswerFuture, fn(Response) -> RouteAnswer>,
    Map<DirectFuture, fn(Result<Response, Problem>) -> RouteAnswer>,
>;

/// A handler with its state.
#[derive(Clone)]
pub(super) enum Endpoint {
    /// One of axum's: what a request carries besides itself is an extension of it, and a problem is one of
    /// its answer.
    Handler(HandlerEndpoint),
    /// One that takes and gives these as they are, which costs less: for what is asked most.
    Direct(DirectEndpoint),
}

impl Endpoint {
    /// Of one of axum's handlers.
    pub(super) fn of_handler<H, T, S>(handler: H, state: S) -> Self
    where
        H: Handler<T, S, Future = AnswerFuture>,
        T: 'static,
        S: Clone + Send + Sync + 'static,
    {
        Self::Handler(Arc::new(move |request: Request| -> AnswerFuture {
            handler.clone().call(request, state.clone())
        }))
    }

    /// Of a direct handler.
    pub(super) fn of_direct<H, F, S>(handler: H, state: S) -> Self
    where
        H: Fn(State<S>, RouteRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response, Problem>> + Send + 'static,
        S: Clone + Send + Sync + 'static,
    {
        Self::Direct(Arc::new(move |request: RouteRequest| -> DirectFuture {
            Box::pin(handler(State(state.clone()), request))
        }))
    }

    /// Of a router that was built elsewhere.
    pub(super) fn of_router(router: Router) -> Self {
        Self::Handler(Arc::new(move |request: Request| -> AnswerFuture {
            let router = router.clone();
            Box::pin(async move { router.oneshot(request).await.into_response() })
        }))
    }

    /// Answers a request.
    pub(super) fn call(&self, mut request: Request, scope: RequestScope) -> EndpointFuture {
        match self {
            Self::Handler(handler) => {
                let answered: fn(Response) -> RouteAnswer = RouteAnswer::of_response;
                request.extensions_mut().insert(scope);
                Either::Left(handler(request).map(answered))
            }
            Self::Direct(handler) => {
                let (parts, _) = request.into_parts();
                let answered: fn(Result<Response, Problem>) -> RouteAnswer = RouteAnswer::from;
                Either::Right(handler(RouteRequest { parts, scope }).map(answered))
            }
        }
    }

    /// The same as one of axum's, for those who choose among several.
    pub(super) fn into_handler(self) -> HandlerEndpoint {
        match self {
            Self::Handler(handler) => handler,
            Self::Direct(handler) => Arc::new(move |request: Request| -> AnswerFuture {
                let answered = |answer| RouteAnswer::from(answer).into_response();
                Box::pin(handler(request.into()).map(answered))
            }),
        }
    }
}

/// An answer, and the problem that it is, if it is one: its text is made last, by `context`.
pub(super) struct RouteAnswer {
    /// The answer; of a problem only its status and what was added to it.
    pub response: Response,
    /// The problem.
    pub problem: Option<Problem>,
}

impl RouteAnswer {
    /// Of one of axum's handlers.
    fn of_response(mut response: Response) -> Self {
        let problem = response.extensions_mut().remove();
        Self { response, problem }
    }
}

impl From<Problem> for RouteAnswer {
    fn from(problem: Problem) -> Self {
        Self { response: problem.code().status().into_response(), problem: Some(problem) }
    }
}

impl From<Result<Response, Problem>> for RouteAnswer {
    fn from(answered: Result<Response, Problem>) -> Self {
        answered.map_or_else(Self::from, Self::of_response)
    }
}

impl IntoResponse for RouteAnswer {
    fn into_response(self) -> Response {
        let Self { mut response, problem } = self;
        if let Some(problem) = problem {
            response.extensions_mut().insert(problem);
        }
        response
    }
}

/// What surrounds the handlers of routes of one kind.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// Bytes that path and headers of a request may have.
    pub header_bytes: usize,
    /// Whether traces go to a collector.
    pub exports_traces: bool,
    /// Which names and pages are ours; `None` where requests for any name are answered, and of any page.
    pub http: Option<HttpSettings>,
    /// Whether the name that a request asks for matters, where pages do.
    pub host_check: HostCheck,
    /// Who is let in; `None` where everybody is.
    pub gate: Option<Arc<Gate>>,
    /// Whether everybody is let in all the same, and the gate only writes down who did what.
    pub lets_anybody_in: bool,
    /// Whether tokens are taken from this machine only: on a port without TLS beside one with it.
    pub tokens_from_here_only: bool,
    /// Whether a session counts, by its cookie: below the console's path only.
    pub takes_sessions: bool,
    /// The cluster whose pods pass requests on to this one; `None` for one Zombi.
    pub cluster: Option<Arc<Cluster>>,
    /// Counts for `/stats`, on the port that has it.
    pub stats: Option<Arc<Stats>>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            header_bytes: NetSettings::default().header_bytes,
            exports_traces: false,
            http: None,
            host_check: HostCheck::OurNames,
            gate: None,
            lets_anybody_in: false,
            tokens_from_here_only: false,
            takes_sessions: false,
            cluster: None,
            stats: None,
        }
    }
}

/// What a request is answered by.
pub(super) struct Route {
    /// Its method; a `GET` answers `HEAD` too. `None` for any method.
    pub method: Option<Method>,
    /// What it does; `None` where no route takes the request.
    pub verb: Option<Verb>,
    /// What is the same for all routes of its kind.
    pub surroundings: Arc<Surroundings>,
    /// The handler.
    pub endpoint: Endpoint,
    /// Counts its answers, by its path with `{names}` for what varies.
    pub counts: HttpCounts,
}

impl Route {
    /// One that no request is meant for: it answers what others do not take.
    pub(super) fn without_verb(path: &str, surroundings: Arc<Surroundings>, endpoint: Endpoint) -> Self {
        Self { method: None, verb: None, surroundings, endpoint, counts: HttpCounts::new(path) }
    }

    /// Answers methods that no route of a path takes; `None` if one takes any.
    pub(super) fn of_other_methods(path: &str, routes: &[Self]) -> Option<Self> {
        let mut known = Vec::new();
        for method in routes.iter().map(|route| route.method.as_ref()) {
            let method = method?;
            known.push(method.as_str());
            if method == Method::GET {
                known.push("HEAD");
            }
        }
        let allow = HeaderValue::from_str(&known.join(",")).ok()?;
        let endpoint = Endpoint::Handler(Arc::new(move |_: Request| -> AnswerFuture {
            let response = (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, allow.clone())]).into_response();
            Box::pin(std::future::ready(response))
        }));
        Some(Self::without_verb(path, Arc::clone(&routes.first()?.surroundings), endpoint))
    }

    /// Whether it answers requests with this method.
    pub(super) fn takes(&self, method: &Method) -> bool {
        self.method.as_ref().is_none_or(|own| own == method || (own == Method::GET && method == Method::HEAD))
    }
}

/// The route of a request.
pub(super) struct FoundRoute {
    pub route: Arc<Route>,
    /// What the request's path says for the `{names}` of the route's.
    pub parameters: PathParameters,
}

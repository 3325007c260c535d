//! What surrounds every request: one function with one wait in it, as hundreds of requests wait for a sync at
//! once, and each holds what is kept here.

use std::{any::Any, borrow::Cow, future::Future, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::Request,
    http::{HeaderMap, Method, Version, header},
    response::Response,
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{Instrument, error};

use super::{
    access,
    audited::AuditedRequest,
    callers_body,
    code::Code,
    connection::Connection,
    context::{REQUEST_ID, RequestContext},
    error::Problem,
    forwarded,
    heads::HeadSummary,
    route::{FoundRoute, Route, RouteAnswer, Surroundings},
    scope::RequestScope,
    shards::{self, AskedBy, Passed},
    shared_body::SharedBody,
    sharing::SharedWith,
    trace,
};
use crate::auth::{caller::Caller, policy::Resource, sender::ShownBy, sessions, verb::Verb};

/// Answers a request by its route: counts, traces, checks the head, finds out who sends it, catches panics,
/// reads the rest of a refused body, renders errors. The request's body is apart. What another pod passes on
/// is in that one's audit log and among its errors.
pub(super) async fn surround(
    started: Instant,
    FoundRoute { route, parameters }: FoundRoute,
    mut request: Request,
    body: Option<SharedBody>,
    mut connection: Arc<Connection>,
) -> Response {
    let (route, surroundings) = (&*route, &*route.surroundings);
    if let Some(http) = &surroundings.http {
        connection = forwarded::attribute(connection, request.headers(), &http.trusted_proxies);
    }
    let head = HeadSummary::of(request.headers());
    let span = trace::span(surroundings.exports_traces, route.counts.route(), &request, head);
    let sender = who_asks(&request, surroundings, &mut connection);
    let is_passed_on = matches!(sender, Ok(AskedBy::Pod(_)));
    let context = RequestContext::new(&request, route.verb, head, is_passed_on);
    let shared_with = surroundings.http.as_ref().and_then(|http| SharedWith::of(&request, http));
    let (method, peer) = (counted(request.method()), connection.address);
    let (caller, refusal) = match check_head(&request, head, route, is_passed_on).and(sender) {
        Ok(sender) => enter(request.headers(), route, &connection, sender, started).await,
        Err(problem) => (Caller::default(), Some(problem)),
    };
    let is_let_in = refusal.is_none();
    let RouteAnswer { response, problem } = match refusal {
        None => {
            pass_id_on(&mut request, &context, surroundings);
            let (caller, body) = (caller.clone(), body.clone());
            // So that the logs of all pods name it alike.
            let request_id = surroundings.cluster.as_ref().map(|_| context.id_header());
            let scope = RequestScope { connection, parameters, caller, head, body, is_passed_on, request_id };
            let handled = answer_in_scope(route, request, scope);
            if span.is_none() { handled.await } else { handled.instrument(span.clone()).await }
        }
        Some(problem) => problem.into(),
    };
    let mut response = shared_with.iter().fold(response, |response, page| page.instead_of(response));
    let is_refused = response.status().is_client_error() || response.status().is_server_error();
    let received = body.as_ref().map_or(0, SharedBody::received);
    let is_heard_out = is_refused && !problem.as_ref().is_some_and(Problem::is_of_a_slow_body);
    if let Some(body) = body.filter(|body| is_heard_out && !body.has_ended()) {
        Box::pin(body.discard()).await;
    }
    let audited = route.verb.filter(|_| !is_passed_on);
    if let (Some(gate), Some(verb)) = (&surroundings.gate, audited) {
        let (gate, request_id, caller) =
            (Cow::Borrowed(gate), Cow::Borrowed(context.id()), Cow::Borrowed(&caller));
        let request = AuditedRequest { gate, verb, peer, request_id, caller, is_let_in, received };
        response = request.answered(response, problem.as_ref());
    }
    let mut response = span.in_scope(|| context.answer(response, problem));
    shards::tell_records(&mut response, if is_passed_on { caller.records() } else { 0 });
    if let Some(page) = shared_with {
        page.mark(response.headers_mut());
    }
    trace::record(&span, response.status());
    route.counts.count(method, response.status().as_u16(), started.elapsed());
    surroundings.stats.iter().filter(|_| is_refused && !is_passed_on).for_each(|stats| stats.failed());
    response
}

/// Gives a request for a page its id as a header: what the page asks within the process has the same.
fn pass_id_on(request: &mut Request, context: &RequestContext, surroundings: &Surroundings) {
    if surroundings.takes_sessions {
        request.headers_mut().insert(REQUEST_ID, context.id_header());
    }
}

/// Whether a client sends a request or another pod, which speaks for a client of its own.
fn who_asks(
    request: &Request,
    surroundings: &Surroundings,
    connection: &mut Arc<Connection>,
) -> Result<AskedBy, Problem> {
    let Some(cluster) = &surroundings.cluster else { return Ok(AskedBy::Client) };
    let sender = shards::asked_by(request, cluster)?;
    if let AskedBy::Pod(Some(passed)) = &sender {
        *connection = connection.for_client(passed.peer).into();
    }
    Ok(sender)
}

/// The handler's answer within its caller's quotas.
async fn answer_in_scope(route: &Route, request: Request, mut scope: RequestScope) -> RouteAnswer {
    let caller = scope.caller.clone();
    let is_limited = caller.usage().is_some();
    let ends_with = (is_limited && request.version() < Version::HTTP_2).then(|| scope.connection.clone());
    if let Some(number) = caller.number() {
        scope.connection = scope.connection.for_principal(number).into();
    }
    let RouteAnswer { response, problem } = handle(route, request, scope).await;
    RouteAnswer { response: callers_body::limit(response, &caller, ends_with), problem }
}

/// Finds out who sends a request, where that matters, and whether it is refused at once. What concerns the
/// whole server is decided here; what concerns tables and groups, when their names have been parsed.
async fn enter(
    headers: &HeaderMap,
    route: &Route,
    connection: &Connection,
    sender: AskedBy,
    now: Instant,
) -> (Caller, Option<Problem>) {
    let Some(gate) = &route.surroundings.gate else { return (Caller::anybody(), None) };
    let Some(verb) = route.verb.filter(|verb| *verb != Verb::Open) else { return (Caller::default(), None) };
    if route.surroundings.lets_anybody_in {
        return (Caller::anybody(), None);
    }
    if let AskedBy::Pod(passed) = sender {
        // Without a secret nobody vouches for anybody: settings refuse that beside a policy.
        let Some(Passed { principal, .. }) = passed else {
            return (Caller::default(), Some(nobody_vouches()));
        };
        let caller = Caller::passed_on(gate, principal, verb);
        let refusal = begin(&caller, verb, now).err();
        return (caller, refusal);
    }
    if route.surroundings.tokens_from_here_only
        && headers.contains_key(header::AUTHORIZATION)
        && !connection.address.to_canonical().is_loopback()
    {
        return (Caller::default(), Some(access::token_from_elsewhere()));
    }
    let session = route.surroundings.takes_sessions.then(|| sessions::cookie(headers)).flatten();
    let (certificate, last) = (connection.certificate(), connection.last_sender());
    let shown = ShownBy { headers, certificate, session, last };
    let admission = Caller::admit(gate, &shown, verb, now);
    let caller = match AssertUnwindSafe(admission).catch_unwind().await {
        Ok(Ok(caller)) => caller,
        Ok(Err(refusal)) => return (Caller::default(), Some(refusal.into())),
        Err(cause) => return (Caller::default(), Some(panicked(cause).not_written())),
    };
    let refusal = begin(&caller, verb, now).err();
    (caller, refusal)
}

fn nobody_vouches() -> Problem {
    Problem::new(Code::Forbidden, "the request claims to come from a pod, and pods have no secret here")
        .not_written()
}

/// Counts a request for its caller's quotas, and decides whether the caller may operate the server.
fn begin(caller: &Caller, verb: Verb, now: Instant) -> Result<(), Problem> {
    caller.count_request(now)?;
    if verb == Verb::Operate {
        caller.allow(Resource::Server)?;
    }
    Ok(())
}

/// The handler's answer, or a refusal if the caller's right ends first. To wait for that takes a timer, which
/// appends must not pay for: what they wait for is their body, and they look there, in `body`, and in
/// `shards/passed` where another pod works on it.
///
/// The request goes to its handler at once: what is returned has no room for it.
fn handle(route: &Route, request: Request, scope: RequestScope) -> impl Future<Output = RouteAnswer> + use<> {
    let is_waited_for = scope.caller.usage().is_some() && route.verb != Some(Verb::Append);
    let caller = is_waited_for.then(|| scope.caller.clone());
    let answering = AssertUnwindSafe(route.endpoint.call(request, scope)).catch_unwind();
    let answering = answering.map(|answer| answer.unwrap_or_else(|cause| panicked(cause).into()));
    async move {
        let Some(caller) = caller else { return answering.await };
        // Boxed, so that those who do not wait have no room for it.
        let given_up = Box::pin(caller.given_up());
        tokio::select! {
            biased;
            answer = answering => answer,
            end = given_up => RouteAnswer::from(Problem::from(end)),
        }
    }
}

/// Refuses a request whose path and headers are over the limit, or that a browser was made to send. How long
/// they are is the business of the pod that the client asks: what it passes on has more headers by now.
fn check_head(
    request: &Request,
    head: HeadSummary,
    route: &Route,
    is_passed_on: bool,
) -> Result<(), Problem> {
    let surroundings = &*route.surroundings;
    let most = surroundings.header_bytes;
    let bytes = head.bytes + request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if bytes > most && !is_passed_on {
        return Err(Problem::new(
            Code::HeadTooLarge,
            format!("path and headers have {bytes} bytes, limits.header_bytes is {most}"),
        ));
    }
    if !head.is_plain_transfer {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "Transfer-Encoding may be chunked alone, and once: other codings belong in Content-Encoding",
        ));
    }
    if head.content_types > 1 {
        return Err(Problem::new(Code::BadRequest, "there is more than one Content-Type"));
    }
    if route.verb == Some(Verb::Append) {
        has_an_end(request)?;
    }
    has_one_host(request.version(), head)?;
    let http = surroundings.http.as_ref();
    http.map_or(Ok(()), |http| http.check(request, surroundings.host_check))
}

/// Refuses a request that does not say for which host it is, or says it twice, or names no valid host
/// (RFC 9112, 3.2): what stands between us and the client may have read another one. HTTP/1.0 needs none, and
/// HTTP/2 has it elsewhere.
fn has_one_host(version: Version, head: HeadSummary) -> Result<(), Problem> {
    let refused = |why: &str| Err(Problem::new(Code::BadRequest, why));
    match head.hosts {
        0 if version == Version::HTTP_11 => refused("there is no Host, which HTTP/1.1 asks for"),
        _ if head.has_bad_host => refused("Host is not a valid host name"),
        0 | 1 => Ok(()),
        _ => refused("there is more than one Host"),
    }
}

/// Refuses an event of HTTP/1.0 without a length: nothing says where its body ends (RFC 1945, 7.2.2), and it
/// would be taken for none.
fn has_an_end(request: &Request) -> Result<(), Problem> {
    // The version first: hardly anybody needs the look into the headers.
    if request.version() > Version::HTTP_10
        || request.method() != Method::POST
        || request.headers().contains_key(header::CONTENT_LENGTH)
    {
        return Ok(());
    }
    Err(Problem::new(Code::BadRequest, "a body in HTTP/1.0 needs a Content-Length, and there is none"))
}

fn panicked(cause: Box<dyn Any + Send>) -> Problem {
    let text =
        cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    error!(panic = text.unwrap_or("not a text"), "request panicked, answering 500");
    Problem::new(Code::Internal, "the server failed; its log says why")
}

/// The label for a method. Methods that clients make up must not become labels of their own.
fn counted(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;

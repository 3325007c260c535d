//! Passes a request on to the pod that owns what it is about: head and body as they came, the answer as it
//! comes. A client that leaves ends the request there too.

use std::{pin::pin, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{self, HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    response::Response,
};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    ShardedRoute, Shards,
    by_head::{
        flushes, is_for_a_stranger, is_long_poll, is_moved, is_read, is_small_write, owner_if_moved, path_of,
        without_wait,
    },
    hop::{self, HOP, PRINCIPAL},
    passed::{BodyForPod, BodyToPass, ClientsBody},
    reach::Reach,
    relayed::{RelayedFor, relayed},
    scope_of,
    store::nobody_owns,
    trunk::TRUNK,
    unanswered::{NoPodAnswer, disagree, failed, left, silent, unanswered},
};
use crate::{
    auth::{principal::Principal, quotas::Usage},
    cluster::{
        pod_name,
        send_error::SendError,
        ticket::{LIFE_SECS, Ticket, in_ticket},
        trunk::TrunkError,
    },
    http::{
        body::Incoming,
        code::Code,
        connection::CountGuard,
        context::PASSED_ID,
        error::Problem,
        scope::{RequestScope, RouteRequest},
    },
};
use contracts::{
    clock::{Clock, SystemClock},
    metrics::{self, ForwardResult},
};

/// How long the wait for an answer goes on, beyond what a body and a read may take, while nothing moves.
const MORE_PATIENCE: Duration = Duration::from_secs(60);

/// How long the rest of a refusal may take, and how many bytes it has.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(10);
const REFUSAL_BYTES: usize = 1 << 20;

/// How long a pod may take to answer a long poll at once.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

/// How many parts the path where trunks begin has.
const TRUNK_DEPTH: usize = 3;

/// What a pod has answered.
pub(super) struct Answered {
    pub(super) pod: u32,
    pub(super) answer: Response,
    /// Ends the body that is being sent to it.
    given_up: CancellationToken,
}

/// The head of a request that is passed on, and who asks.
pub(super) struct PassedHead {
    pub(super) method: Method,
    /// The path of the API and the query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) scope: RequestScope,
    /// Cancelled when the pod asks for a body that the client holds back, if it does.
    wanted: Option<CancellationToken>,
}

impl PassedHead {
    /// Of a request, whose path has `depth` parts.
    pub(super) fn of(parts: &Parts, depth: usize) -> Self {
        let mut headers = parts.headers.clone();
        hop::remove(&mut headers, hop::stays);
        if let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.entry(header::HOST).or_insert(host); // HTTP/2 has it in the URI
        }
        let scope = scope_of(&parts.extensions);
        if let Some(id) = &scope.request_id {
            headers.insert(PASSED_ID, id.clone());
        }
        Self { method: parts.method.clone(), path: path_of(&parts.uri, depth), headers, scope, wanted: None }
    }
}

impl Shards {
    /// Sends a request to a pod, with who asks; waits for the head of its answer for as long as that takes.
    ///
    /// # Errors
    /// [`SendError`].
    pub(super) async fn send_to(
        &self,
        head: &PassedHead,
        body: BodyForPod,
        pod: u32,
    ) -> Result<Response, SendError> {
        let address = self.cluster.address(pod).unwrap_or_default();
        let body = match body {
            BodyForPod::Apart(body) => body,
            BodyForPod::Small(body) => {
                let begin = || self.request_to(&self.trunk_head(), pod);
                let request = self.request_to(head, pod).map(|()| body.clone());
                match self.client.exchange(address, request, begin).await {
                    Ok(answer) => return Ok(answer.map(Body::from)),
                    Err(TrunkError::Send(error)) => return Err(error),
                    Err(TrunkError::Refused) => Body::from(body),
                }
            }
        };
        let mut request = self.request_to(head, pod).map(|()| body);
        if let Some(wanted) = head.wanted.clone() {
            request.headers_mut().insert(header::EXPECT, HeaderValue::from_static("100-continue"));
            hyper::ext::on_informational(&mut request, move |word| {
                if word.status() == StatusCode::CONTINUE {
                    wanted.cancel();
                }
            });
        }
        self.client.send(address, request).await
    }

    /// The head of a request, as a pod gets it.
    fn request_to(&self, head: &PassedHead, pod: u32) -> http::Request<()> {
        let mut request = http::Request::new(());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.clone_from(&head.headers);
        headers.insert(HOP, HeaderValue::from_static("1"));
        if let Some(secret) = &self.cluster.secret {
            let ticket = Ticket {
                principal: head.scope.caller.principal().unwrap_or(&Principal::Anonymous).to_string(),
                peer: head.scope.connection.address,
                method: head.method.to_string(),
                path: in_ticket(&head.path).into_owned(),
                to: pod_name(pod),
                exp: SystemClock.now_ms() / 1000 + LIFE_SECS,
            };
            if let Ok(ticket) = HeaderValue::from_str(&ticket.signed(secret)) {
                headers.insert(PRINCIPAL, ticket);
            }
        }
        request
    }

    /// The head of the request that begins a trunk, which is nobody's in particular.
    fn trunk_head(&self) -> PassedHead {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        (parts.method, parts.uri) = (Method::POST, Uri::from_static(TRUNK));
        let mut head = PassedHead::of(&parts, TRUNK_DEPTH);
        // Whoever refuses it does not wait for its body first.
        head.headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        head
    }

    /// Passes a request on to a pod; waits for the head of its answer for as long as that takes.
    ///
    /// # Errors
    /// [`SendError`].
    pub(super) async fn send(
        &self,
        head: &PassedHead,
        body: BodyForPod,
        pod: u32,
    ) -> Result<Response, SendError> {
        let began = Instant::now();
        let wait = self.wait_for(pod);
        let answer = self.send_to(head, body, pod).await;
        wait.end();
        if answer.as_ref().map_or_else(|error| error.is_unsent, is_moved)
            && let Some(owners) = self.cluster.owners.get()
        {
            owners.forget(pod, began);
        }
        let answer = answer.map(|answer| {
            let (answer, records) = hop::received(answer);
            head.scope.caller.counts(records);
            answer
        });
        let result = match &answer {
            Ok(answer) if is_moved(answer) => ForwardResult::Moved,
            Ok(answer) if self.cluster.secret.is_some() && is_for_a_stranger(answer) => {
                ForwardResult::Refused
            }
            Ok(_) => ForwardResult::Answered,
            Err(error) if error.is_unsent => ForwardResult::Unsent,
            Err(_) => ForwardResult::Failed,
        };
        metrics::forwarded(result, began.elapsed());
        answer
    }

    /// How long a pod may say nothing before its answer and within it: longer than it waits itself.
    pub(super) fn patience(&self) -> Duration {
        let limits = &self.parts.limits;
        limits.body_secs.duration() + limits.wait_secs.duration() + MORE_PATIENCE
    }

    /// Sends a request to a pod that is said to own a shard, and gives up if nothing of it or of its answer
    /// moves for too long, if another pod has come to own the shard and this one says nothing, or if this
    /// process stops while a read waits.
    async fn send_patiently(
        &self,
        head: &PassedHead,
        body: BodyToPass<'_>,
        (pod, shard): (u32, u32),
    ) -> Result<Answered, NoPodAnswer> {
        let patience = self.patience();
        let given_up = CancellationToken::new();
        let sent = body.for_pod(head.wanted.clone(), given_up.clone());
        let mut answer = pin!(self.send(head, sent, pod));
        let mut is_left = pin!(self.is_left(pod, shard));
        let mut before = body.received();
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    if let (Err(_), Some(problem)) = (&answer, body.problem()) {
                        return Err(problem.into());
                    }
                    let answer = answer.map_err(|error| unanswered(pod, &error))?;
                    return Ok(Answered { pod, answer, given_up });
                }
                () = &mut is_left => {
                    given_up.cancel();
                    return Err(left(pod, is_read(&head.method)));
                }
                () = self.parts.stopping.cancelled(), if is_read(&head.method) => {
                    let detail = "the server is stopping; another pod has the answer";
                    let problem = Problem::new(Code::Closing, detail);
                    return Err(problem.retry_after(Duration::from_secs(1)).into());
                }
                () = sleep(patience) => {
                    let now = body.received();
                    if now == before {
                        return Err(silent(pod).into());
                    }
                    before = now;
                }
            }
        }
    }

    /// Sends a request to the pod that is said to own a shard. If that has not had it, or does not own the
    /// shard, the log is asked who does; where nothing of the body was sent, that one is asked, once. A write
    /// that the pod may have had is never sent again.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn send_to_owner(
        &self,
        head: &PassedHead,
        body: BodyToPass<'_>,
        (pod, shard): (u32, u32),
    ) -> Result<Answered, Problem> {
        let (named, refused) = match Box::pin(self.send_patiently(head, body, (pod, shard))).await {
            Ok(answered) => {
                let Some(named) = owner_if_moved(&answered.answer) else { return Ok(answered) };
                answered.given_up.cancel();
                (Some(named), disagree(pod))
            }
            Err(NoPodAnswer { problem, may_repeat: true }) => (None, problem),
            Err(lost) => return Err(lost.problem),
        };
        if !body.is_there_still() {
            return Err(refused);
        }
        let owner = self.owner_beside((pod, named), shard).await;
        let Some(owner) = owner else { return Err(refused) };
        if owner == self.cluster.own {
            return Err(nobody_owns()); // it has just come to this pod, which has no store of it open yet
        }
        let answered = Box::pin(self.send_patiently(head, body, (owner, shard))).await?;
        if is_moved(&answered.answer) {
            answered.given_up.cancel();
            return Err(disagree(owner));
        }
        Ok(answered)
    }

    /// Asks a pod for a page as it is now: for a client that waits for one while this process stops.
    async fn send_at_last(&self, head: &PassedHead, pod: u32) -> Result<Answered, Problem> {
        let answer = timeout(LAST_TIMEOUT, self.send(head, Body::empty().into(), pod)).await;
        let answer = answer.map_err(|_| silent(pod))?.map_err(|error| failed(pod, &error))?;
        if is_moved(&answer) {
            return Err(disagree(pod));
        }
        Ok(Answered { pod, answer, given_up: CancellationToken::new() })
    }
}

impl ShardedRoute {
    /// Passes a request on to a pod, which is said to own the shard.
    pub(super) async fn pass_on(
        &self,
        request: Request,
        (pod, shard): (u32, u32),
    ) -> Result<Response, Problem> {
        let (parts, _) = request.into_parts();
        let mut head = PassedHead::of(&parts, self.depth);
        if self.is_append && is_small_write(&parts, &head.scope) {
            return self.pass_small_on(head, parts, (pod, shard)).await;
        }
        take_of_flushes(&parts, &head.scope, self.reach)?;
        let body = ClientsBody::of(&parts, &head.scope, &self.shards.parts.limits)?;
        let is_held_back = body.as_ref().is_some_and(ClientsBody::is_held_back);
        head.wanted = is_held_back.then(CancellationToken::new);
        let scope = &head.scope;
        // A long poll keeps a connection and a place to wake it up, as a stream does.
        let polls = is_long_poll(&parts);
        let poller = scope.caller.usage().filter(|_| polls);
        let _polls = poller.map(Usage::hold_stream).transpose()?;
        // Reads wait for events or for S3 there, as they would here.
        let waits = is_read(&head.method).then(|| scope.connection.wait());
        let body = body.as_ref().map_or(BodyToPass::Absent, BodyToPass::Comes);
        let answered = Box::pin(self.shards.send_to_owner(&head, body, (pod, shard))).await;
        let answered = match answered {
            Err(problem) if polls && problem.code() == Code::Closing => {
                head.path = without_wait(&head.path);
                let pod = self.shards.owner(shard).await.unwrap_or(pod);
                Box::pin(self.shards.send_at_last(&head, pod)).await?
            }
            answered => answered?,
        };
        Box::pin(self.relay(&head, (answered, shard), waits)).await
    }

    /// The same for a small write: its body is received here, within the limits that hold for any.
    async fn pass_small_on(
        &self,
        head: PassedHead,
        parts: Parts,
        (pod, shard): (u32, u32),
    ) -> Result<Response, Problem> {
        let request = RouteRequest { parts, scope: head.scope.clone() };
        let (limits, inflight) = (&self.shards.parts.limits, &self.shards.parts.inflight);
        let (body, _share) = Incoming::of(request)?.receive(limits, inflight).await?;
        let sent = BodyToPass::Small(&body);
        let answered = Box::pin(self.shards.send_to_owner(&head, sent, (pod, shard))).await?;
        Box::pin(self.relay(&head, (answered, shard), None)).await
    }

    /// Another pod's answer about a shard as this one's. A refusal is read whole at once: what the client
    /// still has to send is read by nobody there.
    async fn relay(
        &self,
        head: &PassedHead,
        (answered, shard): (Answered, u32),
        waits: Option<CountGuard>,
    ) -> Result<Response, Problem> {
        let Answered { pod, answer, given_up } = answered;
        let status = answer.status();
        let (parts, body) = answer.into_parts();
        let body = if status.is_client_error() || status.is_server_error() {
            let read = timeout(REFUSAL_TIMEOUT, Limited::new(body, REFUSAL_BYTES).collect()).await;
            given_up.cancel();
            let whole = read.map_err(|_| silent(pod))?.map_err(|_| silent(pod))?;
            Body::from(whole.to_bytes())
        } else {
            body
        };
        let stopping = &self.shards.parts.stopping;
        let asked = RelayedFor {
            caller: &head.scope.caller,
            is_read: is_read(&head.method),
            is_head: head.method == Method::HEAD,
            connection: &head.scope.connection,
            silence: self.shards.silence((pod, shard)),
            waits,
            given_up,
        };
        relayed(asked, Response::from_parts(parts, body), stopping)
    }
}

/// What a request that is passed on takes of its caller's flushes; the owner counts none.
fn take_of_flushes(parts: &Parts, scope: &RequestScope, reach: Reach) -> Result<(), Problem> {
    match scope.caller.usage().filter(|_| flushes(&parts.uri, reach)) {
        Some(usage) => Ok(usage.flush(Instant::now())?),
        None => Ok(()),
    }
}

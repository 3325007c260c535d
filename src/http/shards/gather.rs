//! Asks all shards, here and in the other pods, and puts their answers together. Lists and flushes are never
//! short: if a pod is missing they fail.

use std::{future::Future, pin::pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures_util::{
    FutureExt,
    future::{join, join_all},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{
    ShardedRoute,
    asked::{AskedPod, SPARE},
    forward::{PassedHead, is_moved},
    hop,
    merge::{ListPage, merge},
    query,
    reach::Gathered,
    scope_of,
    unanswered::{disagree, failed, silent},
};
use crate::{
    cluster::pod_name,
    http::{
        answers, code::Code, connection::Connection, context::OwnBody, error::Problem, memory::Share,
        scope::RequestScope,
    },
};

/// How long another pod may take for a list, or to show that it is there: a flush may take as long as here.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one shard's or pod's answer.
const ANSWER_BYTES: usize = 64 << 20;
/// What is added to answers that are put together: brackets, names, sums.
const ADDED_BYTES: usize = 16 << 10;
/// Tables of a page that names no limit.
const DEFAULT_TABLES: usize = 1000;

/// What one shard, or another pod, has said.
enum Said {
    /// The body of its answer, with its share of the memory for answers.
    Answer(Bytes, Share),
    /// It knows nothing of what was asked for.
    Nothing(Response),
    /// It has failed.
    Failed(Response),
}

impl ShardedRoute {
    /// Asks all shards.
    pub(super) async fn gather(&self, what: Gathered, request: Request) -> Result<Response, Problem> {
        let page = ListPage { tables: tables_of_page(&request), bytes: self.shards.parts.limits.page_bytes };
        let (mut parts, _) = request.into_parts();
        if parts.method == Method::HEAD {
            parts.method = Method::GET; // the body is put together, and left out at the end
        }
        // A body says nothing here, and none goes on: its length alone would take bytes of the next request.
        for name in [header::ACCEPT_ENCODING, header::CONTENT_LENGTH, header::CONTENT_ENCODING] {
            parts.headers.remove(name);
        }
        let scope = scope_of(&parts.extensions);
        if what == Gathered::Flush {
            scope.caller.usage().map_or(Ok(()), |usage| usage.flush(Instant::now()))?;
        }
        let _waits = scope.connection.wait();
        let asked = Box::pin(self.asked(what, &parts, scope.is_passed_on)).await?;
        let own = self.ask_own((what, asked.places.as_slice()), &parts, &scope);
        let (mut said, mut others) = Box::pin(join(own, self.ask_others(what, &parts, asked.others))).await;
        others.extend(asked.ownerless.map(|problem| (None, Said::Failed(problem.into_response()))));
        // What this pod refuses itself is an answer, and shows of no other pod that it is missing.
        let is_refused = said.iter().any(|one| matches!(one, Said::Failed(_)));
        let may_miss = what == Gathered::Stats && !is_refused;
        let missing = if may_miss { missing(&others) } else { Vec::new() };
        said.extend(others.into_iter().map(|(_, said)| said));
        let (mut bodies, mut shares, mut nothing) = (Vec::new(), Vec::new(), None);
        for one in said {
            match one {
                Said::Answer(body, share) => {
                    bodies.push(body);
                    shares.push(share);
                }
                Said::Nothing(response) => nothing = nothing.or(Some(response)),
                Said::Failed(_) if !missing.is_empty() => {}
                Said::Failed(response) => return Ok(response),
            }
        }
        if bodies.is_empty() {
            return Ok(nothing.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response()));
        }
        if what == Gathered::GroupDeleted {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        // As much once more while they are put together, and a little for what is added; a page is cut.
        let mut share = self.shards.parts.responses.sending(&scope.connection);
        let length = bodies.iter().map(Bytes::len).sum::<usize>();
        let most = if what == Gathered::Tables { 2 * page.bytes } else { length };
        share.grow_to(length.min(most) + ADDED_BYTES).await?;
        let mut whole = merge(what, &bodies, page).map_err(|error| broken(&error.to_string()))?;
        drop((bodies, shares));
        if !missing.is_empty() {
            let mut shown: Value =
                serde_json::from_slice(&whole).map_err(|error| broken(&error.to_string()))?;
            shown["missing"] = missing.into();
            whole = answers::json(&shown)?;
        }
        share.grow_to(whole.len()).await?;
        share.shrink_to(whole.len());
        Ok(answers::answer(share.body(whole)))
    }

    /// Asks this pod's shards: at once if each takes long, else one after the other, as their answers take
    /// memory.
    async fn ask_own(
        &self,
        (what, places): (Gathered, &[usize]),
        parts: &Parts,
        scope: &RequestScope,
    ) -> Vec<Said> {
        let connection = &*scope.connection;
        let asked = places.iter().enumerate().map(|(number, place)| {
            let scope = RequestScope { caller: scope.caller.of_part(), body: None, ..scope.clone() };
            let mut request = Request::from_parts(parts.clone(), Body::empty());
            request.extensions_mut().insert(scope);
            async move {
                let answer = match *place {
                    SPARE => self.first(request).await,
                    place => self.part_at(place, request).await,
                };
                self.heard(connection, (what, number), answer).await
            }
            .boxed()
        });
        if what == Gathered::Flush {
            return join_all(asked).await;
        }
        let mut said = Vec::new();
        for one in asked {
            said.push(one.await);
        }
        said
    }

    /// Asks the other pods, each for its shards.
    async fn ask_others(
        &self,
        what: Gathered,
        parts: &Parts,
        others: Vec<AskedPod>,
    ) -> Vec<(Option<u32>, Said)> {
        let asked = others.into_iter().map(|AskedPod { pod, shards }| {
            let mut head = PassedHead::of(parts, self.depth);
            if let Some(shards) = shards {
                head.headers.insert(hop::SHARDS, shards);
            }
            let asking = async move {
                match self.shards.send(&head, Body::empty(), pod).await {
                    Ok(answer) if is_moved(&answer) => Said::Failed(disagree(pod).into_response()),
                    Ok(answer) => {
                        let (parts, body) = answer.into_parts();
                        let mut response = Response::from_parts(parts, Body::new(body));
                        response.extensions_mut().insert(OwnBody);
                        self.heard(&head.scope.connection, (what, 0), response).await
                    }
                    Err(error) => Said::Failed(failed(pod, &error).into_response()),
                }
            };
            let asking = asking.boxed();
            let asking = async move {
                let said = self.in_time((what, pod), asking).await;
                (Some(pod), said.unwrap_or_else(|| Said::Failed(silent(pod).into_response())))
            };
            asking.boxed()
        });
        join_all(asked).await
    }

    /// What a pod says, if it does so in time. A flush takes as long as S3 does, and a pod that is gone is
    /// not waited for all that long: it is asked beside it whether it is there.
    async fn in_time(
        &self,
        (what, pod): (Gathered, u32),
        asking: impl Future<Output = Said>,
    ) -> Option<Said> {
        if what != Gathered::Flush {
            return timeout(LIST_TIMEOUT, asking).await.ok();
        }
        let mut flushing = pin!(timeout(self.shards.parts.limits.body_secs.duration(), asking));
        tokio::select! {
            said = &mut flushing => return said.ok(),
            is_there = self.shards.is_there(pod) => if !is_there {
                return None;
            },
        }
        flushing.await.ok()
    }

    /// Reads an answer of a shard at a place among those of its pod, and takes memory for it while it comes.
    async fn heard(
        &self,
        connection: &Connection,
        (what, place): (Gathered, usize),
        response: Response,
    ) -> Said {
        let status = response.status();
        let is_of_group = matches!(what, Gathered::Group | Gathered::GroupDeleted);
        if status == StatusCode::NOT_FOUND && is_of_group {
            return Said::Nothing(response);
        }
        if !status.is_success() {
            return Said::Failed(response);
        }
        let mut share = self.shards.parts.responses.sending(connection);
        let body = received(response.into_body(), &mut share).await;
        match body.and_then(|body| read(what, place, body).map_err(|error| broken(&error.to_string()))) {
            Ok(body) => Said::Answer(body, share),
            Err(problem) => Said::Failed(problem.into_response()),
        }
    }
}

/// A whole body, with memory for it in a share.
async fn received(mut body: Body, share: &mut Share) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error.to_string()))?.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > ANSWER_BYTES {
            return Err(broken("it is too long"));
        }
        share.grow_to(length).await?;
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// The body of an answer as it is put together with others. `place` is that of the shard among those of its
/// pod.
fn read(what: Gathered, place: usize, body: Bytes) -> serde_json::Result<Bytes> {
    // What is counted for the whole pod is the same in each of its shards' answers.
    if !matches!((what, place), (Gathered::Stats, 1..)) {
        return Ok(body);
    }
    let mut value: Value = serde_json::from_slice(&body)?;
    if let Some(members) = value.as_object_mut() {
        for member in ["uptime_secs", "writes", "reads", "errors_total"] {
            members.remove(member);
        }
    }
    Ok(serde_json::to_vec(&value)?.into())
}

fn broken(why: &str) -> Problem {
    Problem::new(Code::ForwardFailed, format!("the answer of a shard broke off: {why}"))
        .unknown_outcome()
        .retry_after(Duration::from_secs(1))
}

/// The pods that `/stats` shows as missing.
fn missing(others: &[(Option<u32>, Said)]) -> Vec<Value> {
    let failed = others.iter().filter_map(|(pod, said)| match said {
        Said::Failed(response) => Some((pod, response)),
        _ => None,
    });
    let shown = |(pod, response): (&Option<u32>, &Response)| {
        let problem = response.extensions().get::<Problem>();
        let why = problem.map_or_else(|| response.status().to_string(), ToString::to_string);
        json!({"pod": pod.map(pod_name), "error": why})
    };
    failed.map(shown).collect()
}

/// How many tables a page is to have; what is wrong with it the handlers say.
fn tables_of_page(request: &Request) -> usize {
    let pairs = query(request.uri());
    let limit = pairs.iter().find(|(name, _)| name == "limit").and_then(|(_, value)| value.parse().ok());
    limit.unwrap_or(DEFAULT_TABLES)
}

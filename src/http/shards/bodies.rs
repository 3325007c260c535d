//! Requests whose bodies say which tables they are about. The body is received here, within the limits that
//! hold for any, and goes on to the shard or the shards that it names. What is wrong with it a handler says.

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{FromRequest, Request},
    http::{HeaderValue, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tokio::time::timeout;

use super::{
    ShardOwner, ShardedRoute, forward::PassedHead, group_in_path, moved, passed::BodyToPass, reach::Reach,
    scope_of, unanswered::silent,
};
use crate::auth::{policy::Resource, verb::Verb};
use crate::http::{
    answers,
    body::Incoming,
    code::Code,
    commits,
    context::OwnBody,
    error::{PROBLEM_JSON, Problem},
    extract::{self, Encoding},
    json_body::without_mark,
    scope::RequestScope,
    shared_body,
};
use contracts::name::TableName;

/// Bytes of an answer to a part of a request.
const ANSWER_BYTES: usize = 16 << 20;

/// As much of a commit as says where it goes; the handlers read the rest, and more strictly.
#[derive(Deserialize)]
struct CommitSent<'a> {
    #[serde(borrow)]
    commits: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    force: bool,
    #[serde(alias = "topic")]
    table: Option<String>,
}

/// Commits of one shard's tables, as its handler takes them.
#[derive(Serialize)]
struct CommitPassed<'a> {
    force: bool,
    commits: &'a [&'a RawValue],
}

/// The table that a body names, and whether a reset is only tried.
#[derive(Deserialize)]
struct TableSent {
    #[serde(alias = "topic")]
    table: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// What a body asks for.
#[derive(Clone, Copy)]
struct AskedByBody<'a> {
    /// The table whose owner answers; `None` if any handler does.
    table: Option<&'a TableName>,
    /// What the caller must be allowed to do with the group, beside reading the table.
    verbs: &'static [Verb],
}

/// What a commit needs of its group; `force` moves it.
fn verbs_of_commit(force: bool) -> &'static [Verb] {
    if force { &[Verb::Commit, Verb::Rewind] } else { &[Verb::Commit] }
}

/// The name of a table, if it is one.
fn named(table: Option<&str>) -> Option<TableName> {
    TableName::parse(table?).ok()
}

/// Some of the commits of a request: their tables, of one shard, and their places in it.
struct CommitPart<'a> {
    tables: Vec<TableName>,
    places: Vec<usize>,
    commits: Vec<&'a RawValue>,
}

impl ShardedRoute {
    /// A reset, which is about one table.
    pub(super) async fn reset(&self, request: Request) -> Result<Response, Problem> {
        let Some((parts, body)) = self.receive(request).await? else { return Ok(self.not_json()) };
        let sent = serde_json::from_slice::<TableSent>(&body).ok();
        let is_tried = sent.as_ref().is_some_and(|sent| sent.dry_run);
        let table = sent.and_then(|sent| named(sent.table.as_deref()));
        let verbs: &[Verb] = if is_tried { &[Verb::Commit] } else { &[Verb::Rewind] };
        self.ask_owner(&parts, AskedByBody { table: table.as_ref(), verbs }, body).await
    }

    /// Commits: each shard's tables by themselves, in the order in which they are first named. The first
    /// error ends it, and names what was committed until then.
    pub(super) async fn commit(&self, request: Request) -> Result<Response, Problem> {
        let Some((parts, body)) = self.receive(request).await? else { return Ok(self.not_json()) };
        if body.len() > self.shards.parts.limits.body_bytes {
            // It was compressed, and goes on as it is now: the owner would say that it is too large.
            commits::read(&body, &self.shards.parts.limits)?;
        }
        let sent = serde_json::from_slice::<CommitSent<'_>>(&body).ok();
        let force = sent.as_ref().is_some_and(|sent| sent.force);
        let verbs = verbs_of_commit(force);
        // A mistake anywhere is found before anything is committed.
        let is_right = || commits::read(&body, &self.shards.parts.limits).is_ok();
        let of_parts = sent.as_ref().and_then(|sent| self.by_shard(sent)).filter(|_| is_right());
        if let Some(of_parts) = &of_parts {
            // Nor is anything where some table may not be read: one store would commit nothing of it either.
            may_pass_on((&scope_of(&parts.extensions), &parts.uri), verbs, as_sent(of_parts))?;
        }
        let Some(of_parts) = of_parts.filter(|of_parts| of_parts.len() > 1) else {
            // One shard's, or a mistake: any handler that reads it says which.
            let table = sent.as_ref().and_then(first_table);
            let asked = AskedByBody { table: table.as_ref(), verbs };
            return self.ask_owner(&parts, asked, body.clone()).await;
        };
        let mut committed: Vec<(usize, Value)> = Vec::new();
        let mut group = Value::Null;
        for part in of_parts {
            let passed = CommitPassed { force, commits: &part.commits };
            let body = answers::json(&passed)?;
            let asked = AskedByBody { table: part.tables.first(), verbs };
            let response = self.ask_owner(&parts, asked, body.into()).await;
            let response = response.unwrap_or_else(IntoResponse::into_response);
            if !response.status().is_success() {
                return with_committed(response, in_order(committed)).await;
            }
            let mut answer = read(response).await?;
            group = answer["group"].take();
            let commits = answer["commits"].as_array_mut().map(std::mem::take).unwrap_or_default();
            committed.extend(part.places.into_iter().zip(commits));
        }
        Ok(axum::Json(json!({"group": group, "commits": in_order(committed)})).into_response())
    }

    /// The head of a request, and its whole body; `None` if that is not said to be JSON.
    async fn receive(&self, request: Request) -> Result<Option<(Parts, Bytes)>, Problem> {
        let (mut parts, body) = request.into_parts();
        if !matches!(extract::encoding(&parts.headers), Ok(Encoding::Json)) {
            return Ok(None);
        }
        let incoming = Incoming::from_request(Request::from_parts(parts.clone(), body), &()).await?;
        let limits = &self.shards.parts.limits;
        let (body, _share) = incoming.receive(limits, &self.shards.parts.inflight).await?;
        // Of text in another encoding the handler says that it is that.
        let body = without_mark(&body).map(|text| body.slice_ref(text)).unwrap_or(body);
        for name in [header::CONTENT_ENCODING, header::TRANSFER_ENCODING, header::EXPECT] {
            parts.headers.remove(name);
        }
        Ok(Some((parts, body)))
    }

    fn not_json(&self) -> Response {
        extract::unsupported("commits and resets are application/json").into_response()
    }

    /// The commits by shard; `None` if that cannot be said of each, or there are too many.
    fn by_shard<'a>(&self, sent: &CommitSent<'a>) -> Option<Vec<CommitPart<'a>>> {
        let commits = sent.commits.as_ref()?;
        if sent.table.is_some() || commits.len() > self.shards.parts.limits.bulk_records {
            return None;
        }
        let mut parts: Vec<(u32, CommitPart<'a>)> = Vec::new();
        for (place, commit) in commits.iter().copied().enumerate() {
            let table = table_of(commit)?;
            let shard = self.shards.cluster.shard(&table);
            let at = parts.iter().position(|(other, _)| *other == shard).unwrap_or_else(|| {
                let (tables, places, commits) = (Vec::new(), Vec::new(), Vec::new());
                parts.push((shard, CommitPart { tables, places, commits }));
                parts.len() - 1
            });
            let (_, part) = parts.get_mut(at)?;
            part.tables.push(table);
            part.places.push(place);
            part.commits.push(commit);
        }
        Some(parts.into_iter().map(|(_, part)| part).collect())
    }

    /// Asks the owner of a table with another body; a handler of this pod if there is no table.
    async fn ask_owner(
        &self,
        parts: &Parts,
        asked: AskedByBody<'_>,
        body: Bytes,
    ) -> Result<Response, Problem> {
        let mut parts = parts.clone();
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let scope = scope_of(&parts.extensions);
        let sharded = asked.table.map(|table| (table, self.shards.cluster.shard(table)));
        let place = match sharded {
            None => None,
            Some((table, shard)) => match self.shards.find(shard).await? {
                ShardOwner::Here(place) => Some(place),
                ShardOwner::There(pod) if scope.is_passed_on => return Ok(moved(table, pod)),
                ShardOwner::There(pod) => {
                    may_pass_on((&scope, &parts.uri), asked.verbs, [table])?;
                    let head = PassedHead::of(&parts, self.depth);
                    return Box::pin(self.ask_pod((pod, shard), &head, body)).await;
                }
            },
        };
        if let Some(place) = place.filter(|_| self.reach == Reach::BodyTable) {
            self.here.confirm(place).await?; // one that is only tried is answered by what is read here
        }
        let mut request = Request::from_parts(parts, Body::from(body));
        let body = shared_body::share(&mut request);
        let scope = RequestScope { caller: scope.caller.of_part(), body, ..scope };
        request.extensions_mut().insert(scope);
        Ok(match place {
            Some(place) => self.here_at(place, request).await,
            None => self.first(request).await,
        })
    }

    /// Asks the pod that is said to own a shard, or the one that does, for its whole answer.
    async fn ask_pod(
        &self,
        (pod, shard): (u32, u32),
        head: &PassedHead,
        body: Bytes,
    ) -> Result<Response, Problem> {
        let patience = self.shards.parts.limits.body_secs.duration();
        let asking = Box::pin(async {
            let sent = BodyToPass::Whole(&body);
            let answered = self.shards.send_to_owner(head, sent, (pod, shard)).await?;
            let (parts, body) = answered.answer.into_parts();
            let body = to_bytes(body, ANSWER_BYTES).await.map_err(|_| silent(answered.pod))?;
            Ok::<_, Problem>(Response::from_parts(parts, Body::from(body)))
        });
        let mut response: Response = timeout(patience, asking).await.map_err(|_| silent(pod))??;
        response.extensions_mut().insert(OwnBody);
        Ok(response)
    }
}

/// The tables of all parts, in the order in which they were sent.
fn as_sent<'a>(of_parts: &'a [CommitPart<'_>]) -> impl Iterator<Item = &'a TableName> {
    let mut tables: Vec<(usize, &TableName)> =
        of_parts.iter().flat_map(|part| part.places.iter().copied().zip(&part.tables)).collect();
    tables.sort_unstable_by_key(|(place, _)| *place);
    tables.into_iter().map(|(_, table)| table)
}

/// Decides where the client asks, whose audit log has it; the owner asks its policy once more.
fn may_pass_on<'a>(
    (scope, uri): (&RequestScope, &Uri),
    verbs: &[Verb],
    tables: impl IntoIterator<Item = &'a TableName>,
) -> Result<(), Problem> {
    // What is no name of a group the owner refuses.
    let Some(group) = group_in_path(scope, uri) else { return Ok(()) };
    for verb in verbs {
        scope.caller.allow_to(*verb, Resource::Group(&group))?;
    }
    for table in tables {
        scope.caller.allow_to(Verb::Read, Resource::Table(table))?;
    }
    Ok(())
}

fn table_of(commit: &RawValue) -> Option<TableName> {
    let sent = serde_json::from_str::<TableSent>(commit.get()).ok()?;
    named(sent.table.as_deref())
}

fn first_table(sent: &CommitSent<'_>) -> Option<TableName> {
    let of_first = || sent.commits.as_ref()?.first().and_then(|commit| table_of(commit));
    named(sent.table.as_deref()).or_else(of_first)
}

/// What was committed, in the order in which it was sent.
fn in_order(mut committed: Vec<(usize, Value)>) -> Vec<Value> {
    committed.sort_by_key(|(place, _)| *place);
    committed.into_iter().map(|(_, value)| value).collect()
}

/// A refusal that names what was committed before it.
async fn with_committed(mut response: Response, committed: Vec<Value>) -> Result<Response, Problem> {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Err(problem.with("committed", committed));
    }
    let status = response.status();
    let mut problem = read(response).await?;
    if let Value::Object(members) = &mut problem {
        members.insert("committed".to_owned(), committed.into());
    }
    let mut response = (status, axum::Json(problem)).into_response();
    let problem_json = HeaderValue::from_static(PROBLEM_JSON);
    response.headers_mut().insert(header::CONTENT_TYPE, problem_json);
    response.extensions_mut().insert(OwnBody);
    Ok(response)
}

async fn read(response: Response) -> Result<Value, Problem> {
    let body = to_bytes(response.into_body(), ANSWER_BYTES).await;
    let broken = |why: String| {
        let detail = format!("the answer of a shard broke off: {why}");
        Problem::new(Code::ForwardFailed, detail).unknown_outcome()
    };
    serde_json::from_slice(&body.map_err(|error| broken(error.to_string()))?)
        .map_err(|error| broken(error.to_string()))
}

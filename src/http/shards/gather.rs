//! Asks all shards, here and in the other pods, and puts their answers together. Lists and flushes are never
//! short: if a pod is missing they fail.

use std::{future::Future, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{
    ShardedRoute,
    asked::{AskedPod, AskedShards, SPARE, header_of},
    by_head::is_moved,
    forward::PassedHead,
    heard::{HeardFrom, HeardParts, Said, Taken, broken, read, received, take_moved, taken},
    hop,
    merge::{ListPage, merge},
    moved_from, query,
    reach::Gathered,
    scope_of,
    unanswered::{failed, silent},
};
use crate::http::{answers, connection::Connection, context::OwnBody, error::Problem, scope::RequestScope};

/// How long another pod may take for a list, or to show that it is there: a flush may take as long as here.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer it may take where it waits for a log first: until it has said that this does not answer.
const SAYING: Duration = Duration::from_millis(500);
/// How often it is asked whether a pod that flushes is there.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// What is added to answers that are put together: brackets, names, sums.
const ADDED_BYTES: usize = 16 << 10;
/// Tables of a page that names no limit.
const DEFAULT_TABLES: usize = 1000;

/// What all are asked.
#[derive(Clone, Copy)]
struct GatherQuestion<'a> {
    what: Gathered,
    parts: &'a Parts,
    scope: &'a RequestScope,
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
        let mut asked = Box::pin(self.asked(what, &parts, scope.is_passed_on)).await?;
        if let Some((shard, owner)) = asked.moved {
            return Ok(moved_from(&format!("shard {shard:03}"), owner));
        }
        // Before anybody is asked: nothing is done then.
        if what != Gathered::Stats
            && let Some((_, problem)) = asked.ownerless.pop()
        {
            return Err(problem);
        }
        let question = GatherQuestion { what, parts: &parts, scope: &scope };
        let heard = Box::pin(self.ask_all(question, asked)).await;
        let parts = match taken(what, self.shards.cluster.own, heard) {
            Taken::Parts(parts) => parts,
            Taken::Answer(response) => return Ok(response),
        };
        if what == Gathered::GroupDeleted {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        self.put_together(what, parts, (page, &scope.connection)).await
    }

    /// One answer of those that were heard.
    async fn put_together(
        &self,
        what: Gathered,
        parts: HeardParts,
        (page, connection): (ListPage, &Connection),
    ) -> Result<Response, Problem> {
        let HeardParts { bodies, shares, missing } = parts;
        // As much once more while they are put together, and a little for what is added; a page is cut.
        let mut share = self.shards.parts.responses.sending(connection);
        let length = bodies.iter().map(Bytes::len).sum::<usize>();
        let most = if what == Gathered::Tables { 2 * page.bytes } else { length };
        share.grow_to(length.min(most) + ADDED_BYTES).await?;
        let mut whole = merge(what, &bodies, page).map_err(|error| broken(&error.to_string()))?;
        drop((bodies, shares));
        if !missing.is_empty() {
            whole = with_missing(&whole, missing)?;
        }
        share.grow_to(whole.len()).await?;
        share.shrink_to(whole.len());
        Ok(answers::answer(share.body(whole)))
    }

    /// Asks all that are to be asked. Where one of them does not own a shard any more, its owner is looked
    /// for and asked, once; counts show instead what is missing.
    async fn ask_all(&self, question: GatherQuestion<'_>, asked: AskedShards) -> Vec<HeardFrom> {
        let what = question.what;
        let mut heard = self.ask(question, asked).await;
        let is_over =
            what == Gathered::Stats || (what.ends_early() && heard.iter().any(HeardFrom::has_failed));
        let moved = if is_over { Vec::new() } else { take_moved(&mut heard) };
        if !moved.is_empty() {
            let asked = self.asked_for(moved).await;
            heard.extend(self.ask(question, asked).await);
        }
        heard.sort_by_key(|one| (one.shards.first().copied(), one.pod));
        heard
    }

    /// Asks them all at once, and hears all of them; of what is nothing without one of them no more than
    /// until one is missing.
    async fn ask(&self, question: GatherQuestion<'_>, asked: AskedShards) -> Vec<HeardFrom> {
        let GatherQuestion { what, parts, .. } = question;
        let AskedShards { places, others, ownerless, .. } = asked;
        let nobodys = ownerless.into_iter();
        let mut heard: Vec<HeardFrom> =
            nobodys.map(|(shard, problem)| HeardFrom::failed(None, vec![shard], problem)).collect();
        let own = self.ask_own(question, places).boxed();
        let mut asking: FuturesUnordered<BoxFuture<'_, Vec<HeardFrom>>> = FuturesUnordered::new();
        asking.push(own);
        for other in others {
            asking.push(async move { vec![self.ask_other(what, other, parts).await] }.boxed());
        }
        while !(what.ends_early() && heard.iter().any(HeardFrom::has_failed)) {
            let Some(more) = asking.next().await else { break };
            heard.extend(more);
        }
        heard
    }

    /// Asks this pod's shards: at once if each takes long, else one after the other, as their answers take
    /// memory.
    async fn ask_own(&self, question: GatherQuestion<'_>, places: Vec<usize>) -> Vec<HeardFrom> {
        let what = question.what;
        let (places, mut heard) = self.confirmed(places).await;
        if what.ends_early() && !heard.is_empty() {
            return heard;
        }
        let asked = places.into_iter().enumerate();
        let asked = asked.map(|at| self.ask_place(question, at).boxed());
        let asked: Vec<BoxFuture<'_, HeardFrom>> = asked.collect();
        if !what.is_read() {
            heard.extend(join_all(asked).await);
            return heard;
        }
        for one in asked {
            let one = one.await;
            let is_last = one.has_failed() && (what.ends_early() || one.is_refusal());
            heard.push(one);
            if is_last {
                break;
            }
        }
        heard
    }

    /// The places whose shards this pod is known to own now, and what is to be said of the others. All are
    /// asked at once, so that a log which does not answer is waited for once. A flush that finds nothing to
    /// move, and the end of a group that is not there, enter nothing by which they would find out.
    async fn confirmed(&self, places: Vec<usize>) -> (Vec<usize>, Vec<HeardFrom>) {
        let asked = places.into_iter().map(|place| async move { (place, self.here.confirm(place).await) });
        let (mut owned, mut heard) = (Vec::new(), Vec::new());
        for (place, confirmed) in join_all(asked).await {
            match confirmed {
                Ok(()) => owned.push(place),
                Err(problem) => {
                    heard.push(HeardFrom::failed(
                        Some(self.shards.cluster.own),
                        self.shard_at(place),
                        problem,
                    ));
                }
            }
        }
        (owned, heard)
    }

    /// Asks one of this pod's stores, whose shard this pod is known to own.
    async fn ask_place(&self, question: GatherQuestion<'_>, (number, place): (usize, usize)) -> HeardFrom {
        let GatherQuestion { what, parts, scope } = question;
        let scope = RequestScope { caller: scope.caller.of_part(), body: None, ..scope.clone() };
        let connection = scope.connection.clone();
        let mut request = Request::from_parts(parts.clone(), Body::empty());
        request.extensions_mut().insert(scope);
        let answer = match place {
            SPARE => self.first(request).await,
            place => self.here.answer_known(place, request).await,
        };
        let said = self.heard(&connection, (what, number), answer).await;
        HeardFrom { pod: Some(self.shards.cluster.own), shards: self.shard_at(place), said }
    }

    /// The shard at a place; none for the store that belongs to none.
    fn shard_at(&self, place: usize) -> Vec<u32> {
        self.shards.own.get(place).copied().into_iter().collect()
    }

    /// Asks another pod, for its shards.
    async fn ask_other(&self, what: Gathered, asked: AskedPod, parts: &Parts) -> HeardFrom {
        let AskedPod { pod, shards } = asked;
        let mut head = PassedHead::of(parts, self.depth);
        if let Some(shards) = header_of(&shards) {
            head.headers.insert(hop::SHARDS, shards);
        }
        let asking = async {
            match self.shards.send(&head, Body::empty().into(), pod).await {
                Ok(answer) if is_moved(&answer) => Said::Moved,
                Ok(mut response) => {
                    response.extensions_mut().insert(OwnBody);
                    self.heard(&head.scope.connection, (what, 0), response).await
                }
                Err(error) => Said::Failed(failed(pod, &error).into_response()),
            }
        };
        let said = self.in_time((what, pod), asking.boxed()).await;
        let said = said.unwrap_or_else(|| Said::Failed(silent(pod).into_response()));
        HeardFrom { pod: Some(pod), shards, said }
    }

    /// What a pod says, if it does so in time. A flush takes as long as S3 does, and a pod that is gone is
    /// not waited for all that long: it is asked beside it, now and then, whether it is there.
    async fn in_time(
        &self,
        (what, pod): (Gathered, u32),
        asking: impl Future<Output = Said>,
    ) -> Option<Said> {
        if what != Gathered::Flush {
            return timeout(list_timeout(self.shards.parts.confirm_timeout), asking).await.ok();
        }
        let gone = async {
            while self.shards.is_there(pod).await {
                sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            said = timeout(self.shards.parts.limits.body_secs.duration(), asking) => said.ok(),
            () = gone => None,
        }
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

/// How long another pod may take for a list, where pods may wait so long to know that they own their shards.
fn list_timeout(confirm_timeout: Option<Duration>) -> Duration {
    confirm_timeout.map_or(LIST_TIMEOUT, |waits| LIST_TIMEOUT.max(waits) + SAYING)
}

/// Counts, with what is missing from them beside what other pods say that is.
fn with_missing(whole: &[u8], mut missing: Vec<Value>) -> Result<Vec<u8>, Problem> {
    let mut shown: Value = serde_json::from_slice(whole).map_err(|error| broken(&error.to_string()))?;
    if let Some(others) = shown["missing"].as_array_mut() {
        missing.append(others);
    }
    shown["missing"] = missing.into();
    answers::json(&shown)
}

/// How many tables a page is to have; what is wrong with it the handlers say.
fn tables_of_page(request: &Request) -> usize {
    let pairs = query(request.uri());
    let limit = pairs.iter().find(|(name, _)| name == "limit").and_then(|(_, value)| value.parse().ok());
    limit.unwrap_or(DEFAULT_TABLES)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use contracts::shared_log::{LogError, SharedLog};
    use serde_json::json;

    use super::*;
    use crate::{
        auth::verb::Verb,
        cluster::{copies::tests::OwnedCopy, owners::ShardLogs, settings::ClusterSettings},
        http::{
            code::Code,
            shards::{
                Reach, RouteReach, Shards,
                store::tests::{answering, code, stores_of},
                tests::of_one_shard,
            },
        },
    };

    /// Logs that nobody needs to ask.
    pub(in crate::http::shards) struct NoLogs;

    #[async_trait]
    impl ShardLogs for NoLogs {
        async fn log(&self, _: u32) -> Result<Arc<dyn SharedLog>, LogError> {
            Err(LogError::Unavailable("it is not to be asked".to_owned()))
        }
    }

    /// A cluster of two pods with one shard, which a copy of this pod owns.
    fn shards_of(owned: &OwnedCopy) -> Arc<Shards> {
        let settings = ClusterSettings { pods: 2, ..ClusterSettings::default() };
        of_one_shard(settings, 0, Arc::new(NoLogs), vec![Arc::clone(&owned.copy)])
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_about_all_shards_is_answered_by_who_is_known_to_own_them() {
        let (tables, groups) = (r#"{"tables":[],"has_more":false,"next":null}"#, r#"{"groups":["g"]}"#);
        let group = r#"{"group":"g","lag":0,"tables":[],"offsets":[]}"#;
        for (method, path, what, body) in [
            (Method::GET, "/tables", Gathered::Tables, tables),
            (Method::GET, "/consumers", Gathered::Groups, groups),
            (Method::GET, "/consumers/{group}", Gathered::Group, group),
            (Method::DELETE, "/consumers/{group}", Gathered::GroupDeleted, ""),
            (Method::POST, "/flush", Gathered::Flush, r#"{"events":0,"bytes":0,"segments":[]}"#),
        ] {
            let owned = OwnedCopy::new().await;
            let stores = stores_of(&owned);
            let route = RouteReach { path, verb: Verb::Operate, reach: Reach::All(what) };
            let endpoint =
                shards_of(&owned).endpoint(route, &stores, answering(move || body.into_response()));
            let request = || Request::builder().method(&method).body(Body::empty()).unwrap();
            let told = endpoint(request()).await;
            assert!(told.status().is_success(), "{method} {path}: {told:?}");
            owned.log.cut_off(true);
            let told = endpoint(request()).await;
            assert_eq!(code(&told), Some(Code::LogUnavailable), "{method} {path}: {told:?}");
        }
    }

    #[test]
    fn a_pod_that_waits_for_its_log_has_the_time_to_say_so() {
        assert_eq!(list_timeout(None), LIST_TIMEOUT);
        for waits in [1, 2, 30].map(Duration::from_secs) {
            let timeout = list_timeout(Some(waits));
            assert!(timeout > waits && timeout > LIST_TIMEOUT, "{timeout:?}");
        }
    }

    #[test]
    fn what_is_missing_here_is_shown_beside_what_is_missing_there() {
        let missing = |pod: &str| json!({"pod": pod, "shards": [1], "error": "demoted: "});
        let counts = |missing: &[Value]| json!({"totals": {}, "missing": missing});
        let whole = counts(&[missing("zombi-2")]).to_string();
        let shown = with_missing(whole.as_bytes(), vec![missing("zombi-0")]).unwrap();
        let shown: Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(shown, counts(&[missing("zombi-0"), missing("zombi-2")]));
        let shown = with_missing(br#"{"totals":{}}"#, vec![missing("zombi-0")]).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap(), counts(&[missing("zombi-0")]));
    }
}

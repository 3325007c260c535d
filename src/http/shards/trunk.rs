//! The end of a trunk that answers: the body of one request has the requests of another pod, and its answer
//! has their answers. Each of them is let in and answered as if it had come by itself.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Limited};
use hyper::body::Frame as BodyFrame;
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{hop::HOP, scope_of};
use crate::{
    cluster::trunk::{ANSWER_BYTES, TrunkFrame, WRITE_BYTES},
    http::{connection::Connection, route::AnswerFuture, shared_body::SharedBody},
};

/// Where trunks begin, with the version of what goes over them.
pub(in crate::http) const TRUNK: &str = "/cluster/trunk/1";
/// Bytes of a request at most, with its head.
const REQUEST_BYTES: usize = 1 << 20;
/// Requests of a trunk under way at most, and their bytes: of more nothing is read until one of them is done.
const UNDER_WAY: usize = 4096;
const BYTES_UNDER_WAY: usize = 8 << 20;
/// A trunk ends on which nothing is under way and nothing has come for so long: the pod that asks ends one
/// earlier, so it is gone.
const QUIET: Duration = Duration::from_secs(60);
/// The same after that pod was told that this one stops.
const QUIET_LEAVING: Duration = Duration::from_secs(2);

/// Answers a request as if it had come by itself. The routes that do so stand above this room.
pub(in crate::http) type TrunkAnswerer = Arc<dyn Fn(Request, Arc<Connection>) -> AnswerFuture + Send + Sync>;

/// What answers the requests of trunks.
pub(in crate::http) struct TrunkApi {
    /// Answers those that they may send.
    pub(in crate::http) answerer: TrunkAnswerer,
    /// Ends trunks at shutdown.
    pub(in crate::http) stopping: CancellationToken,
}

/// What came over a trunk is no request that pods send.
#[derive(Debug, thiserror::Error)]
#[error("what came over the trunk is no request that a pod passes on")]
struct NotPassedOn;

/// Begins a trunk; 404 to whoever is no pod.
pub(in crate::http) async fn trunk(State(api): State<Arc<TrunkApi>>, request: Request) -> Response {
    let scope = scope_of(request.extensions());
    let may_begin = scope.is_passed_on || contracts::mutant("trunk_for_anybody");
    let Some(body) = scope.body.filter(|_| may_begin) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let answers = TrunkAnswers {
        requests: Some(body),
        come: BytesMut::new(),
        under_way: JoinSet::new(),
        bytes_under_way: 0,
        to_send: BytesMut::new(),
        answerer: Arc::clone(&api.answerer),
        connection: scope.connection,
        stopping: Some(Box::pin(api.stopping.clone().cancelled_owned())),
        quiet: Box::pin(sleep(QUIET)),
    };
    let mut response = Response::new(Body::new(answers));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The answers of a trunk, as they are ready.
struct TrunkAnswers {
    /// Until they end.
    requests: Option<SharedBody>,
    /// What has come of the next one.
    come: BytesMut,
    /// Answers, and how many bytes their requests had. Ends with the trunk.
    under_way: JoinSet<(TrunkFrame, usize)>,
    bytes_under_way: usize,
    to_send: BytesMut,
    answerer: TrunkAnswerer,
    connection: Arc<Connection>,
    /// Until it has been said that no more requests should come.
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// When nothing more is expected, if nothing is under way then.
    quiet: Pin<Box<Sleep>>,
}

impl TrunkAnswers {
    /// Begins what has come.
    fn begin(&mut self, data: &[u8]) -> Result<(), axum::Error> {
        self.come.extend_from_slice(data);
        while let Some(frame) = TrunkFrame::take(&mut self.come, REQUEST_BYTES).map_err(axum::Error::new)? {
            let TrunkFrame::Request(number, request) = frame else {
                return Err(axum::Error::new(NotPassedOn));
            };
            if request.method() != Method::POST || !request.headers().contains_key(HOP) {
                return Err(axum::Error::new(NotPassedOn));
            }
            let bytes = request.body().len();
            self.bytes_under_way += bytes;
            let (answerer, connection) = (Arc::clone(&self.answerer), Arc::clone(&self.connection));
            let answering = async move {
                let answer = answerer(request.map(Body::from), connection).await;
                let (parts, body) = answer.into_parts();
                let body = Limited::new(body, ANSWER_BYTES / 2).collect().await.ok()?;
                Some(Response::from_parts(parts, body.to_bytes()))
            };
            // Boxed: the runtime moves a task several times, and this one is large.
            self.under_way.spawn(Box::pin(async move {
                let answer = AssertUnwindSafe(answering).catch_unwind().await.ok().flatten();
                let broken = TrunkFrame::Broken(number);
                (answer.map_or(broken, |answer| TrunkFrame::Answer(number, answer)), bytes)
            }));
        }
        Ok(())
    }

    /// Reads and begins requests until there are none, or too many.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Result<(), axum::Error> {
        while self.under_way.len() < UNDER_WAY && self.bytes_under_way < BYTES_UNDER_WAY {
            let Some(requests) = &mut self.requests else { break };
            match Pin::new(requests).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.begin(&data)?;
                    self.expect_more();
                }
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Puts off when it is quiet.
    fn expect_more(&mut self) {
        let quiet = if self.stopping.is_some() { QUIET } else { QUIET_LEAVING };
        self.quiet.as_mut().reset(Instant::now() + quiet);
    }

    /// Takes the answers that are ready, as many as are sent at once.
    fn poll_answers(&mut self, context: &mut Context<'_>) -> Result<(), axum::Error> {
        while self.to_send.len() < WRITE_BYTES {
            let Poll::Ready(Some(done)) = self.under_way.poll_join_next(context) else { break };
            let (frame, bytes) = done.map_err(axum::Error::new)?;
            self.bytes_under_way -= bytes;
            frame.encode(&mut self.to_send);
        }
        Ok(())
    }
}

impl HttpBody for TrunkAnswers {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, axum::Error>>> {
        let trunk = &mut *self;
        if trunk.stopping.as_mut().is_some_and(|stopping| stopping.as_mut().poll(context).is_ready()) {
            trunk.stopping = None;
            trunk.expect_more();
            TrunkFrame::Leaving.encode(&mut trunk.to_send);
        }
        if let Err(error) = trunk.poll_requests(context).and_then(|()| trunk.poll_answers(context)) {
            return Poll::Ready(Some(Err(error)));
        }
        if !trunk.to_send.is_empty() {
            trunk.expect_more();
            return Poll::Ready(Some(Ok(BodyFrame::data(trunk.to_send.split().freeze()))));
        }
        let is_idle = trunk.under_way.is_empty();
        let is_over = is_idle && (trunk.requests.is_none() || trunk.quiet.as_mut().poll(context).is_ready());
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Duration,
    };

    use axum::{Router, extract::Path, routing::post};
    use futures_util::{StreamExt, stream};
    use http_body_util::StreamBody;
    use tokio::{
        sync::{Barrier, Notify},
        time::timeout,
    };

    use super::*;
    use crate::{
        cluster::{
            send_error::SendError,
            trunk::{Opener, TrunkError, Trunks},
        },
        http::{Routes, scope::RequestScope},
    };

    /// The other pod, to which trunks are opened.
    struct OtherPod {
        api: Arc<TrunkApi>,
        opened: Arc<AtomicUsize>,
        /// Cuts all trunks.
        cut: CancellationToken,
    }

    impl OtherPod {
        fn new(router: Router) -> Self {
            let routes = Routes::from(router);
            let answerer: TrunkAnswerer =
                Arc::new(move |request, connection| routes.answer(request, connection));
            let api = TrunkApi { answerer, stopping: CancellationToken::new() };
            Self { api: Arc::new(api), opened: Arc::default(), cut: CancellationToken::new() }
        }

        fn opener(&self) -> Opener {
            let (api, opened, cut) = (Arc::clone(&self.api), Arc::clone(&self.opened), self.cut.clone());
            Box::new(move |requests| {
                Box::pin(async move {
                    opened.fetch_add(1, Relaxed);
                    let mut request = Request::new(Body::empty());
                    let body = SharedBody::of(requests.into(), request.headers());
                    let scope = RequestScope { body, is_passed_on: true, ..RequestScope::default() };
                    request.extensions_mut().insert(scope);
                    let answer = super::trunk(State(api), request).await;
                    // As a connection that breaks.
                    Ok(answer.map(|body| {
                        let frames =
                            body.into_data_stream().map(|data| Ok::<_, axum::Error>(BodyFrame::data(data?)));
                        let broken = stream::once(async move {
                            cut.cancelled_owned().await;
                            Err(axum::Error::new(std::io::Error::other("cut")))
                        });
                        Body::new(StreamBody::new(stream::select(frames, broken)))
                    }))
                })
            })
        }

        async fn ask(&self, trunks: &Arc<Trunks>, path: &str, body: &str) -> Result<String, TrunkError> {
            let request = axum::http::Request::post(path).header(HOP, "1");
            let request = request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
            let answer = trunks.exchange(("zombi-1:1", 0), request, || self.opener()).await?;
            Ok(format!("{} {}", answer.status().as_u16(), String::from_utf8_lossy(answer.body())))
        }
    }

    /// A request's body, as a text.
    async fn body_of(request: Request) -> String {
        let Some(body) = scope_of(request.extensions()).body else { return String::new() };
        String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
    }

    /// Answers with the name in the path and the body.
    async fn echo(Path(name): Path<String>, request: Request) -> String {
        format!("{name}: {}", body_of(request).await)
    }

    fn is_lost(told: &Result<String, TrunkError>) -> bool {
        matches!(told, Err(TrunkError::Send(SendError { is_unsent: false, .. })))
    }

    #[tokio::test]
    async fn many_requests_share_one_trunk_and_are_answered_in_any_order() {
        let barrier = Arc::new(Barrier::new(20));
        let together = move |name: Path<String>, request: Request| {
            let barrier = Arc::clone(&barrier);
            async move {
                barrier.wait().await; // none is answered before all have come
                echo(name, request).await
            }
        };
        let pod = OtherPod::new(Router::new().route("/tables/{name}", post(together)));
        let trunks = Arc::new(Trunks::default());
        let asked = (0..20).map(|number| {
            let (pod, trunks) = (&pod, &trunks);
            async move { pod.ask(trunks, &format!("/tables/t-{number}"), &"x".repeat(number * 5000)).await }
        });
        for (number, told) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
            assert_eq!(told.unwrap(), format!("200 t-{number}: {}", "x".repeat(number * 5000)));
        }
        assert_eq!(pod.ask(&trunks, "/nowhere", "").await.unwrap().split(' ').next(), Some("404"));
        assert_eq!(pod.opened.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_pod_that_stops_answers_what_it_has_been_sent_and_gets_no_more() {
        let (come, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (coming, going) = (Arc::clone(&come), Arc::clone(&go));
        let slow = move |request: Request| async move {
            coming.notify_one();
            going.notified().await;
            body_of(request).await
        };
        let pod = OtherPod::new(Router::new().route("/slow", post(slow)).route("/tables/{name}", post(echo)));
        let trunks = Arc::new(Trunks::default());
        let asking = async {
            tokio::join!(pod.ask(&trunks, "/slow", "sent before"), async {
                come.notified().await;
                pod.api.stopping.cancel();
                while pod.opened.load(Relaxed) == 1 {
                    pod.ask(&trunks, "/tables/t", "").await.unwrap(); // over another one, once it is known
                    tokio::task::yield_now().await;
                }
                go.notify_one();
            })
        };
        let (told, ()) = timeout(Duration::from_secs(60), asking).await.expect("no more goes over the first");
        assert_eq!(told.unwrap(), "200 sent before");
    }

    #[tokio::test]
    async fn what_was_sent_over_a_trunk_that_breaks_is_lost_and_the_next_has_another_trunk() {
        let come = Arc::new(Notify::new());
        let coming = Arc::clone(&come);
        let never = move || async move {
            coming.notify_one();
            std::future::pending::<Infallible>().await;
        };
        let pod =
            OtherPod::new(Router::new().route("/never", post(never)).route("/tables/{name}", post(echo)));
        let trunks = Arc::new(Trunks::default());
        let (told, ()) = tokio::join!(pod.ask(&trunks, "/never", ""), async {
            come.notified().await;
            pod.cut.cancel();
        });
        assert!(is_lost(&told), "{told:?}");
        let healed = OtherPod { cut: CancellationToken::new(), ..pod };
        assert_eq!(healed.ask(&trunks, "/tables/t", "again").await.unwrap(), "200 t: again");
        assert_eq!(healed.opened.load(Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trunk_that_is_silent_gets_no_more_requests() {
        let late = |request: Request| async move {
            sleep(Duration::from_secs(10)).await;
            body_of(request).await
        };
        let pod = OtherPod::new(Router::new().route("/late", post(late)).route("/tables/{name}", post(echo)));
        let trunks = Arc::new(Trunks::default());
        let (late, ()) = tokio::join!(pod.ask(&trunks, "/late", "late"), async {
            sleep(Duration::from_secs(4)).await;
            assert_eq!(pod.ask(&trunks, "/tables/t", "").await.unwrap(), "200 t: ");
            assert_eq!(pod.opened.load(Relaxed), 2);
        });
        assert_eq!(late.unwrap(), "200 late", "what waits is answered still");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_pod_is_found_out_also_where_nobody_waits_for_long() {
        let never = || async { std::future::pending::<Infallible>().await };
        let pod = OtherPod::new(Router::new().route("/never", post(never)));
        let trunks = Arc::new(Trunks::default());
        for _ in 0..3 {
            let left = timeout(Duration::from_secs(2), pod.ask(&trunks, "/never", "")).await;
            assert!(left.is_err());
        }
        assert_eq!(pod.opened.load(Relaxed), 2, "the third has another one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_does_not_accept_a_trunk_in_time_has_not_had_the_request() {
        let trunks = Arc::new(Trunks::default());
        let opener = || -> Opener {
            Box::new(|requests| {
                Box::pin(async move {
                    let _held = requests;
                    std::future::pending().await
                })
            })
        };
        let request = axum::http::Request::post("/tables/t").body(Bytes::new()).unwrap();
        let told = trunks.exchange(("zombi-1:1", 0), request, opener).await;
        assert!(matches!(told, Err(TrunkError::Send(SendError { is_unsent: true, .. }))), "{told:?}");
    }

    #[tokio::test]
    async fn other_certificates_have_another_trunk() {
        let pod = OtherPod::new(Router::new().route("/tables/{name}", post(echo)));
        let trunks = Arc::new(Trunks::default());
        for (generation, opened) in [(0, 1), (0, 1), (1, 2), (1, 2)] {
            let request = axum::http::Request::post("/tables/t").header(HOP, "1").body(Bytes::new()).unwrap();
            trunks.exchange(("zombi-1:1", generation), request, || pod.opener()).await.unwrap();
            assert_eq!(pod.opened.load(Relaxed), opened);
        }
    }

    #[tokio::test]
    async fn what_no_pod_passes_on_is_not_answered() {
        let pod = OtherPod::new(Router::new().route("/tables/{name}", post(echo).get(echo)));
        for request in [
            axum::http::Request::post("/tables/t").body(Bytes::new()).unwrap(),
            axum::http::Request::get("/tables/t").header(HOP, "1").body(Bytes::new()).unwrap(),
        ] {
            let trunks = Arc::new(Trunks::default());
            let told = trunks.exchange(("zombi-1:1", 0), request, || pod.opener()).await;
            assert!(matches!(told, Err(TrunkError::Send(SendError { is_unsent: false, .. }))), "{told:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trunk_whose_asker_is_gone_ends() {
        let pod = OtherPod::new(Router::new());
        let mut request = Request::new(Body::empty());
        let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let body = SharedBody::of(silent.into(), request.headers());
        request.extensions_mut().insert(RequestScope { body, is_passed_on: true, ..RequestScope::default() });
        let began = Instant::now();
        let answer = super::trunk(State(pod.api), request).await;
        assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
        assert_eq!(began.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_takes_no_trunks_has_not_had_the_request_and_is_left_alone_for_a_while() {
        let (trunks, asked) = (Arc::new(Trunks::default()), Arc::new(AtomicUsize::new(0)));
        let ask = async || {
            let asked = Arc::clone(&asked);
            let opener = || -> Opener {
                Box::new(move |_| {
                    asked.fetch_add(1, Relaxed);
                    Box::pin(async { Ok(StatusCode::NOT_FOUND.into_response()) })
                })
            };
            let request = axum::http::Request::post("/tables/t").body(Bytes::new()).unwrap();
            trunks.exchange(("zombi-1:1", 0), request, opener).await
        };
        for _ in 0..3 {
            assert!(matches!(ask().await, Err(TrunkError::Refused)));
        }
        assert_eq!(asked.load(Relaxed), 1);
        let began = Instant::now();
        while asked.load(Relaxed) == 1 && began.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_secs(1)).await;
            drop(ask().await);
        }
        assert_eq!(began.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn a_client_that_is_no_pod_finds_nothing() {
        let pod = OtherPod::new(Router::new());
        let mut request = Request::new(Body::empty());
        let body = SharedBody::of(Body::from("x").into(), request.headers());
        request.extensions_mut().insert(RequestScope { body, ..RequestScope::default() });
        assert_eq!(super::trunk(State(pod.api), request).await.status(), StatusCode::NOT_FOUND);
    }
}

//! The stores of a pod's shards, as handlers get them: one that is there as long as the process, or one that
//! is there while this pod's copy owns the shard. `A` is what handlers work with.

use std::{future::Future, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use axum::{
    extract::Request,
    http::Method,
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, TryFutureExt, future::try_join};

use crate::{
    cluster::copies::OwnCopy,
    http::{
        code::Code,
        error::Problem,
        route::{HandlerEndpoint, HandlerMaker},
    },
};
use contracts::error::StorageError;

/// When somebody may ask again who finds nobody that owns a shard.
const OWNED_SOON: Duration = Duration::from_secs(1);

/// The stores of this pod's shards, in the order of their numbers.
pub(crate) enum ShardStores<A> {
    /// Of shards that are bound to this pod. There is at least one.
    Bound(Arc<[Arc<A>]>),
    /// Of shards with logs.
    Owned {
        /// For what is about no shard.
        spare: Arc<A>,
        /// One for each copy.
        stores: Arc<[Arc<OwnedStore<A>>]>,
    },
}

impl<A> Clone for ShardStores<A> {
    fn clone(&self) -> Self {
        match self {
            Self::Bound(apps) => Self::Bound(Arc::clone(apps)),
            Self::Owned { spare, stores } => {
                Self::Owned { spare: Arc::clone(spare), stores: Arc::clone(stores) }
            }
        }
    }
}

/// The store of a copy: there while the copy owns the shard, and another one in each term.
pub(crate) struct OwnedStore<A> {
    /// The copy.
    pub(crate) copy: Arc<OwnCopy>,
    served: ArcSwapOption<TermStore<A>>,
}

/// The store of a term. It serves in no other: by then another copy may have moved events that it knows of.
struct TermStore<A> {
    term: u64,
    app: Arc<A>,
}

impl<A> OwnedStore<A> {
    /// There is none yet.
    pub(crate) fn new(copy: Arc<OwnCopy>) -> Self {
        Self { copy, served: ArcSwapOption::empty() }
    }

    /// Serves with this while the copy owns the shard in this term.
    pub(crate) fn serve(&self, term: u64, app: Arc<A>) {
        self.served.store(Some(Arc::new(TermStore { term, app })));
    }

    /// Serves no more.
    pub(crate) fn rest(&self) {
        self.served.store(None);
    }

    /// What handlers work with, if this copy owns the shard and its store is open.
    pub(crate) fn served(&self) -> Option<Arc<A>> {
        let of_term = self.served.load_full()?;
        (self.copy.owned_term() == Some(of_term.term)).then(|| Arc::clone(&of_term.app))
    }
}

/// A route's handler over each store of this pod.
pub(super) enum ShardHandlers {
    /// Made once.
    Bound(Vec<HandlerEndpoint>),
    /// Made for each request, over the store of the term in force.
    Owned {
        /// Over no shard's store.
        spare: HandlerEndpoint,
        /// Over those of the copies.
        copies: Vec<CopyHandler>,
    },
}

/// A route's handler over the store of a copy.
pub(super) struct CopyHandler {
    copy: Arc<OwnCopy>,
    /// Makes it, if the copy owns its shard.
    served: Box<dyn Fn() -> Option<HandlerEndpoint> + Send + Sync>,
}

impl CopyHandler {
    /// The answer of the store of the term in force; `None` if there is none.
    fn begin(&self, request: Request) -> Option<impl Future<Output = Response>> {
        let term = self.copy.owned_term();
        let endpoint = (self.served)()?;
        let answering = endpoint(request);
        Some(async move {
            let response = answering.await;
            if self.copy.owned_term() == term { response } else { of_ended_term(response) }
        })
    }

    /// A refusal that was found in a term, once it is known that this copy has owned the shard in it until
    /// after that.
    async fn confirm_refusal(&self, refusal: Response, term: Option<u64>) -> Response {
        match self.copy.copy().confirm().await {
            Ok(()) if self.copy.owned_term() == term => refusal,
            Ok(()) => Problem::from(StorageError::Demoted).into_response(),
            Err(error) => Problem::from(error).into_response(),
        }
    }
}

/// Whether a handler refuses to change anything by what it has looked up: such requests never come to the
/// writer, or only some of them do.
fn is_refused_by_look(response: &Response) -> bool {
    let problem = response.extensions().get::<Problem>().filter(|problem| problem.is_of_the_whole());
    let code = problem.map(Problem::code);
    matches!(code, Some(Code::UnknownTable | Code::EraseBeyondEnd | Code::TooManyOffsets))
}

/// An answer of a store whose term has ended meanwhile. It closes as it does when the process stops, and that
/// is not what happens to the shard.
fn of_ended_term(mut response: Response) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let is_closing = problem.code() == Code::Closing;
        response.extensions_mut().insert(if is_closing { problem.demoted() } else { problem });
    }
    response
}

impl ShardHandlers {
    /// Over these stores.
    pub(super) fn new<A: Send + Sync + 'static>(
        stores: &ShardStores<A>,
        maker: HandlerMaker<Arc<A>>,
    ) -> Self {
        let (spare, stores) = match stores {
            ShardStores::Bound(apps) => {
                return Self::Bound(apps.iter().map(|app| maker(Arc::clone(app))).collect());
            }
            ShardStores::Owned { spare, stores } => (maker(Arc::clone(spare)), stores),
        };
        let maker = Arc::new(maker);
        let of_copy = |store: &Arc<OwnedStore<A>>| {
            let (store, maker) = (Arc::clone(store), Arc::clone(&maker));
            let copy = Arc::clone(&store.copy);
            CopyHandler { copy, served: Box::new(move || store.served().map(|app| maker(app))) }
        };
        Self::Owned { spare, copies: stores.iter().map(of_copy).collect() }
    }

    /// The one for what is about no shard, or what any of them refuses.
    pub(super) fn first(&self) -> &HandlerEndpoint {
        match self {
            Self::Bound(here) => &here[0],
            Self::Owned { spare, .. } => spare,
        }
    }

    /// How many stores there are.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Bound(here) => here.len(),
            Self::Owned { copies, .. } => copies.len(),
        }
    }

    /// The answer of the one at a place, which there is. What is only read is answered once it is known that
    /// this copy still owned the shard when it was asked. What is changed is entered in the shard's log,
    /// which shows that, and so is what the writer refuses; a refusal that a handler finds by itself is no
    /// entry.
    pub(super) async fn answer(&self, place: usize, request: Request) -> Response {
        let handler = match self {
            Self::Bound(here) => return here[place](request).await,
            Self::Owned { copies, .. } => &copies[place],
        };
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let term = handler.copy.owned_term();
        let Some(answering) = handler.begin(request) else { return nobody_owns().into_response() };
        if is_read {
            return confirmed(&handler.copy, answering).await;
        }
        let response = answering.await;
        if is_refused_by_look(&response) { handler.confirm_refusal(response, term).await } else { response }
    }

    /// The same where this copy has been known to own the shard since it was asked.
    pub(super) async fn answer_known(&self, place: usize, request: Request) -> Response {
        match self {
            Self::Bound(here) => here[place](request).await,
            Self::Owned { copies, .. } => match copies[place].begin(request) {
                Some(answering) => answering.await,
                None => nobody_owns().into_response(),
            },
        }
    }

    /// Waits until it is known that this pod still owns the shard at a place, where another may.
    ///
    /// # Errors
    /// 503 if it does not, or nobody can tell.
    pub(super) async fn confirm(&self, place: usize) -> Result<(), Problem> {
        match self {
            Self::Owned { copies, .. } if place < copies.len() => {
                copies[place].copy.copy().confirm().await.map_err(Problem::from)
            }
            _ => Ok(()),
        }
    }
}

/// An answer that is given only if the copy owned the shard after it was asked for. Both are waited for at
/// once: what was read before the confirmation was the present then, and what is read after it is no older.
async fn confirmed(copy: &OwnCopy, answering: impl Future<Output = Response>) -> Response {
    let confirmed = copy.copy().confirm().map_err(Problem::from);
    match Box::pin(try_join(answering.map(Ok), confirmed)).await {
        Ok((response, ())) => response,
        Err(problem) => problem.into_response(),
    }
}

/// Nobody owns the shard of what was asked for, or its store is not open yet.
pub(super) fn nobody_owns() -> Problem {
    let detail = "no copy of the shard owns it now, or its owner is opening it";
    Problem::new(Code::NoOwner, detail).not_written().retry_after(OWNED_SOON)
}

#[cfg(test)]
pub(super) mod tests {
    use axum::{body::Body, http::StatusCode};

    use super::*;
    use crate::{cluster::copies::tests::OwnedCopy, http::route::AnswerFuture};
    use contracts::name::{Partition, TableName};

    /// Handlers that give this answer, over any store.
    pub(in crate::http::shards) fn answering(
        answer: impl Fn() -> Response + Copy + Send + Sync + 'static,
    ) -> HandlerMaker<Arc<()>> {
        Box::new(move |_: Arc<()>| -> HandlerEndpoint {
            Arc::new(move |_: Request| -> AnswerFuture { Box::pin(async move { answer() }) })
        })
    }

    /// The store of a copy, which is open in its term.
    pub(in crate::http::shards) fn stores_of(owned: &OwnedCopy) -> ShardStores<()> {
        let store = OwnedStore::new(Arc::clone(&owned.copy));
        store.serve(owned.copy.owned_term().unwrap(), Arc::new(()));
        ShardStores::Owned { spare: Arc::new(()), stores: [Arc::new(store)].into() }
    }

    /// The code of a problem, if it is one.
    pub(in crate::http::shards) fn code(response: &Response) -> Option<Code> {
        response.extensions().get::<Problem>().map(Problem::code)
    }

    fn table() -> TableName {
        TableName::parse("t").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_looked_up_is_answered_by_who_is_known_to_own_the_shard() {
        let fine = || StatusCode::CREATED.into_response();
        let missing = || Problem::from(StorageError::UnknownTable(table())).into_response();
        let beyond = || Problem::new(Code::EraseBeyondEnd, "").into_response();
        let many = || Problem::new(Code::TooManyOffsets, "").into_response();
        let by_writer = || {
            let partition = Partition::new(table(), 0);
            Problem::from(StorageError::OffsetMismatch { partition, expected: 2, next: 1 }).into_response()
        };
        // What was written is told whatever follows it.
        let written = || {
            let problem = Problem::from(StorageError::UnknownTable(table()));
            problem.with("committed", 3).into_response()
        };
        let flushed = || {
            let problem = Problem::from(StorageError::UnknownTable(table()));
            problem.unknown_outcome().into_response()
        };
        type GivenAnswer = fn() -> Response;
        let cases: [(Method, GivenAnswer, bool); 10] = [
            (Method::GET, fine, true),
            (Method::HEAD, fine, true),
            (Method::GET, missing, true),
            (Method::POST, missing, true),
            (Method::POST, beyond, true),
            (Method::POST, many, true),
            // These have entries of their own.
            (Method::POST, fine, false),
            (Method::POST, by_writer, false),
            (Method::POST, written, false),
            (Method::POST, flushed, false),
        ];
        for (method, answer, is_confirmed) in cases {
            let owned = OwnedCopy::new().await;
            let here = ShardHandlers::new(&stores_of(&owned), answering(answer));
            let request = || Request::builder().method(&method).body(Body::empty()).unwrap();
            let expected = answer();
            let told = here.answer(0, request()).await;
            assert_eq!((told.status(), code(&told)), (expected.status(), code(&expected)), "{method}");
            owned.log.cut_off(true);
            let told = here.answer(0, request()).await;
            let is_refused = code(&told) == Some(Code::LogUnavailable);
            assert_eq!(is_refused, is_confirmed, "{method} {:?}: {told:?}", code(&expected));
        }
    }

    #[test]
    fn a_store_that_ends_with_its_term_is_no_process_that_stops() {
        let told = |problem: Problem| {
            let response = of_ended_term(problem.into_response());
            response.extensions().get::<Problem>().unwrap().clone()
        };
        assert_eq!(told(StorageError::Closed.into()).code(), Code::Demoted);
        assert_eq!(told(StorageError::NoOwner.into()).code(), Code::NoOwner, "the others say what they are");
        let stream = told(Problem::from(StorageError::Closed).unknown_outcome().with("committed", 3));
        let said = format!("{stream:?}");
        assert_eq!(stream.code(), Code::Demoted);
        assert!(said.contains("Unknown") && said.contains("committed"), "what is known of it stays: {said}");
    }
}

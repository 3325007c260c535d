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
    /// this copy still owned the shard when it was asked.
    pub(super) async fn answer(&self, place: usize, request: Request) -> Response {
        let handler = match self {
            Self::Bound(here) => return here[place](request).await,
            Self::Owned { copies, .. } => &copies[place],
        };
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let Some(answering) = handler.begin(request) else { return nobody_owns().into_response() };
        if is_read { confirmed(&handler.copy, answering).await } else { answering.await }
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
mod tests {
    use super::*;
    use contracts::error::StorageError;

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

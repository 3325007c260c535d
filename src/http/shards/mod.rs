//! Requests to the shards that they are about: here, in another pod, or in all of them. This is inside of
//! what surrounds every request, so that the pod which a client asks lets it in, counts and logs it.
//!
//! Below `http::state`, as handlers work on one store each and know nothing of shards. Only the probes tell
//! other pods how far this one is with the logs.

mod applied;
mod asked;
mod bodies;
mod by_head;
mod counted;
mod forward;
mod gather;
mod heard;
mod hop;
mod left;
mod merge;
mod passed;
mod reach;
mod relayed;
mod store;
mod trunk;
mod unanswered;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{Extensions, HeaderValue, Uri},
    response::{IntoResponse, Response},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::store::{OwnedStore, ShardStores};
use self::store::{ShardHandlers, nobody_owns};
pub(super) use self::{
    applied::{tell_applied, tell_scrubbed},
    hop::{AskedBy, Passed, asked_by, tell_records},
    reach::{Gathered, Reach, RouteReach},
    trunk::{TRUNK, TrunkAnswerer, TrunkApi, trunk},
};
use super::{
    code::Code,
    error::Problem,
    limits::Limits,
    memory::Budget,
    route::{HandlerEndpoint, HandlerMaker},
    scope::RequestScope,
};
use crate::{
    auth::{policy::Resource, verb::Verb},
    cluster::{Cluster, client::PodClient, pod_name},
};
use contracts::name::{GroupName, TableName};

/// When somebody may ask again whom no log has told who owns a shard.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The shards of this pod and the other pods.
pub(crate) struct Shards {
    /// Which pod has which shard.
    pub(crate) cluster: Arc<Cluster>,
    client: Arc<PodClient>,
    /// The shards of this pod, in order.
    own: Vec<u32>,
    /// The name of this pod, as answers have it.
    name: HeaderValue,
    parts: ShardParts,
}

/// What of the process the way to other pods needs.
pub(crate) struct ShardParts {
    /// What one request may ask for.
    pub(crate) limits: Arc<Limits>,
    /// The memory that bodies being received may take.
    pub(crate) inflight: Arc<Budget>,
    /// The memory that answers being sent may take.
    pub(crate) responses: Arc<Budget>,
    /// Ends long answers at shutdown.
    pub(crate) stopping: CancellationToken,
    /// How long a pod may wait until it knows that it owns a shard; `None` where shards are bound to pods.
    pub(crate) confirm_timeout: Option<Duration>,
}

/// Which pod owns a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShardOwner {
    /// This one: the shard's place among those of this pod.
    Here(usize),
    /// Another one.
    There(u32),
}

/// A route, with its handler over each of this pod's shards.
struct ShardedRoute {
    shards: Arc<Shards>,
    reach: Reach,
    /// Whether it appends.
    is_append: bool,
    /// How many parts its path has: what stands before them is no part of the API's path.
    depth: usize,
    here: ShardHandlers,
}

impl Shards {
    /// Of the cluster, with what reaches the other pods.
    pub(crate) fn new(cluster: Arc<Cluster>, client: Arc<PodClient>, parts: ShardParts) -> Self {
        let (own, name) = (cluster.own_shards(), hop::name_header(cluster.own));
        Self { cluster, client, own, name, parts }
    }

    /// The handler of a route over each of this pod's stores, as one that chooses.
    pub(super) fn endpoint<A: Send + Sync + 'static>(
        self: &Arc<Self>,
        route: RouteReach<'_>,
        stores: &ShardStores<A>,
        maker: HandlerMaker<Arc<A>>,
    ) -> HandlerEndpoint {
        self.routed(route, ShardHandlers::new(stores, maker))
    }

    /// The handler of a route that works on no store: a shard's owner answers what is about that shard.
    pub(super) fn of_process(
        self: &Arc<Self>,
        route: RouteReach<'_>,
        here: HandlerEndpoint,
    ) -> HandlerEndpoint {
        match route.reach {
            Reach::This => here,
            _ => self.routed(route, ShardHandlers::Bound(vec![here])),
        }
    }

    fn routed(self: &Arc<Self>, route: RouteReach<'_>, here: ShardHandlers) -> HandlerEndpoint {
        let RouteReach { path, verb, reach } = route;
        let (depth, is_append) = (path.matches('/').count(), verb == Verb::Append);
        let route = Arc::new(ShardedRoute { shards: Arc::clone(self), reach, is_append, depth, here });
        Arc::new(move |request| {
            let route = Arc::clone(&route);
            Box::pin(async move { route.answer(request).await })
        })
    }

    /// Where a shard is now.
    ///
    /// # Errors
    /// 503 if nobody owns it, or nobody can tell who does.
    async fn find(&self, shard: u32) -> Result<ShardOwner, Problem> {
        let pod = self.owner(shard).await?;
        Ok(match self.own.binary_search(&shard) {
            Ok(place) if pod == self.cluster.own => ShardOwner::Here(place),
            _ => ShardOwner::There(pod),
        })
    }

    /// The pod that owns a shard.
    ///
    /// # Errors
    /// 503 if nobody does, or nobody can tell who does.
    async fn owner(&self, shard: u32) -> Result<u32, Problem> {
        let Some(owners) = self.cluster.owners.get() else { return Ok(self.cluster.first_of(shard)) };
        match owners.owner(shard).await {
            Ok(owner) => owner.ok_or_else(nobody_owns),
            Err(error) => {
                let detail = format!("nobody can tell who owns the table's shard: {error}");
                Err(Problem::new(Code::LogUnavailable, detail).not_written().retry_after(ASK_AGAIN))
            }
        }
    }
}

impl ShardedRoute {
    async fn answer(&self, request: Request) -> Response {
        let answered = match self.reach {
            Reach::This => return self.first(request).await,
            Reach::Table | Reach::TableFlush => match table_in_path(&request) {
                Some(table) => self.of_table(request, table).await,
                None => return self.first(request).await,
            },
            Reach::QueryTable => match table_in_query(&request) {
                Some(table) => self.of_table(request, table).await,
                None => return self.first(request).await,
            },
            // What its head says is refused before anybody asks for its body.
            Reach::BodyTable | Reach::BodyTables
                if group_in_path(&scope_of(request.extensions()), request.uri()).is_none() =>
            {
                return self.first(request).await;
            }
            Reach::Numbered => self.of_shard(request).await,
            Reach::BodyTable => Box::pin(self.reset(request)).await,
            Reach::BodyTables => Box::pin(self.commit(request)).await,
            Reach::All(what) => Box::pin(self.gather(what, request)).await,
        };
        answered.unwrap_or_else(IntoResponse::into_response)
    }

    /// The handler over some store of this pod, for what is about none, or what any of them refuses.
    async fn first(&self, request: Request) -> Response {
        self.here.first()(request).await
    }

    /// A request about the table in its path, or about a group and the table in its query.
    async fn of_table(&self, request: Request, table: TableName) -> Result<Response, Problem> {
        let shard = self.shards.cluster.shard(&table);
        let pod = match self.shards.find(shard).await {
            Ok(ShardOwner::Here(place)) => {
                if self.reach == Reach::TableFlush {
                    self.here.confirm(place).await?; // another owner may have what is not in S3
                }
                return Ok(self.here_at(place, request).await);
            }
            Ok(ShardOwner::There(pod)) => Ok(pod),
            Err(unowned) => Err(unowned),
        };
        let scope = scope_of(request.extensions());
        if scope.is_passed_on {
            return Ok(moved(&table, pod?));
        }
        // Where the client asks, before it hears who owns what; the owner asks its policy once more.
        if self.reach == Reach::QueryTable {
            let Some(group) = group_in_path(&scope, request.uri()) else {
                return Ok(self.first(request).await);
            };
            scope.caller.allow(Resource::Group(&group))?;
            scope.caller.allow_to(Verb::Read, Resource::Table(&table))?;
        } else {
            scope.caller.allow(Resource::Table(&table))?;
        }
        let pod = pod?;
        Box::pin(self.pass_on(request, (pod, shard))).await
    }

    /// A request about the shard whose number is in its path, where any of its copies may own it. What is
    /// wrong with it the handler says.
    async fn of_shard(&self, request: Request) -> Result<Response, Problem> {
        let (scope, cluster) = (scope_of(request.extensions()), &self.shards.cluster);
        let number = scope.named(request.uri(), 0).ok().and_then(|number| number.parse::<u32>().ok());
        let Some(shard) = number.filter(|shard| cluster.has_logs() && *shard < cluster.record.shards) else {
            return Ok(self.first(request).await);
        };
        let pod = self.shards.owner(shard).await?;
        if pod == cluster.own {
            return Ok(self.first(request).await);
        }
        if scope.is_passed_on {
            return Ok(moved_from(&format!("shard {shard:03}"), pod));
        }
        Box::pin(self.pass_on(request, (pod, shard))).await
    }

    /// The handler over one of this pod's shards.
    async fn here_at(&self, place: usize, request: Request) -> Response {
        hop::name_owner(self.here.answer(place, request).await, self.shards.name.clone())
    }
}

/// What a request carries besides itself.
fn scope_of(extensions: &Extensions) -> RequestScope {
    extensions.get::<RequestScope>().cloned().unwrap_or_default()
}

/// The pod was asked by another one for what it does not own.
fn moved(table: &TableName, owner: u32) -> Response {
    moved_from(&format!("table {table}"), owner)
}

/// The same of anything that another pod owns.
fn moved_from(what: &str, owner: u32) -> Response {
    let detail = format!("{what} is owned by {}", pod_name(owner));
    hop::name_owner(Problem::new(Code::Moved, detail).not_written().into_response(), hop::name_header(owner))
}

fn table_in_path(request: &Request) -> Option<TableName> {
    let scope = request.extensions().get::<RequestScope>()?;
    TableName::parse(&scope.named(request.uri(), 0).ok()?).ok()
}

fn group_in_path(scope: &RequestScope, uri: &Uri) -> Option<GroupName> {
    GroupName::parse(&scope.named(uri, 0).ok()?).ok()
}

/// The one table that a query names.
fn table_in_query(request: &Request) -> Option<TableName> {
    let mut names = query(request.uri()).into_iter().filter(|(name, _)| name == "table" || name == "topic");
    match (names.next(), names.next()) {
        (Some((_, table)), None) => TableName::parse(&table).ok(),
        _ => None,
    }
}

/// The parameters of a query; none if it cannot be read.
fn query(uri: &Uri) -> Vec<(String, String)> {
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    query.map(|axum::extract::Query(pairs)| pairs).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use cold_s3::cluster::ClusterRecord;
    use contracts::error::Overload;

    use super::{
        gather::tests::NoLogs,
        store::tests::{answering, code},
        *,
    };
    use crate::{
        auth::{caller::Caller, gate::tests::gate, principal::Principal},
        cluster::{
            copies::OwnCopy,
            owners::{Owners, OwnersParts, ShardLogs},
            settings::ClusterSettings,
        },
        http::scope::PathParameters,
        net::tls::settings::TlsSettings,
    };

    /// The way to the shard of a cluster with one, as a pod has it, by these logs and its own copies.
    pub(super) fn of_one_shard(
        settings: ClusterSettings,
        own: u32,
        logs: Arc<dyn ShardLogs>,
        copies: Vec<Arc<OwnCopy>>,
    ) -> Arc<Shards> {
        let settings = ClusterSettings { shards: 1, ..settings };
        let cluster = Cluster::new(&settings, ClusterRecord::new(settings.shape()), own, None);
        let (fresh_for, patience, silence) =
            (Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(6));
        let owners = OwnersParts { own, shards: 1, logs, copies, fresh_for, patience, silence };
        drop(cluster.owners.set(Owners::new(owners)));
        let client = PodClient::new(&settings, &TlsSettings::default()).unwrap();
        let parts = ShardParts {
            limits: Arc::new(Limits::default()),
            inflight: Budget::new(1 << 20, 100, Overload::Memory),
            responses: Budget::new(1 << 20, 100, Overload::Answers),
            stopping: CancellationToken::new(),
            confirm_timeout: Some(Duration::from_secs(2)),
        };
        Arc::new(Shards::new(Arc::new(cluster), Arc::new(client), parts))
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_read_a_table_does_not_hear_whether_anybody_owns_it() {
        let policy =
            "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: consumer, tables: [orders]}\n";
        let gate = gate(policy);
        let stores = ShardStores::Owned { spare: Arc::new(()), stores: [].into() };
        let route = RouteReach { path: "/tables/{table}", verb: Verb::Read, reach: Reach::Table };
        let shards = of_one_shard(ClusterSettings::default(), 0, Arc::new(NoLogs), Vec::new());
        let endpoint = shards.endpoint(route, &stores, answering(|| "an owner".into_response()));
        for (table, expected) in [("orders", Code::LogUnavailable), ("payroll", Code::Forbidden)] {
            let mut request = Request::new(axum::body::Body::empty());
            *request.uri_mut() = format!("/tables/{table}").parse().unwrap();
            let path = request.uri().path();
            let scope = RequestScope {
                parameters: PathParameters::of(path, path.rsplit('/').take(1)),
                caller: Caller::passed_on(&gate, Principal::Token("ci".to_owned()), Verb::Read),
                ..RequestScope::default()
            };
            request.extensions_mut().insert(scope);
            assert_eq!(code(&endpoint(request).await), Some(expected), "{table}");
        }
    }
}

//! The cluster as a pod sees it: which pod has which shard, and how shards with logs are; and their moves.

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use crate::{
    cluster::{Cluster, copies::OwnCopy, pod_name},
    http::{
        body::Incoming,
        code::Code,
        error::{PROBLEM_JSON, Problem, ProblemShown},
        json_body,
        limits::Limits,
        params::{NoParams, Params},
        scope::RequestScope,
        state::OpsState,
    },
};

/// A cluster.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClusterShown {
    /// Its name for good.
    #[schema(value_type = String)]
    pub cluster: uuid::Uuid,
    /// The pod that answers.
    pub pod: String,
    /// How many pods have each shard.
    pub copies: u32,
    /// The pods, in order.
    pub pods: Vec<PodShown>,
    /// The shards, in order.
    pub shards: Vec<ShardShown>,
}

/// A pod of a cluster.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PodShown {
    /// Its name.
    pub pod: String,
    /// Where other pods reach it.
    pub address: String,
    /// How many shards it owns.
    pub owned: usize,
}

/// A shard of a cluster.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShardShown {
    /// Its number.
    pub shard: u32,
    /// The pod that owns it; none while no copy does, or while this pod cannot tell.
    pub owner: Option<String>,
    /// The pods that have it, the one that should own it first.
    pub copies: Vec<String>,
    /// How this pod's copy is, where shards have logs and this pod has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyShown>,
}

/// How a copy of a shard is, which follows the shard's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CopyShown {
    /// The term in force, as far as the log is applied.
    pub term: u64,
    /// The last entry of the log that is applied.
    pub applied: u64,
    /// Entries of the log that are not applied, when the log was last asked.
    pub lag: Option<u64>,
    /// Whether it has reached the end of the log since the pod began.
    pub has_caught_up: bool,
    /// Why it follows no more, if so.
    pub stopped: Option<String>,
    /// The first entry that the log still has: those before it were trimmed.
    pub log_first: Option<u64>,
    /// Bytes of the log.
    pub log_bytes: Option<u64>,
    /// The most bytes that it may have.
    pub log_max_bytes: Option<u64>,
}

impl CopyShown {
    fn of(copy: &OwnCopy) -> Self {
        let (status, size) = (copy.status(), copy.copy().log_size());
        Self {
            term: status.mark.term,
            applied: status.mark.applied,
            lag: size.map(|size| size.last.0.saturating_sub(status.mark.applied)),
            has_caught_up: status.has_caught_up,
            stopped: copy.stopped().map(str::to_owned),
            log_first: size.map(|size| size.first.0),
            log_bytes: size.map(|size| size.bytes),
            log_max_bytes: size.map(|size| size.max_bytes),
        }
    }
}

/// Where a shard is to go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveSent {
    /// The pod.
    pub to: Option<String>,
}

/// What was begun.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MoveShown {
    /// The shard.
    pub shard: u32,
    /// The pod that it is yielded to.
    pub to: String,
}

/// Show which pod has which shard.
#[utoipa::path(
    get,
    path = "/cluster",
    tag = "operations",
    responses(
        (status = 200, description = "Pods and shards", body = ClusterShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn cluster(
    State(ops): State<OpsState>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<ClusterShown>, Problem> {
    let cluster = known(&ops)?;
    let owners = cluster.owner_of_each().await;
    let owned = |pod: u32| owners.iter().filter(|owner| **owner == Some(pod)).count();
    let pods = (0_u32..).zip(&cluster.addresses).map(|(pod, address)| PodShown {
        pod: pod_name(pod),
        address: address.clone(),
        owned: owned(pod),
    });
    let copy = |shard| Some(CopyShown::of(cluster.owners.get()?.copy_of(shard)?));
    let shards = (0_u32..).zip(&owners).map(|(shard, owner)| ShardShown {
        shard,
        owner: owner.map(pod_name),
        copies: cluster.copies_of(shard).iter().map(|pod| pod_name(*pod)).collect(),
        copy: copy(shard),
    });
    Ok(Json(ClusterShown {
        cluster: cluster.record.cluster,
        pod: pod_name(cluster.own),
        copies: cluster.record.copies,
        pods: pods.collect(),
        shards: shards.collect(),
    }))
}

/// The cluster, if this is a pod of one.
fn known(ops: &OpsState) -> Result<&Cluster, Problem> {
    let detail = "this is one Zombi (cluster.pods is 0), or the bucket has not said yet what the cluster is";
    let cluster = ops.cluster.get().map(|cluster| &**cluster);
    cluster.ok_or_else(|| Problem::new(Code::UnknownRoute, detail))
}

/// The `{shard}` of a path; `None` if it is no number.
#[derive(Debug)]
pub(crate) struct ShardPath(Option<u32>);

impl<S: Send + Sync> FromRequestParts<S> for ShardPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(Self(RequestScope::parameter(parts, 0)?.parse().ok()))
    }
}

/// Bytes of a request for a move.
const MOVE_BYTES: usize = 4096;

/// Have a shard with a log go to another of its pods: `{"to": "zombi-1"}`, or the next one. Its owner is
/// asked; `GET /cluster` says who that is, and when it has gone.
#[utoipa::path(
    post,
    path = "/cluster/shards/{shard}/move",
    tag = "operations",
    params(("shard" = u32, Path, description = "The shard")),
    responses(
        (status = 202, description = "The shard is being yielded", body = MoveShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn move_shard(
    State(ops): State<OpsState>,
    ShardPath(shard): ShardPath,
    Params(NoParams {}): Params<NoParams>,
    incoming: Incoming,
) -> Result<(StatusCode, Json<MoveShown>), Problem> {
    let cluster = known(&ops)?;
    let limits = Limits { body_bytes: MOVE_BYTES, decoded_body_bytes: MOVE_BYTES, ..Limits::default() };
    let (body, _share) = incoming.receive(&limits, &ops.inflight).await?;
    let MoveSent { to } = json_body::parse(&body)?;
    let owners = cluster.owners.get();
    let Some((shard, owners)) = shard.filter(|shard| *shard < cluster.record.shards).zip(owners) else {
        let detail = "there is no such shard, or it has no log (cluster.copies is 1), or is not open yet";
        return Err(Problem::new(Code::UnknownRoute, detail));
    };
    let copy = owners.copy_of(shard).filter(|copy| copy.status().owned_term.is_some());
    let Some(copy) = copy else {
        let owner = owners.owner(shard).await.ok().flatten();
        let owner = owner.map_or_else(|| "nobody that is known here".to_owned(), pod_name);
        let detail = format!("the shard is owned by {owner}, and only its owner can yield it");
        return Err(Problem::new(Code::Moved, detail));
    };
    let Some(to) = copy.copy().hand_over(to.as_deref()).map(str::to_owned) else {
        let copies: Vec<String> = cluster.copies_of(shard).iter().map(|pod| pod_name(*pod)).collect();
        let detail = format!("the shard is on {}: it can only go to another of them", copies.join(", "));
        return Err(Problem::new(Code::BadRequest, detail));
    };
    info!(shard, to, "the shard is yielded, as was asked for");
    Ok((StatusCode::ACCEPTED, Json(MoveShown { shard, to })))
}

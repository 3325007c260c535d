//! The cluster as a pod sees it: which pod has which shard, and how shards with logs are; and their moves.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use futures_util::future::{join_all, join3};
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use crate::{
    cluster::{
        Cluster, PodsWanted,
        copies::OwnCopy,
        heirs::{Heir, ReadyPods},
        owners::{Owners, ShardLogStatus},
        pod_name, pod_number,
    },
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
use contracts::{
    error::StorageError,
    shared_log::{LogSeq, LogSize},
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
    /// The pod that owns it; null while no copy does, or while this pod cannot tell.
    #[schema(required = true)]
    pub owner: Option<String>,
    /// Whether this pod can tell who owns it, or that nobody does.
    pub is_owner_known: bool,
    /// The last term that has begun in the shard's log; left out where there are no logs, or if nobody says
    /// it in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub term: Option<u64>,
    /// Bytes of the shard's log. Left out as `term`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub log_bytes: Option<u64>,
    /// The last entry that was trimmed from it, as S3 holds what it says; 0 before the first trim. Left out
    /// as `term`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub log_trimmed: Option<u64>,
    /// The pods that have it, the one that should own it first.
    pub copies: Vec<String>,
    /// How far each of them has applied the shard's log, in the same order; left out where there are no logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub lags: Vec<CopyLagShown>,
    /// How this pod's copy is, where shards have logs and this pod has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub copy: Option<CopyShown>,
}

/// How far a copy of a shard has applied the shard's log.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct CopyLagShown {
    /// The pod that has it.
    pub pod: String,
    /// The last entry that it has applied; null if the pod did not say so in time, or its copy has stopped.
    #[schema(required = true)]
    pub applied: Option<u64>,
    /// Entries that it has not applied, as far as any of the pods knows; null as `applied`.
    #[schema(required = true)]
    pub lag: Option<u64>,
}

/// How a copy of a shard is, which follows the shard's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CopyShown {
    /// The term in force, as far as the log is applied.
    pub term: u64,
    /// The last entry of the log that is applied.
    pub applied: u64,
    /// Entries of the log that are not applied, when the log was last asked; null if it never answered.
    #[schema(required = true)]
    pub lag: Option<u64>,
    /// Whether it has reached the end of the log since the pod began.
    pub has_caught_up: bool,
    /// Why it follows no more; null if it does.
    #[schema(required = true)]
    pub stopped: Option<String>,
    /// The first entry that the log still has: those before it were trimmed. Null as `lag`.
    #[schema(required = true)]
    pub log_first: Option<u64>,
    /// The last entry that was trimmed, as S3 holds what it says; 0 before the first trim. Null as `lag`.
    #[schema(required = true)]
    pub log_trimmed: Option<u64>,
    /// Bytes of the log. Null as `lag`.
    #[schema(required = true)]
    pub log_bytes: Option<u64>,
    /// The most bytes that it may have. Null as `lag`.
    #[schema(required = true)]
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
            log_trimmed: size.map(trimmed),
            log_bytes: size.map(|size| size.bytes),
            log_max_bytes: size.map(|size| size.max_bytes),
        }
    }
}

/// The last entry that was trimmed from a log.
fn trimmed(size: LogSize) -> u64 {
    size.first.0.saturating_sub(1)
}

/// How the logs of all shards are, in their order; none where shards have no logs.
async fn logs_of(cluster: &Cluster) -> Vec<Option<ShardLogStatus>> {
    let Some(owners) = cluster.owners.get() else { return Vec::new() };
    join_all((0..cluster.record.shards).map(|shard| owners.log_of(shard))).await
}

/// How far the copies of shards are, by pod and shard.
type AppliedByPod = BTreeMap<u32, BTreeMap<u32, LogSeq>>;

/// Asks all pods how far they are, all at once; nothing where shards have no logs.
async fn applied_by_all(ops: &OpsState, cluster: &Cluster) -> AppliedByPod {
    let Some((others, owners)) = ops.pods.get().zip(cluster.owners.get()) else {
        return AppliedByPod::new();
    };
    let pods = (0_u32..).zip(&cluster.addresses).map(|(pod, _)| pod);
    let asked = pods.map(|pod| async move {
        let is_own = pod == cluster.own;
        let applied =
            if is_own { owners.applied().collect() } else { others.applied_by(pod, PodsWanted::Any).await };
        (pod, applied)
    });
    join_all(asked).await.into_iter().collect()
}

/// How far each of a shard's copies is, whose log ends with `last` as far as this pod knows.
fn lags((shard, copies): (u32, &[u32]), applied: &AppliedByPod, last: u64) -> Vec<CopyLagShown> {
    if applied.is_empty() {
        return Vec::new();
    }
    let applied: Vec<Option<u64>> = copies.iter().map(|pod| Some(applied.get(pod)?.get(&shard)?.0)).collect();
    let last = applied.iter().flatten().copied().max().unwrap_or(0).max(last);
    let shown = copies.iter().zip(applied).map(|(pod, applied)| CopyLagShown {
        pod: pod_name(*pod),
        applied,
        lag: applied.map(|applied| last - applied),
    });
    shown.collect()
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
    let asked = join3(cluster.owner_of_each(), applied_by_all(&ops, cluster), logs_of(cluster));
    let (owners, applied, logs) = asked.await;
    let owned =
        |pod: u32| owners.iter().filter(|owner| matches!(owner, Ok(Some(owner)) if *owner == pod)).count();
    let pods = (0_u32..).zip(&cluster.addresses).map(|(pod, address)| PodShown {
        pod: pod_name(pod),
        address: address.clone(),
        owned: owned(pod),
    });
    let shards = (0_u32..).zip(&owners).map(|(shard, owner)| {
        let copies = cluster.copies_of(shard);
        let copy = cluster.owners.get().and_then(|owners| owners.copy_of(shard));
        let log = logs.get(shard as usize).copied().flatten();
        let last = log.map_or(0, |log| log.size.last.0);
        ShardShown {
            shard,
            owner: owner.as_ref().ok().copied().flatten().map(pod_name),
            is_owner_known: owner.is_ok(),
            term: log.map(|log| log.term),
            log_bytes: log.map(|log| log.size.bytes),
            log_trimmed: log.map(|log| trimmed(log.size)),
            copies: copies.iter().map(|pod| pod_name(*pod)).collect(),
            lags: lags((shard, copies), &applied, last),
            copy: copy.map(|copy| CopyShown::of(copy)),
        }
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

/// When somebody may ask again whose shard nobody can take.
const READY_SOON: Duration = Duration::from_secs(5);

/// Bytes of a request for a move.
const MOVE_BYTES: usize = 4096;

/// Have a shard with a log go to another of its pods: `{"to": "zombi-1"}`, or the one nearest the log's end.
///
/// Any pod passes it on to the owner; the admin port of another pod does not. `to` must be ready.
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
    let limits = Limits { body_bytes: MOVE_BYTES, decoded_body_bytes: MOVE_BYTES, ..ops.limits };
    let (body, _share) = incoming.receive(&limits, &ops.inflight).await?;
    let MoveSent { to } = json_body::parse(&body)?;
    let owners = cluster.owners.get();
    let Some((shard, owners)) = shard.filter(|shard| *shard < cluster.record.shards).zip(owners) else {
        let detail = "there is no such shard, or it has no log (cluster.copies is 1), or is not open yet";
        return Err(Problem::new(Code::UnknownRoute, detail));
    };
    let copy = owners.copy_of(shard).filter(|copy| copy.status().owned_term.is_some());
    let Some(copy) = copy else {
        return Err(not_here(owners, shard).await);
    };
    let to = pod_name(heir(&ops, (cluster, shard), to.as_deref()).await?.pod);
    copy.copy().hand_over(Some(&to));
    info!(shard, to, "the shard is yielded, as was asked for");
    Ok((StatusCode::ACCEPTED, Json(MoveShown { shard, to })))
}

/// Why this pod cannot yield a shard that it does not own.
async fn not_here(owners: &Owners, shard: u32) -> Problem {
    match owners.owner(shard).await {
        Ok(Some(owner)) => {
            let owner = pod_name(owner);
            let detail = format!("the shard is owned by {owner}, and only its owner can yield it");
            Problem::new(Code::Moved, detail).with("owner", owner).not_written()
        }
        Ok(None) => Problem::from(StorageError::NoOwner),
        Err(error) => {
            let detail = format!("nobody can tell who owns the shard: {error}");
            Problem::new(Code::LogUnavailable, detail).not_written().retry_after(READY_SOON)
        }
    }
}

/// The pod that a shard of this pod goes to, which must be ready: nobody would own the shard while others
/// wait for it.
///
/// # Errors
/// `bad_request` if it is no other pod with a copy of the shard; `forward_failed` if it, or every one of
/// them, is not ready.
async fn heir(ops: &OpsState, (cluster, shard): (&Cluster, u32), to: Option<&str>) -> Result<Heir, Problem> {
    let copies = cluster.copies_of(shard);
    let mut others: Vec<u32> = copies.iter().copied().filter(|pod| *pod != cluster.own).collect();
    if let Some(to) = to {
        others.retain(|pod| pod_number(to) == Some(*pod));
    }
    let names = |pods: &[u32]| pods.iter().map(|pod| pod_name(*pod)).collect::<Vec<_>>().join(", ");
    if others.is_empty() {
        let detail = format!("the shard is on {}: it can only go to another of them", names(copies));
        return Err(Problem::new(Code::BadRequest, detail));
    }
    let ready = match ops.pods.get() {
        Some(pods) => ReadyPods::among(others.iter().copied(), pods.as_ref()).await,
        None => ReadyPods::default(),
    };
    ready.heir(shard, &others).ok_or_else(|| {
        let detail =
            format!("{} must be ready, and is not: the shard stays where it is", names(others.as_slice()));
        let problem = Problem::new(Code::ForwardFailed, detail).with("pod", names(others.as_slice()));
        problem.not_written().retry_after(READY_SOON)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;
    use crate::cluster::{
        copies::tests::OwnedCopy,
        owners::{OwnersParts, tests::LogOfCopy},
    };

    #[tokio::test(start_paused = true)]
    async fn whoever_cannot_yield_a_shard_names_its_owner_for_programs_too() {
        let owned = OwnedCopy::new().await;
        let owners = Owners::new(OwnersParts {
            own: 1,
            shards: 1,
            logs: Arc::new(LogOfCopy(owned.log.handle())),
            copies: Vec::new(),
            fresh_for: Duration::from_secs(1),
            patience: Duration::from_secs(2),
            silence: Duration::from_secs(6),
        });
        let refusal = not_here(&owners, 0).await.render("an-id", true);
        let told = refusal.into_body().collect().await.unwrap();
        let told: Value = serde_json::from_slice(&told.to_bytes()).unwrap();
        assert_eq!(told["code"], "moved", "{told}");
        assert_eq!(told["owner"], "zombi-0", "{told}");
    }

    #[test]
    fn every_copy_of_a_shard_is_shown_with_its_lag() {
        let seqs = |seqs: &[(u32, u64)]| seqs.iter().map(|(shard, seq)| (*shard, LogSeq(*seq))).collect();
        let applied =
            AppliedByPod::from([(0, seqs(&[(3, 90), (4, 7)])), (1, seqs(&[(3, 100)])), (2, seqs(&[]))]);
        let lag = |pod: &str, lag: Option<(u64, u64)>| CopyLagShown {
            pod: pod.to_owned(),
            applied: lag.map(|(applied, _)| applied),
            lag: lag.map(|(_, lag)| lag),
        };
        let expected = [lag("zombi-1", Some((100, 0))), lag("zombi-2", None), lag("zombi-0", Some((90, 10)))];
        assert_eq!(lags((3, &[1, 2, 0]), &applied, 0), expected);
        assert_eq!(lags((3, &[0]), &applied, 120), [lag("zombi-0", Some((90, 30)))], "the log says more");
        assert_eq!(lags((3, &[1, 0]), &AppliedByPod::new(), 0), [], "there is no log");
    }
}

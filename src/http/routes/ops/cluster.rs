//! The cluster as a pod sees it: which pod has which shard.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    cluster::pod_name,
    http::{
        code::Code,
        error::{PROBLEM_JSON, Problem, ProblemShown},
        params::{NoParams, Params},
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
    /// The pod that owns it.
    pub owner: String,
    /// The pods that have it, the owner first.
    pub copies: Vec<String>,
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
    let Some(cluster) = ops.cluster.get() else {
        let detail =
            "this is one Zombi (cluster.pods is 0), or the bucket has not said yet what the cluster is";
        return Err(Problem::new(Code::UnknownRoute, detail));
    };
    let counts = cluster.counts();
    let pods = (0_u32..).zip(&cluster.addresses).map(|(pod, address)| PodShown {
        pod: pod_name(pod),
        address: address.clone(),
        owned: counts.get(&pod).copied().unwrap_or(0),
    });
    let shards = (0..cluster.record.shards).map(|shard| ShardShown {
        shard,
        owner: pod_name(cluster.owner_of(shard)),
        copies: cluster.copies_of(shard).iter().map(|pod| pod_name(*pod)).collect(),
    });
    Ok(Json(ClusterShown {
        cluster: cluster.record.cluster,
        pod: pod_name(cluster.own),
        copies: cluster.record.copies,
        pods: pods.collect(),
        shards: shards.collect(),
    }))
}

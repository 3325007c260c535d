//! Who is asked for what all shards together have: each shard once, by the pod that owns it.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, request::Parts};
use futures_util::future::join_all;

use super::{
    ShardedRoute, hop,
    reach::Gathered,
    store::{ShardHandlers, nobody_owns},
};
use crate::http::{code::Code, error::Problem};

/// The place of the store that belongs to no shard.
pub(super) const SPARE: usize = usize::MAX;

/// Who is asked.
pub(super) struct AskedShards {
    /// The stores of this pod, by their places.
    pub(super) places: Vec<usize>,
    /// The other pods.
    pub(super) others: Vec<AskedPod>,
    /// Why nobody is asked for a shard, if there is such a one and the others are asked all the same.
    pub(super) ownerless: Option<Problem>,
}

/// Another pod that is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AskedPod {
    pub(super) pod: u32,
    /// For which shards; `None` for all that are bound to it.
    pub(super) shards: Option<HeaderValue>,
}

impl ShardedRoute {
    /// Who is to be asked for a list.
    ///
    /// # Errors
    /// 503 if nobody owns one of the shards, but for counts, which show that; 421 if another pod asks for
    /// shards that this one does not own.
    pub(super) async fn asked(
        &self,
        what: Gathered,
        parts: &Parts,
        is_passed_on: bool,
    ) -> Result<AskedShards, Problem> {
        if matches!(self.here, ShardHandlers::Bound(_)) {
            let pods = if is_passed_on { Vec::new() } else { self.shards.cluster.others() };
            let others = pods.into_iter().map(|pod| AskedPod { pod, shards: None }).collect();
            return Ok(AskedShards { places: (0..self.here.count()).collect(), others, ownerless: None });
        }
        if is_passed_on {
            let wanted = parts.headers.get(hop::SHARDS).and_then(|shards| shards.to_str().ok());
            let places = self.own_places(wanted.unwrap_or_default()).await?;
            return Ok(AskedShards { places, others: Vec::new(), ownerless: None });
        }
        let shards = 0..self.shards.cluster.record.shards;
        let owners = join_all(shards.map(|shard| async move { (shard, self.shards.owner(shard).await) }));
        let mut asked = AskedShards { places: Vec::new(), others: Vec::new(), ownerless: None };
        let mut by_pod: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (shard, owner) in owners.await {
            match owner {
                Ok(pod) if pod == self.shards.cluster.own => asked.places.extend(self.place_of(shard)),
                Ok(pod) => by_pod.entry(pod).or_default().push(shard),
                Err(problem) if what == Gathered::Stats => asked.ownerless = Some(problem),
                Err(problem) => return Err(problem),
            }
        }
        if asked.places.is_empty() && what == Gathered::Stats {
            asked.places.push(SPARE); // for what is counted for the whole pod
        }
        asked.others = by_pod.into_iter().map(|(pod, shards)| AskedPod::of_shards(pod, &shards)).collect();
        Ok(asked)
    }

    /// The place of the store of one of this pod's shards.
    fn place_of(&self, shard: u32) -> Option<usize> {
        self.shards.own.binary_search(&shard).ok()
    }

    /// The places of the shards that another pod asks for, all of which this pod must own.
    async fn own_places(&self, wanted: &str) -> Result<Vec<usize>, Problem> {
        let mut places = Vec::new();
        for number in wanted.split(',') {
            let Ok(shard) = number.parse() else {
                let detail = format!("a pod asks for shards by their numbers, and not for {number:?}");
                return Err(Problem::new(Code::BadRequest, detail));
            };
            match self.shards.owner(shard).await? {
                pod if pod == self.shards.cluster.own => {}
                _ => return Err(nobody_owns()),
            }
            places.extend(self.place_of(shard));
        }
        Ok(places)
    }
}

impl AskedPod {
    /// A pod that owns these shards.
    fn of_shards(pod: u32, shards: &[u32]) -> Self {
        let numbers: Vec<String> = shards.iter().map(u32::to_string).collect();
        Self { pod, shards: HeaderValue::from_str(&numbers.join(",")).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_asked_for_its_shards_by_their_numbers() {
        let asked = AskedPod::of_shards(2, &[0, 3, 11]);
        assert_eq!(asked, AskedPod { pod: 2, shards: Some(HeaderValue::from_static("0,3,11")) });
    }
}

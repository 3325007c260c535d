//! Chooses whom to ask for what all shards have together: for each shard its owner, and each pod once.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, request::Parts};
use futures_util::future::join_all;

use super::{ShardedRoute, hop, reach::Gathered, store::ShardHandlers};
use crate::http::{code::Code, error::Problem};

/// The place of the store that belongs to no shard.
pub(super) const SPARE: usize = usize::MAX;

/// Who is asked.
#[derive(Default)]
pub(super) struct AskedShards {
    /// The stores of this pod, by their places.
    pub(super) places: Vec<usize>,
    /// The other pods.
    pub(super) others: Vec<AskedPod>,
    /// The shards for which nobody can be asked, and why.
    pub(super) ownerless: Vec<(u32, Problem)>,
    /// A shard for which another pod asks this one, and the pod that owns it instead: nobody is asked then.
    pub(super) moved: Option<(u32, u32)>,
}

/// Another pod that is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AskedPod {
    pub(super) pod: u32,
    /// For which shards; none for all that are bound to it.
    pub(super) shards: Vec<u32>,
}

impl ShardedRoute {
    /// Who is to be asked for a list.
    ///
    /// # Errors
    /// 400 if another pod asks for shards and does not say for which.
    pub(super) async fn asked(
        &self,
        what: Gathered,
        parts: &Parts,
        is_passed_on: bool,
    ) -> Result<AskedShards, Problem> {
        if matches!(self.here, ShardHandlers::Bound(_)) {
            let pods = if is_passed_on { Vec::new() } else { self.shards.cluster.others() };
            let others = pods.into_iter().map(|pod| AskedPod { pod, shards: Vec::new() }).collect();
            return Ok(AskedShards {
                places: (0..self.here.count()).collect(),
                others,
                ..AskedShards::default()
            });
        }
        let shards = self.shards.cluster.record.shards;
        let wanted = if is_passed_on { wanted(parts, shards)? } else { (0..shards).collect() };
        let mut asked = self.asked_for(wanted).await;
        if is_passed_on {
            asked.moved = owned_elsewhere(&asked.others);
        }
        if what == Gathered::Stats {
            asked.places.insert(0, SPARE); // for what is counted for the whole pod
        }
        Ok(asked)
    }

    /// Who is to be asked for what these shards have, each of which has a log.
    pub(super) async fn asked_for(&self, shards: Vec<u32>) -> AskedShards {
        let shards = shards.into_iter();
        let owners = join_all(shards.map(|shard| async move { (shard, self.shards.owner(shard).await) }));
        let mut asked = AskedShards::default();
        let mut by_pod: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (shard, owner) in owners.await {
            match owner {
                Ok(pod) if pod == self.shards.cluster.own => asked.places.extend(self.place_of(shard)),
                Ok(pod) => by_pod.entry(pod).or_default().push(shard),
                Err(problem) => asked.ownerless.push((shard, problem)),
            }
        }
        asked.others = by_pod.into_iter().map(|(pod, shards)| AskedPod { pod, shards }).collect();
        asked
    }

    /// The place of the store of one of this pod's shards.
    fn place_of(&self, shard: u32) -> Option<usize> {
        self.shards.own.binary_search(&shard).ok()
    }
}

/// The shards that another pod asks for, of so many.
///
/// # Errors
/// 400 if it does not say which those are.
fn wanted(parts: &Parts, shards: u32) -> Result<Vec<u32>, Problem> {
    let wanted = parts.headers.get(hop::SHARDS).and_then(|shards| shards.to_str().ok()).unwrap_or_default();
    let number = |number: &str| {
        let known = number.parse::<u32>().ok().filter(|number| *number < shards);
        known.ok_or_else(|| {
            let detail = format!("a pod asks for shards by their numbers, and not for {number:?}");
            Problem::new(Code::BadRequest, detail)
        })
    };
    wanted.split(',').map(number).collect()
}

/// How a pod is told for which shards it is asked; `None` for all that are bound to it.
pub(super) fn header_of(shards: &[u32]) -> Option<HeaderValue> {
    let numbers: Vec<String> = shards.iter().map(u32::to_string).collect();
    HeaderValue::from_str(&numbers.join(",")).ok().filter(|header| !header.is_empty())
}

/// The first of the shards that this pod is asked for and does not own, and the pod that owns it.
fn owned_elsewhere(others: &[AskedPod]) -> Option<(u32, u32)> {
    let owned = others.iter().flat_map(|asked| asked.shards.iter().map(|shard| (*shard, asked.pod)));
    owned.min()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};

    use super::*;

    fn asking(shards: Option<HeaderValue>) -> Parts {
        let (mut parts, _) = Request::new(Body::empty()).into_parts();
        parts.headers.extend(shards.map(|shards| (hop::SHARDS, shards)));
        parts
    }

    #[test]
    fn a_pod_is_asked_for_its_shards_by_their_numbers() {
        let header = header_of(&[0, 3, 11]);
        assert_eq!(header, Some(HeaderValue::from_static("0,3,11")));
        assert_eq!(wanted(&asking(header), 12).unwrap(), [0, 3, 11]);
        assert_eq!(header_of(&[]), None);
        for bad in ["", "1,", "x", "-1", "12", "3,999"] {
            let refused = wanted(&asking(Some(HeaderValue::from_static(bad))), 12).unwrap_err();
            assert_eq!(refused.code(), Code::BadRequest, "{bad}");
        }
        assert!(wanted(&asking(None), 12).is_err());
    }

    #[test]
    fn a_pod_that_is_asked_for_what_it_does_not_own_names_the_owner() {
        let asked = |pod, shards: &[u32]| AskedPod { pod, shards: shards.to_vec() };
        assert_eq!(owned_elsewhere(&[]), None);
        assert_eq!(owned_elsewhere(&[asked(1, &[7, 9]), asked(2, &[3])]), Some((3, 2)));
    }
}

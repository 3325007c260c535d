//! Which pods have which shard: rendezvous hashing with a cap. Pure, and the same in every pod for ever.
//!
//! A pod that is added takes shards of others, and nothing moves between those. Plain rendezvous would deal
//! twelve shards to three pods as 9, 2 and 1, so each pod may have its part and no more.

use sha2::{Digest, Sha256};

use super::pods::pod_name;

/// How much a shard is drawn to a pod: the first eight bytes of the SHA-256 of `SHARD/zombi-POD`.
fn draw(shard: u32, pod: u32) -> u64 {
    let digest = Sha256::digest(format!("{shard}/{}", pod_name(pod)).as_bytes());
    digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// For each shard the numbers of the pods that have it, its owner first.
///
/// No pod gets more than its part of the copies, nor of the shards to own; shards are dealt in order of their
/// numbers, all owners before the further copies. Where that leaves no other pod for a copy, the one with the
/// fewest takes it, one above its part.
pub(crate) fn place(shards: u32, pods: u32, copies: u32) -> Vec<Vec<u32>> {
    let copies = copies.min(pods);
    let most_copies = (u64::from(shards) * u64::from(copies)).div_ceil(u64::from(pods.max(1)));
    let most_owned = u64::from(shards.div_ceil(pods.max(1)));
    let (mut held, mut owned) = (vec![0_u64; pods as usize], vec![0_u64; pods as usize]);
    let mut placed: Vec<Vec<u32>> = vec![Vec::new(); shards as usize];
    for rank in 0..copies {
        for (shard, pods_of) in (0..shards).zip(&mut placed) {
            let mut others: Vec<u32> = (0..pods).filter(|pod| !pods_of.contains(pod)).collect();
            others.sort_by_key(|pod| (std::cmp::Reverse(draw(shard, *pod)), *pod));
            let has_room = |pod: &&u32| {
                let at = **pod as usize;
                held[at] < most_copies && (rank > 0 || owned[at] < most_owned)
            };
            let fewest = || others.iter().min_by_key(|pod| held[**pod as usize]);
            let Some(pod) = others.iter().find(has_room).or_else(fewest).copied() else { continue };
            held[pod as usize] += 1;
            owned[pod as usize] += u64::from(rank == 0);
            pods_of.push(pod);
        }
    }
    placed
}

/// The shards that another pod has when there are `to` pods, and not `from` any more. Each has one pod.
pub(crate) fn moving(shards: u32, from: u32, to: u32) -> Vec<u32> {
    let (before, after) = (place(shards, from, 1), place(shards, to, 1));
    (0..shards)
        .zip(before.iter().zip(&after))
        .filter(|(_, (one, other))| one != other)
        .map(|(n, _)| n)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owners(shards: u32, pods: u32) -> Vec<u32> {
        place(shards, pods, 1).into_iter().map(|pods| pods[0]).collect()
    }

    /// Once and for all: a shard whose pod changes is lost from sight.
    #[test]
    fn a_shard_is_where_it_always_was() {
        assert_eq!(owners(12, 1), [0; 12]);
        assert_eq!(owners(12, 3), [0, 2, 2, 0, 1, 2, 1, 0, 2, 0, 1, 1]);
        assert_eq!(owners(12, 4), [0, 2, 3, 0, 3, 2, 1, 0, 2, 3, 1, 1]);
        assert_eq!(owners(5, 3), [0, 2, 2, 0, 1]);
        let of_two =
            [[0, 2], [2, 1], [2, 1], [0, 2], [1, 0], [2, 1], [1, 2], [0, 1], [2, 0], [0, 2], [1, 0], [1, 0]];
        assert_eq!(place(12, 3, 2), of_two);
        assert_eq!(moving(12, 3, 4), [2, 4, 9]);
        assert_eq!(moving(12, 3, 3), [0; 0]);
    }

    proptest! {
        #[test]
        fn every_shard_has_its_pods_and_no_pod_more_than_its_part(
            shards in 1_u32..60,
            pods in 1_u32..8,
            copies in 1_u32..4,
        ) {
            let placed = place(shards, pods, copies);
            prop_assert_eq!(placed.len(), shards as usize);
            let copies = copies.min(pods);
            for pods_of in &placed {
                let mut apart = pods_of.clone();
                apart.sort_unstable();
                apart.dedup();
                prop_assert_eq!((pods_of.len(), apart.len()), (copies as usize, copies as usize));
            }
            for pod in 0..pods {
                let owned = placed.iter().filter(|pods_of| pods_of[0] == pod).count();
                prop_assert!(owned <= shards.div_ceil(pods) as usize);
                // Where no other pod is left, one takes a copy above its part; that may happen to it twice.
                let held = placed.iter().filter(|pods_of| pods_of.contains(&pod)).count();
                prop_assert!(held <= (shards * copies).div_ceil(pods) as usize + 2);
            }
        }
    }
}

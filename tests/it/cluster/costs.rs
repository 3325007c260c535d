//! What a shard costs by itself: memory and descriptors of a pod with twelve of them, beside one Zombi.

use testing::{TestServer, cluster::join_them, process::resident_bytes};

use super::append;

const SHARDS: u32 = 12;
/// The most that a shard without events may take beyond what one Zombi takes.
const BYTES: u64 = 16 << 20;
const DESCRIPTORS: usize = 64;

/// Memory and descriptors of a server that has a few tables.
async fn measured(server: &TestServer) -> (u64, usize) {
    for number in 0..3 * SHARDS {
        append(server, &format!("table-{number}"), 1).await;
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    (resident_bytes(server.pid()), descriptors)
}

#[tokio::test]
async fn a_shard_costs_little_by_itself() {
    let single = TestServer::start_tiered(&[]).await;
    let mut pods = [TestServer::tiered(&[]).await];
    join_them(&mut pods, SHARDS);
    pods[0].run().await;
    let (one, many) = (measured(&single).await, measured(&pods[0]).await);
    let shards = u64::from(SHARDS) - 1;
    let (bytes, descriptors) = (many.0.saturating_sub(one.0), many.1.saturating_sub(one.1));
    eprintln!(
        "one Zombi: {} KiB, {} descriptors; {SHARDS} shards: {} KiB, {} descriptors",
        one.0 >> 10,
        one.1,
        many.0 >> 10,
        many.1
    );
    assert!(bytes / shards < BYTES, "a shard takes {} KiB", (bytes / shards) >> 10);
    let descriptors = descriptors / usize::try_from(shards).unwrap();
    assert!(descriptors < DESCRIPTORS, "a shard takes {descriptors} descriptors");
}

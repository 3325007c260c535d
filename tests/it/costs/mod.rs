//! What things cost, in counts that depend on no clock and no machine: requests to S3, bytes, lines, events
//! looked at. `each` says what single things cost; the others, that nothing costs more for its age, or for
//! how much else there is.

mod counted;
mod each;
mod filters;
mod groups;
mod keys;
mod openings;
mod operations;
mod partitions;
mod segments;
mod tables;
mod waiters;

use std::{collections::BTreeMap, ops::Range};

use futures_util::{StreamExt, stream};

use self::operations::costs;
use testing::TestServer;

/// What is counted of each operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Count {
    AppendWritten,
    AppendRequests,
    ColdGets,
    ColdPuts,
    ColdLists,
    ColdManifest,
    ColdWritten,
    DeletePuts,
    DeleteManifest,
    DeleteWritten,
    PageGets,
    PageScanned,
    PageBytes,
    ReadyRequests,
    ReadyBytes,
    ScrapeRequests,
    ScrapeLines,
    RestartGets,
    RestartPuts,
    RestartLists,
}

/// By how much each varies by itself: numbers get digits, threads are woken or not, a LIST has a thousand
/// manifests, eviction drops whole files now and then, and a route has twenty lines in a scrape once it was
/// asked.
const VARIES: [(Count, usize); 20] = [
    (Count::AppendWritten, 128),
    (Count::AppendRequests, 0),
    (Count::ColdGets, 0),
    (Count::ColdPuts, 0),
    (Count::ColdLists, 0),
    (Count::ColdManifest, 64),
    (Count::ColdWritten, 32 << 10),
    (Count::DeletePuts, 0),
    (Count::DeleteManifest, 64),
    (Count::DeleteWritten, 512),
    (Count::PageGets, 0),
    (Count::PageScanned, 0),
    (Count::PageBytes, 64),
    (Count::ReadyRequests, 0),
    (Count::ReadyBytes, 0),
    (Count::ScrapeRequests, 0),
    (Count::ScrapeLines, 64),
    (Count::RestartGets, 1),
    (Count::RestartPuts, 2),
    (Count::RestartLists, 1),
];

/// What everything costs.
type Costs = BTreeMap<Count, usize>;

/// Nothing comes by the clock, neither flushes nor merges, and nothing of S3 is kept in memory.
const STILL: [(&str, &str); 3] =
    [("compaction.interval_secs", "3600"), ("cold.cache_bytes", "0"), ("flush.parallel", "32")];

/// With one of a thing and with many, everything costs the same, and no more beyond that than is said.
async fn cost_the_same(
    things: usize,
    make: impl AsyncFn(&TestServer, Range<usize>),
    more: &[(Count, usize)],
) -> (TestServer, Costs) {
    let mut z = TestServer::start_tiered(&STILL).await;
    make(&z, 0..1).await;
    // What is counted with many comes after a start as well, which makes files of what was in memory.
    z.crash().await;
    let one = costs(&mut z).await;
    make(&z, 1..things).await;
    let many = costs(&mut z).await;
    compare(things, &one, &many, more);
    (z, many)
}

fn compare(things: usize, one: &Costs, many: &Costs, more: &[(Count, usize)]) {
    let mut over = Vec::new();
    for (count, varies) in VARIES {
        let more = more.iter().find(|(other, _)| *other == count).map_or(0, |(_, more)| *more);
        if many[&count] > one[&count] + varies + more {
            over.push(format!("{count:?}: {} with one, {} with {things}", one[&count], many[&count]));
        }
    }
    assert!(over.is_empty(), "{}\nall with one: {one:?}\nall with {things}: {many:?}", over.join("\n"));
}

/// Does what is to be done, 32 at a time.
async fn all<T>(tasks: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    stream::iter(tasks).buffered(32).collect().await
}

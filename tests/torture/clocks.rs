//! The clock jumps by a year, forward and back, and the process stands still now and then: nothing but ages
//! may depend on it.

use std::{path::PathBuf, time::Duration};

use contracts::clock::{Clock, SystemClock};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    BUSY, Effort,
    kills::finish,
    load::{Load, Style},
};
use testing::{TestServer, server::eventually};

/// Debian's place for it.
fn faketime() -> Option<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    directories
        .map(|directory| directory.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
}

/// Removes what the library leaves of a killed process.
fn forget(pid: u32) {
    for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
        drop(std::fs::remove_file(PathBuf::from("/dev/shm").join(name)));
    }
}

/// Turns the clock again and again, with a kill now and then, and compares in the end.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    let Some(library) = faketime() else { return Ok("skipped: there is no libfaketime".to_owned()) };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = TestServer::tiered(&BUSY).await;
    // Ages go by the clock, keys' too: for the history they must not end.
    z.set("idempotency.window_secs", "1000000000");
    let clock = z.volume.path().join("clock");
    let turn = |to: &str| std::fs::write(&clock, to).unwrap();
    turn("+0");
    z.environment = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    turn("+365d");
    z.run().await;
    let (_, answer) = z.post("/tables/probe", &json!({"payload": 1})).await;
    let record = z.read_all("probe", "").await.remove(0);
    if record["timestamp_ms"].as_i64().unwrap() < SystemClock.now_ms() + 300 * 24 * 3600 * 1000 {
        return Err(format!("its clock does not turn: {answer} {record}"));
    }
    turn("+0");
    let load = Load::new();
    load.start(Style::Mixed, seed, 8);
    let (mut jumps, mut pauses) = (0, 0);
    while budget.allows(jumps) {
        load.point_at(Some(z.url("")));
        turn(["+365d", "-365d", "+0", "+1d", "-1h"].choose(&mut rng).unwrap());
        jumps += 1;
        sleep(Duration::from_millis(rng.random_range(50..500))).await;
        if rng.random_bool(0.3) {
            z.signal("STOP").await;
            sleep(Duration::from_millis(rng.random_range(0..1000))).await;
            z.signal("CONT").await;
            pauses += 1;
        }
        if rng.random_bool(0.3) {
            load.point_at(None);
            let pid = z.pid();
            z.crash().await;
            forget(pid);
        }
    }
    // While it is wrong S3 may refuse for longer than requests are tried again; right, it takes all there is.
    turn("+0");
    eventually("S3 takes what comes", async || z.post("/flush", &json!(null)).await.0 == StatusCode::OK)
        .await;
    let pid = z.pid();
    let counts = finish(&mut z, &load).await?;
    forget(pid);
    let pid = z.pid();
    z.kill().await;
    forget(pid);
    Ok(format!("{jumps} jumps of the clock and {pauses} pauses: {counts}"))
}

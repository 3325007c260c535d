//! A full disk, in turn with headroom and without. With it, writes are turned away, reads and flushes go
//! on, and all is well once there is space; without it, the write that fails ends the process, and it comes
//! back with all it acked once there is space.

use std::{fs::File, path::PathBuf, time::Duration};

use reqwest::{Method, StatusCode};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    BUSY, Effort, WRITE_FAILED,
    disk::LoopDisk,
    kills::finish,
    load::{Load, Style},
};
use testing::{
    TestServer,
    server::{answer, eventually},
};

const DISK_BYTES: u64 = 256 << 20;
const HEADROOM_BYTES: u64 = 48 << 20;

/// Something else that grows on the volume's disk.
struct Filler(PathBuf);

impl Filler {
    /// Takes all but `left` bytes.
    fn fill(&self, left: u64) {
        let disk = statvfs(self.0.parent().unwrap()).unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        let file = File::create(&self.0).unwrap();
        // Nearly all of it: the file system needs a little itself.
        let mut wanted = free.saturating_sub(left);
        while wanted > 0 && fallocate(&file, FallocateFlags::empty(), 0, wanted).is_err() {
            wanted -= (1 << 20).min(wanted);
        }
    }

    fn remove(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// Fills the disk again and again, and compares in the end.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    let mut z = TestServer::tiered(&BUSY).await;
    // RocksDB takes room for its log ahead: little, so that a full disk is soon noticed.
    z.set("hot.write_buffer_bytes", "2097152");
    let _disk = match LoopDisk::make("ext4", z.volume.path(), DISK_BYTES).await {
        Ok(disk) => disk,
        Err(why) => return Ok(format!("skipped: {why}")),
    };
    let filler = Filler(z.volume.path().join("filler"));
    let load = Load::new();
    load.start(Style::Mixed, seed, 8);
    let (mut turned_away, mut ended) = (0, 0);
    while budget.allows(turned_away + ended) {
        if turned_away <= ended {
            z.set("limits.disk_reserve_bytes", &HEADROOM_BYTES.to_string());
            z.run().await;
            load.point_at(Some(z.url("")));
            sleep(Duration::from_millis(300)).await;
            filler.fill(HEADROOM_BYTES / 2);
            writes_are_turned_away(&z).await;
            filler.remove();
            eventually("taken again", || async { write(&z).await.0 == StatusCode::CREATED }).await;
            load.point_at(None);
            z.kill().await;
            turned_away += 1;
        } else {
            z.set("limits.disk_reserve_bytes", "0");
            z.run().await;
            load.point_at(Some(z.url("")));
            filler.fill(0);
            let code = z.wait().await;
            load.point_at(None);
            if code != Some(WRITE_FAILED) {
                return Err(format!("on a full disk it ended with {code:?}"));
            }
            // It may start or not; it must not do harm.
            let started = z.try_run().await;
            if started.is_ok() {
                z.end().await;
            }
            filler.remove();
            ended += 1;
        }
    }
    z.run().await;
    let counts = finish(&mut z, &load).await?;
    z.kill().await;
    if counts.refused == 0 {
        return Err("no write was turned away".to_owned());
    }
    Ok(format!("{turned_away} full disks with headroom, {ended} without: {counts}"))
}

async fn write(z: &TestServer) -> (StatusCode, serde_json::Value) {
    z.post("/tables/probe", &json!({"payload": 1})).await
}

async fn writes_are_turned_away(z: &TestServer) {
    eventually("writes are turned away", || async { write(z).await.0 == StatusCode::SERVICE_UNAVAILABLE })
        .await;
    let response =
        z.request(Method::POST, "/tables/probe").json(&json!({"payload": 1})).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let (_, problem) = answer(response).await;
    assert_eq!((&problem["reason"], &problem["outcome"]), (&json!("disk_full"), &json!("not_written")));
    assert_eq!(z.post("/flush", &json!(null)).await.0, StatusCode::OK);
    assert_eq!(z.get("/tables/probe?limit=1").await.0, StatusCode::OK);
}

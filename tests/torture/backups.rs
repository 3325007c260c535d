//! kill -9 of backups, at any moment, beside a server under load that is killed as well; and a restore of
//! what they have become.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    BUSY, Budget,
    kills::finish,
    load::{Load, Style},
};
use testing::{TestServer, server::BUCKET};

/// Kills backups again and again, and compares what is restored from the last one.
pub(crate) async fn run(seed: u64, budget: Budget) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = TestServer::start_tiered(&BUSY).await;
    let load = Load::new();
    load.start(Style::Mixed, seed, 4);
    load.point_at(Some(z.url("")));
    let (to, restored) = (format!("s3://{BUCKET}/backup"), format!("s3://{BUCKET}/restored"));
    let (mut kills, mut ended) = (0, 0);
    while budget.allows(kills + ended) {
        let time = Duration::from_millis(rng.random_range(5..600));
        match z.look_for(&["backup", "--to", &to], time).await {
            true => ended += 1,
            false => kills += 1,
        }
        if rng.random_bool(0.2) {
            load.point_at(None);
            z.crash().await;
            load.point_at(Some(z.url("")));
        }
    }
    let counts = finish(&mut z, &load).await?;
    let there = load.read_everything(&z.url("")).await;
    right(&z, &["backup", "--to", &to]).await?;
    right(&z, &["verify", &to]).await?;
    right(&z, &["restore", "--from", &to, "--to", &restored, "--source-is-gone"]).await?;
    right(&z, &["verify", &restored]).await?;
    let mut other = z.beside();
    other.set("s3.prefix", "restored");
    other.run().await;
    if load.read_everything(&other.url("")).await != there {
        return Err("what was restored is not what was there".to_owned());
    }
    Ok(format!("{kills} backups killed and {ended} ended under load, and the last one restored: {counts}"))
}

/// Runs a command, which must go well.
async fn right(z: &TestServer, words: &[&str]) -> Result<(), String> {
    let (is_right, text) = z.look(words).await;
    if is_right { Ok(()) } else { Err(format!("{words:?}: {text}")) }
}

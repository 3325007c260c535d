//! Many tables against one, and what a table costs that nobody uses.

use std::time::Duration;

use tokio::time::sleep;

use super::{CONNECTIONS, in_turn};
use crate::{
    BenchOptions,
    client::{load, request},
    data,
    process::Zombi,
    report::{Goal, Report},
};

const TABLES: usize = 1000;

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    let (name, idle) = ("append, 1,000 tables x 4 partitions in turn", "processor time of 1,000 idle tables");
    if !report.wants(name) && !report.wants(idle) {
        return;
    }
    let many = Zombi::tiered(options, &["flush.interval_secs=3600"]);
    let one = Zombi::tiered(options, &["flush.interval_secs=3600"]);
    let write = async |zombi: &Zombi, tables: usize| {
        let ready: Vec<_> = (0..TABLES * 4)
            .map(|number| {
                let path = format!("/tables/t{}", number / 4 % tables);
                request("POST", &path, "application/json", data::json_record(number, 4, None).as_bytes())
            })
            .collect();
        load(zombi.address, CONNECTIONS, options.turn(), None, move |number| {
            ready[number % ready.len()].clone()
        })
        .await
        .rate()
    };
    let before = many.memory_mib("VmRSS");
    // The first writes make the tables, and reserve their offsets.
    write(&many, TABLES).await;
    write(&one, 1).await;
    if report.wants(name) {
        let rounds =
            in_turn(options.rounds(), async |_| write(&many, TABLES).await, async |_| write(&one, 1).await)
                .await;
        report.ratio(name, "requests/s", Goal::AtLeast(0.6), rounds);
        report.figure(
            "memory that 1,000 tables and their load took",
            "MiB",
            Goal::Known,
            many.memory_mib("VmRSS") - before,
        );
    }
    if report.wants(idle) {
        many.ask("POST", "/flush").await;
        one.ask("POST", "/flush").await;
        let time = if options.glance { 1 } else { 5 };
        let rounds = in_turn(1, async |_| used(&many, time).await, async |_| used(&one, time).await).await;
        report.figure(idle, "ms/s", Goal::Known, rounds[0].0);
        report.figure("processor time of one idle table", "ms/s", Goal::Known, rounds[0].1);
    }
}

/// Milliseconds of processor time a second, over a while.
async fn used(zombi: &Zombi, secs: u64) -> f64 {
    let before = zombi.processor_secs();
    sleep(Duration::from_secs(secs)).await;
    (zombi.processor_secs() - before) * 1000.0 / secs as f64
}

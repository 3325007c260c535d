//! What it costs that a table is another pod's, and that a pod has many shards.

use std::{net::SocketAddr, slice};

use super::{in_turn, send};
use crate::{
    BenchOptions,
    client::{get, request},
    data,
    pods::{PODS, Pods},
    process::Zombi,
    report::{Goal, Report},
};

/// Tables of the row about one pod with all shards: some in each.
const TABLES: usize = 48;
/// Events of the page that is read.
const RECORDS: usize = 100;

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    passed_on(options, report).await;
    work_of_passing_on(options, report).await;
    by_three(options, report).await;
    in_one_pod(options, report).await;
}

/// Microseconds of processor time of all these servers for each request of a load.
async fn processor_us(servers: &[Zombi], sent: impl Future<Output = usize>) -> f64 {
    let secs = || servers.iter().map(Zombi::processor_secs).sum::<f64>();
    let before = secs();
    let requests = sent.await;
    (secs() - before) * 1e6 / requests as f64
}

/// Appends of JSON records to tables, one after the other.
fn appends(tables: &[String]) -> Vec<Vec<u8>> {
    let one = |number: usize| {
        let path = format!("/tables/{}", tables[number % tables.len()]);
        request("POST", &path, "application/json", data::json_record(number, 4, None).as_bytes())
    };
    (0..1024).map(one).collect()
}

/// The same requests by a pod that passes them on, and by the owner.
async fn passed_on(options: &BenchOptions, report: &mut Report) {
    let rows = [
        "append JSON, 64 connections, by a pod that passes it on",
        "append p99 at half load, by a pod that passes it on",
        "page of 100 events, by a pod that passes it on",
    ];
    if !rows.iter().any(|name| report.wants(name)) {
        return;
    }
    let pods = Pods::start(options, PODS, &["flush.interval_secs=3600"]);
    let (other, owner) = (pods.all[0].address, pods.all[1].address);
    let table = pods.table_of(1).await;
    let ready = appends(slice::from_ref(&table));
    // The first load opens the connections between the pods, too.
    let half = send(other, options.turn(), None, &ready).await.rate() / 2.0;
    if report.wants(rows[0]) {
        let rounds = in_turn(
            options.rounds(),
            async |_| send(other, options.turn(), None, &ready).await.rate(),
            async |_| send(owner, options.turn(), None, &ready).await.rate(),
        );
        report.ratio(rows[0], "requests/s", Goal::Known, rounds.await);
    }
    if report.wants(rows[1]) {
        let rounds = in_turn(
            options.rounds(),
            async |_| send(other, options.turn(), Some(half), &ready).await.p99(),
            async |_| send(owner, options.turn(), Some(half), &ready).await.p99(),
        );
        report.ratio(rows[1], "us", Goal::Known, rounds.await);
    }
    if report.wants(rows[2]) {
        let page = [get(&format!("/tables/{table}?limit={RECORDS}"), "application/json")];
        let rounds = in_turn(
            options.rounds(),
            async |_| send(other, options.turn(), None, &page).await.rate(),
            async |_| send(owner, options.turn(), None, &page).await.rate(),
        );
        report.ratio(rows[2], "requests/s", Goal::Known, rounds.await);
    }
}

/// What all pods do together for an append that one passes on, and for one that its owner gets itself.
async fn work_of_passing_on(options: &BenchOptions, report: &mut Report) {
    let name = "processor time of an append that is passed on";
    if !report.wants(name) {
        return;
    }
    let pods = Pods::start(options, PODS, &["flush.interval_secs=3600"]);
    let ready = appends(slice::from_ref(&pods.table_of(1).await));
    let sent = async |pod: usize| send(pods.all[pod].address, options.turn(), None, &ready).await.requests;
    // The first load opens the connections between the pods, too.
    sent(0).await;
    let rounds = in_turn(
        options.rounds(),
        async |_| processor_us(&pods.all, sent(0)).await,
        async |_| processor_us(&pods.all, sent(1)).await,
    );
    report.ratio(name, "us", Goal::AtMost(2.0), rounds.await);
}

/// Three loads at once, each on tables of all shards: each at another pod, or all three at one Zombi. They
/// share one machine, so more pods have no more processors here.
async fn by_three(options: &BenchOptions, report: &mut Report) {
    let (name, work) =
        ("append by three pods of one machine together", "processor time of an append by any of three pods");
    if !report.wants(name) && !report.wants(work) {
        return;
    }
    let settings = ["flush.interval_secs=3600"];
    let pods = Pods::start(options, PODS, &settings);
    let one = [Zombi::tiered(options, &settings)];
    let tables: Vec<String> = (0..TABLES).map(|number| format!("table-{number}")).collect();
    let ready = appends(&tables);
    let sent = async |addresses: [SocketAddr; PODS]| {
        let [first, second, third] = addresses.map(|address| send(address, options.turn(), None, &ready));
        let (first, second, third) = tokio::join!(first, second, third);
        first.requests + second.requests + third.requests
    };
    let at_pods = [pods.all[0].address, pods.all[1].address, pods.all[2].address];
    let at_one = [one[0].address; PODS];
    // The first writes make the tables, and reserve their offsets.
    sent(at_pods).await;
    sent(at_one).await;
    if report.wants(name) {
        let secs = options.turn().as_secs_f64();
        let rounds = in_turn(
            options.rounds(),
            async |_| sent(at_pods).await as f64 / secs,
            async |_| sent(at_one).await as f64 / secs,
        );
        report.ratio(name, "requests/s", Goal::Known, rounds.await);
    }
    if report.wants(work) {
        let rounds = in_turn(
            options.rounds(),
            async |_| processor_us(&pods.all, sent(at_pods)).await,
            async |_| processor_us(&one, sent(at_one)).await,
        );
        report.ratio(work, "us", Goal::Known, rounds.await);
    }
}

/// Tables in all shards of one pod, and the same tables in one Zombi.
async fn in_one_pod(options: &BenchOptions, report: &mut Report) {
    let rows = [
        "append, 48 tables in 12 shards of one pod",
        "memory of 11 more shards under that load",
        "descriptors of 11 more shards under that load",
    ];
    if !rows.iter().any(|name| report.wants(name)) {
        return;
    }
    let settings = ["flush.interval_secs=3600"];
    let pod = Pods::start(options, 1, &settings);
    let many = &pod.all[0];
    let one = Zombi::tiered(options, &settings);
    let tables: Vec<String> = (0..TABLES).map(|number| format!("table-{number}")).collect();
    let ready = appends(&tables);
    // The first writes make the tables, and reserve their offsets.
    send(many.address, options.turn(), None, &ready).await;
    send(one.address, options.turn(), None, &ready).await;
    let rounds = in_turn(
        options.rounds(),
        async |_| send(many.address, options.turn(), None, &ready).await.rate(),
        async |_| send(one.address, options.turn(), None, &ready).await.rate(),
    )
    .await;
    report.ratio(rows[0], "requests/s", Goal::Known, rounds);
    report.figure(rows[1], "MiB", Goal::Known, many.memory_mib("VmRSS") - one.memory_mib("VmRSS"));
    report.figure(rows[2], "descriptors", Goal::Known, many.descriptors() - one.descriptors());
}

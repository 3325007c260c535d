//! The log in NATS against three real servers on loopback: what every log must do, and what becomes of
//! appends when servers are killed or stopped. `make log-check` runs it, with the program that `NATS_SERVER`
//! names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::large_futures, missing_docs)]

mod proxy;
mod servers;

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use contracts::shared_log::{EntryKind, LogEntry, LogSeq, SharedLog};
use testing::{
    nats::NatsTrio,
    raw,
    server::PATIENCE,
    shared_log::{LogUnderTest, suite},
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;
use zombi_shared_log::{
    nats::{NatsGuard, NatsLog, OpenError, StreamName},
    settings::NatsSettings,
};

use self::servers::{NatsServers, log_settings};

/// The most bytes of a log whose size does not matter.
const MAX_BYTES: u64 = 64 << 20;

/// One log of these servers.
struct NatsCase<'a> {
    servers: &'a NatsServers,
    name: StreamName,
    max_bytes: u64,
}

impl NatsCase<'_> {
    fn new(servers: &NatsServers, generation: u32, max_bytes: u64) -> NatsCase<'_> {
        let name = StreamName { cluster: Uuid::new_v4(), shard: 7, shards: 12, generation };
        NatsCase { servers, name, max_bytes }
    }

    async fn open(&self) -> NatsLog {
        self.servers.open(self.name, self.max_bytes).await
    }
}

impl LogUnderTest for NatsCase<'_> {
    async fn handle(&self) -> Box<dyn SharedLog> {
        Box::new(self.open().await)
    }

    fn lose_next_answer(&self) {
        self.servers.answers.lose_next();
    }
}

/// Appends so many entries, one behind the other, each of which is told apart; counts those that are there.
async fn write(log: &NatsLog, count: u64, written: &AtomicU64) {
    for last in 0..count {
        let appended = log.append(LogSeq(last), EntryKind::Data, entry_behind(last).bytes).await;
        assert_eq!(appended.unwrap(), LogSeq(last + 1));
        written.store(last + 1, Ordering::Relaxed);
    }
}

fn entry_behind(last: u64) -> LogEntry {
    LogEntry { seq: LogSeq(last + 1), bytes: Bytes::from(format!("entry {last}")) }
}

/// Waits until so many entries are there.
async fn until_written(count: u64, written: &AtomicU64) {
    while written.load(Ordering::Relaxed) < count {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Checks that the log has so many entries of [`write`], and nothing else. A server that was away may make
/// the log unavailable for a while.
async fn expect_written(log: &NatsLog, count: u64) {
    let mut entries: Vec<LogEntry> = Vec::new();
    while entries.len() < count as usize {
        let next = entries.last().map_or(LogSeq(1), |entry| entry.seq.next());
        match log.read(next, usize::MAX, Duration::from_secs(1)).await {
            Ok(more) => entries.extend(more),
            Err(error) => println!("{error}"),
        }
    }
    assert_eq!(entries, (0..count).map(entry_behind).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_does_what_every_log_must() {
    let servers = NatsServers::start().await;
    let generations = AtomicU32::new(0);
    let (all, next) = (&servers, &generations);
    suite(async move |max_bytes| NatsCase::new(all, next.fetch_add(1, Ordering::Relaxed), max_bytes)).await;
    assert!(servers.answers.lost() >= 2, "the proxies have lost what they should");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_found_in_the_log() {
    let servers = NatsServers::start().await;
    let log = NatsCase::new(&servers, 0, MAX_BYTES).open().await;
    servers.answers.lose_next();
    let written = AtomicU64::new(0);
    timeout(PATIENCE, write(&log, 3, &written)).await.expect("all are appended");
    assert_eq!(servers.answers.lost(), 1);
    let counts = log.counts();
    assert!(counts.settled >= 1 && counts.attempts > 3, "{counts:?}");
    timeout(PATIENCE, expect_written(&log, 3)).await.expect("all are there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_loses_nothing() {
    let mut servers = NatsServers::start().await;
    let case = NatsCase::new(&servers, 0, MAX_BYTES);
    let (log, shard) = (case.open().await, case.name.shard);
    let written = AtomicU64::new(0);
    let kill = async {
        until_written(20, &written).await;
        let leader = servers.trio.leader(shard).await;
        servers.trio.kill(leader).await;
        leader
    };
    let both = async { tokio::join!(write(&log, 60, &written), kill) };
    let ((), leader) = timeout(PATIENCE, both).await.expect("appends go on");
    servers.trio.restart(leader).await;
    timeout(PATIENCE, expect_written(&log, 60)).await.expect("all are there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_is_given_up() {
    let servers = NatsServers::start().await;
    let case = NatsCase::new(&servers, 0, MAX_BYTES);
    let log = case.open().await;
    let written = AtomicU64::new(0);
    let stop = async {
        until_written(20, &written).await;
        let leader = servers.trio.leader(case.name.shard).await;
        servers.trio.signal(leader, "STOP").await;
        leader
    };
    let both = async { tokio::join!(write(&log, 60, &written), stop) };
    let ((), leader) = timeout(PATIENCE, both).await.expect("appends go on while it is stopped");
    let counts = log.counts();
    assert!(counts.silent >= 1, "the client itself gave a silent server up: {counts:?}");
    servers.trio.signal(leader, "CONT").await;
    timeout(PATIENCE, expect_written(&log, 60)).await.expect("all are there");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_an_append_waits_for_one() {
    let mut servers = NatsServers::start().await;
    let log = NatsCase::new(&servers, 0, MAX_BYTES).open().await;
    let written = AtomicU64::new(0);
    timeout(PATIENCE, write(&log, 5, &written)).await.expect("three servers are there");
    servers.trio.kill(0).await;
    servers.trio.kill(1).await;
    let entry = entry_behind(5);
    let mut append = log.append(LogSeq(5), EntryKind::Data, entry.bytes);
    let early = timeout(Duration::from_secs(5), &mut append).await;
    assert!(early.is_err(), "{early:?}: one of three is no quorum");
    servers.trio.restart(0).await;
    let appended = timeout(PATIENCE, append).await.expect("two are a quorum");
    assert_eq!(appended.unwrap(), entry.seq);
    timeout(PATIENCE, expect_written(&log, 6)).await.expect("it is there once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_ours_is_refused() {
    let servers = NatsServers::start().await;
    let case = NatsCase::new(&servers, 0, MAX_BYTES);
    drop(case.open().await);
    let others = StreamName { shards: 6, ..case.name };
    let refused = NatsLog::open(&servers.settings(), &log_settings(MAX_BYTES), others).await.unwrap_err();
    assert!(matches!(refused, OpenError::Different { .. }), "{refused}");
    assert!(refused.to_string().contains(r#"zombi.shards is "12" and must be "6""#), "{refused}");
    // An operator may give it more room.
    let larger = servers.open(case.name, 2 * MAX_BYTES).await;
    assert_eq!(larger.size().await.unwrap().max_bytes, 2 * MAX_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused() {
    let servers = NatsServers::start().await;
    let case = NatsCase::new(&servers, 0, MAX_BYTES);
    let log = case.open().await;
    let written = AtomicU64::new(0);
    timeout(PATIENCE, write(&log, 3, &written)).await.expect("we are let in");
    let stranger = NatsSettings { credentials_file: None, ..servers.settings() };
    let refused = NatsLog::open(&stranger, &log_settings(MAX_BYTES), case.name).await.unwrap_err();
    assert!(matches!(refused, OpenError::Unavailable(_)), "{refused}");
    assert!(refused.to_string().contains("authorization"), "{refused}");
    let (subject, stream) = (case.name.subject(EntryKind::Data), case.name.stream());
    let sent = [format!("PUB {subject} 1\r\nx\r\n"), format!("PUB $JS.API.STREAM.PURGE.{stream} 0\r\n\r\n")];
    for sent in sent {
        let connect = r#"CONNECT {"verbose":false,"user":"zombi","pass":"guessed"}"#;
        let mut socket = raw::send(servers.trio.address(0), format!("{connect}\r\n{sent}PING\r\n")).await;
        let said = raw::read_to_end(&mut socket).await;
        assert!(said.contains("Authorization Violation") && !said.contains("PONG"), "{said}");
    }
    let connect =
        r#"CONNECT {"server_id":"NSTRANGER","name":"s","cluster":"zombi","user":"r","pass":"guessed"}"#;
    let mut socket = raw::send(servers.trio.route_address(0), format!("{connect}\r\nPING\r\n")).await;
    let said = raw::read_to_end(&mut socket).await;
    assert!(said.contains("Authorization Violation"), "{said}");
    timeout(PATIENCE, expect_written(&log, 3)).await.expect("nothing was purged");
    assert_eq!(log.size().await.unwrap().last, LogSeq(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_begun_anew_is_found_and_the_one_before_can_go() {
    let servers = NatsServers::start().await;
    let (first, settings) = (NatsCase::new(&servers, 0, MAX_BYTES), servers.settings());
    let other =
        NatsCase { name: StreamName { shard: 8, ..first.name }, ..NatsCase::new(&servers, 5, MAX_BYTES) };
    let second = StreamName { generation: 2, ..first.name };
    assert_eq!(NatsLog::generations(&settings, first.name).await.unwrap(), [0; 0]);
    drop(other.open().await);
    let (log, anew) = (first.open().await, servers.open(second, MAX_BYTES).await);
    assert_eq!(NatsLog::generations(&settings, first.name).await.unwrap(), [0, 2]);
    let entry = || Bytes::from("entry");
    assert_eq!(log.append(LogSeq(0), EntryKind::Data, entry()).await.unwrap(), LogSeq(1));
    assert_eq!(anew.append(LogSeq(0), EntryKind::Data, entry()).await.unwrap(), LogSeq(1));
    assert!(NatsLog::delete(&settings, first.name).await.unwrap());
    assert!(!NatsLog::delete(&settings, first.name).await.unwrap(), "it is gone");
    assert_eq!(NatsLog::generations(&settings, second).await.unwrap(), [2]);
    assert_eq!(anew.size().await.unwrap().last, LogSeq(1), "the other one is untouched");
    let late = log.append(LogSeq(1), EntryKind::Data, entry());
    assert!(timeout(Duration::from_secs(3), late).await.is_err(), "an append to it goes nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_say_whether_they_sync_always() {
    let servers = NatsServers::start().await;
    drop(NatsCase::new(&servers, 0, MAX_BYTES).open().await);
    let report = NatsGuard::new(&servers.settings()).unwrap().look().await;
    assert_eq!((report.unmet(), report.damages()), (Vec::new(), Vec::new()), "{report:?}");
    let mut settings = servers.settings();
    settings.monitors.pop();
    let report = NatsGuard::new(&settings).unwrap().look().await;
    assert!(report.unmet()[0].contains("2 of the 3 servers"), "{report:?}");
    let careless = NatsServers::before(NatsTrio::start_careless().await).await;
    let report = NatsGuard::new(&careless.settings()).unwrap().look().await;
    assert!(report.unmet()[0].contains("does not sync always"), "{report:?}");
    let accepted = NatsSettings { unsynced: true, ..careless.settings() };
    assert_eq!(NatsGuard::new(&accepted).unwrap().look().await.unmet(), Vec::<String>::new());
}

//! What a quota lets through, in virtual time.

use tokio::time::advance;

use super::{bucket::MAX_WAIT, *};

const BODY_BYTES: u64 = 1000;

fn policy(quotas: &str) -> Arc<Policy> {
    let text = format!("version: 1\nbindings: []\nquotas: {{default: {{{quotas}}}}}\n");
    Arc::new(Policy::parse(&text).unwrap())
}

fn principal(name: &str) -> Principal {
    Principal::Token(name.to_owned())
}

fn usage(quotas: &str) -> Arc<Usage> {
    Quotas::new(policy(quotas), BODY_BYTES).usage(&principal("a"))
}

fn requests(usage: &Usage) -> usize {
    (0..10_000).take_while(|_| usage.request(Instant::now()).is_ok()).count()
}

#[tokio::test(start_paused = true)]
async fn a_second_holds_as_many_requests_as_it_may_and_no_more_are_saved_up() {
    let usage = usage("requests_per_sec: 500");
    assert_eq!(requests(&usage), 500);
    let over = usage.request(Instant::now()).unwrap_err();
    assert_eq!(over, OverQuota { quota: "requests", retry_after: Duration::from_millis(2) });
    advance(over.retry_after - Duration::from_nanos(1)).await;
    assert!(usage.request(Instant::now()).is_err());
    advance(Duration::from_nanos(1)).await;
    assert_eq!(requests(&usage), 1);
    advance(Duration::from_secs(3600)).await;
    assert_eq!(requests(&usage), 500);
}

#[tokio::test(start_paused = true)]
async fn flushes_are_counted_by_the_minute() {
    let usage = usage("flushes_per_min: 2");
    let now = Instant::now();
    assert!(usage.flush(now).is_ok() && usage.flush(now).is_ok());
    let over = usage.flush(now).unwrap_err();
    assert_eq!(over, OverQuota { quota: "flushes", retry_after: Duration::from_secs(30) });
    advance(over.retry_after).await;
    assert!(usage.flush(Instant::now()).is_ok() && usage.flush(Instant::now()).is_err());
}

#[tokio::test(start_paused = true)]
async fn bytes_slow_down_what_has_begun_and_keep_out_what_has_not() {
    let usage = usage("write_bytes_per_sec: 100, read_bytes_per_sec: 2000");
    assert_eq!(usage.pace_write(BODY_BYTES), Duration::ZERO, "one whole body fits");
    assert!(usage.begin_body(0).is_ok());
    assert_eq!(usage.pace_write(50), Duration::from_millis(500));
    assert_eq!(usage.pace_write(50), Duration::from_secs(1), "all bodies of a principal share it");
    let over = usage.begin_body(0).unwrap_err();
    assert_eq!(over, OverQuota { quota: "write_bytes", retry_after: Duration::from_secs(1) });
    assert_eq!(usage.read_debt(), Ok(()));
    advance(over.retry_after).await;
    assert!(usage.begin_body(0).is_ok());
    assert_eq!(usage.pace_read(2000), Duration::ZERO);
    assert_eq!(usage.pace_read(2000), Duration::from_secs(1));
    assert_eq!(usage.read_debt().unwrap_err().quota, "read_bytes");
    assert_eq!(usage.pace_read(u64::MAX), MAX_WAIT);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_comes_back_when_it_is_dropped() {
    let usage = usage("inflight_bytes: 100, streams: 2");
    let most = usage.begin_body(60).unwrap();
    let over = OverQuota { quota: "inflight", retry_after: HOLD_WAIT };
    assert_eq!(usage.begin_body(41).unwrap_err(), over);
    assert_eq!(usage.begin_body(u64::MAX).unwrap_err(), over);
    let rest = usage.begin_body(40).unwrap();
    drop(most);
    assert_eq!(usage.begin_body(61).unwrap_err(), over);
    drop((rest, usage.begin_body(60).unwrap()));
    drop(usage.begin_body(100).unwrap());
    let mut growing = usage.begin_body(10).unwrap();
    assert_eq!((growing.grow_to(70), growing.grow_to(20)), (Ok(()), Ok(())));
    assert_eq!(growing.grow_to(101).unwrap_err(), over);
    assert_eq!(usage.begin_body(31).unwrap_err(), over, "what it held it holds");
    drop((usage.begin_body(30).unwrap(), growing));
    drop(usage.begin_body(100).unwrap());
    let streams = [usage.hold_stream().unwrap(), usage.hold_stream().unwrap()];
    assert_eq!(usage.hold_stream().unwrap_err().quota, "streams");
    drop(streams);
    drop(usage.hold_stream().unwrap());
    assert!(usage.is_idle(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn without_a_quota_everything_passes() {
    let usage = usage("tables: 3");
    assert_eq!(usage.quota(), Quota { tables: Some(3), ..Quota::default() });
    assert_eq!(requests(&usage), 10_000);
    assert_eq!(usage.pace_write(u64::MAX), Duration::ZERO);
    assert_eq!(usage.pace_write(u64::MAX), Duration::ZERO);
    assert!(usage.begin_body(0).is_ok());
    let _holds = (usage.begin_body(1 << 60).unwrap(), usage.hold_stream().unwrap());
}

#[tokio::test(start_paused = true)]
async fn principals_do_not_share_and_all_clients_of_one_do() {
    let quotas = Quotas::new(policy("requests_per_sec: 5"), BODY_BYTES);
    assert_eq!(requests(&quotas.usage(&principal("a"))), 5);
    assert_eq!(requests(&quotas.usage(&principal("a"))), 0);
    assert_eq!(requests(&quotas.usage(&principal("b"))), 5);
    let number = |name: &str| quotas.usage(&principal(name)).number();
    assert!(number("a") == number("a") && number("a") != number("b"));
}

#[tokio::test(start_paused = true)]
async fn another_policy_changes_the_rates_and_keeps_the_levels() {
    let quotas =
        Quotas::new(policy("requests_per_sec: 10, write_bytes_per_sec: 100, streams: 2"), BODY_BYTES);
    let usage = quotas.usage(&principal("a"));
    assert_eq!(requests(&usage), 10);
    usage.pace_write(BODY_BYTES + 400);
    let _stream = usage.hold_stream().unwrap();
    quotas.adopt(policy("requests_per_sec: 100, write_bytes_per_sec: 400, streams: 1, inflight_bytes: 5"));
    assert_eq!(requests(&usage), 0, "what was used stays used");
    assert_eq!(usage.begin_body(0).unwrap_err().retry_after, Duration::from_secs(1), "at the new rate");
    assert!(usage.hold_stream().is_err());
    advance(Duration::from_millis(100)).await;
    assert_eq!(requests(&usage), 10);
    advance(Duration::from_secs(10)).await;
    assert_eq!(usage.begin_body(6).unwrap_err().quota, "inflight");
    quotas.adopt(policy("requests_per_sec: 3"));
    assert_eq!(requests(&usage), 3, "no more than a full bucket is left");
    quotas.adopt(policy("tables: 1"));
    assert_eq!(requests(&usage), 10_000);
    quotas.adopt(policy("requests_per_sec: 7"));
    assert_eq!(requests(&usage), 7);
    assert_eq!(requests(&quotas.usage(&principal("b"))), 7);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_seems_to_step_back_gives_nothing() {
    let usage = usage("requests_per_sec: 2");
    let early = Instant::now();
    advance(Duration::from_secs(60)).await;
    assert_eq!(requests(&usage), 2);
    assert!(usage.request(early).is_err());
    assert_eq!(requests(&usage), 0);
    advance(Duration::from_secs(60)).await;
    assert_eq!(requests(&usage), 2);
}

#[tokio::test(start_paused = true)]
async fn so_many_principals_are_remembered_and_the_idle_go_first() {
    let quotas = Quotas::new(policy("requests_per_sec: 1, streams: 1"), BODY_BYTES);
    let ask = |number: usize| quotas.usage(&principal(&number.to_string()));
    let count = || quotas.known.lock().usages.len();
    let _held = ask(0).hold_stream().unwrap();
    ask(1).request(Instant::now()).unwrap();
    for number in 2..MAX_PRINCIPALS {
        ask(number);
    }
    assert_eq!(count(), MAX_PRINCIPALS);
    ask(MAX_PRINCIPALS);
    assert_eq!(count(), 3, "those who used nothing are forgotten");
    assert!(ask(0).hold_stream().is_err());
    assert!(ask(1).request(Instant::now()).is_err());
    for number in 0..MAX_PRINCIPALS {
        let _ = ask(number).request(Instant::now());
        advance(Duration::from_nanos(1)).await;
    }
    let _ = ask(MAX_PRINCIPALS + 1).request(Instant::now());
    assert!(count() <= MAX_PRINCIPALS, "{}", count());
    assert!(ask(0).hold_stream().is_err(), "who holds something goes last");
    assert!(ask(MAX_PRINCIPALS - 1).request(Instant::now()).is_err(), "and who was asked for lately");
    assert!(ask(1).request(Instant::now()).is_ok(), "the first of the others is gone");
}

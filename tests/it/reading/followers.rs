//! Followers: they hear when they have caught up, and where they are while nothing happens.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{event, numbers, page, write};
use testing::TestServer;

/// What a follower hears.
#[derive(Debug, PartialEq)]
enum FollowerHeard {
    Event(Value),
    CaughtUp,
    Ping,
}

/// A stream of server-sent events.
struct OpenFollower {
    response: Response,
    text: String,
    /// The last id that came, as a browser remembers it.
    id: String,
}

impl OpenFollower {
    async fn open(z: &TestServer, query: &str, id: &str) -> Self {
        let request = z.request(Method::GET, &format!("/tables/t?{query}"));
        let request = request.header("accept", "text/event-stream");
        // An empty one is that of a client that has seen nothing yet.
        let response = request.header("last-event-id", id).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, text: String::new(), id: id.to_owned() }
    }

    async fn next(&mut self) -> FollowerHeard {
        while !self.text.contains("\n\n") {
            let piece = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        let (block, rest) = self.text.split_once("\n\n").unwrap();
        let field = |name: &str| {
            let value = block.lines().find_map(|line| line.strip_prefix(name));
            value.map(|value| value.trim_start().to_owned())
        };
        let (id, name, data) = (field("id:"), field("event:"), field("data:"));
        let is_named = id.is_some();
        self.id = id.unwrap_or(std::mem::take(&mut self.id));
        let heard = match (name.as_deref(), data) {
            (None, Some(data)) => FollowerHeard::Event(serde_json::from_str(&data).unwrap()),
            (Some("caught-up"), Some(data)) => {
                assert!(is_named && data == "{}", "{block}");
                FollowerHeard::CaughtUp
            }
            (None, None) => {
                assert!(is_named && block.starts_with(':'), "{block}");
                FollowerHeard::Ping
            }
            _ => panic!("{block}"),
        };
        self.text = rest.to_owned();
        heard
    }

    /// The numbers of the events up to the next mark; pings are passed over.
    async fn until_caught_up(&mut self) -> Vec<u64> {
        let mut records = Vec::new();
        loop {
            match self.next().await {
                FollowerHeard::Event(record) => records.push(record),
                FollowerHeard::CaughtUp => return numbers(&records),
                FollowerHeard::Ping => {}
            }
        }
    }

    /// The number of the next event, which comes before any mark.
    async fn number(&mut self) -> u64 {
        loop {
            match self.next().await {
                FollowerHeard::Event(record) => return record["payload"].as_u64().unwrap(),
                FollowerHeard::CaughtUp => panic!("it had caught up"),
                FollowerHeard::Ping => {}
            }
        }
    }
}

#[tokio::test]
async fn a_stream_says_once_that_it_has_caught_up_and_again_after_a_gap() {
    let z = TestServer::start().await;
    write(&z, 0..50, 2).await;
    let mut follower = OpenFollower::open(&z, "", "").await;
    assert_eq!(follower.until_caught_up().await, (0..50).collect::<Vec<_>>());
    let caught_up = follower.id.clone();
    // Events that come one by one are no gap.
    for number in 50..60 {
        z.post("/tables/t", &event(number, 2)).await;
        assert_eq!(follower.number().await, number as u64);
    }
    // So many at once are.
    write(&z, 60..3000, 2).await;
    assert_eq!(follower.until_caught_up().await, (60..3000).collect::<Vec<_>>());

    // Its place is behind what came before it.
    let mut resumed = OpenFollower::open(&z, "", &caught_up).await;
    assert_eq!(resumed.until_caught_up().await, (50..3000).collect::<Vec<_>>());
    let end = resumed.id.clone();
    let mut at_end = OpenFollower::open(&z, "", &end).await;
    assert_eq!(at_end.next().await, FollowerHeard::CaughtUp);
    assert_eq!(at_end.id, end, "nothing was written since");
}

#[tokio::test]
async fn pings_carry_the_place_of_a_follower_that_sees_nothing() {
    let z = TestServer::start_with(&[("limits.ping_secs", "1")]).await;
    write(&z, 0..100, 2).await;
    let mut follower = OpenFollower::open(&z, "type=missing", "").await;
    assert_eq!(follower.next().await, FollowerHeard::CaughtUp);
    let first = follower.id.clone();
    assert_eq!(follower.next().await, FollowerHeard::Ping);
    assert_eq!(follower.id, first, "nothing has happened");
    write(&z, 100..200, 2).await;
    // Sooner or later a ping is behind what was written.
    let moved = loop {
        assert_eq!(follower.next().await, FollowerHeard::Ping);
        if follower.id != first {
            break follower.id.clone();
        }
    };
    let page = page(&z, &format!("cursor={moved}")).await;
    assert_eq!((&page["count"], &page["up_to_date"]), (&json!(0), &json!(true)), "{page}");
    // Without the filter there would have been all of them.
    assert_eq!(page["has_more"], false);
}

#[tokio::test]
async fn a_filtered_follower_gets_what_it_wants_and_resumes_behind_it() {
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..200, 3).await;
    z.flush_and_evict().await;
    write(&z, 200..400, 3).await;
    let wanted: Vec<u64> = (0..400).filter(|number| number % 4 == 1).collect();
    let mut follower = OpenFollower::open(&z, "type=order.paid", "").await;
    let mut found = Vec::new();
    for _ in 0..30 {
        found.push(follower.number().await);
    }
    let id = follower.id.clone();
    drop(follower);
    // The filter is in the id: the rest of the address may be anything.
    let mut resumed = OpenFollower::open(&z, "type=invoice.sent", &id).await;
    found.extend(resumed.until_caught_up().await);
    assert_eq!(found, wanted);
    z.post("/tables/t", &event(400, 3)).await;
    z.post("/tables/t", &event(401, 3)).await;
    assert_eq!(resumed.number().await, 401);
}

#[tokio::test]
async fn the_last_ones_are_followed_by_new_ones() {
    let z = TestServer::start().await;
    write(&z, 0..100, 2).await;
    let mut follower = OpenFollower::open(&z, "last=10", "").await;
    assert_eq!(follower.until_caught_up().await, (90..100).collect::<Vec<_>>());
    let mut from_now = OpenFollower::open(&z, "last=0", "").await;
    assert_eq!(from_now.next().await, FollowerHeard::CaughtUp);
    z.post("/tables/t", &event(100, 2)).await;
    assert_eq!((follower.number().await, from_now.number().await), (100, 100));
}

#[tokio::test]
async fn a_page_says_whether_it_is_at_the_end() {
    let z = TestServer::start_tiered(&[]).await;
    write(&z, 0..10, 3).await;
    for _ in 0..2 {
        for (query, is_at_end) in
            [("limit=10", true), ("limit=9", false), ("type=missing", true), ("until=5", true)]
        {
            assert_eq!(page(&z, query).await["up_to_date"], is_at_end, "{query}");
        }
        z.flush_and_evict().await;
    }
    // A long poll that sees nothing it wants moves on, too.
    let cursor = page(&z, "type=missing").await["next_cursor"].as_str().unwrap().to_owned();
    write(&z, 10..20, 3).await;
    let waited = page(&z, &format!("wait=100ms&cursor={cursor}")).await;
    assert_eq!((&waited["count"], &waited["up_to_date"]), (&json!(0), &json!(true)), "{waited}");
    assert_ne!(waited["next_cursor"], json!(cursor));
}

#[tokio::test]
async fn a_long_poll_wakes_for_what_its_filter_wants() {
    let z = TestServer::start().await;
    write(&z, 0..10, 1).await;
    let cursor = page(&z, "type=order.paid").await["next_cursor"].as_str().unwrap().to_owned();
    let path = format!("/tables/t?wait=50s&cursor={cursor}");
    let poll = tokio::spawn(z.request(Method::GET, &path).send());
    // 10 and 12 are of another type.
    for number in [10, 12, 13] {
        z.post("/tables/t", &event(number, 1)).await;
    }
    let page: Value = poll.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(numbers(page["records"].as_array().unwrap()), [13], "{page}");
}

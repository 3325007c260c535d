//! Follows a table, works on each event, and goes on where it stood after any break: see README.md.
//!
//! ```sh
//! cargo run --example consumer -- URL TABLE RESULTS GROUP [COUNT]
//! ```

use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader},
    thread::sleep,
    time::Duration,
};

use reqwest::{StatusCode, blocking::Client};
use serde_json::{Value, json};

type ConsumerFailure = Box<dyn Error>;

const PAUSE: Duration = Duration::from_millis(500);

struct Consumer {
    client: Client,
    url: String,
    table: String,
    results: String,
    group: String,
    /// How many events are left to do; `None` for no end.
    left: Option<u64>,
}

/// Whether waiting may help.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error() || [408, 429].contains(&status.as_u16())
}

impl Consumer {
    /// Sends until there is an answer. With an idempotency key that stores it once.
    fn post(&self, path: &str, key: Option<&str>, body: &Value, fine: u16) -> Result<(), ConsumerFailure> {
        loop {
            let mut request = self.client.post(format!("{}{path}", self.url)).json(body);
            request = request.timeout(Duration::from_secs(30));
            if let Some(key) = key {
                request = request.header("Idempotency-Key", format!("{key:?}"));
            }
            if let Ok(answer) = request.send() {
                let status = answer.status();
                if status.is_success() || status == fine {
                    return Ok(());
                }
                if !may_pass(status) {
                    return Err(answer.text()?.into());
                }
            }
            sleep(PAUSE);
        }
    }

    fn work(&self, event: &Value) -> Result<(), ConsumerFailure> {
        let key = format!("{}/{}/{}", self.table, event["partition"], event["offset"]);
        let result = json!({"payload": {"worked_on": event["payload"]}});
        self.post(&format!("/tables/{}", self.results), Some(&key), &result, 0)
    }

    /// Takes an event, and then keeps the place behind it. A ping and the end have a place and no event.
    fn take(&mut self, cursor: &str, event: Option<&Value>) -> Result<(), ConsumerFailure> {
        if let Some(event) = event {
            self.work(event)?;
            let next = event["offset"].as_u64().ok_or("an event has an offset")? + 1;
            let commit = json!({"table": self.table, "partition": event["partition"], "offset": next});
            self.post(&format!("/consumers/{}/commit", self.group), None, &commit, 409)?;
            self.left = self.left.map(|left| left - 1);
        }
        let place = format!("{}.place", self.group);
        fs::write(format!("{place}.new"), cursor)?;
        Ok(fs::rename(format!("{place}.new"), place)?)
    }

    /// Follows the table until the stream breaks off or enough is done.
    fn follow(&mut self, cursor: &mut String) -> Result<(), ConsumerFailure> {
        let mut request = self.client.get(format!("{}/tables/{}", self.url, self.table));
        request = request.header("Accept", "text/event-stream");
        if !cursor.is_empty() {
            request = request.header("Last-Event-ID", cursor.as_str());
        }
        let Ok(answer) = request.send() else { return Ok(()) };
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::GONE => {
                let problem: Value = answer.json()?;
                *cursor = problem["next_cursor"].as_str().unwrap_or_default().to_owned();
                return Ok(());
            }
            StatusCode::NOT_FOUND => return Ok(()),
            status if may_pass(status) => return Ok(()),
            _ => return Err(answer.text()?.into()),
        }
        let (mut event, mut is_other) = (None, false);
        for line in BufReader::new(answer).lines() {
            let Ok(line) = line else { return Ok(()) };
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("id", id)) => id.clone_into(cursor),
                Some(("event", _)) => is_other = true,
                Some(("data", data)) => event = Some(serde_json::from_str::<Value>(data)?),
                None if line.is_empty() => {
                    self.take(cursor, event.take().filter(|_| !is_other).as_ref())?;
                    is_other = false;
                    if self.left == Some(0) {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), ConsumerFailure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("consumer URL TABLE RESULTS GROUP [COUNT]");
    let (url, table, results, group) = (next()?, next()?, next()?, next()?);
    let left = next().ok().map(|count| count.parse()).transpose()?;
    let mut cursor = fs::read_to_string(format!("{group}.place")).unwrap_or_default();
    // A stream has no end, so the client has no time-out; pings come every 15 seconds.
    let client = Client::builder().timeout(None).build()?;
    let mut consumer = Consumer { client, url, table, results, group, left };
    while consumer.left != Some(0) {
        consumer.follow(&mut cursor)?;
        sleep(PAUSE);
    }
    Ok(())
}

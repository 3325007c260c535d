//! Follows a table by server-sent events, over every break: it resumes behind the last event that it was
//! given, and passes over what it is sent again.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use contracts::name::TableName;
use reqwest::{
    Response,
    header::{ACCEPT, HeaderName, HeaderValue},
};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{
    ClientError, ClientRequest, ServerClient,
    retry::pause_after,
    sse::{SseItem, SseParser},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The server says something every 15 seconds; after so long without a word the connection is dead.
const SILENCE: Duration = Duration::from_secs(60);

/// What comes of following a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum TailItem {
    /// A record, as the server has written it.
    Record(String),
    /// Retention has overtaken the reader: it goes on behind a gap, for the reason that the server gave.
    Gap(String),
}

/// The place of a record.
#[derive(Debug, Deserialize)]
struct RecordPlace {
    partition: u32,
    offset: u64,
}

/// A table that is followed.
#[derive(Debug)]
pub(in crate::cli) struct Follower<'a> {
    client: &'a ServerClient,
    table: TableName,
    /// Of the first request, while there is no place yet.
    first: Vec<(String, String)>,
    /// Where it resumes.
    place: Option<String>,
    /// By partition, the first offset that was not given yet.
    next: HashMap<u32, u64>,
    stream: Option<Response>,
    parser: SseParser,
    ready: VecDeque<SseItem>,
    /// How often in a row a stream ended with nothing in it.
    fruitless: u32,
}

impl<'a> Follower<'a> {
    /// From a cursor; without one from where the parameters say.
    pub(in crate::cli) fn new(
        client: &'a ServerClient,
        table: TableName,
        first: Vec<(String, String)>,
        place: Option<String>,
    ) -> Self {
        Self {
            client,
            table,
            first,
            place,
            next: HashMap::new(),
            stream: None,
            parser: SseParser::default(),
            ready: VecDeque::new(),
            fruitless: 0,
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`ClientError`] if the server says no, or cannot be reached any more.
    pub(in crate::cli) async fn next(&mut self) -> Result<TailItem, ClientError> {
        loop {
            while let Some(item) = self.ready.pop_front() {
                if let Some(record) = self.take(item)? {
                    return Ok(TailItem::Record(record));
                }
            }
            let Some(stream) = &mut self.stream else {
                if let Some(gap) = self.open().await? {
                    return Ok(gap);
                }
                continue;
            };
            // However it ends, it is opened anew.
            match timeout(SILENCE, stream.chunk()).await {
                Ok(Ok(Some(piece))) => {
                    let ready = &mut self.ready;
                    let fed = self.parser.feed(&piece, |item| ready.push_back(item));
                    fed.map_err(|error| self.client.strange(&error))?;
                    self.fruitless = 0;
                }
                _ => {
                    self.stream = None;
                    self.parser = SseParser::default();
                    sleep(self.pause()).await;
                }
            }
        }
    }

    /// The pause before a stream that ended is opened anew, the longer the more often nothing came.
    fn pause(&mut self) -> Duration {
        let pause = pause_after(self.fruitless);
        self.fruitless += 1;
        pause
    }

    /// Opens a stream; says so if something was missed.
    async fn open(&mut self) -> Result<Option<TailItem>, ClientError> {
        let mut request = ClientRequest::get(format!("/tables/{}", self.table));
        request = request.header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        match &self.place {
            None => request.query.clone_from(&self.first),
            Some(place) => {
                let place = HeaderValue::from_str(place).map_err(|error| self.client.strange(&error))?;
                request = request.header(LAST_EVENT_ID, place);
            }
        }
        match self.client.open(&request).await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(None)
            }
            Err(error) => {
                let expired = error.refusal().filter(|refusal| refusal.code == "offset_expired");
                let moved = expired
                    .and_then(|refusal| Some((refusal.text("next_cursor")?.to_owned(), refusal.to_string())));
                let Some((next, why)) = moved else { return Err(error) };
                self.place = Some(next);
                Ok(Some(TailItem::Gap(why)))
            }
        }
    }

    /// The record of an event, unless it was given already.
    fn take(&mut self, item: SseItem) -> Result<Option<String>, ClientError> {
        let SseItem { name, data, id } = item;
        let record = match data {
            Some(data) if name == "message" => {
                let RecordPlace { partition, offset } =
                    serde_json::from_str(&data).map_err(|error| self.client.strange(&error))?;
                let next = self.next.entry(partition).or_insert(0);
                let is_new = offset >= *next;
                *next = (*next).max(offset.saturating_add(1));
                is_new.then_some(data)
            }
            _ => None,
        };
        if id.is_some() {
            self.place = id;
        }
        Ok(record)
    }
}

//! Pages of a table: each continues at the cursor of the one before.

use contracts::name::TableName;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ClientError, ClientRequest, ServerClient};

/// Records of a page that is asked for, unless the server's settings say that they are too many.
const PAGE_RECORDS: u64 = 1000;

/// Offsets that were lost with a volume, as a page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(in crate::cli) struct LostOffsets {
    pub(in crate::cli) partition: u32,
    /// The first offset.
    pub(in crate::cli) start: u64,
    /// The first offset after them.
    pub(in crate::cli) end: u64,
}

/// A page of a table.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct FetchedPage {
    /// The records as the server has written them.
    pub(in crate::cli) records: Vec<Box<RawValue>>,
    /// Whether another page could be read now.
    pub(in crate::cli) has_more: bool,
    /// Where the next page begins.
    pub(in crate::cli) next_cursor: Option<String>,
    /// What was passed over.
    #[serde(default)]
    pub(in crate::cli) lost: Vec<LostOffsets>,
}

/// Reads a table, page by page.
#[derive(Debug)]
pub(in crate::cli) struct PageReader<'a> {
    client: &'a ServerClient,
    table: TableName,
    /// Of the first page; the cursor has them for the others.
    first: Vec<(String, String)>,
    cursor: Option<String>,
    /// How many records a page is asked for.
    most: u64,
    /// How many records are still wanted, if not all.
    left: Option<u64>,
    is_at_end: bool,
}

impl<'a> PageReader<'a> {
    /// From where the parameters say, at most `limit` records.
    pub(in crate::cli) fn new(
        client: &'a ServerClient,
        table: TableName,
        first: Vec<(String, String)>,
        limit: Option<u64>,
    ) -> Self {
        let is_at_end = limit == Some(0);
        Self { client, table, first, cursor: None, most: PAGE_RECORDS, left: limit, is_at_end }
    }

    /// From a cursor, which has the parameters of the read that it came from.
    pub(in crate::cli) fn at(mut self, cursor: Option<String>) -> Self {
        self.cursor = cursor;
        self
    }

    /// The next page; none at the end of what can be read now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(in crate::cli) async fn next(&mut self) -> Result<Option<FetchedPage>, ClientError> {
        if self.is_at_end {
            return Ok(None);
        }
        let page: FetchedPage = loop {
            let answered = self.client.ask_json(&self.request()).await;
            match answered {
                Ok(page) => break page,
                Err(error) if self.asks_for_less(&error) => {}
                Err(error) => return Err(error),
            }
        };
        let count = page.records.len() as u64;
        self.left = self.left.map(|left| left.saturating_sub(count));
        self.is_at_end = !page.has_more || self.left == Some(0) || page.next_cursor.is_none();
        self.cursor.clone_from(&page.next_cursor);
        Ok(Some(page))
    }

    fn request(&self) -> ClientRequest {
        let mut request = ClientRequest::get(format!("/tables/{}", self.table));
        match &self.cursor {
            Some(cursor) => request = request.with("cursor", cursor),
            None => request.query.clone_from(&self.first),
        }
        // The last events are asked for by their number, which is a limit of its own.
        if request.query.iter().any(|(name, _)| name == "last") {
            return request;
        }
        request.with("limit", self.left.map_or(self.most, |left| left.min(self.most)))
    }

    /// Whether the server, whose settings nobody knows here, may take less than what was asked for: as much as
    /// it says, or half.
    fn asks_for_less(&mut self, error: &ClientError) -> bool {
        let Some(refusal) = error.refusal().filter(|refusal| refusal.code == "bad_limit") else {
            return false;
        };
        let limit = refusal.number("limit");
        let less_than = |asked: u64| limit.filter(|limit| *limit < asked).unwrap_or(asked / 2);
        let last = self.first.iter_mut().find(|(name, _)| name == "last" && self.cursor.is_none());
        match last {
            Some((_, number)) => {
                let less = less_than(number.parse().unwrap_or(0));
                *number = less.to_string();
                less > 0
            }
            None => {
                self.most = less_than(self.left.map_or(self.most, |left| left.min(self.most)));
                self.most > 0
            }
        }
    }

    /// How many of the last events were asked for in the end, if it was by their number.
    pub(in crate::cli) fn last(&self) -> Option<u64> {
        self.first.iter().find(|(name, _)| name == "last").and_then(|(_, number)| number.parse().ok())
    }

    /// Where it goes on.
    pub(in crate::cli) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

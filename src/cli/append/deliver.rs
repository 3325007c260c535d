//! Batches are sent until they are acknowledged, or refused for good.

use std::iter;

use contracts::name::TableName;
use reqwest::Method;
use serde::Deserialize;

use super::batch::PreparedRecord;
use crate::cli::{
    answer::Unanswered,
    client::{ClientError, ClientRequest, ServerClient},
};

/// What was acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DeliveryTotals {
    /// Events, duplicates included.
    pub(super) count: u64,
    /// How many of them were stored before.
    pub(super) duplicates: u64,
    /// Bytes of the input.
    pub(super) bytes: u64,
    /// Lines of erased events, which are not sent.
    pub(super) erased: u64,
}

/// Where batches go.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    pub(super) client: &'a ServerClient,
    pub(super) table: &'a TableName,
    pub(super) partition: Option<u32>,
    /// The next offset of the partition, if it must be that.
    pub(super) expected_offset: Option<u64>,
    pub(super) totals: DeliveryTotals,
}

/// The answer to a bulk write.
#[derive(Debug, Deserialize)]
struct BulkAnswer {
    offsets: Vec<u64>,
    duplicates: u64,
}

impl Delivery<'_> {
    /// Sends a batch, in parts if the server wants it so.
    ///
    /// # Errors
    /// [`Unanswered`] with the number of the line that is refused, if the server says which.
    pub(super) async fn deliver(&mut self, batch: &[PreparedRecord]) -> Result<(), Unanswered> {
        let mut parts: Vec<_> = iter::once(batch).collect();
        while let Some(part) = parts.pop() {
            match self.send(part).await {
                Ok(answer) => self.count(&answer, part),
                Err(error) => match first_part(&error, part.len(), self.expected_offset) {
                    Some(first) => {
                        let (first, rest) = part.split_at(first);
                        parts.extend([rest, first]);
                    }
                    None => return Err(of_line(error, part)),
                },
            }
        }
        Ok(())
    }

    async fn send(&self, records: &[PreparedRecord]) -> Result<BulkAnswer, ClientError> {
        let mut body = b"{\"records\":[".to_vec();
        body.reserve(records.iter().map(|record| record.json.len() + 1).sum());
        for (place, record) in records.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&record.json);
        }
        body.extend_from_slice(b"]}");
        let request = ClientRequest::new(Method::POST, format!("/tables/{}/bulk", self.table)).json(body);
        let request = request.with_some("expected_offset", self.expected_offset);
        self.client.ask_json(&request.in_partition(self.partition)).await
    }

    fn count(&mut self, answer: &BulkAnswer, records: &[PreparedRecord]) {
        self.totals.count += records.len() as u64;
        self.totals.duplicates += answer.duplicates;
        self.totals.bytes += records.iter().map(|record| record.bytes).sum::<u64>();
        if self.expected_offset.is_some() {
            self.expected_offset = answer.offsets.iter().max().map(|last| last.saturating_add(1));
        }
    }
}

/// How many events of a part that was refused may be taken by themselves.
fn first_part(error: &ClientError, length: usize, expected_offset: Option<u64>) -> Option<usize> {
    let refusal = error.refusal()?;
    let first = match (refusal.status.as_u16(), refusal.code.as_str()) {
        // Some event of it is too large by itself.
        (413, "record_too_large" | "too_many_headers") => return None,
        (413, _) => length / 2,
        // So many stand there already: if they are ours, of a run before, they are duplicates.
        (_, "offset_mismatch") => {
            usize::try_from(refusal.number("next")?.checked_sub(expected_offset?)?).ok()?
        }
        _ => return None,
    };
    (0 < first && first < length).then_some(first)
}

/// The refusal with the line that it is about, and what to do where that is not plain.
fn of_line(error: ClientError, records: &[PreparedRecord]) -> Unanswered {
    let Some(refusal) = error.refusal() else { return error.into() };
    let index = refusal.number("index").and_then(|index| usize::try_from(index).ok());
    let record = match (index, records) {
        (Some(index), _) => records.get(index),
        // Sent by itself, and too large for a request.
        (None, [only]) if refusal.status.as_u16() == 413 => Some(only),
        _ => None,
    };
    let Some(record) = record else { return error.into() };
    let cure = match refusal.code.as_str() {
        "idempotency_key_reused" => {
            "; if another input of the same name was appended before, name this one with --source"
        }
        _ => "",
    };
    Unanswered::Failed(format!("line {}: {error}{cure}", record.line))
}

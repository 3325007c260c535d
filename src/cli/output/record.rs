//! An event as it is shown: its columns, its name, and its payload as it was sent.

use std::{borrow::Cow, collections::BTreeMap, io};

use base64::{Engine, prelude::BASE64_STANDARD};
use contracts::{clock::TimestampMs, payload};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::table::{Column, ShownItem};
use crate::cli::times;

/// The columns of events. Those that have a least width stand below each other in a tail, too.
pub(super) const COLUMNS: &[Column] = &[
    Column::number("partition").at_least(9),
    Column::number("offset").at_least(6),
    Column::text("time").at_least(24),
    Column::text("key").at_least(3),
    Column::wide("idempotency key"),
    Column::wide("headers"),
    Column::text("payload"),
];

/// What is shown of a record.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct ShownRecord<'a> {
    #[serde(borrow, default, deserialize_with = "payload::present")]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    payload_base64: Option<Cow<'a, str>>,
    timestamp_ms: TimestampMs,
    partition: u32,
    pub(in crate::cli) offset: u64,
    key: Option<String>,
    idempotency_key: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    /// Its payload was erased.
    #[serde(default)]
    erased: bool,
}

impl<'a> ShownRecord<'a> {
    /// Reads a record.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::cli) fn parse(record: &'a RawValue) -> io::Result<Self> {
        serde_json::from_str(record.get()).map_err(|error| {
            io::Error::other(format!("the server has sent something that is no record: {error}"))
        })
    }

    /// The payload's bytes, as they were sent; none if they were erased.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::cli) fn payload(&self) -> io::Result<Cow<'a, [u8]>> {
        match (self.payload, &self.payload_base64) {
            _ if self.erased => Ok(Cow::Borrowed(b"")),
            (Some(json), _) if json.get().starts_with('"') => {
                let text: String = serde_json::from_str(json.get())?;
                Ok(Cow::Owned(text.into_bytes()))
            }
            (Some(json), _) => Ok(Cow::Borrowed(json.get().as_bytes())),
            (None, Some(base64)) => {
                let bytes = BASE64_STANDARD.decode(base64.as_bytes()).map_err(io::Error::other)?;
                Ok(Cow::Owned(bytes))
            }
            (None, None) => Ok(Cow::Borrowed(b"")),
        }
    }

    /// What is printed of it; `json` is the record itself.
    pub(super) fn item(&self, table: &str, json: &str) -> io::Result<ShownItem> {
        let payload = match &self.payload_base64 {
            Some(base64) => format!("base64:{base64}"),
            None if self.erased => "(erased)".to_owned(),
            None => String::from_utf8_lossy(&self.payload()?).into_owned(),
        };
        let headers = self.headers.iter().flatten().map(|(name, value)| format!("{name}={value}"));
        let headers: Vec<String> = headers.collect();
        Ok(ShownItem {
            name: format!("{table}/{}/{}", self.partition, self.offset),
            json: json.to_owned(),
            cells: vec![
                self.partition.to_string(),
                self.offset.to_string(),
                times::shown(self.timestamp_ms),
                self.key.clone().unwrap_or_default(),
                self.idempotency_key.clone().unwrap_or_default(),
                headers.join(" "),
                payload,
            ],
        })
    }
}

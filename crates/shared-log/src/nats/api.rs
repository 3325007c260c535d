//! What is asked of JetStream, in its own JSON API: all of it is answered by the leader of the stream.

use std::time::Duration;

use async_nats::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use contracts::shared_log::{EntryKind, LogSeq};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    connect::{ANSWER_TIMEOUT, CallError, NatsConnection, Outgoing},
    name::StreamName,
    parts::PartNumber,
};

/// How long a purge may take, which goes through the quorum.
const PURGE_TIMEOUT: Duration = Duration::from_secs(5);
/// "no message found"
const NO_MESSAGE: u64 = 10037;
/// "stream not found"
const NO_STREAM: u64 = 10059;

/// A log's stream, and the connection to it.
pub(super) struct StreamApi {
    pub(super) connection: NatsConnection,
    pub(super) name: StreamName,
}

/// A message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredMessage {
    pub(super) seq: LogSeq,
    pub(super) subject: String,
    pub(super) part: PartNumber,
    pub(super) data: Bytes,
}

impl StoredMessage {
    /// The number of the entry that it is of.
    pub(super) fn number(&self) -> LogSeq {
        LogSeq(self.seq.0 + (self.part.of - self.part.number))
    }
}

/// The stream's settings, and how far it is.
#[derive(Debug, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: Value,
    state: StreamState,
}

#[derive(Debug, Deserialize)]
struct StreamState {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
}

impl StreamInfo {
    /// The first message that there is, or the next one if there is none.
    pub(super) fn first(&self) -> LogSeq {
        if self.state.messages == 0 { self.last().next() } else { LogSeq(self.state.first_seq) }
    }

    /// The last message that there ever was.
    pub(super) fn last(&self) -> LogSeq {
        LogSeq(self.state.last_seq)
    }

    /// Bytes of all messages.
    pub(super) fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// The most bytes that it may have.
    pub(super) fn max_bytes(&self) -> u64 {
        self.config["max_bytes"].as_u64().unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ApiError {
    pub(super) err_code: u64,
    pub(super) description: String,
}

#[derive(Deserialize)]
struct Failed {
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Got {
    message: GotMessage,
}

#[derive(Deserialize)]
struct GotMessage {
    seq: u64,
    subject: String,
    /// Base64, as is `data`; an empty one is left out.
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct DoneAsAsked {}

#[derive(Deserialize)]
struct StreamNames {
    /// Null if there is none.
    streams: Option<Vec<String>>,
}

impl StreamApi {
    /// The message at a place; none if it is not there: not yet, or no more.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn get(&self, seq: LogSeq) -> Result<Option<StoredMessage>, CallError> {
        self.look_up(&json!({ "seq": seq.0 })).await
    }

    /// The first message at a place or behind it; none if there is none.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn get_from(&self, seq: LogSeq) -> Result<Option<StoredMessage>, CallError> {
        self.look_up(&json!({ "seq": seq.0, "next_by_subj": ">" })).await
    }

    /// The last message of a kind.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn last_of(&self, kind: EntryKind) -> Result<Option<StoredMessage>, CallError> {
        self.look_up(&json!({ "last_by_subj": self.name.subject(kind) })).await
    }

    /// How far the stream is.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn info(&self) -> Result<StreamInfo, CallError> {
        self.call("INFO", &Value::Null, ANSWER_TIMEOUT).await
    }

    /// The same, if there is such a stream.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn find(&self) -> Result<Option<StreamInfo>, CallError> {
        unless(NO_STREAM, self.info().await)
    }

    /// Makes the stream, or changes it: `CREATE`, `UPDATE`.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn configure(
        &self,
        verb: &str,
        config: &Value,
        within: Duration,
    ) -> Result<StreamInfo, CallError> {
        self.call(verb, config, within).await
    }

    /// Forgets what is before a place.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn purge_before(&self, seq: LogSeq) -> Result<(), CallError> {
        let DoneAsAsked {} = self.call("PURGE", &json!({ "seq": seq.0 }), PURGE_TIMEOUT).await?;
        Ok(())
    }

    /// Deletes the stream; whether there was one.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn delete(&self) -> Result<bool, CallError> {
        let deleted: Result<DoneAsAsked, CallError> = self.call("DELETE", &Value::Null, PURGE_TIMEOUT).await;
        Ok(unless(NO_STREAM, deleted)?.is_some())
    }

    /// The generations of the log that there are streams of, in order.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn generations(&self) -> Result<Vec<u32>, CallError> {
        let wanted = json!({ "subject": self.name.subject_of_any() });
        let StreamNames { streams } = self.request("NAMES".to_owned(), &wanted, ANSWER_TIMEOUT).await?;
        let named = streams.unwrap_or_default();
        let mut generations: Vec<u32> =
            named.iter().filter_map(|stream| self.name.generation_of(stream)).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    async fn look_up(&self, which: &Value) -> Result<Option<StoredMessage>, CallError> {
        let got = unless(NO_MESSAGE, self.call("MSG.GET", which, ANSWER_TIMEOUT).await)?;
        got.map(|Got { message }| decoded(message)).transpose()
    }

    /// Asks something of the stream.
    async fn call<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &Value,
        within: Duration,
    ) -> Result<T, CallError> {
        self.request(format!("{verb}.{}", self.name.stream()), body, within).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        what: String,
        body: &Value,
        within: Duration,
    ) -> Result<T, CallError> {
        let payload = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let asked = vec![Outgoing { payload, ..Outgoing::default() }];
        let message = self.connection.ask(format!("$JS.API.STREAM.{what}"), asked, within).await?;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(CallError::Refused { code: 503, what: "nobody there has JetStream".to_owned() });
        }
        parsed(&message.payload)
    }
}

/// None where an answer is this error.
fn unless<T>(code: u64, answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Err(CallError::Refused { code: other, .. }) if other == code => Ok(None),
        answer => answer.map(Some),
    }
}

fn strange(why: impl std::fmt::Display) -> CallError {
    CallError::Strange(why.to_string())
}

fn parsed<T: DeserializeOwned>(answer: &[u8]) -> Result<T, CallError> {
    // The error first: an answer that has one may lack all else.
    if let Some(error) = serde_json::from_slice::<Failed>(answer).map_err(strange)?.error {
        return Err(CallError::Refused { code: error.err_code, what: error.description });
    }
    serde_json::from_slice(answer).map_err(strange)
}

fn decoded(message: GotMessage) -> Result<StoredMessage, CallError> {
    let headers = STANDARD.decode(&message.hdrs).map_err(strange)?;
    let part = PartNumber::of_headers(&String::from_utf8_lossy(&headers)).map_err(strange)?;
    let data = STANDARD.decode(&message.data).map_err(strange)?.into();
    Ok(StoredMessage { seq: LogSeq(message.seq), subject: message.subject, part, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(answer: &str) -> Result<StoredMessage, CallError> {
        parsed(answer.as_bytes()).and_then(|Got { message }| decoded(message))
    }

    #[test]
    fn a_message_is_decoded() {
        let hdrs = STANDARD.encode("NATS/1.0\r\nZombi-Part: 2/6\r\n\r\n");
        let got =
            get(&json!({"message": {"seq": 4, "subject": "s", "hdrs": hdrs, "data": "YQ=="}}).to_string());
        let part = PartNumber { number: 2, of: 6 };
        let expected = StoredMessage { seq: LogSeq(4), subject: "s".to_owned(), part, data: "a".into() };
        let got = got.unwrap();
        assert_eq!((got.number(), got), (LogSeq(8), expected));
        let bare = get(r#"{"message":{"seq":1,"subject":"s","time":"2026-11-27T00:00:00Z"}}"#).unwrap();
        assert_eq!((bare.part, bare.data), (PartNumber::WHOLE, Bytes::new()));
    }

    #[test]
    fn an_error_is_told_from_what_nobody_understands() {
        let refused = r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
        assert!(matches!(unless(NO_MESSAGE, get(refused)), Ok(None)));
        assert!(matches!(unless(NO_STREAM, get(refused)), Err(CallError::Refused { code: NO_MESSAGE, .. })));
        for strange in ["", "{}", r#"{"message":{"seq":1,"subject":"s","data":"?"}}"#] {
            assert!(matches!(get(strange), Err(CallError::Strange(_))), "{strange}");
        }
    }

    #[test]
    fn names_of_streams_may_be_none() {
        for (answer, count) in [(r#"{"streams":["A","B"]}"#, 2), (r#"{"streams":null}"#, 0), ("{}", 0)] {
            let names: StreamNames = parsed(answer.as_bytes()).unwrap();
            assert_eq!(names.streams.unwrap_or_default().len(), count, "{answer}");
        }
    }

    #[test]
    fn an_empty_stream_begins_with_what_comes_next() {
        let info = |messages, first| -> StreamInfo {
            let state = json!({"messages": messages, "bytes": 0, "first_seq": first, "last_seq": 28});
            serde_json::from_value(json!({"config": {"max_bytes": 5}, "state": state})).unwrap()
        };
        assert_eq!(info(0, 0).first(), LogSeq(29));
        assert_eq!(info(20, 9).first(), LogSeq(9));
        assert_eq!((info(1, 28).last(), info(1, 28).max_bytes()), (LogSeq(28), 5));
    }
}

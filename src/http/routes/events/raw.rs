//! `POST /tables/{table}/raw`: the body is the payload, or its lines or elements are.

use axum::{extract::State, response::Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer::{AnswerForm, WriteAnswer},
    append::{Envelope, WriteCall, WriteOptions, check_table},
    cloudevents::without_attributes,
    stream::{self, StreamSource},
    write::{read, without_lines},
};
use crate::auth::caller::Caller;
use crate::http::{
    body::Incoming,
    code::Code,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::Table,
    media::{BinaryBody, MediaKind},
    params::{OffsetParam, OnErrorParam, Params, PartitionParam, SplitParam, TimeParam, WaitForParam},
    records::{RawEnvelope, either},
    state::AppState,
};

/// Parameters of a raw write.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RawParams {
    /// `array`: each element of the body, a JSON array, is an event
    #[param(inline)]
    split: Option<SplitParam>,
    /// The partition of the events
    #[param(inline)]
    partition: Option<PartitionParam>,
    /// The key of the events
    #[param(min_length = 1, max_length = 1024)]
    key: Option<String>,
    /// When the events happened: milliseconds since 1970, or RFC 3339
    #[param(inline)]
    timestamp: Option<TimeParam>,
    /// The idempotency key of the event; of several each has its place behind it: `KEY/0`
    #[param(min_length = 1, max_length = 1024)]
    idempotency_key: Option<String>,
    /// Write only if this is the next offset of the one partition written to
    #[param(inline)]
    expected_offset: Option<OffsetParam>,
    /// `cold`: answer when the events are in S3
    #[param(inline)]
    wait_for: Option<WaitForParam>,
    /// `skip`: leave out the bad lines of a stream, and list them in the answer
    #[param(inline)]
    on_error: Option<OnErrorParam>,
}

/// Write a body as it is.
///
/// One body is one event: JSON by its content type is a JSON payload, byte for byte, `text/*` is text,
/// anything else is bytes. With `split=array` each element of a JSON array is an event, all or nothing. Of
/// JSON lines each line is an event; they are stored as they arrive.
#[utoipa::path(
    post,
    path = "/tables/{table}/raw",
    tag = "events",
    params(
        Table,
        RawParams,
        ("Zombi-Partition" = Option<u64>, Header, description = "The partition, if the query names none"),
        ("Zombi-Key" = Option<String>, Header, description = "The key, if the query names none"),
        ("Zombi-Timestamp" = Option<String>, Header, description = "The time, if the query names none"),
        (
            "Idempotency-Key" = Option<String>,
            Header,
            description = "The idempotency key, if the query names none",
        ),
    ),
    request_body(content(
        (serde_json::Value = "application/json"),
        (String = "text/plain"),
        (BinaryBody = "application/octet-stream"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 201, description = "On disk", body = WriteAnswer),
        (
            status = 200,
            description = "Known already: nothing is written. Or a stream with `on_error=skip`",
            body = WriteAnswer,
        ),
        (
            status = 202,
            description = "With `durability = os`: the operating system has it",
            body = WriteAnswer,
        ),
        (status = 204, description = "On disk or known already, with `Prefer: return=minimal`"),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn write_raw(
    State(state): State<AppState>,
    Table(table): Table,
    Params(params): Params<RawParams>,
    caller: Caller,
    incoming: Incoming,
) -> Result<Response, Problem> {
    let (expected_offset, wait_for) = (params.expected_offset.as_ref(), params.wait_for.as_ref());
    let options = WriteOptions::check(&state, &caller, expected_offset, wait_for)?;
    params.split.as_ref().map_or(Ok(()), SplitParam::check)?;
    check_table(&state, &table)?;
    without_attributes(&incoming.headers)?;
    let kind = MediaKind::of_body(&incoming.headers);
    let mut envelope = Envelope::of(&incoming, &state)?;
    let raw = RawEnvelope::of(&incoming.headers, &state.raw, &state.limits)?;
    let raw = raw.with_query(params.key, params.timestamp.as_ref().map(|param| param.0.as_str()))?;
    let partition = params.partition.map(|param| param.number(&state.limits)).transpose()?;
    envelope.partition = either(Code::BadPartition, "partition", partition, envelope.partition)?;
    envelope.idempotency_key =
        either(Code::BadQuery, "idempotency_key", params.idempotency_key, envelope.idempotency_key)?;
    let on_error = params.on_error.as_ref();
    if let (bytes, true) = incoming.announced() {
        let parser = envelope.parser(&state);
        parser.check_raw(&raw).map_err(|problem| problem.at_index(0))?;
        let is_one = kind != MediaKind::Lines && params.split.is_none();
        parser.check_size(bytes.filter(|_| is_one).unwrap_or(0)).map_err(|problem| problem.at_index(0))?;
    }
    if kind == MediaKind::Lines && params.split.is_none() {
        let source = StreamSource::payloads(envelope.for_a_stream(&state.limits)?, raw, on_error, &caller)?;
        // Boxed: the others must not have room for it.
        return Box::pin(stream::write(&state, &table, options.without_offset()?, source, incoming)).await;
    }
    without_lines(on_error)?;
    if kind == MediaKind::Lines {
        return Err(Problem::new(
            Code::BadQuery,
            "split=array goes with an array, and lines are split already",
        ));
    }
    let form = AnswerForm::preferred(&incoming);
    let connection = incoming.connection();
    let call = WriteCall { state: &state, table: &table, options, caller: &caller, connection };
    let (body, mut share) = incoming.receive(&state.limits, &state.inflight).await?;
    let parser = envelope.parser(&state);
    if params.split.is_some() {
        let events = read(body, |body| parser.raw_elements(body, &raw, &mut share))?;
        return call.several(events, share, form).await;
    }
    let event = parser.raw_event(kind, body, &raw).map_err(|problem| problem.at_index(0))?;
    call.one(event, share, form).await
}

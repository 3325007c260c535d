//! `POST /tables/{table}`: one event, a stream of them, or CloudEvents.

use axum::{extract::State, response::Response};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer::{AnswerForm, WriteAnswer},
    append::{Envelope, WriteCall, WriteOptions, check_table},
    cloudevents,
    stream::{self, StreamSource},
};
use crate::http::{
    body::Incoming,
    code::Code,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::{self, Encoding, Table},
    media::BinaryBody,
    params::{OffsetParam, OnErrorParam, Params, WaitForParam},
    records::{CloudEventMode, CloudEventToWrite, EventToWrite},
    scope::RouteRequest,
    state::AppState,
};

/// The message that a protobuf body is.
const MESSAGE: &str = "zombi.v1.Event";

/// Parameters of a write.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteParams {
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

/// Write an event, or a stream of them.
///
/// The answer means that the events are on disk. A stream is stored in batches as it arrives. A bad line
/// ends it, and the problem says its `line` and how many lines are `committed`; with `on_error=skip` it is
/// left out. CloudEvents are taken in all three modes, and answered without a body unless `Accept` names
/// JSON.
#[utoipa::path(
    post,
    path = "/tables/{table}",
    tag = "events",
    params(
        Table,
        WriteParams,
        ("X-Partition" = Option<u64>, Header, description = "The partition of events that name none"),
        (
            "Idempotency-Key" = Option<String>,
            Header,
            description = "The key of an event that has none; in a stream with the event's place behind it: \
                           `KEY/0`",
        ),
    ),
    request_body(content(
        (EventToWrite = "application/json"),
        (BinaryBody = "application/x-protobuf"),
        (String = "application/x-ndjson"),
        (CloudEventToWrite = "application/cloudevents+json"),
        (Vec<CloudEventToWrite> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 201, description = "On disk", body = WriteAnswer),
        (status = 200, description = "Known already: nothing is written", body = WriteAnswer),
        (status = 202, description = "With `durability = os`: the operating system has it", body = WriteAnswer),
        (status = 204, description = "CloudEvents that are on disk or known already"),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn write(State(state): State<AppState>, request: RouteRequest) -> Result<Response, Problem> {
    let Table(table) = Table::of(&request.parts.uri, &request.scope)?;
    let Params::<WriteParams>(params) = Params::of(&request.parts.uri)?;
    let caller = request.scope.caller.clone();
    let incoming = Incoming::of(request)?;
    let (expected_offset, wait_for) = (params.expected_offset.as_ref(), params.wait_for.as_ref());
    let options = WriteOptions::check(&state, &caller, expected_offset, wait_for)?;
    check_table(&state, &table)?;
    let connection = incoming.connection();
    let call = WriteCall { state: &state, table: &table, options, caller: &caller, connection };
    if let Some(mode) = CloudEventMode::of(&incoming.headers)? {
        without_lines(params.on_error.as_ref())?;
        // Boxed, as streams are: single writes must not have room for them.
        return Box::pin(cloudevents::write(call, mode, incoming)).await;
    }
    let encoding = extract::encoding(&incoming.headers)?;
    let envelope = Envelope::of_records(&incoming, &state)?;
    if encoding == Encoding::Ndjson {
        let source =
            StreamSource::records(envelope.for_a_stream(&state.limits)?, params.on_error.as_ref(), &caller)?;
        return Box::pin(stream::write(&state, &table, options.without_offset()?, source, incoming)).await;
    }
    without_lines(params.on_error.as_ref())?;
    if encoding == Encoding::Protobuf {
        extract::message_type(&incoming.headers, MESSAGE)?;
    }
    let form = AnswerForm::preferred(&incoming);
    let (body, share) = incoming.receive(&state.limits, &state.inflight).await?;
    let parser = envelope.parser(&state);
    let event = match encoding {
        Encoding::Protobuf => parser.protobuf_event(body),
        _ => read(body, |body| parser.json_event(body)),
    };
    // It is the only event, so it is the one that is wrong.
    let event = event.map_err(|problem| problem.at_index(0))?;
    call.one(event, share, form).await
}

/// Reads a body and drops it, so that a request that waits for the disk or for S3 does not hold it.
pub(super) fn read<T>(body: Bytes, read: impl FnOnce(&[u8]) -> T) -> T {
    read(&body)
}

/// Refuses `on_error` where there are no lines.
///
/// # Errors
/// 400.
pub(super) fn without_lines(on_error: Option<&OnErrorParam>) -> Result<(), Problem> {
    match on_error {
        None => Ok(()),
        Some(_) => Err(Problem::new(Code::BadQuery, "on_error goes with streams of lines")),
    }
}

//! `POST /tables/{table}/bulk`: many events, all or nothing.

use axum::{extract::State, response::Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer::{AnswerForm, BulkWritten},
    append::{Envelope, WriteCall, WriteOptions, check_table},
    cloudevents::without_attributes,
    write::read,
};
use crate::http::{
    body::Incoming,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::{self, Encoding, Table},
    media::BinaryBody,
    params::{OffsetParam, Params, WaitForParam},
    records::BulkToWrite,
    scope::RouteRequest,
    state::AppState,
};

/// The message that a protobuf body is.
const MESSAGE: &str = "zombi.v1.BulkWriteRequest";

/// Parameters of a bulk write.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BulkParams {
    /// Write only if this is the next offset of the one partition written to
    #[param(inline)]
    expected_offset: Option<OffsetParam>,
    /// `cold`: answer when the events are in S3
    #[param(inline)]
    wait_for: Option<WaitForParam>,
}

/// Write up to 10,000 events, all or nothing.
#[utoipa::path(
    post,
    path = "/tables/{table}/bulk",
    tag = "events",
    params(
        Table,
        BulkParams,
        ("X-Partition" = Option<u64>, Header, description = "The partition of events that name none"),
        (
            "Idempotency-Key" = Option<String>,
            Header,
            description = "The key of events that have none, with their place behind it: `KEY/0`",
        ),
    ),
    request_body(content(
        (BulkToWrite = "application/json"),
        (BinaryBody = "application/x-protobuf"),
    )),
    responses(
        (status = 201, description = "On disk", body = BulkWritten),
        (status = 200, description = "All known already: nothing is written", body = BulkWritten),
        (
            status = 202,
            description = "With `durability = os`: the operating system has them",
            body = BulkWritten,
        ),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn write_bulk(
    State(state): State<AppState>,
    request: RouteRequest,
) -> Result<Response, Problem> {
    let Table(table) = Table::of(&request.parts.uri, &request.scope)?;
    let Params::<BulkParams>(params) = Params::of(&request.parts.uri)?;
    let caller = request.scope.caller.clone();
    let incoming = Incoming::of(request)?;
    let (expected_offset, wait_for) = (params.expected_offset.as_ref(), params.wait_for.as_ref());
    let options = WriteOptions::check(&state, &caller, expected_offset, wait_for)?;
    check_table(&state, &table)?;
    if !incoming.has_usual_head {
        without_attributes(&incoming.headers)?;
    }
    let encoding = extract::encoding(&incoming.headers)?;
    let envelope = Envelope::of_records(&incoming, &state)?;
    match encoding {
        Encoding::Json => {}
        Encoding::Protobuf => extract::message_type(&incoming.headers, MESSAGE)?,
        Encoding::Ndjson => {
            return Err(extract::unsupported(
                "a bulk write is application/json or application/x-protobuf; POST /tables/{table} takes \
                 application/x-ndjson",
            ));
        }
    }
    let form = AnswerForm::preferred(&incoming);
    let connection = incoming.connection();
    let (body, mut share) = incoming.receive(&state.limits, &state.inflight).await?;
    let parser = envelope.parser(&state);
    let events = match encoding {
        Encoding::Protobuf => parser.protobuf_bulk(body, &mut share)?,
        _ => read(body, |body| parser.json_bulk(body, &mut share))?,
    };
    let call = WriteCall { state: &state, table: &table, options, caller: &caller, connection };
    call.several(events, share, form).await
}

//! CloudEvents on `POST /tables/{table}`, and the handshake that webhooks begin with.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    answer::AnswerForm,
    append::{Envelope, WriteCall},
};
use crate::http::{
    accept,
    body::Incoming,
    code::Code,
    error::Problem,
    extract::OpenTable,
    records::{CloudEventHead, CloudEventMode},
};

const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// Refuses CloudEvents in binary mode, whose headers nobody would read there. Those in other formats than JSON
/// are bytes.
///
/// # Errors
/// 400.
pub(super) fn without_attributes(headers: &HeaderMap) -> Result<(), Problem> {
    match CloudEventMode::of(headers) {
        Ok(Some(CloudEventMode::Binary)) => Err(Problem::new(
            Code::BadRequest,
            "the attributes of a CloudEvent in ce- headers would be lost here: POST it to /tables/{table}",
        )),
        Err(problem) if problem.code() != Code::UnsupportedMediaType => Err(problem),
        _ => Ok(()),
    }
}

/// Appends CloudEvents: one, or a batch that is all or nothing. The answer has no body unless the client
/// names JSON in `Accept`: a broker would take a body that is no CloudEvent for a failure, and send the event
/// again.
pub(super) async fn write(
    call: WriteCall<'_>,
    mode: CloudEventMode,
    incoming: Incoming,
) -> Result<Response, Problem> {
    let state = call.state;
    let envelope = Envelope::of_records(&incoming, state)?;
    let form = if accept::names_json(&incoming.headers) {
        AnswerForm::preferred(&incoming)
    } else {
        AnswerForm::Headers
    };
    if mode == CloudEventMode::Binary {
        // It is the only event, so it is the one that is wrong.
        let head = CloudEventHead::of_headers(&incoming.headers, &state.limits);
        let head = head.map_err(|problem| problem.at_index(0))?;
        if let (bytes, true) = incoming.announced() {
            // What the head decides is said before the client sends the body.
            let parser = envelope.parser(state);
            let checked = parser.check_size(bytes.unwrap_or(0));
            let checked =
                checked.and_then(|()| parser.binary_cloud_event(head.clone(), Bytes::new()).map(drop));
            checked.map_err(|problem| problem.at_index(0))?;
        }
        let (body, share) = incoming.receive(&state.limits, &state.inflight).await?;
        let event = envelope.parser(state).binary_cloud_event(head, body);
        let event = event.map_err(|problem| problem.at_index(0))?;
        return call.one(event, share, form).await;
    }
    let (body, mut share) = incoming.receive(&state.limits, &state.inflight).await?;
    if mode.seen_in(&body) == CloudEventMode::Batch {
        let events = envelope.parser(state).cloud_event_batch(&body, &mut share)?;
        drop(body);
        return call.several(events, share, form).await;
    }
    let event = envelope.parser(state).structured_cloud_event(&body);
    let event = event.map_err(|problem| problem.at_index(0))?;
    drop(body);
    call.one(event, share, form).await
}

/// `OPTIONS /tables/{table}`: agrees to deliveries, if a sender of webhooks asks for that. It lets nobody in:
/// each delivery is checked by itself.
pub(crate) async fn handshake(_: OpenTable, headers: HeaderMap) -> Response {
    agree(&headers, "POST,GET,HEAD,DELETE")
}

/// `OPTIONS /tables/{table}/raw`: the same.
pub(crate) async fn raw_handshake(_: OpenTable, headers: HeaderMap) -> Response {
    agree(&headers, "POST")
}

/// The answer to `OPTIONS` where `allowed` methods are known. Other uses of it are refused.
fn agree(headers: &HeaderMap, allowed: &'static str) -> Response {
    let Some(origin) = headers.get(REQUEST_ORIGIN).filter(|origin| !origin.is_empty()) else {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, allowed)]).into_response();
    };
    let agreed = [
        (header::ALLOW, HeaderValue::from_static("POST")),
        (ALLOWED_ORIGIN, origin.clone()),
        (ALLOWED_RATE, HeaderValue::from_static("*")),
    ];
    (StatusCode::OK, agreed).into_response()
}

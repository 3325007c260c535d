//! JSON answers, whole or written piece by piece.

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;

use super::{code::Code, error::Problem};

/// A value as JSON.
///
/// # Errors
/// 500 if it cannot be JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| Problem::new(Code::Internal, error))
}

/// The text of member `number`, counted from 1, of a list or an object: each but the first begins with a
/// comma.
pub(super) fn member(number: usize, mut text: Vec<u8>) -> Bytes {
    if number > 1 {
        text.insert(0, b',');
    }
    text.into()
}

/// An answer whose body is JSON.
pub(super) fn answer(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The end of a page of a list: whether there is more, and where it goes on then.
///
/// # Errors
/// 500 if it cannot be JSON.
pub(super) fn page_end(has_more: bool, next: Option<String>) -> Result<Vec<u8>, Problem> {
    let (next, has_more) = (json(&next.filter(|_| has_more))?, json(&has_more)?);
    Ok([&br#"],"has_more":"#[..], &has_more, br#","next":"#, &next, b"}"].concat())
}

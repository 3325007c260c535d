//! What a request carries besides itself. It is one extension for all of it, as each would cost allocations.

use std::{borrow::Cow, convert::Infallible, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, request::Parts},
};
use percent_encoding::percent_decode_str;

use super::{code::Code, connection::Connection, error::Problem, shared_body::SharedBody};
use crate::auth::{caller::Caller, policy::Resource};

/// What a request carries besides itself.
#[derive(Clone, Default)]
pub(super) struct RequestScope {
    /// The connection that it arrived on, as its client's: see `forwarded`.
    pub connection: Arc<Connection>,
    /// What its path says for the `{names}` of its route's, as it was sent.
    pub parameters: Vec<String>,
    /// Who sent it, and what the caller may do.
    pub caller: Caller,
    /// Its body, if it has one; its own is empty.
    pub body: Option<SharedBody>,
    /// Whether another pod passes it on, and it goes no further.
    pub is_passed_on: bool,
    /// What logs call it, where it may be passed on.
    pub request_id: Option<HeaderValue>,
}

impl RequestScope {
    /// Decides whether the caller may do what the route does with this.
    ///
    /// # Errors
    /// 403 otherwise.
    pub(super) fn allow(parts: &Parts, resource: Resource<'_>) -> Result<(), Problem> {
        match parts.extensions.get::<Self>() {
            Some(scope) => Ok(scope.caller.allow(resource)?),
            None => Ok(Caller::default().allow(resource)?),
        }
    }

    /// The parameter at this place of the path.
    ///
    /// # Errors
    /// 400 if it is not UTF-8.
    pub(super) fn parameter(parts: &Parts, place: usize) -> Result<Cow<'_, str>, Problem> {
        let scope = parts.extensions.get::<Self>();
        let sent = scope.and_then(|scope| scope.parameters.get(place)).map_or("", String::as_str);
        let text = percent_decode_str(sent).decode_utf8();
        text.map_err(|error| {
            Problem::new(Code::BadPath, format!("the path has a name that is not UTF-8: {error}"))
        })
    }
}

/// Whoever sent a request, and the connection that it arrived on.
#[derive(Default)]
pub(super) struct RequestSender {
    /// The connection.
    pub connection: Arc<Connection>,
    /// Who, and what it may do.
    pub caller: Caller,
}

impl<S: Send + Sync> FromRequestParts<S> for RequestSender {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let Some(scope) = parts.extensions.get::<RequestScope>() else { return Ok(Self::default()) };
        Ok(Self { connection: Arc::clone(&scope.connection), caller: scope.caller.clone() })
    }
}

/// The connection that a request arrived on; a new one if there is none, as in tests.
#[derive(Debug, Clone)]
pub struct OnConnection(pub Arc<Connection>);

impl<S: Send + Sync> FromRequestParts<S> for OnConnection {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let scope = parts.extensions.get::<RequestScope>();
        Ok(Self(scope.map(|scope| Arc::clone(&scope.connection)).unwrap_or_default()))
    }
}

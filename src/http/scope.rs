//! What a request carries besides itself. It is one extension for all of it, as each would cost allocations.

use std::{borrow::Cow, convert::Infallible, sync::Arc};

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderValue, Uri, request::Parts},
};
use percent_encoding::percent_decode_str;

use super::{
    code::Code, connection::Connection, error::Problem, heads::HeadSummary, shared_body::SharedBody,
};
use crate::auth::{caller::Caller, policy::Resource};

/// Names that a route's path may have.
pub(super) const MOST_NAMES: usize = 3;

/// What a path says for the `{names}` of its route's: where that stands in it. The path is the request's,
/// which nobody changes, and a copy of what stands there would take allocations for each request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PathParameters {
    /// The first byte of each, and the one behind its last.
    places: [(u16, u16); MOST_NAMES],
    count: usize,
}

impl PathParameters {
    /// The places of `values`, all of which are parts of `path`.
    pub(super) fn of<'p>(path: &'p str, values: impl Iterator<Item = &'p str>) -> Self {
        // A URI is shorter than that.
        let number = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        let mut parameters = Self::default();
        for (place, value) in parameters.places.iter_mut().zip(values) {
            let start = value.as_ptr().addr() - path.as_ptr().addr();
            *place = (number(start), number(start + value.len()));
            parameters.count += 1;
        }
        parameters
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What the path says for the name at `place`, as it was sent.
    pub(super) fn of_path<'p>(&self, path: &'p str, place: usize) -> Option<&'p str> {
        let (start, end) = *self.places[..self.count].get(place)?;
        path.get(usize::from(start)..usize::from(end))
    }
}

/// What a request carries besides itself.
#[derive(Clone, Default)]
pub(super) struct RequestScope {
    /// The connection that it arrived on, as its client's: see `forwarded`.
    pub connection: Arc<Connection>,
    /// What its path says for the `{names}` of its route's.
    pub parameters: PathParameters,
    /// Who sent it, and what the caller may do.
    pub caller: Caller,
    /// What its headers are, in short.
    pub head: HeadSummary,
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
        scope.map_or(Ok(Cow::Borrowed("")), |scope| scope.named(&parts.uri, place))
    }

    /// What the path of its request says for the name at `place`.
    ///
    /// # Errors
    /// 400 if it is not UTF-8.
    pub(super) fn named<'u>(&self, uri: &'u Uri, place: usize) -> Result<Cow<'u, str>, Problem> {
        let sent = self.parameters.of_path(uri.path(), place).unwrap_or_default();
        if !sent.contains('%') {
            return Ok(Cow::Borrowed(sent));
        }
        let text = percent_decode_str(sent).decode_utf8();
        text.map_err(|error| {
            Problem::new(Code::BadPath, format!("the path has a name that is not UTF-8: {error}"))
        })
    }
}

/// A request as those handlers take it that are asked most: its head, and what it carries besides itself, its
/// body included. Nothing is copied for it: as an extension the scope would take three allocations.
pub(crate) struct RouteRequest {
    /// The head.
    pub(super) parts: Parts,
    /// What it carries besides itself.
    pub(super) scope: RequestScope,
}

impl From<Request> for RouteRequest {
    fn from(request: Request) -> Self {
        let (mut parts, _) = request.into_parts();
        let scope = parts.extensions.remove().unwrap_or_default();
        Self { parts, scope }
    }
}

impl<S: Send + Sync> FromRequest<S> for RouteRequest {
    type Rejection = Infallible;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Infallible> {
        Ok(request.into())
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
        Ok(parts.extensions.get::<RequestScope>().map(Self::of).unwrap_or_default())
    }
}

impl RequestSender {
    /// The sender of a request that carries this.
    pub(super) fn of(scope: &RequestScope) -> Self {
        Self { connection: Arc::clone(&scope.connection), caller: scope.caller.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_path_is_found_again_where_it_stands() {
        let path = "/tables/%C3%A9/erase/7";
        let parameters = PathParameters::of(path, [&path[8..14], &path[21..]].into_iter());
        let found: Vec<_> = (0..4).map(|place| parameters.of_path(path, place)).collect();
        assert_eq!((parameters.count(), found), (2, vec![Some("%C3%A9"), Some("7"), None, None]));
        let scope = RequestScope { parameters, ..RequestScope::default() };
        let uri: Uri = "/tables/%C3%A9/erase/7?page=1".parse().unwrap();
        assert_eq!(scope.named(&uri, 0).unwrap(), "\u{e9}");
        assert_eq!(scope.named(&uri, 2).unwrap(), "");
    }
}

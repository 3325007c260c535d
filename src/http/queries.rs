//! Query strings become parameters, field by field.

use std::iter;

use axum::{
    extract::{FromRequestParts, Query},
    http::{Uri, request::Parts},
};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize,
    de::{
        DeserializeOwned,
        value::{self, MapDeserializer},
    },
};

use super::{code::Code, error::Problem};

/// The names of filters by header begin with this.
pub(super) const HEADER_FILTER: &str = "header.";

/// A query, field by field. An unknown parameter is an error, and so is one that is given twice.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::of(&parts.uri)
    }
}

impl<T: DeserializeOwned> Params<T> {
    /// Reads the query of a URI.
    ///
    /// # Errors
    /// 400.
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        // Most requests have none, and the way that names what is wrong costs more than that.
        let empty = MapDeserializer::<_, value::Error>::new(iter::empty::<(&str, &str)>());
        if uri.query().is_none_or(str::is_empty)
            && let Ok(params) = T::deserialize(empty)
        {
            return Ok(Self(params));
        }
        check_text(uri.query().unwrap_or_default())?;
        fields_of(uri).map(Self)
    }
}

/// A query with filters by header, which have any name behind `header.`: these apart, all others field by
/// field.
pub struct FilteredParams<T> {
    /// The other parameters.
    pub params: T,
    /// The filters by header as they were sent, with the whole names of their parameters.
    pub headers: Vec<(String, String)>,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for FilteredParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::of(&parts.uri)
    }
}

impl<T: DeserializeOwned> FilteredParams<T> {
    /// Reads the query of a URI.
    ///
    /// # Errors
    /// 400.
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        let query = uri.query().unwrap_or_default();
        if query.split('&').any(is_of_header) {
            return Self::parse(query);
        }
        let Params(params) = Params::of(uri)?;
        Ok(Self { params, headers: Vec::new() })
    }

    /// Reads a query.
    ///
    /// # Errors
    /// 400.
    pub fn parse(query: &str) -> Result<Self, Problem> {
        check_text(query)?;
        let (headers, others): (Vec<_>, Vec<_>) = query.split('&').partition(|pair| is_of_header(pair));
        let params = read_pairs(&others)?;
        Ok(Self { params, headers: read_pairs(&headers)? })
    }
}

/// Refuses a query that is not UTF-8 after URL decoding: it would be read as another, and two keys as one.
fn check_text(query: &str) -> Result<(), Problem> {
    let wrong = |error| Problem::new(Code::BadQuery, format!("the query is not UTF-8 once decoded: {error}"));
    percent_decode_str(query).decode_utf8().map(drop).map_err(wrong)
}

/// Whether a pair of a query is a filter by header.
fn is_of_header(pair: &str) -> bool {
    let (name, _) = pair.split_once('=').unwrap_or((pair, ""));
    percent_decode_str(name).decode_utf8_lossy().starts_with(HEADER_FILTER)
}

/// Reads some of the pairs of a query.
fn read_pairs<T: DeserializeOwned>(pairs: &[&str]) -> Result<T, Problem> {
    let uri = Uri::builder().path_and_query(format!("/?{}", pairs.join("&"))).build();
    let uri = uri.map_err(|error| Problem::new(Code::BadQuery, error))?;
    fields_of(&uri)
}

/// Reads the fields of a query.
///
/// # Errors
/// 400.
pub(super) fn fields_of<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    match Query::try_from_uri(uri) {
        Ok(Query(fields)) => Ok(fields),
        Err(error) => Err(Problem::new(Code::BadQuery, error.body_text())),
    }
}

/// For routes without query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limited {
        limit: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    struct Needed {
        table: String,
    }

    #[test]
    fn a_query_that_is_not_there_is_an_empty_one() {
        for (uri, limit) in [("/t", None), ("/t?", None), ("/t?limit=1", Some("1")), ("/t?limit=", Some(""))]
        {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(Params::<Limited>::of(&uri).ok().unwrap().0.limit.as_deref(), limit, "{uri}");
            let read = FilteredParams::<Limited>::of(&uri).ok().unwrap();
            assert_eq!((read.params.limit.as_deref(), read.headers.len()), (limit, 0), "{uri}");
        }
        assert_eq!(Params::<Needed>::of(&Uri::from_static("/t?table=a")).ok().unwrap().0.table, "a");
        for uri in ["/t", "/t?"] {
            let problem = Params::<Needed>::of(&uri.parse().unwrap()).err().unwrap();
            assert!(problem.detail().ends_with("missing field `table`"), "{problem}");
        }
    }
}

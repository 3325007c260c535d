//! One request: what is asked, and whether it may be asked again.

use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

/// The partition of events that name none.
const X_PARTITION: HeaderName = HeaderName::from_static("x-partition");

/// Whether a request may be sent again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Repeat {
    /// It does the same twice as once.
    Always,
    /// Only if the server says that nothing was done, or was never reached.
    IfNotDone,
    /// Whatever happens, whoever calls decides.
    Never,
}

/// A request.
#[derive(Debug, Clone)]
pub(in crate::cli) struct ClientRequest {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) repeat: Repeat,
}

impl ClientRequest {
    /// A request without a body. `path` has nothing that would need an escape.
    pub(in crate::cli) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: None,
            repeat: Repeat::Always,
        }
    }

    /// A look at something.
    pub(in crate::cli) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// With a body of JSON.
    pub(in crate::cli) fn json(mut self, body: impl Into<Bytes>) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = Some(body.into());
        self
    }

    /// With any body.
    pub(in crate::cli) fn body(mut self, media_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        self.body = Some(body.into());
        self
    }

    /// With a parameter.
    pub(in crate::cli) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    /// With a parameter, if there is one.
    pub(in crate::cli) fn with_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// With a header.
    pub(in crate::cli) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// For events of this partition, if there is one.
    pub(in crate::cli) fn in_partition(self, partition: Option<u32>) -> Self {
        match partition {
            Some(partition) => self.header(X_PARTITION, HeaderValue::from(partition)),
            None => self,
        }
    }

    /// Whether it may be sent again.
    pub(in crate::cli) fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    /// Where it goes, on a server.
    pub(super) fn url(&self, base: &Url) -> Url {
        let mut url = base.clone();
        url.set_path(&format!("{}{}", base.path().trim_end_matches('/'), self.path));
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_escaped_and_a_path_before_the_routes_is_kept() {
        let request = ClientRequest::get("/tables/t")
            .with("since", "2026-11-26T12:00:00+02:00")
            .with_some("key", Some("a&b"));
        let request = request.with_some("until", None::<u64>);
        for (base, expected) in [
            ("http://z:1", "http://z:1/tables/t?since=2026-11-26T12%3A00%3A00%2B02%3A00&key=a%26b"),
            ("https://z/a/b/", "https://z/a/b/tables/t?since=2026-11-26T12%3A00%3A00%2B02%3A00&key=a%26b"),
        ] {
            assert_eq!(request.url(&Url::parse(base).unwrap()).as_str(), expected);
        }
        assert_eq!(
            ClientRequest::get("/tables").url(&Url::parse("http://z").unwrap()).as_str(),
            "http://z/tables"
        );
    }
}

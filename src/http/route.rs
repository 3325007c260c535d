//! A route of a port, and what is the same for all routes of its kind.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{extract::Request, http::Method, response::Response};

use super::{
    origin::{HostCheck, HttpSettings},
    stats::Stats,
};
use crate::{
    auth::{gate::Gate, verb::Verb},
    cluster::Cluster,
    net::settings::NetSettings,
};
use contracts::metrics::HttpCounts;

/// An answer that is being made.
pub(super) type AnswerFuture = Pin<Box<dyn Future<Output = Response> + Send>>;
/// A handler with its state.
pub(super) type Endpoint = Arc<dyn Fn(Request) -> AnswerFuture + Send + Sync>;

/// What surrounds the handlers of routes of one kind.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// Bytes that path and headers of a request may have.
    pub header_bytes: usize,
    /// Whether traces go to a collector.
    pub exports_traces: bool,
    /// Which names and pages are ours; `None` where requests for any name are answered, and of any page.
    pub http: Option<HttpSettings>,
    /// Whether the name that a request asks for matters, where pages do.
    pub host_check: HostCheck,
    /// Who is let in; `None` where everybody is.
    pub gate: Option<Arc<Gate>>,
    /// Whether everybody is let in all the same, and the gate only writes down who did what.
    pub lets_anybody_in: bool,
    /// Whether tokens are taken from this machine only: on a port without TLS beside one with it.
    pub tokens_from_here_only: bool,
    /// Whether a session counts, by its cookie: below the console's path only.
    pub takes_sessions: bool,
    /// The cluster whose pods pass requests on to this one; `None` for one Zombi.
    pub cluster: Option<Arc<Cluster>>,
    /// Counts for `/stats`, on the port that has it.
    pub stats: Option<Arc<Stats>>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            header_bytes: NetSettings::default().header_bytes,
            exports_traces: false,
            http: None,
            host_check: HostCheck::OurNames,
            gate: None,
            lets_anybody_in: false,
            tokens_from_here_only: false,
            takes_sessions: false,
            cluster: None,
            stats: None,
        }
    }
}

/// What a request is answered by.
pub(super) struct Route {
    /// Its method; a `GET` answers `HEAD` too. `None` for any method.
    pub method: Option<Method>,
    /// What it does; `None` where no route takes the request.
    pub verb: Option<Verb>,
    /// What is the same for all routes of its kind.
    pub surroundings: Arc<Surroundings>,
    /// The handler.
    pub endpoint: Endpoint,
    /// Counts its answers, by its path with `{names}` for what varies.
    pub counts: HttpCounts,
}

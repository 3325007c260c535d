//! Probes: what Kubernetes asks about the process.

use axum::{
    Json,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::{
    context::OwnBody,
    error::{PROBLEM_JSON, ProblemShown},
    state::{OpsState, Phase},
};
use contracts::heartbeat::Heartbeat;

/// What a probe says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Probe {
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that a probe looks at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Check {
    /// What.
    pub name: &'static str,
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// More, for people.
    pub detail: String,
}

impl Check {
    fn new(name: &'static str, passes: bool, detail: impl Into<String>) -> Self {
        Self { name, status: status(passes), detail: detail.into() }
    }

    fn passes(&self) -> bool {
        self.status == status(true)
    }
}

/// Tell whether the process makes progress. Never about S3, disk or load.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "operations",
    responses(
        (status = 200, description = "Yes", body = Probe),
        (status = 503, description = "No", body = Probe),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn livez(State(ops): State<OpsState>) -> Response {
    let check = |name, heartbeat: &Heartbeat| {
        let is_alive = heartbeat.is_alive();
        Check::new(
            name,
            is_alive,
            if is_alive { "makes progress" } else { "has worked on the same thing for a minute" },
        )
    };
    probe(vec![check("writer", &ops.heartbeats.writer), check("flusher", &ops.heartbeats.flusher)], None)
}

/// Tell whether requests should come: recovered, and not draining. Never about S3.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = 200, description = "Yes", body = Probe),
        (status = 503, description = "No", body = Probe),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn readyz(State(ops): State<OpsState>, RawQuery(query): RawQuery) -> Response {
    let lifecycle = Check::new("lifecycle", ops.lifecycle.phase() == Phase::Ready, ops.lifecycle.describe());
    let is_verbose = query
        .is_some_and(|query| query.split('&').any(|one| one == "verbose" || one.starts_with("verbose=")));
    // For people: whether the bucket can be used never decides whether requests should come.
    let bucket = is_verbose.then(|| {
        let trouble = ops.bucket.trouble();
        Check::new("bucket", trouble.is_none(), trouble.unwrap_or_else(|| ops.bucket.describe().to_owned()))
    });
    let mut checks = vec![lifecycle];
    if let Some(verifier) = ops.gate.as_ref().and_then(|gate| gate.verifier()) {
        let has_keys = verifier.keys().has_keys();
        let said = if has_keys { "the issuer's keys are there" } else { "waiting for the issuer's keys" };
        checks.push(Check::new("auth", has_keys, said));
    }
    probe(checks, bucket)
}

/// Tell whether recovery has ended.
#[utoipa::path(
    get,
    path = "/startupz",
    tag = "operations",
    responses(
        (status = 200, description = "Yes", body = Probe),
        (status = 503, description = "No", body = Probe),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn startupz(State(ops): State<OpsState>) -> Response {
    probe(vec![Check::new("recovery", ops.lifecycle.phase() >= Phase::Ready, ops.lifecycle.describe())], None)
}

fn status(passes: bool) -> &'static str {
    if passes { "ok" } else { "unavailable" }
}

/// Answers a probe: the checks decide, and what is `beside` them is only shown.
fn probe(mut checks: Vec<Check>, beside: Option<Check>) -> Response {
    let passes = checks.iter().all(Check::passes);
    checks.extend(beside);
    let code = if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (code, Json(Probe { status: status(passes), checks })).into_response();
    if !passes {
        response.extensions_mut().insert(OwnBody); // the 503 of a probe is an answer, not an error
    }
    response
}

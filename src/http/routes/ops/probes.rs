//! Probes: what Kubernetes asks about the process.

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::{
    context::OwnBody,
    error::{PROBLEM_JSON, ProblemShown},
    scope::RequestScope,
    shards,
    state::{Heartbeats, OpsState, Phase},
};
use contracts::{bucket::BucketState, heartbeat::Heartbeat};

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
    let check = |name, of: fn(&Heartbeats) -> &Heartbeat| {
        let is_alive = ops.heartbeats.iter().all(|heartbeats| of(heartbeats).is_alive());
        Check::new(
            name,
            is_alive,
            if is_alive { "makes progress" } else { "has worked on the same thing for a minute" },
        )
    };
    let checks = vec![check("writer", |of| &*of.writer), check("flusher", |of| &*of.flusher)];
    probe(checks, None)
}

/// How much a probe says. What S3 answers names buckets and objects, and a start names tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbeDetail {
    /// Everything, for operators.
    All,
    /// Nothing that a name stands in: for anybody who can reach a port where others must show who they are.
    Little,
}

impl ProbeDetail {
    /// On the main port.
    fn of_main_port(ops: &OpsState) -> Self {
        if ops.gate.is_some() && !contracts::mutant("probe_detail") { Self::Little } else { Self::All }
    }

    /// The phase in words.
    fn phase(self, ops: &OpsState) -> String {
        match (self, ops.lifecycle.phase()) {
            (Self::Little, Phase::Starting) => {
                "starting; /startupz on the admin port says what is being done".to_owned()
            }
            _ => ops.lifecycle.describe(),
        }
    }

    /// What is wrong with the bucket, if anything; with several stores, for the first that says so.
    fn trouble(self, ops: &OpsState) -> Option<String> {
        let trouble = ops.buckets.iter().find_map(|bucket| bucket.trouble())?;
        Some(match self {
            Self::All => trouble,
            Self::Little => "there is trouble; /readyz?verbose on the admin port says which".to_owned(),
        })
    }
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
pub(crate) async fn readyz(
    State(ops): State<OpsState>,
    RawQuery(query): RawQuery,
    Extension(scope): Extension<RequestScope>,
) -> Response {
    let mut response = ready(&ops, query.as_deref(), ProbeDetail::of_main_port(&ops));
    if scope.is_passed_on
        && let Some(owners) = ops.cluster.get().and_then(|cluster| cluster.owners.get())
    {
        shards::tell_applied(&mut response, owners.applied());
        shards::tell_scrubbed(&mut response, owners.scrubbed());
    }
    response
}

/// The same on the admin port, with all there is to say.
pub(crate) async fn readyz_admin(State(ops): State<OpsState>, RawQuery(query): RawQuery) -> Response {
    ready(&ops, query.as_deref(), ProbeDetail::All)
}

fn ready(ops: &OpsState, query: Option<&str>, detail: ProbeDetail) -> Response {
    let lifecycle = Check::new("lifecycle", ops.lifecycle.phase() == Phase::Ready, detail.phase(ops));
    let is_verbose = query
        .is_some_and(|query| query.split('&').any(|one| one == "verbose" || one.starts_with("verbose=")));
    // For people: whether the bucket can be used never decides whether requests should come.
    let bucket = is_verbose.then(|| {
        let trouble = detail.trouble(ops);
        let state = BucketState::describe_all(ops.buckets.iter().map(|bucket| &**bucket));
        Check::new("bucket", trouble.is_none(), trouble.unwrap_or_else(|| state.to_owned()))
    });
    let mut checks = vec![lifecycle];
    if let Some(owners) = ops.cluster.get().and_then(|cluster| cluster.owners.get()) {
        let unmet = owners.unmet();
        let is_met = unmet.is_none();
        let said = match (detail, unmet.or_else(|| owners.trouble())) {
            (_, None) => "in step with the logs".to_owned(),
            (ProbeDetail::All, Some(said)) => said,
            (ProbeDetail::Little, Some(_)) => "not in step; /readyz on the admin port says why".to_owned(),
        };
        checks.push(Check::new("copies", is_met, said));
    }
    if let Some(verifier) = ops.gate.as_ref().and_then(|gate| gate.verifier()) {
        let has_keys = verifier.keys().has_keys() || contracts::mutant("readiness_keys");
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
    started(&ops, ProbeDetail::of_main_port(&ops))
}

/// The same on the admin port, with all there is to say.
pub(crate) async fn startupz_admin(State(ops): State<OpsState>) -> Response {
    started(&ops, ProbeDetail::All)
}

fn started(ops: &OpsState, detail: ProbeDetail) -> Response {
    probe(vec![Check::new("recovery", ops.lifecycle.phase() >= Phase::Ready, detail.phase(ops))], None)
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

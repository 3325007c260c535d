//! Numbers: `/metrics` for Prometheus, `/stats` for people.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::json;

use crate::{
    auth::caller::Caller,
    http::{
        answers,
        code::Code,
        error::{PROBLEM_JSON, Problem, ProblemShown},
        params::{NoParams, Params},
        routes::tables::{self, TableWalk},
        scope::OnConnection,
        state::{AppState, OpsState},
        stats::STATS_TABLES,
    },
    prometheus,
};
use contracts::idempotency::KeyWindow;

/// Show the metrics, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses(
        (status = 200, description = "Prometheus text", body = String, content_type = "text/plain"),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn metrics(State(ops): State<OpsState>, OnConnection(connection): OnConnection) -> Response {
    let _waits = connection.wait(); // for other scrapes, which go one after the other
    prometheus::collect_process();
    if let Some(verifier) = ops.gate.as_ref().and_then(|gate| gate.verifier()) {
        contracts::metrics::auth_keys(verifier.keys().count());
    }
    let lags = match ops.store.get() {
        Some(store) => store.show().await,
        None => String::new(),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.prometheus.render() + &lags)
        .into_response()
}

/// Show counts, rates and latencies since the start.
#[utoipa::path(
    get,
    path = "/stats",
    tag = "operations",
    responses(
        (status = 200, description = "The counts", body = Object),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn stats(
    State(state): State<AppState>,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Response, Problem> {
    let held = state.seen().held().await.map_err(|error| Problem::new(Code::Internal, error))?;
    let KeyWindow { keys, bytes, window_ms } = held.keys;
    let mut stats = state.stats.show();
    stats["flush"] = json!({
        "enabled": state.flush.is_some(),
        "unflushed_events": held.unflushed_events,
        "oldest_unflushed_secs": held.unflushed_for.as_secs_f64(),
    });
    stats["totals"] = json!({
        "tables": held.tables,
        "partitions": held.partitions,
        "hot_bytes": held.bytes,
        "unflushed_bytes": held.unflushed_bytes,
        "unflushed_events": held.unflushed_events,
        "lost_offsets": held.lost,
    });
    stats["idempotency"] = json!({"keys": keys, "bytes": bytes, "window_secs": window_ms / 1000});
    let share = tables::share_of_one(&state, &connection).await?;
    // Whoever may operate the server sees all of it.
    let mut walk = TableWalk { state, after: None, caller: Caller::anybody() };
    let pieces = async_stream::try_stream! {
        let mut text = answers::json(&stats)?;
        text.pop(); // the closing brace: one more member follows
        text.extend_from_slice(br#","tables":{"#);
        yield Bytes::from(text);
        for number in 1..=STATS_TABLES {
            let Some(table) = walk.next().await else { break };
            let (name, shown) = (answers::json(&table.table)?, answers::json(&table)?);
            yield answers::member(number, [&name, &b":"[..], &shown].concat());
        }
        yield Bytes::from_static(b"}}");
    };
    Ok(answers::answer(share.stream::<Problem>(pieces)))
}

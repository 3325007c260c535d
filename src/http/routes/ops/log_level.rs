//! The log level, on the admin port.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::http::{
    body::Incoming,
    code::Code,
    error::Problem,
    extract, json_body,
    limits::Limits,
    params::{NoParams, Params},
    state::OpsState,
};

/// Bytes of a request for another level.
const BODY_BYTES: usize = 4096;

/// What is logged: a level such as `debug`, or filters such as `zombi=debug,info`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LevelShown {
    /// The level, or the filters.
    pub level: String,
}

/// `GET /log/level`.
pub(crate) async fn log_level(
    State(ops): State<OpsState>,
    Params(NoParams {}): Params<NoParams>,
) -> Json<LevelShown> {
    Json(LevelShown { level: ops.log_level.get() })
}

/// `PUT /log/level`.
pub(crate) async fn set_log_level(
    State(ops): State<OpsState>,
    Params(NoParams {}): Params<NoParams>,
    incoming: Incoming,
) -> Result<Json<LevelShown>, Problem> {
    extract::json_only(&incoming.headers, "a level is application/json")?;
    let limits = Limits { body_bytes: BODY_BYTES, decoded_body_bytes: BODY_BYTES, ..ops.limits };
    let (body, _share) = incoming.receive(&limits, &ops.inflight).await?;
    let LevelShown { level } = json_body::parse(&body)?;
    ops.log_level.set(&level).map_err(|error| Problem::new(Code::BadLogLevel, error))?;
    info!(level, "log level changed");
    Ok(Json(LevelShown { level }))
}

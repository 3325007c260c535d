//! The settings in force, and where each comes from.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::{
    error::{PROBLEM_JSON, Problem, ProblemShown},
    params::{NoParams, Params},
    state::{AppState, SettingShown},
};

/// The settings in force.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SettingsShown {
    /// The program's version.
    pub version: &'static str,
    /// In the order of the page of settings.
    pub settings: Vec<SettingShown>,
}

/// Show the settings in force, and where each comes from.
#[utoipa::path(
    get,
    path = "/settings",
    tag = "operations",
    responses(
        (status = 200, description = "All settings", body = SettingsShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn settings(
    State(state): State<AppState>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<SettingsShown>, Problem> {
    Ok(Json(SettingsShown { version: env!("CARGO_PKG_VERSION"), settings: state.settings.to_vec() }))
}

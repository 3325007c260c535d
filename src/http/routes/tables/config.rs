//! The settings of a table.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::auth::policy::Resource;
use crate::http::{
    body::Incoming,
    code::Code,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::{self, Table},
    json_body::{self, WholeNumber},
    params::{NoParams, Params},
    scope::RequestSender,
    state::AppState,
};
use contracts::catalog::{Change, Configured, TableChange, TableSettings};

/// What to change of a table's settings: what is left out stays, `null` goes back to the default.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"retention_secs": 604800, "retention_bytes": 10737418240_u64}))]
pub struct TableConfigChange {
    /// Seconds after its append for which an event is kept. Whole segments are dropped, so it may be kept
    /// longer.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>, minimum = 0)]
    pub retention_secs: Change<u64>,
    /// Stored bytes of the table that are kept.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>, minimum = 0)]
    pub retention_bytes: Change<u64>,
    /// Partitions that keys are spread over. There may become more of them, but not fewer.
    #[serde(default, deserialize_with = "given_count")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub partitions: Change<u32>,
}

/// A field that is there is `Some`, even if it is `null`.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Change<T>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Likewise a number of partitions. One that no such number can be becomes the nearest, which is out of
/// range: it is a whole number, and refused as one.
fn given_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Change<u32>, D::Error> {
    let nearest = |WholeNumber(number)| u32::try_from(number.max(0)).unwrap_or(u32::MAX);
    Ok(Some(Option::<WholeNumber>::deserialize(deserializer)?.map(nearest)))
}

impl From<TableConfigChange> for TableChange {
    fn from(change: TableConfigChange) -> Self {
        let TableConfigChange { retention_secs, retention_bytes, partitions } = change;
        Self { retention_secs, retention_bytes, partitions, made_by: None }
    }
}

/// The settings of a table.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TableConfig {
    /// Seconds after its append for which an event is kept at least; null: for ever.
    #[schema(required = true)]
    pub retention_secs: Option<u64>,
    /// Stored bytes of the table that are kept at least; null: all.
    #[schema(required = true)]
    pub retention_bytes: Option<u64>,
    /// Partitions that keys are spread over.
    pub partitions: u32,
    /// Which of these were set for this table; the others were the defaults when it was made.
    pub own: Vec<&'static str>,
    /// What the change means for what was written before; left out if it means nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub warning: Option<String>,
}

impl From<TableSettings> for TableConfig {
    fn from(settings: TableSettings) -> Self {
        let TableSettings { retention_secs, retention_bytes, partitions } = settings;
        let named = [
            ("retention_secs", retention_secs.is_own),
            ("retention_bytes", retention_bytes.is_own),
            ("partitions", partitions.is_own),
        ];
        Self {
            retention_secs: retention_secs.value,
            retention_bytes: retention_bytes.value,
            partitions: partitions.value,
            own: named.into_iter().filter(|(_, is_own)| *is_own).map(|(name, _)| name).collect(),
            warning: None,
        }
    }
}

impl TableConfig {
    /// The settings after a change, with a warning if keys now choose other partitions.
    fn changed(Configured { settings, before }: Configured) -> Self {
        let now = settings.partitions.value;
        let grown = before.map(|before| before.partitions.value).filter(|before| *before < now);
        let warning = grown.map(|before| {
            format!(
                "keys move: they now choose among {now} partitions, before among {before}. Events of one \
                 key from before and after the change may be in two partitions, and a retry of an event \
                 whose key moved is not recognised"
            )
        });
        Self { warning, ..settings.into() }
    }
}

/// Settings, for the log.
fn said(settings: &TableSettings) -> String {
    let TableSettings { retention_secs, retention_bytes, partitions } = settings;
    let most = |value: Option<u64>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
    format!(
        "retention_secs {}, retention_bytes {}, partitions {}",
        most(retention_secs.value),
        most(retention_bytes.value),
        partitions.value
    )
}

/// Show a table's settings, and which of them were set for this table.
#[utoipa::path(
    get,
    path = "/tables/{table}/config",
    tag = "tables",
    params(Table),
    responses(
        (status = 200, description = "The settings", body = TableConfig),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn table_config(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<TableConfig>, Problem> {
    let table = state.catalog.existing(&name)?;
    Ok(Json(table.settings.into()))
}

/// Change a table's settings. A table that does not exist is made.
///
/// What is left out stays, `null` goes back to the default.
#[utoipa::path(
    put,
    path = "/tables/{table}/config",
    tag = "tables",
    params(Table),
    request_body = TableConfigChange,
    responses(
        (status = 200, description = "The settings now", body = TableConfig),
        (status = 201, description = "The settings of the new table", body = TableConfig),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn configure_table(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
    by: RequestSender,
    incoming: Incoming,
) -> Result<(StatusCode, Json<TableConfig>), Problem> {
    extract::json_only(&incoming.headers, "settings are application/json")?;
    let (body, _share) = incoming.receive(&state.limits, &state.inflight).await?;
    let change: TableConfigChange = json_body::parse(&body)?;
    if let Some(Some(partitions)) = change.partitions {
        let limit = state.limits.partitions_per_table;
        if !(1..=limit).contains(&partitions) {
            return Err(Problem::new(
                Code::PartitionOutOfRange,
                format!("partitions is not from 1 to {limit}"),
            ));
        }
    }
    let made = TableChange { made_by: by.caller.maker(), ..change.into() };
    let configured = state.catalog.configure_table(name.clone(), made).await?;
    let settings = said(&configured.settings);
    by.log("settings changed", Resource::Table(&name), Some(&settings));
    let status = if configured.before.is_none() { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TableConfig::changed(configured))))
}

//! `zombi serve`: runs the server.

use std::process::ExitCode;

use super::{answer::say_usage, exit};
use crate::{
    server::{self, ServerError},
    settings::{self, Settings},
    telemetry,
};
use contracts::{crash, error::StorageError};

/// Runs the server until a signal or an error ends it.
pub(super) fn serve(settings: Settings) -> ExitCode {
    crash::arm();
    let telemetry = match telemetry::start(&settings.log, settings::wants_traces(settings::environment())) {
        Ok(telemetry) => telemetry,
        // Logs are not started yet.
        Err(error) => return say_usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(exit::FAILED);
        }
    };
    let ended = runtime.block_on(async {
        let ended = Box::pin(server::run(settings, &telemetry)).await;
        telemetry.stop().await;
        ended
    });
    // A task that hangs must not keep the process from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "exiting");
            ExitCode::from(match error {
                ServerError::Storage(StorageError::OutcomeUnknown { .. }) => exit::WRITE_FAILED,
                ServerError::Storage(StorageError::Fenced(_)) => exit::FENCED,
                ServerError::Setting(_)
                | ServerError::Auth(_)
                | ServerError::Access(_)
                | ServerError::Tls(_) => exit::USAGE,
                _ => exit::FAILED,
            })
        }
    }
}

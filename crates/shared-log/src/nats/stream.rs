//! The stream of a log: made by whoever comes first, and compared by everybody.

use std::time::Duration;

use contracts::shared_log::{EntryKind, LogError};
use serde_json::{Map, Value, json};
use tracing::info;

use super::{
    api::{StreamApi, StreamInfo},
    connect::CallError,
    name::StreamName,
    parts::PART_BYTES,
};

/// How long it may take to make a stream: its servers elect a leader.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// What headers of a part may take.
const HEADER_BYTES: usize = 4 << 10;
/// "stream name already in use with a different configuration"
const OTHER_STREAM: u64 = 10058;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The stream is there and is not what it must be: of another cluster, or set up by somebody else.
    /// Waiting does not heal it.
    #[error("stream {stream} is not this cluster's log: {}", .differences.join(", "))]
    Different {
        /// The stream.
        stream: String,
        /// What is different, each with what it is and must be.
        differences: Vec<String>,
    },
    /// The servers take smaller messages than a log needs. Waiting does not heal it.
    #[error("the NATS servers take messages of {max_payload} bytes, and must take {needed}: max_payload")]
    SmallMessages {
        /// What they take.
        max_payload: usize,
        /// What is needed.
        needed: usize,
    },
    /// NATS does not answer, or cannot do it now. Waiting may heal it.
    #[error("the log cannot be opened now: {0}")]
    Unavailable(LogError),
}

impl From<CallError> for OpenError {
    fn from(error: CallError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Opens the stream; makes it if it is missing. A stream that may hold more or less than `max_bytes` is
/// changed: that is for operators to choose, and all else is fixed.
///
/// # Errors
/// [`OpenError`].
pub(super) async fn open(api: &StreamApi, max_bytes: u64) -> Result<(), OpenError> {
    let (max_payload, needed) = (api.connection.max_payload().await?, PART_BYTES + HEADER_BYTES);
    if max_payload < needed {
        return Err(OpenError::SmallMessages { max_payload, needed });
    }
    let wanted = config(&api.name, max_bytes);
    let found = match api.find().await? {
        Some(found) => found,
        None => create(api, &wanted).await?,
    };
    let differences = differences(&wanted, &found.config);
    if !differences.is_empty() {
        return Err(OpenError::Different { stream: api.name.stream(), differences });
    }
    if found.max_bytes() != max_bytes {
        api.configure("UPDATE", &wanted, CREATE_TIMEOUT).await?;
        let (stream, before_bytes) = (api.name.stream(), found.max_bytes());
        info!(stream, before_bytes, max_bytes, "the most that the log may hold was changed");
    }
    Ok(())
}

async fn create(api: &StreamApi, wanted: &Value) -> Result<StreamInfo, CallError> {
    match api.configure("CREATE", wanted, CREATE_TIMEOUT).await {
        // Somebody was first, and with something else: it is compared.
        Err(CallError::Refused { code: OTHER_STREAM, .. }) => api.info().await,
        created => created,
    }
}

/// A stream's settings, as JetStream takes them.
fn config(name: &StreamName, max_bytes: u64) -> Value {
    json!({
        "name": name.stream(),
        "subjects": [name.subject(EntryKind::Data), name.subject(EntryKind::Term)],
        "num_replicas": 3,
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_bytes": max_bytes,
        "max_age": 0,
        "deny_delete": true,
        "allow_direct": true,
        "allow_atomic": true,
        // In nanoseconds, the least that there is: nothing is told from its like by an id.
        "duplicate_window": 100_000_000,
        "metadata": {
            "zombi.cluster": name.cluster.to_string(),
            "zombi.shard": name.shard.to_string(),
            "zombi.shards": name.shards.to_string(),
        },
    })
}

/// What is other than it must be. Settings that nobody wants are whatever they are.
fn differences(wanted: &Value, found: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    let none = Map::new();
    for (key, wanted) in wanted.as_object().unwrap_or(&none) {
        let found = &found[key];
        match wanted {
            _ if key == "max_bytes" => {}
            Value::Object(inner) => {
                let names = inner.iter().filter(|(name, wanted)| found[*name] != **wanted);
                differences.extend(names.map(|(name, wanted)| told(name, wanted, &found[name])));
            }
            wanted if found != wanted => differences.push(told(key, wanted, found)),
            _ => {}
        }
    }
    differences
}

fn told(key: &str, wanted: &Value, found: &Value) -> String {
    format!("{key} is {found} and must be {wanted}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn wanted() -> Value {
        config(&StreamName { cluster: Uuid::from_u128(1), shard: 7, shards: 12, generation: 0 }, 1 << 30)
    }

    #[test]
    fn what_the_server_adds_is_no_difference() {
        let mut found = wanted();
        found["max_consumers"] = json!(-1);
        found["metadata"]["_nats.ver"] = json!("2.15.1");
        found["max_bytes"] = json!(5);
        assert_eq!(differences(&wanted(), &found), [""; 0]);
    }

    #[test]
    fn each_difference_is_named() {
        let mut found = wanted();
        found["num_replicas"] = json!(1);
        found["metadata"]["zombi.shards"] = json!("6");
        found.as_object_mut().unwrap().remove("allow_atomic");
        assert_eq!(
            differences(&wanted(), &found),
            [
                "num_replicas is 1 and must be 3",
                "allow_atomic is null and must be true",
                "zombi.shards is \"6\" and must be \"12\"",
            ]
        );
        let other =
            config(&StreamName { cluster: Uuid::from_u128(2), shard: 7, shards: 12, generation: 0 }, 1);
        assert!(differences(&wanted(), &other).iter().any(|one| one.starts_with("zombi.cluster is")));
    }
}

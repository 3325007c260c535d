//! What `/openapi.json` says of a CloudEvent.

use serde_json::Value;
use utoipa::ToSchema;

/// A CloudEvent 1.0 in JSON. Its extensions stand beside these members: their names are lower-case letters
/// and digits, their values texts, whole numbers of 32 bits or booleans.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"specversion": "1.0", "id": "1", "source": "/shop", "type": "made", "data": 40}))]
pub struct CloudEventToWrite {
    /// The version of the specification: `1.0`.
    pub specversion: String,
    /// Together with `source` it is the idempotency key.
    #[schema(min_length = 1)]
    pub id: String,
    /// A URI, or a reference to one.
    #[schema(min_length = 1)]
    pub source: String,
    /// What kind of event it is.
    #[schema(min_length = 1)]
    pub r#type: String,
    /// The content type of the data; JSON if it is left out.
    pub datacontenttype: Option<String>,
    /// A URI.
    pub dataschema: Option<String>,
    /// What the event is about: its key, unless the extension `partitionkey` names one.
    pub subject: Option<String>,
    /// When it happened: RFC 3339. The server's clock if left out.
    #[schema(format = "date-time")]
    pub time: Option<String>,
    /// The payload: any JSON value. Not with `data_base64`.
    #[schema(value_type = Option<Value>)]
    pub data: Option<Value>,
    /// The payload: any bytes.
    #[schema(format = "byte")]
    pub data_base64: Option<String>,
}

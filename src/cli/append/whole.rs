//! All of the input as one event, by the route for raw bodies.

use std::path::Path;

use reqwest::{
    Method,
    header::{HeaderName, HeaderValue},
};
use serde::Deserialize;

use super::{
    deliver::Delivery,
    input::OpenInput,
    keys::KeyRule,
    records::{Additions, KeyChoice, field},
};
use crate::cli::{answer::Unanswered, client::ClientRequest};

/// The answer to a single write.
#[derive(Debug, Deserialize)]
struct WholeAnswer {
    #[serde(default)]
    duplicate: bool,
}

/// Appends the input.
pub(super) async fn append(
    file: &Path,
    additions: Additions,
    mut keys: KeyRule,
    input: OpenInput,
    delivery: &mut Delivery<'_>,
) -> Result<(), Unanswered> {
    let failed = |why: &dyn std::fmt::Display| Unanswered::Failed(why.to_string());
    let read = input.read_whole().map_err(|error| failed(&error))?.await;
    let body = read.map_err(|_| failed(&"the input cannot be read"))?.map_err(|error| failed(&error))?;
    let key = match keys.choose(1, &body).map_err(|bad| failed(&bad))? {
        KeyChoice::Given(key) => key.to_owned(),
        KeyChoice::Field(name) => field(&body, name).map_err(|bad| failed(&bad))?,
    };
    let mut request = ClientRequest::new(Method::POST, format!("/tables/{}/raw", delivery.table));
    for (name, value) in &additions.headers {
        let named = HeaderName::try_from(format!("zombi-header-{name}"));
        let (Ok(named), Ok(value)) = (named, HeaderValue::from_str(value)) else {
            let why = format!("--header {name}: such a header cannot be sent with --format raw");
            return Err(Unanswered::Usage(why));
        };
        request = request.header(named, value);
    }
    let bytes = body.len() as u64;
    let request = request.with("idempotency_key", key).with_some("key", additions.key);
    let request =
        request.with_some("expected_offset", delivery.expected_offset).body(media_type(file, &body), body);
    let answer: WholeAnswer = delivery.client.ask_json(&request.in_partition(delivery.partition)).await?;
    delivery.totals.count += 1;
    delivery.totals.duplicates += u64::from(answer.duplicate);
    delivery.totals.bytes += bytes;
    Ok(())
}

/// What the body is: the server keeps JSON as JSON and text as text.
fn media_type(file: &Path, body: &[u8]) -> &'static str {
    match std::str::from_utf8(body) {
        Ok(_) if file.extension().is_some_and(|ending| ending == "json") => "application/json",
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_by_name_and_text_by_what_it_is() {
        for (file, body, expected) in [
            ("a.json", &b"{}"[..], "application/json"),
            ("a.txt", b"{}", "text/plain; charset=utf-8"),
            ("-", "é".as_bytes(), "text/plain; charset=utf-8"),
            ("a.json", b"\xff", "application/octet-stream"),
        ] {
            assert_eq!(media_type(Path::new(file), body), expected, "{file}");
        }
    }
}

//! The text of a problem. It is written by hand: refusals come in great numbers, and one should cost less
//! than the request that it spares.

use serde_json::Value;

use contracts::payload::{write_json_number, write_json_string};

/// The `type` of a problem begins with this; its code follows.
const TYPE: &str = "/docs/errors#";
/// Bytes that a problem has beside its texts, its extra fields apart: without room for them all it would be
/// moved while it is written.
const OTHER_BYTES: usize = 128;

/// A field that only some problems have.
pub(super) type ExtraField = (&'static str, Value);

/// What a problem says, in the order in which it is written.
pub(super) struct ProblemText<'a> {
    /// The status in words.
    pub title: &'a str,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub detail: &'a str,
    /// What happened, for programs.
    pub code: &'a str,
    /// The request, as the log names it.
    pub request_id: &'a str,
    /// What became of a write, where that is told.
    pub outcome: Option<&'a str>,
    /// The fields that only some have.
    pub extra: &'a [ExtraField],
}

impl ProblemText<'_> {
    /// The problem as JSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let texts = self.title.len() + self.detail.len() + 2 * self.code.len() + self.request_id.len();
        let mut out = Vec::with_capacity(OTHER_BYTES + texts + 32 * self.extra.len());
        out.extend_from_slice(br#"{"type":""#);
        out.extend_from_slice(TYPE.as_bytes());
        // Codes are words: nothing in them is escaped.
        out.extend_from_slice(self.code.as_bytes());
        out.extend_from_slice(br#"","title":"#);
        write_json_string(&mut out, self.title);
        write_json_number(&mut out, r#","status":"#, self.status);
        out.extend_from_slice(br#","detail":"#);
        write_json_string(&mut out, self.detail);
        out.extend_from_slice(br#","code":"#);
        write_json_string(&mut out, self.code);
        out.extend_from_slice(br#","request_id":"#);
        write_json_string(&mut out, self.request_id);
        if let Some(outcome) = self.outcome {
            out.extend_from_slice(br#","outcome":"#);
            write_json_string(&mut out, outcome);
        }
        for (name, value) in self.extra {
            out.push(b',');
            write_json_string(&mut out, name);
            out.push(b':');
            write_value(&mut out, value);
        }
        out.push(b'}');
        out
    }
}

/// Appends a value. Nearly all are numbers and texts.
fn write_value(out: &mut Vec<u8>, value: &Value) {
    match (value, value.as_u64()) {
        (_, Some(number)) => write_json_number(out, "", number),
        (Value::String(text), None) => write_json_string(out, text),
        (other, None) => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::json;

    use super::*;

    /// The same problem as serde writes it.
    #[derive(Serialize)]
    struct ProblemBySerde<'a> {
        r#type: String,
        title: &'a str,
        status: u16,
        detail: &'a str,
        code: &'a str,
        request_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<&'a str>,
        #[serde(flatten)]
        extra: serde_json::Map<String, Value>,
    }

    #[test]
    fn a_problem_is_written_as_serde_writes_it() {
        let extras: [&[ExtraField]; 3] = [
            &[],
            &[("index", json!(0))],
            &[
                ("most", json!(u64::MAX)),
                ("least", json!(-1)),
                ("name", json!("\"a\"\u{1}\u{e9}")),
                ("committed", json!([{"table": "t", "offset": 7}, null, true, 1.5])),
            ],
        ];
        for (detail, request_id) in
            [("", "id"), ("not \"this\" \\ \n\t\u{8}\u{c}\u{0}\u{1f}\u{7f}\u{fc}\u{1f41f}", "a\"b\\c")]
        {
            for (outcome, extra) in
                [None, Some("unknown")].into_iter().flat_map(|one| extras.map(|extra| (one, extra)))
            {
                let (title, status, code) = ("I'm a teapot", 418, "bad_json");
                let text = ProblemText { title, status, detail, code, request_id, outcome, extra };
                let r#type = format!("/docs/errors#{code}");
                let extra = extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
                let same = ProblemBySerde { r#type, title, status, detail, code, request_id, outcome, extra };
                let written = String::from_utf8(text.to_json()).unwrap();
                assert_eq!(written, serde_json::to_string(&same).unwrap());
            }
        }
    }
}

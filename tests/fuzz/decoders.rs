//! What is done with the bytes: decode them, and where that works, hold the decoder to what it says.

mod access;
mod client;
mod sent;
mod stored;

/// Takes any bytes; what panics is a bug.
pub(crate) type FuzzedDecoder = fn(&[u8]);

/// The decoders, by the names of their corpora.
pub(crate) const ALL: [(&str, FuzzedDecoder); 28] = [
    ("json", sent::json),
    ("bulk", sent::bulk),
    ("quick", sent::quick),
    ("protobuf", sent::protobuf),
    ("ndjson", sent::ndjson),
    ("cloudevents", sent::cloudevents),
    ("raw", sent::raw),
    ("coding", sent::coding),
    ("query", sent::query),
    ("filters", sent::filters),
    ("cursor", sent::cursor),
    ("keys", stored::stored_keys),
    ("stored", stored::stored),
    ("erasure", stored::erasure),
    ("segment", stored::segment),
    ("manifest", stored::manifest),
    ("backup", stored::backup),
    ("config", access::config),
    ("policy", access::policy),
    ("tokens", access::tokens),
    ("jwks", access::jwks),
    ("jwt", access::jwt),
    ("certificate", access::certificate),
    ("ticket", access::ticket),
    ("cluster", stored::cluster),
    ("sse", client::sse),
    ("lines", client::input_lines),
    ("console", zombi::console::show_any),
];

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(bytes)
}

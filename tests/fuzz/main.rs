//! Every decoder against bytes that nobody would send, by libFuzzer: `make fuzz`. The corpus directory's name
//! says which decoder, so that one program serves all.

#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod decoders;

use std::{path::Path, sync::OnceLock};

static DECODER: OnceLock<decoders::FuzzedDecoder> = OnceLock::new();

fn choose() -> decoders::FuzzedDecoder {
    let paths: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let name = paths
        .last()
        .and_then(|path| Path::new(path).file_name()?.to_str())
        .expect("the last argument is a corpus directory");
    let found = decoders::ALL.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no decoder {name}")).1
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| DECODER.get_or_init(choose)(data));

//! Compiles the protobuf files without an installed protoc, and passes on which commit is built.

use std::{env, error::Error, path::Path};

const FILES: [&str; 1] = ["zombi/v1/event.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("proto");
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-env-changed=REVISION");
    println!("cargo::rustc-env=ZOMBI_REVISION={}", revision());
    let descriptors = protox::compile(FILES.map(|file| root.join(file)), [root])?;
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}

/// The commit that is built, if the builder says so. Git is not asked: the same sources give the same
/// program, with a repository around them or without one.
fn revision() -> String {
    let given = env::var_os("REVISION").and_then(|value| value.into_string().ok());
    let is_word = |value: &String| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
    given.filter(is_word).unwrap_or_else(|| "unknown".to_owned())
}

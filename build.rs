//! Compiles the protobuf files without an installed protoc.

use std::{error::Error, path::Path};

const FILES: [&str; 1] = ["zombi/v1/event.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("proto");
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES.map(|file| root.join(file)), [root])?;
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}

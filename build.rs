//! Compiles `proto/peers.proto`. By protox: only etcd-client needs `protoc`.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/peers.proto");
    let compiled = protox::compile(["peers.proto"], ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a directory for what is built"));
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::peers::wire::ShortAtFirst")
        .out_dir(out)
        .compile_fds(compiled)?;
    Ok(())
}

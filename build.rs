//! Compiles `proto/peers.proto`. By protox: only etcd-client needs `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/peers.proto");
    #[cfg(feature = "peers")]
    peers()?;
    Ok(())
}

#[cfg(feature = "peers")]
fn peers() -> Result<(), Box<dyn Error>> {
    let compiled = protox::compile(["peers.proto"], ["proto"])?;
    let out = std::env::var_os("OUT_DIR").expect("cargo names a directory for what is built");
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::peers::wire::ShortAtFirst")
        .out_dir(std::path::PathBuf::from(out))
        .compile_fds(compiled)?;
    Ok(())
}

//! Compiles `cluster/v1/*.proto` with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=cluster");
    let files = protox::compile(["cluster/v1/worker.proto", "cluster/v1/operator.proto"], ["."])?;
    // `wire` writes this message's Debug itself: it holds a secret.
    tonic_prost_build::configure().skip_debug(["cluster.v1.Form"]).compile_fds(files)?;
    Ok(())
}

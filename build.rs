//! Generates the gRPC code from `src/api/proto` with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let includes = ["src/api/proto"];
    let files = ["api/v1/boot.proto", "api/v1/event.proto"];
    println!("cargo:rerun-if-changed=src/api/proto");
    let descriptors = protox::compile(files, includes)?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

//! Kernel and initrd of the partition, for boot servers that ask the API what to boot.

use std::path::PathBuf;

use anyhow::Context;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use crate::anvil::refusal::Refusal;
use crate::anvil::state::Anvil;

const CHUNK_BYTES: usize = 128 << 10;

pub(super) async fn kernel(State(anvil): State<Anvil>) -> Result<Response, Refusal> {
    send(anvil.config.partition.bootconfig.kernel.clone(), "kernel").await
}

pub(super) async fn initrd(State(anvil): State<Anvil>) -> Result<Response, Refusal> {
    send(anvil.config.partition.bootconfig.initrd.clone(), "initrd").await
}

async fn send(path: Option<PathBuf>, what: &str) -> Result<Response, Refusal> {
    let path =
        path.ok_or_else(|| Refusal::NotFound(format!("partition.bootconfig.{what} is not in anvil's configuration")))?;
    let opening = || format!("opening {}", path.display());
    let file = File::open(&path).await.with_context(opening)?;
    let length = file.metadata().await.with_context(opening)?.len();
    let chunks = stream::try_unfold(file, async |mut file| {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = file.read(&mut chunk).await?;
        chunk.truncate(count);
        Ok::<_, std::io::Error>((count > 0).then(|| (Bytes::from(chunk), file)))
    });
    let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, length.to_string())];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

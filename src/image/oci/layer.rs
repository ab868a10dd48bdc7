//! A layer's bytes into the queue.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;

use super::registry::Registry;
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::fetch::{Stop, send_all};
use crate::image::http::{LayerRequest, fetch_layer};
use crate::image::queue::Sender;
use crate::image::report::Counters;

/// One layer of an image.
pub(in crate::image) struct Layer {
    /// From 1, the lowest.
    pub(in crate::image) number: usize,
    /// Of how many.
    pub(in crate::image) count: usize,
    /// Of the bytes as they are stored.
    pub(in crate::image) digest: Digest,
    pub(in crate::image) bytes: u64,
    pub(super) content: Content,
}

pub(super) enum Content {
    File { path: PathBuf, offset: u64 },
    Blob { url: Url, registry: Arc<Registry> },
}

impl Layer {
    /// Fetches all of it.
    pub(in crate::image) async fn fetch(&self, counters: &Arc<Counters>, sender: Sender) -> Result<(), Stop> {
        match &self.content {
            Content::Blob { url, registry } => {
                let request = LayerRequest { url, bytes: self.bytes, registry };
                fetch_layer(&registry.client, request, registry.retry, counters, sender).await
            }
            Content::File { path, offset } => {
                let (path, offset, bytes, counters) = (path.clone(), *offset, self.bytes, Arc::clone(counters));
                let fetch =
                    move || fetch_range(&path, offset, bytes, &counters, &sender).and_then(|()| Ok(sender.end()?));
                let fetched = tokio::task::spawn_blocking(fetch).await;
                fetched.unwrap_or(Err(Stop::Failed(ImageError::StageDied { stage: "fetch" })))
            }
        }
    }

    /// Says where something went wrong.
    pub(in crate::image) fn locate(&self, error: ImageError) -> ImageError {
        let (number, count, digest) = (self.number, self.count, self.digest.clone());
        ImageError::Layer { number, count, digest, source: Box::new(error) }
    }
}

/// Reads a part of a file. Blocks.
fn fetch_range(path: &Path, start: u64, bytes: u64, counters: &Counters, sender: &Sender) -> Result<(), Stop> {
    let failed = |source| ImageError::ReadFile { path: path.to_owned(), offset: start, source };
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    send_all(&mut file.take(bytes), path, start, Some(bytes), counters, sender)
}

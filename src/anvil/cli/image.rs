//! `anvil image`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::connection::{Connection, segment};
use super::{Format, print_json, table};
use crate::anvil::images::SIGNATURE_SUFFIX;
use crate::api::rest;

#[derive(Subcommand)]
pub(super) enum Image {
    /// Add an image: a file, which anvil then serves itself, or a URL
    Add(Add),
    /// All images
    List,
    /// Remove an image and its file; refused while a machine uses it
    Remove { id: String },
}

#[derive(Args)]
pub(super) struct Add {
    /// <os>-<major>.<minor>.<patch>, such as debian-12.0.20260701
    #[arg(long)]
    id: String,
    /// Image file: tar, compressed by zstd, lz4, gzip or xz. A signature by minisign beside it (FILE.minisig) comes along
    #[arg(long, required_unless_present = "source", conflicts_with = "source")]
    file: Option<PathBuf>,
    /// Where the image lies, when not here
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// sha256:<hex>, also sha512 or md5 of a URL; for a file it is computed, and compared when given
    #[arg(long)]
    digest: Option<String>,
    #[arg(long, default_value = "")]
    name: String,
    #[arg(long, default_value = "")]
    description: String,
    /// machine, firewall
    #[arg(long, value_delimiter = ',', default_value = "machine")]
    features: Vec<String>,
}

pub(super) async fn run(command: Image, connection: &Connection, format: Format) -> Result<()> {
    let client = connection.client()?;
    match command {
        Image::Add(add) => {
            let image: rest::Image = match &add.file {
                Some(file) => client.upload(&upload_path(&add, file)?, file).await?,
                None => {
                    let image = rest::Image {
                        id: add.id,
                        name: add.name,
                        description: add.description,
                        url: add.source.unwrap_or_default(),
                        features: add.features,
                        digest: add.digest,
                        ..rest::Image::default()
                    };
                    client.put("/v1/image", &image).await?
                }
            };
            print(&[image], format, true)
        }
        Image::List => print(&client.get::<Vec<rest::Image>>("/v1/image").await?, format, false),
        Image::Remove { id } => print(&[client.delete(&format!("/v1/image/{}", segment(&id))).await?], format, true),
    }
}

fn upload_path(add: &Add, file: &Path) -> Result<String> {
    let filename = file.file_name().with_context(|| format!("{} names no file", file.display()))?;
    let mut path = format!(
        "/v1/image/{}/file?filename={}&name={}&description={}&features={}",
        segment(&add.id),
        segment(&filename.to_string_lossy()),
        segment(&add.name),
        segment(&add.description),
        segment(&add.features.join(",")),
    );
    if let Some(digest) = &add.digest {
        path.push_str(&format!("&digest={}", segment(digest)));
    }
    if let Some(signature) = read_signature(file)? {
        path.push_str(&format!("&signature={}", segment(&signature)));
    }
    Ok(path)
}

/// The signature beside the file, if there is one.
fn read_signature(file: &Path) -> Result<Option<String>> {
    let mut path = file.to_owned().into_os_string();
    path.push(SIGNATURE_SUFFIX);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", Path::new(&path).display())),
    }
}

fn print(images: &[rest::Image], format: Format, single: bool) -> Result<()> {
    match (format, images) {
        (Format::Json, [image]) if single => print_json(image),
        (Format::Json, images) => print_json(&images),
        (Format::Table, images) => {
            let rows: Vec<Vec<String>> = images
                .iter()
                .map(|image| {
                    vec![
                        image.id.clone(),
                        image.features.join(","),
                        image.usedby.len().to_string(),
                        image.url.clone(),
                        image.digest.clone().unwrap_or_default(),
                    ]
                })
                .collect();
            table::print(&["ID", "FEATURES", "USED BY", "URL", "DIGEST"], &rows)
        }
    }
}

//! `anvil layout`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::connection::{Connection, segment};
use super::documents::read_list;
use super::{Format, print_json, table};
use crate::anvil::layouts;
use crate::anvil::version::ImageId;
use crate::api::layout::{FilesystemLayout, validate};

#[derive(Subcommand)]
pub(super) enum Layout {
    /// Add the layouts of a file, YAML or JSON
    Add {
        file: PathBuf,
        /// Replace those that exist
        #[arg(long)]
        replace: bool,
    },
    /// All layouts
    List,
    /// Remove a layout; allocations keep their copy
    Remove { id: String },
    /// Check the layouts of a file, without a server
    Validate { file: PathBuf },
    /// Print the layout that an allocation would get, without a server
    Match {
        #[arg(long, value_name = "FILE")]
        layouts: PathBuf,
        #[arg(long, value_name = "ID")]
        size: String,
        #[arg(long, value_name = "ID")]
        image: String,
    },
}

pub(super) async fn run(command: Layout, connection: &Connection, format: Format) -> Result<()> {
    match command {
        Layout::Add { file, replace } => {
            let client = connection.client()?;
            let mut added = Vec::new();
            for layout in read_list::<FilesystemLayout>(&file)? {
                added.push(add(&client, &layout, replace).await.with_context(|| format!("adding {:?}", layout.id))?);
            }
            print(&added, format)
        }
        Layout::List => {
            print(&connection.client()?.get::<Vec<FilesystemLayout>>("/v1/filesystemlayout").await?, format)
        }
        Layout::Remove { id } => {
            let path = format!("/v1/filesystemlayout/{}", segment(&id));
            print(&[connection.client()?.delete(&path).await?], format)
        }
        Layout::Validate { file } => validate(&read_list(&file)?, format),
        Layout::Match { layouts, size, image } => find(&read_list(&layouts)?, &size, &image, format),
    }
}

async fn add(
    client: &crate::anvil::client::Client,
    layout: &FilesystemLayout,
    replace: bool,
) -> Result<FilesystemLayout> {
    let known: Vec<FilesystemLayout> = client.get("/v1/filesystemlayout").await?;
    if replace && known.iter().any(|known| known.id == layout.id) {
        client.post("/v1/filesystemlayout", layout).await
    } else {
        client.put("/v1/filesystemlayout", layout).await
    }
}

fn validate(all: &[FilesystemLayout], format: Format) -> Result<()> {
    let mut faults = Vec::new();
    for (index, layout) in all.iter().enumerate() {
        faults.extend(validate::validate(layout).into_iter().map(|fault| format!("{:?}: {fault}", layout.id)));
        faults.extend(layouts::collision(layout, &all[..index]));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    match format {
        Format::Json => print_json(&serde_json::json!({ "valid": all.len() })),
        Format::Table => super::print(&format!("{} valid", all.len())),
    }
}

fn find(all: &[FilesystemLayout], size: &str, image: &str, format: Format) -> Result<()> {
    let Some(chosen) = layouts::choose(all, size, &ImageId::parse(image)?) else {
        bail!("no layout is for size {size:?} and image {image:?}");
    };
    match format {
        Format::Json => print_json(&serde_json::json!({ "id": chosen.id })),
        Format::Table => super::print(&chosen.id),
    }
}

fn print(all: &[FilesystemLayout], format: Format) -> Result<()> {
    if format == Format::Json {
        return print_json(&all);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|layout| {
            let images: Vec<String> =
                layout.constraints.images.iter().map(|(os, version)| format!("{os} {version}")).collect();
            vec![
                layout.id.clone(),
                layout.constraints.sizes.join(","),
                images.join(","),
                layout.disks.iter().map(|disk| disk.device.clone()).collect::<Vec<_>>().join(","),
                layout.description.clone(),
            ]
        })
        .collect();
    table::print(&["ID", "SIZES", "IMAGES", "DISKS", "DESCRIPTION"], &rows)
}

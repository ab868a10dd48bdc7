//! `anvil size`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::connection::{Connection, segment};
use super::documents::{read_list, read_one};
use super::{Format, print_json, table};
use crate::anvil::sizes::{self, Constraint, Kind};
use crate::api::rest::Hardware;
use crate::sys::units::Bytes;

#[derive(Subcommand)]
pub(super) enum Size {
    /// Add the sizes of a file, YAML or JSON
    Add {
        file: PathBuf,
        /// Replace those that exist
        #[arg(long)]
        replace: bool,
    },
    /// All sizes
    List,
    /// Remove a size
    Remove { id: String },
    /// Print the size of a machine, without a server
    Match {
        #[arg(long, value_name = "FILE")]
        sizes: PathBuf,
        /// What "drophammer inventory --format json" printed
        #[arg(long, value_name = "FILE")]
        hardware: PathBuf,
    },
    /// Check the sizes of a file, without a server
    Validate { file: PathBuf },
}

pub(super) async fn run(command: Size, connection: &Connection, format: Format) -> Result<()> {
    match command {
        Size::Add { file, replace } => {
            let client = connection.client()?;
            let known: Vec<sizes::Size> = client.get("/v1/size").await?;
            let mut added = Vec::new();
            for size in read_list::<sizes::Size>(&file)? {
                let exists = known.iter().any(|known| known.id == size.id);
                let answer = if replace && exists {
                    client.post("/v1/size", &size).await
                } else {
                    client.put("/v1/size", &size).await
                };
                added.push(answer.with_context(|| format!("adding {:?}", size.id))?);
            }
            print(&added, format)
        }
        Size::List => print(&connection.client()?.get::<Vec<sizes::Size>>("/v1/size").await?, format),
        Size::Remove { id } => {
            print(&[connection.client()?.delete(&format!("/v1/size/{}", segment(&id))).await?], format)
        }
        Size::Match { sizes, hardware } => find(&read_list(&sizes)?, &read_one(&hardware)?, format),
        Size::Validate { file } => validate(&read_list(&file)?, format),
    }
}

fn find(all: &[sizes::Size], hardware: &Hardware, format: Format) -> Result<()> {
    let size = sizes::find(all, hardware)?;
    match format {
        Format::Json => print_json(&serde_json::json!({ "id": size.id })),
        Format::Table => super::print(&size.id),
    }
}

fn validate(all: &[sizes::Size], format: Format) -> Result<()> {
    let mut faults = Vec::new();
    for (index, size) in all.iter().enumerate() {
        faults.extend(sizes::validate(size).iter().map(|fault| format!("{:?}: {fault}", size.id)));
        if all[..index].iter().any(|other| other.id == size.id) {
            faults.push(format!("{:?} stands twice", size.id));
        }
        faults.extend(sizes::overlap(size, &all[..index]).map(|fault| fault.to_string()));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    match format {
        Format::Json => print_json(&serde_json::json!({ "valid": all.len() })),
        Format::Table => super::print(&format!("{} valid", all.len())),
    }
}

fn print(all: &[sizes::Size], format: Format) -> Result<()> {
    if format == Format::Json {
        return print_json(&all);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|size| {
            let constraints: Vec<String> = size.constraints.iter().map(constraint_text).collect();
            vec![size.id.clone(), constraints.join("; "), size.description.clone()]
        })
        .collect();
    table::print(&["ID", "CONSTRAINTS", "DESCRIPTION"], &rows)
}

fn constraint_text(constraint: &Constraint) -> String {
    let amount = |n: u64| match constraint.kind {
        Kind::Memory | Kind::Storage => Bytes(n).to_string(),
        Kind::Cores | Kind::Gpu | Kind::Other(_) | Kind::Absent => n.to_string(),
    };
    let range = format!("{} {} to {}", constraint.kind.as_str(), amount(constraint.min), amount(constraint.max));
    if constraint.identifier.is_empty() { range } else { format!("{range} ({})", constraint.identifier) }
}

//! `anvil size`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::connection::{Connection, segment};
use super::documents::{read_hardware, read_sizes};
use super::{Format, print_json, table};
use crate::anvil::sizes::{self, Constraint, Matching, Verdict};
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
    /// Print the size of a machine, without a server; else what kept each size from matching
    Match {
        #[arg(long, value_name = "FILE")]
        sizes: PathBuf,
        /// What "drophammer inventory --format json" printed
        #[arg(long, value_name = "FILE")]
        hardware: PathBuf,
        /// metal-api's rules alone: no marketing names of GPUs
        #[arg(long)]
        strict: bool,
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
            for size in read_sizes(&file)? {
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
        Size::Match { sizes, hardware, strict } => {
            let matching = if strict { Matching::Strict } else { Matching::WithMarketingNames };
            find(&read_sizes(&sizes)?, &read_hardware(&hardware)?, matching, format)
        }
        Size::Validate { file } => validate(&read_sizes(&file)?, format),
    }
}

fn find(all: &[sizes::Size], hardware: &Hardware, matching: Matching, format: Format) -> Result<()> {
    let verdict = sizes::judge(all, hardware, matching);
    if format == Format::Json {
        print_json(&verdict)?;
    }
    match (&verdict.id, format) {
        (Some(_), Format::Json) => Ok(()),
        (Some(id), Format::Table) => super::print(id),
        (None, Format::Json | Format::Table) => bail!("{}", reasons(&verdict).join("\n  ")),
    }
}

/// Why there is no size, one line a size.
pub(super) fn reasons(verdict: &Verdict) -> Vec<String> {
    let first = match verdict.matching.as_slice() {
        [] if verdict.misses.is_empty() => "no size matches, since there are none".to_owned(),
        [] => "no size matches".to_owned(),
        several => format!("{} sizes match, expected one: {}", several.len(), several.join(", ")),
    };
    std::iter::once(first).chain(verdict.misses.iter().map(ToString::to_string)).collect()
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
    let notes: Vec<String> = all
        .iter()
        .flat_map(|size| sizes::notes(size).into_iter().map(|note| format!("{:?}: {note}", size.id)))
        .collect();
    match format {
        Format::Json => print_json(&serde_json::json!({ "valid": all.len(), "notes": notes })),
        Format::Table => {
            notes.iter().for_each(|note| eprintln!("note: {note}"));
            super::print(&format!("{} valid", all.len()))
        }
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
    let amount = |n: u64| if constraint.kind.is_in_bytes() { Bytes(n).to_string() } else { n.to_string() };
    let range = format!("{} {} to {}", constraint.kind.as_str(), amount(constraint.min), amount(constraint.max));
    if constraint.identifier.is_empty() { range } else { format!("{range} ({})", constraint.identifier) }
}

//! `drophammer inventory`: what is in this machine, or in a captured one.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::table::Table;
use crate::sys::roots::Roots;

#[derive(Clone, Debug, Args)]
pub struct InventoryArgs {
    /// A captured machine: DIR/proc, DIR/sys and DIR/dev stand for the real ones
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Json,
    Table,
}

/// Prints the inventory on standard output.
///
/// # Errors
///
/// When there is neither `proc` nor `sys` under the root, and when standard output cannot be written.
pub fn run(args: &InventoryArgs) -> Result<ExitCode> {
    let roots = Roots::under(&args.root);
    if !roots.proc.is_dir() && !roots.sys.is_dir() {
        bail!("{} is no captured machine: it has neither proc nor sys", args.root.display());
    }
    let inventory = super::read(&roots);
    let mut text = match args.format {
        Format::Json => serde_json::to_string_pretty(&inventory).context("writing the inventory as JSON")?,
        Format::Table => Table(&inventory).to_string(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    io::stdout().write_all(text.as_bytes()).context("writing to standard output")?;
    Ok(ExitCode::SUCCESS)
}

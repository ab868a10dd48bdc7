//! `drophammer plan` and `drophammer erase`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::device::{DiskFacts, read_disk_at, read_disks};
use super::erase::{EraseOptions, EraseOutcome, erase_named};
use super::plan::{Firmware, Mode};
use super::planner::plan;
use crate::api::layout::FilesystemLayout;
use crate::sys::roots::Roots;

/// The answer is no, or the work failed.
const EXIT_NO: u8 = 1;
/// The call was wrong.
const EXIT_USAGE: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    #[default]
    Table,
    Json,
}

/// Shows what an installation would do to which disk; changes nothing
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// File system layout: JSON or YAML
    #[arg(long, value_name = "FILE")]
    pub layout: PathBuf,
    /// A captured machine with proc, sys and dev, instead of this one
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Plan a reinstallation: disks with wipeonreinstall=false are kept
    #[arg(long)]
    pub reinstall: bool,
    /// Plan for this firmware instead of the one that booted the machine
    #[arg(long, value_enum)]
    pub firmware: Option<FirmwareArg>,
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FirmwareArg {
    Uefi,
    Bios,
}

/// Erases disks, each only if its serial number is given
#[derive(Args, Debug)]
pub struct EraseArgs {
    /// Whole disks, such as /dev/sda
    #[arg(required = true, value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// Serial number of each disk, in the same order; its size in bytes if it has none
    #[arg(long, required = true, num_args = 1.., value_name = "SERIAL")]
    pub confirm: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,
}

/// Exit status 1 when the layout does not fit; then every fault is told on standard error.
pub fn run_plan(args: &PlanArgs) -> Result<ExitCode> {
    let layout = read_layout(&args.layout)?;
    let roots = Roots::under(&args.root);
    let firmware = match args.firmware {
        Some(FirmwareArg::Uefi) => Firmware::Uefi,
        Some(FirmwareArg::Bios) => Firmware::Bios,
        None => Firmware::read(&roots),
    };
    let mode = if args.reinstall { Mode::Reinstall } else { Mode::Install };
    match plan(&layout, &read_disks(&roots)?, firmware, mode) {
        Ok(plan) => {
            match args.format {
                OutputFormat::Table => print(&plan.to_string())?,
                OutputFormat::Json => print_json(&plan)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            let told: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
            if args.format == OutputFormat::Json {
                print_json(&json!({ "faults": told }))?;
            }
            eprintln!("the layout does not fit this machine:\n  {}", told.join("\n  "));
            Ok(ExitCode::from(EXIT_NO))
        }
    }
}

/// One layout, alone or as a list of one. JSON is YAML, but JSON's own reader has the better errors.
fn read_layout(path: &Path) -> Result<FilesystemLayout> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(Box<FilesystemLayout>),
        Many(Vec<FilesystemLayout>),
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let begins = text.trim_start().chars().next();
    let parsed: OneOrMany = if matches!(begins, Some('{' | '[')) {
        serde_json::from_str(&text).with_context(|| format!("reading {} as JSON", path.display()))?
    } else {
        serde_saphyr::from_str(&text).with_context(|| format!("reading {} as YAML", path.display()))?
    };
    match parsed {
        OneOrMany::One(layout) => Ok(*layout),
        OneOrMany::Many(mut layouts) => match (layouts.pop(), layouts.len()) {
            (Some(layout), 0) => Ok(layout),
            (last, others) => {
                bail!("{} holds {} layouts, expected one", path.display(), others + usize::from(last.is_some()))
            }
        },
    }
}

/// Exit status 2 when the call is incomplete, 1 when a disk may not be erased or could not be.
pub fn run_erase(args: &EraseArgs) -> Result<ExitCode> {
    if args.confirm.len() != args.devices.len() {
        let (devices, serials) = (args.devices.len(), args.confirm.len());
        eprintln!("{devices} disks and {serials} serial numbers were given; --confirm takes one for each disk");
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let disks = confirmed_disks(args)?;
    let mut told = BTreeSet::new();
    let outcomes = erase_named(&disks, &EraseOptions::default(), &mut |progress| {
        let tenths = progress.done.0.saturating_mul(10) / progress.total.0.max(1);
        let line = format!("{}: {}, {} %", progress.device, progress.method, tenths * 10);
        if told.insert(line.clone()) {
            eprintln!("{line}");
        }
    });
    match args.format {
        OutputFormat::Table => print(&outcomes.iter().map(|outcome| format!("{outcome}\n")).collect::<String>())?,
        OutputFormat::Json => print_json(&outcomes)?,
    }
    let failed = outcomes.iter().any(EraseOutcome::is_failure);
    Ok(ExitCode::from(if failed { EXIT_NO } else { 0 }))
}

/// All are checked before the first is touched.
fn confirmed_disks(args: &EraseArgs) -> Result<Vec<DiskFacts>> {
    let roots = Roots::system();
    let mut disks = Vec::new();
    let mut seen = BTreeSet::new();
    for (device, word) in args.devices.iter().zip(&args.confirm) {
        let disk = read_disk_at(&roots, device).with_context(|| format!("nothing was erased: looking at {device}"))?;
        check_confirmation(&disk, word)?;
        if !seen.insert(disk.name.clone()) {
            bail!("nothing was erased: {device} is given twice");
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn check_confirmation(disk: &DiskFacts, word: &str) -> Result<()> {
    let device = &disk.device;
    let size = disk.size.0.to_string();
    let (what, expected) = match &disk.serial {
        Some(serial) => ("serial number", serial.as_str()),
        None => ("size in bytes (it has no serial number)", size.as_str()),
    };
    if word != expected {
        bail!("nothing was erased: the {what} of {device} is {expected:?}, --confirm says {word:?}");
    }
    if disk.size.0 == 0 {
        bail!("nothing was erased: {device} has no medium");
    }
    if disk.read_only {
        bail!("nothing was erased: {device} is write-protected");
    }
    if !disk.uses.is_empty() {
        let uses: Vec<String> = disk.uses.iter().map(ToString::to_string).collect();
        bail!("nothing was erased: {device} is in use: {}", uses.join(", "));
    }
    Ok(())
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("composing JSON")?;
    print(&(text + "\n"))
}

/// Not `println!`, which panics when the reader of a pipe is gone.
fn print(text: &str) -> Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("writing to standard output")
}

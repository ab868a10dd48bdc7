//! `drophammer plan` and `drophammer erase`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::device::{DiskFacts, read_disk_at, read_disks};
use super::erase::{EraseOptions, EraseProgress, EraseRecord, Level, erase_named};
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
    /// quick: tables and signatures only; clear: all that can be read; purge: by the disk's own commands only
    #[arg(long, value_enum, default_value_t)]
    pub level: Level,
    /// Also by FORMAT UNIT, on SCSI disks that have no better command; takes hours
    #[arg(long)]
    pub format_unit: bool,
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

/// One layout, alone or as a list of one.
fn read_layout(path: &Path) -> Result<FilesystemLayout> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut layouts = parse_layouts(&text).with_context(|| format!("reading {} as a layout", path.display()))?;
    match (layouts.pop(), layouts.len()) {
        (Some(layout), 0) => Ok(layout),
        (None, _) => bail!("{} holds no layout", path.display()),
        (Some(_), others) => bail!("{} holds {} layouts, expected one", path.display(), others + 1),
    }
}

/// JSON is YAML, but its own reader has the better errors. YAML is read straight into the type, and not by way of
/// a value of any type, since only so does `gpttype: 8300` stay a text.
fn parse_layouts(text: &str) -> Result<Vec<FilesystemLayout>> {
    let is_content = |line: &&str| !line.is_empty() && !line.starts_with('#') && *line != "---";
    match text.lines().map(str::trim).find(is_content).and_then(|line| line.chars().next()) {
        Some('[') => Ok(serde_json::from_str(text)?),
        Some('{') => Ok(vec![serde_json::from_str(text)?]),
        Some('-') => Ok(serde_saphyr::from_str(text)?),
        Some(_) => Ok(vec![serde_saphyr::from_str(text)?]),
        None => Ok(Vec::new()),
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
    let options = EraseOptions { format_unit: args.format_unit, ..EraseOptions::of_level(args.level) };
    stop_on_signal(Arc::clone(&options.cancel));
    let mut told = BTreeSet::new();
    let records = erase_named(&disks, &options, &mut |progress| {
        let line = progress_line(progress);
        if told.insert(line.clone()) {
            eprintln!("{line}");
        }
    });
    match args.format {
        OutputFormat::Table => print(&records.iter().map(|record| format!("{record}\n")).collect::<String>())?,
        OutputFormat::Json => print_json(&records)?,
    }
    let failed = records.iter().any(EraseRecord::is_failure);
    Ok(ExitCode::from(if failed { EXIT_NO } else { 0 }))
}

/// One for each tenth.
fn progress_line(progress: &EraseProgress) -> String {
    if progress.verifying {
        return format!("{}: {}, reading back", progress.device, progress.method);
    }
    let tenths = u128::from(progress.done.0) * 10 / u128::from(progress.total.0.max(1));
    format!("{}: {}, {} %", progress.device, progress.method, tenths * 10)
}

/// From its return on, SIGINT and SIGTERM set `cancel` and do not end the program.
pub fn stop_on_signal(cancel: Arc<AtomicBool>) {
    let (ready, is_ready) = channel();
    let wait = async move {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(ready);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.store(true, Ordering::Relaxed);
        eprintln!("stopping; what was erased stays erased");
        std::io::Result::Ok(())
    };
    let work = || {
        let heard = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|rt| rt.block_on(wait));
        // Then a signal ends the program at once, without a word; that is no reason not to erase.
        if let Err(error) = heard {
            tracing::warn!(%error, "signals are not waited for");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("signals".to_owned()).spawn(work) {
        tracing::warn!(%error, "signals are not waited for");
    }
    // Ends when the other side is dropped, in any case.
    let _: Result<(), _> = is_ready.recv();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn captured() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("sys/block/vda");
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::write(disk.join("size"), "16777216\n").unwrap();
        fs::write(disk.join("queue/logical_block_size"), "512\n").unwrap();
        dir
    }

    fn run(root: &Path, layout: &str, format: OutputFormat) -> Result<ExitCode> {
        let file = root.join("layout");
        fs::write(&file, layout).unwrap();
        let (layout, root) = (file, root.to_owned());
        run_plan(&PlanArgs { layout, root, reinstall: false, firmware: Some(FirmwareArg::Bios), format })
    }

    /// `ExitCode` can be compared no other way.
    fn same(result: Result<ExitCode>, code: u8) -> bool {
        format!("{:?}", result.unwrap()) == format!("{:?}", ExitCode::from(code))
    }

    #[test]
    fn plans_a_captured_machine_from_yaml_json_and_a_list() {
        let dir = captured();
        let vm = include_str!("../../tests/fixtures/layouts/vm.json");
        let gpu = include_str!("../../tests/fixtures/layouts/gpu.json");
        let yaml = "# comment\nid: y\ndisks:\n- device: /dev/vda\n  partitions:\n  - {number: 1, size: 0, gpttype: 8300}\n\
                    filesystems:\n- {device: /dev/vda1, path: /, format: ext4}\nraid: null\n";
        let listed = format!("---\n- {}", yaml.trim_start_matches("# comment\n").trim_end().replace('\n', "\n  "));
        assert!(same(run(dir.path(), vm, OutputFormat::Table), 0));
        assert!(same(run(dir.path(), &format!("[{vm}]"), OutputFormat::Json), 0));
        assert!(same(run(dir.path(), yaml, OutputFormat::Table), 0));
        assert!(same(run(dir.path(), &listed, OutputFormat::Table), 0));
        assert!(same(run(dir.path(), gpu, OutputFormat::Json), 1));
        let error = run(dir.path(), &format!("[{vm},{gpu}]"), OutputFormat::Table).unwrap_err();
        assert!(error.to_string().ends_with("holds 2 layouts, expected one"), "{error}");
        for (text, end) in
            [("disks: [", "as a layout"), ("{\"disks\": 5}", "as a layout"), ("[]", "no layout"), ("", "no layout")]
        {
            let error = run(dir.path(), text, OutputFormat::Table).unwrap_err().to_string();
            assert!(error.ends_with(end), "{text}: {error}");
        }
    }
}

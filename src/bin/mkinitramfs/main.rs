//! mkinitramfs: packs the agent, drivers and tools into the archive that the kernel unpacks as its first root.
//!
//! What goes in is data, in three lists (`initramfs/` in the source tree): `drivers.list` names modules of the kernel
//! package, `tools.list` programs of this machine (with the libraries they need), `files.list` other files of it.
//! The same inputs give the same bytes: names are sorted, inode numbers counted, owners root, times fixed.

mod archive;
mod compress;
mod elf;
mod lists;
mod modules;
mod pattern;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use archive::Archive;
use compress::Compression;
use modules::Kernel;

/// Builds drophammer's initramfs.
#[derive(Parser)]
#[command(version = drophammer::VERSION)]
struct Args {
    /// The agent: a static binary, packed as /init.
    #[arg(long)]
    agent: PathBuf,
    /// Unpacked kernel package: the directory that holds lib/modules/RELEASE, after depmod. Without it no drivers are
    /// packed (a monolithic kernel).
    #[arg(long)]
    kernel_dir: Option<PathBuf>,
    /// Directory of drivers.list, tools.list and files.list.
    #[arg(long)]
    lists: PathBuf,
    #[arg(long, value_enum, default_value_t = Compression::Zstd)]
    compress: Compression,
    /// Time of every file, in seconds since 1970.
    #[arg(long, env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    epoch: u32,
    #[arg(long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkinitramfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut archive = Archive::with_directories();
    pack_agent(&mut archive, &args.agent)?;
    let agent_bytes = archive.content_bytes();
    if let Some(dir) = &args.kernel_dir {
        pack_drivers(&mut archive, dir, &args.lists.join("drivers.list"))?;
    }
    let driver_bytes = archive.content_bytes() - agent_bytes;
    pack_tools(&mut archive, &args.lists.join("tools.list"))?;
    pack_files(&mut archive, &args.lists.join("files.list"))?;
    let tool_bytes = archive.content_bytes() - agent_bytes - driver_bytes;
    write_output(&archive, args)?;
    let packed_bytes = fs::metadata(&args.output).context("looking at the result")?.len();
    println!(
        "{}: {packed_bytes} bytes; unpacked: agent {agent_bytes}, drivers {driver_bytes}, tools {tool_bytes}",
        args.output.display()
    );
    Ok(())
}

fn pack_agent(archive: &mut Archive, agent: &Path) -> Result<()> {
    let data = fs::read(agent).with_context(|| format!("reading the agent {}", agent.display()))?;
    let needs = elf::read_needs(&data).with_context(|| format!("reading the ELF header of {}", agent.display()))?;
    // Nothing but the archive is there when the kernel starts /init, and its libraries are not in it.
    anyhow::ensure!(
        needs.interpreter.is_none(),
        "{} is not static: it wants {}; build it with -C target-feature=+crt-static",
        agent.display(),
        needs.interpreter.unwrap_or_default()
    );
    archive.add_file("init", 0o755, data)
}

fn pack_drivers(archive: &mut Archive, kernel_dir: &Path, list: &Path) -> Result<()> {
    let kernel = Kernel::read(kernel_dir)?;
    let wanted = lists::read_drivers(list)?;
    let selection = kernel.select(&wanted);
    if !selection.unknown.is_empty() {
        // Kernels differ: what one has as a module another does not have at all.
        println!("{} has no module for: {}", kernel.release(), selection.unknown.join(" "));
    }
    kernel.pack(&selection, archive)
}

fn pack_tools(archive: &mut Archive, list: &Path) -> Result<()> {
    for tool in lists::read_tools(list)? {
        if tool.optional && !Path::new(&tool.program).exists() {
            println!("{} is not on this machine and is left out", tool.program);
            continue;
        }
        let program = archive::clean_path(&tool.program);
        elf::pack_program(archive, &tool.program).with_context(|| format!("packing {}", tool.program))?;
        for link in &tool.links {
            archive.add_link(link, &format!("/{program}"))?;
        }
    }
    Ok(())
}

fn pack_files(archive: &mut Archive, list: &Path) -> Result<()> {
    for file in lists::read_files(list)? {
        match fs::read(&file.path) {
            Ok(data) => archive.add_file(&file.path, 0o644, data)?,
            Err(error) if file.optional && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.path)),
        }
    }
    Ok(())
}

/// Under another name first: an interrupted build leaves no half archive that looks whole.
fn write_output(archive: &Archive, args: &Args) -> Result<()> {
    let part = args.output.with_extension("part");
    let context = || format!("writing {}", part.display());
    let file = File::create(&part).with_context(context)?;
    let plain = archive.to_bytes(args.epoch)?;
    let mut writer = BufWriter::new(file);
    compress::write(args.compress, &plain, &mut writer).with_context(context)?;
    writer.flush().with_context(context)?;
    fs::rename(&part, &args.output).with_context(|| format!("renaming {}", part.display()))
}

//! Mounts below one directory, and takes them down again in order.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mount_options::parse_options;
use super::nodes::node;
use super::plan::Plan;
use crate::sys::roots::Roots;

/// A process that was just ended holds its files for moments: 25 times 200 ms.
const UNMOUNT_ATTEMPTS: u32 = 25;
const UNMOUNT_DELAY: Duration = Duration::from_millis(200);

/// Mounts, in the order they were made. Dropped without [`Mounts::unmount`], they are taken down with a warning.
#[derive(Debug, Default)]
#[must_use = "dropping it unmounts"]
pub struct Mounts {
    targets: Vec<PathBuf>,
}

/// Mounts the plan's file systems below `target`, parents first. On an error, what was mounted is taken down.
pub fn mount_all(plan: &Plan, target: &Path) -> Result<Mounts> {
    let roots = Roots::system();
    let mut mounts = Mounts::default();
    for filesystem in plan.mounted() {
        let Some(path) = &filesystem.path else { continue };
        let source = node(&roots, plan, &filesystem.place)?;
        let options = parse_options(&filesystem.mount_options);
        let below = target.join(path.trim_start_matches('/'));
        let format = filesystem.format.as_str();
        mounts.add(&source, &below, format, options.flags, options.data.as_deref())?;
    }
    Ok(mounts)
}

impl Mounts {
    /// Mount points, in the order they were mounted.
    pub fn targets(&self) -> &[PathBuf] {
        &self.targets
    }

    /// Mounts one more.
    pub fn add(
        &mut self,
        source: &Path,
        target: &Path,
        format: &str,
        flags: MsFlags,
        data: Option<&str>,
    ) -> Result<()> {
        make_directory(target).with_context(|| format!("making mount point {}", target.display()))?;
        mount(Some(source), target, Some(format), flags, data)
            .map_err(|error| match error {
                Errno::ENODEV => anyhow!("the kernel does not know the file system {format}"),
                other => other.into(),
            })
            .with_context(|| format!("mounting {} ({format}) at {}", source.display(), target.display()))?;
        self.targets.push(target.to_owned());
        Ok(())
    }

    /// Writes everything to the disks and unmounts, the last mounted first. One that stays busy is detached, after its
    /// data is on the disk, and named in the error together with who holds it; the others are unmounted all the same.
    pub fn unmount(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let mut faults = Vec::new();
        while let Some(target) = self.targets.pop() {
            if let Err(error) = sync_filesystem(&target) {
                faults.push(format!("{error:#}"));
            }
            if let Err(error) = unmount_one(&target) {
                faults.push(format!("{error:#}"));
            }
        }
        if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("; ")) }
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        if self.targets.is_empty() {
            return;
        }
        tracing::warn!(mounts = self.targets.len(), "unmounting after an error");
        if let Err(error) = self.take_down() {
            tracing::warn!(error = format!("{error:#}"), "unmounting failed");
        }
    }
}

/// 0755 whatever the umask of the caller lets through, as upstream.
fn make_directory(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn sync_filesystem(target: &Path) -> Result<()> {
    let folder = File::open(target).with_context(|| format!("opening {} to flush it", target.display()))?;
    nix::unistd::syncfs(&folder).with_context(|| format!("flushing {}", target.display()))
}

fn unmount_one(target: &Path) -> Result<()> {
    for attempt in 1..=UNMOUNT_ATTEMPTS {
        match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return Ok(()),
            Err(Errno::EBUSY) if attempt < UNMOUNT_ATTEMPTS => sleep(UNMOUNT_DELAY),
            Err(Errno::EBUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("unmounting {}", target.display())),
        }
    }
    let holders = holders(target);
    let detached = umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    let fate = match detached {
        Ok(()) => "it was detached".to_owned(),
        Err(error) => format!("detaching it failed as well: {error}"),
    };
    let who = if holders.is_empty() { "nobody known".to_owned() } else { holders.join(", ") };
    bail!("{} is still busy, held by {who}; {fate}", target.display())
}

/// Processes with a file, directory or program below `target`, as `pid (name)`.
fn holders(target: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let holding = pids.filter(|entry| process_links(&entry.path()).iter().any(|link| link.starts_with(target)));
    let shown = holding.map(|entry| {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        format!("{} ({})", entry.file_name().to_string_lossy(), name.trim())
    });
    shown.collect()
}

fn process_links(process: &Path) -> Vec<PathBuf> {
    let fixed = ["cwd", "root", "exe"].into_iter().map(|name| process.join(name));
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    fixed.chain(files).filter_map(|link| fs::read_link(link).ok()).collect()
}

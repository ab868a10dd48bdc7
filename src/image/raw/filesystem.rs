//! File systems grow while they are mounted, by the kernel's own hand: no tools are needed for it, which in the
//! initramfs would take more room than this program's part.
//!
//! Of ext4 the kernel asks for CAP_SYS_RESOURCE, which root lacks in many a container; there its tools do it, on the
//! unmounted file system.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::MsFlags;

use crate::disk::kernel::load_modules;
use crate::disk::mount::Mounts;
use crate::disk::probe::{HEAD_BYTES, parse_signature};
use crate::disk::tool::{ToolError, run_tool};
use crate::sys::filesystem_size::{grow_btrfs, grow_ext4, grow_xfs};
use crate::sys::roots::Roots;

/// What a grown partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Grown(&'static str),
    /// It can't grow, or nobody knows what it is.
    Left(&'static str),
}

/// How a file system is grown.
#[derive(Clone, Copy)]
enum Method {
    Ext,
    Xfs,
    Btrfs,
}

/// Grows what is on a partition to all of it.
pub(super) fn grow_filesystem(node: &Path) -> Result<Content> {
    let (kind, size_bytes) = read_content(node).with_context(|| format!("reading {}", node.display()))?;
    let method = match kind {
        // the driver of ext4 knows the older ones
        "ext2" | "ext3" | "ext4" => Method::Ext,
        "xfs" => Method::Xfs,
        "btrfs" => Method::Btrfs,
        other => return Ok(Content::Left(other)),
    };
    let (format, options) = match method {
        Method::Ext => ("ext4", None),
        // the same image may be on another disk of this machine
        Method::Xfs => ("xfs", Some("nouuid")),
        Method::Btrfs => ("btrfs", None),
    };
    load_modules(&Roots::system(), &BTreeSet::from([format]));
    let name = node.file_name().unwrap_or_default().to_string_lossy();
    let place = std::env::temp_dir().join(format!("drophammer-grow-{}-{name}", std::process::id()));
    let mut mounts = Mounts::default();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mounts.add(node, &place, format, flags, options)?;
    let grown = grow_mounted(&place, method, size_bytes);
    let unmounted = mounts.unmount();
    // empty, and nobody's
    let _ = std::fs::remove_dir(&place);
    unmounted?;
    let grown = match (method, grown) {
        (Method::Ext, Err(err)) if err.raw_os_error() == Some(libc::EPERM) => grow_unmounted_ext(node),
        (Method::Ext | Method::Xfs | Method::Btrfs, grown) => grown.map_err(Into::into),
    };
    grown.with_context(|| format!("growing the {kind} on {} to {size_bytes} bytes", node.display()))?;
    Ok(Content::Grown(kind))
}

fn grow_mounted(place: &Path, method: Method, size_bytes: u64) -> io::Result<()> {
    let folder = File::open(place)?;
    match method {
        Method::Ext => grow_ext4(folder.as_fd(), size_bytes)?,
        Method::Xfs => grow_xfs(folder.as_fd(), size_bytes)?,
        Method::Btrfs => grow_btrfs(folder.as_fd())?,
    }
    nix::unistd::syncfs(&folder).map_err(Into::into)
}

/// resize2fs takes nothing that was mounted since its last check.
fn grow_unmounted_ext(node: &Path) -> Result<()> {
    const CORRECTED: i32 = 1;
    let node = node.display().to_string();
    match run_tool("e2fsck", &["-f".to_owned(), "-p".to_owned(), node.clone()]) {
        Err(ToolError::Failed { status, .. }) if status.code() == Some(CORRECTED) => {}
        checked => checked?,
    }
    Ok(run_tool("resize2fs", &[node])?)
}

/// The kind of what is there, and the bytes of the partition.
fn read_content(node: &Path) -> Result<(&'static str, u64)> {
    let file = File::open(node)?;
    let size_bytes = crate::sys::block::size_bytes(file.as_fd())?;
    let length = usize::try_from(size_bytes).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
    let mut head = vec![0; length];
    file.read_exact_at(&mut head, 0)?;
    Ok((parse_signature(&head).map_or("unknown", |found| found.kind), size_bytes))
}

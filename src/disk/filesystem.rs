//! Makes file systems, and looks at what was made.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::device::read_signature;
use super::plan::{FilesystemPlan, FilesystemUuid, Mode};
use super::tool::{has_tool, run_tool};
use crate::api::layout::values::Format;

/// Who holds a new partition for longer does not mean to let go.
const FREE_LIMIT: Duration = Duration::from_secs(10);
const FREE_POLL: Duration = Duration::from_millis(50);

/// Makes one file system on `node`. The id was decided by the plan, so nobody has to ask blkid.
pub fn make_filesystem(filesystem: &FilesystemPlan, node: &Path, mode: Mode) -> Result<()> {
    let Some(tool) = tool(filesystem.format) else { return Ok(()) };
    wait_until_free(node)?;
    run_tool(tool, &arguments(filesystem, node, mode))?;
    verify(filesystem, node)
}

/// Returns when nobody holds `node`.
///
/// A program that is started while we hold the disk shares that hold until it runs, and whoever watches disks (udev on
/// a desk) looks at new partitions. Both let go by themselves, and mkfs would refuse meanwhile.
fn wait_until_free(node: &Path) -> Result<()> {
    let deadline = Instant::now() + FREE_LIMIT;
    loop {
        let opened = File::options().read(true).write(true).custom_flags(libc::O_EXCL).open(node);
        match opened {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(FREE_POLL);
            }
            Err(error) => return Err(error).with_context(|| format!("claiming {}", node.display())),
        }
    }
}

/// Tools that the file systems need and that are not there.
pub fn missing_tools<'a>(filesystems: impl Iterator<Item = &'a FilesystemPlan>) -> Vec<&'static str> {
    let mut missing: Vec<&str> = filesystems.filter_map(|fs| tool(fs.format)).filter(|tool| !has_tool(tool)).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

fn tool(format: Format) -> Option<&'static str> {
    match format {
        Format::Vfat => Some("mkfs.vfat"),
        Format::Ext3 => Some("mkfs.ext3"),
        Format::Ext4 => Some("mkfs.ext4"),
        Format::Xfs => Some("mkfs.xfs"),
        Format::Btrfs => Some("mkfs.btrfs"),
        Format::Swap => Some("mkswap"),
        Format::Tmpfs | Format::None => None,
    }
}

/// The layout's own options first, as upstream has them. An absent label is no argument; an empty one would be
/// a label for some tools.
fn arguments(filesystem: &FilesystemPlan, node: &Path, mode: Mode) -> Vec<String> {
    let mut arguments = Vec::new();
    let (label_flag, id_flag): (&str, &str) = match filesystem.format {
        Format::Vfat => ("-n", "-i"),
        Format::Xfs => ("-L", "-m"),
        Format::Ext3 | Format::Ext4 | Format::Btrfs | Format::Swap | Format::Tmpfs | Format::None => ("-L", "-U"),
    };
    if matches!(filesystem.format, Format::Ext3 | Format::Ext4) {
        // Before the layout's options: of several -E the last one counts.
        arguments.extend(["-E".to_owned(), ext_speed(mode).to_owned()]);
    }
    arguments.extend(filesystem.create_options.iter().cloned());
    match filesystem.format {
        Format::Ext3 | Format::Ext4 => arguments.push("-F".to_owned()),
        // -K: no discard, the disk was erased.
        Format::Xfs | Format::Btrfs => arguments.extend(["-K".to_owned(), "-f".to_owned()]),
        Format::Swap => arguments.push("-f".to_owned()),
        Format::Vfat | Format::Tmpfs | Format::None => {}
    }
    if let Some(label) = &filesystem.label {
        arguments.extend([label_flag.to_owned(), label.clone()]);
    }
    if let Some(uuid) = &filesystem.uuid {
        let id = match uuid {
            FilesystemUuid::Full(uuid) if filesystem.format == Format::Xfs => format!("uuid={uuid}"),
            FilesystemUuid::Full(uuid) => uuid.to_string(),
            FilesystemUuid::Fat(serial) => format!("{serial:08x}"),
            FilesystemUuid::Found(text) => text.clone(),
        };
        arguments.extend([id_flag.to_owned(), id]);
    }
    arguments.push(node.display().to_string());
    arguments
}

/// What needs not be written now. No discard: the disk was erased. Inode tables are zeroed by the kernel once mounted.
/// The journal of a disk that was not just erased is zeroed here, since a crash could replay what an old one left.
fn ext_speed(mode: Mode) -> &'static str {
    match mode {
        Mode::Install => "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
        Mode::Reinstall => "nodiscard,lazy_itable_init=1,lazy_journal_init=0",
    }
}

fn verify(filesystem: &FilesystemPlan, node: &Path) -> Result<()> {
    let found = read_signature(node).with_context(|| format!("nothing is found on {} afterwards", node.display()))?;
    let uuid = filesystem.uuid.as_ref().map(ToString::to_string);
    // A layout's options can turn ext3 into ext4, by a feature; the id shows that it is the one just made.
    if found.uuid != uuid {
        bail!(
            "{} holds {found} with id {} afterwards, expected {} with id {}",
            node.display(),
            found.uuid.as_deref().unwrap_or("none"),
            filesystem.format,
            uuid.as_deref().unwrap_or("none")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::plan::{FilesystemAction, Place};
    use uuid::uuid;

    fn filesystem(format: Format, label: Option<&str>, uuid: FilesystemUuid, options: &[&str]) -> FilesystemPlan {
        FilesystemPlan {
            device: "/dev/sda1".into(),
            place: Place::Partition { disk: "/dev/sda".into(), number: 1 },
            format,
            action: FilesystemAction::Make,
            path: None,
            label: label.map(Into::into),
            uuid: Some(uuid),
            mount_options: vec![],
            create_options: options.iter().map(ToString::to_string).collect(),
        }
    }

    fn line(filesystem: &FilesystemPlan, mode: Mode) -> String {
        arguments(filesystem, Path::new("/dev/x"), mode).join(" ")
    }

    #[test]
    fn arguments_follow_the_contract() {
        let id = || FilesystemUuid::Full(uuid!("4d2f2d5e-0000-4000-8000-000000000001"));
        let ext4 = filesystem(Format::Ext4, Some("root"), id(), &["-I", "256"]);
        assert_eq!(
            line(&ext4, Mode::Install),
            "-E nodiscard,lazy_itable_init=1,lazy_journal_init=1 -I 256 -F -L root \
             -U 4d2f2d5e-0000-4000-8000-000000000001 /dev/x"
        );
        assert!(line(&ext4, Mode::Reinstall).contains("lazy_journal_init=0"));
        let vfat = filesystem(Format::Vfat, Some("efi"), FilesystemUuid::Fat(0x0a1b_22c3), &["-F", "32"]);
        assert_eq!(line(&vfat, Mode::Install), "-F 32 -n efi -i 0a1b22c3 /dev/x");
        let xfs = filesystem(Format::Xfs, Some("data"), id(), &["-m", "crc=1"]);
        assert_eq!(
            line(&xfs, Mode::Install),
            "-m crc=1 -K -f -L data -m uuid=4d2f2d5e-0000-4000-8000-000000000001 /dev/x"
        );
        let btrfs = filesystem(Format::Btrfs, None, id(), &[]);
        assert_eq!(line(&btrfs, Mode::Install), "-K -f -U 4d2f2d5e-0000-4000-8000-000000000001 /dev/x");
        let swap = filesystem(Format::Swap, None, id(), &[]);
        assert_eq!(line(&swap, Mode::Install), "-f -U 4d2f2d5e-0000-4000-8000-000000000001 /dev/x");
    }
}

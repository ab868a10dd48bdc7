//! What the installed system is told about its file systems.

use super::plan::{FilesystemPlan, Place, Plan};
use crate::api::layout::values::Format;

/// The text of `/etc/fstab`: file systems in mount order, then tmpfs, then swap.
///
/// Swap needs no path to be used: upstream writes it a line only if the layout gives it one, and then a line that
/// mounts it there. Its mount point is always `none` and its option `sw` unless the layout says otherwise.
pub fn fstab(plan: &Plan, version: &str) -> String {
    let mut text = format!("# created by metal-hammer: \"{version}\"\n");
    let of = |format: Format| plan.filesystems.iter().filter(move |fs| fs.format == format);
    let unmounted = of(Format::Tmpfs).filter(|fs| fs.path.is_some()).chain(of(Format::Swap));
    for filesystem in plan.mounted().chain(unmounted) {
        text.push_str(&line(filesystem));
        text.push('\n');
    }
    text
}

fn line(filesystem: &FilesystemPlan) -> String {
    let path = filesystem.path.as_deref().unwrap_or("none");
    let (default, pass) = match filesystem.format {
        Format::Swap => ("sw", 0),
        Format::Tmpfs => ("defaults", 0),
        Format::Vfat | Format::Ext3 | Format::Ext4 | Format::Xfs | Format::Btrfs | Format::None => {
            ("defaults", if path == "/" { 1 } else { 2 })
        }
    };
    let options = match filesystem.mount_options.as_slice() {
        [] => default.to_owned(),
        options => options.join(","),
    };
    let source = match (&filesystem.uuid, &filesystem.place) {
        (Some(uuid), _) => format!("UUID={uuid}"),
        (None, Place::Memory) => filesystem.format.to_string(),
        // Kept on an array or a volume, whose names last.
        (None, Place::Array { .. } | Place::Volume { .. } | Place::Partition { .. } | Place::WholeDisk { .. }) => {
            filesystem.device.clone()
        }
    };
    format!("{source} {path} {} {options} 0 {pass}", filesystem.format)
}

//! What is on a disk or partition now, by the magic numbers at its beginning.

use serde::Serialize;

/// How many bytes from the beginning [`parse_signature`] wants to see: up to btrfs' super block.
pub const HEAD_BYTES: usize = 68 << 10;

/// Something that was recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// `ext4`, `vfat`, `swap`, `lvm`, …
    pub kind: &'static str,
    /// As blkid and fstab write it; absent where this module does not read it.
    pub uuid: Option<String>,
    pub label: Option<String>,
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind)?;
        self.label.iter().try_for_each(|label| write!(f, " {label:?}"))?;
        self.uuid.iter().try_for_each(|uuid| write!(f, " {uuid}"))
    }
}

/// The first that fits; `None` when nothing known is there. `head` may be shorter than [`HEAD_BYTES`].
pub fn parse_signature(head: &[u8]) -> Option<Signature> {
    parse_ext(head)
        .or_else(|| parse_swap(head))
        .or_else(|| parse_xfs(head))
        .or_else(|| parse_btrfs(head))
        .or_else(|| parse_lvm(head))
        .or_else(|| parse_raid(head))
        .or_else(|| parse_other(head))
        .or_else(|| parse_vfat(head))
}

/// ext2, ext3, ext4: Documentation/filesystems/ext4/super.rst; super block at 1024.
fn parse_ext(head: &[u8]) -> Option<Signature> {
    const HAS_JOURNAL: u32 = 0x4;
    /// Features of `s_feature_incompat` and `s_feature_ro_compat` that ext3 does not know.
    const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10;
    const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4;
    if bytes(head, 1024 + 0x38, 2)? != [0x53, 0xef] {
        return None;
    }
    let (compat, incompat, ro_compat) = (le32(head, 1024 + 0x5c)?, le32(head, 1024 + 0x60)?, le32(head, 1024 + 0x64)?);
    let kind = if incompat & !INCOMPAT_EXT3 != 0 || ro_compat & !RO_COMPAT_EXT3 != 0 {
        "ext4"
    } else if compat & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    Some(Signature { kind, uuid: uuid(head, 1024 + 0x68), label: text(head, 1024 + 0x78, 16) })
}

/// Linux swap with pages of 4 KiB: include/linux/swap.h, `union swap_header`.
fn parse_swap(head: &[u8]) -> Option<Signature> {
    if bytes(head, 4086, 10)? != b"SWAPSPACE2" {
        return None;
    }
    Some(Signature { kind: "swap", uuid: uuid(head, 1036), label: text(head, 1052, 16) })
}

/// FAT12, FAT16, FAT32: the extended boot record.
fn parse_vfat(head: &[u8]) -> Option<Signature> {
    let (serial, label) = if bytes(head, 0x52, 8)? == b"FAT32   " {
        (0x43, 0x47)
    } else if matches!(bytes(head, 0x36, 8)?, b"FAT12   " | b"FAT16   ") {
        (0x27, 0x2b)
    } else {
        return None;
    };
    let serial = le32(head, serial)?;
    let uuid = format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff);
    let label = text(head, label, 11).filter(|label| label != "NO NAME");
    Some(Signature { kind: "vfat", uuid: Some(uuid), label })
}

/// fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb`.
fn parse_xfs(head: &[u8]) -> Option<Signature> {
    (bytes(head, 0, 4)? == b"XFSB").then(|| Signature { kind: "xfs", uuid: uuid(head, 32), label: text(head, 108, 12) })
}

/// fs/btrfs/ctree.h, `struct btrfs_super_block`, at 64 KiB.
fn parse_btrfs(head: &[u8]) -> Option<Signature> {
    const SUPER: usize = 64 << 10;
    (bytes(head, SUPER + 0x40, 8)? == b"_BHRfS_M").then(|| Signature {
        kind: "btrfs",
        uuid: uuid(head, SUPER + 0x20),
        label: text(head, SUPER + 0x12b, 256),
    })
}

/// A physical volume. Its id has 32 letters and digits, which lvm shows in groups.
///
/// Source: lvm2, `lib/label/label.h` and `lib/format_text/layout.h`.
fn parse_lvm(head: &[u8]) -> Option<Signature> {
    let sector = (0..4).map(|n| n * 512).find(|at| bytes(head, *at, 8) == Some(b"LABELONE"))?;
    let uuid = bytes(head, sector + 32, 32).filter(|id| id.iter().all(u8::is_ascii_graphic));
    let uuid = uuid.map(|id| String::from_utf8_lossy(id).into_owned());
    Some(Signature { kind: "lvm", uuid, label: None })
}

/// A member of an array with metadata 1.1 or 1.2: drivers/md/md_p.h, `struct mdp_superblock_1`. That of 1.0 and 0.90 is
/// at the end, and not seen here.
fn parse_raid(head: &[u8]) -> Option<Signature> {
    let super_block = [4096, 0].into_iter().find(|at| bytes(head, *at, 4) == Some(&RAID_MAGIC))?;
    Some(raid_signature(head.get(super_block..)?))
}

/// `super_block` begins with the magic number.
fn raid_signature(super_block: &[u8]) -> Signature {
    Signature { kind: "raid", uuid: uuid(super_block, 16), label: text(super_block, 32, 32) }
}

/// Little-endian 0xa92b4efc.
const RAID_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];

/// Where the super block of metadata 1.0 lies on a device of this size: 8 KiB before the end, on a multiple of 4 KiB.
///
/// Source: drivers/md/md.c, `super_1_load`.
pub fn raid_super_at_end(size_bytes: u64) -> Option<u64> {
    size_bytes.checked_sub(8 << 10).map(|offset| offset & !0xfff)
}

/// From what is read at [`raid_super_at_end`].
pub fn parse_raid_at_end(super_block: &[u8]) -> Option<Signature> {
    (bytes(super_block, 0, 4)? == RAID_MAGIC).then(|| raid_signature(super_block))
}

/// Enough to tell a person what would be lost.
fn parse_other(head: &[u8]) -> Option<Signature> {
    const KNOWN: [(usize, &[u8], &str); 2] = [(0, b"LUKS\xba\xbe", "luks"), (32769, b"CD001", "iso9660")];
    let fits = |(offset, magic, _): &&(usize, &[u8], &str)| bytes(head, *offset, magic.len()) == Some(*magic);
    KNOWN.iter().find(fits).map(|(_, _, kind)| Signature { kind, uuid: None, label: None })
}

fn bytes(head: &[u8], offset: usize, length: usize) -> Option<&[u8]> {
    head.get(offset..offset.checked_add(length)?)
}

fn le32(head: &[u8], offset: usize) -> Option<u32> {
    bytes(head, offset, 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn uuid(head: &[u8], offset: usize) -> Option<String> {
    uuid::Uuid::from_slice(bytes(head, offset, 16)?).ok().filter(|uuid| !uuid.is_nil()).map(|uuid| uuid.to_string())
}

fn text(head: &[u8], offset: usize, length: usize) -> Option<String> {
    let text = bytes(head, offset, length)?.split(|b| *b == 0).next()?;
    let text = String::from_utf8_lossy(text).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_recognised_in_zeros_or_in_a_stump() {
        assert_eq!(parse_signature(&[0; HEAD_BYTES]), None);
        assert_eq!(parse_signature(&[]), None);
        assert_eq!(parse_signature(&[0x53; 1082]), None);
    }

    #[test]
    fn a_volume_of_lvm_is_recognised() {
        let mut head = vec![0; 1024];
        head[512..520].copy_from_slice(b"LABELONE");
        assert_eq!(parse_signature(&head).map(|s| s.kind), Some("lvm"));
    }
}

//! Which kernel of the image is started.

use std::cmp::Ordering;

use anyhow::Result;
use tracing::warn;

use super::tree::Tree;

/// A kernel in the image's `/boot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What follows `vmlinuz-`.
    pub version: String,
    /// Whether `/boot/initrd.img-<version>` is there.
    pub has_initrd: bool,
}

impl Kernel {
    pub fn path(&self) -> String {
        format!("/boot/vmlinuz-{}", self.version)
    }

    pub fn initrd_path(&self) -> String {
        format!("/boot/initrd.img-{}", self.version)
    }

    /// The only kernel, or the newest of several, which is also the one that GRUB's menu starts with.
    pub fn read(tree: &Tree) -> Result<Option<Self>> {
        let names = tree.names("/boot")?;
        let versions: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("vmlinuz-")).collect();
        let Some(version) = versions.iter().copied().max_by(|a, b| compare_versions(a, b)) else { return Ok(None) };
        if versions.len() > 1 {
            warn!(found = versions.join(", "), taken = version, "image has several kernels, expected one");
        }
        let has_initrd = names.iter().any(|name| name.strip_prefix("initrd.img-") == Some(version));
        Ok(Some(Self { version: version.to_owned(), has_initrd }))
    }
}

/// Runs of digits count as numbers: `6.1.0-9` comes before `6.1.0-18`.
fn compare_versions(a: &str, b: &str) -> Ordering {
    parts(a).cmp(&parts(b))
}

/// Text and number in turn; numbers are compared by value. A number too large for 128 bits counts as the largest.
fn parts(version: &str) -> Vec<(&str, u128)> {
    let mut parts = Vec::new();
    let mut rest = version;
    while !rest.is_empty() {
        let (text, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let (digits, after) = after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()));
        let number = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u128::MAX) };
        parts.push((text, number));
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let mut versions = ["6.1.0-18-amd64", "6.1.0-9-amd64", "5.10.0-28-amd64", "6.12.1", "6.1.0-18-cloud-amd64"];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(versions, ["5.10.0-28-amd64", "6.1.0-9-amd64", "6.1.0-18-amd64", "6.1.0-18-cloud-amd64", "6.12.1"]);
    }

    #[test]
    fn the_newest_kernel_is_taken_with_its_own_initrd() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        assert_eq!(Kernel::read(&tree).unwrap(), None);
        for name in ["vmlinuz-6.1.0-9", "vmlinuz-6.1.0-18", "initrd.img-6.1.0-9", "config-6.1.0-18"] {
            tree.write(&format!("/boot/{name}"), "", 0o644).unwrap();
        }
        let kernel = Kernel::read(&tree).unwrap().unwrap();
        assert_eq!(kernel, Kernel { version: "6.1.0-18".into(), has_initrd: false });
        assert_eq!(kernel.path(), "/boot/vmlinuz-6.1.0-18");
    }
}

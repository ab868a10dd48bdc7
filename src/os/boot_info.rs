//! `/etc/metal/boot-info.yaml`: how the installed system is started. Written by whoever installed it.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tracing::warn;

use super::tree::Tree;
use super::yaml::Yaml;

const PATH: &str = "/etc/metal/boot-info.yaml";

/// Paths are absolute inside the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct BootInfo {
    /// Empty when the kernel needs none.
    #[serde(default)]
    pub initrd: String,
    #[serde(default)]
    pub cmdline: String,
    #[serde(default)]
    pub kernel: String,
    #[serde(default)]
    pub bootloader_id: String,
}

impl BootInfo {
    /// Reads the file an installer left, and makes sure that what it names is there.
    pub fn read(tree: &Tree) -> Result<Self> {
        let text = tree.read_text(PATH)?.with_context(|| format!("the installer left no {PATH}"))?;
        let info = Self::parse(&text).with_context(|| format!("reading {PATH}"))?;
        info.check_files(tree).with_context(|| format!("checking {PATH}"))?;
        if info.bootloader_id.is_empty() {
            warn!("{PATH} names no bootloader_id: the firmware's boot order stays as it is");
        }
        Ok(info)
    }

    pub fn parse(text: &str) -> Result<Self> {
        let info: Self =
            serde_saphyr::from_str(text).context("not YAML with the keys initrd, cmdline, kernel, bootloader_id")?;
        let needed = [("kernel", &info.kernel), ("cmdline", &info.cmdline)];
        let missing: Vec<&str> =
            needed.iter().filter(|(_, value)| value.trim().is_empty()).map(|(key, _)| *key).collect();
        if !missing.is_empty() {
            bail!("no {}", missing.join(", no "));
        }
        Ok(info)
    }

    fn check_files(&self, tree: &Tree) -> Result<()> {
        let named = [("kernel", &self.kernel), ("initrd", &self.initrd)];
        for (key, path) in named.iter().filter(|(_, path)| !path.is_empty()) {
            if !tree.exists(path) {
                bail!("{key} {path} is not in the image");
            }
        }
        Ok(())
    }

    /// Keys in upstream's order.
    pub fn render(&self) -> String {
        Yaml::Map(vec![
            ("initrd", Yaml::text(&self.initrd)),
            ("cmdline", Yaml::text(&self.cmdline)),
            ("kernel", Yaml::text(&self.kernel)),
            ("bootloader_id", Yaml::text(&self.bootloader_id)),
        ])
        .render()
    }

    pub fn write(&self, tree: &Tree) -> Result<()> {
        tree.write(PATH, self.render(), 0o700)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_as_written() {
        let info = BootInfo {
            initrd: "/boot/initrd.img-6.1.0-18-amd64".into(),
            cmdline: "console=ttyS0,115200n8 root=UUID=4d2f2d5e-0000-4000-8000-000000000001 init=/sbin/init".into(),
            kernel: "/boot/vmlinuz-6.1.0-18-amd64".into(),
            bootloader_id: "metal-debian".into(),
        };
        assert_eq!(BootInfo::parse(&info.render()).unwrap(), info);
    }

    #[test]
    fn all_that_is_missing_is_named() {
        let error = BootInfo::parse("initrd: /boot/initrd\nbootloader_id: x\n").unwrap_err();
        assert_eq!(error.to_string(), "no kernel, no cmdline");
    }

    #[test]
    fn a_kernel_that_is_not_in_the_image_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        assert_eq!(BootInfo::read(&tree).unwrap_err().to_string(), "the installer left no /etc/metal/boot-info.yaml");
        tree.write(PATH, "kernel: /boot/vmlinuz-1\ncmdline: quiet\n", 0o644).unwrap();
        let error = BootInfo::read(&tree).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "checking /etc/metal/boot-info.yaml: kernel /boot/vmlinuz-1 is not in the image"
        );
    }
}

//! mkinitramfs, by its command line: the same inputs give the same bytes, and what is packed works.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cpio::newc;
use tempfile::TempDir;

const RELEASE: &str = "6.1.0-test";

/// Modules of a made-up kernel, with what they depend on.
const MODULES: [(&str, &str); 5] = [
    ("kernel/drivers/nvme/nvme.ko", "kernel/drivers/nvme/nvme-core.ko"),
    ("kernel/drivers/nvme/nvme-core.ko", ""),
    ("kernel/fs/ext4.ko", ""),
    ("kernel/crypto/crc32c_generic.ko", ""),
    ("kernel/drivers/sound.ko", ""),
];

struct Inputs {
    dir: TempDir,
}

impl Inputs {
    /// A kernel package, lists and a static agent. The order in which files are made is the caller's, as the result
    /// must not depend on it.
    fn make(modules: impl Iterator<Item = (&'static str, &'static str)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tables = dir.path().join("kernel/lib/modules").join(RELEASE);
        let mut lines = Vec::new();
        for (path, needs) in modules {
            let file = tables.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("module {path}")).unwrap();
            lines.push(format!("{path}:{}{needs}\n", if needs.is_empty() { "" } else { " " }));
        }
        lines.sort();
        fs::write(tables.join("modules.dep"), lines.concat()).unwrap();
        fs::write(tables.join("modules.softdep"), "softdep ext4 pre: crypto-crc32c\nsoftdep sound pre: nvme\n")
            .unwrap();
        let aliases = "alias pci:v00008086d*sv* nvme\nalias crypto-crc32c crc32c_generic\nalias pci:v1* sound\n";
        fs::write(tables.join("modules.alias"), aliases).unwrap();
        fs::write(tables.join("modules.builtin"), "kernel/drivers/block/loop.ko\n").unwrap();
        let lists = dir.path().join("lists");
        fs::create_dir(&lists).unwrap();
        fs::write(lists.join("drivers.list"), "nvme # disks\next4 loop no_such_module\n").unwrap();
        fs::write(lists.join("tools.list"), "/sbin/mke2fs /sbin/mkfs.ext4\n").unwrap();
        fs::write(lists.join("files.list"), "/etc/mke2fs.conf\n?/no/such/file\n").unwrap();
        fs::write(dir.path().join("agent"), static_program()).unwrap();
        Self { dir }
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("out.img")
    }

    fn run(&self, agent: &Path, compress: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_mkinitramfs"))
            .env_remove("SOURCE_DATE_EPOCH")
            .args(["--compress", compress, "--agent"])
            .arg(agent)
            .arg("--kernel-dir")
            .arg(self.dir.path().join("kernel"))
            .arg("--lists")
            .arg(self.dir.path().join("lists"))
            .arg("--output")
            .arg(self.output())
            .output()
            .unwrap()
    }

    fn build(&self, compress: &str) -> Vec<u8> {
        let output = self.run(&self.dir.path().join("agent"), compress);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(self.output()).unwrap()
    }
}

/// The header of a 64-bit ELF program without segments: enough to be seen as static.
fn static_program() -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16] = 2; // e_type: executable
    header[18] = 62; // e_machine: x86-64
    header[20] = 1; // e_version
    header[52] = 64; // e_ehsize
    header
}

struct Entry {
    mode: u32,
    owner: (u32, u32),
    mtime: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

fn read_archive(bytes: &[u8]) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let mut rest = Cursor::new(bytes);
    loop {
        let mut reader = newc::Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            return entries;
        }
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        let head = reader.entry();
        let name = head.name().to_owned();
        let entry = Entry {
            mode: head.mode(),
            owner: (head.uid(), head.gid()),
            mtime: head.mtime(),
            device: (head.rdev_major(), head.rdev_minor()),
            data,
        };
        assert!(entries.insert(name.clone(), entry).is_none(), "{name} is there twice");
        rest = reader.finish().unwrap();
    }
}

fn text(entries: &BTreeMap<String, Entry>, table: &str) -> String {
    let entry = &entries[&format!("usr/lib/modules/{RELEASE}/{table}")];
    String::from_utf8(entry.data.clone()).unwrap()
}

#[test]
fn two_builds_from_the_same_inputs_are_identical() {
    let first = Inputs::make(MODULES.into_iter());
    let second = Inputs::make(MODULES.into_iter().rev());
    for compress in ["none", "zstd", "xz"] {
        let (one, other) = (first.build(compress), second.build(compress));
        assert!(!one.is_empty());
        assert!(one == other, "{compress}: builds differ");
    }
}

#[test]
fn compressed_archives_hold_the_plain_one_in_a_form_the_kernel_reads() {
    let inputs = Inputs::make(MODULES.into_iter());
    let plain = inputs.build("none");
    assert!(zstd::decode_all(inputs.build("zstd").as_slice()).unwrap() == plain);
    let xz = inputs.build("xz");
    assert_eq!(xz[7], 1, "the kernel knows no check but CRC32");
    let mut unpacked = Vec::new();
    liblzma::read::XzDecoder::new(xz.as_slice()).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == plain);
}

#[test]
fn drivers_come_with_all_they_need_and_nothing_else() {
    let entries = read_archive(&Inputs::make(MODULES.into_iter()).build("none"));
    let modules: Vec<&str> = entries.keys().filter_map(|name| name.strip_suffix(".ko")?.rsplit('/').next()).collect();
    assert_eq!(modules, ["crc32c_generic", "nvme-core", "nvme", "ext4"]);
    assert_eq!(text(&entries, "modules.alias"), "alias pci:v00008086d*sv* nvme\nalias crypto-crc32c crc32c_generic\n");
    assert_eq!(text(&entries, "modules.softdep"), "softdep ext4 pre: crypto-crc32c\n");
    assert_eq!(text(&entries, "modules.builtin"), "kernel/drivers/block/loop.ko\n");
    assert!(!text(&entries, "modules.dep").contains("sound"));
}

#[test]
fn everything_belongs_to_root_and_has_one_time() {
    let entries = read_archive(&Inputs::make(MODULES.into_iter()).build("none"));
    for (name, entry) in &entries {
        assert_eq!((entry.owner, entry.mtime), ((0, 0), 0), "{name}");
    }
    assert_eq!(entries["init"].mode, 0o100_755);
    assert_eq!((entries["dev/console"].mode, entries["dev/console"].device), (0o020_600, (5, 1)));
    assert_eq!((entries["dev/null"].mode, entries["dev/null"].device), (0o020_666, (1, 3)));
    assert_eq!(entries["tmp"].mode, 0o041_777);
}

#[test]
fn a_packed_tool_runs_with_nothing_but_the_archive() {
    let entries = read_archive(&Inputs::make(MODULES.into_iter()).build("none"));
    let root = tempfile::tempdir().unwrap();
    for (name, entry) in &entries {
        let path = root.path().join(name);
        match entry.mode & 0o170_000 {
            0o040_000 => fs::create_dir(&path).unwrap(),
            0o100_000 => {
                fs::write(&path, &entry.data).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode & 0o7777)).unwrap();
            }
            0o120_000 => symlink(std::str::from_utf8(&entry.data).unwrap(), &path).unwrap(),
            _ => {} // devices: not needed for this
        }
    }
    let output = Command::new("chroot").arg(root.path()).args(["/sbin/mkfs.ext4", "-V"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("mke2fs 1."), "{said}");
}

#[test]
fn a_dynamic_agent_is_refused() {
    let inputs = Inputs::make(MODULES.into_iter());
    let output = inputs.run(&std::env::current_exe().unwrap(), "none");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is not static: it wants /lib64/ld-linux-x86-64.so.2"), "{said}");
    assert!(!inputs.output().exists());
}

#[test]
fn a_kernel_without_depmods_tables_is_named() {
    let inputs = Inputs::make(MODULES.into_iter());
    fs::remove_file(inputs.dir.path().join("kernel/lib/modules").join(RELEASE).join("modules.dep")).unwrap();
    let output = inputs.run(&inputs.dir.path().join("agent"), "none");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("modules.dep") && said.contains("has depmod -b"), "{said}");
}

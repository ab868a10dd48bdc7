//! Archives of all makers in all formats they have, unpacked and compared with what GNU tar makes of the same archive.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::support::{add_xattrs, assert_same, facts, make_tree, run, text, unpack_file};

struct Case {
    temp: tempfile::TempDir,
    tree: PathBuf,
    archive: PathBuf,
}

fn case() -> Case {
    let temp = tempfile::tempdir().unwrap();
    let [tree, archive] = ["tree", "archive"].map(|name| temp.path().join(name));
    std::fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let many = "for n in $(seq 0 40); do printf $n | dd of=sub/many bs=1 seek=${n}00000 conv=notrunc status=none; done";
    run("sh", &["-c", &format!("cd $0; {many}; touch -d '1999-09-09 UTC' sub"), text(&tree)]);
    Case { temp, tree, archive }
}

/// A tree that the formats before 1988 can hold.
fn old_case() -> Case {
    let case = case();
    let script = r#"
        set -e
        cd "$0"; rm -rf sub/nnn* sub/long-link sub/null sub/disk sub/pipe
        chown 7:8 etc/nothing; touch -d 2000-01-01 etc/motd
    "#;
    run("sh", &["-c", script, text(&case.tree)]);
    case
}

/// GNU tar's own work, with all attributes. ACLs are among them when the archive has them so; `--acls` reads those that
/// are there as text, and those only.
pub fn extract_by_gnu_tar(archive: &Path, target: &Path, acls: &[&str]) {
    std::fs::create_dir(target).unwrap();
    // without the delay it forgets the times of directories that come in another order than its own
    let options = ["--numeric-owner", "--delay-directory-restore", "--xattrs", "--xattrs-include=*"];
    run("tar", &[&["-C", text(target)][..], &options, acls, &["-xpf", text(archive)]].concat());
}

impl Case {
    /// Unpacks, and compares with GNU tar. What is unpacked stays for more questions.
    fn check(&self, what: &str) -> PathBuf {
        let [ours, theirs] = ["ours", "theirs"].map(|name| self.temp.path().join(name));
        for old in [&ours, &theirs] {
            let _ = std::fs::remove_dir_all(old);
        }
        std::fs::create_dir(&ours).unwrap();
        unpack_file(&self.archive, &ours).unwrap_or_else(|err| panic!("{what}: {err:?}"));
        extract_by_gnu_tar(&self.archive, &theirs, &["--acls"]);
        eprintln!("comparing {what}");
        assert_same(&facts(&theirs), &facts(&ours));
        ours
    }
}

#[test]
fn gnu_tar_in_every_format_and_form() {
    let new = case();
    add_xattrs(&new.tree);
    let old = old_case();
    let pax = &["-H", "pax", "--xattrs", "--xattrs-include=*", "--acls", "--selinux"][..];
    for (case, format) in [(&new, pax), (&new, &["-H", "gnu"]), (&new, &["-H", "oldgnu"])]
        .into_iter()
        .chain([(&old, &["-H", "ustar"][..]), (&old, &["-H", "v7"])])
    {
        let sparse: &[&[&str]] = match format[1] {
            "pax" => &[
                &[],
                &["--sparse", "--sparse-version=0.0"],
                &["--sparse", "--sparse-version=0.1"],
                &["--sparse", "--sparse-version=1.0"],
            ],
            "gnu" | "oldgnu" => &[&[], &["--sparse"]],
            _ => &[&[]],
        };
        for form in sparse {
            let start = ["-C", text(&case.tree), "--numeric-owner", "-cf", text(&case.archive)];
            run("tar", &[&start[..], format, form, &["."]].concat());
            let ours = case.check(&format!("{format:?} {form:?}"));
            if format[1] == "pax" {
                assert_same(&facts(&case.tree), &facts(&ours));
            }
        }
    }
}

#[test]
fn bsdtar_in_every_format() {
    let new = case();
    add_xattrs(&new.tree);
    // of a time before 1970 it counts seconds backwards and their parts forwards, and nobody can tell
    run("touch", &["-d", "1965-03-04 05:06:07 UTC", text(&new.tree.join("etc/motd"))]);
    let old = old_case();
    for (case, format) in [(&new, "pax"), (&new, "gnutar"), (&old, "paxr"), (&old, "ustar"), (&old, "v7")] {
        let start = ["-C", text(&case.tree), "--numeric-owner", "--format", format, "-cf", text(&case.archive), "."];
        run("bsdtar", &start);
        let ours = case.check(format);
        if format == "pax" {
            assert_same(&facts(&case.tree), &facts(&ours));
        }
    }
}

#[test]
fn pythons_tarfile_in_every_format() {
    let new = case();
    let old = old_case();
    for (case, format) in [(&new, "PAX_FORMAT"), (&new, "GNU_FORMAT"), (&old, "USTAR_FORMAT")] {
        let script = format!(
            "import sys, tarfile\nwith tarfile.open(sys.argv[2], 'w', format=tarfile.{format}) as t: t.add(sys.argv[1], '.')"
        );
        run("python3", &["-c", &script, text(&case.tree), text(&case.archive)]);
        case.check(format);
    }
}

#[test]
fn rusts_tar_in_every_form() {
    let case = case();
    // it writes a time before 1970 as one far beyond what a time can be
    run("touch", &["-d", "2000-01-01", text(&case.tree.join("etc/motd"))]);
    for sparse in [false, true] {
        let mut builder = tar::Builder::new(File::create(&case.archive).unwrap());
        builder.follow_symlinks(false);
        builder.sparse(sparse);
        builder.append_dir_all(".", &case.tree).unwrap();
        let attributes: [(&str, &[u8]); 2] = [("SCHILY.xattr.user.odd", b"\0\n=\xff"), ("mtime", b"-1.25")];
        builder.append_pax_extensions(attributes).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(0o640);
        builder.append_data(&mut header, "with-attributes", &b"hello"[..]).unwrap();
        builder.into_inner().unwrap().sync_all().unwrap();
        let ours = case.check(&format!("sparse: {sparse}"));
        assert_eq!(xattr::get(ours.join("with-attributes"), "user.odd").unwrap().unwrap(), b"\0\n=\xff");
        let blocks = ours.join("sub/sparse").metadata().unwrap().blocks();
        assert!(!sparse || blocks < 1000, "holes stay holes: {blocks} blocks");
    }
}

/// Its length needs more digits than the oldest headers have.
#[test]
fn a_sparse_file_of_nine_gigabytes_keeps_its_holes() {
    const SIZE: u64 = 9 << 30;
    let temp = tempfile::tempdir().unwrap();
    let [tree, archive, target] = ["tree", "archive", "target"].map(|name| temp.path().join(name));
    std::fs::create_dir(&tree).unwrap();
    std::fs::create_dir(&target).unwrap();
    let file = File::create(tree.join("long")).unwrap();
    for (at, bytes) in [(0, b"first"), ((8 << 30) + 12345, b"later"), (SIZE - 5, b"final")] {
        file.write_all_at(bytes, at).unwrap();
    }
    for options in [
        &["-H", "gnu", "--sparse"][..],
        &["-H", "oldgnu", "--sparse"],
        &["-H", "pax", "--sparse", "--sparse-version=0.0"],
        &["-H", "pax", "--sparse", "--sparse-version=0.1"],
        &["-H", "pax", "--sparse", "--sparse-version=1.0"],
    ] {
        run("tar", &[&["-C", text(&tree), "-cf", text(&archive)][..], options, &["long"]].concat());
        unpack_file(&archive, &target).unwrap();
        let found = File::open(target.join("long")).unwrap();
        let stat = found.metadata().unwrap();
        assert_eq!(stat.size(), SIZE, "{options:?}");
        assert!(stat.blocks() < 1000, "{options:?}: {} blocks", stat.blocks());
        for (at, expected) in [(0, b"first"), ((8 << 30) + 12345, b"later"), (SIZE - 5, b"final"), (1 << 32, &[0; 5])] {
            let mut bytes = [0; 5];
            found.read_exact_at(&mut bytes, at).unwrap();
            assert_eq!(&bytes, expected, "{options:?} at {at}");
        }
        run("tar", &["-C", text(&target), "--compare", "-f", text(&archive)]);
    }
}

#[test]
fn the_label_of_selinux_keeps_its_nul() {
    let temp = tempfile::tempdir().unwrap();
    let archive = temp.path().join("archive");
    let script = "import sys, tarfile\n\
        t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)\n\
        for name in ['file', 'dir']:\n\
        \x20   info = tarfile.TarInfo(name)\n\
        \x20   info.type = tarfile.DIRTYPE if name == 'dir' else tarfile.REGTYPE\n\
        \x20   info.mode = 0o755\n\
        \x20   info.pax_headers = {'RHT.security.selinux': 'system_u:object_r:bin_t:s0'}\n\
        \x20   t.addfile(info)\n\
        t.close()";
    run("python3", &["-c", script, text(&archive)]);
    let target = temp.path().join("target");
    std::fs::create_dir(&target).unwrap();
    unpack_file(&archive, &target).unwrap();
    for name in ["file", "dir"] {
        let label = xattr::get(target.join(name), "security.selinux").unwrap().unwrap();
        assert_eq!(label, b"system_u:object_r:bin_t:s0\0");
    }
}

/// Byte for byte, owner for owner, attribute for attribute, by our eyes and by rsync's.
#[test]
#[ignore = "needs an image: DROPHAMMER_DEBIAN_IMAGE, which scripts/test sets"]
fn debians_root_tree_is_what_gnu_tar_makes_of_it() {
    let image = std::env::var("DROPHAMMER_DEBIAN_IMAGE").expect("DROPHAMMER_DEBIAN_IMAGE is a path");
    let temp = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| temp.path().join(name));
    std::fs::create_dir(&ours).unwrap();
    let report = unpack_file(Path::new(&image), &ours).unwrap();
    assert!(report.files > 5000 && report.warnings.is_empty(), "{report:?}");
    extract_by_gnu_tar(Path::new(&image), &theirs, &[]);
    let ours_by_rsync = format!("{}/", text(&ours));
    let theirs_by_rsync = format!("{}/", text(&theirs));
    let differing = run("rsync", &["-naicAXH", "--numeric-ids", "--delete", &theirs_by_rsync, &ours_by_rsync]);
    assert_eq!(String::from_utf8_lossy(&differing), "");
    assert_same(&facts(&theirs), &facts(&ours));
}

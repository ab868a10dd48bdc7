//! Archives of other programs, unpacked and compared with the tree they were made from and with GNU tar's own work.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use drophammer::image::{DigestRule, Options, Source, Unobserved, unpack};

use crate::support::{add_xattrs, assert_same, block_on, facts, make_tree, options, run, text, unpack_file};

struct Case {
    _temp: tempfile::TempDir,
    tree: PathBuf,
    archive: PathBuf,
    target: PathBuf,
}

fn case() -> Case {
    let temp = tempfile::tempdir().unwrap();
    let [tree, archive, target] = ["tree", "archive", "target"].map(|name| temp.path().join(name));
    std::fs::create_dir(&tree).unwrap();
    std::fs::create_dir(&target).unwrap();
    make_tree(&tree);
    Case { _temp: temp, tree, archive, target }
}

fn tar(tree: &Path, archive: &Path, options: &[&str]) {
    run("tar", &[&["-C", text(tree), "--numeric-owner", "-cf", text(archive)], options, &["."]].concat());
}

#[test]
fn pax_with_attributes_keeps_everything() {
    let case = case();
    add_xattrs(&case.tree);
    tar(&case.tree, &case.archive, &["-H", "pax", "--xattrs", "--xattrs-include=*"]);
    let report = unpack_file(&case.archive, &case.target).unwrap();
    let expected = facts(&case.tree);
    assert_same(&expected, &facts(&case.target));
    assert_eq!((report.files, report.warnings.len()), (expected.len() as u64, 1), "{:?}", report.warnings);
    let files = 10;
    assert_eq!(report.read_back, files);
    run("tar", &["-C", text(&case.target), "--compare", "-f", text(&case.archive)]);
}

#[test]
fn every_way_to_store_a_sparse_file_is_read() {
    for options in [
        &["-H", "gnu", "--sparse"][..],
        &["-H", "pax", "--sparse", "--sparse-version=0.0"],
        &["-H", "pax", "--sparse", "--sparse-version=0.1"],
        &["-H", "pax", "--sparse", "--sparse-version=1.0"],
    ] {
        let case = case();
        // more pieces than one header holds
        let many = case.tree.join("sub/many");
        run(
            "sh",
            &[
                "-c",
                "for n in $(seq 0 60); do printf $n | dd of=$0 bs=1 seek=${n}00000 conv=notrunc status=none; done",
                text(&many),
            ],
        );
        tar(&case.tree, &case.archive, options);
        unpack_file(&case.archive, &case.target).unwrap();
        run("tar", &["-C", text(&case.target), "--compare", "-f", text(&case.archive)]);
        for name in ["many", "sparse", "hole-at-end", "only-hole"] {
            let [made, found] =
                [&case.tree, &case.target].map(|root| std::fs::read(root.join("sub").join(name)).unwrap());
            assert!(made == found, "{name} with {options:?}");
        }
        let blocks = |root: &Path| root.join("sub/sparse").metadata().unwrap().blocks();
        assert!(blocks(&case.target) < 1000, "holes stay holes: {} blocks", blocks(&case.target));
    }
}

#[test]
fn old_formats_give_what_gnu_tar_gives() {
    for format in ["gnu", "ustar", "v7", "oldgnu"] {
        let case = case();
        if matches!(format, "ustar" | "v7") {
            // what these can't hold
            let remove =
                r#"cd "$0"; rm -rf sub/nnn* sub/long-link; chown 7:8 etc/nothing; touch -d 2000-01-01 etc/motd"#;
            run("sh", &["-c", remove, text(&case.tree)]);
        }
        if format == "v7" {
            run("sh", &["-c", r#"cd "$0"; rm sub/null sub/disk sub/pipe"#, text(&case.tree)]);
        }
        tar(&case.tree, &case.archive, &["-H", format]);
        unpack_file(&case.archive, &case.target).unwrap();
        let theirs = case.target.with_file_name("theirs");
        std::fs::create_dir(&theirs).unwrap();
        run("tar", &["-C", text(&theirs), "-xpf", text(&case.archive), "--numeric-owner"]);
        assert_same(&facts(&theirs), &facts(&case.target));
    }
}

#[test]
fn pythons_archives_are_read() {
    for format in ["PAX_FORMAT", "GNU_FORMAT"] {
        let case = case();
        let script = format!(
            "import sys, tarfile\nwith tarfile.open(sys.argv[2], 'w', format=tarfile.{format}) as t: t.add(sys.argv[1], '.')"
        );
        run("python3", &["-c", &script, text(&case.tree), text(&case.archive)]);
        unpack_file(&case.archive, &case.target).unwrap();
        run("tar", &["-C", text(&case.target), "--compare", "-f", text(&case.archive)]);
    }
}

#[test]
fn all_compressions_are_told_by_content() {
    let case = case();
    tar(&case.tree, &case.archive, &["-H", "pax"]);
    let expected = facts(&case.tree);
    let plain = text(&case.archive);
    for (compression, command) in [
        ("none", "cat $0"),
        ("lz4", "lz4 -c $0"),
        ("lz4", "lz4 -c -B4 -BD $0"),
        ("lz4", "head -c 300000 $0 | lz4 -c; tail -c +300001 $0 | lz4 -9 -c"),
        ("zstd", "zstd -c $0"),
        ("zstd", "zstd -19 --long=27 -c $0"),
        ("zstd", "head -c 300000 $0 | zstd -c; tail -c +300001 $0 | zstd -c"),
        ("gzip", "gzip -c $0"),
        ("gzip", "head -c 300000 $0 | gzip -c; tail -c +300001 $0 | gzip -c"),
        ("xz", "xz -c $0"),
        ("xz", "head -c 300000 $0 | xz -c; tail -c +300001 $0 | xz -c"),
    ] {
        let packed = case.archive.with_file_name("misleading.zip");
        let target = case.archive.with_file_name("unpacked");
        std::fs::write(&packed, run("sh", &["-c", command, plain])).unwrap();
        std::fs::create_dir(&target).unwrap();
        let report = unpack_file(&packed, &target).unwrap_or_else(|err| panic!("{command}: {err}"));
        assert_eq!(report.compression, compression, "{command}");
        assert_same(&expected, &facts(&target));
        std::fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn a_window_that_takes_more_memory_than_is_allowed_is_refused_and_the_limit_can_be_raised() {
    let case = case();
    tar(&case.tree, &case.archive, &["-H", "pax"]);
    // From a pipe, so that the window is not made as small as the archive is.
    for (command, mib) in [("cat $0 | zstd --long=27 -c", "168"), ("cat $0 | xz -9 -c", "98")] {
        let packed = case.archive.with_file_name("packed");
        std::fs::write(&packed, run("sh", &["-c", command, text(&case.archive)])).unwrap();
        let error = unpack_file(&packed, &case.target).unwrap_err();
        let error = format!("{:#}", anyhow::Error::new(error));
        assert!(error.contains("more memory than 64 MiB") && error.contains("drophammer.memory=MIB"), "{error}");
        assert_eq!(std::fs::read_dir(&case.target).unwrap().count(), 0, "{command}: nothing is written before");
        let options = Options { memory: mib.parse().unwrap(), ..options(DigestRule::AllowMissing) };
        let target = case.archive.with_file_name("unpacked");
        std::fs::create_dir(&target).unwrap();
        block_on(unpack(&Source::File(packed), &target, &options, &Unobserved)).unwrap();
        assert_same(&facts(&case.tree), &facts(&target));
        std::fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn files_in_the_way_are_replaced_and_others_stay() {
    let case = case();
    tar(&case.tree, &case.archive, &["-H", "pax"]);
    let target = &case.target;
    std::fs::create_dir_all(target.join("etc/nothing")).unwrap();
    std::fs::create_dir_all(target.join("etc/other")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", target.join("etc/motd")).unwrap();
    std::fs::write(target.join("bin"), "a file where a directory comes").unwrap();
    unpack_file(&case.archive, target).unwrap();
    unpack_file(&case.archive, target).unwrap();
    assert!(target.join("etc/other").is_dir());
    std::fs::remove_dir(target.join("etc/other")).unwrap();
    run("touch", &["-d", "2020-01-01 00:00:00.000000001 UTC", text(&target.join("etc"))]);
    assert_same(&facts(&case.tree), &facts(target));
}

#[test]
fn mount_points_in_the_target_stay() {
    let case = case();
    let root = case.target.clone();
    let script = r#"
        set -e
        mkdir -p "$0/proc" "$0/tmp"
        mount -t tmpfs -o size=1m none "$0/tmp"
        mount -t proc none "$0/proc"
        cd "$1"; mkdir -p proc tmp/made; chmod 1777 tmp; chown 5:6 proc tmp
    "#;
    run("sh", &["-c", script, text(&root), text(&case.tree)]);
    xattr::set(case.tree.join("proc"), "user.test", b"x").unwrap();
    tar(&case.tree, &case.archive, &["-H", "pax", "--xattrs"]);
    let unpacked = unpack_file(&case.archive, &root);
    let mounted = (root.join("proc/self").exists(), root.join("tmp/made").exists());
    let mode = root.join("tmp").metadata().unwrap().mode() & 0o7777;
    run("umount", &[text(&root.join("proc")), text(&root.join("tmp"))]);
    let report = unpacked.unwrap();
    assert_eq!((mounted, mode), ((true, true), 0o1777));
    assert!(!root.join("tmp/made").exists(), "it is on the mounted file system");
    let told = report.warnings.iter().filter(|warning| warning.contains("does not keep")).count();
    assert_eq!(told, 1, "{:?}", report.warnings);
}

/// Needs a kernel with vfat, as every machine with UEFI has.
#[test]
fn a_fat_in_the_target_may_lack_owners() {
    if !std::fs::read_to_string("/proc/filesystems").unwrap().contains("vfat") {
        eprintln!("not tested: this kernel has no vfat");
        return;
    }
    let case = case();
    let root = case.target.clone();
    let fat = case.archive.with_file_name("fat.img");
    let script = r#"
        set -e
        truncate -s 4M "$1"; mkfs.vfat "$1" > /dev/null
        mkdir -p "$0/boot/efi"
        mount -o loop "$1" "$0/boot/efi"
        cd "$2"; mkdir -p boot/efi/EFI; printf x > boot/efi/EFI/file; chown -R 5:6 boot/efi
    "#;
    run("sh", &["-c", script, text(&root), text(&fat), text(&case.tree)]);
    tar(&case.tree, &case.archive, &["-H", "pax"]);
    let unpacked = unpack_file(&case.archive, &root);
    let written = std::fs::read(root.join("boot/efi/EFI/file"));
    run("umount", &[text(&root.join("boot/efi"))]);
    let report = unpacked.unwrap();
    assert_eq!(written.unwrap(), b"x");
    let told = report.warnings.iter().filter(|warning| warning.contains("does not keep")).count();
    assert_eq!(told, 1, "{:?}", report.warnings);
}

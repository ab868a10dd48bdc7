//! Archives that mean harm: each ends with the right error, and nothing is written outside the target.

use std::path::{Path, PathBuf};

use drophammer::image::ImageError;
use drophammer::image::tar::TarFault;

use crate::support::{run, text, unpack_file};

/// Makes an archive by Python's tarfile from lines like `add('name', type=tarfile.SYMTYPE, linkname='x')`.
fn archive(dir: &Path, lines: &str) -> PathBuf {
    let path = dir.join("archive");
    let script = format!(
        r#"
import io, sys, tarfile
t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)
def add(name, data=b'', **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    t.addfile(info, io.BytesIO(data))
link = tarfile.SYMTYPE
hard = tarfile.LNKTYPE
folder = tarfile.DIRTYPE
{lines}
t.close()
"#
    );
    run("python3", &["-c", &script, text(&path)]);
    path
}

/// A target with a directory beside it that must stay as it is.
fn attack(lines: &str) -> (tempfile::TempDir, Result<(), ImageError>) {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("target");
    let outside = temp.path().join("outside");
    std::fs::create_dir(&target).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    let lines = lines.replace("OUTSIDE", text(&outside));
    let result = unpack_file(&archive(temp.path(), &lines), &target).map(|_| ());
    let left: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["victim"], "something was written outside");
    assert_eq!(std::fs::read(outside.join("victim")).unwrap(), b"untouched");
    (temp, result)
}

#[test]
fn names_that_climb_are_refused() {
    for name in ["../outside/new", "a/../../outside/new", "/../outside/new", ".."] {
        let (_temp, result) = attack(&format!("add('{name}', b'x')"));
        let refused =
            matches!(&result, Err(ImageError::Refused { entry, .. }) if entry.as_str() == name.trim_end_matches('/'));
        assert!(refused, "{name}: {result:?}");
    }
}

#[test]
fn absolute_names_count_from_the_target() {
    let (temp, result) = attack("add('OUTSIDE/new', b'x')");
    result.unwrap();
    let inside = temp.path().join("target").join(temp.path().strip_prefix("/").unwrap()).join("outside/new");
    assert_eq!(std::fs::read(inside).unwrap(), b"x");
}

#[test]
fn writing_through_a_link_stays_inside() {
    let (temp, result) = attack(
        "add('door', type=link, linkname='OUTSIDE')\nadd('way', type=link, linkname='../outside')\n\
         add('outside', type=folder, mode=0o755)\nadd('way/new', b'x')",
    );
    result.unwrap();
    // `..` above the target is the target, as it is above `/`
    assert_eq!(std::fs::read(temp.path().join("target/outside/new")).unwrap(), b"x");
    let (_temp, result) = attack("add('door', type=link, linkname='OUTSIDE')\nadd('door/new', b'x')");
    assert!(matches!(result, Err(ImageError::Write { .. })), "{result:?}");
}

#[test]
fn a_directory_swapped_for_a_link_leads_nowhere_else() {
    let (_temp, result) = attack(
        "add('d', type=folder, mode=0o755)\nadd('d/f', b'x')\nadd('e', type=folder, mode=0o755)\n\
         add('e', type=link, linkname='OUTSIDE')\nadd('e/new', b'x')",
    );
    assert!(matches!(result, Err(ImageError::Write { .. })), "{result:?}");
}

#[test]
fn a_file_is_never_written_through_a_link_of_its_name() {
    let (temp, result) = attack("add('f', type=link, linkname='OUTSIDE/victim')\nadd('f', b'mine')");
    result.unwrap();
    let target = temp.path().join("target/f");
    assert!(!target.is_symlink());
    assert_eq!(std::fs::read(target).unwrap(), b"mine");
}

#[test]
fn hard_links_to_the_outside_are_refused() {
    let (_temp, result) = attack("add('f', type=hard, linkname='../outside/victim')");
    assert!(matches!(result, Err(ImageError::Refused { .. })), "{result:?}");
    let (_temp, result) = attack("add('f', type=hard, linkname='OUTSIDE/victim')\nadd('f', b'mine')");
    assert!(matches!(result, Err(ImageError::Write { .. })), "{result:?}");
    let (_temp, result) = attack(
        "add('door', type=link, linkname='OUTSIDE')\nadd('f', type=hard, linkname='door/victim')\nadd('f', b'mine')",
    );
    assert!(matches!(result, Err(ImageError::Write { .. })), "{result:?}");
}

#[test]
fn a_link_to_a_link_gives_no_way_out() {
    let (_temp, result) =
        attack("add('l', type=link, linkname='OUTSIDE/victim')\nadd('f', type=hard, linkname='l')\nadd('f', b'mine')");
    result.unwrap();
}

#[test]
fn the_target_itself_is_not_replaced() {
    let (_temp, result) = attack("add('./', type=link, linkname='OUTSIDE')");
    assert!(matches!(result, Err(ImageError::Refused { .. })), "{result:?}");
}

#[test]
fn a_link_to_a_magic_link_is_not_followed() {
    let (_temp, result) = attack("add('p', type=link, linkname='/proc/self/root')\nadd('p/new', b'x')");
    assert!(matches!(result, Err(ImageError::Write { .. })), "{result:?}");
}

#[test]
fn names_with_nul_are_refused() {
    let (_temp, result) = attack("add('x', b'x', pax_headers={'path': 'a\\0b'})");
    assert!(matches!(result, Err(ImageError::Refused { .. })), "{result:?}");
}

#[test]
fn a_huge_extended_header_is_refused_early() {
    let (_temp, result) = attack("add('x', pax_headers={'comment': 'y' * 2000000})");
    let Err(ImageError::Archive { source, .. }) = &result else { panic!("{result:?}") };
    assert!(matches!(source.fault, TarFault::ExtendedTooLarge { .. }), "{source}");
}

#[test]
fn an_archive_cut_off_is_an_error_whatever_its_compression() {
    let temp = tempfile::tempdir().unwrap();
    let whole = std::fs::read(archive(temp.path(), "add('a', b'x' * 100000)\nadd('b', b'y' * 100000)")).unwrap();
    let cut = temp.path().join("cut");
    let target = temp.path().join("target");
    std::fs::create_dir(&target).unwrap();
    for command in ["cat", "zstd -c", "lz4 -c", "gzip -c", "xz -c"] {
        std::fs::write(&cut, &whole).unwrap();
        let packed = run("sh", &["-c", &format!("{command} < $0"), text(&cut)]);
        // without compression: into the middle of the second file
        let length = if command == "cat" { 150_000 } else { packed.len() - 5 };
        std::fs::write(&cut, &packed[..length]).unwrap();
        let err = unpack_file(&cut, &target).unwrap_err();
        assert!(matches!(err, ImageError::Decompress { .. } | ImageError::Archive { .. }), "{command}: {err}");
    }
}

#[test]
fn what_is_no_archive_says_how_it_starts() {
    let temp = tempfile::tempdir().unwrap();
    let page = temp.path().join("page.tar.lz4");
    std::fs::write(&page, "<html><body>It works!</body></html>".repeat(40)).unwrap();
    let err = unpack_file(&page, temp.path()).unwrap_err();
    assert!(matches!(&err, ImageError::NotAnArchive { start, .. } if start.starts_with("3c68746d6c3e")), "{err}");
    std::fs::write(&page, "").unwrap();
    assert!(unpack_file(&page, temp.path()).is_err());
}

#[test]
fn bytes_behind_the_archive_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let path = archive(temp.path(), "add('a', b'x')");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"garbage");
    std::fs::write(&path, bytes).unwrap();
    let target = temp.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let report = unpack_file(&path, &target).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("behind")), "{:?}", report.warnings);
}

#[test]
fn a_full_file_system_names_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let path = archive(temp.path(), "add('small', b'x')\nadd('large', b'x' * 5000000)");
    let target = temp.path().join("target");
    std::fs::create_dir(&target).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=2m", "none", text(&target)]);
    let result = unpack_file(&path, &target);
    run("umount", &[text(&target)]);
    match result.unwrap_err() {
        ImageError::Write { path, source, written, .. } => {
            assert_eq!((path.as_str(), source.raw_os_error()), ("large", Some(libc::ENOSPC)));
            assert!(written > 0);
        }
        other => panic!("{other}"),
    }
}

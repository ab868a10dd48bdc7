//! Digests: given, beside the image in every usual form, wrong, missing.

use std::path::{Path, PathBuf};

use drophammer::image::{DigestRule, ImageError, Report, Source, Unobserved, unpack};

use crate::support::{block_on, options, run, text};

fn image(dir: &Path) -> PathBuf {
    let path = dir.join("img.tar.zst");
    std::fs::create_dir(dir.join("tree")).unwrap();
    std::fs::write(dir.join("tree/file"), "content".repeat(100_000)).unwrap();
    run("tar", &["-C", text(&dir.join("tree")), "--zstd", "-cf", text(&path), "."]);
    path
}

fn install(image: &Path, rule: DigestRule) -> Result<Report, ImageError> {
    let target = tempfile::tempdir().unwrap();
    block_on(unpack(&Source::File(image.to_owned()), target.path(), &options(rule), &Unobserved))
}

#[test]
fn checksum_files_of_all_tools_are_found() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path());
    for (command, suffix, algorithm) in [
        ("md5sum img.tar.zst", "md5", "md5"),
        ("md5sum $PWD/img.tar.zst", "md5", "md5"),
        ("md5sum img.tar.zst | cut -d' ' -f1", "md5", "md5"),
        ("sha256sum -b img.tar.zst", "sha256", "sha256"),
        ("sha256sum --tag img.tar.zst", "sha256", "sha256"),
        ("sha256sum tree/file img.tar.zst", "sha256sum", "sha256"),
        ("sha512sum img.tar.zst", "sha512", "sha512"),
        ("sha512sum img.tar.zst", "sha512sum", "sha512"),
    ] {
        let beside = format!("{}.{suffix}", text(&image));
        run("sh", &["-c", &format!("cd $0 && {command} > {beside}"), text(temp.path())]);
        let report = install(&image, DigestRule::Sidecar).unwrap_or_else(|err| panic!("{command}: {err}"));
        assert_eq!(report.digest.unwrap().algorithm().as_str(), algorithm, "{command}");
        std::fs::remove_file(beside).unwrap();
    }
}

#[test]
fn the_strongest_checksum_file_counts() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path());
    let sums = "cd $0; sha512sum img.tar.zst > img.tar.zst.sha512; echo 00 > img.tar.zst.md5";
    run("sh", &["-c", sums, text(temp.path())]);
    assert_eq!(install(&image, DigestRule::Sidecar).unwrap().digest.unwrap().algorithm().as_str(), "sha512");
}

#[test]
fn an_image_without_digest_is_refused_unless_allowed() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path());
    let err = install(&image, DigestRule::Sidecar).unwrap_err();
    assert!(matches!(err, ImageError::NoDigest { .. }), "{err}");
    let report = install(&image, DigestRule::AllowMissing).unwrap();
    assert_eq!(report.digest, None);
    assert!(report.warnings.iter().any(|warning| warning.contains("no digest")));
}

#[test]
fn a_wrong_digest_tells_both() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path());
    let given = format!("sha256:{}", "00".repeat(32)).parse().unwrap();
    let found = String::from_utf8(run("sha256sum", &[text(&image)])).unwrap();
    match install(&image, DigestRule::Given(given)).unwrap_err() {
        ImageError::Digest { expected, found: ours, bytes, damage, .. } => {
            assert_eq!(expected.to_string(), format!("sha256:{}", "00".repeat(32)));
            assert_eq!(ours.to_string(), format!("sha256:{}", &found[..64]));
            assert_eq!((bytes, damage), (image.metadata().unwrap().len(), None));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn damage_on_the_way_is_a_wrong_digest_and_not_a_bad_archive() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path());
    run("sh", &["-c", "cd $0; sha256sum img.tar.zst > img.tar.zst.sha256", text(temp.path())]);
    let mut bytes = std::fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8].copy_from_slice(&[0xff; 8]);
    std::fs::write(&image, bytes).unwrap();
    match install(&image, DigestRule::Sidecar).unwrap_err() {
        ImageError::Digest { damage: Some(damage), .. } => assert!(damage.contains("zstd"), "{damage}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_wholesome_digest_leaves_a_bad_archive_its_name() {
    let temp = tempfile::tempdir().unwrap();
    let page = temp.path().join("page");
    std::fs::write(&page, "<html>".repeat(1000)).unwrap();
    run("sh", &["-c", "cd $0; sha256sum page > page.sha256", text(temp.path())]);
    let err = install(&page, DigestRule::Sidecar).unwrap_err();
    assert!(matches!(err, ImageError::NotAnArchive { .. }), "{err}");
}

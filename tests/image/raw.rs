//! Raw images onto files and loop devices.

use std::path::{Path, PathBuf};

use drophammer::image::{DigestRule, ImageError, Report, Source, Unobserved, write_raw};

use crate::support::{block_on, options, run, text};

/// Bytes that repeat nowhere.
fn content(length: usize) -> Vec<u8> {
    let mut state: u32 = 7;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn write(image: &Path, target: &Path, rule: DigestRule) -> Result<Report, ImageError> {
    block_on(write_raw(&Source::File(image.to_owned()), target, &options(rule), &Unobserved))
}

struct Loop(PathBuf);

impl Loop {
    fn new(dir: &Path, size: u64) -> Self {
        let backing = dir.join("backing");
        std::fs::File::create(&backing).unwrap().set_len(size).unwrap();
        let name = String::from_utf8(run("losetup", &["--find", "--show", text(&backing)])).unwrap();
        Self(PathBuf::from(name.trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", text(&self.0)]);
    }
}

#[test]
fn all_bytes_reach_the_device() {
    let temp = tempfile::tempdir().unwrap();
    let bytes = content(9_000_001);
    let image = temp.path().join("disk.img");
    std::fs::write(&image, &bytes).unwrap();
    run("zstd", &["-q", text(&image)]);
    let device = Loop::new(temp.path(), 16 << 20);
    let report = write(&image.with_extension("img.zst"), &device.0, DigestRule::AllowMissing).unwrap();
    assert_eq!((report.bytes_out, report.read_back), (bytes.len() as u64, bytes.len() as u64));
    assert!(std::fs::read(&device.0).unwrap()[..bytes.len()] == bytes);
}

#[test]
fn a_small_image_replaces_a_file() {
    let temp = tempfile::tempdir().unwrap();
    let (image, target) = (temp.path().join("image"), temp.path().join("target"));
    std::fs::write(&image, "tiny").unwrap();
    std::fs::write(&target, content(3_000_000)).unwrap();
    write(&image, &target, DigestRule::AllowMissing).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"tiny");
}

#[test]
fn a_wrong_digest_leaves_a_disk_that_does_not_boot() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(5 << 20)).unwrap();
    let device = Loop::new(temp.path(), 16 << 20);
    std::fs::write(&device.0, content(2 << 20)).unwrap();
    let wrong = format!("md5:{}", "00".repeat(16)).parse().unwrap();
    let err = write(&image, &device.0, DigestRule::Given(wrong)).unwrap_err();
    assert!(matches!(err, ImageError::Digest { .. }), "{err}");
    assert!(std::fs::read(&device.0).unwrap()[..1 << 20].iter().all(|byte| *byte == 0));
}

#[test]
fn an_image_larger_than_the_device_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(9 << 20)).unwrap();
    let device = Loop::new(temp.path(), 6 << 20);
    let err = write(&image, &device.0, DigestRule::AllowMissing).unwrap_err();
    assert!(matches!(err, ImageError::TooBig { capacity: 6_291_456, .. }), "{err}");
}

#[test]
fn refuses_a_mounted_device_and_what_is_no_device() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(1000)).unwrap();
    let device = Loop::new(temp.path(), 8 << 20);
    let mount = temp.path().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    run("mkfs.ext4", &["-q", text(&device.0)]);
    run("mount", &[text(&device.0), text(&mount)]);
    let result = write(&image, &device.0, DigestRule::AllowMissing);
    run("umount", &[text(&mount)]);
    assert!(matches!(&result, Err(ImageError::UnfitTarget { reason, .. }) if reason.contains("in use")), "{result:?}");
    for (target, known) in [(temp.path().join("absent"), "opening"), (mount, "neither")] {
        let err = write(&image, &target, DigestRule::AllowMissing).unwrap_err();
        assert!(err.to_string().contains(known), "{err}");
        assert!(!temp.path().join("absent").exists());
    }
}

//! Raw images onto files and loop devices.

use std::path::Path;

use drophammer::image::{DigestRule, ImageError, Report, Source, Unobserved, write_raw};

use crate::support::{Loop, Mounted, block_on, content, options, run, text};

fn write(image: &Path, target: &Path, rule: DigestRule) -> Result<Report, ImageError> {
    block_on(write_raw(&Source::File(image.to_owned()), target, &options(rule), &Unobserved))
}

#[test]
fn all_bytes_reach_the_device() {
    let temp = tempfile::tempdir().unwrap();
    let bytes = content(9_000_001);
    let image = temp.path().join("disk.img");
    std::fs::write(&image, &bytes).unwrap();
    run("zstd", &["-q", text(&image)]);
    let device = Loop::new(temp.path(), 16 << 20, 512);
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
    let device = Loop::new(temp.path(), 16 << 20, 512);
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
    let device = Loop::new(temp.path(), 6 << 20, 512);
    let err = write(&image, &device.0, DigestRule::AllowMissing).unwrap_err();
    assert!(matches!(err, ImageError::TooBig { capacity: 6_291_456, .. }), "{err}");
}

#[test]
fn refuses_a_mounted_device_and_what_is_no_device() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(1000)).unwrap();
    let device = Loop::new(temp.path(), 8 << 20, 512);
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

/// A device full of ones, to see what is written and what is not.
fn full_of_ones(dir: &Path, size: u64, sector: u32) -> Loop {
    let device = Loop::new(dir, size, sector);
    std::fs::write(&device.0, vec![0xff; usize::try_from(size).unwrap()]).unwrap();
    device
}

#[test]
fn zeros_are_not_sent_and_read_as_zeros_and_nothing_else_is_touched() {
    for sector in [512, 4096] {
        for odd in [0, 1, 511, 513, 4095, 70_000] {
            let temp = tempfile::tempdir().unwrap();
            // zeros in front, in the middle across pieces, too few to matter, and at the end
            let mut bytes = vec![0; (11 << 20) + odd];
            bytes[1 << 20..3 << 20].copy_from_slice(&content(2 << 20));
            bytes[(8 << 20) + 70_000..(8 << 20) + 90_000].copy_from_slice(&content(20_000));
            bytes[(9 << 20) - 1] = 1;
            let image = temp.path().join("disk.img");
            std::fs::write(&image, &bytes).unwrap();
            let device = full_of_ones(temp.path(), 12 << 20, sector);
            let report = write(&image, &device.0, DigestRule::AllowMissing).unwrap();
            let found = std::fs::read(&device.0).unwrap();
            assert!(found[..bytes.len()] == bytes, "sector {sector}, odd {odd}");
            let behind = found[bytes.len()..].iter().all(|byte| *byte == 0xff);
            assert!(behind, "sector {sector}, odd {odd}: something behind the image was changed");
            assert_eq!(report.bytes_out, bytes.len() as u64);
            let zeroed = report.bytes_zeroed;
            assert!((6 << 20..9 << 20).contains(&zeroed), "sector {sector}, odd {odd}: {zeroed} bytes zeroed");
        }
    }
}

#[test]
fn an_image_shorter_than_a_sector_leaves_the_rest_of_it() {
    for length in [1, 512, 1000, 5000] {
        let temp = tempfile::tempdir().unwrap();
        let image = temp.path().join("tiny");
        std::fs::write(&image, content(length)).unwrap();
        let device = full_of_ones(temp.path(), 1 << 20, 4096);
        write(&image, &device.0, DigestRule::AllowMissing).unwrap();
        let found = std::fs::read(&device.0).unwrap();
        assert!(found[..length] == content(length) && found[length..].iter().all(|byte| *byte == 0xff), "{length}");
    }
}

#[test]
fn zeros_are_holes_in_a_file() {
    let temp = tempfile::tempdir().unwrap();
    let (image, target) = (temp.path().join("image"), temp.path().join("target"));
    let mut bytes = vec![0; 40 << 20];
    bytes[..2 << 20].copy_from_slice(&content(2 << 20));
    std::fs::write(&image, &bytes).unwrap();
    std::fs::write(&target, vec![0xff; 60 << 20]).unwrap();
    let report = write(&image, &target, DigestRule::AllowMissing).unwrap();
    assert!(std::fs::read(&target).unwrap() == bytes);
    assert_eq!(report.bytes_zeroed, 38 << 20);
    assert!(std::os::unix::fs::MetadataExt::blocks(&target.metadata().unwrap()) < 6 << 11);
}

/// Below the device the memory ends.
#[test]
fn a_device_that_takes_no_more_is_named_with_the_offset() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(24 << 20)).unwrap();
    let below = temp.path().join("below");
    let mounted = Mounted::tmpfs(&below, "size=8m");
    let device = Loop::new(&below, 32 << 20, 512);
    let err = write(&image, &device.0, DigestRule::AllowMissing).unwrap_err();
    drop(device);
    drop(mounted);
    match err {
        ImageError::Device { action: "writing", offset, .. } => assert!((4 << 20..=24 << 20).contains(&offset)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_device_that_somebody_holds_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(1000)).unwrap();
    let device = full_of_ones(temp.path(), 4 << 20, 512);
    let mut claim = std::fs::File::options();
    let claimed = std::os::unix::fs::OpenOptionsExt::custom_flags(claim.read(true), libc::O_EXCL).open(&device.0);
    let result = write(&image, &device.0, DigestRule::AllowMissing);
    assert!(matches!(&result, Err(ImageError::UnfitTarget { reason, .. }) if reason.contains("in use")), "{result:?}");
    drop(claimed);
    assert!(std::fs::read(&device.0).unwrap().iter().all(|byte| *byte == 0xff));
}

#[test]
fn what_an_earlier_system_left_at_the_end_is_told_and_stays() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::write(&image, content(2 << 20)).unwrap();
    let device = Loop::new(temp.path(), 16 << 20, 512);
    run("sgdisk", &["-N", "1", text(&device.0)]);
    let old = std::fs::read(&device.0).unwrap();
    let report = write(&image, &device.0, DigestRule::AllowMissing).unwrap();
    let told = report.warnings.iter().filter(|warning| warning.contains("backup of another partition table")).count();
    assert_eq!(told, 1, "{:?}", report.warnings);
    let found = std::fs::read(&device.0).unwrap();
    assert!(found[2 << 20..] == old[2 << 20..]);
}

#[test]
fn a_table_for_other_sectors_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
    run("sgdisk", &["-N", "1", text(&image)]);
    let device = Loop::new(temp.path(), 16 << 20, 4096);
    let report = write(&image, &device.0, DigestRule::AllowMissing).unwrap();
    let told = report.warnings.iter().any(|warning| warning.contains("sectors of 512 bytes"));
    assert!(told, "{:?}", report.warnings);
}

#[test]
fn a_table_for_a_larger_disk_is_refused_before_anything_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    run("sgdisk", &["-N", "1", text(&image)]);
    let device = full_of_ones(temp.path(), 8 << 20, 512);
    let err = write(&image, &device.0, DigestRule::AllowMissing).unwrap_err();
    assert!(matches!(err, ImageError::TooBig { capacity: 8_388_608, image: 16_777_216, .. }), "{err}");
    assert!(std::fs::read(&device.0).unwrap().iter().all(|byte| *byte == 0xff));
}

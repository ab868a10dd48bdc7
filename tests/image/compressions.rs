//! Archives as the tools of each format compress them, in every way that an image's maker might choose.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use drophammer::image::{DigestRule, ImageError, Options, Report, Source, Unobserved, decompress_to, unpack};
use proptest::prelude::*;

use crate::support::{block_on, options, run, text, unpack_file};

const SKIPPABLE: [u8; 12] = [0x53, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 0xff, 0, 0xff, 0];

/// Files of a few kinds, and their archive of 11 MB. The directory stays until the tests end.
struct Made {
    directory: tempfile::TempDir,
    tree: PathBuf,
    tar: PathBuf,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let [tree, tar] = ["tree", "tree.tar"].map(|name| directory.path().join(name));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("text"), words(8_500_000)).unwrap();
        std::fs::write(tree.join("noise"), noise(2_500_000)).unwrap();
        std::fs::write(tree.join("zeros"), vec![0; 300_000]).unwrap();
        std::fs::write(tree.join("empty"), "").unwrap();
        run("tar", &["-C", text(&tree), "-cf", text(&tar), "."]);
        Made { directory, tree, tar }
    })
}

fn numbers() -> impl Iterator<Item = u64> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

fn noise(length: usize) -> Vec<u8> {
    numbers().flat_map(u64::to_le_bytes).take(length).collect()
}

/// Compresses to about a third.
fn words(length: usize) -> Vec<u8> {
    numbers().flat_map(|number| format!("word{} ", number % 2000).into_bytes()).take(length).collect()
}

/// Runs a shell command in which `$0` is the archive, and gives what it prints.
fn shell(command: &str) -> Vec<u8> {
    run("sh", &["-c", command, text(&made().tar)])
}

fn unpacked(compressed: &[u8]) -> (tempfile::TempDir, Result<Report, ImageError>) {
    let directory = tempfile::tempdir_in(made().directory.path()).unwrap();
    let (image, target) = (directory.path().join("image"), directory.path().join("target"));
    std::fs::create_dir(&target).unwrap();
    std::fs::write(&image, compressed).unwrap();
    let report = unpack_file(&image, &target);
    (directory, report)
}

fn assert_unpacks(command: &str, compressed: &[u8], format: &str) {
    let (directory, report) = unpacked(compressed);
    let report = report.unwrap_or_else(|err| panic!("{command}: {err:?}"));
    assert_eq!(report.compression, format, "{command}");
    for name in ["text", "noise", "zeros", "empty"] {
        let [expected, found] =
            [&made().tree, &directory.path().join("target")].map(|tree| std::fs::read(tree.join(name)).unwrap());
        assert!(expected == found, "{command}: {name} differs");
    }
    assert!((0.0..=1.0).contains(&report.busy.decompress), "{}", report.busy.decompress);
}

fn assert_all_unpack(format: &str, commands: &[&str]) {
    for command in commands {
        assert_unpacks(command, &shell(command), format);
    }
}

/// The archive's first part and the rest, each compressed by itself.
fn in_parts(compress: &str) -> Vec<Vec<u8>> {
    ["head -c 3000000 \"$0\"", "tail -c +3000001 \"$0\" | head -c 5000000", "tail -c +8000001 \"$0\""]
        .map(|part| shell(&format!("{part} | {compress}")))
        .to_vec()
}

#[test]
fn lz4_frames_of_every_block_size_are_read() {
    assert_all_unpack(
        "lz4",
        &[
            "lz4 -c \"$0\"",
            "lz4 -B4 -c \"$0\"",
            "lz4 -B5 -BX -c \"$0\"",
            "lz4 -B6 --content-size -c \"$0\"",
            "lz4 -9 -B7 -BI --no-frame-crc -c \"$0\"",
        ],
    );
}

#[test]
fn lz4_frames_with_linked_blocks_are_read() {
    assert_all_unpack("lz4", &["lz4 -BD -B4 -c \"$0\"", "lz4 -BD -B7 -BX -c \"$0\"", "lz4 -9 -BD -B5 -c < \"$0\""]);
}

#[test]
fn lz4_legacy_frames_are_read() {
    assert_all_unpack("lz4", &["lz4 -l -c \"$0\""]);
}

#[test]
fn lz4_frames_one_behind_the_other_are_one_image() {
    let mut parts = in_parts("lz4 -B4 -c");
    parts.insert(1, SKIPPABLE.to_vec());
    parts.insert(3, shell("lz4 -c < /dev/null"));
    assert_unpacks("lz4 in parts", &parts.concat(), "lz4");
}

#[test]
fn zstd_frames_of_every_level_are_read() {
    assert_all_unpack(
        "zstd",
        &[
            "zstd -q -1 -c \"$0\"",
            "zstd -q -3 -T2 -c \"$0\"",
            "zstd -q -19 -c \"$0\"",
            "cat \"$0\" | zstd -q --no-check -c",
            "cat \"$0\" | zstd -q --long=24 -c",
        ],
    );
}

#[test]
fn zstd_frames_made_side_by_side_are_read() {
    assert_all_unpack(
        "zstd",
        &["pzstd -q -1 -p 2 -c \"$0\"", "pzstd -q -3 -p 2 -c \"$0\"", "pzstd -q -9 -p 2 -c \"$0\""],
    );
}

#[test]
fn zstd_frames_one_behind_the_other_are_one_image() {
    let mut parts = in_parts("zstd -q -c");
    parts.insert(0, SKIPPABLE.to_vec());
    parts.insert(2, shell("zstd -q -c < /dev/null"));
    assert_unpacks("zstd in parts", &parts.concat(), "zstd");
}

/// zstd's contrib/seekable_format: frames, and behind them a table in a skippable frame.
#[test]
fn seekable_zstd_is_read() {
    let archive = std::fs::read(&made().tar).unwrap();
    let (mut image, mut table) = (Vec::new(), Vec::new());
    let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
    compressor.include_contentsize(false).unwrap();
    for content in archive.chunks(1 << 20) {
        let frame = compressor.compress(content).unwrap();
        for size in [frame.len(), content.len()] {
            table.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
        }
        image.extend_from_slice(&frame);
    }
    let frames = u32::try_from(table.len() / 8).unwrap();
    table.extend_from_slice(&frames.to_le_bytes());
    table.push(0);
    table.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    image.extend_from_slice(&0x184D_2A5E_u32.to_le_bytes());
    image.extend_from_slice(&u32::try_from(table.len()).unwrap().to_le_bytes());
    image.extend_from_slice(&table);
    assert_unpacks("seekable", &image, "zstd");
}

#[test]
fn a_window_beyond_the_limit_is_refused_and_within_a_larger_one_read() {
    let compressed = shell("cat \"$0\" | zstd -q --long=25 -c");
    let (directory, refused) = unpacked(&compressed);
    let refusal = format!("{:#}", anyhow::Error::from(refused.unwrap_err()));
    assert!(refusal.contains("needs more memory than 64 MiB") && refusal.contains("drophammer.memory"), "{refusal}");
    let more = Options { memory: "80".parse().unwrap(), ..options(DigestRule::AllowMissing) };
    let source = Source::File(directory.path().join("image"));
    block_on(unpack(&source, &directory.path().join("target"), &more, &Unobserved)).unwrap();
}

#[test]
fn gzip_members_and_xz_streams_are_read() {
    assert_all_unpack(
        "gzip",
        &["gzip -1 -c \"$0\"", "(head -c 5000001 \"$0\" | gzip; tail -c +5000002 \"$0\" | gzip)"],
    );
    assert_all_unpack(
        "xz",
        &["xz -T2 -1 -c \"$0\"", "(head -c 5000001 \"$0\" | xz -0; tail -c +5000002 \"$0\" | xz -0)"],
    );
    assert_all_unpack("none", &["cat \"$0\""]);
}

/// The one damage that no digest was asked to find: each format notices by itself.
#[test]
fn a_damaged_or_cut_image_is_an_error_with_its_format_and_place() {
    // this frame is small enough to be taken as a whole, and its beginning is where it is damaged
    for (format, command, least) in [
        ("zstd", "zstd -q -c \"$0\"", 0),
        ("zstd", "pzstd -q -1 -p 2 -c \"$0\"", 1_000_000),
        ("lz4", "lz4 -c \"$0\"", 1_000_000),
        ("gzip", "gzip -1 -c \"$0\"", 1_000_000),
        ("xz", "xz -0 -c \"$0\"", 1_000_000),
    ] {
        let good = shell(command);
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 4;
        for (what, image) in [("damaged", &bad[..]), ("cut", &good[..good.len() - 5])] {
            let failure = unpacked(image).1.unwrap_err();
            match failure {
                ImageError::Decompress { format: found, offset, .. } => {
                    assert_eq!(found, format);
                    assert!((least..=image.len() as u64).contains(&offset), "{what} {command}: near byte {offset}");
                }
                other => panic!("{what} {command}: {other:?}"),
            }
        }
    }
}

fn read_back(image: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    decompress_to(&mut &image[..], drophammer::image::MemoryLimit::default(), &mut content).unwrap();
    content
}

/// Content that compresses, or not.
fn any_content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3000),
        (prop::collection::vec(any::<u8>(), 1..300), 1_usize..2000).prop_map(|(bytes, times)| bytes.repeat(times)),
    ]
}

fn lz4_frame(content: &[u8], linked: bool, checks: u8, flush_at: usize) -> Vec<u8> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let info = FrameInfo::new()
        .block_mode(if linked { BlockMode::Linked } else { BlockMode::Independent })
        .block_size(if checks & 8 == 0 { BlockSize::Max64KB } else { BlockSize::Max256KB })
        .block_checksums(checks & 1 != 0)
        .content_checksum(checks & 2 != 0)
        .content_size((checks & 4 != 0).then_some(content.len() as u64));
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    let (first, second) = content.split_at(flush_at.min(content.len()));
    encoder.write_all(first).unwrap();
    // ends a block before it is full
    encoder.flush().unwrap();
    encoder.write_all(second).unwrap();
    encoder.finish().unwrap()
}

fn zstd_frame(content: &[u8], level: i32, knows_length: bool, flush_at: usize) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level).unwrap();
    encoder.include_checksum(level % 2 == 0).unwrap();
    if knows_length {
        encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
    }
    let (first, second) = content.split_at(flush_at.min(content.len()));
    encoder.write_all(first).unwrap();
    encoder.flush().unwrap();
    encoder.write_all(second).unwrap();
    encoder.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn content_in_any_lz4_frames_comes_back(
        frames in prop::collection::vec((any_content(), any::<bool>(), any::<u8>(), 0_usize..100_000), 1..6),
    ) {
        let mut image = Vec::new();
        for (content, linked, checks, flush_at) in &frames {
            image.extend_from_slice(&lz4_frame(content, *linked, *checks, *flush_at));
            if checks & 16 != 0 {
                image.extend_from_slice(&SKIPPABLE);
            }
        }
        let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.0.clone()).collect();
        prop_assert!(read_back(&image) == expected);
    }

    #[test]
    fn content_in_any_zstd_frames_comes_back(
        frames in prop::collection::vec((any_content(), 1_i32..8, any::<bool>(), 0_usize..100_000), 1..6),
    ) {
        let mut image = Vec::new();
        for (content, level, knows_length, flush_at) in &frames {
            image.extend_from_slice(&zstd_frame(content, *level, *knows_length, *flush_at));
            if level % 3 == 0 {
                image.extend_from_slice(&SKIPPABLE);
            }
        }
        let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.0.clone()).collect();
        prop_assert!(read_back(&image) == expected);
    }
}

/// The tool is asked, so that a file of ours is what others read.
#[test]
fn the_test_archives_are_what_their_names_say() {
    let listed = |command: &str| String::from_utf8_lossy(&shell(command)).into_owned();
    let frames = listed("pzstd -q -1 -p 2 -c \"$0\" > \"$0.p.zst\"; zstd -lv \"$0.p.zst\"");
    assert!(frames.contains("Zstandard Frames: 6"), "{frames}");
    assert!(Path::new(&made().tar).exists());
}

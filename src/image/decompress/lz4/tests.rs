use std::io::{self, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use twox_hash::XxHash32;

use crate::image::decompress::tests::decompressed_on;
use crate::image::decompress::{Compression, run_on};
use crate::image::memory::MemoryLimit;

const SKIPPABLE: [u8; 11] = [0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];

fn encode(content: &[u8], info: FrameInfo) -> Vec<u8> {
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn frame(content: &[u8], mode: BlockMode) -> Vec<u8> {
    encode(content, FrameInfo::new().block_mode(mode).block_size(BlockSize::Max64KB))
}

/// Error and place of it.
fn read_on(cores: usize, input: &[u8]) -> Result<Vec<u8>, (u64, io::Error)> {
    decompressed_on(cores, Compression::Lz4, input)
}

/// With threads and without; both must agree.
fn read(input: &[u8]) -> Result<Vec<u8>, String> {
    let [one, three] = [1, 3].map(|cores| read_on(cores, input).map_err(|(offset, err)| format!("{offset}: {err}")));
    assert!(one == three, "{:?} and {:?}", one.as_ref().map(Vec::len), three.as_ref().map(Vec::len));
    one
}

fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
}

#[test]
fn frames_and_skippable_frames_are_one_stream() {
    let (one, two) = (content(), b"two".to_vec());
    let input = [
        &SKIPPABLE[..],
        &frame(&one, BlockMode::Linked),
        &SKIPPABLE,
        &frame(&two, BlockMode::Independent),
        &frame(&one, BlockMode::Independent),
        &frame(&[], BlockMode::Independent),
    ]
    .concat();
    assert!(read(&input).unwrap() == [&one[..], &two, &one].concat());
    assert!(read(&SKIPPABLE).unwrap().is_empty());
}

#[test]
fn all_that_can_be_checked_is_checked() {
    let info = FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB);
    let content = content();
    let info = info.block_checksums(true).content_checksum(true).content_size(Some(content.len() as u64));
    let good = encode(&content, info);
    assert!(read(&good).unwrap() == content);
    let header = 4 + 2 + 8 + 1;
    for at in (0..good.len()).filter(|at| *at < 40 || at % 10_009 == 0 || at + 12 > good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let error = read(&bad).unwrap_err();
        if (4..header).contains(&at) {
            assert!(error.contains("header"), "at {at}: {error}");
        }
    }
    let mut bad = good.clone();
    let last = good.len() - 1;
    bad[last] ^= 1;
    assert!(read(&bad).unwrap_err().contains("checksum of the frame's content"));
    bad = good;
    bad[header + 4 + 100] ^= 1;
    assert!(read(&bad).unwrap_err().starts_with(&format!("{}: checksum of an lz4 block", header + 4)));
}

#[test]
fn a_wrong_content_size_is_told() {
    let mut input = encode(b"content", FrameInfo::new().content_size(Some(7)));
    assert_eq!(read(&input).unwrap(), b"content");
    input[6] = 8;
    input[14] = XxHash32::oneshot(0, &input[4..14]).to_le_bytes()[1];
    assert!(read(&input).unwrap_err().contains("content is 7 bytes, its header says 8"));
}

#[test]
fn every_cut_but_those_between_frames_is_an_error() {
    let content = &b"a text that comes again and again".repeat(2100)[..];
    for mode in [BlockMode::Independent, BlockMode::Linked] {
        let one = frame(content, mode);
        let input = [&one[..], &SKIPPABLE, &frame(b"two", mode)].concat();
        let between = [one.len(), one.len() + SKIPPABLE.len()];
        for cut in 1..input.len() {
            match read_on(1 + cut % 2, &input[..cut]) {
                Ok(_) => assert!(between.contains(&cut), "cut at {cut} was not noticed"),
                Err((_, err)) => assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}: {err}"),
            }
        }
    }
}

#[test]
fn the_first_damage_is_told_and_what_is_before_it_comes_through() {
    let content = content();
    let good = frame(&content, BlockMode::Independent);
    let [mut early, mut late] = [good.clone(), good[..good.len() - 1].to_vec()];
    // the first block's token: content from before its beginning
    early[7 + 4..][..4].copy_from_slice(&[0, 0xff, 0xff, 0]);
    late[7 + 4..][..4].copy_from_slice(&[0, 0xff, 0xff, 0]);
    for input in [early, late] {
        assert!(read(&input).unwrap_err().starts_with("11: lz4 block is damaged"), "{:?}", read(&input));
    }
    let mut output = Vec::new();
    let limit = MemoryLimit::default();
    let cut = &good[..good.len() - 8];
    let ran = run_on(limit.decoder_memory(2), Compression::Lz4, &mut &cut[..], limit, &mut |chunk| {
        output.extend_from_slice(&chunk);
        Ok(())
    });
    assert!(ran.is_err());
    assert!(output.len() > content.len() - (64 << 10) && content.starts_with(&output));
}

#[test]
fn legacy_frames_end_where_another_begins() {
    let content: Vec<u8> = content().into_iter().cycle().take(9 << 20).collect();
    let mut input = 0x184C_2102_u32.to_le_bytes().to_vec();
    for block in content.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        input.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        input.extend_from_slice(&block);
    }
    assert!(read(&input).unwrap() == content);
    let more = [&input[..], &SKIPPABLE, &frame(b"more", BlockMode::Linked), &input].concat();
    assert!(read(&more).unwrap() == [&content[..], b"more", &content].concat());
    for cut in [2, 5, 9, input.len() - 1] {
        assert!(read(&input[..cut]).unwrap_err().contains("stream ends inside"), "{cut}");
    }
}

#[test]
fn a_dictionary_is_refused() {
    let mut input = [&[0x04, 0x22, 0x4d, 0x18, 0x61, 0x40][..], &[1, 2, 3, 4]].concat();
    input.push(XxHash32::oneshot(0, &input[4..]).to_le_bytes()[1]);
    let (_, err) = read_on(1, &input).unwrap_err();
    assert_eq!((err.kind(), err.to_string().contains("dictionary")), (io::ErrorKind::Unsupported, true));
}

#[test]
fn garbage_behind_a_frame_is_an_error() {
    let input = [&frame(b"x", BlockMode::Linked)[..], b"garbage"].concat();
    assert_eq!(
        read(&input).unwrap_err(),
        format!("{}: no lz4 frame where one should follow: found 67617262", input.len() - 3)
    );
}

use std::io::{self, Write};

use crate::image::decompress::Compression;
use crate::image::decompress::tests::decompressed_on;

const SKIPPABLE: [u8; 9] = [0x5f, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];

fn frame(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 1).unwrap()
}

/// As a pipe gives it: the frame does not say how long its content is.
fn frame_of_unknown_length(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    for piece in content.chunks(1000) {
        encoder.write_all(piece).unwrap();
    }
    encoder.finish().unwrap()
}

fn read_on(cores: usize, input: &[u8]) -> Result<Vec<u8>, (u64, io::Error)> {
    decompressed_on(cores, Compression::Zstd, input)
}

fn content() -> Vec<u8> {
    (0..50_000_u32).flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn frames_of_all_kinds_are_one_stream() {
    let content = content();
    let large: Vec<u8> = content.iter().copied().cycle().take(20 << 20).collect();
    let input = [
        &SKIPPABLE[..],
        &frame(&content),
        &frame_of_unknown_length(&content),
        &frame(b""),
        &SKIPPABLE,
        &frame(&large),
        &frame_of_unknown_length(b""),
        &frame_of_unknown_length(&large),
        &frame_of_unknown_length(&content),
        &SKIPPABLE,
    ]
    .concat();
    let expected = [&content[..], &content, &large, &large, &content].concat();
    for cores in [1, 2, 4] {
        assert!(read_on(cores, &input).unwrap() == expected, "{cores}");
    }
    assert!(read_on(2, &SKIPPABLE).unwrap().is_empty());
}

#[test]
fn every_cut_but_those_between_frames_is_an_error() {
    let content = &content()[..3000];
    let frames = [frame(content), SKIPPABLE.to_vec(), frame_of_unknown_length(content), frame(b"")];
    let input = frames.concat();
    let ends: Vec<usize> = (1..=frames.len()).map(|count| frames[..count].concat().len()).collect();
    for cut in 1..input.len() {
        for cores in [1, 2] {
            match read_on(cores, &input[..cut]) {
                Ok(_) => assert!(ends.contains(&cut), "cut at {cut} was not noticed"),
                Err((_, err)) => assert_eq!(err.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}: {err}"),
            }
        }
    }
}

#[test]
fn a_flipped_byte_is_never_content() {
    let content = &content()[..3000];
    let input = [frame_of_unknown_length(content), frame_of_unknown_length(content)].concat();
    let expected = [content, content].concat();
    for at in 0..input.len() {
        let mut bad = input.clone();
        bad[at] ^= 0x20;
        for cores in [1, 2] {
            if let Ok(found) = read_on(cores, &bad) {
                // a header's bits that are not used, and those that only make the window larger
                assert!(found == expected, "byte {at}");
            }
        }
    }
}

#[test]
fn the_first_damage_is_told_with_its_place() {
    let content = content();
    let (one, mut two) = (frame(&content), frame_of_unknown_length(&content));
    let last = two.len() - 1;
    two[last] ^= 1;
    let input = [&one[..], &two, b"garbage"].concat();
    let (offset, err) = read_on(3, &input).unwrap_err();
    assert_eq!(offset, one.len() as u64);
    assert!(err.to_string().contains("doesn't match checksum"), "{err}");
}

#[test]
fn a_dictionary_is_refused() {
    let dictionary = b"any bytes are a dictionary ".repeat(40);
    let mut compressor = zstd::bulk::Compressor::with_dictionary(1, &dictionary).unwrap();
    compressor.set_parameter(zstd::zstd_safe::CParameter::DictIdFlag(true)).unwrap();
    // content alone has no id, so one is written into the header by hand
    let mut input = compressor.compress(b"any bytes").unwrap();
    let descriptor = input[4];
    assert_eq!(descriptor & 3, 0);
    input[4] |= 1;
    input.insert(5, 77);
    for cores in [1, 2] {
        let (_, err) = read_on(cores, &input).unwrap_err();
        assert_eq!((err.kind(), err.to_string().contains("dictionary")), (io::ErrorKind::Unsupported, true));
    }
}

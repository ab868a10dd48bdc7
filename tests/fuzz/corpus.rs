//! Valid inputs to begin with, small, and made here.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

const SKIPPABLE: [u8; 10] = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7];

/// For the target of this name.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    match target {
        "tar_reader" => archives(),
        "lz4_frames" => lz4_frames(),
        "zstd_frames" => zstd_frames(),
        "oci_manifest" => oci_manifests(),
        "bundle_manifest" => vec![bundle_manifest()],
        other => panic!("no inputs for {other}"),
    }
}

fn archives() -> Vec<Vec<u8>> {
    let plain = [header(b"file", b'0', 700), block(&[b'x'; 700]), header(b"dir/", b'5', 0), header(b"link", b'2', 0)];
    let long = [header(b"././@LongLink", b'L', 120), block(&[b'n'; 120]), header(b"n", b'0', 3), block(b"abc")];
    let records = b"20 path=a/long/name\n30 mtime=1700000000.123456789\n27 SCHILY.xattr.user.a=b\0c\n12 uid=4242\n";
    let pax = [header(b"x", b'x', records.len()), block(records), header(b"a", b'0', 5), block(b"12345")];
    let global = b"13 gid=10000\n";
    let global = [header(b"g", b'g', global.len()), block(global), header(b"pipe", b'6', 0), header(b"null", b'3', 0)];
    let map = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.name=sparse\n28 GNU.sparse.realsize=9000\n";
    let body = [block(b"2\n0\n512\n8192\n808\n"), block(&[1; 512]), block(&[2; 808])].concat();
    let sparse = [header(b"x", b'x', map.len()), block(map), header(b"s", b'0', 512 + 1320), body];
    let mut old = header(b"old", b'S', 512);
    for (at, number) in [(386, 0), (398, 512), (410, 5000), (422, 0), (483, 5000)] {
        old[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    let old = [sealed(old), block(&[3; 512])].concat();
    let end = vec![0; 1024];
    [plain.concat(), long.concat(), pax.concat(), global.concat(), sparse.concat(), old]
        .map(|archive| [archive, end.clone()].concat())
        .to_vec()
}

fn header(name: &[u8], kind: u8, size: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0001750\0");
    header[116..124].copy_from_slice(b"0001750\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"14524770000\0");
    header[156] = kind;
    header[157..161].copy_from_slice(b"file");
    let magic: &[u8; 8] = if matches!(kind, b'L' | b'S') { b"ustar  \0" } else { b"ustar\x0000" };
    header[257..265].copy_from_slice(magic);
    sealed(header)
}

fn sealed(mut header: Vec<u8>) -> Vec<u8> {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn block(content: &[u8]) -> Vec<u8> {
    let mut block = content.to_vec();
    block.resize(content.len().next_multiple_of(512), 0);
    block
}

fn text() -> Vec<u8> {
    (0..400_u32).flat_map(|number| format!("line {} of the text\n", number * number % 37).into_bytes()).collect()
}

fn lz4_frames() -> Vec<Vec<u8>> {
    let frame = |info: FrameInfo, content: &[u8]| {
        let mut encoder = FrameEncoder::with_frame_info(info.block_size(BlockSize::Max64KB), Vec::new());
        let (first, second) = content.split_at(content.len() / 3);
        encoder.write_all(first).expect("to memory");
        encoder.flush().expect("to memory");
        encoder.write_all(second).expect("to memory");
        encoder.finish().expect("to memory")
    };
    let text = text();
    let size = Some(text.len() as u64);
    let independent = frame(FrameInfo::new(), &text);
    let linked = frame(FrameInfo::new().block_mode(BlockMode::Linked), &text);
    let checked = frame(FrameInfo::new().block_checksums(true).content_checksum(true).content_size(size), &text);
    let stored = frame(FrameInfo::new(), &[0, 200, 3, 17, 5]);
    let block = lz4_flex::block::compress(&text);
    let length = u32::try_from(block.len()).expect("a short text");
    let legacy = [&0x184C_2102_u32.to_le_bytes()[..], &length.to_le_bytes(), &block].concat();
    let several = [&independent[..], &SKIPPABLE, &linked, &legacy].concat();
    vec![independent, linked, checked, stored, legacy, several]
}

fn zstd_frames() -> Vec<Vec<u8>> {
    let text = text();
    let known = zstd::bulk::compress(&text, 3).expect("to memory");
    let streamed = zstd::encode_all(&text[..], 1).expect("to memory");
    let mut encoder = zstd::Encoder::new(Vec::new(), 9).expect("an encoder");
    encoder.include_checksum(true).expect("a checksum");
    encoder.write_all(&text[..3000]).expect("to memory");
    encoder.flush().expect("to memory");
    encoder.write_all(&[5; 5000]).expect("to memory");
    let checked = encoder.finish().expect("to memory");
    let stored = zstd::encode_all(&[9, 4, 250, 33, 7][..], 3).expect("to memory");
    let several = [&known[..], &SKIPPABLE, &checked, &stored, &SKIPPABLE].concat();
    vec![known, streamed, checked, stored, several]
}

/// An image, an index of two, and a manifest as Docker's registries give it.
fn oci_manifests() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let kind = |rest: &str| format!("application/vnd.oci.image.{rest}");
    let descriptor = |media_type: &str, more: &str| {
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":420{more}}}"#)
    };
    let image = |schema: &str, config: &str, layer: &str| {
        let (config, layer) = (descriptor(config, ""), descriptor(layer, ""));
        format!(r#"{{"schemaVersion":2,"mediaType":"{schema}","config":{config},"layers":[{layer},{layer}]}}"#)
    };
    let oci = image(&kind("manifest.v1+json"), &kind("config.v1+json"), &kind("layer.v1.tar+zstd"));
    let docker = "application/vnd.docker";
    let docker = image(
        &format!("{docker}.distribution.manifest.v2+json"),
        &format!("{docker}.container.image.v1+json"),
        &format!("{docker}.image.rootfs.diff.tar.gzip"),
    );
    let entry = |architecture: &str, tag: &str| {
        let platform = format!(r#","platform":{{"architecture":"{architecture}","os":"linux","variant":"v8"}}"#);
        let tag = format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}"#);
        descriptor(&kind("manifest.v1+json"), &(platform + &tag))
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}}"#,
        kind("index.v1+json"),
        entry("amd64", "12"),
        entry("arm64", "latest")
    );
    [oci, docker, index].map(String::into_bytes).to_vec()
}

/// A bundle with one image.
fn bundle_manifest() -> Vec<u8> {
    let image = "images/debian-12.0.1/img.tar.zst";
    let paths = ["anvil", "drophammer", "boot/vmlinuz", "boot/initramfs.img", "ipxe/snponly.efi", "pci.ids", image];
    let files: Vec<String> =
        paths.iter().map(|path| format!(r#"{{"path":"{path}","bytes":5,"sha256":"{}"}}"#, "0a".repeat(32))).collect();
    let packed = format!(
        r#"{{"id":"debian-12.0.1","name":"","description":"","features":["machine"],"classification":"","file":"{image}"}}"#
    );
    format!(
        r#"{{"format":1,"created":"2026-01-02T03:00:00Z","versions":{{"anvil":"1"}},"files":[{}],"images":[{packed}],"layouts":[],"sizes":[]}}"#,
        files.join(",")
    )
    .into_bytes()
}

//! Archives and streams that want all the memory there is: each ends with an error that says why, or well, and the
//! program stays within the memory that the agent may take.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::blocks::{BLOCK, END, extension, header, header_with, padded, pax, record};
use crate::support::{Loop, Mounted, run, text};

/// What the agent may take unless it is told otherwise.
const LIMIT_BYTES: u64 = 64 << 20;
/// More is never fed, so that a program that takes everything fails the test and does not hang it.
const FEED_MAX: u64 = 10_000_000_000;

/// How the built program ended.
struct Ended {
    success: bool,
    /// Standard error.
    words: String,
    peak_rss_bytes: u64,
}

impl Ended {
    /// It gave up, said all of this, and took no more memory than it may.
    fn assert_refused(&self, what: &str, known: &[&str]) {
        assert!(!self.success, "{what}: taken");
        for known in known {
            assert!(self.words.contains(known), "{what}: {known:?} is missing in: {}", self.words);
        }
        assert!(self.words.len() < 4096, "{what}: {} bytes of words", self.words.len());
        self.assert_small(what);
    }

    fn assert_small(&self, what: &str) {
        assert!(self.peak_rss_bytes <= LIMIT_BYTES, "{what}: {} bytes of memory", self.peak_rss_bytes);
        assert!(self.peak_rss_bytes > 1 << 20, "{what}: {} bytes can't be", self.peak_rss_bytes);
    }
}

/// Runs a program and tells on its last line how much memory it took at most, in KiB: what `wait4` says of this one.
const MEASURE: &str = "import resource, subprocess, sys\n\
    status = subprocess.run(sys.argv[1:]).returncode\n\
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
    sys.exit(status)";

/// Runs `drophammer COMMAND /dev/stdin TARGET`, fed by `feed`, which ends when nobody reads any more.
fn flood(command: &str, target: &Path, feed: impl FnOnce(&mut Feed) -> io::Result<()> + Send) -> Ended {
    let program = env!("CARGO_BIN_EXE_drophammer");
    let mut child = Command::new("python3")
        .args(["-c", MEASURE, program, command, "--no-digest", "--format", "json", "/dev/stdin", text(target)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pipe = child.stdin.take().unwrap();
    let fed = std::thread::scope(|scope| {
        let feeding = scope.spawn(|| feed(&mut Feed { pipe: io::BufWriter::with_capacity(256 << 10, pipe), fed: 0 }));
        feeding.join().unwrap()
    });
    if let Err(err) = fed {
        assert_eq!(err.kind(), io::ErrorKind::BrokenPipe, "{err}");
    }
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let peak_kib: u64 = told.trim().lines().last().unwrap().parse().unwrap_or_else(|_| panic!("{told} {words}"));
    Ended { success: output.status.success(), words, peak_rss_bytes: peak_kib << 10 }
}

struct Feed {
    pipe: io::BufWriter<std::process::ChildStdin>,
    fed: u64,
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.fed < FEED_MAX, "it takes everything");
        self.fed += bytes.len() as u64;
        self.pipe.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

/// As [`flood`], with an archive that is at hand.
fn unpack(target: &Path, archive: &[u8]) -> Ended {
    flood("unpack", target, |feed| feed.write_all(archive).and_then(|()| feed.flush()))
}

/// As [`flood`], with `piece` again and again after `start`.
fn endless(target: &Path, start: &[u8], piece: &[u8]) -> Ended {
    flood("unpack", target, |feed| {
        feed.write_all(start)?;
        loop {
            feed.write_all(piece)?;
        }
    })
}

fn target(options: &str) -> (tempfile::TempDir, PathBuf, Mounted) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("target");
    let mounted = Mounted::tmpfs(&path, options);
    (temp, path, mounted)
}

#[test]
fn entries_without_end_stop_when_the_file_system_is_full() {
    for (typeflag, size) in [(b'0', 0), (b'0', 100), (b'5', 0), (b'6', 0), (b'2', 0)] {
        let (_temp, path, _mounted) = target("size=64m,nr_inodes=2000");
        let ended = flood("unpack", &path, |feed| {
            for n in 0_u64.. {
                let link = |block: &mut [u8; BLOCK]| block[157..160].copy_from_slice(b"far");
                feed.write_all(&header_with(&format!("entry-{n}"), typeflag, size, link))?;
                feed.write_all(&padded(&vec![b'x'; size as usize]))?;
            }
            Ok(())
        });
        ended.assert_refused(&format!("type {}", char::from(typeflag)), &["No space left on device", "\"entry-19"]);
    }
}

#[test]
fn a_name_that_comes_again_and_again_costs_nothing() {
    let (_temp, path, _mounted) = target("size=64m,nr_inodes=2000");
    let entry = [&header("again", b'0', 100)[..], &padded(&[b'x'; 100])].concat().repeat(50);
    let ended = flood("unpack", &path, |feed| {
        for _ in 0..600 {
            feed.write_all(&entry)?;
        }
        feed.write_all(&END)?;
        feed.flush()
    });
    assert!(ended.success, "{}", ended.words);
    ended.assert_small("30,000 times the same name");
}

#[test]
fn more_directories_than_are_remembered_are_made_all_the_same() {
    let (_temp, path, _mounted) = target("size=500m");
    // 154 bytes each, of 8 MiB
    let count = 60_000;
    let ended = flood("unpack", &path, |feed| {
        for n in 0..count {
            feed.write_all(&header(&format!("{n:090}"), b'5', 0))?;
        }
        feed.write_all(&END)?;
        feed.flush()
    });
    assert!(ended.success, "{}", ended.words);
    ended.assert_small("60,000 directories");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), count);
}

#[test]
fn headers_without_end_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let entry = header("entry", b'0', 0);
    let global = extension(b'g', &record("comment", &[b'c'; 400]));
    for (what, piece) in [
        ("pax headers", pax(&[("comment", b"nothing")])),
        ("large pax headers", pax(&[("comment", &[b'c'; 100_000])])),
        ("empty pax headers", extension(b'x', b"")),
        ("old pax headers", extension(b'X', b"")),
        ("global headers", global.clone()),
        ("empty global headers", extension(b'g', b"")),
        ("a global header before each entry", [&global[..], &entry].concat()),
        ("long names", extension(b'L', b"name")),
        ("empty long names", extension(b'L', b"")),
        ("long links", extension(b'K', &[b'k'; 10_000])),
        ("labels", header_with("label", b'V', 0, |block| block[257..265].copy_from_slice(b"ustar  \0")).to_vec()),
    ] {
        let ended = endless(temp.path(), &entry, &piece);
        ended.assert_refused(what, &["extended headers", "larger than 1048576 bytes"]);
    }
}

#[test]
fn one_header_of_a_gigabyte_is_refused_before_it_is_read() {
    let temp = tempfile::tempdir().unwrap();
    for (typeflag, size) in [(b'x', 1 << 30), (b'g', 1 << 30), (b'L', 1 << 33), (b'K', 1 << 62), (b'x', u64::MAX >> 1)]
    {
        let ended = endless(temp.path(), &header("big", typeflag, size), &[b'1'; 65536]);
        ended.assert_refused(&format!("{size}"), &[&format!("larger than 1048576 bytes: {size}")]);
    }
}

/// `head` in a frame of its own, then as many frames of zeros as anyone wants.
fn bomb(compressor: &str, head: &[u8], feed: &mut Feed) -> io::Result<()> {
    let pack = |bytes: &[u8]| {
        let mut child = Command::new("sh")
            .args(["-c", compressor])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("{compressor}: {err}"));
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(bytes).unwrap());
            let mut packed = Vec::new();
            child.stdout.take().unwrap().read_to_end(&mut packed).unwrap();
            assert!(child.wait().unwrap().success());
            packed
        })
    };
    feed.write_all(&pack(head))?;
    let frame = pack(&vec![0; 32 << 20]);
    loop {
        feed.write_all(&frame)?;
    }
}

const COMPRESSORS: [&str; 4] = ["zstd -c", "lz4 -c", "gzip -c", "xz -1 -c"];

#[test]
fn a_bomb_larger_than_the_file_system_names_the_file() {
    for compressor in COMPRESSORS {
        let (_temp, path, _mounted) = target("size=8m");
        let ended = flood("unpack", &path, |feed| bomb(compressor, &header("bomb", b'0', 1 << 40), feed));
        ended.assert_refused(compressor, &["\"bomb\"", "No space left on device"]);
    }
}

#[test]
fn a_bomb_larger_than_the_device_names_both_sizes() {
    for compressor in COMPRESSORS {
        let temp = tempfile::tempdir().unwrap();
        let device = Loop::new(temp.path(), 8 << 20, 512);
        let ended = flood("write", &device.0, |feed| bomb(compressor, &[7; 512], feed));
        ended.assert_refused(compressor, &["device has 8388608 bytes", "image is bigger"]);
    }
}

#[test]
fn windows_and_dictionaries_of_gigabytes_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    // a frame without content size, its window 2^31: descriptor 21 << 3 (RFC 8878, 3.1.1.1.2)
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3][..], &[0x55; 4096]].concat();
    let beyond = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 31 << 3][..], &[0x55; 4096]].concat();
    for (what, archive) in [("zstd, 2 GiB", zstd), ("zstd, 2 TiB", beyond), ("xz, 4 GiB", xz_with_huge_dictionary())] {
        let ended = unpack(temp.path(), &archive);
        ended.assert_refused(what, &["needs more memory than 64 MiB"]);
    }
}

/// An archive in xz whose block header asks for 4 GiB, with the right checksum.
fn xz_with_huge_dictionary() -> Vec<u8> {
    let script = "import lzma, struct, sys, zlib\n\
        data = bytearray(lzma.compress(bytes(10240)))\n\
        size = (data[12] + 1) * 4\n\
        assert data[14] == 0x21 and data[15] == 1\n\
        data[16] = 40\n\
        data[12 + size - 4:12 + size] = struct.pack('<I', zlib.crc32(bytes(data[12:12 + size - 4])))\n\
        sys.stdout.buffer.write(data)";
    run("python3", &["-c", script])
}

#[test]
fn sparse_files_of_a_billion_pieces_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path();
    // old GNU: blocks of 21 pieces, each saying that another follows
    let piece = [&b"00000000000\0"[..], b"00000000000\0"].concat();
    let mut more = piece.repeat(21);
    more.resize(BLOCK, 0);
    more[504] = 1;
    let start = header_with("sparse", b'S', 0, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[482] = 1;
        block[483..495].copy_from_slice(b"00000000000\0");
    });
    endless(path, &start, &more).assert_refused("old GNU", &["sparse file has more than 262144 pieces"]);

    let keys = |minor: &'static [u8]| {
        pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", minor), ("GNU.sparse.realsize", b"1000000000")])
    };
    let start = [&keys(b"0")[..], &header("sparse", b'0', 1 << 33), b"1000000000\n"].concat();
    let ended = endless(path, &start, &b"0\n0\n".repeat(1 << 14));
    ended.assert_refused("1.0", &["sparse file has more than 262144 pieces"]);

    let map = |count: usize| {
        let text = vec!["0,0"; count].join(",");
        let records = [record("GNU.sparse.size", b"0"), record("GNU.sparse.map", text.as_bytes())].concat();
        [extension(b'x', &records), header("sparse", b'0', 0).to_vec(), END.to_vec()].concat()
    };
    unpack(path, &map(1_000_000)).assert_refused("0.1", &["larger than 1048576 bytes"]);
    let ended = unpack(path, &map(262_000));
    assert!(ended.success, "{}", ended.words);
    ended.assert_small("0.1 at its limit");

    let pair = [record("GNU.sparse.offset", b"0"), record("GNU.sparse.numbytes", b"0")].concat();
    let endless_pairs = extension(b'x', &pair.repeat(1000));
    endless(path, b"", &endless_pairs).assert_refused("0.0", &["larger than 1048576 bytes"]);
}

#[test]
fn trees_deeper_and_names_longer_than_a_path_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let named = |name: &[u8]| [&pax(&[("path", name)])[..], &header("short", b'0', 0), &END].concat();
    let deep = "d/".repeat(100_000);
    unpack(temp.path(), &named(deep.as_bytes())).assert_refused("100,000 deep", &["200000 bytes", "\"d/d/d/"]);
    let long = vec![b'n'; 1_000_000];
    unpack(temp.path(), &named(&long)).assert_refused("1 MB", &["1000000 bytes", "\"nnnn"]);
    unpack(temp.path(), &named(&vec![b'n'; (1 << 20) + 1])).assert_refused("1 MiB", &["larger than 1048576 bytes"]);
    unpack(temp.path(), &named(&[b'n'; 300])).assert_refused("300 bytes", &["File name too long", "\"nnnn"]);
    let gnu = [&extension(b'L', deep.as_bytes())[..], &header("short", b'0', 0), &END].concat();
    unpack(temp.path(), &gnu).assert_refused("long name of GNU", &["200000 bytes"]);
    let link = [&pax(&[("linkpath", deep.as_bytes())])[..], &header("link", b'2', 0), &END].concat();
    unpack(temp.path(), &link).assert_refused("link", &["link", "200000 bytes"]);

    // each entry one deeper than the one before
    let ended = flood("unpack", temp.path(), |feed| {
        for depth in 1..100_000 {
            feed.write_all(&pax(&[("path", "d/".repeat(depth).as_bytes())]))?;
            feed.write_all(&header("short", b'5', 0))?;
        }
        Ok(())
    });
    assert!(!ended.success && ended.words.contains("File name too long"), "{}", ended.words);
    ended.assert_small("deeper and deeper");
}

#[test]
fn more_attributes_than_a_file_can_have_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let with = |count: usize, name: &dyn Fn(usize) -> String| {
        let records: Vec<u8> = (0..count).flat_map(|n| record(&name(n), b"")).collect();
        [&extension(b'x', &records)[..], &header("loaded", b'0', 0), &END].concat()
    };
    let ended = unpack(temp.path(), &with(100_000, &|n| format!("SCHILY.xattr.user.{n}")));
    ended.assert_refused("100,000", &["larger than 1048576 bytes"]);
    let ended = unpack(temp.path(), &with(30_000, &|n| format!("SCHILY.xattr.user.{n}")));
    ended.assert_refused("30,000", &["more than 65536 bytes of attributes' names"]);
    let ended = unpack(temp.path(), &with(35_000, &|_| "SCHILY.xattr.user.same".to_owned()));
    assert!(ended.success, "one attribute, told 35,000 times: {}", ended.words);
    ended.assert_small("one attribute");
}

#[test]
fn a_sparse_file_larger_than_any_file_names_it() {
    let temp = tempfile::tempdir().unwrap();
    let small = temp.path().join("small.img");
    std::fs::File::create(&small).unwrap().set_len(4 << 20).unwrap();
    run("mkfs.ext4", &["-q", text(&small)]);
    let mounted = Mounted::device(&small, &temp.path().join("target"));
    for size in ["9223372036854775807", "9223372036854775808", "18446744073709551615"] {
        let keys = pax(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", b"0,1")]);
        let archive = [&keys[..], &header("huge", b'0', 1), &padded(b"x"), &END].concat();
        unpack(&mounted.0, &archive).assert_refused(size, &["setting length of", "\"huge\""]);
    }
    // beyond what is there, with one byte of data at its end
    let keys = pax(&[("GNU.sparse.size", b"9223372036854775807"), ("GNU.sparse.map", b"9223372036854775806,1")]);
    let archive = [&keys[..], &header("far", b'0', 1), &padded(b"x"), &END].concat();
    unpack(&mounted.0, &archive).assert_refused("a byte at the end", &["\"far\""]);
    // not sparse: as long as the stream goes on
    endless(&mounted.0, &header("plain", b'0', u64::MAX >> 1), &[b'x'; 65536])
        .assert_refused("plain", &["\"plain\"", "No space left on device"]);
}

//! Files are made side by side; what an archive says later counts all the same.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use drophammer::image::{DigestRule, ImageError, Options, Source, Unobserved, Verify, unpack};

use crate::support::{block_on, facts, options, run, text, unpack_file};

/// An archive of many names, each with several entries that depend on one another.
const MANY: &str = r#"
import io, sys, tarfile
t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)
def add(name, data=b'', **fields):
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1000
    for key, value in fields.items():
        setattr(info, key, value)
    t.addfile(info, io.BytesIO(data))
for n in range(200):
    size = 300000 if n % 10 == 0 else 3000
    add(f'twice/{n}', b'first' * size)
    add(f'twice/{n}', b'last')
    add(f'linked/{n}', bytes([n]) * size, mode=0o6755, uid=1000, gid=1000)
    add(f'linked/again-{n}', type=tarfile.LNKTYPE, linkname=f'linked/{n}')
    add(f'becomes-link/{n}', b'x' * size)
    add(f'becomes-link/{n}', type=tarfile.SYMTYPE, linkname='../twice')
    add(f'becomes-link/{n}/through-{n}', b'through')
    add(f'becomes-file/{n}', type=tarfile.SYMTYPE, linkname='../twice')
    add(f'becomes-file/{n}', b'file')
    add(f'becomes-directory/{n}', b'x' * size)
    add(f'becomes-directory/{n}', type=tarfile.DIRTYPE, mode=0o700)
    add(f'becomes-directory/{n}/inside', b'inside')
t.close()
"#;

#[test]
fn the_last_word_on_a_name_counts() {
    let temp = tempfile::tempdir().unwrap();
    let [archive, ours] = ["archive", "ours"].map(|name| temp.path().join(name));
    run("python3", &["-c", MANY, text(&archive)]);
    std::fs::create_dir(&ours).unwrap();
    let options = Options { verify: Verify::Full, ..options(DigestRule::AllowMissing) };
    let report = block_on(unpack(&Source::File(archive.clone()), &ours, &options, &Unobserved)).unwrap();
    assert_eq!(report.files, 200 * 12);
    assert_eq!(report.read_back, 200 * 5, "all but the files that were replaced");
    let read = |path: String| std::fs::read(ours.join(path)).unwrap();
    for n in 0..200_usize {
        assert_eq!(read(format!("twice/{n}")), b"last");
        let (file, link) = (ours.join(format!("linked/{n}")), ours.join(format!("linked/again-{n}")));
        let (file, link) = (file.metadata().unwrap(), link.metadata().unwrap());
        assert_eq!((file.ino(), file.nlink(), file.mode() & 0o7777, file.uid()), (link.ino(), 2, 0o6755, 1000));
        assert_eq!(read(format!("twice/through-{n}")), b"through");
        assert_eq!(read(format!("becomes-file/{n}")), b"file");
        assert_eq!(read(format!("becomes-directory/{n}/inside")), b"inside");
    }
    assert_eq!(facts(&ours).len(), 200 * 8 + 6);
}

/// The first failure of the archive is told, whichever thread meets one first.
#[test]
fn the_first_failure_of_an_archive_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let [archive, target] = ["archive", "target"].map(|name| temp.path().join(name));
    let script = r#"
import io, sys, tarfile
t = tarfile.open(sys.argv[1], 'w', format=tarfile.GNU_FORMAT)
def add(name, data=b''):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    t.addfile(info, io.BytesIO(data))
for n in range(50):
    add(f'good-{n}', b'x' * 100000)
add('first/' + 'n' * 300, b'x')
for n in range(50):
    add('later/' + 'n' * 300, b'x')
t.close()
"#;
    run("python3", &["-c", script, text(&archive)]);
    std::fs::create_dir(&target).unwrap();
    for _ in 0..20 {
        match unpack_file(&archive, &target).unwrap_err() {
            ImageError::Write { action, path, .. } => assert!(action == "creating" && path.starts_with("first/")),
            other => panic!("{other}"),
        }
    }
    assert_eq!(names(&target).len(), 51, "what comes before the failure is there, with the failing file's directory");
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).filter(|name| name != "later").collect()
}

//! Images made by umoci and skopeo, compared with what umoci unpacks of them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use drophammer::image::{DigestRule, Options, Source, Unobserved, Verify, unpack};

use super::made::unpack_source;
use crate::support::{Facts, assert_same, block_on, facts, make_tree, options, run, text};

/// Three layers: everything there is; changes of all kinds to it; and changes to those.
const MAKE: &str = r#"
set -e
cd "$1"
umoci init --layout image
umoci new --image image:base
umoci unpack --image image:base one
cp -a tree/. one/rootfs/
umoci repack --image image:one one
rm -rf one

umoci unpack --image image:one two
cd two/rootfs
rm -r sub/deeper bin/large
mkdir sub/deeper; echo new > sub/deeper/file; rm sub/link; mkdir sub/link; echo x > sub/link/inside
rm -r empty; echo 'file now' > empty; rm -r setgid; ln -s etc setgid
chmod 700 bin/suid; chown 5:6 sub/pipe; ln etc/motd etc/motd-again
mkdir -p many; for n in $(seq 1 300); do echo $n > many/$n; done
touch -d '2019-01-01 00:00:00.5 UTC' sub sub/deeper many etc .
cd ../..
umoci repack --image image:two two
rm -rf two

umoci unpack --image image:two three
cd three/rootfs
rm -r many sub/link; rm empty; mkdir empty; echo last > empty/last; mkdir many; echo again > many/7
touch -d '2018-01-01 UTC' many empty
cd ../..
umoci repack --image image:three three
rm -rf three
umoci unpack --image image:three bundle
"#;

/// What all tests compare with. Made once, in a place that the next run uses again.
pub struct Made {
    dir: PathBuf,
    pub expected: std::collections::BTreeMap<std::ffi::OsString, Facts>,
    /// Of the manifest.
    pub digest: String,
}

impl Made {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn image(&self) -> String {
        format!("oci:{}:three", text(&self.path("image")))
    }
}

pub fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oci");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("tree")).unwrap();
        make_tree(&dir.join("tree"));
        run("sh", &["-c", MAKE, "sh", text(&dir)]);
        let expected = facts(&dir.join("bundle/rootfs"));
        let image = format!("oci:{}:three", text(&dir.join("image")));
        let digest = skopeo(&["inspect", "--format", "{{.Digest}}", &image]);
        Made { dir, expected, digest: digest.trim().to_owned() }
    })
}

/// Its words.
pub fn skopeo(args: &[&str]) -> String {
    String::from_utf8(run("skopeo", &[&["--insecure-policy"], args].concat())).unwrap()
}

pub fn target(dir: &Path) -> PathBuf {
    let target = dir.join("target");
    std::fs::create_dir(&target).unwrap();
    target
}

fn assert_unpacks(source: &str, rule: DigestRule, compression: &str) {
    let temp = tempfile::tempdir().unwrap();
    let target = target(temp.path());
    let report = unpack_source(source, &target, rule).unwrap();
    assert_eq!(report.compression, compression);
    assert_same(&made().expected, &facts(&target));
}

#[test]
fn a_layout_of_umoci_is_unpacked_as_umoci_does() {
    let digest = made().digest.parse().unwrap();
    assert_unpacks(&made().image(), DigestRule::Given(digest), "gzip");
}

#[test]
fn of_all_layers_what_is_left_of_them_reads_back() {
    let temp = tempfile::tempdir().unwrap();
    let target = target(temp.path());
    let options = Options { verify: Verify::Full, ..options(DigestRule::AllowMissing) };
    let source: Source = made().image().parse().unwrap();
    let report = block_on(unpack(&source, &target, &options, &Unobserved)).unwrap();
    // some 300 files of the second layer were replaced or removed by the third
    let files = run("sh", &["-c", "find $0 -type f | wc -l", text(&target)]);
    let files: u64 = String::from_utf8(files).unwrap().trim().parse().unwrap();
    assert!(report.read_back > 0 && report.read_back <= files, "{report:?}, {files} files");
    assert_same(&made().expected, &facts(&target));
}

#[test]
fn layers_in_zstd_and_an_archive_give_the_same_tree() {
    let [archive, zstd] = ["image.tar", "zstd"].map(|name| made().path(name));
    let archive = format!("oci-archive:{}", text(&archive));
    skopeo(&["copy", "-q", &made().image(), &format!("{archive}:three")]);
    assert_unpacks(&format!("{archive}@{}", made().digest), DigestRule::Sidecar, "gzip");

    let zstd = format!("oci:{}:three", text(&zstd));
    skopeo(&["copy", "-q", "--dest-compress", "--dest-compress-format", "zstd", &made().image(), &zstd]);
    assert_unpacks(&zstd, DigestRule::AllowMissing, "zstd");
}

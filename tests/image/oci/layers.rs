//! What layers do to those below them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use drophammer::image::{DigestRule, ImageError, Report};

use super::made::{Layout, layers, unpack_source};
use crate::support::{run, text};

struct Case {
    _temp: tempfile::TempDir,
    target: PathBuf,
    layout: Layout,
}

impl Case {
    fn new(script: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let layout = Layout::new(temp.path().join("image"));
        layout.write_index(&[layout.add_image(&layers(script))]);
        let target = temp.path().join("target");
        std::fs::create_dir(&target).unwrap();
        Self { _temp: temp, target, layout }
    }

    fn unpack(&self) -> Result<Report, ImageError> {
        unpack_source(&self.layout.reference(), &self.target, DigestRule::AllowMissing)
    }
}

/// Names below `root`: content of files, where links lead, `/` for directories.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = text(path.strip_prefix(root).unwrap()).to_owned();
            let kind = path.symlink_metadata().unwrap().file_type();
            let what = match () {
                () if kind.is_dir() => "/".to_owned(),
                () if kind.is_symlink() => format!("-> {}", text(&std::fs::read_link(&path).unwrap())),
                () => std::fs::read_to_string(&path).unwrap(),
            };
            if kind.is_dir() {
                waiting.push(path);
            }
            found.insert(name, what);
        }
    }
    found
}

fn assert_tree(script: &str, expected: &[(&str, &str)]) {
    let case = Case::new(script);
    case.unpack().unwrap();
    let expected: BTreeMap<_, _> = expected.iter().map(|(name, what)| ((*name).into(), (*what).into())).collect();
    assert_eq!(tree(&case.target), expected);
}

#[test]
fn a_whiteout_removes_what_is_below_and_nothing_behind_links() {
    let script = "
layer()
add('etc/gone', '1'); add('etc/kept', '1'); add('tree/a/b/c', '1'); link('tree/a/link', '/etc'); add('.hidden', '1')
link('away', 'etc')
layer()
add('etc/.wh.gone'); add('.wh.tree'); add('.wh..hidden'); add('.wh.away'); add('.wh.never-was'); add('no/.wh.where')
";
    assert_tree(script, &[("etc", "/"), ("etc/kept", "1")]);
}

#[test]
fn a_whiteout_spares_what_its_own_layer_brought() {
    let script = "
layer()
add('file', 'old'); add('dir/old', '1'); add('dir/sub/old', '1'); add('mixed/old', '1')
layer()
add('file', 'new'); add('.wh.file')
directory('dir'); add('dir/new', '2'); add('dir/sub/new', '2'); add('.wh.dir')
add('mixed/new', '2'); add('.wh.mixed')
";
    let expected = [
        ("dir", "/"),
        ("dir/new", "2"),
        ("dir/sub", "/"),
        ("dir/sub/new", "2"),
        ("file", "new"),
        ("mixed", "/"),
        ("mixed/new", "2"),
    ];
    assert_tree(script, &expected);
}

#[test]
fn an_opaque_directory_hides_what_is_below_wherever_the_mark_stands() {
    let script = "
layer()
for dir in ['first', 'last']:
    add(f'{dir}/old', '1'); add(f'{dir}/both', '1'); add(f'{dir}/sub/old', '1'); add(f'{dir}/gone/deep/old', '1')
layer()
add('first/.wh..wh..opq'); add('first/both', '2'); add('first/new', '2'); add('first/sub/new', '2')
add('last/both', '2'); add('last/new', '2'); add('last/sub/new', '2'); add('last/.wh..wh..opq')
";
    let mut expected = Vec::new();
    for dir in ["first", "last"] {
        for (name, what) in [("", "/"), ("/both", "2"), ("/new", "2"), ("/sub", "/"), ("/sub/new", "2")] {
            expected.push((format!("{dir}{name}"), what));
        }
    }
    assert_tree(script, &expected.iter().map(|(name, what)| (name.as_str(), *what)).collect::<Vec<_>>());
}

#[test]
fn a_directory_makes_room_for_what_a_later_layer_puts_there() {
    let script = "
layer()
for name in ['file', 'link', 'hard', 'fifo']:
    add(f'{name}/deep/er', '1')
add('becomes-dir', '1'); link('link-becomes-dir', 'file'); add('other', 'o')
layer()
add('file', '2'); link('link', 'other'); hard('hard', 'other'); directory('becomes-dir'); add('becomes-dir/x', '2')
directory('link-becomes-dir'); add('link-becomes-dir/x', '2')
add('file/.wh.deep'); add('link/.wh.deep')
layer()
directory('file'); add('file/again', '3')
add('.wh.fifo')
";
    let expected = [
        ("becomes-dir", "/"),
        ("becomes-dir/x", "2"),
        ("file", "/"),
        ("file/again", "3"),
        ("hard", "o"),
        ("link", "-> other"),
        ("link-becomes-dir", "/"),
        ("link-becomes-dir/x", "2"),
        ("other", "o"),
    ];
    assert_tree(script, &expected);
}

/// As umoci writes it when a directory was replaced by a link: what was in the directory is whited out, too.
#[test]
fn a_whiteout_behind_a_link_of_its_own_layer_hits_nothing() {
    let script = "
layer()
add('etc/passwd', '1'); add('opt/x/passwd', '1'); link('lib', 'usr/lib'); add('usr/lib/old', '1')
layer()
link('opt/x', '/etc'); add('opt/x/.wh.passwd'); add('lib/.wh.old')
";
    let expected = [
        ("etc", "/"),
        ("etc/passwd", "1"),
        ("lib", "-> usr/lib"),
        ("opt", "/"),
        ("opt/x", "-> /etc"),
        ("usr", "/"),
        ("usr/lib", "/"),
    ];
    assert_tree(script, &expected);
}

#[test]
fn marks_of_other_file_systems_and_whiteouts_without_anything_below_are_no_files() {
    let script = "
layer()
add('.wh.nothing'); add('.wh..wh..opq'); directory('.wh..wh.plnk'); add('.wh..wh.plnk/12.34', 'x'); add('a', '1')
layer()
add('.wh..wh.aufs'); add('b', '2')
";
    assert_tree(script, &[("a", "1"), ("b", "2")]);
}

#[test]
fn an_empty_layer_changes_nothing() {
    assert_tree("layer()\nadd('a', '1')\nlayer()\nlayer()\nadd('b', '2')", &[("a", "1"), ("b", "2")]);
}

#[test]
fn hard_links_and_times_of_directories_hold_across_layers() {
    let script = "
layer()
directory('d'); add('d/a', '1'); directory('changed'); add('changed/x', '1'); directory('gone'); add('gone/x', '1')
layer()
hard('d/b', 'd/a'); directory('changed'); add('changed/y', '2')
directory('changed/new'); add('.wh.gone')
layer()
add('d/c', '3')
";
    let case = Case::new(script);
    let report = case.unpack().unwrap();
    assert!(report.read_back >= 4, "{report:?}");
    let stat = |name: &str| case.target.join(name).metadata().unwrap();
    assert_eq!((stat("d/a").ino(), stat("d/a").nlink()), (stat("d/b").ino(), 2));
    for dir in ["d", "changed", "changed/new"] {
        assert_eq!(stat(dir).mtime(), 1_000_000_000, "{dir}");
    }
    assert!(!case.target.join("gone").exists());
}

#[test]
fn a_mount_point_stays_and_is_emptied() {
    let case = Case::new(
        "
layer()
add('boot/efi/old', '1'); add('boot/old', '1'); add('data/file', '1')
layer()
add('.wh.boot'); add('.wh.data')
",
    );
    let mounts = ["boot", "data"].map(|name| case.target.join(name));
    for mount in &mounts {
        std::fs::create_dir(mount).unwrap();
        run("mount", &["-t", "tmpfs", "test", text(mount)]);
    }
    let result = case.unpack();
    let found = tree(&case.target);
    for mount in &mounts {
        run("umount", &[text(mount)]);
    }
    result.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["boot", "data"]);
}

/// What somebody mounted below the target, and no layer wrote to, is not the image's.
#[test]
fn a_foreign_mount_is_not_emptied() {
    let case = Case::new("layer()\nadd('a/x', '1')\nlayer()\nadd('.wh.a')");
    let foreign = case.target.join("a/foreign");
    std::fs::create_dir_all(&foreign).unwrap();
    run("mount", &["-t", "tmpfs", "test", text(&foreign)]);
    std::fs::write(foreign.join("mine"), "kept").unwrap();
    let result = case.unpack();
    let found = tree(&case.target);
    run("umount", &[text(&foreign)]);
    result.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "a/foreign", "a/foreign/mine"]);
}

#[test]
fn whiteouts_that_leave_the_tree_or_mean_nothing_are_refused_with_their_layer() {
    for bad in [".wh...", ".wh..", ".wh.", "a/.wh...", "../.wh.x", ".wh.a/b"] {
        let case = Case::new(&format!("layer()\nadd('a/x', '1')\nlayer()\nadd('{bad}')"));
        match case.unpack().unwrap_err() {
            ImageError::Layer { number: 2, count: 2, source, .. } => {
                assert!(matches!(&*source, ImageError::Refused { entry, .. } if entry == bad), "{bad}: {source}");
            }
            other => panic!("{bad}: {other}"),
        }
    }
}

#[test]
fn removing_is_bounded_in_depth() {
    let script = "layer()\nadd('d/' * 300 + 'x', '1')\nlayer()\nadd('.wh.d')";
    let err = match Case::new(script).unpack().unwrap_err() {
        ImageError::Layer { source, .. } => source.to_string(),
        other => panic!("{other}"),
    };
    assert!(err.contains("more than 200 deep"), "{err}");
}

//! Any tree → archive → unpack → the same tree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::support::{assert_same, facts, run, text, unpack_file};

#[derive(Clone, Debug)]
enum Thing {
    File { length: usize, mode: u32 },
    Hole { at: u64, size: u64 },
    Link(Vec<u8>),
    HardLink,
    Fifo,
    Attribute(Vec<u8>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no name holds it", |byte| !matches!(byte, 0 | b'/'));
    prop_oneof![vec(byte, 1..20), vec(Just(b'x'), 90..255)]
        .prop_filter("not a name", |name| name != b"." && name != b"..")
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        4 => (0_usize..3000, 0_u32..0o10000).prop_map(|(length, mode)| Thing::File { length, mode }),
        1 => (0_u64..1 << 22, 0_u64..1 << 22).prop_map(|(at, size)| Thing::Hole { at, size }),
        1 => name().prop_map(Thing::Link),
        1 => Just(Thing::HardLink),
        1 => Just(Thing::Fifo),
        1 => vec(any::<u8>(), 0..300).prop_map(Thing::Attribute),
    ]
}

type Plan = Vec<(Vec<Vec<u8>>, Thing, (u32, u32), (i64, u32))>;

fn plan() -> impl Strategy<Value = Plan> {
    let owner = (0_u32..4_000_000_000, 0_u32..4_000_000_000);
    let time = (-1_000_000_000_i64..4_000_000_000, 0_u32..1_000_000_000);
    vec((vec(name(), 1..5), thing(), owner, time), 1..25)
}

/// Makes the tree; what does not fit where another thing is already is left out.
fn make(root: &Path, plan: &Plan) {
    let mut last_file = None;
    for (names, thing, owner, _) in plan {
        let path = names.iter().fold(root.to_owned(), |path, name| path.join(OsStr::from_bytes(name)));
        let parent = path.parent().unwrap();
        if std::fs::create_dir_all(parent).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match thing {
            Thing::File { length, .. } => std::fs::write(&path, vec![7; *length]).unwrap(),
            Thing::Hole { at, size } => {
                let file = std::fs::File::create(&path).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, b"data", *at).unwrap();
                file.set_len((at + 4).max(*size)).unwrap();
            }
            Thing::Link(leads) => std::os::unix::fs::symlink(OsStr::from_bytes(leads), &path).unwrap(),
            Thing::HardLink => match &last_file {
                Some(file) => std::fs::hard_link(file, &path).unwrap(),
                None => continue,
            },
            Thing::Fifo => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap(),
            Thing::Attribute(value) => {
                std::fs::write(&path, "x").unwrap();
                xattr::set(&path, "user.test", value).unwrap();
            }
        }
        std::os::unix::fs::lchown(&path, Some(owner.0), Some(owner.1)).unwrap();
        if let Thing::File { mode, .. } = thing {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(*mode);
            std::fs::set_permissions(&path, mode).unwrap();
            last_file = Some(path);
        }
    }
}

/// Backwards, so that a directory's time is set after what is in it.
fn set_times(root: &Path, plan: &Plan) {
    for (names, _, _, (seconds, nanos)) in plan.iter().rev() {
        for depth in (0..=names.len()).rev() {
            let path = names[..depth].iter().fold(root.to_owned(), |path, name| path.join(OsStr::from_bytes(name)));
            let time = nix::sys::time::TimeSpec::new(*seconds, i64::from(*nanos));
            let flag = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
            let _ = nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, flag);
        }
    }
}

#[test]
fn any_tree_survives() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]);
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let tested = runner.run(&plan(), |plan| {
        let temp = tempfile::tempdir().unwrap();
        let [tree, target, archive] = ["tree", "target", "archive"].map(|name| temp.path().join(name));
        std::fs::create_dir(&tree).unwrap();
        std::fs::create_dir(&target).unwrap();
        make(&tree, &plan);
        set_times(&tree, &plan);
        let options = ["-H", "pax", "--sparse", "--xattrs", "--zstd", "--numeric-owner"];
        run("tar", &[&["-C", text(&tree)][..], &options, &["-cf", text(&archive), "."]].concat());
        unpack_file(&archive, &target).unwrap();
        assert_same(&facts(&tree), &facts(&target));
        Ok(())
    });
    tested.unwrap();
}

//! POSIX ACLs of archives, judged by GNU tar and getfacl.

use std::path::{Path, PathBuf};

use drophammer::image::ImageError;
use drophammer::image::tar::TarFault;

use crate::blocks::{END, header, padded, pax};
use crate::makers::extract_by_gnu_tar;
use crate::support::{assert_same, facts, run, text, unpack_file};

struct Case {
    temp: tempfile::TempDir,
    tree: PathBuf,
    target: PathBuf,
}

/// Files and directories with and without ACLs of numbers that nobody has a name for (GNU tar writes names where it
/// finds them, and no numbers with them), above all below a directory that gives one to what is made in it.
fn case() -> Case {
    let temp = tempfile::tempdir().unwrap();
    let [tree, target] = ["tree", "target"].map(|name| temp.path().join(name));
    let script = r#"
        set -e
        mkdir -p "$1" "$2"; cd "$1"
        mkdir giving giving/heir giving/free; printf x > plain; printf x > named; chmod 640 named
        setfacl -m u:70001:rwx,u:70002:-,g:3000000:r--,m::r-x named
        setfacl -d -m u:70001:rwx,g:70002:r-x giving
        mkdir giving/made; printf x > giving/heir-file; printf x > giving/free-file; mkfifo giving/free-pipe
        printf x > giving/made/below; ln -s plain giving/link; ln plain giving/hard
        setfacl -b giving/free giving/free-file giving/free-pipe; chmod 4711 giving/free-file; chmod 2750 giving/free
        mkdir -p giving/free/inner; printf x > giving/free/inner/file
        touch -d '2020-01-01 UTC' plain named giving/*/* giving/free/inner/* giving/* giving .
    "#;
    run("sh", &["-c", script, "sh", text(&tree), text(&target)]);
    Case { temp, tree, target }
}

fn getfacl(root: &Path) -> String {
    let script = r#"cd "$0" && find . ! -type l -print0 | sort -z | xargs -0 getfacl --numeric --absolute-names"#;
    String::from_utf8(run("sh", &["-c", script, text(root)])).unwrap()
}

#[test]
fn acls_of_gnu_tar_are_those_of_the_tree() {
    let case = case();
    assert!(getfacl(&case.tree).contains("default:user:70001:rwx"), "the test's file system has no ACLs");
    let archive = case.temp.path().join("archive");
    let options = ["--acls", "--numeric-owner", "-H", "pax", "-cf", text(&archive), "."];
    run("tar", &[&["-C", text(&case.tree)][..], &options].concat());
    let report = unpack_file(&archive, &case.target).unwrap();
    assert_eq!(getfacl(&case.tree), getfacl(&case.target));
    assert_same(&facts(&case.tree), &facts(&case.target));
    let theirs = case.temp.path().join("theirs");
    extract_by_gnu_tar(&archive, &theirs, &["--acls"]);
    assert_same(&facts(&theirs), &facts(&case.target));
    assert!(!report.warnings.iter().any(|warning| warning.contains("ACL")), "{:?}", report.warnings);
}

/// It writes names and, behind them, numbers.
#[test]
fn acls_of_bsdtar_are_those_of_the_tree() {
    let case = case();
    run("setfacl", &["-m", "u:daemon:r-x,g:daemon:rwx", text(&case.tree.join("named"))]);
    run("touch", &["-d", "2020-01-01 UTC", text(&case.tree.join("named"))]);
    let archive = case.temp.path().join("archive");
    run("bsdtar", &["-C", text(&case.tree), "--acls", "--format", "pax", "-cf", text(&archive), "."]);
    assert!(std::fs::read(&archive).unwrap().windows(20).any(|bytes| bytes.starts_with(b"user:daemon:r-x:1")));
    unpack_file(&archive, &case.target).unwrap();
    assert_eq!(getfacl(&case.tree), getfacl(&case.target));
    assert_same(&facts(&case.tree), &facts(&case.target));
}

#[test]
fn a_name_without_a_number_is_left_out_and_told() {
    let case = case();
    let archive = case.temp.path().join("archive");
    let acl = pax(&[("SCHILY.acl.access", b"user::rwx,user:carol:rwx,group::r-x,mask::rwx,other::---")]);
    std::fs::write(&archive, [&acl[..], &header("named", b'0', 0), &END].concat()).unwrap();
    let report = unpack_file(&archive, &case.target).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("ACL")), "{:?}", report.warnings);
    assert_eq!(xattr::list(case.target.join("named")).unwrap().count(), 0);
}

#[test]
fn an_acl_that_is_none_is_an_error_and_names_the_record() {
    let case = case();
    let archive = case.temp.path().join("archive");
    let acl = pax(&[("SCHILY.acl.default", b"user::rwx,group::r-x")]);
    std::fs::write(&archive, [&acl[..], &header("d", b'5', 0), &END].concat()).unwrap();
    match unpack_file(&archive, &case.target).unwrap_err() {
        ImageError::Archive { source, .. } => {
            assert_eq!(source.fault, TarFault::Record("SCHILY.acl.default".to_owned()));
        }
        other => panic!("{other}"),
    }
}

/// As GNU tar writes them, of images whose tables come before.
#[test]
fn a_name_counts_by_the_archives_own_tables() {
    let case = case();
    let archive = case.temp.path().join("archive");
    let file = |name: &str, text: &str| [&header(name, b'0', text.len() as u64)[..], &padded(text.as_bytes())].concat();
    let acl =
        pax(&[("SCHILY.acl.default", b"user::rwx,user:carol:r-x,group::r-x,group:carol:r--,mask::r-x,other::---")]);
    let archive_bytes = [
        &file("./etc/passwd", "root:x:0:0::/:/bin/sh\ncarol:x:70001:70001::/:/bin/sh\n")[..],
        &file("./etc/group", "root:x:0:\ncarol:x:70002:\n"),
        &acl,
        &header("d", b'5', 0),
        &END,
    ];
    std::fs::write(&archive, archive_bytes.concat()).unwrap();
    let report = unpack_file(&archive, &case.target).unwrap();
    assert!(!report.warnings.iter().any(|warning| warning.contains("ACL")), "{:?}", report.warnings);
    let found = getfacl(&case.target);
    for line in ["default:user:70001:r-x", "default:group:70002:r--"] {
        assert!(found.contains(line), "{found}");
    }
}

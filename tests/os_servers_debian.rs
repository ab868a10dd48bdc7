//! Debian's own packages of the programs that ask name and time servers: their files are where we look for them, and the
//! programs take what we write.
//!
//! scripts/test unpacks the packages, each into a directory of its name below `DROPHAMMER_PACKAGES`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use drophammer::os::servers::{Servers, apply, read_strangers};
use drophammer::os::tree::Tree;
use tempfile::TempDir;

fn servers() -> Servers {
    let texts = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    Servers { dns: texts(&["10.1.0.53", "2001:db8::53"]), ntp: texts(&["10.1.0.1", "10.1.0.2"]) }
}

fn packages() -> PathBuf {
    PathBuf::from(std::env::var("DROPHAMMER_PACKAGES").expect("DROPHAMMER_PACKAGES names the unpacked packages"))
}

/// A copy of the packages in one tree, as an installed system has them.
fn unpack(names: &[&str]) -> (TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        let from = packages().join(name).join(".");
        let done = Command::new("cp").arg("-a").args([from.as_path(), dir.path()]).status().unwrap();
        assert!(done.success(), "{name}");
    }
    let tree = Tree::open(dir.path()).unwrap();
    (dir, tree)
}

/// Strangers in the package as it comes; none must be left.
fn configure(tree: &Tree) -> Vec<String> {
    let told =
        |tree: &Tree| read_strangers(tree, &servers()).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    let before = told(tree);
    apply(tree, &servers()).unwrap();
    assert_eq!(told(tree), Vec::<String>::new());
    before
}

/// Runs a program of the tree on this host, with the libraries of the packages.
fn run(dir: &Path, program: &str, arguments: &[&str]) -> Output {
    let libraries: Vec<PathBuf> = fs::read_dir(packages())
        .unwrap()
        .flatten()
        .flat_map(|package| ["lib", "usr/lib"].map(|lib| package.path().join(lib).join("x86_64-linux-gnu")))
        .filter(|path| path.is_dir())
        .collect();
    let done = Command::new(dir.join(program))
        .args(arguments)
        .env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    println!("{program} {arguments:?}: {}\n{}{}", done.status, text(&done.stdout), text(&done.stderr));
    done
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn conf(dir: &Path, path: &str) -> String {
    dir.join(path).to_str().unwrap().to_owned()
}

#[test]
#[ignore = "scripts/test unpacks the packages"]
fn chrony_reads_its_configuration_and_asks_the_configured_servers_only() {
    let (dir, tree) = unpack(&["chrony"]);
    // Put there when the package is installed.
    fs::copy(dir.path().join("usr/share/chrony/chrony.conf"), dir.path().join("etc/chrony/chrony.conf")).unwrap();
    assert!(!configure(&tree).is_empty(), "Debian's pool");
    let done = run(dir.path(), "usr/sbin/chronyd", &["-p", "-f", &conf(dir.path(), "etc/chrony/chrony.conf")]);
    assert!(done.status.success());
    let printed = text(&done.stdout);
    let sources: Vec<&str> =
        printed.lines().filter(|line| line.starts_with("server") || line.starts_with("pool")).collect();
    assert_eq!(sources, ["server 10.1.0.1 iburst", "server 10.1.0.2 iburst"], "{printed}");
    assert!(!printed.contains("sourcedir") && !printed.contains("confdir"), "{printed}");
}

#[test]
#[ignore = "scripts/test unpacks the packages"]
fn openntpd_finds_its_configuration_right() {
    let (dir, tree) = unpack(&["openntpd"]);
    assert!(!configure(&tree).is_empty(), "Debian's pool");
    let done = run(dir.path(), "usr/sbin/ntpd", &["-n", "-f", &conf(dir.path(), "etc/openntpd/ntpd.conf")]);
    assert!(done.status.success() && text(&done.stderr).contains("configuration OK"));
}

#[test]
#[ignore = "scripts/test unpacks the packages"]
fn ntpsec_s_files_are_where_they_are_looked_for() {
    let (dir, tree) = unpack(&["ntpsec", "ntpsec-ntpdate"]);
    let before = configure(&tree);
    assert!(before.iter().any(|line| line.starts_with("/etc/ntpsec/ntp.conf names ")), "{before:?}");
    assert!(before.iter().any(|line| line.starts_with("/etc/default/ntpsec-ntpdate names ")), "{before:?}");
    let text = fs::read_to_string(dir.path().join("etc/ntpsec/ntp.conf")).unwrap();
    assert!(
        text.contains("\ndriftfile ") && text.ends_with("server 10.1.0.1 iburst\nserver 10.1.0.2 iburst\n"),
        "{text}"
    );
    // The shell that starts the service reads it so.
    let default = conf(dir.path(), "etc/default/ntpsec");
    let done = run(Path::new("/"), "bin/sh", &["-euc", &format!(". {default}; echo $IGNORE_DHCP")]);
    assert_eq!(self::text(&done.stdout), "yes\n");
    let wrapper = fs::read_to_string(dir.path().join("usr/libexec/ntpsec/ntp-systemd-wrapper")).unwrap();
    assert!(wrapper.contains("IGNORE_DHCP"), "{wrapper}");
}

#[test]
#[ignore = "scripts/test unpacks the packages"]
fn systemd_s_own_programs_are_found_and_get_their_drop_ins() {
    let (dir, tree) = unpack(&["systemd-resolved", "systemd-timesyncd"]);
    configure(&tree);
    for name in ["resolved", "timesyncd"] {
        assert!(dir.path().join(format!("etc/systemd/{name}.conf.d/zz-metal.conf")).is_file(), "{name}");
    }
}

#[test]
#[ignore = "scripts/test unpacks the packages"]
fn network_manager_and_dhcp_clients_are_found_and_kept_from_telling() {
    let (dir, tree) = unpack(&["network-manager", "isc-dhcp-client", "dhcpcd-base", "openresolv"]);
    let before = configure(&tree);
    for file in ["/etc/NetworkManager/NetworkManager.conf", "/etc/dhcp/dhclient.conf", "/etc/dhcpcd.conf"] {
        assert!(before.iter().any(|line| line.starts_with(file)), "{file}: {before:?}");
    }
    // The names of hooks that are switched off are names of hooks.
    let hooks = ["lib", "usr/lib"].map(|lib| dir.path().join(lib).join("dhcpcd/dhcpcd-hooks"));
    let hooks: Vec<String> = hooks
        .iter()
        .filter_map(|path| fs::read_dir(path).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    for hook in ["20-resolv.conf", "60-ntp-common.conf", "62-chrony.conf", "64-timesyncd.conf", "68-openntpd.conf"] {
        assert!(hooks.iter().any(|name| name == hook), "{hook}: {hooks:?}");
    }
    let script = fs::read_to_string(dir.path().join("sbin/dhclient-script")).unwrap();
    let (function, hook) =
        (script.find("make_resolv_conf()").unwrap(), script.rfind("dhclient-enter-hooks.d").unwrap());
    assert!(function < hook, "the hooks come after the function that they replace");
}

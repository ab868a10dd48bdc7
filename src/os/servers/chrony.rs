//! chrony.

use std::net::IpAddr;

use anyhow::Result;

use super::conf_lines::{Conf, directive_values};
use super::stranger::{Stranger, named};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

const PROGRAM: &str = "/usr/sbin/chronyd";
const CONF: &str = "/etc/chrony/chrony.conf";
/// Where other distributions have it.
const CONFS: [&str; 2] = [CONF, "/etc/chrony.conf"];
const SOURCES: [&str; 4] = ["server", "pool", "peer", "initstepslew"];

/// The whole file: without `confdir` and `sourcedir` neither the image's snippets nor what DHCP brings (both Debian's
/// hooks write below /run/chrony-dhcp) is read.
pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    if servers.ntp.is_empty() || !tree.exists(PROGRAM) {
        return Ok(());
    }
    tree.write(CONF, render(&servers.ntp), 0o644)
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let mut strangers = Vec::new();
    if servers.ntp.is_empty() {
        return Ok(strangers);
    }
    for main in CONFS {
        for Conf { path, text } in read_with_includes(tree, main)? {
            strangers.extend(named(&path, directive_values(&text, &SOURCES), &servers.ntp));
        }
    }
    Ok(strangers)
}

/// The main file and what it includes: files, and directories of `*.conf` and `*.sources`. One level: snippets that
/// include others are not known to be made by anybody.
///
/// Source: chrony.conf(5).
fn read_with_includes(tree: &Tree, main: &str) -> Result<Vec<Conf>> {
    let Some(text) = tree.read_text(main)? else { return Ok(Vec::new()) };
    let mut paths = directive_values(&text, &["include"]);
    for (directive, suffix) in [("confdir", ".conf"), ("sourcedir", ".sources")] {
        for dir in directive_values(&text, &[directive]) {
            let names = tree.names(&dir)?.into_iter().filter(|name| name.ends_with(suffix));
            paths.extend(names.map(|name| format!("{dir}/{name}")));
        }
    }
    let mut all = vec![Conf { path: main.to_owned(), text }];
    for path in paths {
        if let Some(text) = tree.read_text(&path)? {
            all.push(Conf { path, text });
        }
    }
    Ok(all)
}

/// A name may stand for several servers, an address never does.
fn render(servers: &[String]) -> String {
    let source = |server: &String| {
        let kind = if server.parse::<IpAddr>().is_ok() { "server" } else { "pool" };
        format!("{kind} {server} iburst\n")
    };
    let sources: String = servers.iter().map(source).collect();
    format!(
        "{HEADER}{sources}keyfile /etc/chrony/chrony.keys\ndriftfile /var/lib/chrony/chrony.drift\n\
         logdir /var/log/chrony\nmaxupdateskew 100.0\nrtcsync\nmakestep 1 3\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_servers_and_names_are_pools() {
        let text = render(&["10.9.9.9".to_owned(), "ntp.lab.example".to_owned()]);
        assert!(text.contains("\nserver 10.9.9.9 iburst\npool ntp.lab.example iburst\nkeyfile "), "{text}");
    }
}

//! ntpd, the reference implementation's and NTPsec's. Their file holds more than servers (keys, restrictions, paths that
//! differ), so it stays, with other servers in it.

use anyhow::Result;

use super::conf_lines::{Conf, directive_values, is_directive, mute};
use super::stranger::{Stranger, TIME_SERVERS, from_network, named};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

/// Where a distribution has its parts.
struct Ntpd {
    conf: &'static str,
    /// NTPsec reads `*.conf` of this directory, too.
    conf_dir: &'static str,
    /// Settings of the service, a shell file.
    default: &'static str,
}

const NTPDS: [Ntpd; 2] = [
    Ntpd { conf: "/etc/ntpsec/ntp.conf", conf_dir: "/etc/ntpsec/ntp.d", default: "/etc/default/ntpsec" },
    Ntpd { conf: "/etc/ntp.conf", conf_dir: "/etc/ntp.d", default: "/etc/default/ntp" },
];

const SOURCES: [&str; 5] = ["server", "pool", "peer", "broadcast", "manycastclient"];
/// They believe whoever sends.
const LISTENERS: [&str; 2] = ["broadcastclient", "multicastclient"];
/// Pseudo addresses of clocks plugged into the machine.
const LOCAL_CLOCK: &str = "127.127.";

pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    if servers.ntp.is_empty() {
        return Ok(());
    }
    for ntpd in NTPDS {
        let confs = read_confs(tree, &ntpd)?;
        if !confs.iter().any(|conf| conf.path == ntpd.conf) {
            continue;
        }
        for Conf { path, text } in confs {
            let muted = mute(&text, is_asking);
            if path == ntpd.conf {
                let text = muted.unwrap_or(text);
                tree.rewrite(&path, format!("{}\n\n{}", text.trim_end(), render_sources(&servers.ntp)))?;
            } else if let Some(muted) = muted {
                tree.rewrite(&path, muted)?;
            }
        }
        // Else the service starts with a file that DHCP's hooks made below /run, if there is one.
        let default = tree.read_text(ntpd.default)?.unwrap_or_default();
        tree.write(ntpd.default, format!("{default}\n{HEADER}IGNORE_DHCP=yes\n"), 0o644)?;
    }
    Ok(())
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let mut strangers = Vec::new();
    if servers.ntp.is_empty() {
        return Ok(strangers);
    }
    for ntpd in NTPDS {
        for Conf { path, text } in read_confs(tree, &ntpd)? {
            let mut found = directive_values(&text, &SOURCES);
            found.retain(|server| !server.starts_with(LOCAL_CLOCK));
            strangers.extend(named(&path, found, &servers.ntp));
            if text.lines().any(|line| is_directive(line, &LISTENERS)) {
                strangers.push(from_network(&path, TIME_SERVERS));
            }
        }
    }
    Ok(strangers)
}

/// The main file, the files it includes, and those of the directory.
fn read_confs(tree: &Tree, ntpd: &Ntpd) -> Result<Vec<Conf>> {
    let Some(text) = tree.read_text(ntpd.conf)? else { return Ok(Vec::new()) };
    let mut paths = directive_values(&text, &["includefile"]);
    let snippets = tree.names(ntpd.conf_dir)?.into_iter().filter(|name| name.ends_with(".conf"));
    paths.extend(snippets.map(|name| format!("{}/{name}", ntpd.conf_dir)));
    let mut all = vec![Conf { path: ntpd.conf.to_owned(), text }];
    for path in paths.into_iter().filter(|path| path.starts_with('/')) {
        if let Some(text) = tree.read_text(&path)? {
            all.push(Conf { path, text });
        }
    }
    Ok(all)
}

fn is_asking(line: &str) -> bool {
    let is_local = || directive_values(line, &SOURCES).iter().any(|server| server.starts_with(LOCAL_CLOCK));
    is_directive(line, &LISTENERS) || is_directive(line, &SOURCES) && !is_local()
}

/// Debian asks for three servers that agree, which a site may not have: the number in its file would leave the clock
/// alone for ever.
fn render_sources(servers: &[String]) -> String {
    let lines: String = servers.iter().map(|server| format!("server {server} iburst\n")).collect();
    format!("{HEADER}tos minsane 1 minclock 1\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_plugged_into_the_machine_is_no_stranger() {
        assert!(!is_asking("server 127.127.28.0 minpoll 4") && !is_asking("serverstats") && !is_asking(""));
        for line in ["pool 0.example iburst", "server -4 192.0.2.1", "broadcastclient"] {
            assert!(is_asking(line), "{line}");
        }
    }
}

//! `/etc/resolv.conf`, and those who write it behind everybody's back: resolvconf and openresolv.

use anyhow::Result;

use super::conf_lines::directive_values;
use super::stranger::{Stranger, named};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

const PATH: &str = "/etc/resolv.conf";
/// Configuration of openresolv, a shell file. It takes a plain resolv.conf for its own; Debian's resolvconf writes only
/// where the link `/etc/resolv.conf` led to.
const OPENRESOLV: &str = "/etc/resolvconf.conf";

pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    // A file instead of resolved's usual link: both programs without and resolved with it read the same servers.
    tree.write(PATH, render(&servers.dns), 0o644)?;
    if let Some(text) = tree.read_text(OPENRESOLV)?
        && !servers.dns.is_empty()
    {
        tree.write(OPENRESOLV, format!("{text}\n{HEADER}resolvconf=NO\n"), 0o644)?;
    }
    Ok(())
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let text = tree.read_text(PATH)?.unwrap_or_default();
    Ok(named(PATH, directive_values(&text, &["nameserver"]), &servers.dns))
}

fn render(servers: &[String]) -> String {
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    format!("{HEADER}{lines}")
}

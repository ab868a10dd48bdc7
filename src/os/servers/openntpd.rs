//! OpenNTPD. Its file holds more than servers (sensors, whom to answer), so it stays, with other servers in it.

use std::net::IpAddr;

use anyhow::Result;

use super::conf_lines::{directive_values, is_directive, mute};
use super::stranger::{Stranger, named};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

const CONF: &str = "/etc/openntpd/ntpd.conf";
const SOURCES: [&str; 2] = ["server", "servers"];
/// Web servers, whose date bounds what time servers may say: strangers as well.
const CONSTRAINTS: [&str; 2] = ["constraint", "constraints"];

pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    let Some(text) = tree.read_text(CONF)? else { return Ok(()) };
    if servers.ntp.is_empty() {
        return Ok(());
    }
    let text = mute(&text, |line| is_directive(line, &SOURCES) || is_directive(line, &CONSTRAINTS)).unwrap_or(text);
    tree.rewrite(CONF, format!("{}\n\n{}", text.trim_end(), render_sources(&servers.ntp)))
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let text = tree.read_text(CONF)?.unwrap_or_default();
    if servers.ntp.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = directive_values(&text, &SOURCES);
    // `constraint from "https://…"`: the second word says nothing.
    let constraints = text.lines().filter(|line| is_directive(line, &CONSTRAINTS));
    found.extend(
        constraints.filter_map(|line| line.split_whitespace().nth(2)).map(|url| url.trim_matches('"').to_owned()),
    );
    Ok(named(CONF, found, &servers.ntp))
}

/// A name may stand for several servers.
fn render_sources(servers: &[String]) -> String {
    let source = |server: &String| {
        let kind = if server.parse::<IpAddr>().is_ok() { "server" } else { "servers" };
        format!("{kind} {server}\n")
    };
    format!("{HEADER}{}", servers.iter().map(source).collect::<String>())
}

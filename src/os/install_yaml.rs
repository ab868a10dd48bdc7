//! `/etc/metal/install.yaml`: what the allocation says, for installers in images and for services of the installed system.
//!
//! Keys, their order and `null` against `[]` are those of metal-hammer: services read this file after the first boot.

use time::format_description::well_known::Rfc3339;

use crate::api::rest::{FirewallRules, Network, Nic, Vpn};

use super::Input;
use super::console::Console;
use super::yaml::Yaml;

pub fn render(input: &Input) -> String {
    let allocation = &input.allocation;
    let switch_facing = input.nics.iter().filter(|nic| is_switch_facing(nic));
    Yaml::Map(vec![
        ("hostname", Yaml::text(&allocation.hostname)),
        ("networks", Yaml::List(allocation.networks.iter().map(network).collect())),
        ("machineuuid", Yaml::text(&input.machine_uuid)),
        ("sshpublickey", Yaml::text(&allocation.ssh_pub_keys.join("\n"))),
        ("password", Yaml::text(&input.console_password)),
        ("console", Yaml::text(&Console::parse(input.console.as_deref()).to_string())),
        ("timestamp", Yaml::text(&timestamp(input))),
        ("nics", Yaml::List(switch_facing.map(nic).collect())),
        ("vpn", allocation.vpn.as_ref().map_or(Yaml::Null, vpn)),
        ("role", Yaml::text(&allocation.role)),
        ("raidenabled", Yaml::Bool(input.raid_enabled())),
        ("root_uuid", Yaml::text(&input.root_uuid)),
        ("firewall_rules", allocation.firewall_rules.as_ref().map_or(Yaml::Null, firewall_rules)),
        ("dns_servers", single_key_list("ip", allocation.dns_servers.iter().map(|server| server.ip.as_str()))),
        (
            "ntp_servers",
            single_key_list("address", allocation.ntp_servers.iter().map(|server| server.address.as_str())),
        ),
    ])
    .render()
}

fn timestamp(input: &Input) -> String {
    // Formatting fails only for years outside 0 to 9999.
    input.timestamp.replace_nanosecond(0).unwrap_or(input.timestamp).format(&Rfc3339).unwrap_or_default()
}

/// At least one neighbour, and every neighbour with a MAC.
fn is_switch_facing(nic: &Nic) -> bool {
    !nic.neighbors.is_empty() && nic.neighbors.iter().all(|neighbor| !neighbor.mac.is_empty())
}

fn nic(nic: &Nic) -> Yaml {
    Yaml::Map(vec![
        ("identifier", Yaml::text(&nic.identifier)),
        ("mac", Yaml::text(&nic.mac)),
        ("name", Yaml::text(&nic.name)),
        ("neighbors", Yaml::List(nic.neighbors.iter().map(self::nic).collect())),
    ])
}

/// Alphabetical. The keys of API v2 are written only where the server gave them: older readers do not know them.
fn network(network: &Network) -> Yaml {
    let texts = |values: &[String]| Yaml::texts(values.iter().map(String::as_str));
    let mut entries = vec![
        ("asn", Yaml::Int(network.asn)),
        ("destinationprefixes", texts(&network.destinationprefixes)),
        ("ips", texts(&network.ips)),
        ("nat", Yaml::Bool(network.nat)),
        ("nattypev2", Yaml::text(&network.nattypev2)),
        ("networkid", Yaml::text(&network.networkid)),
        ("networktype", Yaml::text(&network.networktype)),
        ("networktypev2", Yaml::text(&network.networktypev2)),
        ("prefixes", texts(&network.prefixes)),
        ("private", Yaml::Bool(network.private)),
        ("projectid", Yaml::text(&network.projectid)),
        ("underlay", Yaml::Bool(network.underlay)),
        ("vrf", Yaml::Int(network.vrf)),
    ];
    entries.retain(|(key, value)| {
        !["nattypev2", "networktypev2", "projectid"].contains(key) || *value != Yaml::Text(String::new())
    });
    Yaml::Map(entries)
}

fn vpn(vpn: &Vpn) -> Yaml {
    Yaml::Map(vec![
        ("address", Yaml::text(&vpn.address)),
        ("auth_key", Yaml::text(&vpn.auth_key)),
        ("connected", Yaml::Bool(vpn.connected)),
    ])
}

fn firewall_rules(rules: &FirewallRules) -> Yaml {
    let egress =
        rules.egress.iter().map(|rule| firewall_rule(&rule.comment, None, &rule.ports, &rule.protocol, &rule.to));
    let ingress = rules
        .ingress
        .iter()
        .map(|rule| firewall_rule(&rule.comment, Some(&rule.from), &rule.ports, &rule.protocol, &rule.to));
    Yaml::Map(vec![("egress", Yaml::List(egress.collect())), ("ingress", Yaml::List(ingress.collect()))])
}

/// Comment and protocol are left out when empty; only ingress rules have `from`.
fn firewall_rule(comment: &str, from: Option<&[String]>, ports: &[u16], protocol: &str, to: &[String]) -> Yaml {
    let texts = |values: &[String]| Yaml::texts(values.iter().map(String::as_str));
    let optional = |key, value: &str| (!value.is_empty()).then(|| (key, Yaml::text(value)));
    let entries = [
        optional("comment", comment),
        from.map(|from| ("from", texts(from))),
        Some(("ports", Yaml::List(ports.iter().map(|port| Yaml::Int(i64::from(*port))).collect()))),
        optional("protocol", protocol),
        Some(("to", texts(to))),
    ];
    Yaml::Map(entries.into_iter().flatten().collect())
}

fn single_key_list<'a>(key: &'static str, values: impl Iterator<Item = &'a str>) -> Yaml {
    Yaml::List(values.map(|value| Yaml::Map(vec![(key, Yaml::text(value))])).collect())
}

//! When a machine counts as cabled: two links, two switches.

use std::collections::BTreeSet;

use thiserror::Error;

use super::Neighbours;
use super::frame::PortKind;
use crate::config::cmdline::Cmdline;

const LINKS: usize = 2;
const CHASSIS: usize = 2;

/// `drophammer.lldp=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LldpMode {
    /// Registration waits for two switches, as upstream does, and fails without them.
    #[default]
    Required,
    /// Listen, report what was heard, wait for nobody. anvil says so on the command line of its machines.
    Optional,
    /// No LLDP at all.
    Off,
}

/// The value is none of the modes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("drophammer.lldp={0}: expected required, optional or off")]
pub struct UnknownMode(String);

impl LldpMode {
    /// Without the key it is `required`: a metal-stack's boot server does not know the key, and its API wants two
    /// switches.
    pub fn from_cmdline(cmdline: &Cmdline) -> Result<Self, UnknownMode> {
        match cmdline.get("drophammer.lldp") {
            None | Some("required") => Ok(Self::Required),
            Some("optional") => Ok(Self::Optional),
            Some("off") => Ok(Self::Off),
            Some(other) => Err(UnknownMode(other.to_owned())),
        }
    }
}

/// How far the neighbours heard are from the requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("LLDP neighbours on {links} links and {chassis} switches, required are {LINKS} links and {CHASSIS} switches")]
pub struct NotMet {
    pub links: usize,
    /// Distinct MAC chassis whose port id is a MAC or local text; others do not identify a switch to the API.
    pub chassis: usize,
}

/// Neighbours on two links, and two distinct switches among them.
pub fn check_requirement(neighbours: &Neighbours) -> Result<(), NotMet> {
    let links = neighbours.values().filter(|heard| !heard.is_empty()).count();
    let switches: BTreeSet<&str> = neighbours
        .values()
        .flatten()
        .filter(|neighbour| neighbour.chassis_is_mac)
        .filter(|neighbour| matches!(neighbour.port_kind, PortKind::Mac | PortKind::Local))
        .map(|neighbour| neighbour.chassis_id.as_str())
        .collect();
    let chassis = switches.len();
    if links >= LINKS && chassis >= CHASSIS { Ok(()) } else { Err(NotMet { links, chassis }) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::lldp::Neighbour;

    fn neighbour(chassis_id: &str, port_kind: PortKind) -> Neighbour {
        Neighbour {
            chassis_id: chassis_id.into(),
            chassis_is_mac: chassis_id.contains(':'),
            port_id: "p".into(),
            port_kind,
            port_description: None,
            system_name: None,
            system_description: None,
            time_to_live: Duration::from_secs(120),
            others: Vec::new(),
        }
    }

    fn cabling(links: &[(&str, &[(&str, PortKind)])]) -> Neighbours {
        let heard = |ports: &[(&str, PortKind)]| ports.iter().map(|(id, kind)| neighbour(id, *kind)).collect();
        links.iter().map(|(link, ports)| ((*link).to_owned(), heard(ports))).collect()
    }

    #[test]
    fn two_links_to_two_switches_are_enough() {
        let neighbours = cabling(&[("eth0", &[("a:1", PortKind::Local)]), ("eth1", &[("a:2", PortKind::Mac)])]);
        assert_eq!(check_requirement(&neighbours), Ok(()));
    }

    #[test]
    fn less_is_not() {
        let (local, interface) = (PortKind::Local, PortKind::Interface);
        let cases = [
            (cabling(&[]), NotMet { links: 0, chassis: 0 }),
            (cabling(&[("eth0", &[("a:1", local), ("a:2", local)])]), NotMet { links: 1, chassis: 2 }),
            (cabling(&[("eth0", &[("a:1", local)]), ("eth1", &[("a:1", local)])]), NotMet { links: 2, chassis: 1 }),
            (cabling(&[("eth0", &[("a:1", local)]), ("eth1", &[("a:2", interface)])]), NotMet { links: 2, chassis: 1 }),
            (cabling(&[("eth0", &[("a:1", local)]), ("eth1", &[("rack", local)])]), NotMet { links: 2, chassis: 1 }),
        ];
        for (neighbours, expected) in cases {
            assert_eq!(check_requirement(&neighbours), Err(expected));
        }
    }

    #[test]
    fn the_mode_is_read_from_the_command_line() {
        let mode = |line: &str| LldpMode::from_cmdline(&Cmdline::parse(line));
        assert_eq!(mode(""), Ok(LldpMode::Required));
        assert_eq!(mode("drophammer.lldp=required"), Ok(LldpMode::Required));
        assert_eq!(mode("drophammer.lldp=optional"), Ok(LldpMode::Optional));
        assert_eq!(mode("drophammer.lldp=off"), Ok(LldpMode::Off));
        assert_eq!(
            mode("drophammer.lldp=yes").unwrap_err().to_string(),
            "drophammer.lldp=yes: expected required, optional or off"
        );
    }
}

//! The cables that the control plane has been told of.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::net::lldp::Neighbours;

#[derive(Default)]
pub(crate) struct Told(Mutex<BTreeSet<Cable>>);

/// Link, chassis, port.
type Cable = (String, String, String);

impl Told {
    pub(super) fn set(&self, heard: &Neighbours) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cables(heard).collect();
    }

    /// Whether there is more to tell, and nothing less: a switch that went silent for a while must not be taken away
    /// from the control plane, which would think that the machine was moved.
    pub(super) fn is_less_than(&self, heard: &Neighbours) -> bool {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard: BTreeSet<Cable> = cables(heard).collect();
        heard.len() > told.len() && heard.is_superset(&told)
    }
}

fn cables(heard: &Neighbours) -> impl Iterator<Item = Cable> + '_ {
    heard.iter().flat_map(|(link, neighbours)| {
        neighbours.iter().map(|neighbour| (link.clone(), neighbour.chassis_id.clone(), neighbour.port_id.clone()))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::lldp::{Neighbour, PortKind};

    pub(in crate::agent) fn neighbour(port_id: &str) -> Neighbour {
        Neighbour {
            chassis_id: "02:00:00:00:00:09".into(),
            chassis_is_mac: true,
            port_id: port_id.into(),
            port_kind: PortKind::Local,
            port_description: Some("Ethernet8".into()),
            system_name: Some("leaf01".into()),
            system_description: Some("SONiC".into()),
            time_to_live: Duration::from_secs(600),
            others: Vec::new(),
        }
    }

    pub(in crate::agent) fn heard(ports: &[(&str, &str)]) -> Neighbours {
        let mut heard = Neighbours::new();
        for (link, port) in ports {
            heard.entry((*link).to_owned()).or_default().push(neighbour(port));
        }
        heard
    }

    #[test]
    fn only_more_cables_are_news() {
        let told = Told::default();
        assert!(!told.is_less_than(&Neighbours::new()));
        let first = heard(&[("eth0", "p1"), ("eth1", "p1")]);
        assert!(told.is_less_than(&first));
        told.set(&first);
        assert!(!told.is_less_than(&first));
        assert!(!told.is_less_than(&heard(&[("eth1", "p1")])), "a cable that is gone");
        assert!(!told.is_less_than(&heard(&[("eth1", "p1"), ("eth2", "p1")])), "a cable that was moved");
        assert!(told.is_less_than(&heard(&[("eth0", "p1"), ("eth0", "p2"), ("eth1", "p1")])), "another port on a link");
        assert!(told.is_less_than(&heard(&[("eth0", "p1"), ("eth1", "p1"), ("eth2", "p1")])), "another link");
    }
}

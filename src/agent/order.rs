//! An allocation with everything that an installation needs.

use crate::api::layout::FilesystemLayout;
use crate::api::rest::{Allocation, Image, Machine};

/// What is to be installed. Made only from an allocation that lacks nothing.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The machine as the API knows it, without the allocation's parts below.
    pub machine: Machine,
    pub allocation: Allocation,
    pub image: Image,
    pub layout: FilesystemLayout,
}

/// What the machine's answer says about it.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Not allocated: free, or freed again.
    Free,
    Install(Box<Order>),
    /// Allocated, but these fields are missing or wrong.
    Refused(Vec<String>),
}

impl Order {
    pub(crate) fn decide(machine: Machine) -> Decision {
        let Some(allocation) = machine.allocation.clone() else { return Decision::Free };
        let mut faults = Vec::new();
        let image = allocation.image.clone().unwrap_or_else(|| {
            faults.push("allocation.image is missing".to_owned());
            Image::default()
        });
        if allocation.image.is_some() && image.url.is_empty() {
            faults.push("allocation.image.url is missing".to_owned());
        }
        let layout = allocation.filesystemlayout.clone().unwrap_or_else(|| {
            faults.push("allocation.filesystemlayout is missing".to_owned());
            FilesystemLayout::default()
        });
        if allocation.hostname.is_empty() {
            faults.push("allocation.hostname is missing".to_owned());
        } else if !is_host_name(&allocation.hostname) {
            faults.push(format!(
                "allocation.hostname {:?} is no host name (letters, digits, '-' and '.', at most 253 characters)",
                allocation.hostname
            ));
        }
        if !matches!(allocation.role.as_str(), "machine" | "") {
            faults.push(format!("allocation.role {:?} is not supported, expected \"machine\"", allocation.role));
        }
        if !faults.is_empty() {
            return Decision::Refused(faults);
        }
        Decision::Install(Box::new(Self { machine, allocation, image, layout }))
    }
}

/// RFC 1123, section 2.1.
fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(allocation: &str) -> Machine {
        serde_json::from_str(&format!(r#"{{"id":"m","allocation":{allocation}}}"#)).unwrap()
    }

    #[test]
    fn a_machine_without_allocation_is_free() {
        assert!(matches!(Order::decide(machine("null")), Decision::Free));
    }

    #[test]
    fn every_missing_field_is_named() {
        let Decision::Refused(faults) = Order::decide(machine(r#"{"image":null,"networks":null}"#)) else {
            panic!("not refused")
        };
        assert_eq!(
            faults,
            ["allocation.image is missing", "allocation.filesystemlayout is missing", "allocation.hostname is missing"]
        );
    }

    #[test]
    fn a_host_name_that_could_leave_its_file_is_refused() {
        let text = r#"{"image":{"url":"http://a/i"},"filesystemlayout":{},"hostname":"a\nb"}"#;
        assert!(matches!(Order::decide(machine(text)), Decision::Refused(faults) if faults.len() == 1));
    }

    #[test]
    fn null_where_a_list_is_due_is_an_empty_list() {
        let text = r#"{"image":{"url":"http://a/i","features":null},"filesystemlayout":{"disks":null,"filesystems":null},
            "hostname":"web-1","ssh_pub_keys":null,"networks":null,"dns_servers":null,"role":"machine"}"#;
        let Decision::Install(order) = Order::decide(machine(text)) else { panic!("refused") };
        assert!(order.allocation.ssh_pub_keys.is_empty() && order.layout.disks.is_empty());
    }
}

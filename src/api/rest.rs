//! The REST machine of metal-api: `GET /v1/machine/{id}`, as the agent and the `anvil` command read it.
//!
//! Every object and list may be `null` or absent, whatever the upstream schema says is required.

use serde::{Deserialize, Serialize};

use super::enrolment::Standing;
use super::layout::FilesystemLayout;
use super::null_as_default;

/// The body of every refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status, repeated.
    #[serde(default)]
    pub statuscode: u16,
    /// A sentence a person can act on.
    #[serde(default, deserialize_with = "null_as_default")]
    pub message: String,
}

/// An object of which only the id matters to us (`partition`, `size`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
}

/// One machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The UUID, lower case.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Reference>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub rackid: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub hardware: Hardware,
    #[serde(default, deserialize_with = "null_as_default")]
    pub bios: Bios,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub state: State,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ledstate: LedState,
    /// `Alive`, `Dead` or `Unknown`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub liveliness: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub events: EventLog,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
    /// RFC 3339.
    #[serde(default, deserialize_with = "null_as_default")]
    pub created: String,
    /// RFC 3339.
    #[serde(default, deserialize_with = "null_as_default")]
    pub changed: String,
    /// anvil's own: what the agent told of its phases and of the image being written. Absent from metal-api.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning: Option<Provisioning>,
    /// anvil's own: whether it may have keys, where machines have to be admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Standing>,
    /// anvil's own: fingerprint of the key that its agent's SSH server shows, `SHA256:…`. Absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_host_key: Option<String>,
}

/// The phases of the newest boot and what is going on now, as the agent told them (see [`super::progress`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provisioning {
    /// In the order they began.
    #[serde(default)]
    pub phases: Vec<super::progress::Phase>,
    /// The newest progress report of a long step; absent when no long step is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<super::progress::Progress>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// Bytes.
    #[serde(default)]
    pub memory: u64,
    /// Always 0 in current servers.
    #[serde(default)]
    pub cpu_cores: u32,
    #[serde(default, deserialize_with = "null_as_default")]
    pub disks: Vec<Disk>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub cpus: Vec<Cpu>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub gpus: Vec<Gpu>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub nics: Vec<Nic>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `/dev/nvme0n1`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
}

/// One entry a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    #[serde(default, deserialize_with = "null_as_default")]
    pub vendor: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub model: String,
    #[serde(default)]
    pub cores: u32,
    #[serde(default)]
    pub threads: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    #[serde(default, deserialize_with = "null_as_default")]
    pub vendor: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub model: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    #[serde(default, deserialize_with = "null_as_default")]
    pub mac: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub identifier: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub neighbors: Vec<Nic>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bios {
    #[serde(default, deserialize_with = "null_as_default")]
    pub version: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub vendor: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub date: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// "" (available), `RESERVED` or `LOCKED`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub value: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub description: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub issuer: String,
    /// The agent's version.
    #[serde(default, deserialize_with = "null_as_default")]
    pub metal_hammer_version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedState {
    #[serde(default, deserialize_with = "null_as_default")]
    pub value: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub description: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLog {
    /// Newest first, at most 20.
    #[serde(default, deserialize_with = "null_as_default")]
    pub log: Vec<Event>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_event: Option<Event>,
    #[serde(default)]
    pub crash_loop: bool,
    #[serde(default)]
    pub failed_machine_reclaim: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339.
    #[serde(default, deserialize_with = "null_as_default")]
    pub time: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub event: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub message: String,
}

/// What a machine was allocated with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    #[serde(default, deserialize_with = "null_as_default")]
    pub creator: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub created: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub description: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub project: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub allocationuuid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystemlayout: Option<FilesystemLayout>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub networks: Vec<Network>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub hostname: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ssh_pub_keys: Vec<String>,
    /// Base64 or plain text; empty when there is none.
    #[serde(default, deserialize_with = "null_as_default")]
    pub user_data: String,
    #[serde(default)]
    pub succeeded: bool,
    #[serde(default)]
    pub reinstall: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_info: Option<BootInfo>,
    /// `machine` or `firewall`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpn: Option<Vpn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall_rules: Option<FirewallRules>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub dns_servers: Vec<DnsServer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ntp_servers: Vec<NtpServer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsServer {
    /// An IPv4 or IPv6 literal.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ip: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NtpServer {
    /// An address literal or a DNS name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub address: String,
}

/// An operating system image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `<os>-<major>.<minor>[.<patch>]`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub description: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub url: String,
    /// Subset of `machine`, `firewall`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub features: Vec<String>,
    #[serde(default, rename = "expirationDate", skip_serializing_if = "Option::is_none")]
    pub expiration_date: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub classification: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub usedby: Vec<String>,
    /// anvil's own: `sha256:<hex>`, `sha512:<hex>` or `md5:<hex>` of the image file. Absent from metal-api.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// One network of an allocation. All networks of a machine carry the same ASN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    #[serde(default, deserialize_with = "null_as_default")]
    pub networkid: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub prefixes: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ips: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub destinationprefixes: Vec<String>,
    /// `privateprimaryunshared`, `privateprimaryshared`, `privatesecondaryshared`, `privatesecondaryunshared`,
    /// `external` or `underlay`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub networktype: String,
    #[serde(default)]
    pub vrf: i64,
    #[serde(default)]
    pub asn: i64,
    #[serde(default)]
    pub nat: bool,
    #[serde(default)]
    pub private: bool,
    #[serde(default)]
    pub underlay: bool,
    #[serde(default, deserialize_with = "null_as_default")]
    pub projectid: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub networktypev2: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub nattypev2: String,
}

/// REST spells `bootloaderid` without the underscore that gRPC has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootInfo {
    #[serde(default, deserialize_with = "null_as_default")]
    pub image_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub primary_disk: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub os_partition: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub initrd: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub cmdline: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub kernel: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub bootloaderid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpn {
    #[serde(default, deserialize_with = "null_as_default")]
    pub address: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub auth_key: String,
    #[serde(default)]
    pub connected: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRules {
    #[serde(default, deserialize_with = "null_as_default")]
    pub egress: Vec<FirewallEgressRule>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ingress: Vec<FirewallIngressRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallEgressRule {
    #[serde(default, deserialize_with = "null_as_default")]
    pub protocol: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<u16>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub to: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub comment: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallIngressRule {
    #[serde(default, deserialize_with = "null_as_default")]
    pub protocol: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<u16>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub to: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub from: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub comment: String,
}

/// Body of `POST /v1/machine/allocate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocateRequest {
    /// A certain machine; absent: any that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub description: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub hostname: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub projectid: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub partitionid: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub sizeid: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub imageid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystemlayoutid: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ssh_pub_keys: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub user_data: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub networks: Vec<NetworkRequest>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ips: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub placement_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub dns_servers: Vec<DnsServer>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ntp_servers: Vec<NtpServer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub networkid: String,
    #[serde(default)]
    pub autoacquire: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_read_where_a_list_is_due() {
        let machine: Machine = serde_json::from_str(
            r#"{"id":"a","hardware":null,"events":null,"tags":null,
                "allocation":{"networks":null,"ssh_pub_keys":null,"user_data":null,"image":null,"filesystemlayout":null}}"#,
        )
        .unwrap();
        let allocation = machine.allocation.unwrap();
        assert!(allocation.networks.is_empty() && allocation.ssh_pub_keys.is_empty());
        assert_eq!(allocation.image, None);
        assert_eq!(allocation.filesystemlayout, None);
    }

    #[test]
    fn a_machine_without_allocation_has_none() {
        let machine: Machine = serde_json::from_str(r#"{"id":"a","allocation":null}"#).unwrap();
        assert_eq!(machine.allocation, None);
    }
}

//! Giving a machine to somebody: checks of the request, the choice of the machine, and what it is given.
//!
//! All of it is one transaction, so two allocations never get the same machine and a refusal leaves no trace.
//!
//! Where anvil differs from metal-api, for the comfort of a lab: a machine of size `unknown` can be allocated by its
//! id; the partition may be left out, since there is one; the size may be left out while just one machine waits; and
//! the host name must be given.

use time::OffsetDateTime;
use uuid::Uuid;

use super::config::{check_dns_servers, check_ntp_servers};
use super::fsm::{Liveliness, judge_liveliness};
use super::images;
use super::layouts;
use super::machines::{MachineRecord, Partition, format_time};
use super::refusal::Refusal;
use super::sizes::{self, Size};
use super::store::Tx;
use super::version::ImageId;
use crate::api::layout::FilesystemLayout;
use crate::api::rest::{AllocateRequest, Allocation, Image};
use crate::api::ssh_key;

/// The only role so far.
const ROLE: &str = "machine";

/// Allocates a machine and returns it. The caller wakes its `Wait` call after the commit.
pub fn allocate(
    tx: &Tx<'_>,
    request: &AllocateRequest,
    creator: &str,
    default_partition: &str,
    now: OffsetDateTime,
) -> Result<MachineRecord, Refusal> {
    check_request(request)?;
    let image = find_image(tx, request)?;
    let partition = find_partition(tx, request, default_partition)?;
    check_size_exists(tx, request)?;

    let mut machine = match request.uuid.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => named_machine(tx, request, id)?,
        None => choose_machine(tx, request, &partition.id, now)?,
    };
    let layout = find_layout(tx, request, &machine, &image)?;
    layouts::check_fit(&layout, &machine.hardware.disks)?;

    // A list of the request replaces the partition's as a whole.
    let dns_servers = if request.dns_servers.is_empty() { partition.dns_servers } else { request.dns_servers.clone() };
    let ntp_servers = if request.ntp_servers.is_empty() { partition.ntp_servers } else { request.ntp_servers.clone() };
    machine.allocation = Some(Allocation {
        creator: creator.to_owned(),
        created: format_time(now),
        name: if request.name.is_empty() { request.hostname.clone() } else { request.name.clone() },
        description: request.description.clone(),
        project: request.projectid.clone(),
        allocationuuid: Uuid::new_v4().to_string(),
        image: Some(image),
        filesystemlayout: Some(layout),
        networks: Vec::new(),
        hostname: request.hostname.clone(),
        ssh_pub_keys: request.ssh_pub_keys.iter().map(|key| key.trim().to_owned()).collect(),
        user_data: request.user_data.clone(),
        succeeded: false,
        reinstall: false,
        boot_info: None,
        role: ROLE.to_owned(),
        vpn: None,
        firewall_rules: None,
        dns_servers,
        ntp_servers,
    });
    machine.tags = request.tags.clone();
    machine.waiting = false;
    machine.changed = now;
    tx.put_machine(&machine)?;
    Ok(machine)
}

/// What can be judged without looking at anything else. Names the field.
fn check_request(request: &AllocateRequest) -> Result<(), Refusal> {
    let refuse = |text: String| Err(Refusal::BadRequest(text));
    if request.imageid.is_empty() {
        return refuse("imageid: missing".to_owned());
    }
    if request.hostname.is_empty() {
        return refuse("hostname: missing".to_owned());
    }
    if !is_host_label(&request.hostname) {
        return refuse(format!(
            "hostname: expected 1 to 63 letters, digits or \"-\", not beginning or ending with \"-\"; found {:?}",
            request.hostname
        ));
    }
    for (index, key) in request.ssh_pub_keys.iter().enumerate() {
        if let Err(fault) = ssh_key::check(key) {
            return refuse(format!("ssh_pub_keys[{index}]: {fault}"));
        }
    }
    check_dns_servers(&request.dns_servers).map_err(Refusal::BadRequest)?;
    check_ntp_servers(&request.ntp_servers).map_err(Refusal::BadRequest)?;
    if let Some(network) = request.networks.first() {
        return refuse(format!("networks[0]: no network with id {:?} found", network.networkid));
    }
    if let Some(ip) = request.ips.first() {
        return refuse(format!("ips[0]: no ip {ip:?} found"));
    }
    Ok(())
}

/// RFC 1123: one label.
fn is_host_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn find_image(tx: &Tx<'_>, request: &AllocateRequest) -> Result<Image, Refusal> {
    let image = images::resolve(tx, &request.imageid)?
        .ok_or_else(|| Refusal::BadRequest(format!("imageid: no image with id {:?} found", request.imageid)))?;
    if !image.features.iter().any(|feature| feature == ROLE) {
        return Err(Refusal::BadRequest(format!("imageid: image {:?} is not for a {ROLE}", image.id)));
    }
    Ok(image)
}

fn find_partition(tx: &Tx<'_>, request: &AllocateRequest, default: &str) -> Result<Partition, Refusal> {
    let id = if request.partitionid.is_empty() { default } else { &request.partitionid };
    tx.get(id)?.ok_or_else(|| Refusal::BadRequest(format!("partitionid: no partition with id {id:?} found")))
}

fn check_size_exists(tx: &Tx<'_>, request: &AllocateRequest) -> Result<(), Refusal> {
    let id = &request.sizeid;
    if id.is_empty() || id == sizes::UNKNOWN || tx.get::<Size>(id)?.is_some() {
        return Ok(());
    }
    Err(Refusal::BadRequest(format!("sizeid: no size with id {id:?} found")))
}

/// A machine asked for by id must only be free and fit what the request says beside.
fn named_machine(tx: &Tx<'_>, request: &AllocateRequest, id: &str) -> Result<MachineRecord, Refusal> {
    let machine = tx.expect_machine(id)?;
    if machine.allocation.is_some() {
        return Err(Refusal::Unprocessable(format!("machine {id:?} is allocated already")));
    }
    if !request.partitionid.is_empty() && machine.partition != request.partitionid {
        return Err(Refusal::Unprocessable(format!(
            "machine {id:?} is in partition {:?}, not in {:?}",
            machine.partition, request.partitionid
        )));
    }
    if machine.size.is_empty() {
        return Err(Refusal::Unprocessable(format!("machine {id:?} has not registered yet")));
    }
    if !request.sizeid.is_empty() && machine.size != request.sizeid {
        return Err(Refusal::Unprocessable(format!(
            "machine {id:?} is of size {:?}, not {:?}",
            machine.size, request.sizeid
        )));
    }
    Ok(machine)
}

/// Any machine that waits, is alive, and is of the size.
fn choose_machine(
    tx: &Tx<'_>,
    request: &AllocateRequest,
    partition: &str,
    now: OffsetDateTime,
) -> Result<MachineRecord, Refusal> {
    let mut candidates = Vec::new();
    for machine in tx.waiting_machines()? {
        let suits = machine.partition == partition
            && machine.state.value.is_empty()
            && (request.sizeid.is_empty() || machine.size == request.sizeid);
        if suits && judge_liveliness(&tx.container(&machine.id)?, false, now) == Liveliness::Alive {
            candidates.push(machine);
        }
    }
    if request.sizeid.is_empty() && candidates.len() > 1 {
        return Err(Refusal::BadRequest(format!(
            "sizeid: missing, and {} machines wait; name a size or a machine",
            candidates.len()
        )));
    }
    if candidates.is_empty() {
        return Err(Refusal::Unprocessable("no machine available".to_owned()));
    }
    let chosen = random_index(candidates.len())?;
    Ok(candidates.swap_remove(chosen))
}

/// 0 to `count` − 1. The bias of the remainder does not matter for so few.
fn random_index(count: usize) -> Result<usize, Refusal> {
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes)
        .map_err(|error| Refusal::Internal(anyhow::anyhow!("reading the kernel's random source: {error}")))?;
    Ok(u32::from_le_bytes(bytes) as usize % count)
}

fn find_layout(
    tx: &Tx<'_>,
    request: &AllocateRequest,
    machine: &MachineRecord,
    image: &Image,
) -> Result<FilesystemLayout, Refusal> {
    if let Some(id) = request.filesystemlayoutid.as_deref().filter(|id| !id.is_empty()) {
        return tx
            .get(id)?
            .ok_or_else(|| Refusal::NotFound(format!("filesystemlayoutid: no filesystemlayout with id {id:?} found")));
    }
    let layouts = tx.all::<FilesystemLayout>()?;
    let image_id = ImageId::parse(&image.id)?;
    layouts::choose(&layouts, &machine.size, &image_id).cloned().ok_or_else(|| {
        Refusal::Unprocessable(format!(
            "filesystemlayoutid: missing, and no filesystemlayout is for size {:?} and image {:?}",
            machine.size, image.id
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anvil::fsm::StoredEvent;
    use crate::anvil::machines::record_event;
    use crate::anvil::store::Store;
    use crate::api::event::ProvisioningEvent;
    use crate::api::layout;
    use crate::api::rest::{Disk, DnsServer, NetworkRequest, NtpServer};
    use time::Duration;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-01-02 03:00:00 UTC);
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGK0dqYyXq5ZcVxTsIvp0yR8yBCKzYdN0v5nCkD1lOWJ";

    /// One partition, one image, one layout for size `small`, and a size of that name.
    fn lab() -> Store {
        let store = Store::in_memory().unwrap();
        store
            .run_blocking(|tx| {
                tx.put(&Partition {
                    id: "lab".into(),
                    dns_servers: vec![DnsServer { ip: "10.77.0.1".into() }],
                    ntp_servers: vec![NtpServer { address: "10.77.0.1".into() }],
                    ..Partition::default()
                })?;
                for id in ["debian-12.0.20260101", "debian-12.0.20260701"] {
                    tx.put(&Image { id: id.into(), features: vec!["machine".into()], ..Image::default() })?;
                }
                tx.put(&Size { id: "small".into(), ..Size::default() })?;
                tx.put(&FilesystemLayout {
                    id: "vm".into(),
                    disks: vec![layout::Disk {
                        device: "/dev/vda".into(),
                        partitions: vec![layout::Partition { size: 500, ..layout::Partition::default() }],
                        wipeonreinstall: true,
                    }],
                    constraints: layout::Constraints {
                        sizes: vec!["small".into()],
                        images: [("debian".to_owned(), "*".to_owned())].into(),
                    },
                    ..FilesystemLayout::default()
                })
            })
            .unwrap();
        store
    }

    fn add_machine(store: &Store, id: &str, size: &str, waiting: bool, disk_mib: u64) {
        store
            .run_blocking(|tx| {
                let mut machine = MachineRecord::new(id, NOW);
                machine.partition = "lab".into();
                machine.size = size.into();
                machine.waiting = waiting;
                machine.hardware.disks = vec![Disk { name: "/dev/vda".into(), size: disk_mib << 20 }];
                tx.put_machine(&machine)?;
                let event = StoredEvent { time: NOW, event: ProvisioningEvent::Waiting, message: String::new() };
                record_event(tx, id, event, None)
            })
            .unwrap();
    }

    fn request() -> AllocateRequest {
        AllocateRequest {
            imageid: "debian-12.0".into(),
            hostname: "web-1".into(),
            ssh_pub_keys: vec![KEY.into()],
            ..AllocateRequest::default()
        }
    }

    fn try_allocate(store: &Store, request: &AllocateRequest) -> Result<MachineRecord, Refusal> {
        store.run_blocking(|tx| allocate(tx, request, "tester", "lab", NOW))
    }

    /// Status and text of the refusal.
    fn refusal(store: &Store, request: &AllocateRequest) -> (u16, String) {
        let refusal = try_allocate(store, request).err().unwrap();
        (refusal.status(), refusal.to_string())
    }

    #[test]
    fn gives_the_only_waiting_machine_with_the_newest_image_and_the_partitions_servers() {
        let store = lab();
        add_machine(&store, "m", "small", true, 1000);
        let allocation = try_allocate(&store, &request()).unwrap().allocation.unwrap();
        assert_eq!(allocation.image.unwrap().id, "debian-12.0.20260701");
        assert_eq!(allocation.filesystemlayout.unwrap().id, "vm");
        assert_eq!((allocation.hostname.as_str(), allocation.name.as_str()), ("web-1", "web-1"));
        assert_eq!(allocation.dns_servers, [DnsServer { ip: "10.77.0.1".into() }]);
        assert_eq!(allocation.ntp_servers, [NtpServer { address: "10.77.0.1".into() }]);
        assert_eq!(allocation.networks, []);
        assert_eq!(refusal(&store, &request()), (422, "no machine available".into()));
    }

    #[test]
    fn own_servers_replace_the_partitions_as_a_whole_and_each_kind_by_itself() {
        let store = lab();
        add_machine(&store, "m", "small", true, 1000);
        let own = AllocateRequest { ntp_servers: vec![NtpServer { address: "10.9.9.9".into() }], ..request() };
        let allocation = try_allocate(&store, &own).unwrap().allocation.unwrap();
        assert_eq!(allocation.ntp_servers, own.ntp_servers);
        assert_eq!(allocation.dns_servers, [DnsServer { ip: "10.77.0.1".into() }]);
    }

    #[test]
    fn refuses_with_the_name_of_the_field() {
        let store = lab();
        add_machine(&store, "m", "small", true, 1000);
        let dns = |n| vec![DnsServer { ip: "10.0.0.1".into() }; n];
        let ntp = |n| vec![NtpServer { address: "10.0.0.1".into() }; n];
        let network = NetworkRequest { networkid: "n1".into(), autoacquire: None };
        let cases = [
            (AllocateRequest { imageid: String::new(), ..request() }, 400, "imageid: missing"),
            (AllocateRequest { imageid: "debian-13.0".into(), ..request() }, 400, "imageid: no image"),
            (AllocateRequest { imageid: "debian".into(), ..request() }, 400, "image id: expected"),
            (AllocateRequest { hostname: String::new(), ..request() }, 400, "hostname: missing"),
            (AllocateRequest { hostname: "a.b".into(), ..request() }, 400, "hostname: expected"),
            (AllocateRequest { hostname: "-a".into(), ..request() }, 400, "hostname: expected"),
            (
                AllocateRequest { ssh_pub_keys: vec![KEY.into(), "x".into()], ..request() },
                400,
                "ssh_pub_keys[1]: does not",
            ),
            (AllocateRequest { dns_servers: dns(4), ..request() }, 400, "dns_servers: expected at most 3, found 4"),
            (AllocateRequest { ntp_servers: ntp(6), ..request() }, 400, "ntp_servers: expected at most 5, found 6"),
            (AllocateRequest { partitionid: "p".into(), ..request() }, 400, "partitionid: no partition"),
            (AllocateRequest { sizeid: "s".into(), ..request() }, 400, "sizeid: no size"),
            (AllocateRequest { networks: vec![network], ..request() }, 400, "networks[0]: no network"),
            (AllocateRequest { filesystemlayoutid: Some("l".into()), ..request() }, 404, "filesystemlayoutid: no"),
            (AllocateRequest { uuid: Some("x".into()), ..request() }, 404, "no machine with id \"x\""),
        ];
        for (request, status, expected) in cases {
            let (found_status, text) = refusal(&store, &request);
            assert!(found_status == status && text.contains(expected), "{expected}: {found_status} {text}");
        }
        assert!(try_allocate(&store, &request()).is_ok(), "no refusal left a trace");
    }

    #[test]
    fn without_a_size_only_a_single_waiting_machine_is_given() {
        let store = lab();
        add_machine(&store, "a", "small", true, 1000);
        add_machine(&store, "b", "small", true, 1000);
        assert_eq!(refusal(&store, &request()).1, "sizeid: missing, and 2 machines wait; name a size or a machine");
        let small = AllocateRequest { sizeid: "small".into(), ..request() };
        let first = try_allocate(&store, &small).unwrap().id;
        let second = try_allocate(&store, &small).unwrap().id;
        assert_ne!(first, second);
    }

    #[test]
    fn silent_locked_and_not_waiting_machines_are_given_by_id_only() {
        let store = lab();
        add_machine(&store, "m", "small", false, 1000);
        assert_eq!(refusal(&store, &request()).1, "no machine available");
        let named = AllocateRequest { uuid: Some("m".into()), ..request() };
        assert_eq!(try_allocate(&store, &named).unwrap().id, "m");
        assert_eq!(refusal(&store, &named), (422, "machine \"m\" is allocated already".into()));

        add_machine(&store, "silent", "small", true, 1000);
        let late = NOW + Duration::minutes(6);
        let refused = store.run_blocking(|tx| allocate(tx, &request(), "tester", "lab", late));
        assert_eq!(refused.err().unwrap().to_string(), "no machine available");
    }

    #[test]
    fn a_machine_of_unknown_size_is_given_by_id_with_a_layout() {
        let store = lab();
        add_machine(&store, "m", sizes::UNKNOWN, true, 1000);
        let named = AllocateRequest { uuid: Some("m".into()), ..request() };
        let (status, text) = refusal(&store, &named);
        assert!(status == 422 && text.starts_with("filesystemlayoutid: missing"), "{text}");
        let with_layout = AllocateRequest { filesystemlayoutid: Some("vm".into()), ..named };
        assert!(try_allocate(&store, &with_layout).is_ok());
    }

    #[test]
    fn a_layout_that_does_not_fit_is_refused() {
        let store = lab();
        add_machine(&store, "m", "small", true, 499);
        let (status, text) = refusal(&store, &request());
        assert!(status == 422 && text.contains("disk /dev/vda has 499 MiB, its partitions need 500 MiB"), "{text}");
    }

    #[test]
    fn null_is_an_empty_list() {
        let store = lab();
        add_machine(&store, "m", "small", true, 1000);
        let request: AllocateRequest = serde_json::from_str(
            r#"{"imageid":"debian-12.0","hostname":"a","ssh_pub_keys":null,"networks":null,"dns_servers":null,"tags":null}"#,
        )
        .unwrap();
        assert!(try_allocate(&store, &request).is_ok());
    }
}

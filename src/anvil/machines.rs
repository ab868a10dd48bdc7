//! A machine's record and what happens to it: events, registration, the end of an installation, its release.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::config::PartitionConfig;
use super::fsm::{self, Container, StoredEvent};
use super::progress;
use super::records::{self, Signers};
use super::refusal::Refusal;
use super::sizes::{self, Matching, Size, Verdict};
use super::state::{Anvil, Endpoints};
use super::store::Tx;
use crate::api::event::ProvisioningEvent;
use crate::api::grpc;
use crate::api::progress::Note;
use crate::api::rest;

/// How often the liveliness of all machines is judged.
pub const LIVELINESS_PERIOD: std::time::Duration = std::time::Duration::from_secs(30);
/// REST shows this many events.
pub const SHOWN_EVENTS: u32 = 20;
/// Progress reports come every few seconds; a container this fresh is not written for them.
const FRESH: time::Duration = time::Duration::seconds(10);

/// A machine as it is stored. Not `Debug`: it holds passwords.
#[derive(Clone, Serialize, Deserialize)]
pub struct MachineRecord {
    /// The UUID, lower case.
    pub id: String,
    pub partition: String,
    /// [`sizes::UNKNOWN`] when no single size matches; empty before the first registration.
    pub size: String,
    /// Why the size is unknown.
    #[serde(default)]
    pub size_fault: Option<String>,
    #[serde(default)]
    pub rack: String,
    pub hardware: Hardware,
    pub bios: rest::Bios,
    #[serde(default)]
    pub ipmi: Option<Ipmi>,
    pub state: rest::State,
    pub led: rest::LedState,
    pub tags: Vec<String>,
    /// A `Wait` call is open, or was when it broke off.
    pub waiting: bool,
    pub allocation: Option<rest::Allocation>,
    /// The image of the last report: what is on the disk, whatever the allocation says.
    #[serde(default)]
    pub installed_image: Option<rest::Image>,
    #[serde(default)]
    pub console_password: Option<String>,
    /// Fingerprint of what its agent's SSH server shows, in this boot.
    #[serde(default)]
    pub ssh_host_key: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub changed: OffsetDateTime,
}

/// [`rest::Hardware`] with what REST leaves out: host names of neighbours.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Hardware {
    /// Bytes.
    pub memory: u64,
    pub disks: Vec<rest::Disk>,
    pub cpus: Vec<rest::Cpu>,
    pub gpus: Vec<rest::Gpu>,
    pub nics: Vec<Nic>,
}

/// A network interface, or a neighbour's.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Nic {
    pub mac: String,
    pub name: String,
    pub hostname: String,
    pub identifier: String,
    pub neighbors: Vec<Nic>,
}

/// The way to the machine's BMC. Not `Debug`: it holds a password.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Ipmi {
    pub address: String,
    pub mac: String,
    pub user: String,
    pub password: String,
    pub interface: String,
    pub bmc_version: String,
    pub power_state: String,
}

/// A partition, as `GET /v1/partition` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    pub id: String,
    pub name: String,
    pub description: String,
    pub bootconfig: PartitionBoot,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<rest::DnsServer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp_servers: Vec<rest::NtpServer>,
}

/// What machines of a partition boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionBoot {
    pub kernelurl: String,
    /// URL of the initrd.
    pub imageurl: String,
    pub commandline: String,
}

impl Partition {
    /// The partition of the configuration file, with the URLs under which anvil serves its files.
    pub fn from_config(config: &PartitionConfig, endpoints: Endpoints) -> Self {
        let url = |file: &Option<std::path::PathBuf>, name: &str| {
            if file.is_some() { format!("{}/boot/{name}", endpoints.http_url()) } else { String::new() }
        };
        Self {
            id: config.id.clone(),
            name: config.id.clone(),
            description: String::new(),
            bootconfig: PartitionBoot {
                kernelurl: url(&config.bootconfig.kernel, "kernel"),
                imageurl: url(&config.bootconfig.initrd, "initrd"),
                commandline: config.commandline(),
            },
            dns_servers: config.dns_servers.clone(),
            ntp_servers: config.ntp_servers.clone(),
        }
    }
}

impl MachineRecord {
    /// A machine of which only the id is known.
    pub fn new(id: &str, now: OffsetDateTime) -> Self {
        Self {
            id: id.to_owned(),
            partition: String::new(),
            size: String::new(),
            size_fault: None,
            rack: String::new(),
            hardware: Hardware::default(),
            bios: rest::Bios::default(),
            ipmi: None,
            state: rest::State::default(),
            led: rest::LedState::default(),
            tags: Vec::new(),
            waiting: false,
            allocation: None,
            installed_image: None,
            console_password: None,
            ssh_host_key: None,
            created: now,
            changed: now,
        }
    }

    /// Whether its disk holds the system of its allocation, and no other is to come onto it.
    pub fn is_installed(&self) -> bool {
        self.allocation.as_ref().is_some_and(|allocation| allocation.boot_info.is_some() && !allocation.reinstall)
    }
}

/// RFC 3339, as all times go over the wire.
pub fn format_time(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

/// Takes in one event from outside, at the server's time. A machine not known yet is created empty.
pub async fn receive_event(anvil: &Anvil, id: &str, event: ProvisioningEvent, message: &str) -> Result<(), Refusal> {
    if id.is_empty() {
        return Err(Refusal::BadRequest("machine id is empty".to_owned()));
    }
    let note = match event {
        ProvisioningEvent::Alive => Note::parse(message),
        _ => None,
    };
    if progress::ends_steps(event) {
        anvil.live.clear(id);
    }
    if let Some(note) = &note {
        anvil.live.note(id, note);
    }
    let now = OffsetDateTime::now_utc();
    let record = match &note {
        Some(Note::Record(record)) => {
            let signers = if anvil.config.require_enrolment { Signers::Machine } else { Signers::Agents };
            Some((record.kind, records::judge(&anvil.pki.ca_cert, signers, id, record.clone(), now)))
        }
        Some(Note::Phase(_) | Note::Progress(_) | Note::SshHostKey(_)) | None => None,
    };
    let incoming = StoredEvent { time: now, event, message: message.to_owned() };
    let machine = id.to_owned();
    let kept = move |tx: &Tx<'_>| {
        record_event(tx, &machine, incoming, note)?;
        record.map_or(Ok(()), |(kind, record)| records::keep(tx, &machine, kind, &record))
    };
    anvil.store.run(kept).await
}

/// Applies an event to the machine's container, list and phases.
pub fn record_event(tx: &Tx<'_>, id: &str, incoming: StoredEvent, note: Option<Note>) -> Result<(), Refusal> {
    let mut machine = match tx.machine(id)? {
        Some(machine) => machine,
        None => {
            let machine = MachineRecord::new(id, incoming.time);
            tx.put_machine(&machine)?;
            machine
        }
    };
    record_ssh_host_key(tx, &mut machine, incoming.event, note.as_ref())?;
    let before = tx.container(id)?;
    let newest = tx.events(id, 1)?.first().map(|event| event.event);
    let event = incoming.event;
    let now = incoming.time;
    let effect = fsm::apply(&before, newest, incoming);
    record_phases(tx, &machine, event, &note)?;
    if matches!(note, Some(Note::Progress(_))) && is_fresh(&before, &effect.container, now) {
        return Ok(());
    }
    if effect.container != before {
        tx.put_container(id, &effect.container)?;
    }
    if let Some(event) = &effect.store {
        tx.push_event(id, event)?;
    }
    Ok(())
}

/// Each boot makes a new key; the old one is worth nothing from then on.
fn record_ssh_host_key(
    tx: &Tx<'_>,
    machine: &mut MachineRecord,
    event: ProvisioningEvent,
    note: Option<&Note>,
) -> Result<(), Refusal> {
    let host_key = match (event, note) {
        (ProvisioningEvent::PxeBooting | ProvisioningEvent::Preparing | ProvisioningEvent::BootingNewKernel, _) => None,
        (_, Some(Note::SshHostKey(fingerprint))) => Some(fingerprint.clone()),
        _ => return Ok(()),
    };
    if machine.ssh_host_key != host_key {
        machine.ssh_host_key = host_key;
        tx.put_machine(machine)?;
    }
    Ok(())
}

/// Whether the containers differ only in a time of a few seconds.
fn is_fresh(before: &Container, after: &Container, now: OffsetDateTime) -> bool {
    let same_but_time = Container { last_event_time: before.last_event_time, ..after.clone() } == *before;
    same_but_time && before.last_event_time.is_some_and(|last| now - last < FRESH)
}

fn record_phases(
    tx: &Tx<'_>,
    machine: &MachineRecord,
    event: ProvisioningEvent,
    note: &Option<Note>,
) -> Result<(), Refusal> {
    match event {
        // A machine on its way to its installed system keeps the story of its installation.
        ProvisioningEvent::PxeBooting if !machine.is_installed() => tx.put_phases(&machine.id, &[]),
        ProvisioningEvent::Preparing => tx.put_phases(&machine.id, &[]),
        _ => {
            let Some(Note::Phase(phase)) = note else { return Ok(()) };
            let mut phases = tx.phases(&machine.id)?;
            if progress::merge_phase(&mut phases, phase.clone()) {
                tx.put_phases(&machine.id, &phases)?;
            }
            Ok(())
        }
    }
}

/// What a registration answers.
pub struct Registered {
    pub size: String,
    pub partition: String,
}

/// Stores what an agent found. `hardware` and `bios` were checked to be there.
pub fn register(
    tx: &Tx<'_>,
    request: &grpc::BootServiceRegisterRequest,
    hardware: &grpc::MachineHardware,
    bios: &grpc::MachineBios,
    matching: Matching,
    now: OffsetDateTime,
) -> Result<Registered, Refusal> {
    let mut machine = match tx.machine(&request.uuid)? {
        Some(machine) if !machine.size.is_empty() => machine,
        // New, or created empty by an event that came first.
        known => MachineRecord {
            tags: request.tags.clone(),
            led: rest::LedState { value: "LED-OFF".to_owned(), description: "Machine registered".to_owned() },
            ..known.unwrap_or_else(|| MachineRecord::new(&request.uuid, now))
        },
    };
    machine.hardware = hardware_from_wire(hardware);
    set_size(&mut machine, &tx.all::<Size>()?, matching);
    machine.bios = rest::Bios { version: bios.version.clone(), vendor: bios.vendor.clone(), date: bios.date.clone() };
    machine.ipmi = request.ipmi.as_ref().map(ipmi_from_wire);
    machine.state.metal_hammer_version = request.metal_hammer_version.clone();
    machine.partition = request.partition_id.clone();
    machine.changed = now;
    tx.put_machine(&machine)?;
    let container = tx.container(&machine.id)?;
    tx.put_container(&machine.id, &container)?;
    Ok(Registered { size: machine.size, partition: machine.partition })
}

/// Gives the machine the size that its hardware has. Returns whether anything is new.
fn set_size(machine: &mut MachineRecord, sizes: &[Size], matching: Matching) -> bool {
    let verdict = sizes::judge(sizes, &hardware_to_rest(&machine.hardware), matching);
    let fault = verdict.id.is_none().then(|| verdict.to_string());
    let size = verdict.id.unwrap_or_else(|| sizes::UNKNOWN.to_owned());
    let is_new = machine.size != size || machine.size_fault != fault;
    machine.size = size;
    machine.size_fault = fault;
    is_new
}

/// Judges the sizes of all machines anew that nobody has been given, after sizes or their rules changed. metal-api
/// waits for the next registration instead. A machine that never registered stays without a size.
pub fn judge_sizes(tx: &Tx<'_>, matching: Matching, now: OffsetDateTime) -> Result<(), Refusal> {
    let sizes = tx.all::<Size>()?;
    for mut machine in tx.machines()? {
        if machine.size.is_empty() || machine.allocation.is_some() {
            continue;
        }
        let before = machine.size.clone();
        if !set_size(&mut machine, &sizes, matching) {
            continue;
        }
        if machine.size != before {
            let reason = machine.size_fault.as_deref();
            tracing::info!(machine = %machine.id, %before, size = %machine.size, reason, "the machine's size changed");
        }
        machine.changed = now;
        tx.put_machine(&machine)?;
    }
    Ok(())
}

/// Every size tried on what the machine registered with.
pub fn size_verdict(tx: &Tx<'_>, machine: &MachineRecord, matching: Matching) -> Result<Verdict, Refusal> {
    Ok(sizes::judge(&tx.all::<Size>()?, &hardware_to_rest(&machine.hardware), matching))
}

/// Sets or resets the flag of an open `Wait` call. Returns whether the machine is allocated.
pub fn set_waiting(tx: &Tx<'_>, id: &str, waiting: bool) -> Result<bool, Refusal> {
    let mut machine = tx.expect_machine(id)?;
    let allocated = machine.allocation.is_some();
    let waiting = waiting && !allocated;
    if machine.waiting != waiting {
        machine.waiting = waiting;
        tx.put_machine(&machine)?;
    }
    Ok(allocated)
}

/// Records that the installation is done.
pub fn report(tx: &Tx<'_>, request: &grpc::BootServiceReportRequest, now: OffsetDateTime) -> Result<(), Refusal> {
    let mut machine = tx.expect_machine(&request.uuid)?;
    let Some(boot) = &request.boot_info else {
        return Err(Refusal::BadRequest(format!("the report of machine {:?} has no boot_info", request.uuid)));
    };
    let Some(allocation) = &mut machine.allocation else {
        return Err(Refusal::Unprocessable(format!("machine {:?} is not allocated", request.uuid)));
    };
    let image_id = allocation.image.as_ref().map(|image| image.id.clone()).unwrap_or_default();
    allocation.boot_info = Some(rest::BootInfo {
        image_id,
        primary_disk: boot.primary_disk.clone(),
        os_partition: boot.os_partition.clone(),
        initrd: boot.initrd.clone(),
        cmdline: boot.cmdline.clone(),
        kernel: boot.kernel.clone(),
        bootloaderid: boot.bootloader_id.clone(),
    });
    allocation.reinstall = false;
    machine.installed_image = allocation.image.clone();
    machine.console_password = Some(request.console_password.clone());
    machine.changed = now;
    tx.put_machine(&machine)
}

/// Gives up a reinstallation. With the primary disk untouched, the machine goes back to what the last report said.
pub fn abort_reinstall(
    tx: &Tx<'_>,
    id: &str,
    primary_disk_wiped: bool,
    now: OffsetDateTime,
) -> Result<Option<rest::BootInfo>, Refusal> {
    let mut machine = tx.expect_machine(id)?;
    let Some(allocation) = machine.allocation.as_mut().filter(|_| !primary_disk_wiped) else { return Ok(None) };
    allocation.reinstall = false;
    if let Some(installed) = &machine.installed_image {
        allocation.image = Some(installed.clone());
    }
    let boot_info = allocation.boot_info.clone();
    machine.changed = now;
    tx.put_machine(&machine)?;
    Ok(boot_info)
}

/// Takes the allocation away. What happened to the sizes meanwhile shows now.
pub fn free(tx: &Tx<'_>, id: &str, matching: Matching, now: OffsetDateTime) -> Result<(), Refusal> {
    let mut machine = tx.expect_machine(id)?;
    refuse_locked(&machine)?;
    let message = match machine.allocation.take() {
        Some(allocation) => format!("freed, was {} of project {:?}", allocation.hostname, allocation.project),
        None => "freed, was not allocated".to_owned(),
    };
    machine.installed_image = None;
    machine.console_password = None;
    machine.tags.clear();
    if !machine.size.is_empty() {
        set_size(&mut machine, &tx.all::<Size>()?, matching);
    }
    machine.changed = now;
    tx.put_machine(&machine)?;
    record_event(tx, id, StoredEvent { time: now, event: ProvisioningEvent::MachineReclaim, message }, None)
}

/// Marks an allocated machine for another installation at its next network boot.
pub fn reinstall(tx: &Tx<'_>, id: &str, image_id: &str, now: OffsetDateTime) -> Result<(), Refusal> {
    let mut machine = tx.expect_machine(id)?;
    refuse_locked(&machine)?;
    let Some(allocation) = &mut machine.allocation else {
        return Err(Refusal::BadRequest(format!("machine {id:?} is not allocated")));
    };
    let image: rest::Image = tx
        .get(image_id)?
        .ok_or_else(|| Refusal::BadRequest(format!("imageid: no image with id {image_id:?} found")))?;
    let wipes = allocation.filesystemlayout.as_ref().is_some_and(|l| l.disks.iter().any(|d| d.wipeonreinstall));
    if !wipes {
        return Err(Refusal::BadRequest(format!(
            "machine {id:?} can't be reinstalled: no disk of its filesystemlayout has wipeonreinstall"
        )));
    }
    allocation.image = Some(image);
    allocation.reinstall = true;
    machine.changed = now;
    tx.put_machine(&machine)
}

fn refuse_locked(machine: &MachineRecord) -> Result<(), Refusal> {
    if machine.state.value == "LOCKED" {
        return Err(Refusal::Unprocessable(format!("machine {:?} is locked", machine.id)));
    }
    Ok(())
}

/// Judges the liveliness of all machines anew.
pub fn judge_liveliness(tx: &Tx<'_>, now: OffsetDateTime) -> Result<(), Refusal> {
    for machine in tx.machines()? {
        let mut container = tx.container(&machine.id)?;
        let liveliness = fsm::judge_liveliness(&container, machine.allocation.is_some(), now);
        if container.liveliness != liveliness {
            tracing::info!(machine = %machine.id, liveliness = liveliness.as_str(), "liveliness changed");
            container.liveliness = liveliness;
            tx.put_container(&machine.id, &container)?;
        }
    }
    Ok(())
}

/// The machine as REST shows it, without live progress.
pub fn show(tx: &Tx<'_>, machine: &MachineRecord) -> Result<rest::Machine, Refusal> {
    let container = tx.container(&machine.id)?;
    let log = tx.events(&machine.id, SHOWN_EVENTS)?.iter().map(event_to_rest).collect();
    let reference = |id: &str| (!id.is_empty()).then(|| rest::Reference { id: id.to_owned() });
    let phases = tx.phases(&machine.id)?;
    Ok(rest::Machine {
        id: machine.id.clone(),
        name: machine.allocation.as_ref().map(|a| a.name.clone()).unwrap_or_default(),
        description: match &machine.allocation {
            Some(allocation) => allocation.description.clone(),
            // Of use just as long as somebody may wonder why the machine is not given out.
            None => machine.size_fault.as_ref().map(|fault| format!("size unknown: {fault}")).unwrap_or_default(),
        },
        partition: reference(&machine.partition),
        size: reference(&machine.size),
        rackid: machine.rack.clone(),
        hardware: hardware_to_rest(&machine.hardware),
        bios: machine.bios.clone(),
        allocation: machine.allocation.clone(),
        state: machine.state.clone(),
        ledstate: machine.led.clone(),
        liveliness: container.liveliness.as_str().to_owned(),
        events: rest::EventLog {
            log,
            last_event_time: container.last_event_time.map(format_time),
            last_error_event: container.last_error_event.as_ref().map(event_to_rest),
            crash_loop: container.crash_loop,
            failed_machine_reclaim: container.failed_machine_reclaim,
        },
        tags: machine.tags.clone(),
        created: format_time(machine.created),
        changed: format_time(machine.changed),
        provisioning: (!phases.is_empty()).then_some(rest::Provisioning { phases, progress: None }),
        enrolment: tx.enrolment(&machine.id)?.map(|enrolled| enrolled.standing),
        ssh_host_key: machine.ssh_host_key.clone(),
    })
}

/// Adds what only the memory knows.
pub fn add_live_progress(anvil: &Anvil, machine: &mut rest::Machine) {
    if let Some(progress) = anvil.live.get(&machine.id) {
        machine.provisioning.get_or_insert_default().progress = Some(progress);
    }
}

/// A stored event as REST shows it.
pub fn event_to_rest(event: &StoredEvent) -> rest::Event {
    rest::Event {
        time: format_time(event.time),
        event: event.event.as_str().to_owned(),
        message: event.message.clone(),
    }
}

fn hardware_from_wire(hardware: &grpc::MachineHardware) -> Hardware {
    Hardware {
        memory: hardware.memory,
        disks: hardware.disks.iter().map(|d| rest::Disk { name: d.name.clone(), size: d.size }).collect(),
        cpus: hardware
            .cpus
            .iter()
            .map(|c| rest::Cpu { vendor: c.vendor.clone(), model: c.model.clone(), cores: c.cores, threads: c.threads })
            .collect(),
        gpus: hardware.gpus.iter().map(|g| rest::Gpu { vendor: g.vendor.clone(), model: g.model.clone() }).collect(),
        nics: hardware.nics.iter().map(nic_from_wire).collect(),
    }
}

/// Neighbours have no neighbours of their own, so a frame that nests deeper is cut there.
fn nic_from_wire(nic: &grpc::MachineNic) -> Nic {
    let flat = |nic: &grpc::MachineNic| Nic {
        mac: nic.mac.clone(),
        name: nic.name.clone(),
        hostname: nic.hostname.clone(),
        identifier: nic.identifier.clone(),
        neighbors: Vec::new(),
    };
    Nic { neighbors: nic.neighbors.iter().map(flat).collect(), ..flat(nic) }
}

fn hardware_to_rest(hardware: &Hardware) -> rest::Hardware {
    rest::Hardware {
        memory: hardware.memory,
        cpu_cores: 0,
        disks: hardware.disks.clone(),
        cpus: hardware.cpus.clone(),
        gpus: hardware.gpus.clone(),
        nics: hardware.nics.iter().map(nic_to_rest).collect(),
    }
}

fn nic_to_rest(nic: &Nic) -> rest::Nic {
    rest::Nic {
        mac: nic.mac.clone(),
        name: nic.name.clone(),
        identifier: nic.identifier.clone(),
        neighbors: nic.neighbors.iter().map(nic_to_rest).collect(),
    }
}

fn ipmi_from_wire(ipmi: &grpc::MachineIpmi) -> Ipmi {
    Ipmi {
        address: ipmi.address.clone(),
        mac: ipmi.mac.clone(),
        user: ipmi.user.clone(),
        password: ipmi.password.clone(),
        interface: ipmi.interface.clone(),
        bmc_version: ipmi.bmc_version.clone(),
        power_state: ipmi.power_state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anvil::store::{MAX_EVENTS, Store};
    use crate::api::progress::{Phase, PhaseState, Progress};
    use time::Duration;
    use time::macros::datetime;

    const THEN: OffsetDateTime = datetime!(2026-01-02 03:00:00 UTC);

    fn event(event: ProvisioningEvent, seconds: i64) -> StoredEvent {
        StoredEvent { time: THEN + Duration::seconds(seconds), event, message: String::new() }
    }

    fn with_tx<T>(store: &Store, work: impl FnOnce(&Tx<'_>) -> Result<T, Refusal>) -> T {
        store.run_blocking(work).unwrap()
    }

    #[test]
    fn an_event_creates_the_machine_and_the_newest_hundred_are_kept() {
        let store = Store::in_memory().unwrap();
        with_tx(&store, |tx| {
            for n in 0..150 {
                record_event(tx, "m", event(ProvisioningEvent::PlannedReboot, n), None)?;
            }
            let events = tx.events("m", 1000)?;
            assert_eq!(events.len(), usize::try_from(MAX_EVENTS).unwrap());
            assert_eq!(events[0].time, THEN + Duration::seconds(149));
            assert_eq!(events[99].time, THEN + Duration::seconds(50));
            let shown = show(tx, &tx.expect_machine("m")?)?;
            assert_eq!(shown.events.log.len(), 20);
            Ok(())
        });
    }

    #[test]
    fn phases_belong_to_the_newest_boot() {
        let store = Store::in_memory().unwrap();
        let phase = Phase { name: "network".into(), state: PhaseState::Done, start_ms: 1, took_ms: 2 };
        with_tx(&store, |tx| {
            record_event(tx, "m", event(ProvisioningEvent::PxeBooting, 0), None)?;
            record_event(tx, "m", event(ProvisioningEvent::Alive, 1), Some(Note::Phase(phase.clone())))?;
            assert_eq!(show(tx, &tx.expect_machine("m")?)?.provisioning.unwrap().phases, [phase]);
            record_event(tx, "m", event(ProvisioningEvent::Preparing, 2), None)?;
            assert_eq!(show(tx, &tx.expect_machine("m")?)?.provisioning, None);
            Ok(())
        });
    }

    #[test]
    fn progress_does_not_write_a_fresh_container() {
        let store = Store::in_memory().unwrap();
        let note = Progress { step: "image".into(), done: 1, total: None, rate: 1, left_s: None };
        with_tx(&store, |tx| {
            record_event(tx, "m", event(ProvisioningEvent::Preparing, 0), None)?;
            record_event(tx, "m", event(ProvisioningEvent::Alive, 9), Some(Note::Progress(note.clone())))?;
            assert_eq!(tx.container("m")?.last_event_time, Some(THEN));
            record_event(tx, "m", event(ProvisioningEvent::Alive, 10), Some(Note::Progress(note)))?;
            assert_eq!(tx.container("m")?.last_event_time, Some(THEN + Duration::seconds(10)));
            record_event(tx, "m", event(ProvisioningEvent::Alive, 11), None)?;
            assert_eq!(tx.container("m")?.last_event_time, Some(THEN + Duration::seconds(11)));
            Ok(())
        });
    }

    #[test]
    fn a_silent_machine_is_dead_or_unknown() {
        let store = Store::in_memory().unwrap();
        with_tx(&store, |tx| {
            for id in ["free", "taken"] {
                record_event(tx, id, event(ProvisioningEvent::Preparing, 0), None)?;
            }
            let mut taken = tx.expect_machine("taken")?;
            taken.allocation = Some(rest::Allocation::default());
            tx.put_machine(&taken)?;
            judge_liveliness(tx, THEN + Duration::minutes(6))?;
            assert_eq!(tx.container("free")?.liveliness, fsm::Liveliness::Dead);
            assert_eq!(tx.container("taken")?.liveliness, fsm::Liveliness::Unknown);
            record_event(tx, "free", event(ProvisioningEvent::Alive, 400), None)?;
            assert_eq!(tx.container("free")?.liveliness, fsm::Liveliness::Alive);
            Ok(())
        });
    }

    #[test]
    fn an_aborted_reinstallation_goes_back_to_the_installed_image() {
        let store = Store::in_memory().unwrap();
        let image = |id: &str| rest::Image { id: id.into(), ..rest::Image::default() };
        let boot = grpc::BootInfo { kernel: "/boot/vmlinuz".into(), ..grpc::BootInfo::default() };
        with_tx(&store, |tx| {
            tx.put(&image("debian-12.0.2"))?;
            let mut machine = MachineRecord::new("m", THEN);
            let disk = crate::api::layout::Disk { wipeonreinstall: true, ..Default::default() };
            machine.allocation = Some(rest::Allocation {
                image: Some(image("debian-12.0.1")),
                filesystemlayout: Some(crate::api::layout::FilesystemLayout {
                    disks: vec![disk],
                    ..Default::default()
                }),
                ..rest::Allocation::default()
            });
            tx.put_machine(&machine)?;
            let request = grpc::BootServiceReportRequest {
                uuid: "m".into(),
                boot_info: Some(boot),
                ..grpc::BootServiceReportRequest::default()
            };
            report(tx, &request, THEN)?;
            assert!(tx.expect_machine("m")?.is_installed());

            reinstall(tx, "m", "debian-12.0.2", THEN)?;
            assert!(!tx.expect_machine("m")?.is_installed());
            assert_eq!(abort_reinstall(tx, "m", true, THEN)?, None);
            assert!(!tx.expect_machine("m")?.is_installed(), "a wiped disk must not be booted");

            let boot_info = abort_reinstall(tx, "m", false, THEN)?.unwrap();
            assert_eq!(boot_info.kernel, "/boot/vmlinuz");
            let machine = tx.expect_machine("m")?;
            assert!(machine.is_installed());
            assert_eq!(machine.allocation.unwrap().image.unwrap().id, "debian-12.0.1");
            Ok(())
        });
    }

    #[test]
    fn a_locked_machine_is_not_freed() {
        let store = Store::in_memory().unwrap();
        with_tx(&store, |tx| {
            let mut machine = MachineRecord::new("m", THEN);
            machine.state.value = "LOCKED".into();
            tx.put_machine(&machine)?;
            assert!(matches!(free(tx, "m", Matching::default(), THEN), Err(Refusal::Unprocessable(_))));
            Ok(())
        });
    }

    #[test]
    fn a_change_of_sizes_reaches_all_machines_that_nobody_has() {
        use crate::anvil::sizes::{Constraint, Kind};
        let store = Store::in_memory().unwrap();
        let constraint = |kind, max| Constraint { kind, min: 0, max, ..Constraint::default() };
        let size = |id: &str, max_memory| Size {
            id: id.into(),
            constraints: vec![constraint(Kind::Memory, max_memory), constraint(Kind::Cores, 8)],
            ..Size::default()
        };
        let add = |tx: &Tx<'_>, id: &str, size: &str, allocated: bool| {
            let mut machine = MachineRecord::new(id, THEN);
            machine.size = size.into();
            machine.hardware.memory = 4096;
            machine.allocation = allocated.then(rest::Allocation::default);
            tx.put_machine(&machine)
        };
        let size_of = |tx: &Tx<'_>, id: &str| tx.expect_machine(id).map(|machine| (machine.size, machine.size_fault));
        with_tx(&store, |tx| {
            add(tx, "free", sizes::UNKNOWN, false)?;
            add(tx, "taken", "old", true)?;
            add(tx, "never-registered", "", false)?;
            tx.put(&size("a", 8192))?;
            judge_sizes(tx, Matching::default(), THEN + Duration::seconds(1))?;
            assert_eq!(size_of(tx, "free")?, ("a".into(), None));
            assert_eq!(tx.expect_machine("free")?.changed, THEN + Duration::seconds(1));
            assert_eq!(size_of(tx, "taken")?.0, "old", "allocated machines keep theirs");
            assert_eq!(size_of(tx, "never-registered")?.0, "");

            judge_sizes(tx, Matching::default(), THEN + Duration::seconds(2))?;
            assert_eq!(tx.expect_machine("free")?.changed, THEN + Duration::seconds(1), "nothing has changed");

            tx.put(&size("a", 1024))?;
            judge_sizes(tx, Matching::default(), THEN)?;
            let (unknown, fault) = size_of(tx, "free")?;
            assert_eq!(unknown, sizes::UNKNOWN);
            assert!(fault.unwrap().starts_with("no size matches; a: memory: expected 0 to 1024 bytes"));

            free(tx, "taken", Matching::default(), THEN)?;
            assert_eq!(size_of(tx, "taken")?.0, sizes::UNKNOWN, "a freed machine is of today's size");
            Ok(())
        });
    }
}

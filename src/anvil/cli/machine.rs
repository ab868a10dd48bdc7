//! `anvil machine`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::connection::Connection;
use super::{Format, print_json, table};
use crate::anvil::client::Client;
use crate::anvil::sizes::{UNKNOWN, Verdict};
use crate::api::enrolment::Standing;
use crate::api::erasure::{Erasure, SentPlan};
use crate::api::progress::{PhaseState, Progress};
use crate::api::rest::{self, AllocateRequest, DnsServer, EventLog, NtpServer};
use crate::sys::units::Bytes;

#[derive(Subcommand)]
pub(super) enum Machine {
    /// All machines
    List,
    /// One machine, with what is going on
    Show { id: String },
    /// Give a machine to somebody; without an id, one that waits
    Allocate(Box<Allocate>),
    /// Take a machine back
    Free { id: String },
    /// Install another image at the next network boot, keeping the allocation
    Reinstall {
        id: String,
        #[arg(long)]
        image: String,
    },
    /// The newest events, newest first
    Events {
        id: String,
        /// How many, at most 100
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// What became of its disks when they were erased, newest first
    Erasures {
        id: String,
        /// Write the signed records to this directory, one a file, and print their names
        #[arg(long, value_name = "DIR")]
        download: Option<PathBuf>,
    },
    /// What its newest installation was about to do to which disk
    Plan { id: String },
    /// Let a machine have the agents' keys, where that is required; it need not have asked yet
    Admit {
        /// UUID of the machine, or MAC of one of its cards
        #[arg(value_name = "ID|MAC")]
        name: String,
    },
    /// Shut a machine out: its certificate and key are not good any more
    Revoke {
        #[arg(value_name = "ID|MAC")]
        name: String,
    },
    /// Machines that wait to be admitted
    Pending {
        /// Those that were admitted or shut out, too
        #[arg(long)]
        all: bool,
    },
    /// Make a token that admits machines: drophammer.token= on their kernel command line
    Token(super::enrolment::Token),
}

#[derive(Args)]
pub(super) struct Allocate {
    id: Option<String>,
    #[arg(long)]
    image: String,
    /// File system layout; without it, the one made for size and image
    #[arg(long)]
    layout: Option<String>,
    #[arg(long)]
    hostname: String,
    /// File with public keys, or a key itself; may be repeated
    #[arg(long = "ssh-key", value_name = "FILE|KEY")]
    ssh_keys: Vec<String>,
    #[arg(long, default_value = "")]
    project: String,
    #[arg(long, default_value = "")]
    size: String,
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// DNS server instead of the partition's; may be repeated
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// NTP server instead of the partition's; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    ntp: Vec<String>,
}

pub(super) async fn run(command: Machine, connection: &Connection, format: Format) -> Result<()> {
    let client = connection.client()?;
    match command {
        Machine::List => {
            let machines: Vec<rest::Machine> = client.get("/v1/machine").await?;
            match format {
                Format::Json => print_json(&machines),
                Format::Table => print_list(&machines),
            }
        }
        Machine::Show { id } => {
            let machine: rest::Machine = client.get(&machine_path(&id, "")).await?;
            show(&machine, size_match(&client, &machine).await, format)
        }
        Machine::Allocate(allocate) => {
            let request = allocate_request(*allocate)?;
            let machine: rest::Machine = client.post("/v1/machine/allocate", &request).await?;
            print_machine(&machine, format)
        }
        Machine::Free { id } => {
            let machine: rest::Machine = client.delete(&machine_path(&id, "/free")).await?;
            print_machine(&machine, format)
        }
        Machine::Reinstall { id, image } => {
            let body = serde_json::json!({ "id": id, "imageid": image });
            let machine: rest::Machine = client.post(&machine_path(&id, "/reinstall"), &body).await?;
            print_machine(&machine, format)
        }
        Machine::Events { id, limit } => {
            let events: EventLog = client.get(&machine_path(&id, &format!("/event?limit={limit}"))).await?;
            match format {
                Format::Json => print_json(&events),
                Format::Table => print_events(&events),
            }
        }
        Machine::Erasures { id, download } => {
            let erasures: Vec<Erasure> = client.get(&machine_path(&id, "/erasure")).await?;
            match download {
                Some(dir) => super::erasures::download(&erasures, &dir, format),
                None => super::erasures::print(&erasures, format),
            }
        }
        Machine::Plan { id } => {
            let plan: SentPlan = client.get(&machine_path(&id, "/plan")).await?;
            super::erasures::print_plan(&plan, format)
        }
        Machine::Admit { name } => super::enrolment::admit(&client, &name, format).await,
        Machine::Revoke { name } => super::enrolment::revoke(&client, &name, format).await,
        Machine::Pending { all } => super::enrolment::list(&client, all, format).await,
        Machine::Token(token) => super::enrolment::make_token(&client, &token, format).await,
    }
}

/// What kept each size from being that of a machine without one. Servers other than anvil do not tell.
async fn size_match(client: &Client, machine: &rest::Machine) -> Option<Verdict> {
    if size_of(machine) != UNKNOWN {
        return None;
    }
    client.get(&machine_path(&machine.id, "/size-match")).await.ok()
}

/// The machine, and beside what the API shows of it the reasons why it has no size.
fn show(machine: &rest::Machine, size_match: Option<Verdict>, format: Format) -> Result<()> {
    let Some(verdict) = size_match else { return print_machine(machine, format) };
    if format == Format::Json {
        let mut document = serde_json::to_value(machine).context("writing JSON")?;
        document["size_match"] = serde_json::to_value(&verdict).context("writing JSON")?;
        return print_json(&document);
    }
    let mut machine = machine.clone();
    if machine.allocation.is_none() {
        // It says the same in one line.
        machine.description.clear();
    }
    print_machine(&machine, format)?;
    super::print("")?;
    super::print(&super::size::reasons(&verdict).join("\n  "))
}

fn machine_path(id: &str, rest: &str) -> String {
    format!("/v1/machine/{}{rest}", super::connection::segment(id))
}

fn allocate_request(allocate: Allocate) -> Result<AllocateRequest> {
    let user_data = match &allocate.user_data {
        Some(path) => read_text(path)?,
        None => String::new(),
    };
    Ok(AllocateRequest {
        uuid: allocate.id,
        name: allocate.hostname.clone(),
        hostname: allocate.hostname,
        projectid: allocate.project,
        sizeid: allocate.size,
        imageid: allocate.image,
        filesystemlayoutid: allocate.layout,
        ssh_pub_keys: read_keys(&allocate.ssh_keys)?,
        user_data,
        dns_servers: allocate.dns.into_iter().map(|ip| DnsServer { ip }).collect(),
        ntp_servers: allocate.ntp.into_iter().map(|address| NtpServer { address }).collect(),
        ..AllocateRequest::default()
    })
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// An argument with a blank in it is a key; every other names a file with one key a line.
fn read_keys(arguments: &[String]) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for argument in arguments {
        if argument.trim().contains(' ') {
            keys.push(argument.trim().to_owned());
            continue;
        }
        let text = read_text(Path::new(argument))?;
        keys.extend(text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned));
    }
    Ok(keys)
}

fn print_list(machines: &[rest::Machine]) -> Result<()> {
    let rows: Vec<Vec<String>> = machines
        .iter()
        .map(|machine| {
            let allocation = machine.allocation.as_ref();
            vec![
                machine.id.clone(),
                size_of(machine),
                status(machine),
                machine.liveliness.clone(),
                allocation.map(|a| a.hostname.clone()).unwrap_or_default(),
                allocation.and_then(|a| a.image.as_ref()).map(|i| i.id.clone()).unwrap_or_default(),
                doing(machine),
            ]
        })
        .collect();
    table::print(&["ID", "SIZE", "EVENT", "LIVELINESS", "HOSTNAME", "IMAGE", "DOING"], &rows)
}

fn size_of(machine: &rest::Machine) -> String {
    machine.size.as_ref().map(|size| size.id.clone()).unwrap_or_default()
}

/// The newest event, marked when it goes in circles.
fn status(machine: &rest::Machine) -> String {
    let event = machine.events.log.first().map(|event| event.event.clone()).unwrap_or_default();
    if machine.events.crash_loop && event != "Waiting" { format!("{event} (crash loop)") } else { event }
}

/// What the agent is at: progress of a long step, else the running phase.
fn doing(machine: &rest::Machine) -> String {
    match machine.enrolment {
        Some(Standing::Pending) => return "waits to be admitted".to_owned(),
        Some(Standing::Revoked) => return "is shut out".to_owned(),
        Some(Standing::Admitted) | None => {}
    }
    let Some(provisioning) = &machine.provisioning else { return String::new() };
    if let Some(progress) = &provisioning.progress {
        return progress_text(progress);
    }
    let running = provisioning.phases.iter().rev().find(|phase| phase.state == PhaseState::Running);
    running.map(|phase| phase.name.clone()).unwrap_or_default()
}

fn progress_text(progress: &Progress) -> String {
    let mut text = format!("{} {}", progress.step, Bytes(progress.done));
    if let Some(total) = progress.total.filter(|total| *total > 0) {
        let percent = u128::from(progress.done) * 100 / u128::from(total);
        text.push_str(&format!(" of {} ({percent} %)", Bytes(total)));
    }
    text.push_str(&format!(", {}/s", Bytes(progress.rate)));
    if let Some(left) = progress.left_s {
        text.push_str(&format!(", {} left", duration_text(left)));
    }
    text
}

fn duration_text(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

fn print_machine(machine: &rest::Machine, format: Format) -> Result<()> {
    if format == Format::Json {
        return print_json(machine);
    }
    let mut pairs = vec![
        ("id", machine.id.clone()),
        ("partition", machine.partition.as_ref().map(|p| p.id.clone()).unwrap_or_default()),
        ("size", size_of(machine)),
        ("description", machine.description.clone()),
        ("state", machine.state.value.clone()),
        ("agent", machine.state.metal_hammer_version.clone()),
        ("liveliness", machine.liveliness.clone()),
        ("last event", status(machine)),
        ("hardware", hardware_text(&machine.hardware)),
    ];
    for disk in &machine.hardware.disks {
        pairs.push(("disk", format!("{} {}", disk.name, Bytes(disk.size))));
    }
    for nic in &machine.hardware.nics {
        pairs.push(("nic", format!("{} {}", nic.name, nic.mac)));
    }
    if let Some(allocation) = &machine.allocation {
        pairs.extend(allocation_pairs(allocation));
    }
    if let Some(error) = &machine.events.last_error_event {
        pairs.push(("last error", format!("{} {}: {}", error.time, error.event, error.message)));
    }
    if let Some(fingerprint) = &machine.ssh_host_key {
        pairs.push(("ssh host key", fingerprint.clone()));
    }
    if let Some(standing) = machine.enrolment {
        pairs.push(("enrolment", standing.as_str().to_owned()));
    }
    pairs.push(("doing", doing(machine)));
    table::print_pairs(&pairs)?;
    print_phases(machine)
}

fn hardware_text(hardware: &rest::Hardware) -> String {
    let cores: u32 = hardware.cpus.iter().map(|cpu| cpu.cores).sum();
    let mut text = format!("{cores} cores, {} memory", Bytes(hardware.memory));
    if !hardware.gpus.is_empty() {
        text.push_str(&format!(", {} GPUs", hardware.gpus.len()));
    }
    text
}

fn allocation_pairs(allocation: &rest::Allocation) -> Vec<(&'static str, String)> {
    let installed = match (&allocation.boot_info, allocation.reinstall) {
        (_, true) => "to be installed anew at the next network boot",
        (Some(_), false) => "yes",
        (None, false) => "not yet",
    };
    vec![
        ("hostname", allocation.hostname.clone()),
        ("project", allocation.project.clone()),
        ("image", allocation.image.as_ref().map(|image| image.id.clone()).unwrap_or_default()),
        ("layout", allocation.filesystemlayout.as_ref().map(|layout| layout.id.clone()).unwrap_or_default()),
        ("dns servers", allocation.dns_servers.iter().map(|s| s.ip.clone()).collect::<Vec<_>>().join(", ")),
        ("ntp servers", allocation.ntp_servers.iter().map(|s| s.address.clone()).collect::<Vec<_>>().join(", ")),
        ("ssh keys", allocation.ssh_pub_keys.len().to_string()),
        ("installed", installed.to_owned()),
    ]
}

fn print_phases(machine: &rest::Machine) -> Result<()> {
    let Some(provisioning) = machine.provisioning.as_ref().filter(|p| !p.phases.is_empty()) else {
        return Ok(());
    };
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
    let rows: Vec<Vec<String>> = provisioning
        .phases
        .iter()
        .map(|phase| {
            let (state, took) = match phase.state {
                PhaseState::Running => ("running", String::new()),
                PhaseState::Done => ("done", seconds(phase.took_ms)),
                PhaseState::Warned => ("warned", seconds(phase.took_ms)),
                PhaseState::Failed => ("failed", seconds(phase.took_ms)),
            };
            vec![phase.name.clone(), state.to_owned(), seconds(phase.start_ms), took]
        })
        .collect();
    super::print("")?;
    table::print(&["PHASE", "STATE", "START", "TOOK"], &rows)
}

fn print_events(events: &EventLog) -> Result<()> {
    let rows: Vec<Vec<String>> =
        events.log.iter().map(|event| vec![event.time.clone(), event.event.clone(), event.message.clone()]).collect();
    table::print(&["TIME", "EVENT", "MESSAGE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_like_a_sentence() {
        let progress = Progress {
            step: "image".into(),
            done: 104_857_600,
            total: Some(330_301_440),
            rate: 45_000_000,
            left_s: Some(65),
        };
        assert_eq!(progress_text(&progress), "image 104 MB of 330 MB (31 %), 45 MB/s, 1 min 5 s left");
        let open_end = Progress { total: None, left_s: None, ..progress };
        assert_eq!(progress_text(&open_end), "image 104 MB, 45 MB/s");
    }

    #[test]
    fn keys_come_from_files_and_literally() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, "# mine\nssh-ed25519 AAAA me\n\nssh-rsa BBBB\n").unwrap();
        let keys = read_keys(&[file.display().to_string(), " ssh-ed25519 CCCC you\n".into()]).unwrap();
        assert_eq!(keys, ["ssh-ed25519 AAAA me", "ssh-rsa BBBB", "ssh-ed25519 CCCC you"]);
        let error = format!("{:#}", read_keys(&["/nonexistent/key".into()]).unwrap_err());
        assert!(error.contains("reading /nonexistent/key"), "{error}");
    }
}

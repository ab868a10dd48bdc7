//! Asks the disks themselves: health, namespaces, and what is on them.
//!
//! Only of the running machine, and last: a dying disk may keep whoever asks it waiting for ever, so each one is asked
//! on a thread of its own, which is given up after a limit.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::readers::{DISK_LIMIT, each_within};
use super::contents::{Found, find_tool, read_content};
use super::health::{Health, parse_ata_status, parse_nvme_log};
use super::nvme::{
    ControllerFacts, NvmeController, NvmeFacts, add_namespaces, parse_controller, parse_namespace, parse_namespace_list,
};
use super::transport::Transport;
use super::{Disk, Storage};
use crate::sys::nvme::Identify;
use crate::sys::roots::Roots;
use crate::sys::{ata, nvme};

/// Less than a disk's limit, so that the thread ends and can say what took so long. A hard disk that stands still takes
/// ten seconds to spin up, and is then told without its contents.
const COMMAND_LIMIT: Duration = Duration::from_secs(4);

/// What one disk answered; each part that it did not answer has a sentence in `warnings`.
#[derive(Debug, Default)]
struct Answer {
    nvme: Option<NvmeFacts>,
    health: Option<Health>,
    found: Vec<(PathBuf, Found)>,
    warnings: Vec<String>,
}

/// What there is to ask one disk.
#[derive(Clone, Debug)]
struct Question {
    name: String,
    node: PathBuf,
    /// Of the partitions, beside the disk's own.
    partitions: Vec<PathBuf>,
    transport: Option<Transport>,
    tool: Option<PathBuf>,
}

/// Adds to `storage` what its disks and controllers say; gives the sentences on what they did not.
pub(super) fn ask(roots: &Roots, storage: &mut Storage) -> Vec<String> {
    let mut warnings = Vec::new();
    let controllers = storage.nvme_controllers.iter().map(|controller| {
        let (name, node) = (controller.name.clone(), roots.dev.join(&controller.name));
        (controller.name.clone(), (name, node))
    });
    let answers = each_within(DISK_LIMIT, controllers.collect(), |(name, node)| ask_controller(&name, &node));
    for (controller, answer) in storage.nvme_controllers.iter_mut().zip(answers) {
        match answer {
            Ok(answer) => take_controller(controller, answer, &mut warnings),
            Err(given_up) => warnings.push(given_up.to_string()),
        }
    }
    let tool = find_tool();
    let mut disks: Vec<&mut Disk> = storage.disks.iter_mut().filter(|disk| is_worth_asking(disk)).collect();
    if tool.is_none() && !disks.is_empty() {
        warnings.push("disks: blkid is not there, so what is on the disks is not told".to_owned());
    }
    let questions = disks.iter().map(|disk| (disk.name.clone(), question(roots, disk, &tool)));
    let answers = each_within(DISK_LIMIT, questions.collect(), |question| ask_disk(&question));
    for (disk, answer) in disks.iter_mut().zip(answers) {
        match answer {
            Ok(answer) => take_answer(disk, answer, roots, &mut warnings),
            Err(given_up) => warnings.push(given_up.to_string()),
        }
    }
    warnings
}

/// Media that can be taken out are left alone: a drive without one may try for seconds to read it.
fn is_worth_asking(disk: &Disk) -> bool {
    disk.kind.is_storage() && disk.size.0 > 0
}

fn question(roots: &Roots, disk: &Disk, tool: &Option<PathBuf>) -> Question {
    Question {
        name: disk.name.clone(),
        node: node(roots, &disk.name),
        partitions: disk.partitions.iter().map(|partition| node(roots, &partition.name)).collect(),
        transport: disk.transport,
        tool: tool.clone(),
    }
}

fn node(roots: &Roots, name: &str) -> PathBuf {
    roots.dev.join(name.strip_prefix("/dev/").unwrap_or(name))
}

fn ask_disk(question: &Question) -> Answer {
    let mut answer = Answer::default();
    let file = match open_device(&question.node) {
        Ok(Some(file)) => file,
        Ok(None) => return answer,
        Err(error) => {
            answer.warnings.push(format!("disk {}: cannot be opened: {error}", question.name));
            return answer;
        }
    };
    let mut failed = |what: &str, error: &dyn std::fmt::Display| {
        answer.warnings.push(format!("disk {}: {what}: {error}", question.name));
    };
    match question.transport {
        Some(Transport::Nvme) => match ask_namespace(&file) {
            Ok(facts) => answer.nvme = facts,
            Err(error) => failed("Identify Namespace", &error),
        },
        Some(Transport::Sata) => match ata::smart_return_status(file.as_fd(), COMMAND_LIMIT) {
            Ok(sense) => answer.health = parse_ata_status(&sense),
            Err(error) => failed("SMART status", &error),
        },
        Some(
            Transport::Sas
            | Transport::Scsi
            | Transport::FibreChannel
            | Transport::Iscsi
            | Transport::Virtio
            | Transport::Usb
            | Transport::Mmc,
        )
        | None => {}
    }
    drop(file);
    if let Some(tool) = &question.tool {
        let began = Instant::now();
        for node in std::iter::once(&question.node).chain(&question.partitions) {
            match read_content(tool, node, COMMAND_LIMIT.saturating_sub(began.elapsed())) {
                Ok(found) => answer.found.push((node.clone(), found)),
                // The next would fail in the same way.
                Err(error) => {
                    failed("what is on it is not known", &error);
                    break;
                }
            }
        }
    }
    answer
}

fn ask_namespace(file: &File) -> io::Result<Option<NvmeFacts>> {
    let id = nvme::namespace_id(file.as_fd())?;
    Ok(parse_namespace(&nvme::identify(file.as_fd(), id, Identify::Namespace)?))
}

/// What one controller answered, part by part.
#[derive(Debug, Default)]
struct ControllerAnswer {
    facts: ControllerFacts,
    attached: Vec<u32>,
    allocated: Vec<u32>,
    health: Option<Health>,
    warnings: Vec<String>,
}

fn ask_controller(name: &str, node: &Path) -> ControllerAnswer {
    let mut answer = ControllerAnswer::default();
    let mut failed = |what: &str, error: &io::Error| {
        answer.warnings.push(format!("NVMe controller {name}: {what}: {error}"));
    };
    let file = match open_device(node) {
        Ok(Some(file)) => file,
        Ok(None) => return answer,
        Err(error) => {
            failed("cannot be opened", &error);
            return answer;
        }
    };
    match nvme::identify(file.as_fd(), 0, Identify::Controller) {
        Ok(identify) => answer.facts = parse_controller(&identify).unwrap_or_default(),
        Err(error) => failed("Identify Controller", &error),
    }
    let list = |what| nvme::identify(file.as_fd(), 0, what).map(|list| parse_namespace_list(&list));
    match list(Identify::AttachedNamespaces) {
        Ok(attached) => answer.attached = attached,
        Err(error) => failed("its list of namespaces", &error),
    }
    if answer.facts.manages_namespaces {
        match list(Identify::AllocatedNamespaces) {
            Ok(allocated) => answer.allocated = allocated,
            Err(error) => failed("its list of all namespaces", &error),
        }
    }
    match nvme::smart_log(file.as_fd()) {
        Ok(page) => answer.health = parse_nvme_log(&page),
        Err(error) => failed("SMART log", &error),
    }
    answer
}

fn take_controller(controller: &mut NvmeController, answer: ControllerAnswer, warnings: &mut Vec<String>) {
    warnings.extend(answer.warnings);
    controller.capacity = answer.facts.capacity;
    controller.unallocated = answer.facts.unallocated;
    controller.health = answer.health;
    add_namespaces(controller, &answer.attached, &answer.allocated);
}

fn take_answer(disk: &mut Disk, answer: Answer, roots: &Roots, warnings: &mut Vec<String>) {
    warnings.extend(answer.warnings);
    disk.nvme = answer.nvme;
    disk.health = answer.health;
    for (found_at, found) in answer.found {
        if found_at == node(roots, &disk.name) {
            disk.content = found.content;
            disk.partition_table = found.table;
        } else if let Some(partition) =
            disk.partitions.iter_mut().find(|partition| node(roots, &partition.name) == found_at)
        {
            partition.content = found.content;
        }
    }
}

/// `None` for what is no device: in a container there may be anything, or nothing, at its place.
fn open_device(node: &Path) -> io::Result<Option<File>> {
    let Ok(kind) = fs::metadata(node).map(|metadata| metadata.file_type()) else { return Ok(None) };
    if !kind.is_block_device() && !kind.is_char_device() {
        return Ok(None);
    }
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(node).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_nothing_in_place_of_a_device_are_left_alone() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("sda");
        fs::write(&file, "no device").expect("a file");
        for node in [file, dir.path().join("absent"), dir.path().to_owned()] {
            let question = Question {
                name: "/dev/sda".to_owned(),
                node,
                partitions: Vec::new(),
                transport: Some(Transport::Sata),
                tool: Some(PathBuf::from("/bin/false")),
            };
            let answer = ask_disk(&question);
            assert!(answer.warnings.is_empty() && answer.health.is_none() && answer.found.is_empty(), "{answer:?}");
        }
    }

    #[test]
    fn a_device_that_does_not_know_the_commands_is_named_with_each_of_them() {
        let warnings = |transport| {
            let question = Question {
                name: "/dev/sda".to_owned(),
                node: PathBuf::from("/dev/null"),
                partitions: vec![PathBuf::from("/dev/null")],
                transport: Some(transport),
                tool: Some(PathBuf::from("/bin/false")),
            };
            let answer = ask_disk(&question);
            answer.warnings.iter().map(|w| w.splitn(4, ": ").take(2).collect::<Vec<_>>().join(": ")).collect::<Vec<_>>()
        };
        let contents = "disk /dev/sda: what is on it is not known";
        assert_eq!(warnings(Transport::Sata), ["disk /dev/sda: SMART status", contents]);
        assert_eq!(warnings(Transport::Nvme), ["disk /dev/sda: Identify Namespace", contents]);
        assert_eq!(warnings(Transport::Sas), [contents]);
        let controller = ask_controller("nvme0", Path::new("/dev/null"));
        assert_eq!(controller.warnings.len(), 3, "{:?}", controller.warnings);
        assert!(controller.warnings.iter().all(|warning| warning.starts_with("NVMe controller nvme0: ")));
    }
}

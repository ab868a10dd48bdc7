//! What is on a disk, as libblkid's tool finds it: partition table, file systems, members of RAID, LVM and ZFS.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;

const TOOL: &str = "blkid";
/// PID 1 may have no PATH at all.
const DEFAULT_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
const POLL: Duration = Duration::from_millis(2);
/// What the tool says has some hundred bytes, and fits into a pipe, so that it never waits for us to read.
const LONGEST_ANSWER_BYTES: u64 = 64 << 10;

/// What was recognised on a disk or partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Content {
    /// libblkid's word: `ext4`, `xfs`, `vfat`, `swap`, `linux_raid_member`, `LVM2_member`, `zfs_member`, `crypto_LUKS`, …
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Of the file system, array, physical volume or pool, as that kind writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// How a disk is divided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PartitionTable {
    /// `gpt`, `dos`, …
    pub kind: String,
    /// A GUID, or the eight hexadecimal digits of an MBR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// What the tool says of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub content: Option<Content>,
    pub table: Option<PartitionTable>,
}

#[derive(Debug, Error)]
pub(super) enum ContentsError {
    #[error("starting {TOOL}: {0}")]
    Start(std::io::Error),
    #[error("waiting for {TOOL}: {0}")]
    Wait(std::io::Error),
    #[error("{TOOL} was ended after {} s without a result", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("{TOOL} failed with {status}: {message}")]
    Failed { status: ExitStatus, message: String },
}

/// Where the tool is; `None` when it is not there.
pub(super) fn find_tool() -> Option<PathBuf> {
    let path = std::env::var("PATH").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.to_owned());
    path.split(':').chain(DEFAULT_PATH.split(':')).map(|dir| Path::new(dir).join(TOOL)).find(|tool| tool.is_file())
}

/// What is on one disk or partition. The tool is run for each: asked for several, it stops at the first that is empty.
pub(super) fn read_content(tool: &Path, node: &Path, limit: Duration) -> Result<Found, ContentsError> {
    // -p: from the device itself, past the cache.
    let mut child = Command::new(tool)
        .args(["-p", "-o", "export", "--"])
        .arg(node)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ContentsError::Start)?;
    let status = wait(&mut child, limit)?;
    let (answer, complaint) = (drain(child.stdout.take()), drain(child.stderr.take()));
    match status.code() {
        Some(0) => Ok(parse_export(&answer)),
        // Nothing known is there; a device that cannot be read has the same status, and a sentence.
        Some(2) if complaint.trim().is_empty() => Ok(Found::default()),
        _ => Err(ContentsError::Failed { status, message: one_line(&complaint) }),
    }
}

fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus, ContentsError> {
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if began.elapsed() > limit => {
                // It may hang in the kernel and outlive this; nothing more can be done about it.
                let _ = child.kill();
                return Err(ContentsError::TimedOut(limit));
            }
            Ok(None) => sleep(POLL),
            Err(error) => return Err(ContentsError::Wait(error)),
        }
    }
}

fn drain(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error is still worth telling.
        let _ = pipe.take(LONGEST_ANSWER_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ")
}

/// `KEY=value` lines; values are escaped as in a shell.
fn parse_export(text: &str) -> Found {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let mut values: BTreeMap<&str, String> = lines.map(|(key, value)| (key, unescape(value))).collect();
    let content =
        values.remove("TYPE").map(|kind| Content { kind, label: values.remove("LABEL"), uuid: values.remove("UUID") });
    let table = values.remove("PTTYPE").map(|kind| PartitionTable { kind, uuid: values.remove("PTUUID") });
    Found { content, table }
}

/// A backslash makes the next character stand for itself.
fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_arrays_and_volume_groups_are_told_with_their_names() {
        let found = parse_export("DEVNAME=/dev/sda\nPTUUID=95d53b29-99af-1947-9180-eba56a51f354\nPTTYPE=gpt\n");
        let uuid = Some("95d53b29-99af-1947-9180-eba56a51f354".to_owned());
        assert_eq!(found, Found { content: None, table: Some(PartitionTable { kind: "gpt".to_owned(), uuid }) });
        let member = "DEVNAME=/dev/sda1\nUUID=29ccab1f\nUUID_SUB=1\nLABEL=old\\ host:0\nVERSION=1.2\n\
            TYPE=linux_raid_member\nUSAGE=raid\nPART_ENTRY_SCHEME=gpt\n";
        let member = parse_export(member).content.expect("a member");
        assert_eq!((member.kind.as_str(), member.label.as_deref()), ("linux_raid_member", Some("old host:0")));
        let volume =
            parse_export("UUID=2fvvtV-wtuN\nVERSION=LVM2\\ 001\nTYPE=LVM2_member\n").content.expect("a member");
        assert_eq!((volume.kind.as_str(), volume.uuid.as_deref()), ("LVM2_member", Some("2fvvtV-wtuN")));
        assert_eq!(parse_export("DEVNAME=/dev/sda2\nPART_ENTRY_SCHEME=gpt\nodd\\"), Found::default());
    }

    #[test]
    fn what_the_real_tool_finds_is_told() {
        const LIMIT: Duration = Duration::from_secs(60);
        let (Some(tool), Ok(dir)) = (find_tool(), tempfile::tempdir()) else { return };
        let image = dir.path().join("disk");
        std::fs::File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("an image");
        assert_eq!(read_content(&tool, &image, LIMIT).expect("an answer"), Found::default());
        let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-L", "data"]).arg(&image).status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no mke2fs");
            return;
        }
        let content = read_content(&tool, &image, LIMIT).expect("an answer").content.expect("a file system");
        assert_eq!((content.kind.as_str(), content.label.as_deref()), ("ext4", Some("data")));
        let error = read_content(Path::new("/bin/false"), &image, LIMIT).expect_err("a tool that fails");
        assert!(matches!(error, ContentsError::Failed { .. }), "{error}");
    }
}

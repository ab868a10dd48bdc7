//! Arrays of software RAID, by mdadm.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::plan::ArrayPlan;
use super::tool::{read_tool, run_tool};
use crate::api::layout::values::RaidLevel;
use crate::sys::roots::Roots;

pub const MDADM: &str = "mdadm";

/// md's own delay is a fifth of a second (`safe_mode_delay`).
const CLEAN_LIMIT: Duration = Duration::from_secs(2);
const CLEAN_POLL: Duration = Duration::from_millis(100);
/// Whoever looks at a new device (udev, blkid) lets go of it within moments.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const STOP_POLL: Duration = Duration::from_millis(200);
/// KiB/s. What has to be copied is copied as fast as the disks can; upstream's number.
const SPEED_LIMIT: &str = "200000000";

/// Makes an array of `members` (their nodes, in the plan's order) and compares what came of it with the plan.
pub fn create_array(roots: &Roots, array: &ArrayPlan, members: &[PathBuf]) -> Result<()> {
    run_tool(MDADM, &create_arguments(array, members)?)?;
    // Not there in every kernel, and only a wish.
    let _ = fs::write(roots.proc.join("sys/dev/raid/speed_limit_min"), SPEED_LIMIT);
    verify_array(array, members)
}

/// Upstream's call, with an id of ours, so that the array can be told from everybody else's.
fn create_arguments(array: &ArrayPlan, members: &[PathBuf]) -> Result<Vec<String>> {
    let spares = usize::try_from(array.spares).context("counting spares")?;
    let active = members.len().checked_sub(spares).context("more spares than members")?;
    let uuid = array.uuid_text().context("the plan has no id for the array")?;
    let level = match array.level {
        RaidLevel::Raid0 => "0",
        RaidLevel::Raid1 => "1",
    };
    let active = active.to_string();
    let words = ["--create", &array.device, "--force", "--run", "--homehost", "any", "--uuid", &uuid, "--level", level];
    let mut arguments: Vec<String> = words.iter().map(ToString::to_string).collect();
    arguments.extend(["--raid-devices".to_owned(), active, "--assume-clean".to_owned()]);
    if spares > 0 {
        arguments.extend(["--spare-devices".to_owned(), spares.to_string()]);
    }
    arguments.extend(array.create_options.iter().cloned());
    arguments.extend(members.iter().map(|member| member.display().to_string()));
    Ok(arguments)
}

fn verify_array(array: &ArrayPlan, members: &[PathBuf]) -> Result<()> {
    let text = read_tool(MDADM, &["--detail".into(), "--export".into(), array.device.clone()])?;
    let differences = differences(array, members, &parse_export(&text));
    ensure!(differences.is_empty(), "{} is not as planned: {}", array.device, differences.join("; "));
    Ok(())
}

/// mdadm(8), `--detail --export`: lines of `KEY=value`.
fn parse_export(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

fn differences(array: &ArrayPlan, members: &[PathBuf], found: &BTreeMap<&str, &str>) -> Vec<String> {
    let active = members.len().saturating_sub(usize::try_from(array.spares).unwrap_or(usize::MAX)).to_string();
    let uuid = array.uuid_text();
    let wanted = [
        ("MD_LEVEL", Some(array.level.as_str())),
        ("MD_DEVICES", Some(active.as_str())),
        ("MD_UUID", uuid.as_deref()),
        ("MD_METADATA", array.metadata().map(|version| if version == "0" { "0.90" } else { version })),
    ];
    let mut differences = Vec::new();
    for (key, expected) in wanted {
        let value = found.get(key).copied();
        if expected.is_some() && value != expected {
            let (expected, value) = (expected.unwrap_or_default(), value.unwrap_or("nothing"));
            differences.push(format!("{key} expected {expected}, found {value}"));
        }
    }
    let is_member = |key: &str| key.starts_with("MD_DEVICE_") && key.ends_with("_DEV");
    let known: BTreeSet<PathBuf> =
        found.iter().filter(|(key, _)| is_member(key)).map(|(_, value)| PathBuf::from(value)).collect();
    let expected: BTreeSet<PathBuf> = members.iter().cloned().collect();
    if known != expected {
        differences.push(format!("members expected {expected:?}, found {known:?}"));
    }
    differences
}

/// Starts an array that is to be kept.
pub fn assemble_array(array: &ArrayPlan, members: &[PathBuf]) -> Result<()> {
    let mut arguments = vec!["--assemble".to_owned(), array.device.clone(), "--run".to_owned()];
    arguments.extend(members.iter().map(|member| member.display().to_string()));
    Ok(run_tool(MDADM, &arguments)?)
}

/// Starts the array with an id, from whatever disks have it, so that nothing is written to them; also when one is missing.
pub fn assemble_read_only(device: &str, uuid: &str) -> Result<()> {
    // "partitions": all that the kernel has, and no configuration file.
    let words = ["--assemble", device, "--readonly", "--run", "--config", "partitions", "--uuid", uuid];
    Ok(run_tool(MDADM, &words.map(str::to_owned))?)
}

/// Id of the array that a device is part of, as mdadm writes it. `None`: of none, or there is no such device.
pub fn read_array_uuid(member: &Path) -> Option<String> {
    let words = ["--examine".to_owned(), "--export".to_owned(), member.display().to_string()];
    parse_export(&read_tool(MDADM, &words).ok()?).get("MD_UUID").map(ToString::to_string)
}

/// Whether an array of this name has been started, by whomever.
pub fn is_running(roots: &Roots, device: &str) -> bool {
    folder(roots, device).is_some_and(|folder| {
        fs::read_to_string(folder.join("md/array_state")).is_ok_and(|state| state.trim() != "clear")
    })
}

/// `/sys/block/md0`.
fn folder(roots: &Roots, device: &str) -> Option<PathBuf> {
    let node = fs::canonicalize(device).ok()?;
    Some(roots.sys.join("block").join(node.file_name()?))
}

/// Fails when md has dropped a member of an array, or could not write to one. md goes on with what is left, or remembers
/// the bad blocks, and nobody above it hears of that.
pub fn check_whole(roots: &Roots, array: &ArrayPlan) -> Result<()> {
    let Some(folder) = folder(roots, &array.device).filter(|_| is_running(roots, &array.device)) else { return Ok(()) };
    let md = folder.join("md");
    wait_until_clean(&md);
    // RAID 0 has no such file: it fails as a whole.
    let lacks = fs::read_to_string(md.join("degraded")).ok().filter(|count| count.trim() != "0");
    let mut faults: Vec<String> =
        lacks.map(|count| format!("it lacks {} of its members", count.trim())).into_iter().collect();
    faults.extend(bad_members(&md));
    faults.sort();
    ensure!(faults.is_empty(), "{} is not whole: {}", array.device, faults.join(", "));
    Ok(())
}

/// Waits for md to write down that nothing is being written any more, which it does on all members a moment after the last
/// write (`safe_mode_delay`): only then it learns of one that can't be written to. Not for long: it may be in use.
fn wait_until_clean(md: &Path) {
    let is_active = || {
        let state = fs::read_to_string(md.join("array_state")).unwrap_or_default();
        matches!(state.trim(), "active" | "active-idle" | "write-pending")
    };
    let began = Instant::now();
    // once more at the end: the state says so before the members do
    while is_active() && began.elapsed() < CLEAN_LIMIT {
        sleep(CLEAN_POLL);
    }
    sleep(CLEAN_POLL);
}

/// Documentation/admin-guide/md.rst: the words of `dev-sda2/state`.
fn bad_members(md: &Path) -> Vec<String> {
    let bad = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().strip_prefix("dev-")?.to_owned();
        let state = fs::read_to_string(entry.path().join("state")).ok()?;
        let is_bad = state.trim().split(',').any(|word| matches!(word, "faulty" | "write_error"));
        is_bad.then(|| format!("/dev/{name} ({})", state.trim()))
    };
    fs::read_dir(md).into_iter().flatten().flatten().filter_map(bad).collect()
}

/// Stops an array that has these members, and leaves any other of that name alone. One that is not running is as wanted.
pub fn stop_array(roots: &Roots, array: &ArrayPlan, members: &[PathBuf]) -> Result<()> {
    let Some(folder) = folder(roots, &array.device).filter(|_| is_running(roots, &array.device)) else { return Ok(()) };
    let found = slaves(&folder);
    if !found.iter().all(|name| members.iter().any(|member| node_name(member).as_deref() == Some(name))) {
        bail!("{} is made of {}, which is not the plan's array; it was left alone", array.device, found.join(", "));
    }
    stop_device(&array.device)
}

/// Stops a running array.
pub fn stop_device(device: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        match run_tool(MDADM, &["--stop".to_owned(), device.to_owned()]) {
            Ok(()) => return Ok(()),
            Err(_) if began.elapsed() < STOP_LIMIT => sleep(STOP_POLL),
            Err(error) => return Err(error.into()),
        }
    }
}

fn slaves(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The kernel's name of a node.
fn node_name(node: &Path) -> Option<String> {
    Some(fs::canonicalize(node).ok()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::plan::StackAction;
    use uuid::uuid;

    fn array(spares: u32, options: &[&str]) -> ArrayPlan {
        ArrayPlan {
            device: "/dev/md1".into(),
            action: StackAction::Make,
            level: RaidLevel::Raid1,
            uuid: Some(uuid!("4d2f2d5e-0000-4000-8000-0000000000ab")),
            members: vec![],
            spares,
            create_options: options.iter().map(ToString::to_string).collect(),
        }
    }

    fn nodes(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn arguments_follow_the_contract() {
        let arguments = create_arguments(&array(1, &["--metadata", "1.0"]), &nodes(&["/dev/a", "/dev/b", "/dev/c"]));
        assert_eq!(
            arguments.unwrap().join(" "),
            "--create /dev/md1 --force --run --homehost any --uuid 4d2f2d5e:00004000:80000000:000000ab --level 1 \
             --raid-devices 2 --assume-clean --spare-devices 1 --metadata 1.0 /dev/a /dev/b /dev/c"
        );
    }

    #[test]
    fn a_member_that_md_has_dropped_or_could_not_write_to_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut array = array(0, &[]);
        // A node of the test's own stands for the array's.
        let node = dir.path().join("md1");
        fs::write(&node, "").unwrap();
        array.device = node.display().to_string();
        let write = |path: &str, text: &str| {
            let path = dir.path().join("sys/block/md1/md").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("array_state", "clean\n");
        write("degraded", "0\n");
        write("dev-sda2/state", "in_sync\n");
        write("dev-sdb2/state", "in_sync\n");
        let roots = Roots::under(dir.path());
        check_whole(&roots, &array).unwrap();
        let told = || check_whole(&roots, &array).unwrap_err().to_string();
        write("dev-sda2/state", "in_sync,write_error,want_replacement\n");
        assert_eq!(told(), format!("{} is not whole: /dev/sda2 (in_sync,write_error,want_replacement)", array.device));
        write("dev-sda2/state", "in_sync\n");
        write("degraded", "1\n");
        write("dev-sdb2/state", "faulty,blocked\n");
        assert_eq!(
            told(),
            format!("{} is not whole: /dev/sdb2 (faulty,blocked), it lacks 1 of its members", array.device)
        );
    }

    #[test]
    fn what_is_not_as_planned_is_named() {
        let text = "MD_LEVEL=raid1\nMD_DEVICES=2\nMD_METADATA=1.0\nMD_UUID=4d2f2d5e:00004000:80000000:000000ab\n\
                    MD_DEVICE_dev_a_ROLE=0\nMD_DEVICE_dev_a_DEV=/dev/a\nMD_DEVICE_dev_b_DEV=/dev/b\n";
        let members = nodes(&["/dev/a", "/dev/b"]);
        assert_eq!(differences(&array(0, &["--metadata=1.0"]), &members, &parse_export(text)), [""; 0]);
        let told =
            differences(&array(0, &["-e", "1.2"]), &nodes(&["/dev/a", "/dev/x"]), &parse_export(text)).join("; ");
        assert!(told.starts_with("MD_METADATA expected 1.2, found 1.0; members expected"), "{told}");
    }
}

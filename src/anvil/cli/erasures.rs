//! `anvil machine erasures` and `anvil machine plan`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::{Format, print_json, table};
use crate::api::erasure::{EraseFacts, Erasure, Outcome, SentPlan, Signature};
use crate::sys::units::Bytes;

pub(super) fn print(erasures: &[Erasure], format: Format) -> Result<()> {
    if format == Format::Json {
        return print_json(&erasures);
    }
    let rows: Vec<Vec<String>> = erasures.iter().map(row).collect();
    let heading =
        ["DISK", "SERIAL", "SIZE", "METHOD", "LEVEL", "STARTED", "TOOK", "VERIFIED", "RESULT", "SIGNATURE VALID"];
    table::print(&heading, &rows)
}

fn row(erasure: &Erasure) -> Vec<String> {
    let facts = erasure.facts().unwrap_or_default();
    let (method, verified, result) = match &facts.result {
        Some(Outcome::Erased { method, verified_bytes }) => {
            (method.clone(), Bytes(*verified_bytes).to_string(), "erased".to_owned())
        }
        Some(Outcome::Skipped { reason }) => (String::new(), String::new(), format!("skipped: {reason}")),
        Some(Outcome::Failed { reason }) => (String::new(), String::new(), format!("NOT ERASED: {reason}")),
        None => (String::new(), String::new(), "the record can't be read".to_owned()),
    };
    vec![
        facts.device.clone(),
        facts.serial.clone().unwrap_or_else(|| "none".to_owned()),
        facts.size.map(|size| Bytes(size).to_string()).unwrap_or_default(),
        method,
        facts.level.clone(),
        started(&facts).map_or_else(|| facts.started.clone(), seconds_only),
        took(&facts),
        verified,
        result,
        validity(&erasure.signature),
    ]
}

fn validity(signature: &Signature) -> String {
    match (&signature.fault, signature.valid) {
        (_, true) => "yes".to_owned(),
        (Some(fault), false) => format!("NO: {fault}"),
        (None, false) => "NO".to_owned(),
    }
}

fn started(facts: &EraseFacts) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&facts.started, &Rfc3339).ok()
}

fn seconds_only(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

fn took(facts: &EraseFacts) -> String {
    let ended = OffsetDateTime::parse(&facts.ended, &Rfc3339).ok();
    match (started(facts), ended) {
        (Some(started), Some(ended)) => format!("{:.1} s", (ended - started).as_seconds_f64()),
        _ => String::new(),
    }
}

/// Writes each record to a file of its own. One that is there already stays; another's content is never overwritten.
pub(super) fn download(erasures: &[Erasure], dir: &Path, format: Format) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut written = Vec::new();
    for erasure in erasures {
        written.push(write(erasure, dir)?);
    }
    let names: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    match format {
        Format::Json => print_json(&names),
        Format::Table => names.iter().try_for_each(|name| super::print(name)),
    }
}

fn write(erasure: &Erasure, dir: &Path) -> Result<PathBuf> {
    let path = dir.join(file_name(erasure));
    let text = format!("{}\n", erasure.jws);
    match std::fs::read_to_string(&path) {
        Ok(known) if known == text => return Ok(path),
        Ok(_) => bail!("{} exists already with other content", path.display()),
        Err(_) => {}
    }
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// `SERIAL-DISK-TIME.jws`, such as `S3R1AL-nvme0n1-20261122T211015Z.jws`. Namespaces share a serial number, so the disk
/// is in it; what serial numbers are made of is the disk maker's choice, so only letters and digits are taken.
fn file_name(erasure: &Erasure) -> String {
    let facts = erasure.facts().unwrap_or_default();
    let plain = |text: &str| -> String {
        let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
        kept.take(64).collect()
    };
    let serial = plain(facts.serial.as_deref().unwrap_or("no serial"));
    let disk = plain(facts.device.trim_start_matches("/dev/"));
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = started(&facts).and_then(|time| time.to_offset(time::UtcOffset::UTC).format(&format).ok());
    format!("{serial}-{disk}-{}.jws", time.unwrap_or_else(|| plain(&erasure.received)))
}

pub(super) fn print_plan(sent: &SentPlan, format: Format) -> Result<()> {
    if format == Format::Json {
        return print_json(sent);
    }
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let pairs = [
        ("layout", text(&sent.plan, "layout")),
        ("mode", text(&sent.plan, "mode")),
        ("boot disk", text(&sent.plan, "boot_disk")),
        ("received", sent.received.clone()),
        ("signature valid", validity(&sent.signature)),
    ];
    table::print_pairs(&pairs)?;
    super::print("")?;
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let rows: Vec<Vec<String>> = list(&sent.plan, "disks")
        .iter()
        .map(|planned| {
            let disk = planned.get("disk").cloned().unwrap_or_default();
            let losses: Vec<String> =
                list(planned, "loses").iter().filter_map(Value::as_str).map(str::to_owned).collect();
            vec![
                text(&disk, "device"),
                disk.get("serial").and_then(Value::as_str).unwrap_or("none").to_owned(),
                disk.get("size").and_then(Value::as_u64).map(|size| Bytes(size).to_string()).unwrap_or_default(),
                text(planned, "action"),
                list(planned, "partitions").len().to_string(),
                losses.join(", "),
            ]
        })
        .collect();
    table::print(&["DISK", "SERIAL", "SIZE", "ACTION", "PARTITIONS", "ON IT NOW"], &rows)
}

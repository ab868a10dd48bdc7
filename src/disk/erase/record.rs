//! What became of a disk, for people, for `--format json`, and for the log: the erase record.

use serde::Serialize;
use time::OffsetDateTime;

use super::exclude;
use super::level::Level;
use super::method::Method;
use crate::disk::device::DiskFacts;
use crate::disk::verify::Verified;
use crate::sys::units::Bytes;

/// Target of the log line that carries a record as JSON in its field `record`.
pub const LOG_TARGET: &str = "drophammer::erase_record";

/// One disk and one erasure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EraseRecord {
    pub device: String,
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub model: Option<String>,
    pub size: Bytes,
    pub level: Level,
    /// When it was begun, in UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub started: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub ended: OffsetDateTime,
    /// All that was tried, in order.
    pub attempts: Vec<Attempt>,
    /// What else should be known: a password that was removed, namespaces that no disk shows.
    pub notes: Vec<String>,
    pub result: EraseResult,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    pub method: Method,
    pub seconds: f64,
    /// Why it did not work; absent for the one that did.
    pub refusal: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EraseResult {
    Erased(Erased),
    /// Not a disk of the machine, so not to be erased; the machine can be offered.
    Skipped {
        reason: String,
    },
    /// Data may be left: the machine must not be offered.
    Failed {
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Erased {
    pub method: Method,
    /// Size of the disk, or of what was wiped at level quick.
    pub bytes: u64,
    pub verified_bytes: u64,
    pub verified: Verified,
    pub seconds: f64,
    /// Stronger methods that did not work.
    pub refused: Vec<Refusal>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    pub method: Method,
    pub reason: String,
}

impl EraseRecord {
    pub fn begin(disk: &DiskFacts, level: Level) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            device: disk.device.clone(),
            serial: disk.serial.clone(),
            wwn: disk.wwn.clone(),
            model: disk.model.clone(),
            size: disk.size,
            level,
            started: now,
            ended: now,
            attempts: Vec::new(),
            notes: Vec::new(),
            result: EraseResult::Failed { reason: "its thread ended without a word".to_owned() },
        }
    }

    pub fn end(mut self, result: EraseResult) -> Self {
        self.ended = OffsetDateTime::now_utc();
        self.result = result;
        self
    }

    /// Of a disk of the machine, erased or not: what is to be kept.
    pub fn is_of_a_disk(&self) -> bool {
        match self.result {
            EraseResult::Erased(_) | EraseResult::Failed { .. } => true,
            EraseResult::Skipped { .. } => false,
        }
    }

    /// Left alone by the operator's word.
    pub fn is_excluded(&self) -> bool {
        matches!(&self.result, EraseResult::Skipped { reason } if reason == exclude::REASON)
    }

    pub fn is_failure(&self) -> bool {
        match self.result {
            EraseResult::Failed { .. } => true,
            EraseResult::Erased(_) | EraseResult::Skipped { .. } => false,
        }
    }
}

impl std::fmt::Display for EraseRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let serial = self.serial.as_deref().unwrap_or("none");
        write!(f, "{} ({}, serial {serial}): ", self.device, self.size)?;
        match &self.result {
            EraseResult::Erased(erased) => {
                let verified = Bytes(erased.verified_bytes);
                write!(f, "erased by {} in {:.1} s, {verified} read back", erased.method, erased.seconds)?;
                erased.refused.iter().try_for_each(|r| write!(f, "; {} did not work: {}", r.method, r.reason))?;
            }
            EraseResult::Skipped { reason } => write!(f, "skipped: {reason}")?,
            EraseResult::Failed { reason } => write!(f, "NOT ERASED: {reason}")?,
        }
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// For the list of events that an operator sees, which must not drown in them: bytes.
const SENTENCES_LIMIT: usize = 4096;

/// What became of the machine's disks, in one line; empty when it has none.
pub fn sentences(records: &[EraseRecord]) -> String {
    let mut text = String::new();
    let mut told: Vec<&EraseRecord> =
        records.iter().filter(|record| record.is_of_a_disk() || record.is_excluded()).collect();
    // What is wrong first, in case there is no room for all.
    told.sort_by_key(|record| !record.is_failure());
    for (index, record) in told.iter().enumerate() {
        let sentence = record.to_string();
        if text.len() + sentence.len() > SENTENCES_LIMIT {
            text.push_str(&format!("; and {} more disks", told.len() - index));
            break;
        }
        if index > 0 {
            text.push_str("; ");
        }
        text.push_str(&sentence);
    }
    text
}

/// One line of JSON for each record of a disk that is one of the machine's. Returns the records with their JSON.
pub fn log(records: &[EraseRecord]) -> Vec<(&EraseRecord, String)> {
    let of_disks = records.iter().filter(|record| record.is_of_a_disk());
    let logged = of_disks.filter_map(|record| {
        let json = serde_json::to_string(record)
            .inspect_err(|error| tracing::error!(disk = %record.device, %error, "erase record can't be written"))
            .ok()?;
        tracing::info!(target: LOG_TARGET, record = json, "erase record");
        Some((record, json))
    });
    logged.collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::*;
    use crate::disk::device::DiskKind;

    fn record(name: &str, result: EraseResult) -> EraseRecord {
        EraseRecord::begin(&facts(name, DiskKind::Fixed), Level::Clear).end(result)
    }

    #[test]
    fn sentences_tell_of_the_machines_disks_what_is_wrong_first() {
        let skipped = |reason: &str| EraseResult::Skipped { reason: reason.to_owned() };
        let records = [
            record("sr0", skipped("optical drive")),
            record("sda", skipped(exclude::REASON)),
            record("sdb", EraseResult::Failed { reason: "write-protected".to_owned() }),
        ];
        assert_eq!(
            sentences(&records),
            "/dev/sdb (4.0 kB, serial none): NOT ERASED: write-protected; \
             /dev/sda (4.0 kB, serial none): skipped: excluded by configuration"
        );
        assert_eq!(sentences(&records[..1]), "");
    }

    #[test]
    fn a_hundred_disks_do_not_flood_the_list_of_events() {
        let failed = || EraseResult::Failed { reason: "x".repeat(100) };
        let records: Vec<EraseRecord> = (0..100).map(|n| record(&format!("sd{n}"), failed())).collect();
        let text = sentences(&records);
        assert!(text.len() < SENTENCES_LIMIT + 100 && text.ends_with(" more disks"), "{text}");
    }
}

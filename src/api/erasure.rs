//! Erase records as anvil keeps and shows them: `GET /v1/machine/{id}/erasure`. anvil's own; metal-api has nothing like it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::null_as_default;

/// One record of one disk, newest first in the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Erasure {
    /// When anvil got it. RFC 3339.
    pub received: String,
    pub signature: Signature,
    /// The record itself, as the agent wrote it; `null` when it can't be read.
    pub record: Value,
    /// What was signed and the signature: a JWS in compact form.
    pub jws: String,
}

/// What anvil found when it got a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Made with a key whose certificate this anvil issued, over just this record, for the machine that sent it.
    pub valid: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The newest plan of an installation: `GET /v1/machine/{id}/plan`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentPlan {
    /// When anvil got it. RFC 3339.
    pub received: String,
    pub signature: Signature,
    /// As `drophammer plan --format json` prints it, and the machine's id in `machine`.
    pub plan: Value,
}

/// The part of a record that a table shows. What an agent of another version leaves out is empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EraseFacts {
    #[serde(default, deserialize_with = "null_as_default")]
    pub device: String,
    pub serial: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub level: String,
    /// RFC 3339.
    #[serde(default, deserialize_with = "null_as_default")]
    pub started: String,
    /// RFC 3339.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ended: String,
    pub result: Option<Outcome>,
}

/// How an erasure ended.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Erased {
        #[serde(default)]
        method: String,
        #[serde(default)]
        verified_bytes: u64,
    },
    Skipped {
        #[serde(default)]
        reason: String,
    },
    Failed {
        #[serde(default)]
        reason: String,
    },
}

impl Erasure {
    /// `None` when the record is not one.
    pub fn facts(&self) -> Option<EraseFacts> {
        EraseFacts::deserialize(&self.record).ok()
    }
}

//! How a machine says who it is when it asks for MetalConfig, and how anvil says that it is not admitted. All of it is
//! ours: metal-stack's agent sends none of the headers, and its boot server ignores them.
//!
//! A machine that boots has nothing to prove who it is with. So anvil, when it is told to, gives its keys only to machines
//! that an operator admitted, or that show a token which he made for them.

use serde::{Deserialize, Serialize};

/// Header with the machine's UUID.
pub const MACHINE_HEADER: &str = "x-drophammer-machine";
/// Header with the addresses of its network cards, parted by commas.
pub const MACS_HEADER: &str = "x-drophammer-macs";
/// Header with a token. Secret until it is spent.
pub const TOKEN_HEADER: &str = "x-drophammer-token";

/// So many addresses are looked at; machines with more are known by these.
pub const MAX_MACS: usize = 64;

/// Whether a machine gets the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It asked, and nobody said anything yet.
    Pending,
    Admitted,
    /// An operator took the admission back, or refused it. Only an operator lets it in again.
    Revoked,
}

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Admitted => "admitted",
            Self::Revoked => "revoked",
        }
    }
}

/// The body of the 403 that a machine gets instead of MetalConfig.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct NotAdmitted {
    pub statuscode: u16,
    /// For the machine's console: what is to be done, in a sentence.
    pub message: String,
    /// Absent when the machine did not say who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<Standing>,
}

/// A machine's admission, as REST shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// UUID; of a card whose machine has not asked yet, its MAC.
    pub machine: String,
    /// What the machine last said its cards are.
    pub macs: Vec<String>,
    pub standing: Standing,
    /// RFC 3339: since when it stands so.
    pub since: String,
    /// By what: an operator, a token, a MAC that was admitted before.
    pub how: String,
    /// RFC 3339: when it last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// From which address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What a token is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// How many machines it admits.
    pub machines: u32,
    /// For how long, in seconds.
    pub seconds: u32,
}

/// A new token; the only time it is shown. Not `Debug`: it is a secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewToken {
    pub token: String,
    pub machines: u32,
    /// RFC 3339.
    pub expires: String,
}

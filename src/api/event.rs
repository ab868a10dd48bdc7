//! Names of the provisioning events.

use std::fmt;
use std::str::FromStr;

/// One event of a machine's life, as the API spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProvisioningEvent {
    Alive,
    Crashed,
    PxeBooting,
    PlannedReboot,
    Preparing,
    Registering,
    Waiting,
    Installing,
    BootingNewKernel,
    PhonedHome,
    /// Only the server makes it, when a machine is freed.
    MachineReclaim,
}

impl ProvisioningEvent {
    pub const ALL: [Self; 11] = [
        Self::Alive,
        Self::Crashed,
        Self::PxeBooting,
        Self::PlannedReboot,
        Self::Preparing,
        Self::Registering,
        Self::Waiting,
        Self::Installing,
        Self::BootingNewKernel,
        Self::PhonedHome,
        Self::MachineReclaim,
    ];

    /// The exact spelling on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "Alive",
            Self::Crashed => "Crashed",
            Self::PxeBooting => "PXE Booting",
            Self::PlannedReboot => "Planned Reboot",
            Self::Preparing => "Preparing",
            Self::Registering => "Registering",
            Self::Waiting => "Waiting",
            Self::Installing => "Installing",
            Self::BootingNewKernel => "Booting New Kernel",
            Self::PhonedHome => "Phoned Home",
            Self::MachineReclaim => "Machine Reclaim",
        }
    }
}

impl fmt::Display for ProvisioningEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is none that the API accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown provisioning event {0:?}")]
pub struct UnknownEvent(pub String);

impl FromStr for ProvisioningEvent {
    type Err = UnknownEvent;

    fn from_str(name: &str) -> Result<Self, UnknownEvent> {
        Self::ALL.into_iter().find(|event| event.as_str() == name).ok_or_else(|| UnknownEvent(name.to_owned()))
    }
}

//! What agents tell beyond events: phases, which are stored, and the progress of long steps, which is not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::event::ProvisioningEvent;
use crate::api::progress::{Note, Phase, PhaseState, Progress};

/// More phases than any agent has: a broken one must not fill the database.
const MAX_PHASES: usize = 64;

/// The newest progress report of each machine. In memory only: the next report is seconds away.
#[derive(Clone, Default)]
pub struct LiveProgress {
    reports: Arc<Mutex<HashMap<String, Progress>>>,
}

impl LiveProgress {
    pub fn get(&self, machine: &str) -> Option<Progress> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).get(machine).cloned()
    }

    pub fn clear(&self, machine: &str) {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).remove(machine);
    }

    /// Takes in what a note says about a long step: its progress, or that a phase ended and so did its steps.
    pub fn note(&self, machine: &str, note: &Note) {
        match note {
            Note::Progress(progress) => {
                let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
                reports.insert(machine.to_owned(), progress.clone());
            }
            Note::Phase(phase) => match phase.state {
                PhaseState::Running => {}
                PhaseState::Done | PhaseState::Warned | PhaseState::Failed => self.clear(machine),
            },
            Note::Record(_) | Note::SshHostKey(_) => {}
        }
    }
}

/// Whether the event ends all that the agent was doing.
pub fn ends_steps(event: ProvisioningEvent) -> bool {
    match event {
        ProvisioningEvent::Crashed
        | ProvisioningEvent::PxeBooting
        | ProvisioningEvent::PlannedReboot
        | ProvisioningEvent::Preparing
        | ProvisioningEvent::BootingNewKernel
        | ProvisioningEvent::PhonedHome
        | ProvisioningEvent::MachineReclaim => true,
        ProvisioningEvent::Alive
        | ProvisioningEvent::Registering
        | ProvisioningEvent::Waiting
        | ProvisioningEvent::Installing => false,
    }
}

/// Puts a phase in its place: a known one is brought up to date, a new one comes last. False when there is no room.
pub fn merge_phase(phases: &mut Vec<Phase>, phase: Phase) -> bool {
    if let Some(known) = phases.iter_mut().find(|known| known.name == phase.name) {
        *known = phase;
        return true;
    }
    let room = phases.len() < MAX_PHASES;
    if room {
        phases.push(phase);
    }
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &str, state: PhaseState, took_ms: u64) -> Phase {
        Phase { name: name.into(), state, start_ms: 1, took_ms }
    }

    #[test]
    fn a_phase_is_brought_up_to_date_in_place() {
        let mut phases = Vec::new();
        for incoming in [
            phase("network", PhaseState::Running, 0),
            phase("clock", PhaseState::Running, 0),
            phase("network", PhaseState::Done, 9),
        ] {
            assert!(merge_phase(&mut phases, incoming));
        }
        assert_eq!(phases, [phase("network", PhaseState::Done, 9), phase("clock", PhaseState::Running, 0)]);
    }

    #[test]
    fn a_broken_agent_does_not_fill_the_list() {
        let mut phases = Vec::new();
        for n in 0..MAX_PHASES {
            assert!(merge_phase(&mut phases, phase(&n.to_string(), PhaseState::Done, 0)));
        }
        assert!(!merge_phase(&mut phases, phase("one more", PhaseState::Done, 0)));
    }

    #[test]
    fn progress_goes_when_its_phase_ends() {
        let live = LiveProgress::default();
        let progress = Progress { step: "image".into(), done: 1, total: None, rate: 2, left_s: None };
        live.note("m", &Note::Progress(progress.clone()));
        live.note("m", &Note::Phase(phase("install", PhaseState::Running, 0)));
        assert_eq!(live.get("m"), Some(progress));
        live.note("m", &Note::Phase(phase("install", PhaseState::Done, 5)));
        assert_eq!(live.get("m"), None);
    }
}

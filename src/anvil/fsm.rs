//! The state machine of provisioning events: what an arriving event does to a machine's event container.
//!
//! The state is not stored; it follows from the newest stored event. Pure: the caller reads and writes.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::api::event::ProvisioningEvent;

/// A machine not heard of for this long is not alive, and a late `Phoned Home` is one that counts.
pub const SILENCE: Duration = Duration::minutes(5);

/// Whether a machine was heard of lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Liveliness {
    #[default]
    Alive,
    /// Silent and not allocated.
    Dead,
    /// Silent and allocated: its owner may have switched it off.
    Unknown,
}

impl Liveliness {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "Alive",
            Self::Dead => "Dead",
            Self::Unknown => "Unknown",
        }
    }
}

/// One event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    #[serde(with = "event_name")]
    pub event: ProvisioningEvent,
    pub message: String,
}

/// What is kept beside the list of events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub liveliness: Liveliness,
    /// Absent: no event yet.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub last_event_time: Option<OffsetDateTime>,
    #[serde(default)]
    pub last_error_event: Option<StoredEvent>,
    #[serde(default)]
    pub crash_loop: bool,
    #[serde(default)]
    pub failed_machine_reclaim: bool,
}

/// A machine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Initial,
    Crashing,
    PxeBooting,
    PlannedReboot,
    Preparing,
    Registering,
    Waiting,
    Installing,
    BootingNewKernel,
    PhonedHome,
    MachineReclaim,
}

impl State {
    /// The state after the newest stored event. `Alive` is never stored, so it says as much as no event.
    pub fn after(newest: Option<ProvisioningEvent>) -> Self {
        match newest {
            None | Some(ProvisioningEvent::Alive) => Self::Initial,
            Some(ProvisioningEvent::Crashed) => Self::Crashing,
            Some(ProvisioningEvent::PxeBooting) => Self::PxeBooting,
            Some(ProvisioningEvent::PlannedReboot) => Self::PlannedReboot,
            Some(ProvisioningEvent::Preparing) => Self::Preparing,
            Some(ProvisioningEvent::Registering) => Self::Registering,
            Some(ProvisioningEvent::Waiting) => Self::Waiting,
            Some(ProvisioningEvent::Installing) => Self::Installing,
            Some(ProvisioningEvent::BootingNewKernel) => Self::BootingNewKernel,
            Some(ProvisioningEvent::PhonedHome) => Self::PhonedHome,
            Some(ProvisioningEvent::MachineReclaim) => Self::MachineReclaim,
        }
    }

    /// The name in lower case, as the message of an unexpected event shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Crashing => "crashing",
            Self::PxeBooting => "pxe booting",
            Self::PlannedReboot => "planned reboot",
            Self::Preparing => "preparing",
            Self::Registering => "registering",
            Self::Waiting => "waiting",
            Self::Installing => "installing",
            Self::BootingNewKernel => "booting new kernel",
            Self::PhonedHome => "phoned home",
            Self::MachineReclaim => "machine reclaim",
        }
    }

    /// Whether the event is expected in this state.
    pub fn accepts(self, event: ProvisioningEvent) -> bool {
        use State as S;
        match event {
            ProvisioningEvent::PxeBooting => {
                matches!(self, S::PlannedReboot | S::MachineReclaim | S::Crashing | S::Initial | S::PxeBooting)
            }
            ProvisioningEvent::Preparing => {
                matches!(self, S::PxeBooting | S::PlannedReboot | S::MachineReclaim | S::Crashing | S::Initial)
            }
            ProvisioningEvent::Registering => matches!(self, S::Preparing | S::Initial),
            ProvisioningEvent::Waiting => matches!(self, S::Registering | S::Initial),
            ProvisioningEvent::Installing => matches!(self, S::Registering | S::Waiting | S::Initial),
            ProvisioningEvent::BootingNewKernel => matches!(self, S::Installing | S::Initial),
            ProvisioningEvent::PhonedHome => match self {
                S::BootingNewKernel | S::MachineReclaim | S::Initial => true,
                S::PlannedReboot | S::PhonedHome | S::PxeBooting | S::Preparing | S::Registering | S::Waiting => true,
                S::Crashing | S::Installing => false,
            },
            ProvisioningEvent::PlannedReboot | ProvisioningEvent::MachineReclaim => true,
            ProvisioningEvent::Alive | ProvisioningEvent::Crashed => match self {
                S::PxeBooting | S::Preparing | S::Registering | S::Waiting | S::Installing => true,
                S::BootingNewKernel | S::Initial => true,
                S::Crashing | S::PlannedReboot | S::PhonedHome | S::MachineReclaim => false,
            },
        }
    }
}

/// What an event did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The container after the event.
    pub container: Container,
    /// The event to put in front of the list, with its message; absent when it only leaves traces in the container.
    pub store: Option<StoredEvent>,
}

/// Applies one event to what is stored. `newest` is the newest stored event.
pub fn apply(before: &Container, newest: Option<ProvisioningEvent>, incoming: StoredEvent) -> Effect {
    let state = State::after(newest);
    if state.accepts(incoming.event) {
        apply_expected(before, state, incoming)
    } else {
        apply_unexpected(before, state, incoming)
    }
}

fn apply_expected(before: &Container, state: State, incoming: StoredEvent) -> Effect {
    let mut container = before.clone();
    container.last_event_time = Some(incoming.time);
    container.liveliness = Liveliness::Alive;
    let store = match incoming.event {
        ProvisioningEvent::Alive => false,
        ProvisioningEvent::PxeBooting => {
            container.failed_machine_reclaim = false;
            state != State::PxeBooting
        }
        ProvisioningEvent::Preparing => {
            container.failed_machine_reclaim = false;
            true
        }
        ProvisioningEvent::Registering
        | ProvisioningEvent::Waiting
        | ProvisioningEvent::Installing
        | ProvisioningEvent::BootingNewKernel => true,
        ProvisioningEvent::Crashed => {
            container.crash_loop = true;
            container.last_error_event = Some(incoming.clone());
            true
        }
        ProvisioningEvent::PlannedReboot | ProvisioningEvent::MachineReclaim => {
            container.crash_loop = false;
            true
        }
        ProvisioningEvent::PhonedHome => match phone_home(before, state, &incoming) {
            PhoneHome::Dropped => return Effect { container: before.clone(), store: None },
            PhoneHome::Noted => false,
            PhoneHome::Stored => true,
            PhoneHome::StoredWell => {
                container.crash_loop = false;
                true
            }
            PhoneHome::ReclaimFailed => {
                container.failed_machine_reclaim = true;
                false
            }
            PhoneHome::ReclaimForgiven => {
                container.failed_machine_reclaim = false;
                false
            }
        },
    };
    Effect { container, store: store.then_some(incoming) }
}

/// What an expected `Phoned Home` means.
enum PhoneHome {
    /// Late arrival of a system that is going down: as if never sent.
    Dropped,
    /// Time and liveliness only.
    Noted,
    Stored,
    /// Stored, and the crash loop is over.
    StoredWell,
    /// The machine was freed, yet its old system still runs.
    ReclaimFailed,
    ReclaimForgiven,
}

fn phone_home(before: &Container, state: State, incoming: &StoredEvent) -> PhoneHome {
    let silence = before.last_event_time.map_or(Duration::MAX, |last| incoming.time - last);
    match state {
        State::BootingNewKernel | State::Initial | State::PlannedReboot => PhoneHome::StoredWell,
        State::PhonedHome => PhoneHome::Noted,
        State::MachineReclaim if silence > SILENCE => PhoneHome::ReclaimFailed,
        State::MachineReclaim => PhoneHome::Dropped,
        State::Preparing | State::Registering | State::Waiting | State::PxeBooting if silence < SILENCE => {
            PhoneHome::Dropped
        }
        State::PxeBooting => PhoneHome::ReclaimForgiven,
        // Crashing and Installing do not expect the event and never come here.
        State::Preparing | State::Registering | State::Waiting | State::Crashing | State::Installing => {
            PhoneHome::Stored
        }
    }
}

fn apply_unexpected(before: &Container, state: State, mut incoming: StoredEvent) -> Effect {
    let prefix = format!("[unexpectedly received in state {}]", state.as_str());
    incoming.message = if incoming.message.is_empty() { prefix } else { format!("{prefix}: {}", incoming.message) };
    let mut container = before.clone();
    container.last_event_time = Some(incoming.time);
    container.liveliness = Liveliness::Alive;
    container.last_error_event = Some(incoming.clone());
    let store = match incoming.event {
        ProvisioningEvent::PxeBooting | ProvisioningEvent::Preparing => {
            container.crash_loop = true;
            true
        }
        ProvisioningEvent::Alive => false,
        ProvisioningEvent::Crashed
        | ProvisioningEvent::PlannedReboot
        | ProvisioningEvent::Registering
        | ProvisioningEvent::Waiting
        | ProvisioningEvent::Installing
        | ProvisioningEvent::BootingNewKernel
        | ProvisioningEvent::PhonedHome
        | ProvisioningEvent::MachineReclaim => true,
    };
    Effect { container, store: store.then_some(incoming) }
}

/// The liveliness by the age of the last event; without any event it stays as it is.
pub fn judge_liveliness(container: &Container, allocated: bool, now: OffsetDateTime) -> Liveliness {
    match container.last_event_time {
        None => container.liveliness,
        Some(last) if now - last <= SILENCE => Liveliness::Alive,
        Some(_) if allocated => Liveliness::Unknown,
        Some(_) => Liveliness::Dead,
    }
}

/// Event names in stored documents: as on the wire.
mod event_name {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::api::event::ProvisioningEvent;

    pub fn serialize<S: Serializer>(event: &ProvisioningEvent, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(event.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ProvisioningEvent, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProvisioningEvent as E;
    use time::macros::datetime;

    const THEN: OffsetDateTime = datetime!(2026-01-02 03:00:00 UTC);

    const STATES: [(Option<E>, State); 11] = [
        (None, State::Initial),
        (Some(E::Crashed), State::Crashing),
        (Some(E::PxeBooting), State::PxeBooting),
        (Some(E::PlannedReboot), State::PlannedReboot),
        (Some(E::Preparing), State::Preparing),
        (Some(E::Registering), State::Registering),
        (Some(E::Waiting), State::Waiting),
        (Some(E::Installing), State::Installing),
        (Some(E::BootingNewKernel), State::BootingNewKernel),
        (Some(E::PhonedHome), State::PhonedHome),
        (Some(E::MachineReclaim), State::MachineReclaim),
    ];

    /// A container with every flag set, so that each change shows.
    fn flagged() -> Container {
        Container {
            liveliness: Liveliness::Dead,
            last_event_time: Some(THEN),
            last_error_event: None,
            crash_loop: true,
            failed_machine_reclaim: true,
        }
    }

    fn clean() -> Container {
        Container { last_event_time: Some(THEN), ..Container::default() }
    }

    fn event(event: E, minutes: i64, message: &str) -> StoredEvent {
        StoredEvent { time: THEN + Duration::minutes(minutes), event, message: message.to_owned() }
    }

    #[test]
    fn every_state_accepts_just_the_events_of_the_table() {
        // Event, and the states in which the contract accepts it.
        let table: [(E, &[&str]); 11] = [
            (E::PxeBooting, &["planned reboot", "machine reclaim", "crashing", "initial", "pxe booting"]),
            (E::Preparing, &["pxe booting", "planned reboot", "machine reclaim", "crashing", "initial"]),
            (E::Registering, &["preparing", "initial"]),
            (E::Waiting, &["registering", "initial"]),
            (E::Installing, &["registering", "waiting", "initial"]),
            (E::BootingNewKernel, &["installing", "initial"]),
            (
                E::PhonedHome,
                &[
                    "booting new kernel",
                    "machine reclaim",
                    "initial",
                    "planned reboot",
                    "phoned home",
                    "pxe booting",
                    "preparing",
                    "registering",
                    "waiting",
                ],
            ),
            (E::PlannedReboot, &STATES.map(|(_, state)| state.as_str())),
            (E::MachineReclaim, &STATES.map(|(_, state)| state.as_str())),
            (
                E::Alive,
                &["pxe booting", "preparing", "registering", "waiting", "installing", "booting new kernel", "initial"],
            ),
            (
                E::Crashed,
                &["pxe booting", "preparing", "registering", "waiting", "installing", "booting new kernel", "initial"],
            ),
        ];
        for (event, accepting) in table {
            for (newest, state) in STATES {
                assert_eq!(State::after(newest), state);
                assert_eq!(state.accepts(event), accepting.contains(&state.as_str()), "{event} in {}", state.as_str());
            }
        }
    }

    #[test]
    fn alive_touches_only_time_and_liveliness() {
        let effect = apply(&flagged(), Some(E::Installing), event(E::Alive, 1, "progress"));
        let expected = Container {
            liveliness: Liveliness::Alive,
            last_event_time: Some(THEN + Duration::minutes(1)),
            ..flagged()
        };
        assert_eq!(effect, Effect { container: expected, store: None });
    }

    #[test]
    fn pxe_booting_is_stored_once_and_forgives_a_failed_reclaim() {
        let first = apply(&flagged(), Some(E::PlannedReboot), event(E::PxeBooting, 1, "m"));
        assert!(!first.container.failed_machine_reclaim && first.container.crash_loop);
        assert_eq!(first.store, Some(event(E::PxeBooting, 1, "m")));
        let repeated = apply(&flagged(), Some(E::PxeBooting), event(E::PxeBooting, 1, "m"));
        assert!(!repeated.container.failed_machine_reclaim);
        assert_eq!(repeated.container.last_event_time, Some(THEN + Duration::minutes(1)));
        assert_eq!(repeated.store, None);
    }

    #[test]
    fn preparing_forgives_a_failed_reclaim() {
        let effect = apply(&flagged(), Some(E::PxeBooting), event(E::Preparing, 1, "m"));
        assert!(!effect.container.failed_machine_reclaim && effect.container.crash_loop);
        assert_eq!(effect.store, Some(event(E::Preparing, 1, "m")));
    }

    #[test]
    fn the_ordinary_steps_are_stored_and_leave_the_flags() {
        let steps = [
            (E::Preparing, E::Registering),
            (E::Registering, E::Waiting),
            (E::Registering, E::Installing),
            (E::Waiting, E::Installing),
            (E::Installing, E::BootingNewKernel),
        ];
        for (newest, step) in steps {
            let effect = apply(&flagged(), Some(newest), event(step, 1, "m"));
            assert_eq!(effect.store, Some(event(step, 1, "m")), "{step}");
            assert!(effect.container.crash_loop && effect.container.failed_machine_reclaim, "{step}");
            assert_eq!(effect.container.liveliness, Liveliness::Alive);
            assert_eq!(effect.container.last_error_event, None, "{step}");
        }
    }

    #[test]
    fn a_crash_is_a_crash_loop_and_the_last_error() {
        let effect = apply(&clean(), Some(E::Installing), event(E::Crashed, 1, "disk gone"));
        assert!(effect.container.crash_loop);
        assert_eq!(effect.container.last_error_event, Some(event(E::Crashed, 1, "disk gone")));
        assert_eq!(effect.store, Some(event(E::Crashed, 1, "disk gone")));
    }

    #[test]
    fn planned_reboot_and_reclaim_end_a_crash_loop_in_every_state() {
        for what in [E::PlannedReboot, E::MachineReclaim] {
            for (newest, state) in STATES {
                let effect = apply(&flagged(), newest, event(what, 1, ""));
                assert!(!effect.container.crash_loop, "{what} in {}", state.as_str());
                assert_eq!(effect.store, Some(event(what, 1, "")));
            }
        }
    }

    #[test]
    fn phoned_home_after_booting_ends_a_crash_loop() {
        for newest in [None, Some(E::BootingNewKernel), Some(E::PlannedReboot)] {
            let effect = apply(&flagged(), newest, event(E::PhonedHome, 1, ""));
            assert!(!effect.container.crash_loop, "{newest:?}");
            assert_eq!(effect.store, Some(event(E::PhonedHome, 1, "")));
        }
    }

    #[test]
    fn phoned_home_repeats_are_only_noted() {
        let effect = apply(&flagged(), Some(E::PhonedHome), event(E::PhonedHome, 9, ""));
        assert_eq!(effect.store, None);
        assert_eq!(effect.container.last_event_time, Some(THEN + Duration::minutes(9)));
        assert!(effect.container.crash_loop && effect.container.failed_machine_reclaim);
    }

    #[test]
    fn phoned_home_after_a_reclaim_is_a_failed_reclaim_only_when_late() {
        for minutes in [1, 5] {
            let early = apply(&clean(), Some(E::MachineReclaim), event(E::PhonedHome, minutes, ""));
            assert_eq!(early, Effect { container: clean(), store: None }, "{minutes} min");
        }
        let late = apply(&clean(), Some(E::MachineReclaim), event(E::PhonedHome, 6, ""));
        assert!(late.container.failed_machine_reclaim);
        assert_eq!(late.container.last_event_time, Some(THEN + Duration::minutes(6)));
        assert_eq!(late.store, None);
    }

    #[test]
    fn phoned_home_while_the_agent_runs_counts_only_when_late() {
        for newest in [E::Preparing, E::Registering, E::Waiting] {
            let early = apply(&flagged(), Some(newest), event(E::PhonedHome, 4, ""));
            assert_eq!(early, Effect { container: flagged(), store: None }, "{newest}");
            let late = apply(&flagged(), Some(newest), event(E::PhonedHome, 5, ""));
            assert_eq!(late.store, Some(event(E::PhonedHome, 5, "")), "{newest}");
            assert!(late.container.crash_loop, "{newest}");
        }
    }

    #[test]
    fn phoned_home_while_pxe_booting_is_never_stored() {
        let early = apply(&flagged(), Some(E::PxeBooting), event(E::PhonedHome, 4, ""));
        assert_eq!(early, Effect { container: flagged(), store: None });
        let late = apply(&flagged(), Some(E::PxeBooting), event(E::PhonedHome, 5, ""));
        assert!(!late.container.failed_machine_reclaim);
        assert_eq!(late.container.last_event_time, Some(THEN + Duration::minutes(5)));
        assert_eq!(late.store, None);
    }

    #[test]
    fn unexpected_events_say_so_and_are_the_last_error() {
        for (newest, state) in STATES {
            for what in E::ALL.into_iter().filter(|e| !state.accepts(*e)) {
                let effect = apply(&clean(), newest, event(what, 1, "m"));
                let message = format!("[unexpectedly received in state {}]: m", state.as_str());
                let marked = event(what, 1, &message);
                let case = format!("{what} in {}", state.as_str());
                assert_eq!(effect.container.last_error_event.as_ref(), Some(&marked), "{case}");
                assert_eq!(effect.container.last_event_time, Some(THEN + Duration::minutes(1)), "{case}");
                assert_eq!(effect.container.crash_loop, matches!(what, E::PxeBooting | E::Preparing), "{case}");
                assert_eq!(effect.store.is_some(), what != E::Alive, "{case}");
            }
        }
        let silent = apply(&clean(), Some(E::PhonedHome), event(E::PxeBooting, 1, ""));
        assert_eq!(silent.store.unwrap().message, "[unexpectedly received in state phoned home]");
    }

    #[test]
    fn a_power_loss_shows_as_a_crash_loop() {
        let effect = apply(&clean(), Some(E::Installing), event(E::PxeBooting, 1, ""));
        assert!(effect.container.crash_loop && effect.store.is_some());
    }

    #[test]
    fn silence_of_five_minutes_is_dead_or_unknown() {
        let now = THEN + Duration::minutes(5);
        assert_eq!(judge_liveliness(&clean(), false, now), Liveliness::Alive);
        let later = now + Duration::seconds(1);
        assert_eq!(judge_liveliness(&clean(), false, later), Liveliness::Dead);
        assert_eq!(judge_liveliness(&clean(), true, later), Liveliness::Unknown);
        assert_eq!(judge_liveliness(&Container::default(), false, later), Liveliness::Alive);
    }
}

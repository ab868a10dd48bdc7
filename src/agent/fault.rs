//! Failures made on purpose. Nothing but a defect leads to some of the agent's ways out, and a way out that was never
//! taken cannot be relied on: `drophammer.fault=panic@wait` on the kernel command line takes it when phase `wait`
//! begins. Whoever writes that line commands the machine anyway.

use std::str::FromStr;
use std::thread;

use anyhow::{Error, Result, bail};

use crate::config::cmdline::Cmdline;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    kind: Kind,
    /// Name of the phase at whose start it happens.
    phase: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Some code meets what it took for impossible.
    Panic,
    /// No task gets to run any more, so that nobody feeds the watchdog.
    Hang,
}

impl Fault {
    /// `drophammer.fault=KIND@PHASE`; `None` without the key.
    ///
    /// # Errors
    ///
    /// When its value is none of `panic@PHASE` and `hang@PHASE`.
    pub(crate) fn of(cmdline: &Cmdline) -> Result<Option<Self>> {
        cmdline.get("drophammer.fault").map(str::parse).transpose()
    }

    /// Does not return when this is the phase it is meant for.
    pub(crate) fn strike(&self, phase: &str) {
        if self.phase != phase {
            return;
        }
        match self.kind {
            Kind::Panic => panic!("as drophammer.fault wants it, at the start of phase {phase}"),
            Kind::Hang => hang(),
        }
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((kind, phase)) = text.split_once('@').filter(|(_, phase)| !phase.is_empty()) else {
            bail!("drophammer.fault={text:?} is not of the form panic@PHASE or hang@PHASE");
        };
        let kind = match kind {
            "panic" => Kind::Panic,
            "hang" => Kind::Hang,
            _ => bail!("drophammer.fault={text:?} is neither panic@PHASE nor hang@PHASE"),
        };
        Ok(Self { kind, phase: phase.to_owned() })
    }
}

/// Takes every thread of the runtime, this one included.
fn hang() {
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    for _ in 0..workers {
        tokio::spawn(async { sleep_for_ever() });
    }
    sleep_for_ever();
}

fn sleep_for_ever() {
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_strikes_at_its_own_phase_only() {
        let fault = Fault::of(&Cmdline::parse("drophammer.fault=panic@wait")).unwrap().unwrap();
        fault.strike("erase");
        let struck = std::panic::catch_unwind(|| fault.strike("wait")).unwrap_err();
        let text = struck.downcast_ref::<String>().unwrap();
        assert!(text.contains("phase wait"), "{text}");
    }

    #[test]
    fn a_wrong_word_is_an_error_that_shows_it() {
        assert_eq!(Fault::of(&Cmdline::parse("quiet")).unwrap(), None);
        for text in ["panic", "panic@", "burn@wait"] {
            let error = Fault::of(&Cmdline::parse(&format!("drophammer.fault={text}"))).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}

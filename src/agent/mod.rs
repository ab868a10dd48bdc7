//! The agent: PID 1 of a machine that was booted over the network.
//!
//! - `life`: the phases in order, to be read aloud
//! - `runner`: what tells their start, end and duration, and what happens when one fails
//! - one file a phase: `init`, `network`, `configure`, `clock`, `inventory`, `register`, `erase`, `wait`, `install`,
//!   `hand_over`
//! - `late_neighbours`, `told`: the cables that are found while the machine waits
//! - `order`: an allocation with everything that an installation needs, or the names of what is missing
//! - `image_settings`: where images come from and how they are trusted
//! - `installed`: a machine whose disks are not to be touched
//! - `crash`: how a failed life is reported and ended
//! - `fault`: a failure made on purpose, for trying the ways out
//! - `ssh`, `ssh_host_key`: operators may log in, if somebody gave keys
//! - `remote_log`: the log, to a server that the configuration names
//! - `session`: the connections to the control plane, made anew when the configuration changes

mod clock;
mod configure;
mod crash;
mod erase;
mod fault;
mod hand_over;
mod image_settings;
mod init;
mod install;
mod installed;
mod inventory;
mod late_neighbours;
mod life;
mod network;
mod order;
mod register;
mod remote_log;
mod runner;
mod session;
mod ssh;
mod ssh_host_key;
mod told;
mod wait;

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::VERSION;
use crate::client::events::Events;
use crate::client::log_queue::LogQueue;
use crate::config::cmdline::Cmdline;
use crate::init::exit::{self, Ending};
use crate::init::{console, mounts};
use crate::redact;
use crate::sys::roots::Roots;
use fault::Fault;
use runner::Runner;

/// What every phase may look at.
pub(crate) struct Agent {
    pub roots: Roots,
    pub cmdline: Cmdline,
    pub events: Events,
    pub runner: Runner,
    /// Its lines wait for a server that the configuration may name.
    pub log: LogQueue,
}

/// Lives the life of PID 1, and ends it through the exit door.
pub fn run() -> ! {
    let started = Instant::now();
    let roots = Roots::system();
    if let Err(error) = mounts::mount_kernel_filesystems() {
        // Without /proc and /dev there is nothing that a next try in this boot could change.
        crash::count_down(&format!("{error:#}"), Duration::from_secs(60));
        exit::leave(Ending::Reboot, "the kernel's file systems cannot be mounted");
    }
    let cmdline = Cmdline::read(&roots).unwrap_or_default();
    hide_secrets(&cmdline);
    let log = LogQueue::default();
    console::start(cmdline.debug(), log.layer());
    info!("drophammer {VERSION} is PID 1");
    info!("kernel command line: {}", cmdline.masked());
    let events = Events::default();
    crash::report_panics(events.clone(), log.clone());
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            crash::count_down(&format!("starting the runtime: {error}"), Duration::from_secs(60));
            exit::leave(Ending::Reboot, "the agent cannot run");
        }
    };
    let fault = Fault::of(&cmdline).unwrap_or_else(|error| {
        warn!("{error}; going on without");
        None
    });
    let agent = Agent { roots, cmdline, events: events.clone(), runner: Runner::new(started, events, fault), log };
    let (ending, reason) = runtime.block_on(async {
        let end = life_until_signal(&agent).await;
        remote_log::flush(&agent).await;
        end
    });
    exit::leave(ending, &reason);
}

/// Those that the kernel command line can hold.
fn hide_secrets(cmdline: &Cmdline) {
    cmdline.token().into_iter().for_each(redact::hide);
    let proxy = cmdline.proxy().and_then(|url| url.parse::<reqwest::Url>().ok());
    proxy.iter().filter_map(|url| url.password()).for_each(redact::hide);
}

/// A life ends by itself, or by Ctrl-Alt-Del (SIGINT) and SIGTERM, which are planned reboots.
async fn life_until_signal(agent: &Agent) -> (Ending, String) {
    let _ = nix::sys::reboot::set_cad_enabled(false);
    tokio::select! {
        outcome = life::live(agent) => match outcome {
            Ok(end) => end,
            Err(error) => crash::end(agent, &error).await,
        },
        signal = signal() => {
            let reason = format!("{signal} was received");
            agent.events.send(crate::api::event::ProvisioningEvent::PlannedReboot, reason.clone());
            agent.events.flush(Duration::from_secs(5)).await;
            (Ending::Reboot, reason)
        }
    }
}

async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

//! Phase init: drivers for the hardware that is there, watchdog, reaper, and who this machine is.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Agent, clock};
use crate::init::modules::{self, Loader, ModuleDb, usb};
use crate::init::{mounts, reaper, watchdog};
use crate::inventory::machine_id::{MachineId, read_machine_id};
use crate::sys::roots::Roots;

/// Disks and links that appear later than this after their driver are missed.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// USB disks that appear later than this are missed. One that has to start its platters takes some seconds.
const USB_LIMIT: Duration = Duration::from_secs(30);

/// Who this machine is.
pub(crate) struct Identity {
    pub uuid: Uuid,
}

impl Identity {
    /// As the API spells it.
    pub(crate) fn id(&self) -> String {
        self.uuid.to_string()
    }
}

/// Disks that come later than all others. Other phases go on meanwhile; the inventory waits for the end of this.
pub(crate) type LateDisks = JoinHandle<()>;

pub(crate) async fn run(agent: &Agent) -> Result<(Identity, LateDisks)> {
    let (ready, is_ready) = oneshot::channel();
    let roots = agent.roots.clone();
    let late_disks = tokio::task::spawn_blocking(move || {
        let db = ModuleDb::read(&ModuleDb::running_kernel_dir());
        let mut loader = Loader::new(&roots, &db);
        loader.load(&mut |line| info!("{line}"));
        mounts::mount_efivars();
        if !modules::settle(&roots, SETTLE_LIMIT) {
            warn!("disks or links are still appearing after {} s; going on", SETTLE_LIMIT.as_secs());
        }
        let _ = ready.send(());
        wait_for_usb(&roots, &mut loader);
    });
    is_ready.await.context("loading drivers")?;
    clock::advance_to_build_time();
    let (dev, proc) = (agent.roots.dev.clone(), agent.roots.proc.clone());
    tokio::spawn(async move { watchdog::run(&dev).await });
    tokio::spawn(async move { reaper::run(&proc).await });
    tokio::spawn(agent.events.clone().run());
    let MachineId { uuid, made_because } = read_machine_id(&agent.roots).context("reading this machine's id")?;
    if let Some(sentence) = made_because {
        warn!("{sentence}");
    }
    info!(%uuid, "this machine");
    Ok((Identity { uuid }, late_disks))
}

fn wait_for_usb(roots: &Roots, loader: &mut Loader) {
    let load = || {
        loader.load(&mut |line| info!("{line}"));
    };
    let Err(missing) = usb::wait_for_disks(roots, USB_LIMIT, load) else { return };
    let after = USB_LIMIT.as_secs();
    if missing.is_empty() {
        warn!("USB devices are still appearing after {after} s; going on without those that come later");
    }
    for disk in missing {
        warn!("{disk}, after {after} s: it is neither in the inventory nor erased");
    }
}

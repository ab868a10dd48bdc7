//! Phase hand over: report the installation, and leave for the installed system.

use std::time::Duration;

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::Agent;
use super::install::Installed;
use super::session::Session;
use crate::api::event::ProvisioningEvent;
use crate::api::grpc::{BootInfo, BootServiceReportRequest};
use crate::init::exit::Ending;
use crate::net::Backoff;

const FLUSH_LIMIT: Duration = Duration::from_secs(30);
/// Tries for an API that answers, but refuses. One that does not answer is asked for ever.
const REFUSALS: u32 = 5;

pub(crate) async fn run(
    agent: &Agent,
    session: &mut Session,
    machine_id: &str,
    installed: Installed,
) -> Result<(Ending, String)> {
    report(session, machine_id, &installed).await?;
    agent.events.send(ProvisioningEvent::BootingNewKernel, "booting into distro kernel");
    if !agent.events.flush(FLUSH_LIMIT).await {
        warn!("the last events could not be sent");
    }
    Ok(match installed.kexec {
        Ok(()) => (Ending::Kexec, format!("{} is installed", installed.hostname)),
        Err(error) => {
            warn!(error = format!("{error:#}"), "the installed kernel cannot be started directly");
            (Ending::Reboot, format!("{} is installed; the firmware boots it", installed.hostname))
        }
    })
}

/// Tells the API that the machine is installed. It needs to know: until then it would install once more.
async fn report(session: &mut Session, machine_id: &str, installed: &Installed) -> Result<()> {
    let mut backoff = Backoff::for_server();
    let mut refusals = 0;
    loop {
        let request = BootServiceReportRequest {
            uuid: machine_id.to_owned(),
            console_password: installed.console_password.clone(),
            boot_info: Some(BootInfo {
                image_id: installed.image_id.clone(),
                primary_disk: installed.primary_disk.clone(),
                os_partition: installed.os_partition.clone(),
                initrd: installed.boot.initrd.clone(),
                cmdline: installed.boot.cmdline.clone(),
                kernel: installed.boot.kernel.clone(),
                bootloader_id: installed.boot.bootloader_id.clone(),
            }),
            success: true,
            message: String::new(),
        };
        let Err(failure) = session.boot.report(request).await else {
            info!("the installation is reported");
            return Ok(());
        };
        if !failure.is_transient() {
            refusals += 1;
            if refusals == REFUSALS {
                return Err(failure).context("reporting the installation");
            }
        }
        let delay = backoff.next_delay();
        warn!(error = failure.to_string(), "reporting the installation failed; again in {} s", delay.as_secs());
        tokio::time::sleep(delay).await;
    }
}

/// A reboot that the agent itself wants.
pub(crate) async fn planned_reboot(agent: &Agent, reason: String) -> (Ending, String) {
    agent.events.send(ProvisioningEvent::PlannedReboot, reason.clone());
    agent.events.flush(FLUSH_LIMIT).await;
    (Ending::Reboot, reason)
}

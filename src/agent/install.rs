//! Phase install: plan, partition, file systems, image, configuration, boot loader.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use time::OffsetDateTime;
use tracing::{info, warn};

use super::image_settings::ImageSettings;
use super::init::Identity;
use super::network::Connected;
use super::order::Order;
use super::session::Session;
use super::{Agent, clock};
use crate::VERSION;
use crate::api::event::ProvisioningEvent;
use crate::api::grpc::BootServiceAbortReinstallRequest;
use crate::api::jws::Kind;
use crate::api::progress::{Note, Progress, Record};
use crate::client::events::Events;
use crate::disk::answers::{Answers, READ_LIMIT, read_disks_within};
use crate::disk::apply::{ApplyError, apply, wipe_filesystems};
use crate::disk::erase::exclude::{self, Excluded};
use crate::disk::fstab::fstab;
use crate::disk::lvm::LVMLOCAL_CONF;
use crate::disk::mount::mount_all;
use crate::disk::plan::{self, Mode, Plan};
use crate::disk::planner::plan;
use crate::disk::release::release;
use crate::image::{self, MemoryLimit, Observer, Options, Source};
use crate::net::image_http_client;
use crate::os::{self, BootInfo, MadeFilesystem};
use crate::redact;
use crate::sys::firmware::Firmware;
use crate::sys::units::Bytes;

/// Where the new system is mounted while it is made.
const ROOT: &str = "/rootfs";

/// A system that is ready to be started; everything is unmounted.
pub(crate) struct Installed {
    pub hostname: String,
    pub image_id: String,
    pub console_password: String,
    pub primary_disk: String,
    pub os_partition: String,
    pub boot: BootInfo,
    /// The kernel is loaded, or why it is not.
    pub kexec: Result<()>,
}

/// What an installation needs from the phases before it.
pub(crate) struct Installation<'a> {
    pub agent: &'a Agent,
    pub session: &'a mut Session,
    pub connected: &'a Connected,
    pub identity: &'a Identity,
    pub order: &'a Order,
}

impl Installation<'_> {
    /// Installs the order. After an error nothing half-done is left to boot.
    pub(crate) async fn run(mut self) -> Result<Installed> {
        let planned = self.plan().await;
        let what = planned.as_ref().map(|plan| format!(": {}", plan.sentence())).unwrap_or_default();
        self.agent.events.send(ProvisioningEvent::Installing, format!("start installation{what}"));
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => return Err(self.abort(false, error).await),
        };
        info!("{plan}");
        self.send(&plan);
        match self.write(&plan).await {
            Ok(installed) => Ok(installed),
            Err(error) => {
                let untouched = matches!(error.downcast_ref(), Some(ApplyError::NotAsPlanned(_)));
                if !untouched {
                    wipe(plan).await;
                }
                Err(self.abort(!untouched, error).await)
            }
        }
    }

    /// Everything is decided here, before the first byte is written.
    async fn plan(&self) -> Result<Plan> {
        let Order { layout, allocation, .. } = self.order;
        self.image_options().context("how the image is to be fetched is not clear; nothing was written")?;
        let mode = if allocation.reinstall { Mode::Reinstall } else { Mode::Install };
        let answers = blocking(self.agent.roots.clone(), |roots| read_disks_within(&roots, READ_LIMIT)).await;
        let Answers { disks, unread } = answers.context("listing the disks")?;
        // The layout may well go without.
        unread.iter().for_each(|why| warn!("a disk can't be read, and is left out of the plan: {why}"));
        let plan = plan(layout, &disks, Firmware::read(&self.agent.roots), mode)
            .with_context(|| format!("the layout {:?} does not fit this machine; nothing was written", layout.id))?;
        let excluded = Excluded::find(&self.agent.cmdline.erase_exclude(), &disks)?;
        let writes = plan.disks.iter().filter(|planned| planned.action.is_made());
        let refused: Vec<String> = writes
            .filter(|planned| excluded.contains(&planned.disk.device))
            .map(|planned| format!("{}: {}", planned.disk.device, exclude::REASON))
            .collect();
        ensure!(
            refused.is_empty(),
            "the layout {:?} writes to what it may not; nothing was written: {}",
            layout.id,
            refused.join("; ")
        );
        Ok(plan)
    }

    /// What is about to be done goes to the log and, signed, to the control plane, before it is done.
    fn send(&self, plan: &Plan) {
        let json = match serde_json::to_string(plan) {
            Ok(json) => json,
            Err(error) => return warn!(%error, "the plan can't be written as JSON"),
        };
        info!(target: plan::LOG_TARGET, plan = json, "plan of the installation");
        match self.session.signer().sign(Kind::Plan, &json) {
            Ok(jws) => self.agent.events.record(Record { kind: Kind::Plan, jws }),
            Err(error) => warn!(error = format!("{error:#}"), "the plan can't be signed, and is not sent"),
        }
    }

    async fn write(&self, plan: &Plan) -> Result<Installed> {
        let Order { allocation, image, .. } = self.order;
        let console_password = random_password()?;
        redact::hide(&console_password);
        let input = self.os_input(plan, &console_password)?;
        let mounts = blocking(plan.clone(), |plan| {
            apply(&plan, &mut |line| info!("{line}"))?;
            mount_all(&plan, Path::new(ROOT)).context("mounting the new file systems")
        })
        .await?;
        self.unpack_image().await?;
        let (boot, kexec) = blocking(input, |input| {
            let boot = os::configure(Path::new(ROOT), &input)?;
            // While it is mounted: the kernel copies what it loads.
            let kexec = os::kexec::load(Path::new(ROOT), &boot).map_err(anyhow::Error::from);
            Ok((boot, kexec))
        })
        .await?;
        // Only what is safely on the disk is reported as installed.
        blocking((mounts, plan.clone()), |(mounts, plan)| {
            mounts.unmount().context("unmounting the new system")?;
            release(&plan).context("stopping the new system's arrays and volumes")
        })
        .await?;
        tell_peak_memory(self.agent);
        Ok(Installed {
            hostname: allocation.hostname.clone(),
            image_id: image.id.clone(),
            console_password,
            primary_disk: plan.boot_disk.clone(),
            os_partition: plan.filesystem_at("/").map(|root| root.device.clone()).unwrap_or_default(),
            boot,
            kexec,
        })
    }

    fn memory_limit(&self) -> MemoryLimit {
        let Some(text) = self.agent.cmdline.memory() else { return MemoryLimit::default() };
        text.parse().unwrap_or_else(|error| {
            let limit = MemoryLimit::default();
            warn!("drophammer.memory={text}: {error}; going on with {limit}");
            limit
        })
    }

    /// Where the image comes from, and how it is trusted.
    fn image_options(&self) -> Result<(Source, Options)> {
        let image = &self.order.image;
        let settings = ImageSettings::parse(&self.agent.cmdline, &self.session.config)?;
        let (source, mirrors) = settings.places(image)?;
        let digest = settings.digest_rule(image)?;
        let (resolver, ca) = (self.session.resolver.clone(), self.session.config.ca_cert.as_deref());
        let http = image_http_client(resolver, ca, settings.proxy.as_ref())?;
        let (keys, verify) = (settings.keys, settings.verify);
        Ok((source, Options { keys, verify, mirrors, http: Some(http), ..Options::new(digest) }))
    }

    async fn unpack_image(&self) -> Result<()> {
        let (source, options) = self.image_options()?;
        let options = Options { memory: self.memory_limit(), ..options };
        let teller = Teller::new(self.agent.events.clone());
        let report = image::unpack(&source, &PathBuf::from(ROOT), &options, &teller).await?;
        for warning in &report.warnings {
            warn!("image: {warning}");
        }
        info!(
            compression = report.compression,
            retries = report.retries,
            "image written: {} as {} files with {} in {:.1} s",
            Bytes(report.bytes_in),
            report.files,
            Bytes(report.bytes_out),
            report.seconds
        );
        Ok(())
    }

    fn os_input(&self, plan: &Plan, console_password: &str) -> Result<os::Input> {
        let network = self.connected.online.network();
        let filesystems = plan.filesystems.iter().filter_map(|fs| {
            Some(MadeFilesystem {
                label: fs.label.clone()?,
                format: fs.format.as_str().to_owned(),
                uuid: fs.uuid.as_ref()?.to_string(),
            })
        });
        Ok(os::Input {
            allocation: self.order.allocation.clone(),
            machine_uuid: self.identity.id(),
            nics: self.order.machine.hardware.nics.clone(),
            console: self.agent.cmdline.console().map(str::to_owned),
            console_password: console_password.to_owned(),
            timestamp: OffsetDateTime::now_utc(),
            firmware: plan.firmware,
            root_uuid: plan.root_uuid().context("the plan's root file system has no UUID")?,
            md_uuid: plan.root_array_uuid(),
            boot_disks: plan.boot_disks(),
            esp_members: plan.esp_members(),
            arrays: plan.array_uuids(),
            esp_mounted: plan.esp().is_some(),
            filesystems: filesystems.collect(),
            fstab: fstab(plan, VERSION),
            // Upstream's agent has the file in any case.
            lvmlocal_conf: Some(LVMLOCAL_CONF.to_owned()),
            resolvers: self.session.resolver.servers(),
            ntp_servers: clock::servers(self.agent, self.session, self.connected),
            installed_over: Some(network.mac.to_string()),
            program_limit: os::Input::PROGRAM_LIMIT,
        })
    }

    /// A failed reinstallation is told to the API, with the truth about the disk. Returns the failure.
    async fn abort(&mut self, primary_disk_wiped: bool, failure: anyhow::Error) -> anyhow::Error {
        if self.order.allocation.reinstall {
            let request = BootServiceAbortReinstallRequest { uuid: self.identity.id(), primary_disk_wiped };
            if let Err(error) = self.session.boot.abort_reinstall(request).await {
                warn!(error = error.to_string(), "the aborted reinstallation could not be told to the API");
            }
        }
        failure
    }
}

/// Removes what was half-made. The reason of the failure is what counts, so trouble here is only logged.
async fn wipe(plan: Plan) {
    let wiped = blocking(plan, |plan| {
        // An error above has dropped the mounts, which unmounts them.
        wipe_filesystems(&plan)
    });
    match wiped.await {
        Ok(()) => info!("what was half-installed is wiped; nothing of it boots"),
        Err(error) => warn!(error = format!("{error:#}"), "wiping what was half-installed failed"),
    }
}

/// Runs what blocks beside the runtime.
async fn blocking<I: Send + 'static, O: Send + 'static>(
    input: I,
    work: impl FnOnce(I) -> Result<O> + Send + 'static,
) -> Result<O> {
    tokio::task::spawn_blocking(move || work(input))
        .await
        .map_err(|error| anyhow!("a part of the agent ended: {error}"))?
}

/// 16 letters and digits for the user `metal` on the console.
fn random_password() -> Result<String> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut password = String::new();
    while password.len() < 16 {
        let mut byte = [0_u8; 1];
        getrandom::fill(&mut byte).context("making the console password")?;
        // Bytes beyond the last full alphabet would make its first letters likelier.
        if byte[0] < 248 {
            password.push(char::from(ALPHABET[usize::from(byte[0] % 62)]));
        }
    }
    Ok(password)
}

/// Source: `/proc/self/status`, VmHWM (proc(5)).
fn tell_peak_memory(agent: &Agent) {
    let status = std::fs::read_to_string(agent.roots.proc.join("self/status")).unwrap_or_default();
    if let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
        info!("peak memory: {}", line.trim());
    }
}

/// Tells how far the image is: a line on the console every 10 s, a note to the control plane every 2 s.
struct Teller {
    events: Events,
    next: Mutex<(Instant, Instant)>,
}

impl Teller {
    fn new(events: Events) -> Self {
        let now = Instant::now();
        Self { events, next: Mutex::new((now + Duration::from_secs(10), now)) }
    }
}

impl Observer for Teller {
    fn progress(&self, progress: &image::Progress) {
        let Ok(mut next) = self.next.lock() else { return };
        let now = Instant::now();
        // nothing is left to fetch, but the disk still works
        let settles = progress.step == image::Step::Settling;
        let left_s = progress.left().filter(|_| !settles).map(|left| left.as_secs());
        if now >= next.0 {
            next.0 = now + Duration::from_secs(10);
            info!("image: {}", image::line(progress));
        }
        if now >= next.1 {
            next.1 = now + Duration::from_secs(2);
            self.events.note(&Note::Progress(Progress {
                step: "image".to_owned(),
                done: progress.bytes_in,
                total: progress.total,
                rate: progress.rate,
                left_s,
            }));
        }
    }
}

//! Phase configure: MetalConfig from the boot server.

use anyhow::Result;
use tracing::{info, warn};

use super::image_settings::ImageSettings;
use super::network::Connected;
use super::session::Session;
use super::{Agent, clock};
use crate::VERSION;
use crate::api::enrolment::NotAdmitted;
use crate::api::event::ProvisioningEvent;

pub(crate) async fn run(agent: &Agent, network: &Connected, machine_id: &str) -> Result<Session> {
    let session = match Session::open(agent, &network.online.resolver, machine_id).await {
        Ok(session) => session,
        Err(error) => {
            let is_answered = error.is::<NotAdmitted>();
            if !is_answered && agent.cmdline.config_url().is_some_and(|url| url.starts_with("https://")) {
                clock::set_early(agent, network).await;
            }
            return Err(error);
        }
    };
    info!(config = ?session.config, "configured");
    // First of all events, before the notes of the phases so far: the server's state machine wants it so.
    agent.events.send_first(ProvisioningEvent::Preparing, format!("starting drophammer version:{VERSION:?}"));
    tell_image_settings(agent, &session);
    Ok(session)
}

/// Long before an image is installed, so that a mistake is seen before somebody waits for a machine. It is no reason
/// to stop: an installed machine must start its system, and one that waits gets a configuration that was mended.
fn tell_image_settings(agent: &Agent, session: &Session) {
    match ImageSettings::parse(&agent.cmdline, &session.config) {
        Ok(settings) => {
            settings.warnings.iter().for_each(|warning| warn!("{warning}"));
            let ImageSettings { mirrors, keys, proxy, .. } = &settings;
            if settings != ImageSettings::default() {
                let keys: Vec<String> = keys.iter().map(|key| key.id.to_string()).collect();
                let proxy = proxy.as_ref().map(|rule| rule.proxy.to_string());
                info!(
                    ?mirrors,
                    ?keys,
                    proxy,
                    digest_is_optional = settings.digest_is_optional,
                    "how images are fetched"
                );
            }
        }
        Err(error) => warn!(error = format!("{error:#}"), "as it is configured, no image will be installed"),
    }
}

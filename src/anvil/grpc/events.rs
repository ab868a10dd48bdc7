//! EventService: what machines and switches tell.

use tonic::{Request, Response, Status};

use super::peer::Peer;
use super::status;
use crate::anvil::machines;
use crate::anvil::state::Anvil;
use crate::api::event::ProvisioningEvent;
use crate::api::grpc::event_service_server::EventService;
use crate::api::grpc::{EventServiceSendRequest, EventServiceSendResponse};

pub(super) struct Events {
    anvil: Anvil,
}

impl Events {
    pub(super) fn new(anvil: Anvil) -> Self {
        Self { anvil }
    }
}

#[tonic::async_trait]
impl EventService for Events {
    /// An unknown event name only fails its machine; a real error fails the call, though the others are stored.
    async fn send(
        &self,
        request: Request<EventServiceSendRequest>,
    ) -> Result<Response<EventServiceSendResponse>, Status> {
        let peer = Peer::of(&request);
        let events = request.into_inner().events;
        for id in events.keys() {
            peer.expect_machine(&self.anvil, id).await?;
        }
        let mut accepted = 0;
        let mut failed = Vec::new();
        let mut errors = Vec::new();
        for (id, event) in events {
            let name = match event.event.parse::<ProvisioningEvent>() {
                Ok(name) => name,
                Err(error) => {
                    tracing::warn!(machine = %id, %error, "event refused");
                    failed.push(id);
                    continue;
                }
            };
            if name != ProvisioningEvent::Alive {
                tracing::info!(machine = %id, event = %name, message = %event.message, "event");
            }
            // The time in the message is ignored: machines' clocks may be wrong.
            match machines::receive_event(&self.anvil, &id, name, &event.message).await {
                Ok(()) => accepted += 1,
                Err(error) => errors.push((id, error)),
            }
        }
        failed.sort();
        match errors.pop() {
            None => Ok(Response::new(EventServiceSendResponse { events: accepted, failed })),
            Some((id, error)) => {
                tracing::warn!(machine = %id, failures = errors.len() + 1, %error, "events were not stored");
                Err(status(error))
            }
        }
    }
}

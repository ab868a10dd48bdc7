//! `Wait`: a stream that ends when the machine is allocated.
//!
//! Messages are empty, a sign of life every 5 s. metal-api leaves the `waiting` flag set when a stream breaks off; here
//! it is reset, so that a machine that went away is not given to anybody.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::anvil::enrolment;
use crate::anvil::machines;
use crate::anvil::refusal::Refusal;
use crate::anvil::state::Anvil;
use crate::anvil::waiting::{Call, Signal};
use crate::api::grpc::BootServiceWaitResponse;

type Message = Result<BootServiceWaitResponse, Status>;

/// Between two signs of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// The database is read again with the first sign of life and then with every twelfth, in case a wake-up got lost.
const SIGNS_PER_LOOK: u32 = 12;

/// Opens a stream for a known machine.
pub(super) async fn start(anvil: Anvil, id: String) -> Result<ReceiverStream<Message>, Refusal> {
    let (sender, receiver) = mpsc::channel(1);
    // Entered before the machine is looked at: an allocation in between wakes this call.
    let call = anvil.waiters.enter(&id);
    match set_waiting(&anvil, &id, true).await {
        Err(refusal) => {
            anvil.waiters.leave(&call);
            Err(refusal)
        }
        Ok(true) => {
            anvil.waiters.leave(&call);
            Ok(ReceiverStream::new(receiver))
        }
        Ok(false) => {
            tracing::info!(machine = %id, "waits for an allocation");
            tokio::spawn(wait(anvil, id, call, sender));
            Ok(ReceiverStream::new(receiver))
        }
    }
}

/// How a stream ends.
enum End {
    Allocated,
    ClientGone,
    Replaced,
    ShuttingDown,
    Failed(Refusal),
}

async fn wait(anvil: Anvil, id: String, mut call: Call, sender: mpsc::Sender<Message>) {
    let end = until_end(&anvil, &id, &mut call, &sender).await;
    let current = anvil.waiters.is_current(&call);
    anvil.waiters.leave(&call);
    let last_word = match end {
        End::Allocated => {
            tracing::info!(machine = %id, "has noticed its allocation");
            None
        }
        End::ClientGone => {
            tracing::info!(machine = %id, "waits no more, the connection is gone");
            if current && let Err(error) = set_waiting(&anvil, &id, false).await {
                tracing::warn!(machine = %id, %error, "the waiting flag was not reset");
            }
            None
        }
        End::Replaced => Some(Status::aborted("replaced by a newer call of the same machine")),
        // The flag stays: the machine comes back as soon as anvil does.
        End::ShuttingDown => Some(Status::unavailable("anvil is shutting down")),
        End::Failed(refusal) => Some(super::status(refusal)),
    };
    if let Some(status) = last_word {
        // A client that left meanwhile needs no answer.
        let _ = sender.send(Err(status)).await;
    }
}

async fn until_end(anvil: &Anvil, id: &str, call: &mut Call, sender: &mpsc::Sender<Message>) -> End {
    let mut ticks = interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut signs: u32 = 0;
    loop {
        let look = tokio::select! {
            () = sender.closed() => return End::ClientGone,
            signal = call.signal() => match signal {
                Signal::Look => true,
                Signal::Replaced => return End::Replaced,
                Signal::ShuttingDown => return End::ShuttingDown,
            },
            _ = ticks.tick() => {
                let look = signs.is_multiple_of(SIGNS_PER_LOOK);
                signs = signs.wrapping_add(1);
                // A full channel means that the client has not taken the last sign yet; no need to pile up more.
                if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(Ok(BootServiceWaitResponse {})) {
                    return End::ClientGone;
                }
                look
            }
        };
        if look {
            // Also repairs the flag, should the end of an older call have reset it.
            match set_waiting(anvil, id, true).await {
                Ok(true) => return End::Allocated,
                Ok(false) => {}
                Err(refusal) => return End::Failed(refusal),
            }
        }
    }
}

async fn set_waiting(anvil: &Anvil, id: &str, waiting: bool) -> Result<bool, Refusal> {
    let id = id.to_owned();
    let needs_admission = waiting && anvil.config.require_enrolment;
    anvil
        .store
        .run(move |tx| {
            if needs_admission && !enrolment::is_admitted(tx, &id)? {
                return Err(Refusal::Forbidden(format!("the certificate of machine {id:?} is not good any more")));
            }
            machines::set_waiting(tx, &id, waiting)
        })
        .await
}

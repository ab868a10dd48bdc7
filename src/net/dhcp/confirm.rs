//! Whether an address that is in use already may be kept.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::acquire::{ACK_WAITS, Acquired};
use super::asking::{Asking, Heard};
use super::message::Question;
use super::reply::ReplyKind;
use super::rules::DhcpOptions;
use crate::net::links::EthernetLink;

/// What a server says about an address that is already in use.
#[derive(Clone, Debug)]
pub enum Confirmed {
    Lease(Box<Acquired>),
    /// The server's reason, if it gave one.
    Refused(Option<String>),
    NoAnswer,
}

/// Asks whether `address` may be kept (RFC 2131 section 3.2), once with a few repetitions.
pub async fn confirm(link: &EthernetLink, address: Ipv4Addr, options: &DhcpOptions) -> Result<Confirmed> {
    let (sender, mut replies) = mpsc::channel(16);
    let asking = Asking::open(link.clone(), sender)?;
    for wait in ACK_WAITS {
        let since = Instant::now();
        asking.send(Question::Confirm { address }, 0, options).await?;
        let heard = timeout_at(since + wait, async {
            loop {
                let heard: Heard = replies.recv().await?;
                let reason = options.servers.reason_against(heard.reply.server, heard.source);
                match reason {
                    Some(reason) => debug!(server = %heard.source, reason, "DHCP answer passed over"),
                    None if heard.reply.kind != ReplyKind::Offer => return Some(heard),
                    None => {}
                }
            }
        });
        let Ok(Some(heard)) = heard.await else { continue };
        if heard.reply.kind == ReplyKind::Nak {
            return Ok(Confirmed::Refused(heard.reply.message));
        }
        if let Ok(lease) = options.lease(&heard.reply) {
            return Ok(Confirmed::Lease(Box::new(Acquired { link: link.clone(), lease, since })));
        }
    }
    Ok(Confirmed::NoAnswer)
}

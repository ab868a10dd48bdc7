//! DHCPv4 client: finds a lease on whichever link answers first, and keeps it.
//!
//! [`acquire`] asks over packet sockets, since there is no address yet, and takes no address that somebody else has;
//! [`keep`] renews over UDP and follows the link. What comes in is parsed by [`parse_reply`], which is pure. Sources:
//! RFC 2131, 2132, 3396, 3397, 3442, 4578, 5227.

mod acquire;
mod apply;
pub mod arp;
mod asking;
mod confirm;
mod domains;
mod frame;
mod keep;
mod lease;
mod message;
mod options;
mod reply;
mod rules;
mod search;

pub use acquire::{Acquired, OfferSeen, acquire, find_offer};
pub use apply::{apply_lease, remove_lease};
pub use confirm::{Confirmed, confirm};
pub use frame::{Datagram, parse_frame, render_frame};
pub use keep::{Lost, keep};
pub(super) use lease::class_prefix;
pub use lease::{Lease, LeaseTimes, Useless};
pub use reply::{Reply, ReplyError, ReplyKind, parse_reply};
pub use rules::{DhcpOptions, Needs, ServerRules};

/// UDP port of servers and relays.
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 68;

//! DHCPv4 client: finds a lease on whichever link answers first, and keeps it.
//!
//! [`acquire`] asks over packet sockets, since there is no address yet; [`keep`] renews over UDP. What comes in is
//! parsed by [`parse_reply`], which is pure. Sources: RFC 2131, 2132, 3396, 3397, 3442, 4578.

mod acquire;
mod apply;
mod domains;
mod frame;
mod keep;
mod lease;
mod message;
mod options;
mod reply;

pub use acquire::{Acquired, Confirmed, OfferSeen, acquire, confirm, find_offer};
pub use apply::{apply_lease, remove_lease};
pub use frame::{Datagram, parse_frame, render_frame};
pub use keep::{Lost, keep};
pub(super) use lease::class_prefix;
pub use lease::{Lease, LeaseTimes, Useless};
pub use message::DhcpOptions;
pub use reply::{Reply, ReplyError, ReplyKind, parse_reply};

/// UDP port of servers and relays.
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 68;

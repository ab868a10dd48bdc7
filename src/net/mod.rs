//! Network: links, an address by DHCP, names, time and neighbours.
//!
//! [`bring_up`] is the whole network phase. [`Lldp`] runs beside it from the moment the links are up; [`set_clock`]
//! and [`http_client`] need what it found. Each part is also a subcommand ([`command`]).

mod backoff;
mod bmc_link;
pub mod bond;
mod bring_up;
mod carrier;
pub mod command;
mod connect;
pub mod dhcp;
mod http_client;
mod kernel_config;
pub mod links;
pub mod lldp;
pub mod made_links;
pub mod mtu;
pub mod ntp;
mod pinned_ca;
pub mod resolver;
mod static_ip;
pub mod vlan;

pub use backoff::Backoff;
pub use bring_up::{Network, Online, Origin, bring_up};
pub use connect::connect;
pub use http_client::{
    ClientIdentity, desk_http_client, http_client, image_http_client, log_http_client, pinned_http_client,
};
pub use kernel_config::{KernelConfig, parse_pnp, read_kernel_config};
pub use lldp::{Lldp, LldpMode};
pub use ntp::{ClockSet, NtpClient, set_clock};
pub use resolver::{ResolveError, Resolver};
pub use static_ip::{IpSetting, StaticIp, parse_ip_setting};

/// Tells the operator what is being waited for.
pub type Say<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Ends a background task with its owner.
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

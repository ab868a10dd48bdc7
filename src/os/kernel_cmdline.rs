//! The kernel command line of the installed system.

use super::Input;
use super::console::Console;

/// As upstream's installer writes it. `net.ifnames=0` keeps the names under which the agent reported the NICs.
pub fn render(input: &Input) -> String {
    let console = Console::parse(input.console.as_deref());
    let raid = match &input.md_uuid {
        Some(md_uuid) => format!(" rdloaddriver=raid0 rdloaddriver=raid1 rd.md.uuid={md_uuid}"),
        None => String::new(),
    };
    format!(
        "console={console} root=UUID={} init=/sbin/init net.ifnames=0 biosdevname=0 nvme_core.io_timeout=300{raid}",
        input.root_uuid
    )
}

//! The scripts that iPXE runs.

use crate::api::ca_pin::CaPin;
use crate::api::mac::Mac;

/// What a script needs to load the agent.
pub struct AgentScript<'a> {
    /// Host and port as the client addressed us.
    pub host: &'a str,
    pub mac: Mac,
    pub kernel_id: &'a str,
    pub initrd_id: &'a str,
    /// Complete, on one line.
    pub cmdline: &'a str,
}

impl AgentScript<'_> {
    /// In metal-stack's order. The console comes before the command line, so that a `console=` in there is the last
    /// and wins; `initrd=` is for the kernel's EFI stub.
    ///
    /// `${console}` is set already by an iPXE of metal-stack's. For all others: a port that the machine does not have
    /// must not come first, since Linux then uses no serial console at all, not even one named later. So the default
    /// is the command line's own, else found like metal-stack's iPXE does.
    pub fn text(&self) -> String {
        let Self { host, kernel_id, initrd_id, cmdline, .. } = self;
        let mac = self.mac.to_string().replace(':', "%3A");
        let (find_console, default) = match serial_console(cmdline) {
            Some(console) => ("", console),
            None => (FIND_CONSOLE, "ttyS1"),
        };
        format!(
            "#!ipxe\n\
             {find_console}\
             isset ${{console}} || set console {default}\n\
             kernel --name kernel http://{host}/_/file?name={kernel_id}&type=kernel&mac={mac}\n\
             initrd --name initrd0 http://{host}/_/file?name={initrd_id}&type=initrd&mac={mac}\n\
             imgfetch --name ready http://{host}/_/booting?mac={mac} ||\n\
             imgfree ready ||\n\
             boot kernel initrd=initrd0 console=${{console}},115200n8 {cmdline}\n"
        )
    }
}

/// Boards whose serial console for people is the first port; on all others (Supermicro) it is the second. iPXE has no
/// quotes, hence the blank as a variable.
const FIND_CONSOLE: &str = "isset ${console} && goto console ||\n\
    set blank:hex 20\n\
    iseq ${manufacturer} QEMU && set console ttyS0 ||\n\
    iseq ${manufacturer} FUJITSU && set console ttyS0 ||\n\
    iseq ${manufacturer} Dell${blank:string}Inc. && set console ttyS0 ||\n\
    iseq ${manufacturer} Giga${blank:string}Computing && set console ttyS0 ||\n\
    :console\n";

/// The serial port of the last `console=` that names one, such as `ttyS0`.
fn serial_console(cmdline: &str) -> Option<&str> {
    let consoles = cmdline.split_whitespace().filter_map(|word| word.strip_prefix("console="));
    let mut ports = consoles.filter_map(|console| console.split(',').next());
    ports.rfind(|port| port.strip_prefix("ttyS").is_some_and(|number| number.parse::<u8>().is_ok()))
}

/// Hands over to the machine's own disk.
///
/// A BIOS gets the first disk started. UEFI goes on to its next boot entry when iPXE ends with an error; after a plain
/// `exit` it would show its menu.
pub const LOCAL_DISK_SCRIPT: &str = "#!ipxe\n\
    iseq ${platform} efi && goto firmware ||\n\
    sanboot --no-describe --drive 0x80 ||\n\
    exit\n\
    :firmware\n\
    exit 1\n";

/// Where the agent's configuration is had by TLS.
#[derive(Clone, Debug)]
pub struct SecureConfig {
    /// `https://…/certs`.
    pub url: String,
    pub ca: CaPin,
}

/// Words of a command line on one line, so that it cannot add commands to the script.
///
/// The agent's own default is to wait for two switches, which anvil's racks need not have: unless the operator says
/// otherwise, ours tell what they hear and wait for nobody. Where the configuration comes from is the operator's word, too.
pub fn join_cmdline(cmdline: &str, pixie_api_url: &str, secure: &SecureConfig, debug: bool) -> String {
    let mut words: Vec<&str> = cmdline.split_whitespace().collect();
    let url = format!("PIXIE_API_URL={pixie_api_url}");
    words.push(&url);
    let ours = [format!("drophammer.config={}", secure.url), format!("drophammer.ca={}", secure.ca)];
    if !words.iter().any(|word| word.starts_with("drophammer.config=") || word.starts_with("drophammer.ca=")) {
        words.extend(ours.iter().map(String::as_str));
    }
    if !words.iter().any(|word| word.starts_with("drophammer.lldp=")) {
        words.push("drophammer.lldp=optional");
    }
    if debug {
        words.push("DEBUG=1");
    }
    words.join(" ")
}

/// Names the port that the script was asked for by, unless the operator has: the agent begins there.
pub fn with_boot_port(cmdline: String, mac: Mac) -> String {
    if cmdline.split_whitespace().any(|word| word.starts_with("BOOTIF=")) {
        return cmdline;
    }
    format!("{cmdline} BOOTIF=01-{}", mac.to_string().replace(':', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(cmdline: &str) -> String {
        let mac = "02:00:00:00:00:01".parse().unwrap();
        AgentScript { host: "10.1.0.5:4242", mac, kernel_id: "AAAA", initrd_id: "BBBB", cmdline }.text()
    }

    #[test]
    fn the_agents_script_is_metal_stacks() {
        assert_eq!(
            script("console=ttyS1,115200n8 PIXIE_API_URL=http://10.1.0.5:4242/certs"),
            "#!ipxe
isset ${console} || set console ttyS1
kernel --name kernel http://10.1.0.5:4242/_/file?name=AAAA&type=kernel&mac=02%3A00%3A00%3A00%3A00%3A01
initrd --name initrd0 http://10.1.0.5:4242/_/file?name=BBBB&type=initrd&mac=02%3A00%3A00%3A00%3A00%3A01
imgfetch --name ready http://10.1.0.5:4242/_/booting?mac=02%3A00%3A00%3A00%3A00%3A01 ||
imgfree ready ||
boot kernel initrd=initrd0 console=${console},115200n8 console=ttyS1,115200n8 PIXIE_API_URL=http://10.1.0.5:4242/certs
"
        );
    }

    #[test]
    fn the_first_console_is_never_one_the_operator_did_not_mean() {
        for (cmdline, port) in
            [("console=ttyS1,115200n8 console=ttyS0", "ttyS0"), ("console=ttyS2,9600 console=tty0", "ttyS2")]
        {
            assert!(
                script(cmdline).contains(&format!("#!ipxe\nisset ${{console}} || set console {port}\n")),
                "{cmdline}"
            );
        }
        let without = script("console=tty0 quiet");
        assert!(without.contains("QEMU && set console ttyS0 ||\n"), "{without}");
        assert!(without.contains(":console\nisset ${console} || set console ttyS1\n"), "{without}");
    }

    #[test]
    fn a_command_line_stays_on_its_line() {
        let ca = CaPin::of(b"certificate");
        let secure = SecureConfig { url: "https://10.1.0.5:4243/certs".to_owned(), ca };
        let ours = format!("drophammer.config=https://10.1.0.5:4243/certs drophammer.ca={ca}");
        let join = |cmdline, debug| join_cmdline(cmdline, "http://10.1.0.5:4242/certs", &secure, debug);
        assert_eq!(
            join("a=1\nshell\n  b ", true),
            format!("a=1 shell b PIXIE_API_URL=http://10.1.0.5:4242/certs {ours} drophammer.lldp=optional DEBUG=1")
        );
        assert_eq!(
            join("drophammer.lldp=required", false),
            format!("drophammer.lldp=required PIXIE_API_URL=http://10.1.0.5:4242/certs {ours}")
        );
        for own in ["drophammer.config=http://10.9.9.9/certs", "drophammer.ca=sha256:00"] {
            assert!(!join(own, false).contains("https://10.1.0.5:4243"), "the operator's {own} stands");
        }
    }

    #[test]
    fn the_port_that_boots_is_named_as_boot_loaders_do() {
        let with = |cmdline: &str| with_boot_port(cmdline.to_owned(), "02:00:00:00:00:0a".parse().unwrap());
        assert_eq!(with("ip=dhcp"), "ip=dhcp BOOTIF=01-02-00-00-00-00-0a");
        assert_eq!(with("BOOTIF=01-02-00-00-00-00-0b quiet"), "BOOTIF=01-02-00-00-00-00-0b quiet");
    }
}

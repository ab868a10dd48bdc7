//! What a booting client is, and which file it gets.
//!
//! The chain is the firmware's own: BIOS and UEFI load an iPXE by TFTP, UEFI's HTTP boot loads it by HTTP, and an iPXE,
//! wherever it came from, gets the script's URL at once. metal-stack's boot server hands its own iPXE (user class
//! `pixiecore`) to the iPXE of a network card's ROM (firmware 4) first. We don't: every iPXE speaks HTTP, so that
//! stage would only cost time. What its embedded script does for the console, ours does (see [`super::script`]).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::dhcp_message::{Request, option};
use crate::api::mac::Mac;
use crate::api::machine_id::is_of_one_machine;

/// Which loader a firmware gets; the number is the last part of its TFTP path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    X86Pc = 0,
    Efi32 = 1,
    Efi64 = 2,
    EfiBc = 3,
    X86Ipxe = 4,
}

impl Firmware {
    pub fn number(self) -> u8 {
        self as u8
    }

    pub fn from_number(number: &str) -> Option<Self> {
        match number {
            "0" => Some(Self::X86Pc),
            "1" => Some(Self::Efi32),
            "2" => Some(Self::Efi64),
            "3" => Some(Self::EfiBc),
            "4" => Some(Self::X86Ipxe),
            _ => None,
        }
    }

    /// Files of the loader directory that will do, the best first.
    ///
    /// `snponly` and `undionly` use the firmware's own network driver, which worked a moment ago; the full ones carry
    /// drivers for what iPXE knows.
    pub fn loaders(self) -> &'static [&'static str] {
        match self {
            Self::X86Pc => &["undionly.kpxe"],
            Self::Efi32 => &["ipxe-i386.efi"],
            Self::Efi64 | Self::EfiBc => &["snponly.efi", "ipxe.efi"],
            Self::X86Ipxe => &["ipxe.pxe", "undionly.kpxe"],
        }
    }
}

/// The `arch` of the script's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptArch {
    Ia32 = 0,
    X64 = 1,
}

impl ScriptArch {
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// How a client boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootClient {
    /// PXE firmware: a loader by TFTP.
    Tftp(Firmware),
    /// UEFI HTTP boot: a loader by HTTP.
    Http,
    /// iPXE: the script by HTTP.
    Script(ScriptArch),
}

impl fmt::Display for BootClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tftp(Firmware::X86Pc) => "BIOS PXE",
            Self::Tftp(Firmware::Efi32) => "32-bit UEFI PXE",
            Self::Tftp(Firmware::Efi64 | Firmware::EfiBc) => "UEFI PXE",
            Self::Tftp(Firmware::X86Ipxe) => "iPXE by TFTP",
            Self::Http => "UEFI HTTP boot",
            Self::Script(_) => "iPXE",
        })
    }
}

/// The first architecture that option 93 names.
pub fn architecture(request: &Request) -> Option<u16> {
    match request.option(option::CLIENT_ARCHITECTURE) {
        Some([high, low, ..]) => Some(u16::from_be_bytes([*high, *low])),
        Some(_) | None => None,
    }
}

/// What kind of network boot a client asks for; `None` for an ordinary client and for an architecture without loader.
pub fn identify(request: &Request) -> Option<BootClient> {
    let (firmware, arch) = match architecture(request)? {
        0 => (Firmware::X86Pc, ScriptArch::Ia32),
        6 => (Firmware::Efi32, ScriptArch::Ia32),
        7 | 16 => (Firmware::Efi64, ScriptArch::X64),
        9 => (Firmware::EfiBc, ScriptArch::X64),
        _ => return None,
    };
    if speaks_http_scripts(request) {
        return Some(BootClient::Script(arch));
    }
    let http = request.option(option::VENDOR_CLASS).is_some_and(|class| class.starts_with(b"HTTPClient"));
    if http { (arch == ScriptArch::X64).then_some(BootClient::Http) } else { Some(BootClient::Tftp(firmware)) }
}

/// Firmware for an answer on port 4011, where architecture 16 does not come and 0 gets the full iPXE.
pub fn identify_binl(request: &Request) -> Option<Firmware> {
    match architecture(request)? {
        0 => Some(Firmware::X86Ipxe),
        6 => Some(Firmware::Efi32),
        7 => Some(Firmware::Efi64),
        9 => Some(Firmware::EfiBc),
        _ => None,
    }
}

/// iPXE sends the bare name as its user class; RFC 3004 would have each name after a length byte.
fn speaks_http_scripts(request: &Request) -> bool {
    let is_known = |class: &[u8]| class == b"iPXE" || class == b"pixiecore";
    match request.option(option::USER_CLASS) {
        Some(class) => {
            is_known(class)
                || class.split_first().is_some_and(|(len, rest)| rest.get(..usize::from(*len)).is_some_and(is_known))
        }
        None => false,
    }
}

/// What an offer says about booting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootFields {
    pub server_name: String,
    pub file: String,
    pub options: Vec<(u8, Vec<u8>)>,
}

/// Does an answer also give an address, or does it stand beside that of another server?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Ours gives the address, too.
    OwnAddress,
    /// ProxyDHCP.
    OtherServer,
}

/// PXE sub-option 6 (discovery control) = 8: no discovery, load the boot file at once (PXE 2.1 section 2.2.3).
const BOOT_AT_ONCE: [u8; 4] = [6, 1, 8, 255];
/// iPXE option `no-pxedhcp` (176) = 1: don't wait for a ProxyDHCP server, we are both.
const NO_PROXY_DHCP: [u8; 3] = [176, 1, 1];

/// File, server name and options for a booting client.
pub fn boot_fields(client: BootClient, beside: Beside, mac: Mac, http: SocketAddrV4) -> BootFields {
    let vendor_class = |name: &str| (option::VENDOR_CLASS, name.as_bytes().to_vec());
    match client {
        BootClient::Tftp(firmware) => {
            let mut options = Vec::new();
            if firmware == Firmware::X86Pc {
                options.push(vendor_class("PXEClient"));
                options.push((option::VENDOR, BOOT_AT_ONCE.to_vec()));
            } else if beside == Beside::OtherServer {
                // UEFI comes back on port 4011 when it sees this class without option 43. In an answer with an
                // address the class stays away, so that it loads the file like after any plain DHCP.
                options.push(vendor_class("PXEClient"));
            }
            BootFields { server_name: http.ip().to_string(), file: tftp_path(mac, firmware), options }
        }
        BootClient::Http => BootFields {
            server_name: String::new(),
            file: format!("http://{http}/_/loader/{}", HTTP_LOADER),
            options: vec![vendor_class("HTTPClient")],
        },
        BootClient::Script(arch) => {
            let options = match beside {
                Beside::OwnAddress => vec![(option::IPXE, NO_PROXY_DHCP.to_vec())],
                Beside::OtherServer => vec![vendor_class("PXEClient")],
            };
            let file = format!("http://{http}/_/ipxe?arch={}&mac={mac}", arch.number());
            BootFields { server_name: String::new(), file, options }
        }
    }
}

/// Name under which UEFI HTTP boot asks for its loader; the ending tells it that this is a program.
pub const HTTP_LOADER: &str = "ipxe.efi";

pub fn tftp_path(mac: Mac, firmware: Firmware) -> String {
    format!("{mac}/{}", firmware.number())
}

/// The machine's UUID from option 97: a zero byte and 16 bytes, of which the first three groups are little-endian.
///
/// `None` when absent or malformed, and for those that many boards send: they would all be one machine. The agent
/// on such a machine finds another id.
pub fn machine_uuid(request: &Request) -> Option<String> {
    let [0, bytes @ ..] = request.option(option::MACHINE_UUID)? else { return None };
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    let uuid = uuid::Uuid::from_bytes_le(bytes);
    is_of_one_machine(uuid).then(|| uuid.to_string())
}

/// The options that every answer to a booting client carries: options 97 and 82 as they came, 82 last (RFC 3046).
pub fn echoed_options(request: &Request) -> Vec<(u8, Vec<u8>)> {
    [option::MACHINE_UUID, option::RELAY_AGENT]
        .into_iter()
        .filter_map(|code| Some((code, request.option(code)?.to_vec())))
        .collect()
}

/// Our own address as an option's value.
pub fn address_value(address: Ipv4Addr) -> Vec<u8> {
    address.octets().to_vec()
}

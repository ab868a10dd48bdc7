//! Against a BMC of recorded and composed answers.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

/// Completion code and data of each answer, by function, command and the first bytes of the request.
struct Recorded(Vec<(&'static [u8], Vec<u8>)>);

impl Answer for Recorded {
    fn ask(&mut self, command: Command, data: &[u8]) -> Result<Vec<u8>, IpmiError> {
        let request = [&[command.net_function, command.number], data].concat();
        let answer = self.0.iter().find(|(start, _)| request.starts_with(start)).map(|(_, answer)| answer.as_slice());
        match answer {
            Some([0, data @ ..]) => Ok(data.to_vec()),
            Some([code, ..]) => Err(IpmiError::Refused { command, code: *code }),
            Some([]) => Err(IpmiError::TimedOut { limit: Duration::from_secs(6) }),
            // "Invalid command"
            None => Err(IpmiError::Refused { command, code: 0xc1 }),
        }
    }
}

/// A BMC that also has a FRU memory, of which it hands out `chunk` bytes at once.
struct WithFru {
    recorded: Recorded,
    memory: Vec<u8>,
    chunk: u8,
}

impl Answer for WithFru {
    fn ask(&mut self, command: Command, data: &[u8]) -> Result<Vec<u8>, IpmiError> {
        match (command.net_function, command.number, data) {
            (0x0a, 0x10, [0]) => {
                let [low, high] = u16::try_from(self.memory.len()).expect("a small memory").to_le_bytes();
                Ok(vec![low, high, 0])
            }
            (0x0a, 0x11, [0, _, _, count]) if *count > self.chunk => Err(IpmiError::Refused { command, code: 0xca }),
            (0x0a, 0x11, [0, low, high, count]) => {
                let bytes = self.memory.get(usize::from(u16::from_le_bytes([*low, *high]))..).expect("in the memory");
                let bytes = bytes.get(..usize::from(*count)).unwrap_or(bytes);
                Ok([&[u8::try_from(bytes.len()).expect("a chunk")], bytes].concat())
            }
            _ => self.recorded.ask(command, data),
        }
    }
}

/// Get Device ID as a Supermicro X11 answers it (firmware 1.74, IPMI 2.0).
const DEVICE_ID: &[u8] = &[0, 0x20, 0x01, 0x01, 0x74, 0x02, 0xbf, 0x7c, 0x2a, 0x00, 0x5d, 0x09, 0, 0, 0, 0];

fn lan_of_channel_1() -> Vec<(&'static [u8], Vec<u8>)> {
    vec![
        (&[0x06, 0x01], DEVICE_ID.to_vec()),
        (&[0x0c, 0x02, 1, 3], vec![0, 0x11, 10, 1, 2, 3]),
        (&[0x0c, 0x02, 1, 4], vec![0, 0x11, 2]),
        (&[0x0c, 0x02, 1, 5], vec![0, 0x11, 0xac, 0x1f, 0x6b, 0x01, 0x02, 0x03]),
        (&[0x0c, 0x02, 1, 6], vec![0, 0x11, 255, 255, 252, 0]),
        (&[0x0c, 0x02, 1, 12], vec![0, 0x11, 10, 1, 0, 1]),
    ]
}

/// A chassis area at 8 and a product area at 24.
fn fru_memory() -> Vec<u8> {
    let header = vec![1, 0, 1, 0, 3, 0, 0];
    let chassis = vec![1, 2, 0x17, 0xc3, b'P', b'/', b'N', 0xc2, b'C', b'1', 0xc1, 0, 0, 0, 0];
    let product =
        [&[1, 3, 25, 0xc4], b"Acme".as_slice(), &[0xc0, 0xc2], b"P1", &[0xc0, 0xc2], b"S1", &[0xc1, 0, 0, 0, 0, 0, 0]];
    [header, chassis, product.concat()]
        .into_iter()
        .flat_map(|mut area| {
            area.push(area.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte)));
            area
        })
        .collect()
}

fn ask(bmc: &mut impl Answer) -> (Bmc, Vec<String>) {
    let mut warnings = Vec::new();
    (ask_all(bmc, &mut warnings), warnings)
}

#[test]
fn a_bmc_tells_what_it_is_where_it_is_and_what_it_knows() {
    for chunk in [255, 16, 15, 8, 4] {
        let recorded = Recorded(lan_of_channel_1());
        let (bmc, warnings) = ask(&mut WithFru { recorded, memory: fru_memory(), chunk });
        assert_eq!(warnings, Vec::<String>::new(), "chunks of {chunk} bytes");
        assert_eq!((bmc.ipmi_version.as_deref(), bmc.firmware.as_deref()), (Some("2.0"), Some("1.74")));
        assert_eq!((bmc.manufacturer_id, bmc.manufacturer.as_deref()), (Some(10876), Some("Supermicro")));
        assert_eq!(bmc.product_id, Some(0x095d));
        let lan = Lan {
            channel: 1,
            address: Some(Ipv4Addr::new(10, 1, 2, 3)),
            address_source: Some(AddressSource::Dhcp),
            netmask: Some(Ipv4Addr::new(255, 255, 252, 0)),
            gateway: Some(Ipv4Addr::new(10, 1, 0, 1)),
            mac: Some("ac:1f:6b:01:02:03".to_owned()),
        };
        assert_eq!(bmc.lan, Some(lan));
        let fru = bmc.fru.expect("a FRU");
        assert_eq!((fru.chassis_part_number.as_deref(), fru.chassis_serial.as_deref()), (Some("P/N"), Some("C1")));
        assert_eq!((fru.product_manufacturer.as_deref(), fru.product_name), (Some("Acme"), None));
        assert_eq!((fru.product_part_number.as_deref(), fru.product_serial.as_deref()), (Some("P1"), Some("S1")));
    }
}

#[test]
fn the_lan_is_found_on_another_channel() {
    let (bmc, _) = ask(&mut Recorded(vec![
        (&[0x06, 0x01], DEVICE_ID.to_vec()),
        // Channel 1 is a LAN that nobody plugged in, 2 a serial line, 8 the one.
        (&[0x0c, 0x02, 1, 3], vec![0, 0x11, 0, 0, 0, 0]),
        (&[0x0c, 0x02, 1, 5], vec![0, 0x11, 2, 0, 0, 0, 0, 1]),
        (&[0x06, 0x42, 2], vec![0, 2, 5, 1, 0, 0, 0, 0, 0, 0]),
        (&[0x06, 0x42, 8], vec![0, 8, 4, 1, 0x80, 0, 0, 0, 0, 0]),
        (&[0x0c, 0x02, 8, 3], vec![0, 0x11, 10, 0, 0, 8]),
        (&[0x0c, 0x02, 8, 5], vec![0, 0x11, 2, 0, 0, 0, 0, 8]),
    ]));
    let lan = bmc.lan.expect("a LAN");
    assert_eq!((lan.channel, lan.address), (8, Some(Ipv4Addr::new(10, 0, 0, 8))));
    assert_eq!((lan.netmask, lan.address_source), (None, None));
}

#[test]
fn a_refusal_is_a_warning_and_the_rest_is_asked() {
    let (bmc, warnings) = ask(&mut Recorded(lan_of_channel_1()));
    assert!(bmc.lan.is_some() && bmc.fru.is_none());
    assert_eq!(warnings, ["BMC: the BMC answers command 0a 10 with completion code 0xc1"]);
}

#[test]
fn a_bmc_that_falls_silent_is_asked_no_more() {
    let mut answers = lan_of_channel_1();
    answers.insert(0, (&[0x0c, 0x02, 1, 6], Vec::new()));
    let (bmc, warnings) = ask(&mut Recorded(answers));
    assert_eq!((bmc.firmware.as_deref(), bmc.lan), (Some("1.74"), None));
    assert_eq!(warnings, ["BMC: the BMC did not answer within 6 s; nothing more was asked"]);
}

#[test]
fn an_area_that_does_not_add_up_leaves_the_others() {
    let mut memory = fru_memory();
    memory[12] ^= 1;
    let (bmc, warnings) = ask(&mut WithFru { recorded: Recorded(lan_of_channel_1()), memory, chunk: 16 });
    let fru = bmc.fru.expect("the product area");
    assert_eq!((fru.chassis_part_number, fru.product_serial.as_deref()), (None, Some("S1")));
    assert!(warnings.len() == 1 && warnings[0].contains("chassis area add up to 0x"), "{warnings:?}");
}

#[test]
fn the_kernels_copy_is_taken_where_there_is_no_device() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let device = dir.path().join("sys/bus/platform/devices/ipmi_bmc.0");
    std::fs::create_dir_all(&device).expect("making a folder");
    let files = [
        ("ipmi_version", "2.0\n"),
        ("firmware_revision", "1.4\n"),
        ("manufacturer_id", "0x0002a2\n"),
        ("product_id", "0x0100\n"),
    ];
    for (name, value) in files {
        std::fs::write(device.join(name), value).expect("writing a file");
    }
    let found = read(&Roots::under(dir.path()), Duration::ZERO).found.expect("a BMC");
    assert_eq!((found.ipmi_version.as_deref(), found.firmware.as_deref()), (Some("2.0"), Some("1.04")));
    assert_eq!((found.manufacturer.as_deref(), found.product_id), (Some("Dell"), Some(0x100)));
}

#[test]
fn a_machine_without_a_bmc_has_none_and_a_captured_device_is_not_asked() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let roots = Roots::under(dir.path());
    assert_eq!(read(&roots, Duration::ZERO), Reading::default());
    std::fs::create_dir_all(dir.path().join("dev")).expect("making a folder");
    std::fs::write(dir.path().join("dev/ipmi0"), "").expect("writing a file");
    assert_eq!(read(&roots, Duration::ZERO), Reading::default());
}

proptest! {
    #[test]
    fn any_answers_are_read_or_named(
        answers in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 1..30),
        memory in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        struct Babbling { answers: Vec<(u8, Vec<u8>)>, memory: Vec<u8>, asked: usize }
        impl Answer for Babbling {
            fn ask(&mut self, command: Command, data: &[u8]) -> Result<Vec<u8>, IpmiError> {
                self.asked += 1;
                if let (0x0a, 0x11, [_, low, high, count]) = (command.net_function, command.number, data) {
                    let start = usize::from(u16::from_le_bytes([*low, *high]));
                    return Ok([&[*count], self.memory.get(start..).unwrap_or_default()].concat());
                }
                let (code, data) = &self.answers[self.asked % self.answers.len()];
                if *code < 200 { Ok(data.clone()) } else { Err(IpmiError::Refused { command, code: *code }) }
            }
        }
        let mut bmc = Babbling { answers, memory, asked: 0 };
        ask(&mut bmc);
        prop_assert!(bmc.asked < 20_000, "{} questions", bmc.asked);
    }
}

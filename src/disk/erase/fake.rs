//! A disk in memory whose every command can be made to refuse, break or lie: what QEMU's disks do not have.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use crate::disk::block::{BlockDevice, NvmePort, ScsiPort};
use crate::sys::nvme::{IDENTIFY_BYTES, Identify, SANITIZE_LOG_BYTES};
use crate::sys::scsi::{Answer, Transfer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Works,
    Refuses,
    /// Reports success and does nothing.
    Lies,
    /// Reports success and leaves the last sector.
    LeavesTail,
    /// With a new key: everything reads as noise.
    MakesNoise,
}

use Behaviour::{LeavesTail, Lies, MakesNoise, Refuses, Works};

pub(super) struct FakeDisk {
    pub(super) data: Mutex<Vec<u8>>,
    pub(super) zero_out: Behaviour,
    /// Writes from this offset on fail.
    pub(super) broken_from: Option<u64>,
    pub(super) nvme: Option<FakeNvme>,
    pub(super) ata: Option<Mutex<FakeAta>>,
    pub(super) sas: Option<FakeSas>,
}

pub(super) struct FakeNvme {
    pub(super) controller: Vec<u8>,
    pub(super) attached: Vec<u32>,
    pub(super) crypto: Behaviour,
    pub(super) format: Behaviour,
    pub(super) sanitize: Behaviour,
    /// Namespace and dword 10 of each format; zero and dword 10 of each sanitize.
    pub(super) calls: Mutex<Vec<(u32, u32)>>,
    /// SSTAT and SPROG of the next looks at the log; the last stays.
    pub(super) log: Mutex<Vec<(u16, u16)>>,
}

#[derive(Default)]
pub(super) struct FakeAta {
    pub(super) sanitize_word: u16,
    pub(super) sanitize: Option<Behaviour>,
    /// SECURITY ERASE UNIT, enhanced and normal.
    pub(super) erase: [Option<Behaviour>; 2],
    pub(super) frozen: bool,
    pub(super) password: Option<Vec<u8>>,
    pub(super) locked: bool,
    pub(super) prepared: bool,
    /// How often its status still says that it sanitizes, and whether it then says that it did.
    pub(super) busy: u8,
    pub(super) sanitized: bool,
    pub(super) commands: Vec<u8>,
}

pub(super) struct FakeSas {
    pub(super) knows: Vec<(u8, u8)>,
    pub(super) sanitize: Behaviour,
    pub(super) format: Behaviour,
    pub(super) busy: Mutex<u8>,
    pub(super) commands: Mutex<Vec<Vec<u8>>>,
}

impl FakeDisk {
    pub(super) fn dirty(zero_out: Behaviour) -> Self {
        let data = Mutex::new(vec![0x5a; (9 << 20) + 512]);
        Self { data, zero_out, broken_from: None, nvme: None, ata: None, sas: None }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.data.lock().unwrap().iter().all(|byte| *byte == 0)
    }

    fn clear(&self, behaviour: Behaviour, offset: u64, length: u64) -> io::Result<()> {
        let mut data = self.data.lock().unwrap();
        let (start, end) = (offset as usize, (offset + length) as usize);
        match behaviour {
            Works => data[start..end].fill(0),
            Refuses => return Err(io::Error::from(io::ErrorKind::Unsupported)),
            Lies => {}
            LeavesTail => {
                let end = end.min(data.len() - 512);
                data[start..end].fill(0);
            }
            MakesNoise => data[start..end].iter_mut().enumerate().for_each(|(i, byte)| *byte ^= (i % 251) as u8 | 1),
        }
        Ok(())
    }

    fn clear_all(&self, behaviour: Behaviour) -> io::Result<()> {
        self.clear(behaviour, 0, self.size_bytes())
    }
}

impl BlockDevice for FakeDisk {
    fn size_bytes(&self) -> u64 {
        self.data.lock().unwrap().len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let data = self.data.lock().unwrap();
        buffer.copy_from_slice(&data[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.broken_from.is_some_and(|broken| offset + bytes.len() as u64 > broken) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        self.data.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero_out(&self, offset: u64, length: u64) -> io::Result<()> {
        self.clear(self.zero_out, offset, length)
    }

    fn has_secure_discard(&self) -> bool {
        false
    }

    fn secure_discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn nvme(&self) -> Option<&dyn NvmePort> {
        self.nvme.as_ref().map(|_| self as &dyn NvmePort)
    }

    fn scsi(&self) -> Option<&dyn ScsiPort> {
        (self.ata.is_some() || self.sas.is_some()).then_some(self)
    }
}

impl FakeNvme {
    /// Format NVM with crypto erase, one namespace; `fna` and `sanicap` as the controller has them.
    pub(super) fn new(fna: u8, sanicap: u8, crypto: Behaviour, format: Behaviour) -> Self {
        let mut controller = vec![0; IDENTIFY_BYTES];
        (controller[256], controller[328], controller[524]) = (0x2, sanicap, fna);
        let log = Mutex::new(vec![(2, 0x4000), (2, 0x8000), (1, 0xffff)]);
        Self { controller, attached: vec![1], crypto, format, sanitize: Works, calls: Mutex::default(), log }
    }
}

impl NvmePort for FakeDisk {
    fn namespace_id(&self) -> io::Result<u32> {
        Ok(1)
    }

    fn identify(&self, _namespace: u32, what: Identify) -> io::Result<Vec<u8>> {
        let nvme = self.nvme.as_ref().unwrap();
        let mut answer = vec![0; IDENTIFY_BYTES];
        match what {
            Identify::Controller => answer.clone_from(&nvme.controller),
            // The second format, with protection type 1.
            Identify::Namespace => (answer[26], answer[29]) = (1, 1),
            Identify::AttachedNamespaces => {
                for (at, id) in nvme.attached.iter().enumerate() {
                    answer[at * 4..at * 4 + 4].copy_from_slice(&id.to_le_bytes());
                }
            }
            Identify::AllocatedNamespaces => return Err(io::Error::other("status 0x4002")),
        }
        Ok(answer)
    }

    fn format(&self, namespace: u32, cdw10: u32, _limit: Duration) -> io::Result<()> {
        let nvme = self.nvme.as_ref().unwrap();
        nvme.calls.lock().unwrap().push((namespace, cdw10));
        self.clear_all(if cdw10 >> 9 & 7 == 2 { nvme.crypto } else { nvme.format })
    }

    fn sanitize(&self, cdw10: u32, _limit: Duration) -> io::Result<()> {
        let nvme = self.nvme.as_ref().unwrap();
        nvme.calls.lock().unwrap().push((0, cdw10));
        if cdw10 & 7 == 1 { Ok(()) } else { self.clear_all(nvme.sanitize) }
    }

    fn sanitize_log(&self) -> io::Result<Vec<u8>> {
        let mut log = self.nvme.as_ref().unwrap().log.lock().unwrap();
        let (status, progress) = if log.len() > 1 { log.remove(0) } else { log[0] };
        let mut answer = vec![0; SANITIZE_LOG_BYTES];
        answer[..2].copy_from_slice(&progress.to_le_bytes());
        answer[2..4].copy_from_slice(&status.to_le_bytes());
        Ok(answer)
    }
}

impl ScsiPort for FakeDisk {
    fn execute(&self, command: &[u8], transfer: Transfer<'_>, _limit: Duration) -> io::Result<Answer> {
        match (command[0], &self.ata, &self.sas) {
            (0x12, ata, _) => {
                let Transfer::In(buffer) = transfer else { panic!("INQUIRY without a buffer") };
                buffer[8..16].copy_from_slice(if ata.is_some() { b"ATA     " } else { b"FAKE    " });
                Ok(Answer::default())
            }
            (0x85, Some(ata), _) => Ok(self.ata_command(&mut ata.lock().unwrap(), command, transfer)),
            (_, _, Some(sas)) => Ok(self.sas_command(sas, command, transfer)),
            (other, _, _) => panic!("command {other:#04x}"),
        }
    }
}

/// Registers as descriptor sense.
fn registers(aborted: bool, count: u16, lba: u16) -> Answer {
    let (count, lba) = (count.to_be_bytes(), lba.to_be_bytes());
    let (error, status) = if aborted { (0x04, 0x51) } else { (0, 0x50) };
    let mut sense = vec![0x72, 1, 0, 0x1d, 0, 0, 0, 14];
    sense.extend([0x09, 0x0c, 1, error, count[0], count[1], 0, lba[1], 0, lba[0], 0, 0, 0, status]);
    Answer { status: 2, sense }
}

impl FakeDisk {
    fn ata_command(&self, ata: &mut FakeAta, block: &[u8], transfer: Transfer<'_>) -> Answer {
        let command = block[14];
        ata.commands.push(command);
        let done = |works: bool| registers(!works, 0, 0);
        let given = match &transfer {
            Transfer::Out(data) => data[2..34].to_vec(),
            Transfer::None | Transfer::In(_) => vec![],
        };
        let is_right = ata.password.as_ref().is_some_and(|password| *password == given);
        match command {
            0xec => {
                let Transfer::In(data) = transfer else { panic!("IDENTIFY without a buffer") };
                ata.identify(data);
                done(true)
            }
            0xb4 => self.ata_sanitize(ata, block),
            _ if ata.frozen => done(false),
            0xf1 => {
                ata.password = Some(given);
                done(true)
            }
            0xf2 => {
                ata.locked &= !is_right;
                done(is_right)
            }
            0xf3 => {
                ata.prepared = true;
                done(true)
            }
            0xf4 => {
                let Transfer::Out(data) = transfer else { panic!("no password") };
                let behaviour = ata.erase[usize::from(data[0] & 2 == 0)].unwrap_or(Refuses);
                let works = ata.prepared && is_right && self.clear_all(behaviour).is_ok();
                if works {
                    ata.password = None;
                }
                done(works)
            }
            0xf6 => {
                let works = is_right && !ata.locked;
                if works {
                    ata.password = None;
                }
                done(works)
            }
            other => panic!("ATA command {other:#04x}"),
        }
    }

    fn ata_sanitize(&self, ata: &mut FakeAta, block: &[u8]) -> Answer {
        if block[4] != 0 {
            let works = self.clear_all(ata.sanitize.unwrap_or(Refuses)).is_ok();
            (ata.busy, ata.sanitized) = if works { (2, true) } else { (0, false) };
            return registers(!works, 0, 0);
        }
        if ata.busy > 0 {
            ata.busy -= 1;
            return registers(false, 0x4000, 0x8000);
        }
        registers(false, u16::from(ata.sanitized) << 15, 0xffff)
    }

    fn sas_command(&self, sas: &FakeSas, command: &[u8], transfer: Transfer<'_>) -> Answer {
        sas.commands.lock().unwrap().push(command.to_vec());
        let refusal = Answer { status: 2, sense: vec![0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0] };
        let run = |behaviour| match self.clear_all(behaviour) {
            Ok(()) => {
                *sas.busy.lock().unwrap() = 2;
                Answer::default()
            }
            Err(_) => refusal.clone(),
        };
        match (command[0], transfer) {
            (0xa3, Transfer::In(data)) => {
                let known = sas.knows.contains(&(command[3], command[5]));
                data[1] = if known { 3 } else { 1 };
                Answer::default()
            }
            (0x9e, Transfer::In(data)) => {
                // Protection of type 2.
                data[12] = 0b0011;
                Answer::default()
            }
            (0x03, Transfer::In(data)) => {
                let mut busy = sas.busy.lock().unwrap();
                (data[0], data[2]) = (0x70, 0);
                if *busy > 0 {
                    *busy -= 1;
                    (data[2], data[12], data[13], data[15], data[16]) = (2, 4, 0x1b, 0x80, 0x80);
                }
                Answer::default()
            }
            (0x00, _) => Answer::default(),
            (0x48, _) => run(sas.sanitize),
            (0x04, _) => run(sas.format),
            (other, _) => panic!("command {other:#04x}"),
        }
    }
}

impl FakeAta {
    fn identify(&self, data: &mut [u8]) {
        let mut set = |word: usize, value: u16| data[word * 2..word * 2 + 2].copy_from_slice(&value.to_le_bytes());
        set(59, self.sanitize_word);
        set(82, 0x2);
        let bit = |set: bool, bit: u16| u16::from(set) << bit;
        let enhanced = self.erase[0].is_some();
        let word = 1 | bit(self.password.is_some(), 1) | bit(self.locked, 2) | bit(self.frozen, 3) | bit(enhanced, 5);
        set(128, word);
        set(89, 2);
    }
}

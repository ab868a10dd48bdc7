//! The log of the device mapper's target `log-writes`: every write of a disk in the order in which it was done, with the
//! flushes between them. From it the disk is made as it may have been at any moment when the power went.
//!
//! Source: drivers/md/dm-log-writes.c, Documentation/admin-guide/device-mapper/log-writes.rst.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

pub struct WriteLog {
    bytes: Vec<u8>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    /// Of the disk, in bytes.
    pub offset: u64,
    flags: u64,
    /// Where in the log its data is; empty for a flush.
    data: Range<usize>,
}

impl Entry {
    /// Bytes of the disk that it writes.
    pub fn range(&self) -> Option<Range<u64>> {
        let writes = self.flags & MARK == 0 && !self.data.is_empty();
        writes.then(|| self.offset..self.offset + self.data.len() as u64)
    }

    fn is_flush(&self) -> bool {
        self.flags & FLUSH != 0
    }
}

impl WriteLog {
    pub fn read(device: &str) -> Self {
        let file = fs::File::open(device).unwrap();
        let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let mut head = [0; SECTOR as usize];
        file.read_exact_at(&mut head, 0).unwrap();
        assert_eq!(word(&head, 0), MAGIC, "a log");
        let mut at = SECTOR;
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        for _ in 0..word(&head, 16) {
            let mut head = [0; SECTOR as usize];
            file.read_exact_at(&mut head, at).unwrap();
            let (offset, flags) = (word(&head, 0) * SECTOR, word(&head, 16));
            assert_eq!(flags & DISCARD, 0, "nothing here discards");
            // A mark has its text right behind its head; data begins with the next sector.
            let start = bytes.len();
            if flags & MARK != 0 {
                let length = word(&head, 24) as usize;
                bytes.extend_from_slice(&head[32..32 + length]);
                at += SECTOR;
            } else {
                let length = word(&head, 8) * SECTOR;
                bytes.resize(start + length as usize, 0);
                file.read_exact_at(&mut bytes[start..], at + SECTOR).unwrap();
                at += SECTOR + length;
            }
            entries.push(Entry { offset, flags, data: start..bytes.len() });
        }
        Self { bytes, entries }
    }

    /// Entries between a mark and the next one.
    pub fn after_mark(&self, text: &str) -> Range<usize> {
        let is_mark = |entry: &Entry| entry.flags & MARK != 0;
        let wanted = |entry: &Entry| is_mark(entry) && &self.bytes[entry.data.clone()] == text.as_bytes();
        let Some(start) = self.entries.iter().position(wanted) else { return 0..0 };
        let length = self.entries[start + 1..].iter().position(is_mark);
        start + 1..length.map_or(self.entries.len(), |length| start + 1 + length)
    }

    /// Writes to `image` what is on the disk when the power goes before entry `cut`: all up to the last flush, and of
    /// what came after it those writes that `luck` lets through, the last of them perhaps only in part.
    pub fn replay(&self, image: &fs::File, cut: usize, luck: &mut dyn FnMut(u64) -> u64) {
        let done = &self.entries[..cut];
        let flushed = done.iter().rposition(Entry::is_flush).unwrap_or(0);
        for (index, entry) in done.iter().enumerate() {
            let Some(range) = entry.range() else { continue };
            let mut data = &self.bytes[entry.data.clone()];
            if index >= flushed && entry.flags & FUA == 0 {
                match luck(4) {
                    0 => continue,
                    1 => {
                        let sectors = data.len() as u64 / SECTOR;
                        data = &data[..(luck(sectors + 1) * SECTOR) as usize];
                    }
                    _ => {}
                }
            }
            image.write_all_at(data, range.start).unwrap();
        }
    }
}

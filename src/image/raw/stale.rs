//! What an earlier system left behind the image. It is not the image's, so that it stays, and is told.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Target;
use crate::disk::probe::{parse_raid_at_end, raid_super_at_end};
use crate::disk::table::{Copy, read_gpt};
use crate::image::report::Counters;

/// Warns of signatures at the end of the disk that make tools believe in what is gone.
pub(super) fn warn(target: &Target, image_bytes: u64, counters: &Counters) {
    let (Some(capacity), Some(sector_bytes)) = (target.capacity(), target.sector_bytes()) else { return };
    let path = target.path().display();
    let Ok(file) = File::open(target.path()) else { return };
    let backup = capacity.saturating_sub(u64::from(sector_bytes));
    if backup >= image_bytes
        && let Ok(table) = read_gpt(&file, capacity, sector_bytes, Copy::Backup)
    {
        counters.warn(format!(
            "at the end of {path} there is still the backup of another partition table (GPT {}): tools may want to \
             restore it. Erase the disk before, or let the image grow over it",
            table.disk_guid
        ));
    }
    let Some(super_block) = raid_super_at_end(capacity).filter(|at| *at >= image_bytes) else { return };
    if let Some(array) = read_raid(&file, super_block) {
        counters.warn(format!("at the end of {path} there is still the super block of an array ({array})"));
    }
}

fn read_raid(file: &File, offset: u64) -> Option<String> {
    let mut block = [0; 4096];
    file.read_exact_at(&mut block, offset).ok()?;
    parse_raid_at_end(&block).map(|found| found.to_string())
}

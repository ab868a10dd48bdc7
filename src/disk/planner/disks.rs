//! Which disks there are, and what each gets as a whole.

use uuid::Uuid;

use super::Planner;
use super::kept::kept_partitions;
use crate::api::layout::{Disk, is_selector};
use crate::disk::device::{DiskFacts, DiskKind};
use crate::disk::fault::Fault;
use crate::disk::plan::{DiskAction, DiskPlan, Mode};
use crate::disk::table::Table;

impl<I: FnMut() -> Uuid> Planner<'_, I> {
    pub(super) fn plan_disks(&mut self) -> Vec<DiskPlan> {
        let mut plans: Vec<DiskPlan> = Vec::new();
        for disk in &self.layout.disks {
            let Some(facts) = self.facts.iter().find(|facts| facts.device == disk.device) else {
                // Told where the selector was looked up.
                if is_selector(&disk.device) {
                    continue;
                }
                let present = self.facts.iter().filter(|d| d.kind == DiskKind::Fixed).map(|d| d.device.clone());
                self.faults.push(Fault::DiskMissing { device: disk.device.clone(), present: present.collect() });
                continue;
            };
            if plans.iter().any(|plan| plan.disk.device == disk.device) {
                self.faults.push(Fault::DiskTwice { device: disk.device.clone() });
                continue;
            }
            plans.push(self.plan_disk(disk, facts));
        }
        plans
    }

    fn plan_disk(&mut self, disk: &Disk, facts: &DiskFacts) -> DiskPlan {
        self.check_disk(facts);
        let keep = self.mode == Mode::Reinstall && !disk.wipeonreinstall;
        let mut plan = DiskPlan {
            disk: facts.clone(),
            selector: self.selectors.iter().find(|(device, _)| *device == facts.device).map(|(_, name)| name.clone()),
            action: DiskAction::Keep,
            guid: None,
            loses: Vec::new(),
            partitions: Vec::new(),
        };
        if keep {
            match kept_partitions(disk, facts) {
                Ok((guid, partitions)) => (plan.guid, plan.partitions) = (guid, partitions),
                Err(why) => self.faults.push(Fault::KeptDiskDiffers { device: facts.device.clone(), why }),
            }
        } else {
            plan.loses = losses(facts);
            if disk.partitions.is_empty() {
                plan.action = DiskAction::Blank;
            } else {
                plan.action = DiskAction::Partition;
                plan.guid = Some((self.new_id)());
                plan.partitions = self.plan_partitions(disk, facts);
            }
        }
        plan
    }

    fn check_disk(&mut self, facts: &DiskFacts) {
        let device = || facts.device.clone();
        if facts.read_only {
            self.faults.push(Fault::DiskReadOnly { device: device() });
        }
        if !matches!(facts.sector_bytes, 512 | 4096) {
            self.faults.push(Fault::SectorSize { device: device(), found: facts.sector_bytes });
        }
        for use_ in &facts.uses {
            self.faults.push(Fault::DiskInUse { device: device(), use_: use_.clone() });
        }
    }

    pub(super) fn untouched(&self) -> Vec<String> {
        let fixed = self.facts.iter().filter(|disk| disk.kind == DiskKind::Fixed);
        let outside = fixed.filter(|facts| self.layout.disks.iter().all(|disk| disk.device != facts.device));
        outside.map(|facts| facts.device.clone()).collect()
    }
}

/// What a person would want to know before agreeing.
fn losses(facts: &DiskFacts) -> Vec<String> {
    let mut losses: Vec<String> = Vec::new();
    if let Some(content) = &facts.content {
        match &content.table {
            Table::None | Table::Gpt(_) => {}
            Table::Mbr => losses.push("an MBR or boot sector".to_owned()),
            Table::DamagedGpt(why) => losses.push(format!("a damaged GPT ({why})")),
        }
        losses.extend(content.signature.as_ref().map(ToString::to_string));
    }
    losses.extend(facts.partitions.iter().map(|partition| match &partition.signature {
        Some(signature) => format!("partition {} ({}, {signature})", partition.number, partition.size),
        None => format!("partition {} ({})", partition.number, partition.size),
    }));
    losses
}

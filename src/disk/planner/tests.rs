use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::layout::values::GptType;
use crate::api::layout::{Disk, Filesystem, Partition, partition_device};
use crate::disk::device::{Content, DiskKind, DiskUse, PartitionFacts};
use crate::disk::fstab::fstab;
use crate::disk::plan::{DiskAction, FilesystemAction};
use crate::disk::probe::Signature;
use crate::disk::table::{GptPartition, GptTable, Table};
use crate::sys::units::Bytes;

mod stack;

const GIB: u64 = 1 << 30;

fn facts(device: &str, size: u64, sector_bytes: u32) -> DiskFacts {
    DiskFacts {
        device: device.to_owned(),
        name: device.trim_start_matches("/dev/").to_owned(),
        size: Bytes(size),
        sector_bytes,
        serial: Some(format!("S-{device}")),
        wwn: None,
        model: Some("MODEL".to_owned()),
        links: vec![],
        kind: DiskKind::Fixed,
        read_only: false,
        rotational: Some(false),
        uses: vec![],
        partitions: vec![],
        content: Some(Content { table: Table::None, signature: None }),
    }
}

fn layout(value: Value) -> FilesystemLayout {
    serde_json::from_value(value).expect("the test's layout is well-formed")
}

fn example(text: &str) -> FilesystemLayout {
    serde_json::from_str(text).expect("the example is well-formed")
}

fn vm() -> FilesystemLayout {
    example(include_str!("../../../tests/fixtures/layouts/vm.json"))
}

fn gpu() -> FilesystemLayout {
    example(include_str!("../../../tests/fixtures/layouts/gpu.json"))
}

/// Ids 1, 2, 3, …
fn counted() -> impl FnMut() -> Uuid {
    let mut count = 0_u32;
    move || {
        count += 1;
        Uuid::from_fields(count, 0, 0x4000, &[0x80, 0, 0, 0, 0, 0, 0, 0])
    }
}

fn plan_counted(
    layout: &FilesystemLayout,
    disks: &[DiskFacts],
    firmware: Firmware,
    mode: Mode,
) -> Result<Plan, Faults> {
    plan_with(layout, disks, firmware, mode, counted())
}

fn told(result: Result<Plan, Faults>) -> Vec<String> {
    match result {
        Ok(plan) => panic!("no fault was found:\n{plan}"),
        Err(faults) => faults.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn small_machine_by_bios_gets_a_boot_partition_in_the_gap() {
    for (sector, gap) in [(512, (34, 2047)), (4096, (6, 255))] {
        let disk = facts("/dev/vda", 8 * GIB, sector);
        let plan = plan_counted(&vm(), &[disk], Firmware::Bios, Mode::Install).unwrap();
        let step = (1 << 20) / u64::from(sector);
        let shown: Vec<_> =
            plan.disks[0].partitions.iter().map(|p| (p.number, p.gpt_type.code(), p.first_lba, p.last_lba)).collect();
        assert_eq!(
            shown,
            [
                (1, "ef00", step, 501 * step - 1),
                (2, "8300", 501 * step, 5501 * step - 1),
                (3, "8300", 5501 * step, 8191 * step - 1),
                (128, "ef02", gap.0, gap.1),
            ]
        );
        assert!(plan.to_string().contains("added: BIOS boots GRUB from it"), "{plan}");
    }
}

#[test]
fn one_line_says_what_becomes_of_which_disk() {
    let content = Some(Content { table: Table::Mbr, signature: None });
    let disk = DiskFacts { content, ..facts("/dev/vda", 8 * GIB, 512) };
    let plan = plan_counted(&vm(), &[disk], Firmware::Uefi, Mode::Install).unwrap();
    let expected =
        "layout \"vm\"; /dev/vda (8.5 GB, serial S-/dev/vda): new partition table, losing an MBR or boot sector";
    assert_eq!(plan.sentence(), expected);
}

#[test]
fn uefi_adds_nothing_and_a_layout_with_ef02_keeps_its_own() {
    let disk = facts("/dev/vda", 8 * GIB, 512);
    let plan = plan_counted(&vm(), std::slice::from_ref(&disk), Firmware::Uefi, Mode::Install).unwrap();
    assert_eq!(plan.disks[0].partitions.len(), 3);
    let own = layout(json!({
        "disks": [{"device": "/dev/vda", "partitions": [
            {"number": 7, "size": 1, "gpttype": "ef02"}, {"number": 9, "size": 0}]}],
        "filesystems": [{"path": "/", "device": "/dev/vda9", "format": "ext4"}]}));
    let plan = plan_counted(&own, &[disk], Firmware::Bios, Mode::Install).unwrap();
    assert_eq!(plan.disks[0].partitions.iter().map(|p| p.number).collect::<Vec<_>>(), [7, 9]);
}

#[test]
fn fstab_and_ids_come_from_the_plan_alone() {
    let mut layout = vm();
    layout.filesystems.push(Filesystem { device: "/dev/vda4".into(), format: "swap".into(), ..Filesystem::default() });
    layout.disks[0].partitions.insert(0, Partition { number: 4, size: 100, ..Partition::default() });
    layout.disks[0].partitions[3].number = 5;
    layout.filesystems[2].device = "/dev/vda5".into();
    let plan = plan_counted(&layout, &[facts("/dev/vda", 8 * GIB, 512)], Firmware::Uefi, Mode::Install).unwrap();
    let text = fstab(&plan, "1.2.3");
    assert_eq!(
        text,
        "# created by metal-hammer: \"1.2.3\"\n\
         UUID=00000007-0000-4000-8000-000000000000 / ext4 defaults 0 1\n\
         UUID=0000-0006 /boot/efi vfat defaults 0 2\n\
         UUID=00000008-0000-4000-8000-000000000000 /var/lib ext4 defaults 0 2\n\
         tmpfs /tmp tmpfs defaults,noatime,nosuid,nodev,noexec,mode=1777,size=512M 0 0\n\
         UUID=00000009-0000-4000-8000-000000000000 none swap sw 0 0\n"
    );
    assert_eq!(plan.root_uuid().as_deref(), Some("00000007-0000-4000-8000-000000000000"));
    assert_eq!(plan.esp().and_then(|esp| esp.path.as_deref()), Some("/boot/efi"));
    assert_eq!(plan.boot_disk, "/dev/vda");
}

#[test]
fn every_fault_is_named_at_once() {
    let bad = layout(json!({
        "disks": [
            {"device": "/dev/vda", "partitions": [
                {"number": 1, "size": 9000, "label": "a name that is far too long for the table"},
                {"number": 2, "size": 0, "gpttype": "abcd"}]},
            {"device": "/dev/vdb", "partitions": [{"number": 129, "size": 1}]},
            {"device": "/dev/vdc", "partitions": []}],
        "raid": [{"arrayname": "/dev/md0", "devices": [], "level": "1"}],
        "filesystems": [
            {"path": "/data", "device": "/dev/vda1", "format": "ext4", "label": "seventeen-letters"},
            {"path": "/data/", "device": "/dev/vda1", "format": "zfs"},
            {"path": "//data/.", "device": "/dev/vda2", "format": "vfat", "label": "twelve-bytes"},
            {"path": "/a/../b", "device": "/dev/vdb129", "format": "ext4"},
            {"path": "/dev/shm", "device": "/dev/vdb", "format": "ext3"},
            {"path": "swap", "device": "/dev/vdq", "format": "swap"}]}));
    let mut vdb = facts("/dev/vdb", GIB, 520);
    vdb.read_only = true;
    vdb.uses.push(DiskUse::Mounted { device: "/dev/vdb1".into(), target: "/mnt".into() });
    let faults = told(plan_counted(&bad, &[facts("/dev/vda", 8 * GIB, 512), vdb], Firmware::Uefi, Mode::Install));
    let expected = [
        "layout: disks[0].partitions[1].gpttype: unsupported GPT type \"abcd\"",
        "layout: filesystems[1].format: unsupported format \"zfs\"",
        "layout: filesystems[5].device: /dev/vdq is not a device of this layout",
        "/dev/md0: raid1 needs 2 devices beside its spares; it has 0, of which 0 are spares",
        "/dev/vda: name \"a name that is far too long for the table\" of partition 1 has 41 UTF-16 units; a GPT holds 36",
        "/dev/vda: too small: the partitions need 9438232576 bytes, the disk has 8587837440 for them (8.5 GB)",
        "/dev/vdb: read-only",
        "/dev/vdb: sectors of 520 bytes; a GPT can be written for 512 and 4096",
        "/dev/vdb: in use: /dev/vdb1 is mounted at /mnt",
        "/dev/vdb: partition number 129 is above 128",
        "/dev/vdc: not in this machine, which has /dev/vda, /dev/vdb",
        "/dev/vda1: label \"seventeen-letters\" has 17 bytes; ext4 holds 16",
        "/data: mount point of both /dev/vda1 and /dev/vda2",
        "/dev/vda2: label \"twelve-bytes\" has 12 bytes; vfat holds 11",
        "/dev/vdb129: mount point \"/a/../b\" is not an absolute path",
        "/dev/vdb: mount point /dev/shm belongs to the kernel",
        "/dev/vdb: the whole disk is used, which also has partitions",
        "/boot/efi: the machine boots by UEFI, but no vfat file system is mounted there (nor at /efi, /boot)",
        "/: no file system is mounted there",
    ];
    for text in expected {
        assert_eq!(faults.iter().filter(|fault| fault.starts_with(text)).count(), 1, "{text}\nin {faults:#?}");
    }
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
}

#[test]
fn two_file_systems_on_one_device_are_a_fault() {
    let mut layout = vm();
    layout.filesystems[2].device = "/dev/vda2".into();
    let faults = told(plan_counted(&layout, &[facts("/dev/vda", 8 * GIB, 512)], Firmware::Uefi, Mode::Install));
    assert_eq!(faults, ["/dev/vda2: two file systems on one device (entries 2 and 3 of the layout, counted from 1)"]);
}

#[test]
fn none_is_left_alone_but_not_mounted() {
    let mut layout = vm();
    layout.filesystems[2].format = "none".into();
    let disks = [facts("/dev/vda", 8 * GIB, 512)];
    let faults = told(plan_counted(&layout, &disks, Firmware::Uefi, Mode::Install));
    assert_eq!(faults, ["/dev/vda3: format none leaves nothing to be mounted at /var/lib"]);
    layout.filesystems[2].path = None;
    let plan = plan_counted(&layout, &disks, Firmware::Uefi, Mode::Install).unwrap();
    assert_eq!((plan.filesystems[2].action, &plan.filesystems[2].uuid), (FilesystemAction::Nothing, &None));
}

#[test]
fn examples_of_the_contract_are_valid_and_planned() {
    let sata = |device| facts(device, 100_000 << 20, 512);
    let nvme = |device| facts(device, 960_197_124_096, 4096);
    let disks = [sata("/dev/sda"), sata("/dev/sdb"), sata("/dev/vda"), nvme("/dev/nvme0n1"), nvme("/dev/nvme1n1")];
    let examples = [
        ("vm", include_str!("../../../tests/fixtures/layouts/vm.json")),
        ("gpu", include_str!("../../../tests/fixtures/layouts/gpu.json")),
        ("fw", include_str!("../../../tests/fixtures/layouts/fw.json")),
        ("mirror", include_str!("../../../tests/fixtures/layouts/mirror.json")),
        ("lvm", include_str!("../../../tests/fixtures/layouts/lvm.json")),
    ];
    for (id, text) in examples {
        let layout = example(text);
        assert_eq!(crate::api::layout::validate::validate(&layout), [], "{id}");
        if let Err(faults) = plan_counted(&layout, &disks, Firmware::Uefi, Mode::Install) {
            panic!("{id}: {faults}");
        }
    }
}

/// As the second disk of the GPU example is after its installation.
fn scratch_disk() -> DiskFacts {
    let mut disk = facts("/dev/nvme1n1", 960_197_124_096, 512);
    let partition = GptPartition {
        number: 1,
        type_guid: GptType::Linux.guid(),
        guid: Uuid::from_u128(5),
        first_lba: 2048,
        // Where sgdisk ends a rest: not on a multiple of 1 MiB.
        last_lba: 1_875_384_974,
        name: "scratch".into(),
    };
    let table = GptTable {
        disk_guid: Uuid::from_u128(9),
        first_usable_lba: 34,
        last_usable_lba: 1_875_384_974,
        partitions: vec![partition],
    };
    let signature = Signature { kind: "ext4", uuid: Some("kept-id".into()), label: Some("scratch".into()) };
    let start = Bytes(1 << 20);
    disk.partitions =
        vec![PartitionFacts { number: 1, name: "nvme1n1p1".into(), start, size: Bytes(1), signature: Some(signature) }];
    disk.content = Some(Content { table: Table::Gpt(table), signature: None });
    disk
}

#[test]
fn reinstall_keeps_a_matching_disk_and_its_ids() {
    let disks = [facts("/dev/nvme0n1", 960_197_124_096, 512), scratch_disk()];
    let plan = plan_counted(&gpu(), &disks, Firmware::Uefi, Mode::Reinstall).unwrap();
    assert_eq!(plan.disks.iter().map(|d| d.action).collect::<Vec<_>>(), [DiskAction::Partition, DiskAction::Keep]);
    assert_eq!(plan.filesystems[3].action, FilesystemAction::Keep);
    assert!(fstab(&plan, "x").contains("UUID=kept-id /scratch ext4 noatime,nofail 0 2\n"));
    assert!(plan.to_string().contains("kept, not written to"), "{plan}");
    let install = plan_counted(&gpu(), &disks, Firmware::Uefi, Mode::Install).unwrap();
    assert_eq!(install.disks[1].action, DiskAction::Partition);
    assert!(install.to_string().contains("on it now: partition 1 (1 B, ext4 \"scratch\" kept-id)"), "{install}");
}

#[test]
fn reinstall_refuses_a_kept_disk_that_differs() {
    type Change = fn(&mut DiskFacts);
    let table = |disk: &mut DiskFacts, change: fn(&mut GptTable)| match &mut disk.content {
        Some(Content { table: Table::Gpt(table), .. }) => change(table),
        _ => unreachable!("the scratch disk has a GPT"),
    };
    let cases: [(&str, Change, &str); 5] = [
        ("blank", |d| d.content = facts("/dev/x", 1, 512).content, "it has no partition table"),
        ("unreadable", |d| d.content = None, "it could not be read"),
        ("formatless", |d| d.partitions[0].signature = None, "/dev/nvme1n1p1 holds nothing known instead of ext4"),
        ("renamed", |_| {}, "its partition 1 is named \"other\" instead of \"scratch\""),
        ("extra", |_| {}, "it has a partition 2 (\"scratch\") that the layout does not have"),
    ];
    for (name, change, why) in cases {
        let mut disk = scratch_disk();
        change(&mut disk);
        match name {
            "renamed" => table(&mut disk, |table| table.partitions[0].name = "other".into()),
            "extra" => table(&mut disk, |table| {
                let extra = GptPartition { number: 2, ..table.partitions[0].clone() };
                table.partitions.push(extra);
            }),
            _ => {}
        }
        let disks = [facts("/dev/nvme0n1", 960_197_124_096, 512), disk];
        let faults = told(plan_counted(&gpu(), &disks, Firmware::Uefi, Mode::Reinstall));
        assert_eq!(faults, [format!("/dev/nvme1n1: is to be kept, but {why}; nothing was written")], "{name}");
    }
}

#[test]
fn reinstall_onto_a_kept_root_is_refused() {
    let mut layout = gpu();
    layout.disks.remove(0);
    layout.filesystems.retain(|fs| fs.device == "/dev/nvme1n1p1");
    layout.filesystems[0].path = Some("/".into());
    let faults = told(plan_counted(&layout, &[scratch_disk()], Firmware::Bios, Mode::Reinstall));
    assert_eq!(faults, ["/: /dev/nvme1n1 is to be kept over a reinstall, so there is no room for the new system"]);
}

prop_compose! {
    /// Numbers with gaps and in any order; the highest perhaps takes the rest.
    fn any_disk()(
        sector in prop_oneof![Just(512_u32), Just(4096)],
        sectors in 0_u64..4_000_000,
        sizes in proptest::collection::btree_map(1_u32..=128, 1_u64..3000, 1..12),
        rest in any::<bool>(),
        turn in 0_usize..12,
    ) -> (DiskFacts, Vec<Partition>) {
        let last = sizes.keys().max().copied();
        let mut partitions: Vec<Partition> = sizes.iter().map(|(number, size)| Partition {
            number: *number,
            size: if rest && Some(*number) == last { 0 } else { *size },
            ..Partition::default()
        }).collect();
        let turn = turn % partitions.len();
        partitions.rotate_left(turn);
        (facts("/dev/vda", sectors * u64::from(sector), sector), partitions)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(3), ..ProptestConfig::default() })]

    #[test]
    fn partitions_never_overlap_and_stay_inside((disk, partitions) in any_disk()) {
        let root = partition_device("/dev/vda", partitions[0].number);
        let layout = FilesystemLayout {
            disks: vec![Disk { device: "/dev/vda".into(), partitions: partitions.clone(), wipeonreinstall: true }],
            filesystems: vec![Filesystem { path: Some("/".into()), device: root, format: "ext4".into(), ..Filesystem::default() }],
            ..FilesystemLayout::default()
        };
        let sector = u64::from(disk.sector_bytes);
        let sectors = disk.size.0 / sector;
        let fixed: u64 = partitions.iter().map(|p| p.size.max(1)).sum();
        match plan_counted(&layout, &[disk], Firmware::Bios, Mode::Install) {
            Ok(plan) => {
                let mut ranges: Vec<_> = plan.disks[0].partitions.iter().map(|p| (p.first_lba, p.last_lba)).collect();
                ranges.sort_unstable();
                let array = 16384 / sector;
                prop_assert!(ranges[0].0 >= 2 + array);
                prop_assert!(ranges.last().unwrap().1 < sectors - array - 1);
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
                prop_assert!(ranges.iter().skip(1).all(|(first, _)| first * sector % (1 << 20) == 0));
                for (made, wanted) in plan.disks[0].partitions.iter().zip(&partitions) {
                    prop_assert_eq!(made.number, wanted.number);
                    prop_assert_eq!(made.size.0, (made.last_lba + 1 - made.first_lba) * sector);
                    prop_assert!(wanted.size == 0 || made.size == Bytes::mib(wanted.size));
                }
            }
            Err(faults) => {
                // Refused only when there is really no room: less than 1 MiB at the head and 2 MiB at the tail are lost.
                let full = partitions.len() == 128 || (fixed + 3) << 20 > sectors * sector;
                prop_assert!(full, "{}", faults);
            }
        }
    }
}

//! Configuring an installed system, from the outside: real programs in real chroots. Needs root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use drophammer::api::layout::{FilesystemLayout, Raid};
use drophammer::api::rest::{
    Allocation, DnsServer, FirewallEgressRule, FirewallIngressRule, FirewallRules, Network, Nic, NtpServer, Vpn,
};
use drophammer::os::{self, BootInfo, Firmware, Input, MadeFilesystem, Unfit, install_yaml};
use tempfile::TempDir;
use time::macros::datetime;

const ROOT_UUID: &str = "4d2f2d5e-0000-4000-8000-000000000001";
const FSTAB: &str =
    "# created by metal-hammer: \"0.1\"\nUUID=4d2f2d5e-0000-4000-8000-000000000001 / ext4 defaults 0 1\n";

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn private_network() -> Network {
    Network {
        networkid: "n1".into(),
        prefixes: texts(&["10.0.4.0/22"]),
        ips: texts(&["10.0.4.7"]),
        networktype: "privateprimaryunshared".into(),
        vrf: 46,
        asn: 4_210_000_046,
        private: true,
        ..Default::default()
    }
}

fn input() -> Input {
    Input {
        allocation: Allocation {
            hostname: "web-1".into(),
            role: "machine".into(),
            networks: vec![private_network()],
            ssh_pub_keys: texts(&["ssh-ed25519 AAAA me", "ssh-ed25519 BBBB you"]),
            ntp_servers: vec![NtpServer { address: "ntp.lab.example".into() }],
            ..Default::default()
        },
        machine_uuid: "5b1f7c1e-0000-4000-8000-00000000abcd".into(),
        nics: Vec::new(),
        console: Some("ttyS0,115200n8".into()),
        console_password: "Zm9vYmFyYmF6cXV4".into(),
        timestamp: datetime!(2026-08-20 10:00:00 UTC),
        firmware: Firmware::Bios,
        root_uuid: ROOT_UUID.into(),
        md_uuid: None,
        boot_disks: texts(&["/dev/vda"]),
        esp_members: Vec::new(),
        arrays: Vec::new(),
        esp_mounted: false,
        filesystems: vec![MadeFilesystem { label: "root".into(), format: "ext4".into(), uuid: ROOT_UUID.into() }],
        fstab: FSTAB.into(),
        lvmlocal_conf: None,
        resolvers: vec!["10.1.0.53".parse().unwrap()],
        ntp_servers: texts(&["10.1.0.1"]),
        installed_over: Some("02:00:00:00:00:01".into()),
        program_limit: Duration::from_secs(60),
    }
}

/// A system with nothing but busybox, whose applets are found by their names.
fn busybox_tree() -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    for dir in ["bin", "etc", "boot", "usr/bin"] {
        fs::create_dir_all(tree.path().join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", tree.path().join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "id", "ls", "mkdir", "pwd", "sleep", "setsid", "env", "stat", "mount", "chown", "echo"]
    {
        symlink("busybox", tree.path().join("bin").join(applet)).unwrap();
    }
    tree
}

fn put(tree: &TempDir, path: &str, content: &str, mode: u32) {
    let path = tree.path().join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn get(tree: &TempDir, path: &str) -> String {
    let path = tree.path().join(path.trim_start_matches('/'));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn mode(tree: &TempDir, path: &str) -> u32 {
    fs::metadata(tree.path().join(path.trim_start_matches('/'))).unwrap().mode() & 0o7777
}

fn mounts_below(root: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(root.to_str().unwrap())).map(str::to_owned).collect()
}

fn processes_in(root: &Path) -> usize {
    let roots =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_link(entry.path().join("root")).ok());
    roots.filter(|found| found == root).count()
}

const INSTALL_SH: &str = r#"#!/bin/sh
set -e
{
    echo "cwd=$(pwd) uid=$(id -u) gid=$(id -g) lang=$LANG home=$HOME secret=$AGENT_SECRET"
    echo "proc=$(cat /proc/self/comm) null=$(test -c /dev/null && echo yes) tmp=$(stat -f -c %T /tmp)"
    cat /etc/metal/install.yaml > /seen.yaml
} > /evidence
# A service that a package script might have started: it outlives the installer.
setsid sleep 1000 > /dev/null 2>&1 < /dev/null &
echo kernel > /boot/vmlinuz-1
printf 'kernel: /boot/vmlinuz-1\ncmdline: "console=ttyS0,115200n8 root=/dev/vda2"\ninitrd: ""\nbootloader_id: metal-test\n' \
    > /etc/metal/boot-info.yaml
echo "image's own" > /etc/fstab
"#;

#[test]
fn the_image_s_installer_runs_inside_and_what_it_says_of_booting_is_returned() {
    let tree = busybox_tree();
    put(&tree, "/install.sh", INSTALL_SH, 0o755);
    let boot_info = os::configure(tree.path(), &input()).unwrap();

    let expected = BootInfo {
        kernel: "/boot/vmlinuz-1".into(),
        initrd: String::new(),
        cmdline: "console=ttyS0,115200n8 root=/dev/vda2".into(),
        bootloader_id: "metal-test".into(),
    };
    assert_eq!(boot_info, expected);
    assert_eq!(get(&tree, "/evidence"), "cwd=/ uid=0 gid=0 lang=C home=/root secret=\nproc=cat null=yes tmp=tmpfs\n");
    assert_eq!(get(&tree, "/seen.yaml"), get(&tree, "/etc/metal/install.yaml"));
    assert_eq!(get(&tree, "/etc/fstab"), FSTAB, "ours goes over the image's");
    assert!(!tree.path().join("install.sh").exists());
    assert_eq!(mode(&tree, "/etc/metal/install.yaml"), 0o600);
    assert_eq!(mounts_below(tree.path()), Vec::<String>::new());
    assert_eq!(processes_in(tree.path()), 0, "the service it left behind would keep the disk busy");
}

#[test]
fn install_go_goes_before_install_sh() {
    let tree = busybox_tree();
    put(&tree, "/install.sh", "#!/bin/sh\nexit 1\n", 0o755);
    put(&tree, "/install-go", INSTALL_SH, 0o755);
    os::configure(tree.path(), &input()).unwrap();
    assert!(!tree.path().join("install-go").exists());
}

#[test]
fn a_failing_installer_is_reported_with_its_last_words() {
    let tree = busybox_tree();
    put(&tree, "/install.sh", "#!/bin/sh\necho looking for a disk\necho there is none >&2\nexit 3\n", 0o755);
    let error = format!("{:#}", os::configure(tree.path(), &input()).unwrap_err());
    assert!(error.contains("/install.sh in the image failed with exit status 3: "), "{error}");
    assert!(error.contains("there is none") && error.contains("looking for a disk"), "{error}");
    assert_eq!(mounts_below(tree.path()), Vec::<String>::new());
}

#[test]
fn a_hanging_installer_is_killed() {
    let tree = busybox_tree();
    put(&tree, "/install.sh", "#!/bin/sh\necho waiting for a key\nsleep 1000\n", 0o755);
    let error = os::configure(tree.path(), &Input { program_limit: Duration::from_secs(1), ..input() }).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "installing by the image's own installer: /install.sh in the image had not ended after 1 s and was killed: \
         waiting for a key"
    );
    assert_eq!(mounts_below(tree.path()), Vec::<String>::new());
}

#[test]
fn an_installer_that_does_not_say_how_to_boot_is_an_error() {
    let tree = busybox_tree();
    put(&tree, "/install.sh", "#!/bin/sh\necho 'kernel: /boot/vmlinuz-1' > /etc/metal/boot-info.yaml\n", 0o755);
    let error = os::configure(tree.path(), &input()).unwrap_err();
    assert_eq!(format!("{error:#}"), "reading /etc/metal/boot-info.yaml: no cmdline");
}

#[test]
fn an_image_that_cannot_be_installed_is_refused_with_all_reasons_and_left_alone() {
    let tree = busybox_tree();
    put(&tree, "/etc/os-release", "ID=debian\n", 0o644);
    put(&tree, "/etc/group", "root:x:0:\n", 0o644);
    put(&tree, "/usr/lib/grub/x86_64-efi/modinfo.sh", "", 0o644);
    let error = os::configure(tree.path(), &input()).unwrap_err();
    let text = error.to_string();
    for reason in [
        "kernel (/boot/vmlinuz-*)",
        "systemd-networkd",
        "group sudo or wheel",
        "useradd",
        "grub-install",
        "boot loader for Bios (GRUB for i386-pc, package grub-pc-bin); it has one for x86_64-efi only",
    ] {
        assert!(text.contains(reason), "{reason} in {text}");
    }
    assert!(error.downcast_ref::<Unfit>().is_some());
    assert!(!tree.path().join("etc/metal").exists());
}

#[test]
fn install_yaml_is_what_the_services_of_the_image_read() {
    let neighbor =
        |mac: &str| Nic { mac: mac.into(), name: "Ethernet0".into(), identifier: mac.into(), neighbors: vec![] };
    let nic = |mac: &str, neighbors| Nic { mac: mac.into(), name: "eth0".into(), identifier: String::new(), neighbors };
    let mut input = input();
    input.nics = vec![
        nic("02:00:00:00:00:01", vec![neighbor("Eth1/1")]),
        nic("02:00:00:00:00:02", vec![]),
        nic("02:00:00:00:00:03", vec![neighbor("Eth1/1"), neighbor("")]),
    ];
    assert_eq!(install_yaml::render(&input), include_str!("fixtures/os/install.yaml"));

    let allocation = &mut input.allocation;
    allocation.networks.clear();
    allocation.vpn = Some(Vpn { address: "vpn.lab.example".into(), auth_key: "k: \"1\"".into(), connected: false });
    allocation.firewall_rules = Some(FirewallRules {
        egress: vec![FirewallEgressRule {
            comment: "allow: dns\n".into(),
            ports: vec![53],
            protocol: "udp".into(),
            to: texts(&["10.1.0.53/32"]),
        }],
        ingress: vec![FirewallIngressRule { ports: vec![22], from: texts(&["10.0.0.0/8"]), ..Default::default() }],
    });
    allocation.dns_servers = vec![DnsServer { ip: "10.1.0.53".into() }, DnsServer { ip: "2001:db8::53".into() }];
    allocation.filesystemlayout = Some(FilesystemLayout {
        raid: vec![Raid { arrayname: "/dev/md0".into(), ..Default::default() }],
        ..Default::default()
    });
    let text = install_yaml::render(&input);
    assert_eq!(text, include_str!("fixtures/os/install-firewall-rules.yaml"));

    let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(back["vpn"]["auth_key"], "k: \"1\"");
    assert_eq!(back["firewall_rules"]["egress"][0]["comment"], "allow: dns\n");
    assert_eq!(back["firewall_rules"]["ingress"][0].get("comment"), None);
    assert_eq!(back["sshpublickey"], "ssh-ed25519 AAAA me\nssh-ed25519 BBBB you");
    assert_eq!(back["dns_servers"][1]["ip"], "2001:db8::53");
    assert_eq!(back["networks"], serde_json::json!([]));
    assert_eq!(back["nics"][0]["mac"], "02:00:00:00:00:01");
    assert_eq!(back["raidenabled"], true);
}

/// A Debian whose programs are scripts that write down how they were called.
fn debian_tree() -> TempDir {
    let tree = busybox_tree();
    put(&tree, "/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n", 0o644);
    put(&tree, "/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n", 0o644);
    put(&tree, "/etc/shadow", "root:*:19000:0:99999:7:::\n", 0o640);
    put(&tree, "/etc/group", "root:x:0:\nsudo:x:27:\n", 0o644);
    for path in ["/sbin/init", "/usr/lib/systemd/systemd-networkd", "/usr/lib/systemd/systemd-resolved"] {
        put(&tree, path, "", 0o755);
    }
    for path in ["/usr/lib/systemd/systemd-timesyncd", "/usr/sbin/userdel", "/bin/bash"] {
        put(&tree, path, "", 0o755);
    }
    for path in ["/usr/lib/grub/i386-pc/modinfo.sh", "/usr/lib/grub/x86_64-efi/modinfo.sh"] {
        put(&tree, path, "", 0o644);
    }
    put(&tree, "/boot/vmlinuz-6.1.0-18-amd64", "kernel", 0o644);
    put(&tree, "/boot/initrd.img-6.1.0-18-amd64", "initrd", 0o644);
    put(&tree, "/etc/ssh/ssh_host_ed25519_key", "the same everywhere", 0o600);
    put(&tree, "/etc/ssh/sshd_config", "", 0o644);
    put(&tree, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444);
    put(&tree, "/etc/systemd/resolved.conf.d/dns.conf", "[Resolve]\nDNS=192.0.2.8\nFallbackDNS=192.0.2.9\n", 0o644);
    put(&tree, "/usr/lib/systemd/timesyncd.conf.d/cloud.conf", "[Time]\nNTP=192.0.2.10\n", 0o644);
    symlink("/run/systemd/resolve/stub-resolv.conf", tree.path().join("etc/resolv.conf")).unwrap();

    let log = "#!/bin/sh\necho \"${0##*/} $*\" >> /calls\n";
    let useradd = "mkdir -p /home/metal\necho 'metal:x:1000:27::/home/metal:/bin/bash' >> /etc/passwd\n\
                   echo 'metal:!:20000:0:99999:7:::' >> /etc/shadow\n";
    let update_grub = format!(
        "mkdir -p /boot/grub\necho 'linux /boot/vmlinuz-6.1.0-18-amd64 root=UUID={ROOT_UUID}' > /boot/grub/grub.cfg\n"
    );
    let grub_install = "case \"$*\" in *--removable*) mkdir -p /boot/efi/EFI/BOOT; echo x > /boot/efi/EFI/BOOT/BOOTX64.EFI;;\n\
                        *x86_64-efi*) echo 'efibootmgr: no variables' >&2; exit 1;; esac\n";
    put(&tree, "/usr/sbin/useradd", &format!("{log}{useradd}"), 0o755);
    put(&tree, "/usr/sbin/update-grub", &format!("{log}{update_grub}"), 0o755);
    put(&tree, "/usr/sbin/grub-install", &format!("{log}{grub_install}"), 0o755);
    put(&tree, "/usr/bin/systemctl", log, 0o755);
    put(&tree, "/usr/bin/ssh-keygen", &format!("{log}echo own > /etc/ssh/ssh_host_ed25519_key\n"), 0o755);
    tree
}

#[test]
fn debian_without_an_installer_is_configured_natively() {
    let tree = debian_tree();
    let mut input = input();
    input.allocation.dns_servers = vec![DnsServer { ip: "10.1.0.53".into() }];
    input.allocation.user_data = "I2Nsb3VkLWNvbmZpZwo=".into();
    let boot_info = os::configure(tree.path(), &input).unwrap();

    let cmdline = format!(
        "console=ttyS0,115200n8 root=UUID={ROOT_UUID} init=/sbin/init net.ifnames=0 biosdevname=0 nvme_core.io_timeout=300"
    );
    let expected = BootInfo {
        kernel: "/boot/vmlinuz-6.1.0-18-amd64".into(),
        initrd: "/boot/initrd.img-6.1.0-18-amd64".into(),
        cmdline,
        bootloader_id: "metal-debian".into(),
    };
    assert_eq!(boot_info, expected);
    assert_eq!(BootInfo::parse(&get(&tree, "/etc/metal/boot-info.yaml")).unwrap(), expected);
    assert_eq!(
        get(&tree, "/calls"),
        "useradd --create-home --uid 1000 --gid sudo --shell /bin/bash metal\n\
         systemctl preset-all\n\
         systemctl enable systemd-networkd.service systemd-resolved.service systemd-timesyncd.service\n\
         ssh-keygen -A\n\
         grub-install --target=i386-pc --boot-directory=/boot /dev/vda\n\
         update-grub \n"
    );
    assert_eq!(get(&tree, "/etc/hostname"), "web-1");
    assert!(get(&tree, "/etc/hosts").contains("10.0.4.7        web-1\n"));
    assert_eq!(get(&tree, "/etc/resolv.conf"), "# generated by drophammer\nnameserver 10.1.0.53\n");
    assert!(get(&tree, "/etc/systemd/resolved.conf.d/zz-metal.conf").contains("DNS=10.1.0.53\nFallbackDNS=\n"));
    assert!(get(&tree, "/etc/systemd/timesyncd.conf").contains("\nNTP=ntp.lab.example\nFallbackNTP=\n"));
    assert!(get(&tree, "/etc/systemd/timesyncd.conf.d/zz-metal.conf").contains("\nNTP=\nNTP=ntp.lab.example\n"));
    assert_eq!(get(&tree, "/etc/systemd/network/10-lan0.network"), include_str!("fixtures/os/static.network"));
    assert_eq!(get(&tree, "/etc/systemd/network/10-lan0.link"), include_str!("fixtures/os/static.link"));
    assert_eq!(get(&tree, "/home/metal/.ssh/authorized_keys"), "ssh-ed25519 AAAA me\nssh-ed25519 BBBB you");
    let meta = fs::metadata(tree.path().join("home/metal/.ssh")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o700, 1000, 27));
    assert_eq!(get(&tree, "/etc/ssh/ssh_host_ed25519_key"), "own\n");
    assert_eq!(get(&tree, "/etc/machine-id"), "");
    assert_eq!(get(&tree, "/etc/metal/userdata"), "#cloud-config\n");
    assert_eq!(get(&tree, "/etc/fstab"), FSTAB);
    let shadow = get(&tree, "/etc/shadow");
    assert!(shadow.contains("\nmetal:$6$") && !shadow.contains("Zm9vYmFyYmF6cXV4"), "{shadow}");
    assert_eq!(mode(&tree, "/etc/shadow"), 0o640);
    assert_eq!(mounts_below(tree.path()), Vec::<String>::new());
}

#[test]
fn without_servers_in_the_allocation_the_agent_s_own_are_used_and_no_others() {
    let tree = debian_tree();
    let mut input = input();
    input.allocation.ntp_servers.clear();
    input.allocation.networks.clear();
    os::configure(tree.path(), &input).unwrap();
    assert_eq!(get(&tree, "/etc/resolv.conf"), "# generated by drophammer\nnameserver 10.1.0.53\n");
    assert!(get(&tree, "/etc/systemd/timesyncd.conf").contains("\nNTP=10.1.0.1\n"));
    let network = get(&tree, "/etc/systemd/network/10-lan0.network");
    assert!(
        network.contains("DHCP=yes") && network.contains("UseDNS=no") && network.contains("UseNTP=no"),
        "{network}"
    );
    assert!(!tree.path().join("etc/systemd/network/10-lan0.link").exists());
}

#[test]
fn uefi_boots_even_when_the_firmware_takes_no_entry() {
    let tree = debian_tree();
    os::configure(tree.path(), &Input { firmware: Firmware::Uefi, esp_mounted: true, ..input() }).unwrap();
    let calls = get(&tree, "/calls");
    let common = "grub-install --target=x86_64-efi --efi-directory=/boot/efi --boot-directory=/boot --bootloader-id=metal-debian";
    assert!(calls.contains(&format!("{common} --removable --no-nvram\n{common}\nupdate-grub")), "{calls}");
}

#[test]
fn a_menu_that_does_not_name_our_root_fails_the_installation() {
    let tree = debian_tree();
    let error = os::configure(tree.path(), &Input { root_uuid: "other".into(), ..input() }).unwrap_err();
    assert_eq!(format!("{error:#}"), "configuring boot loader: /boot/grub/grub.cfg does not name root=UUID=other");
}

#[test]
fn a_user_id_that_is_taken_is_named() {
    let tree = debian_tree();
    put(&tree, "/etc/passwd", "debian:x:1000:1000::/home/debian:/bin/bash\n", 0o644);
    let error = os::configure(tree.path(), &input()).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "configuring user metal: user id 1000, which metal has on every machine, belongs to debian in the image"
    );
}

#[test]
fn uefi_without_an_efi_partition_is_refused() {
    let tree = debian_tree();
    let error = os::configure(tree.path(), &Input { firmware: Firmware::Uefi, ..input() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the layout mounts no EFI system partition at /boot/efi, which a machine booted by UEFI needs"
    );
    assert!(!tree.path().join("etc/metal").exists());
}

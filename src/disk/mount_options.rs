//! From the words of fstab to what mount(2) takes. Pure.

use nix::mount::MsFlags;

/// What mount(2) takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    pub flags: MsFlags,
    /// Options of the file system itself, joined by comma.
    pub data: Option<String>,
}

/// Words that have no meaning for an installation, or only for mount(8), systemd and the boot scripts.
const DROPPED: [&str; 25] = [
    "defaults",
    "unbindable",
    "runbindable",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "auto",
    "noauto",
    "comment",
    "loop",
    "offset",
    "sizelimit", // metal-hammer's list; the others mount(8) keeps to itself
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "rw",
    // The image has to be written first. fstab still has it.
    "ro",
    "silent",
];

/// Set, or taken away again by the later word.
const FLAGS: [(&str, MsFlags, bool); 20] = [
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("lazytime", MsFlags::MS_LAZYTIME, true),
    ("nolazytime", MsFlags::MS_LAZYTIME, false),
    ("iversion", MsFlags::MS_I_VERSION, true),
];

/// One entry may itself be a list with commas.
pub fn parse_options(options: &[String]) -> MountOptions {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for word in options.iter().flat_map(|option| option.split(',')).filter(|word| !word.is_empty()) {
        if DROPPED.contains(&word) || word.starts_with("x-") {
            continue;
        }
        match FLAGS.iter().find(|(name, _, _)| *name == word) {
            Some((_, flag, set)) => flags.set(*flag, *set),
            None => data.push(word),
        }
    }
    MountOptions { flags, data: (!data.is_empty()).then(|| data.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        parse_options(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn flags_data_and_words_for_others_are_told_apart() {
        let options = parse(&[
            "defaults",
            "noatime",
            "nofail",
            "x-systemd.automount",
            "errors=remount-ro",
            "nosuid,data=ordered",
            "suid",
        ]);
        assert_eq!(options.flags, MsFlags::MS_NOATIME);
        assert_eq!(options.data.as_deref(), Some("errors=remount-ro,data=ordered"));
    }

    #[test]
    fn exact_words_only_are_dropped() {
        assert_eq!(parse(&["offset", "offset=5"]).data.as_deref(), Some("offset=5"));
        assert_eq!(parse(&[]), MountOptions { flags: MsFlags::empty(), data: None });
        assert_eq!(parse(&["ro"]), MountOptions { flags: MsFlags::empty(), data: None });
    }
}

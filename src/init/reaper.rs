//! Orphans: processes whose parent died become children of PID 1, and stay as zombies until it waits for them.
//!
//! `waitpid(-1)` would also take the exit status of the agent's own tools away from whoever waits for them. Those are
//! waited for at once; so a zombie that is still there after a minute is an orphan, and zombies do no harm meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::time::Instant;
use tracing::debug;

const SCAN_EVERY: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(60);

/// Reaps orphans for ever.
pub async fn run(proc_root: &Path) {
    let mut seen: BTreeMap<i32, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(SCAN_EVERY).await;
        let zombies = read_own_zombies(proc_root, std::process::id());
        let now = Instant::now();
        seen.retain(|pid, _| zombies.contains(pid));
        for pid in zombies {
            let since = *seen.entry(pid).or_insert(now);
            if now.duration_since(since) >= GRACE {
                debug!(pid, "reaping an orphan");
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            }
        }
    }
}

/// Process ids of zombies whose parent is `parent`. A process that vanishes meanwhile is left out.
fn read_own_zombies(proc_root: &Path, parent: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(proc_root) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(proc_root.join(pid.to_string()).join("stat")).unwrap_or_default();
            parse_stat(&stat) == Some(('Z', parent))
        })
        .collect()
}

/// State and parent of `/proc/<pid>/stat` (proc(5)): they follow the command, which is in parentheses and may hold any.
fn parse_stat(stat: &str) -> Option<(char, u32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    Some((state, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_and_blanks_does_not_confuse() {
        assert_eq!(parse_stat("17 (a) Z 9 (b) Z 1 17 17 0"), Some(('Z', 1)));
        assert_eq!(parse_stat("17 (sh) S 42 17"), Some(('S', 42)));
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("17 (sh"), None);
    }

    #[test]
    fn finds_zombies_of_its_own_only() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !read_own_zombies(Path::new("/proc"), std::process::id()).contains(&pid) {
            assert!(std::time::Instant::now() < deadline, "the child never became a zombie");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!read_own_zombies(Path::new("/proc"), 1_000_000_000).contains(&pid));
        child.wait().unwrap();
    }
}

//! The order of disks' names.

use std::cmp::Ordering;

/// As a person sorts disks: `sdb` before `sdaa`, `nvme2n1` before `nvme10n1`.
pub(super) fn compare_names(a: &str, b: &str) -> Ordering {
    sort_key(a).cmp(&sort_key(b)).then_with(|| a.cmp(b))
}

/// Family, the letters that count drives (`sdaa`) by length first, then all numbers in the name.
fn sort_key(name: &str) -> (&str, usize, &str, Vec<u64>) {
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    let letters = name.split(|c: char| c.is_ascii_digit()).next().unwrap_or(name);
    let lettered_family = ["sd", "vd", "xvd", "hd"].into_iter().find(|family| letters.starts_with(family));
    let family = lettered_family.unwrap_or(letters);
    let drive = letters.strip_prefix(family).unwrap_or("");
    let numbers = name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    (family, drive.len(), drive, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_a_person_sorts_them() {
        let mut names = ["sdaa", "nvme10n1", "sdb", "md127", "nvme2n1", "sda", "nvme2n10", "nvme2n2", "vda", "dm-1"];
        names.sort_by(|a, b| compare_names(a, b));
        assert_eq!(names, ["dm-1", "md127", "nvme2n1", "nvme2n2", "nvme2n10", "nvme10n1", "sda", "sdb", "sdaa", "vda"]);
    }
}

//! What this process holds, and what the machine and its cgroup could still give (Linux).

use std::fs::read_to_string;
use std::path::Path;

/// Bytes of memory that this process has by now; 0 on a system that does not tell.
pub(super) fn held() -> u64 {
    let status = read_to_string("/proc/self/status").ok();
    status.and_then(|text| bytes_of(&text, "VmRSS:")).unwrap_or(0)
}

/// Bytes that it could get besides, without swapping (see proc(5) on MemAvailable); `None` on a system that does not tell.
pub(super) fn available() -> Option<u64> {
    let free = bytes_of(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let granted = read_to_string("/proc/self/cgroup").ok().and_then(|text| granted(&text));
    Some(granted.map_or(free, |granted| granted.min(free)))
}

/// The least that this process's cgroup and those above it could still give; `None` where none has a limit.
fn granted(own: &str) -> Option<u64> {
    let cgroup = Path::new(CGROUPS).join(path_of(own)?);
    let folders = cgroup.ancestors().take_while(|folder| folder.starts_with(CGROUPS));
    let text = |folder: &Path, name| read_to_string(folder.join(name)).ok();
    folders
        .filter_map(|folder| {
            let [max, current] = ["memory.max", "memory.current"].map(|name| text(folder, name));
            left(&max?, &current?, &text(folder, "memory.stat").unwrap_or_default())
        })
        .min()
}

/// The cgroup of version 2 in the text of `/proc/self/cgroup`, as a path below their root.
fn path_of(own: &str) -> Option<&str> {
    own.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// What a cgroup has left, from the texts of its files; `None` without a limit. Pages of files count as left: the kernel
/// drops them before it refuses anything, and a worker that reads its dataset soon fills its cgroup with them.
fn left(max: &str, current: &str, stat: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?; // it says "max" where there is none
    let current: u64 = current.trim().parse().ok()?;
    let dropped = |line: &str| {
        let (name, bytes) = line.split_once(' ')?;
        matches!(name, "active_file" | "inactive_file").then(|| bytes.parse::<u64>().ok())?
    };
    let files: u64 = stat.lines().filter_map(dropped).sum();
    Some(max.saturating_sub(current.saturating_sub(files)))
}

/// The bytes in a line such as `MemAvailable:   12 kB`.
fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// Where cgroups of version 2 are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_the_kernel_are_understood() {
        let memory = "MemTotal:       16000 kB\nMemAvailable:      12 kB\n";
        assert_eq!(bytes_of(memory, "MemAvailable:"), Some(12 << 10));
        assert_eq!(bytes_of("MemTotal: 1 kB\n", "MemAvailable:"), None);
        assert_eq!(path_of("4:memory:/old\n0::/user.slice/a.scope\n"), Some("user.slice/a.scope"));
        assert_eq!(path_of("0::/\n"), Some(""));
        assert_eq!(path_of("4:memory:/old\n"), None);
    }

    #[test]
    fn a_cgroup_has_left_what_is_not_in_use_but_for_pages_of_files() {
        assert_eq!(left("max\n", "5000\n", ""), None);
        assert_eq!(left("8000\n", "5000\n", ""), Some(3000));
        let stat = "anon 3500\nfile 1500\nactive_file 400\ninactive_file 1000\nshmem 100\n";
        assert_eq!(left("8000\n", "5000\n", stat), Some(4400));
        // A limit that was lowered since.
        assert_eq!(left("1000\n", "5000\n", ""), Some(0));
    }
}

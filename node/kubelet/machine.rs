//! What this machine says of its size.

/// Processors, and bytes of memory.
pub(crate) fn size() -> (usize, u64) {
    (std::thread::available_parallelism().map_or(1, usize::from), memory_bytes("MemTotal").unwrap_or(0))
}

/// A line of `/proc/meminfo` (`MemTotal`), in bytes.
pub(crate) fn memory_bytes(name: &str) -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    value(&info, name)
}

fn value(info: &str, name: &str) -> Option<u64> {
    let rest = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_bytes() {
        let info = "MemTotal:       16 kB\nMemTotalOther:  1 kB\nMemAvailable:    2 kB\n";
        assert_eq!((value(info, "MemTotal"), value(info, "MemAvailable"), value(info, "Swap")), (Some(16 << 10), Some(2 << 10), None));
    }
}

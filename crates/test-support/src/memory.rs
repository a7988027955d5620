//! The memory of processes. Only Linux tells.

/// A figure of a process's memory in KiB, by its name in `/proc/PID/status`. One that was killed
/// and is not yet reaped has none.
pub fn memory_kib(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let figure = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    figure.split_whitespace().next()?.parse().ok()
}

/// The most that a process has ever taken in KiB, but for the pages of its own file, which are many more where it was
/// not optimised.
pub fn peak_kib(pid: u32) -> Option<u64> {
    let peak = memory_kib(pid, "VmHWM")?;
    Some(peak.saturating_sub(memory_kib(pid, "RssFile")?))
}

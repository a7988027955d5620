//! Who used the processors, by what Linux tells of each thread.

use std::path::Path;

/// Threads of this name belong to the simulator: in production it is not there.
pub const SIMULATOR: &str = "simulator";

/// In which the kernel tells times to programs, whatever it counts in itself.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds since some moment in the past, or between two readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpu {
    /// This process without its simulator.
    pub own: f64,
    pub simulator: f64,
    /// The whole machine, this process included.
    pub machine: f64,
}

impl Cpu {
    /// None where the system does not tell.
    pub fn read() -> Option<Self> {
        let whole = of_stat(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
        let mut simulator = 0.0;
        for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
            simulator += of_simulator(&task.path()).unwrap_or_default();
        }
        Some(Self {
            own: whole - simulator,
            simulator,
            machine: of_machine(&std::fs::read_to_string("/proc/stat").ok()?)?,
        })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            own: (self.own - before.own).max(0.0),
            simulator: (self.simulator - before.simulator).max(0.0),
            machine: (self.machine - before.machine).max(0.0),
        }
    }
}

fn of_simulator(task: &Path) -> Option<f64> {
    let name = std::fs::read_to_string(task.join("comm")).ok()?;
    (name.trim() == SIMULATOR).then_some(())?;
    of_stat(&std::fs::read_to_string(task.join("stat")).ok()?)
}

/// User and system time of a line of `stat`; the name in brackets may hold anything.
fn of_stat(line: &str) -> Option<f64> {
    let (_, rest) = line.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The time that all processors together were not idle.
fn of_machine(text: &str) -> Option<f64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = line
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq
    let busy = [0, 1, 2, 5, 6];
    let busy: Option<f64> = busy.iter().map(|i| fields.get(*i)).sum();
    Some(busy? / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name_holds() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 8 0 9 10 11";
        assert_eq!(of_stat(line), Some(3.0));
        assert_eq!(of_stat("7"), None);
    }

    #[test]
    fn idle_and_waiting_processors_do_not_count() {
        let text = "cpu  100 10 40 9000 500 20 30 0 0 0\ncpu0 1 2 3\n";
        assert_eq!(of_machine(text), Some(2.0));
        assert_eq!(of_machine("cpu  1 2"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_of_the_simulators_name_is_told_apart() {
        let before = Cpu::read().unwrap();
        let work = || {
            let until = std::time::Instant::now() + std::time::Duration::from_millis(300);
            while std::time::Instant::now() < until {
                std::hint::spin_loop();
            }
            Cpu::read().unwrap()
        };
        let thread = std::thread::Builder::new().name(SIMULATOR.to_owned());
        let used = thread.spawn(work).unwrap().join().unwrap().since(before);
        assert!(used.simulator > 0.0 && used.simulator < 10.0, "{used:?}");
        assert!(used.machine >= used.simulator, "{used:?}");
    }
}

//! What limits the drain, derived from what was measured while it ran.

use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// From this share of what there is, it counts as used up.
const FULL: f64 = 0.85;
/// A part that takes at least this share of the time of runs in flight is the limit.
const MAJORITY: f64 = 0.5;
/// Below this share of slots in use, runs arrive more slowly than they are done.
const STARVED: f64 = 0.6;
/// A round trip that takes so many times longer under load waits for the server or a connection.
const QUEUED_UP: f64 = 3.0;

/// What was measured while runs were drained.
#[derive(Clone, Debug)]
pub struct Load {
    pub runs: u32,
    /// From the first start to the last completion.
    pub runs_per_second: f64,
    /// How long all of it was watched, the worker's start included.
    pub seconds: f64,
    pub concurrency: usize,
    /// Processors that this process may use.
    pub cores: f64,
    /// Time from claim to completion, of all runs together.
    pub run_seconds: f64,
    /// Of this, waiting for the provider.
    pub provider_seconds: f64,
    pub cpu: Option<super::cpu::Cpu>,
    pub provider_delay: Duration,
    pub queue: &'static str,
    pub database_connections: u32,
    /// Milliseconds of a round trip: before, and while runs were drained.
    pub database_round_trip: (f64, f64),
    pub queue_round_trip: (f64, f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Every slot is taken by a run that waits for the provider.
    Provider,
    /// This process uses all processors that it may.
    OwnCpu,
    /// The machine has no processor time left, and the simulator takes most of it.
    SimulatorCpu,
    /// The machine has no processor time left, and other programs take most of it.
    OtherCpu,
    /// Runs wait for the database.
    Database,
    /// Slots stay free: hints arrive more slowly than runs are done.
    Queue,
    /// Nothing is used up.
    Nothing,
}

/// Where the time of a run in flight goes; together 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shares {
    pub provider: f64,
    /// Upper bound: what the process does beside its runs is counted here, too.
    pub own_cpu: f64,
    /// The rest: statements, and waiting for a connection.
    pub database: f64,
}

impl Load {
    /// Runs in flight, on average.
    pub fn in_flight(&self) -> f64 {
        self.run_seconds / self.seconds
    }

    pub fn shares(&self) -> Shares {
        let share = |seconds: f64, rest: f64| (seconds / self.run_seconds).clamp(0.0, rest);
        let provider = share(self.provider_seconds, 1.0);
        let own_cpu = share(self.cpu.map_or(0.0, |cpu| cpu.own), 1.0 - provider);
        Shares {
            provider,
            own_cpu,
            database: 1.0 - provider - own_cpu,
        }
    }

    pub fn limit(&self) -> Limit {
        let shares = self.shares();
        if let Some(cpu) = self.cpu {
            let all = self.cores * self.seconds;
            let others = cpu.machine - cpu.own - cpu.simulator;
            if cpu.own >= FULL * all {
                return Limit::OwnCpu;
            }
            if cpu.machine >= FULL * all {
                return if cpu.own >= cpu.simulator && cpu.own >= others {
                    Limit::OwnCpu
                } else if cpu.simulator >= others {
                    Limit::SimulatorCpu
                } else {
                    Limit::OtherCpu
                };
            }
        }
        let taken = self.in_flight() / self.concurrency as f64;
        if taken < STARVED {
            return Limit::Queue;
        }
        if shares.provider >= MAJORITY {
            return Limit::Provider;
        }
        if shares.database >= MAJORITY {
            return Limit::Database;
        }
        Limit::Nothing
    }

    /// The limit in words, with the figures that it was derived from.
    pub fn sentence(&self) -> String {
        let shares = self.shares();
        let rate = self.runs_per_second;
        let provider_ms = self.provider_seconds / f64::from(self.runs) * 1_000.0;
        let (idle, loaded) = self.database_round_trip;
        let mut text = match self.limit() {
            Limit::Provider => format!(
                "The provider limits: a run waits {provider_ms:.0} ms for it (--provider-delay {}), \
                 so {} runs at a time are at most {:.0} runs/s; more need a higher concurrency.",
                humantime::format_duration(self.provider_delay),
                self.concurrency,
                self.concurrency as f64 / (provider_ms / 1_000.0),
            ),
            Limit::OwnCpu => {
                "This process's own use of the processors limits: more processors, or \
                 a replica on another machine, raise the rate."
                    .to_owned()
            }
            Limit::SimulatorCpu => "The processors of this machine are used up, mostly by the \
                 simulator, which is not there in production."
                .to_owned(),
            Limit::OtherCpu => "The processors of this machine are used up, mostly by other \
                 programs: the database's server, if it runs here."
                .to_owned(),
            Limit::Database if loaded >= QUEUED_UP * idle => format!(
                "The database limits: its round trip takes {loaded:.1} ms instead of {idle:.1} ms, \
                 so runs wait for its server or for one of the {} connections \
                 (database.max_connections).",
                self.database_connections,
            ),
            Limit::Database => format!(
                "The round trip to the database limits: it takes {loaded:.1} ms, and a run \
                 needs several; a higher concurrency hides them.",
            ),
            Limit::Queue => format!(
                "The arrival of hints limits: of {} slots {:.0} were in use on average{}.",
                self.concurrency,
                self.in_flight(),
                match self.queue {
                    "redis" => format!(
                        ", and a round trip to Redis took {:.1} ms (two fetchers alternate)",
                        self.queue_round_trip.1
                    ),
                    _ => String::new(),
                }
            ),
            Limit::Nothing => "No single part limits.".to_owned(),
        };
        let _ = write!(
            text,
            " At {rate:.0} runs/s a run spends {:.0} % of its time on the provider, at most {:.0} % \
             on this process's processors and {:.0} % on the database",
            shares.provider * 100.0,
            shares.own_cpu * 100.0,
            shares.database * 100.0,
        );
        if let Some(cpu) = self.cpu {
            let of_all = |seconds: f64| seconds / (self.cores * self.seconds) * 100.0;
            let others = (cpu.machine - cpu.own - cpu.simulator).max(0.0);
            let _ = write!(
                text,
                "; of {:.0} processors this process uses {:.0} %, the simulator {:.0} %, all other \
                 programs {:.0} %",
                self.cores,
                of_all(cpu.own),
                of_all(cpu.simulator),
                of_all(others),
            );
        }
        text.push('.');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpu::Cpu;
    use super::*;

    /// Ten seconds with 64 slots on four processors that are mostly idle.
    fn load() -> Load {
        Load {
            runs: 1_000,
            runs_per_second: 101.0,
            seconds: 10.0,
            concurrency: 64,
            cores: 4.0,
            run_seconds: 630.0,
            provider_seconds: 200.0,
            cpu: Some(cpu(2.0, 2.0, 6.0)),
            provider_delay: Duration::from_millis(100),
            queue: "redis",
            database_connections: 10,
            database_round_trip: (0.5, 1.0),
            queue_round_trip: (0.2, 0.3),
        }
    }

    fn cpu(own: f64, simulator: f64, machine: f64) -> Cpu {
        Cpu {
            own,
            simulator,
            machine,
        }
    }

    #[track_caller]
    fn limits(change: impl FnOnce(&mut Load), limit: Limit, words: &str) {
        let mut load = load();
        change(&mut load);
        assert_eq!(load.limit(), limit, "{words}");
        let text = load.sentence();
        assert!(text.contains(words), "{words}: {text}");
    }

    #[test]
    fn the_limit_follows_from_what_was_used_and_waited_for() {
        use Limit::{Database, Nothing, OtherCpu, OwnCpu, Provider, Queue, SimulatorCpu};

        // Seconds of the processors, then of runs in flight and of their waiting for the provider.
        for (own, simulator, machine, runs, provider, limit, words) in [
            (2.0, 2.0, 6.0, 630.0, 600.0, Provider, "at most 107 runs/s"),
            (2.0, 2.0, 6.0, 630.0, 600.0, Provider, "-delay 100ms"),
            // Processors that are used up limit whatever runs wait for.
            (36.0, 1.0, 38.0, 630.0, 200.0, OwnCpu, "own use"),
            (16.0, 9.0, 39.0, 630.0, 200.0, OwnCpu, "own use"),
            (9.0, 16.0, 39.0, 630.0, 200.0, SimulatorCpu, "not there"),
            (9.0, 5.0, 38.8, 630.0, 200.0, OtherCpu, "programs 62 %"),
            (9.0, 5.0, 39.0, 630.0, 600.0, OtherCpu, "used up"),
            (2.0, 2.0, 6.0, 630.0, 200.0, Database, "hides them"),
            // Free slots mean that hints are late.
            (2.0, 2.0, 6.0, 300.0, 200.0, Queue, "64 slots 30"),
            (2.0, 2.0, 6.0, 300.0, 200.0, Queue, "Redis took 0.3"),
            (30.0, 0.0, 33.0, 630.0, 300.0, Nothing, "No single"),
        ] {
            let change = |load: &mut Load| {
                load.cpu = Some(cpu(own, simulator, machine));
                load.run_seconds = runs;
                load.provider_seconds = provider;
            };
            limits(change, limit, words);
        }
    }

    #[test]
    fn other_figures_change_the_words() {
        let queued_up = |l: &mut Load| l.database_round_trip = (0.5, 6.0);
        limits(queued_up, Limit::Database, "one of the 10 connections");
        // Without figures for the processors, too.
        limits(|l| l.cpu = None, Limit::Database, "68 % on the database.");
        let in_process = |load: &mut Load| {
            load.run_seconds = 300.0;
            load.queue = "in_process";
        };
        limits(in_process, Limit::Queue, "on average.");
    }

    #[test]
    fn shares_are_of_the_whole_whatever_was_measured() {
        let mut load = load();
        load.provider_seconds = 700.0;
        let shares = load.shares();
        assert_eq!((shares.provider, shares.own_cpu), (1.0, 0.0));
        assert!(shares.database.abs() < f64::EPSILON);
    }
}

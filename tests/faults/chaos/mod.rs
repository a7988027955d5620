//! Long disturbances: load without pause, faults at random, and the oracle at the end.
//!
//! | variable | |
//! |---|---|
//! | `VERIFYD_TEST_CHAOS_SECONDS` | how long; 15 by default, 60 in the long form |
//! | `VERIFYD_TEST_CHAOS_RUNS` | instead of a time: until so many runs are completed |
//! | `VERIFYD_TEST_CHAOS_FAULTS` | `all` by default, `none`, or some of `processes,database,redis,hints` |
//! | `VERIFYD_TEST_CHAOS_SEED` | which faults; it is printed, and the same seed gives the same faults in the same order |

mod disturbance;
mod gauge;

use crate::scene::{COMPLETED, Load, Producer, long};
use disturbance::{Kind, Theatre};
use gauge::Gauge;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use test_support::oracle::Ended;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a whole number")),
    )
}

/// When to stop.
#[derive(Clone, Copy)]
enum Until {
    Time(Duration),
    Runs(usize),
}

impl Until {
    /// Between two faults, in milliseconds. Where much is to be completed, there is more time to
    /// work.
    fn longest_pause(self) -> u64 {
        match self {
            Self::Time(_) => 600,
            Self::Runs(_) => 4_000,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(
    clippy::print_stdout,
    reason = "the seed repeats the test, and the figures are its result"
)]
async fn whatever_happens_nothing_is_lost_and_nothing_comes_twice() {
    let until = match variable("VERIFYD_TEST_CHAOS_RUNS") {
        Some(runs) => Until::Runs(usize::try_from(runs).unwrap()),
        None => Until::Time(Duration::from_secs(
            variable("VERIFYD_TEST_CHAOS_SECONDS").unwrap_or(if long() { 60 } else { 15 }),
        )),
    };
    let faults = Kind::chosen(std::env::var("VERIFYD_TEST_CHAOS_FAULTS").ok().as_deref());
    let seed = variable("VERIFYD_TEST_CHAOS_SEED").unwrap_or_else(rand::random);
    println!("VERIFYD_TEST_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut theatre = Theatre::open().await;
    let most = match until {
        Until::Runs(runs) => runs,
        Until::Time(_) => usize::MAX,
    };
    let load = Load {
        of_each: 4,
        most_open: 600,
        most,
        sends_hints: true,
    };
    let producer = Producer::start(&theatre.scene, load);
    let gauge = Gauge::start(&theatre, &producer);
    let started = Instant::now();
    let mut struck: BTreeMap<_, u32> = BTreeMap::new();
    let mut told = Instant::now();
    loop {
        let over = match until {
            Until::Time(time) => started.elapsed() >= time,
            Until::Runs(runs) => producer.recorded() >= runs,
        };
        if over {
            break;
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            println!(
                "{:>5} s: {} runs recorded, {} faults",
                started.elapsed().as_secs(),
                producer.recorded(),
                struck.values().sum::<u32>()
            );
        }
        theatre.revive();
        if let Some(&fault) = faults.choose(&mut random) {
            theatre.strike(fault, &mut random).await;
            *struck.entry(fault).or_default() += 1;
        }
        let pause = random.random_range(0..until.longest_pause());
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let recorded = producer.stop().await;
    theatre.scene.bench.all_completed().await;
    let took = started.elapsed();
    gauge.stop().await.print();
    if faults.iter().all(|fault| !fault.loses_hints()) {
        theatre.redis_is_clean().await;
    }
    theatre.scene.bench.numbers("ANALYZE").await;
    let ended = theatre.scene.ends_soundly().await;
    println!(
        "{} faults in {:.0} s: {struck:?}",
        struck.values().sum::<u32>(),
        took.as_secs_f64()
    );
    println!("workers that ended by themselves: {}", theatre.ended_alone);
    println!(
        "{} runs recorded and {} completed, each once and with a valid report, {:.0} a second: {}",
        recorded.len(),
        ended.len(),
        ended.len() as f64 / took.as_secs_f64(),
        summary(&theatre, &ended)
    );
    let completed: std::collections::BTreeSet<i64> = ended.iter().map(|run| run.run).collect();
    assert!(recorded.is_subset(&completed), "a run is gone");
    assert_eq!(
        theatre.scene.number(COMPLETED).await,
        i64::try_from(ended.len()).unwrap()
    );
    let succeeded = ended.iter().any(|run| run.outcome == "succeeded");
    assert!(succeeded, "nothing worked at all");
}

/// How many ended as their connection makes them, and why the others did not: a run whose every
/// attempt was disturbed ends as `failed`, and says so. A run that ended better than it can is
/// a failure of the test.
fn summary(theatre: &Theatre, ended: &[Ended]) -> String {
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut otherwise: BTreeMap<String, usize> = BTreeMap::new();
    let mut attempts = 0;
    for run in ended {
        *outcomes.entry(&run.outcome).or_default() += 1;
        attempts += run.attempts.len();
        let meant = theatre.scene.members[&run.connection].outcome;
        if run.outcome != meant {
            assert_eq!(run.outcome, "failed", "{run:?}");
            assert!(!run.failures.is_empty(), "{run:?}");
            *otherwise.entry(run.failures.join(" ")).or_default() += 1;
        }
    }
    format!("{outcomes:?} in {attempts} attempts; ended otherwise than undisturbed: {otherwise:?}")
}

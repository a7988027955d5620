//! What grows, and what stays flat: Redis' memory and keys, and the memory of the workers.

use super::disturbance::Theatre;
use crate::scene::{OPEN, Producer};
use sqlx::{Connection as _, PgConnection};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::memory::memory_kib;
use test_support::redis_server;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Sample {
    completed: u64,
    /// `used_memory` of Redis, in KiB.
    redis: u64,
    keys: u64,
    /// Resident memory of the larger of the two workers, in KiB.
    worker: u64,
}

type Column = (&'static str, fn(&Sample) -> u64);

const COLUMNS: [Column; 3] = [
    ("used_memory of Redis, KiB", |s| s.redis),
    ("keys in Redis", |s| s.keys),
    ("RSS of the larger worker, KiB", |s| s.worker),
];

pub struct Gauge {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Samples>,
}

impl Gauge {
    /// Looks every second. What cannot be seen because it is unavailable is left out.
    pub fn start(theatre: &Theatre, producer: &Producer) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let database = theatre.scene.bench.database.url();
        let redis = theatre.redis.url();
        let (pids, runs) = (Arc::clone(&theatre.pids), Arc::clone(&producer.runs));
        let task = tokio::spawn(async move {
            let mut samples = Samples::default();
            while !stopped.load(Ordering::SeqCst) {
                let seen = (open(&database).await, memory(&redis).await, resident(&pids));
                if let (Some(open), Some((redis, keys)), Some(worker)) = seen {
                    let recorded = u64::try_from(runs.lock().unwrap().len()).unwrap();
                    samples.0.push(Sample {
                        completed: recorded.saturating_sub(open),
                        redis,
                        keys,
                        worker,
                    });
                }
                tokio::time::sleep(EVERY).await;
            }
            samples
        });
        Self { stop, task }
    }

    pub async fn stop(self) -> Samples {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

async fn open(database: &str) -> Option<u64> {
    let mut sql = PgConnection::connect(database).await.ok()?;
    let open: i64 = sqlx::query_scalar(OPEN).fetch_one(&mut sql).await.ok()?;
    u64::try_from(open).ok()
}

async fn memory(redis: &str) -> Option<(u64, u64)> {
    let mut plain = redis_server::try_connection(redis).await.ok()?;
    let (info, keys): (String, u64) = redis::pipe()
        .cmd("INFO")
        .arg("memory")
        .cmd("DBSIZE")
        .query_async(&mut plain)
        .await
        .ok()?;
    let used = info.lines().find_map(|l| l.strip_prefix("used_memory:"))?;
    Some((used.trim().parse::<u64>().ok()? / 1024, keys))
}

fn resident(pids: &Mutex<Vec<u32>>) -> Option<u64> {
    let pids = pids.lock().unwrap().clone();
    pids.iter()
        .filter_map(|pid| memory_kib(*pid, "VmRSS"))
        .max()
}

#[derive(Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Least, median, greatest, first and last; and the medians of ten parts, one after the other.
    #[expect(clippy::print_stdout, reason = "what it is there for")]
    pub fn print(&self) {
        let Some((first, last)) = self.0.first().zip(self.0.last()) else {
            println!("no samples");
            return;
        };
        println!("{} samples, one a second:", self.0.len());
        for (name, of) in COLUMNS {
            let all = sorted(&self.0, of);
            println!(
                "  {name}: least {}, median {}, most {}, first {}, last {}",
                all[0],
                all[all.len() / 2],
                all[all.len() - 1],
                of(first),
                of(last)
            );
        }
        println!("  medians of ten parts: completed | Redis KiB | keys | RSS KiB");
        for part in self.0.chunks(self.0.len().div_ceil(10)) {
            let middle = |of: fn(&Sample) -> u64| sorted(part, of)[part.len() / 2];
            println!(
                "  {:>8} | {:>8} | {:>6} | {:>8}",
                part[part.len() - 1].completed,
                middle(|s| s.redis),
                middle(|s| s.keys),
                middle(|s| s.worker),
            );
        }
    }
}

fn sorted(samples: &[Sample], of: fn(&Sample) -> u64) -> Vec<u64> {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values
}

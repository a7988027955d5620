//! Runs without pause, as two producers record them: one leaves the hint to the sweep, one sends
//! it.

use crate::scene::{Scene, record};
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::redis_server::try_hint;
use tokio::task::JoinHandle;

/// Runs of verifyd's that are not completed.
pub const OPEN: &str = "SELECT count(*) FROM operation_runs
    WHERE type = 'provider.connection.check' AND status IN ('queued', 'running')";

/// No more runs are recorded while so many are open.
const MOST_OPEN: i64 = 600;

/// Runs of each connection that are recorded at once.
const AT_ONCE: i64 = 4;

type Recorded = Arc<Mutex<BTreeSet<i64>>>;

pub struct Load {
    /// Those whose recording was acknowledged.
    pub runs: Recorded,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    /// Records runs until it is stopped, or has recorded `most`.
    pub fn start(scene: &Scene, most: usize) -> Self {
        let url = scene.bench.database.url();
        let (redis, queue) = (scene.bench.redis_url.clone(), scene.bench.queue.clone());
        let connections: Vec<i64> = scene.members.keys().copied().collect();
        let runs = Recorded::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (recorded, stopped) = (Arc::clone(&runs), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let more = || !stopped.load(Ordering::SeqCst) && recorded.lock().unwrap().len() < most;
            let mut hinted = false;
            while more() {
                if let Ok(mut sql) = PgConnection::connect(&url).await {
                    while more()
                        && let Ok(open) =
                            sqlx::query_scalar::<_, i64>(OPEN).fetch_one(&mut sql).await
                    {
                        if open < MOST_OPEN {
                            let Ok(new) = record(&mut sql, &connections, AT_ONCE).await else {
                                break;
                            };
                            recorded.lock().unwrap().extend(&new);
                            hinted = !hinted;
                            if hinted {
                                // Redis may be unavailable: that is the sweep's business.
                                let _ = try_hint(&redis, &queue, &new).await;
                            }
                        }
                        tokio::time::sleep(Duration::from_millis(60)).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        });
        Self { runs, stop, task }
    }

    pub fn recorded(&self) -> usize {
        self.runs.lock().unwrap().len()
    }

    /// Stops, and says which runs were recorded.
    pub async fn stop(self) -> BTreeSet<i64> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        self.runs.lock().unwrap().clone()
    }
}

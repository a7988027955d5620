//! A batch that ends badly never keeps the calls behind it waiting. On both databases: a batch that
//! loses what it runs on in the middle, and a batch that panics there.

use crate::bed::{Bed, settings};
use crate::fixtures::{POLICY, succeeded, worker};
use futures::FutureExt as _;
use futures::future::join_all;
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool, Transaction};
use std::sync::{Arc, Weak};
use std::time::Duration;
use verifyd::domain::RunId;
use verifyd::ports::store::StoreError;

/// More than two batches.
const MANY: usize = 300;

/// Guards against hanging only; less than the limits of the store together.
const GUARD: Duration = Duration::from_secs(100);

/// The transaction that touches this run loses its connection (PostgreSQL) or is rolled back under
/// it (SQLite), whoever sends it.
async fn break_on(bed: &Bed, run: RunId) {
    if bed.own("x") == "verifyd.x" {
        bed.exec(&format!(
            "CREATE OR REPLACE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); \
              PERFORM pg_sleep(60); RETURN new; END'; \
             CREATE TRIGGER a_break_it_{run} BEFORE UPDATE ON operation_runs FOR EACH ROW \
             WHEN (new.id = {run}) EXECUTE FUNCTION break_it()"
        ))
        .await;
    } else {
        bed.exec(&format!(
            "CREATE TRIGGER break_it_{run} BEFORE UPDATE ON operation_runs WHEN new.id = {run} \
             BEGIN SELECT RAISE(ROLLBACK, 'gone'); END"
        ))
        .await;
    }
}

async fn mend(bed: &Bed, run: RunId) {
    if bed.own("x") == "verifyd.x" {
        bed.exec(&format!("DROP TRIGGER a_break_it_{run} ON operation_runs"))
            .await;
    } else {
        bed.exec(&format!("DROP TRIGGER break_it_{run}")).await;
    }
}

/// Claims, then completions: the first call of the first batch ends its connection.
pub async fn behind_a_batch_that_loses_its_connection_the_next_one_starts(bed: &Bed) {
    let mut runs = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        runs.push(bed.queued().await);
    }
    let me = worker("w1");
    // At the same time, so that most wait while the first batch is under way.
    let claim_all = || async {
        tokio::time::timeout(
            GUARD,
            join_all(runs.iter().map(|run| bed.store.claim(*run, &me, &POLICY))),
        )
        .await
        .expect("nobody is left without an answer")
    };
    break_on(bed, runs[0]).await;
    let mut claims = Vec::new();
    for (run, answer) in runs.iter().zip(claim_all().await) {
        match answer {
            Ok(answer) => claims.push(answer.claimed().expect("it can be claimed")),
            Err(error) => assert_eq!(*run, runs[0], "{error}"),
        }
    }
    assert_eq!(claims.len(), MANY - 1);
    mend(bed, runs[0]).await;

    let broken = claims[0].run.id;
    break_on(bed, broken).await;
    let completion = succeeded();
    let completed = tokio::time::timeout(
        GUARD,
        join_all(
            claims
                .iter()
                .map(|claim| bed.store.complete(claim, &completion)),
        ),
    )
    .await
    .expect("nobody is left without an answer");
    for (claim, answer) in claims.iter().zip(completed) {
        match answer {
            Ok(completed) => assert!(completed),
            Err(error) => assert_eq!(claim.run.id, broken, "{error}"),
        }
    }
}

/// `src/store/batching` itself, with stores of the test: only there may a batch panic.
#[path = "../../src/store/batching/mod.rs"]
#[allow(dead_code, reason = "the store uses all of it")]
mod batching;

use batching::{BatchResult, BatchedCall, Batcher, Batching};

/// Doubles numbers in the database. A negative one panics in the middle of its transaction.
struct Doubling<D: sqlx::Database> {
    me: Weak<Self>,
    pool: sqlx::Pool<D>,
    batcher: Batcher<Number, i64>,
}

struct Number(i64);

impl<D: sqlx::Database> Doubling<D> {
    fn on(pool: sqlx::Pool<D>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            pool,
            batcher: Batcher::default(),
        })
    }
}

impl<D: sqlx::Database> Batching for Doubling<D> {
    type Connection = Transaction<'static, D>;

    fn shared(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    async fn with_timeout<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        call.await
    }

    async fn acquire(&self) -> Result<Self::Connection, StoreError> {
        Ok(self.pool.begin().await.unwrap())
    }

    fn keeps_connection(&self, _: u32) -> bool {
        false
    }
}

macro_rules! doubles {
    ($database:ty) => {
        impl BatchedCall<Doubling<$database>> for Number {
            type Answer = i64;
            const NAME: &'static str = "double";

            fn keys(&self) -> Vec<(&'static str, i64)> {
                vec![("number", self.0)]
            }

            fn batcher(store: &Doubling<$database>) -> &Batcher<Self, i64> {
                &store.batcher
            }

            async fn run(
                _: &Doubling<$database>,
                mut tx: Transaction<'static, $database>,
                calls: Vec<Self>,
            ) -> BatchResult<Doubling<$database>, Self> {
                let mut answers = Vec::with_capacity(calls.len());
                for Number(number) in calls {
                    let doubled: i64 = sqlx::query_scalar("SELECT 2 * CAST($1 AS bigint)")
                        .bind(number)
                        .fetch_one(&mut *tx)
                        .await
                        .unwrap();
                    assert!(number >= 0, "a defect");
                    answers.push(Some(doubled));
                }
                tx.commit().await.unwrap();
                Ok((answers, None))
            }
        }
    };
}
doubles!(Postgres);
doubles!(Sqlite);

async fn behind_a_batch_that_panics<D: sqlx::Database>(store: Arc<Doubling<D>>)
where
    Number: BatchedCall<Doubling<D>, Answer = i64>,
{
    // A batch that panics, more than a batch behind it, and one of the same key.
    let mut numbers = vec![-7];
    numbers.extend(1..=300);
    numbers.push(1);
    let asked = join_all(
        numbers
            .iter()
            .map(|number| batching::submit(&*store, Number(*number)).boxed()),
    );
    let answers = tokio::time::timeout(GUARD, asked)
        .await
        .expect("nobody is left without an answer");
    let (failed, behind) = answers.split_at(128);
    assert!(failed.iter().all(Option::is_none));
    for (number, answer) in numbers[128..].iter().zip(behind) {
        assert_eq!(*answer, Some(2 * number));
    }
}

#[tokio::test]
async fn postgres_behind_a_batch_that_panics_the_next_one_starts() {
    let bed = Bed::empty_postgres().await;
    let pool = PgPool::connect(&bed.url()).await.unwrap();
    behind_a_batch_that_panics(Doubling::on(pool)).await;
}

/// With one connection, as the store's writer.
#[tokio::test]
async fn sqlite_behind_a_batch_that_panics_the_next_one_starts() {
    let bed = Bed::sqlite().await;
    let pool: SqlitePool = sqlx::sqlite::SqlitePoolOptions::new()
        .test_before_acquire(false)
        .max_connections(1)
        .acquire_timeout(settings("").acquire_timeout)
        .connect(&bed.url())
        .await
        .unwrap();
    behind_a_batch_that_panics(Doubling::on(pool)).await;
}

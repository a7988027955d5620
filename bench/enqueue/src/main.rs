//! The enqueuer that the harness of the peers starts for verifyd: a producer as other applications
//! write one. It records runs with the harness's own function and sends a hint for each by the script
//! of `contracts/`, one call of the script per hint.
//!
//! `range A B` | `single N` | `bulk N` | `stdin`, as the README of the harness describes them.
//! `DATABASE_URL` and `REDIS_URL` say where, `VERIFYD__REDIS__QUEUE` which queue (`verifyd`).

use std::env;
use std::error::Error;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What is sent to Redis, exactly as any other producer sends it.
const SCRIPT: &str = include_str!("../../../contracts/enqueue.lua");

/// Runs that one statement records, and hints in one round trip.
const BULK: i64 = 1000;

/// Records runs.
struct Records {
    client: Client,
    new_runs: tokio_postgres::Statement,
}

impl Records {
    async fn open() -> Res<Self> {
        let (client, connection) =
            tokio_postgres::connect(&env::var("DATABASE_URL")?, NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("PostgreSQL: {error}");
            }
        });
        // A hint follows, so the row need not wake the workers: docs/guides/notifications.md.
        client.batch_execute("SET verifyd.told = 'on'").await?;
        let new_runs = client.prepare("SELECT new_runs($1, $2)").await?;
        Ok(Self { client, new_runs })
    }

    /// Records `count` runs; committed when it returns.
    async fn add(&self, count: i64, first: i64) -> Res<Vec<i64>> {
        let rows = self.client.query(&self.new_runs, &[&count, &first]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// Sends hints.
struct Hints {
    connection: MultiplexedConnection,
    sha: String,
    keys: [String; 4],
}

impl Hints {
    async fn open() -> Res<Self> {
        let client = redis::Client::open(env::var("REDIS_URL")?)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let sha = redis::Script::new(SCRIPT)
            .prepare_invoke()
            .load_async(&mut connection)
            .await?;
        let queue = env::var("VERIFYD__REDIS__QUEUE").unwrap_or_else(|_| "verifyd".to_owned());
        let keys = ["data", "active", "signal", "meta"].map(|part| format!("{queue}:{part}"));
        Ok(Self {
            connection,
            sha,
            keys,
        })
    }

    async fn send(&mut self, runs: &[i64]) -> Res<()> {
        let mut pipeline = redis::pipe();
        for run in runs {
            pipeline
                .cmd("EVALSHA")
                .arg(&self.sha)
                .arg(self.keys.len())
                .arg(&self.keys);
            pipeline.arg(Uuid::now_v7().to_string());
            pipeline.arg(serde_json::json!({ "v": 1, "operation_run_id": run }).to_string());
            pipeline.arg(1);
        }
        let answers: Vec<i64> = pipeline.query_async(&mut self.connection).await?;
        if answers.iter().any(|taken| *taken != 1) {
            return Err("a hint was not taken".into());
        }
        Ok(())
    }
}

/// One run after the other: committed, then its hint, then the next one.
async fn single(count: i64) -> Res<()> {
    let (records, mut hints) = tokio::try_join!(Records::open(), Hints::open())?;
    let began = Instant::now();
    for number in 0..count {
        hints.send(&records.add(1, number).await?).await?;
    }
    finish(began);
    Ok(())
}

/// Thousands at a time. While the hints of one thousand are on their way the next one is recorded;
/// no hint leaves before its row is committed.
async fn bulk(count: i64) -> Res<()> {
    let (records, mut hints) = tokio::try_join!(Records::open(), Hints::open())?;
    let (recorded, mut waiting) = mpsc::channel::<Vec<i64>>(1);
    let began = Instant::now();
    let record = async {
        for first in (0..count).step_by(BULK as usize) {
            recorded
                .send(records.add(BULK.min(count - first), first).await?)
                .await?;
        }
        drop(recorded);
        Res::Ok(())
    };
    let send = async {
        while let Some(runs) = waiting.recv().await {
            hints.send(&runs).await?;
        }
        Res::Ok(())
    };
    tokio::try_join!(record, send)?;
    finish(began);
    Ok(())
}

/// Hints for rows that exist.
async fn range(first: i64, last: i64) -> Res<()> {
    let mut hints = Hints::open().await?;
    let runs: Vec<i64> = (first..=last).collect();
    for part in runs.chunks(BULK as usize) {
        hints.send(part).await?;
    }
    Ok(())
}

/// A hint for each line; answers with the time just before it was sent.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness compares it with its own clock"
)]
async fn stdin() -> Res<()> {
    let mut hints = Hints::open().await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let run = line.trim().parse()?;
        let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        hints.send(&[run]).await?;
        println!("{before:.6}");
    }
    Ok(())
}

fn finish(began: Instant) {
    println!("{{\"seconds\": {}}}", began.elapsed().as_secs_f64());
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Res<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["range", first, last] => range(first.parse()?, last.parse()?).await,
        ["single", count] => single(count.parse()?).await,
        ["bulk", count] => bulk(count.parse()?).await,
        ["stdin"] => stdin().await,
        _ => Err("usage: range A B | single N | bulk N | stdin".into()),
    }
}

//! Records a check of a provider connection, sends its hint, and waits for the result.
//!
//! `DATABASE_URL`, `REDIS_URL` (optional) and `PROVIDER_CONNECTION_ID` (1 when it is not set) say
//! where and which.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person"
)]

use std::env;
use std::time::Duration;
use verifyd::domain::ConnectionId;
use verifyd::producer::Producer;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let database_url = env::var("DATABASE_URL")?;
    let redis_url = env::var("REDIS_URL").ok();
    let connection = env::var("PROVIDER_CONNECTION_ID").map_or(Ok(1), |id| id.parse())?;

    let producer = Producer::connect(&database_url, redis_url.as_deref()).await?;
    let check = producer.check(ConnectionId(connection)).await?;
    if let Some(why) = &check.hint_not_sent {
        eprintln!("the hint was not sent ({why}), the sweep finds the run");
    }
    let run = producer.wait(check.run_id, Duration::from_secs(60)).await?;
    match run.outcome {
        Some(outcome) => eprintln!("{outcome}"),
        None => eprintln!("still {}", run.status),
    }
    println!("{}", check.run_id);
    Ok(())
}

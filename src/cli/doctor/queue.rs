//! Tests the queue of hints, and what waits in it.

use super::{Line, SHOWN, State, TIMEOUT, bad, late, ok};
use crate::app;
use crate::cli::remedy;
use crate::config::Settings;
use crate::ports::queue::{DeadLetter, Queue, QueueError};
use crate::view::words::counted;

/// Tests the queue. While it is unavailable `serve` takes runs from the database.
pub(super) async fn check(settings: &Settings, lines: &mut Vec<Line>) {
    let queue = match app::open_queue(settings) {
        Ok(queue) => queue,
        Err(error) => {
            lines.push(bad(
                "queue",
                State::Failed,
                format!("{error:#}"),
                "check redis.url (REDIS_URL)",
            ));
            return;
        }
    };
    if queue.kind() == "in_process" {
        lines.push(if !settings.is_embedded() {
            bad(
                "queue",
                State::Warning,
                "in process: other applications' hints cannot reach a worker",
                "set REDIS_URL when replicas are running or others enqueue",
            )
        } else {
            ok("queue", "in process")
        });
        return;
    }
    let answer = tokio::time::timeout(TIMEOUT, async {
        queue.try_sending().await?;
        queue.try_consuming().await?;
        Ok((queue.depth().await?, queue.dead_letters(SHOWN).await?))
    })
    .await;
    match answer {
        Ok(Ok((depth, (count, sample)))) => {
            lines.push(ok(
                "queue",
                format!("{}, takes hints, {depth} waiting", queue.kind()),
            ));
            lines.extend(dead_letters(count, &sample));
            lines.extend(sentinels(&*queue).await);
            others(settings, lines).await;
        }
        Ok(Err(failure)) => {
            let said = QueueError::to_string(&failure);
            let remedy = remedy::of_queue(&said);
            lines.push(bad("queue", State::Warning, said, remedy));
        }
        Err(_) => lines.push(late("queue", State::Warning, &remedy::of_queue(""))),
    }
}

/// Tests the queues of the other groups: a user of Redis may be allowed this one only.
async fn others(settings: &Settings, lines: &mut Vec<Line>) {
    let own = settings.worker.group.as_str();
    for group in settings.worker.groups.names().filter(|name| *name != own) {
        let answer = tokio::time::timeout(TIMEOUT, async {
            let queue = app::open_queue_of(settings, group)?;
            queue.try_sending().await?;
            anyhow::Ok(queue.depth().await?)
        });
        let name = format!("group {group}: ");
        lines.push(match answer.await {
            Ok(Ok(depth)) => ok("queue", format!("{name}{depth} waiting")),
            Ok(Err(failure)) => {
                let said = format!("{name}{failure:#}");
                let remedy = remedy::of_queue(&said);
                bad("queue", State::Warning, said, remedy)
            }
            Err(_) => {
                let mut line = late("queue", State::Warning, &remedy::of_queue(""));
                line.found.insert_str(0, &name);
                line
            }
        });
    }
}

/// Sentinels that cannot help at the next failover, while another leads to the primary.
async fn sentinels(queue: &dyn Queue) -> Vec<Line> {
    let part = "sentinel";
    let line = |failure: String| {
        let remedy = remedy::of_sentinel(&failure);
        bad(part, State::Warning, failure, remedy)
    };
    match tokio::time::timeout(TIMEOUT, queue.unusable_sentinels()).await {
        Ok(failures) => failures.into_iter().map(line).collect(),
        Err(_) => {
            let remedy = remedy::of_sentinel("no Sentinel answers");
            vec![late(part, State::Warning, &remedy)]
        }
    }
}

/// Payloads that a producer got wrong.
fn dead_letters(count: u64, sample: &[DeadLetter]) -> Option<Line> {
    let example = sample.first()?;
    let line = bad(
        "hints",
        State::Warning,
        format!(
            "{}; {}: {}",
            counted(count, "dead letter"),
            example.task_id,
            example.reason
        ),
        "correct whoever sends them (docs/guides/enqueue.md); the runs themselves are found by the sweep",
    );
    Some(line.quoting())
}

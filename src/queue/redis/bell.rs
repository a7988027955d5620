//! What wakes an idle fetcher: the queue's pub/sub channel, and a tick where that is silent.

use super::keys::Keys;
use super::link::Link;
use apalis_core::backend::ext::poll_strategy::{PollSnapshot, PollStrategy};
use futures::StreamExt;
use futures::task::AtomicWaker;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Rung when something may wait.
///
/// A ring must not be lost while the answer "nothing there" is still on its way: it stays
/// remembered until the next fetch starts (see `Ahead`).
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    pub fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// A fetch starts that will see everything up to now.
    pub fn silence(&self) {
        self.rung.store(false, Ordering::Release);
    }

    /// Whether it rang since then. If not, the next ring wakes the task.
    pub fn has_rung(&self, cx: &Context<'_>) -> bool {
        // First, so that no ring falls in between.
        self.waker.register(cx.waker());
        self.rung.load(Ordering::Acquire)
    }
}

/// Wakes the worker by its bell, which also rings at every tick.
#[derive(Debug)]
pub(super) struct BellOrTick {
    bell: Arc<Bell>,
    tick: Interval,
}

impl BellOrTick {
    pub fn new(bell: Arc<Bell>, every: Duration) -> Self {
        // Fetchers that were started together must not tick together.
        let first = every.mul_f64(rand::rng().random_range(0.0..1.0));
        let mut tick = tokio::time::interval_at(Instant::now() + first, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { bell, tick }
    }
}

impl PollStrategy for BellOrTick {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        // Until pending: only then is the waker bound to the next tick. Stopping at a tick that is
        // due loses wake-ups.
        while self.tick.poll_tick(cx).is_ready() {
            self.bell.ring();
        }
        self.bell.waker.register(cx.waker());
        Poll::Pending
    }
}

/// Listens on the channel and rings every bell of this process, until `stop`.
#[derive(Debug)]
pub(super) struct Listener {
    pub link: Arc<Link>,
    pub keys: Keys,
    pub bells: Vec<Arc<Bell>>,
    /// Between two probes of the connection, and between two attempts to connect.
    pub patience: Duration,
}

impl Listener {
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.listen() => ended,
            };
            // Only latency suffers meanwhile: the tick still looks.
            tracing::debug!(reason = ended, "not listening for new hints; ticks remain");
            let pause = self.patience.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Returns why it ended.
    async fn listen(&self) -> String {
        let pubsub = match self.link.pubsub().await {
            Ok(pubsub) => pubsub,
            Err(error) => return error.to_string(),
        };
        let (mut sink, mut stream) = pubsub.split();
        // The stream is what drives the connection, so it is polled beside every command.
        let subscribed = async {
            tokio::time::timeout(self.patience, sink.subscribe(&self.keys.available)).await
        };
        match subscribed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "subscribing took too long".into(),
        }
        // What came before the subscription.
        self.ring();
        let mut probe = tokio::time::interval_at(Instant::now() + self.patience, self.patience);
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(_) => self.ring(),
                    None => return "the connection was closed".into(),
                },
                _ = probe.tick() => {
                    // A half-open connection would be silent for ever.
                    let answer = tokio::time::timeout(
                        self.patience,
                        sink.ping::<redis::Value>(),
                    );
                    match answer.await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => return error.to_string(),
                        Err(_) => return "no answer to a probe".into(),
                    }
                }
            }
        }
    }

    fn ring(&self) {
        for bell in &self.bells {
            bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_ring_during_a_fetch_is_remembered_and_a_later_one_wakes() {
        let bell = Arc::new(Bell::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = &mut Context::from_waker(&waker);
        let mut strategy = BellOrTick::new(Arc::clone(&bell), Duration::from_secs(3600));
        let snapshot = PollSnapshot::new();

        // The worker waits for its fetch when it rings…
        bell.silence();
        let _ = strategy.poll_drive(cx, &snapshot);
        bell.ring();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        // …looks, and waits again: the end of the fetch has to tell.
        let _ = strategy.poll_drive(cx, &snapshot);
        assert!(bell.has_rung(cx));

        // Nothing rang during the next one, and nothing is lost between its end and the wait.
        bell.silence();
        assert!(!bell.has_rung(cx));
        bell.ring();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn the_tick_goes_on_by_itself() {
        let bell = Arc::new(Bell::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut strategy = BellOrTick::new(bell, Duration::from_millis(20));
        let snapshot = PollSnapshot::new();
        for n in 1..=3 {
            let _ = strategy.poll_drive(&mut Context::from_waker(&waker), &snapshot);
            let guard = std::time::Instant::now();
            while count.0.load(Ordering::SeqCst) < n {
                assert!(guard.elapsed() < Duration::from_secs(30), "no tick {n}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

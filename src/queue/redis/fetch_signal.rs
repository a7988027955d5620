//! Wakes an idle fetcher: by the queue's pub/sub channel, and by a tick where there is no message.

use super::connections::Connections;
use super::keys::Keys;
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

/// Tells one fetcher that the queue may hold deliveries.
///
/// A wake-up during a fetch that finds nothing must not be lost: the signal stays set until the next
/// fetch starts.
#[derive(Debug, Default)]
pub(super) struct FetchSignal {
    is_set: AtomicBool,
    waker: AtomicWaker,
}

impl FetchSignal {
    /// Sets the signal and wakes the fetcher.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Clears the signal, as a fetch starts that sees everything up to now.
    pub fn clear(&self) {
        self.is_set.store(false, Ordering::Release);
    }

    /// Returns whether the signal is set. If not, the next one wakes the task.
    pub fn is_set(&self, cx: &Context<'_>) -> bool {
        // First, so that no wake-up falls in between.
        self.waker.register(cx.waker());
        self.is_set.load(Ordering::Acquire)
    }
}

/// Wakes the worker by its signal, which is also set at every tick.
#[derive(Debug)]
pub(super) struct FetchStrategy {
    signal: Arc<FetchSignal>,
    tick: Interval,
}

impl FetchStrategy {
    pub fn new(signal: Arc<FetchSignal>, every: Duration) -> Self {
        // Jitter: fetchers that were started at the same time must not tick at the same time.
        let first = every.mul_f64(rand::rng().random_range(0.0..1.0));
        let mut tick = tokio::time::interval_at(Instant::now() + first, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { signal, tick }
    }
}

impl PollStrategy for FetchStrategy {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        // Until pending: only then is the waker bound to the next tick. Stopping at a tick that is
        // due loses wake-ups.
        while self.tick.poll_tick(cx).is_ready() {
            self.signal.set();
        }
        self.signal.waker.register(cx.waker());
        Poll::Pending
    }
}

/// Listens on the queue's channel and sets the signals of all fetchers.
#[derive(Debug)]
pub(super) struct Listener {
    pub connections: Arc<Connections>,
    pub keys: Keys,
    pub signals: Vec<Arc<FetchSignal>>,
    /// Interval between two probes of the connection, and between two attempts to connect.
    pub interval: Duration,
}

impl Listener {
    /// Listens until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.listen() => ended,
            };
            // Only latency suffers meanwhile: the tick still looks.
            tracing::debug!(
                reason = ended,
                "listening for new hints failed; trying again"
            );
            let pause = self.interval.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Listens over one connection. Returns why it ended.
    async fn listen(&self) -> String {
        let pubsub = match self.connections.pubsub().await {
            Ok(pubsub) => pubsub,
            Err(error) => return error.to_string(),
        };
        let (mut sink, mut stream) = pubsub.split();
        // Polling the stream drives the connection, so it is polled during every command.
        let subscribed = async {
            tokio::time::timeout(self.interval, sink.subscribe(&self.keys.available)).await
        };
        match subscribed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "subscribing took too long".into(),
        }
        // For hints that came before the subscription.
        self.set_all();
        let mut probe = tokio::time::interval_at(Instant::now() + self.interval, self.interval);
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(_) => self.set_all(),
                    None => return "the connection was closed".into(),
                },
                _ = probe.tick() => {
                    // A half-open connection would never report an error.
                    let answer = tokio::time::timeout(
                        self.interval,
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

    fn set_all(&self) {
        for signal in &self.signals {
            signal.set();
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
    async fn a_signal_during_a_fetch_is_kept_and_a_later_one_wakes() {
        let signal = Arc::new(FetchSignal::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = &mut Context::from_waker(&waker);
        let mut strategy = FetchStrategy::new(Arc::clone(&signal), Duration::from_secs(3600));
        let snapshot = PollSnapshot::new();

        // The signal comes while the worker waits for its fetch…
        signal.clear();
        let _ = strategy.poll_drive(cx, &snapshot);
        signal.set();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        // …and the worker waits again: it is found set at the end of the fetch.
        let _ = strategy.poll_drive(cx, &snapshot);
        assert!(signal.is_set(cx));

        // None comes during the next fetch, and none is lost between its end and the wait.
        signal.clear();
        assert!(!signal.is_set(cx));
        signal.set();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn the_tick_goes_on_by_itself() {
        let signal = Arc::new(FetchSignal::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut strategy = FetchStrategy::new(signal, Duration::from_millis(20));
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

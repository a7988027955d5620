//! One call at a time, whose result all get that ask meanwhile.

use parking_lot::Mutex;
use tokio::sync::watch;

/// The call under way, if there is one. It goes on when those that asked for it are gone, so that nobody begins it
/// over and over.
#[derive(Debug)]
pub struct SingleFlight<T>(Mutex<Option<watch::Receiver<Option<T>>>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Makes the call, or waits for the one under way. `None`: it panicked.
    pub async fn get(&self, call: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut result = {
            let mut last = self.0.lock();
            let under_way = last.take().filter(|call| call.has_changed().is_ok());
            let result = under_way.unwrap_or_else(|| {
                let (sender, result) = watch::channel(None);
                tokio::spawn(async move {
                    let _ = sender.send(Some(call.await));
                });
                result
            });
            last.insert(result).clone()
        };
        let done = result.wait_for(Option::is_some).await.ok()?;
        done.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use futures::future::join_all;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn all_that_ask_meanwhile_get_the_result_of_one_call() {
        let flight = SingleFlight::default();
        let calls = Arc::new(AtomicU32::new(0));
        let may_end = Arc::new(Semaphore::new(0));
        let ask = || {
            let (calls, may_end) = (Arc::clone(&calls), Arc::clone(&may_end));
            flight.get(async move {
                may_end.acquire().await.unwrap().forget();
                calls.fetch_add(1, Ordering::Relaxed)
            })
        };
        // It goes away; its call does not.
        assert_eq!(ask().now_or_never(), None);
        may_end.add_permits(9);
        let shared = join_all([ask(), ask(), ask()]).await;
        assert_eq!(shared, [Some(0); 3]);
        assert_eq!(ask().await, Some(1), "that call had ended");
    }

    #[tokio::test]
    async fn a_call_that_panics_holds_up_nobody() {
        let flight = SingleFlight::<u32>::default();
        assert_eq!(flight.get(async { panic!("a defect") }).await, None);
        assert_eq!(flight.get(async { 7 }).await, Some(7));
    }
}

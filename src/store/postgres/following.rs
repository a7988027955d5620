//! Follows the password file and the primary while the store is open.

use super::PostgresStore;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often the password file is read. Looks at the hosts are no more frequent.
const TICK: Duration = Duration::from_secs(1);

/// Follows them until the store is closed or dropped. `switches`: from before the pool had its options.
pub(super) async fn follow(store: Weak<PostgresStore>, mut switches: watch::Receiver<()>) {
    let mut renew_at: Option<Instant> = None;
    loop {
        tokio::time::sleep(TICK).await;
        let Some(store) = store.upgrade().filter(|store| !store.pool.is_closed()) else {
            return;
        };
        let now = Instant::now();
        if store.follow_once(&mut switches).await {
            renew_at = Some(Instant::now() + store.pool.options().get_acquire_timeout());
        } else if renew_at.is_some_and(|at| at <= now) {
            // Closes connections to the former host that were being opened when another was chosen.
            store.renewal.begin();
            renew_at = None;
        }
    }
}

impl PostgresStore {
    /// Whether what connections are opened with may be another one later.
    pub(super) fn may_change(&self) -> bool {
        let listening = self.listen.as_ref();
        self.connector.may_change() || listening.is_some_and(|listen| listen.may_change())
    }

    /// Returns whether another host is used from now on. Calls that are under way keep their connections.
    async fn follow_once(&self, switches: &mut watch::Receiver<()>) -> bool {
        let has_password_changed = match &self.connector.password {
            Some(file) => file.reread().await,
            None => false,
        };
        self.connector.follow().await;
        let has_switched = switches.has_changed().unwrap_or(false);
        if has_switched {
            // Before the options are read: a later switch is seen the next time.
            switches.mark_unchanged();
        }
        if has_password_changed || has_switched {
            self.pool.set_connect_options(self.connector.options());
        }
        if has_switched {
            let host = self.connector.host();
            tracing::warn!(
                host,
                "another host of database.url accepts writes: it is used from now on"
            );
            self.renewal.begin();
        }
        if let Some(listen) = &self.listen
            && !Arc::ptr_eq(listen, &self.connector)
        {
            listen.follow().await;
        }
        has_switched
    }
}

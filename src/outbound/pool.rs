//! Chooses the connection for a request.
//!
//! With HTTP/2 a host has a few connections: a request uses one with a free stream, and another connection is
//! opened when more requests wait than the open connections, and those being opened, can carry. Until the
//! protocol of a host is known, only one connection is opened. With HTTP/1 each request has its own
//! connection, and idle ones are reused.

use super::connect::Connector;
use super::failure::{Failure, FailureKind};
use super::pooled::{Lease, MAX_STREAMS, Multiplexed, Opened, Single};
use http::Uri;
use http::uri::{Authority, Scheme};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Time after which an idle connection is closed.
const IDLE: Duration = Duration::from_secs(90);

/// Connections of HTTP/2 to one host: enough for 1,024 requests where each carries 32.
const MAX_CONNECTIONS: usize = 32;

/// Largest number of connections that are opened at the same time.
const MAX_OPENING: usize = 4;

/// Scheme, host and port.
pub(super) type Origin = (Scheme, Authority);

/// The connections to all hosts.
pub(super) struct Pool {
    connector: Connector,
    hosts: Mutex<Hosts>,
}

#[derive(Default)]
struct Hosts {
    by_origin: HashMap<Origin, Host>,
    is_swept: bool,
}

/// The connections to one host.
#[derive(Default)]
struct Host {
    /// `None` until a connection was opened.
    speaks_h2: Option<bool>,
    multiplexed: Vec<(Multiplexed, Instant)>,
    idle: Vec<(Single, Instant)>,
    opening: usize,
    waiting: VecDeque<oneshot::Sender<Result<Granted, Failure>>>,
}

/// What a waiting request gets.
enum Granted {
    Lease(Lease),
    /// The host speaks HTTP/1: open a connection.
    OpenYourself,
}

impl Host {
    /// Drops closed connections, and those that were idle for too long.
    fn prune(&mut self, now: Instant) {
        let is_fresh = |used: Instant| now.duration_since(used) < IDLE;
        self.multiplexed
            .retain(|(one, used)| one.is_usable() && (!one.is_idle() || is_fresh(*used)));
        self.idle
            .retain(|(one, used)| one.is_usable() && is_fresh(*used));
        self.waiting.retain(|waiting| !waiting.is_closed());
    }

    fn is_empty(&self) -> bool {
        self.multiplexed.is_empty()
            && self.idle.is_empty()
            && self.opening == 0
            && self.waiting.is_empty()
    }

    /// Leases from the first connection with a free stream, so that others become idle under low load.
    fn lease(&mut self, pool: &Arc<Pool>, origin: &Origin, now: Instant) -> Option<Lease> {
        for (connection, used) in &mut self.multiplexed {
            if let Some(lease) = connection.slot(pool, origin) {
                *used = now;
                return Some(lease);
            }
        }
        let (connection, _) = self.idle.pop()?;
        Some(Lease::Own {
            connection,
            is_new: false,
            home: Some((Arc::clone(pool), origin.clone())),
        })
    }

    /// How many more connections of HTTP/2 are worth opening for what waits.
    fn wanted(&self) -> usize {
        let carried = self
            .multiplexed
            .first()
            .map_or(MAX_STREAMS, |(one, _)| one.expected());
        let free = MAX_CONNECTIONS.saturating_sub(self.multiplexed.len());
        // Streams that connections will carry whose limit is not known yet.
        let spare: usize = self.multiplexed.iter().map(|(one, _)| one.spare()).sum();
        let waiting = self.waiting.len().saturating_sub(spare);
        let wanted = waiting.div_ceil(carried).min(MAX_OPENING).min(free);
        wanted.saturating_sub(self.opening)
    }
}

impl Pool {
    pub(super) fn new(connector: Connector) -> Arc<Self> {
        Arc::new(Self {
            connector,
            hosts: Mutex::default(),
        })
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// A connection for one request.
    pub(super) async fn lease(self: &Arc<Self>, origin: &Origin) -> Result<Lease, Failure> {
        let waiting = {
            let mut hosts = self.hosts.lock();
            self.keep_swept(&mut hosts);
            let host = hosts.by_origin.entry(origin.clone()).or_default();
            let now = Instant::now();
            host.prune(now);
            // Nobody overtakes those that wait.
            let lease = match host.waiting.is_empty() {
                true => host.lease(self, origin, now),
                false => None,
            };
            if let Some(lease) = lease {
                return Ok(lease);
            }
            if host.speaks_h2 == Some(false) || origin.0 == Scheme::HTTP {
                None
            } else {
                let (granted, waiting) = oneshot::channel();
                host.waiting.push_back(granted);
                self.open_wanted(host, origin);
                Some(waiting)
            }
        };
        let granted = match waiting {
            Some(waiting) => waiting.await.unwrap_or(Err(FailureKind::Lost.into()))?,
            None => Granted::OpenYourself,
        };
        match granted {
            Granted::Lease(lease) => Ok(lease),
            Granted::OpenYourself => self.open_own(origin).await,
        }
    }

    /// A connection that no other request has used.
    pub(super) async fn fresh(self: &Arc<Self>, origin: &Origin) -> Result<Lease, Failure> {
        match self.open(origin).await? {
            Opened::Single(connection) => Ok(Lease::Own {
                connection,
                is_new: true,
                home: None,
            }),
            Opened::Multiplexed(connection) => connection
                .slot(self, origin)
                .map(Lease::exclusive)
                .ok_or_else(|| FailureKind::Lost.into()),
        }
    }

    async fn open(self: &Arc<Self>, origin: &Origin) -> Result<Opened, Failure> {
        let uri = address(origin);
        let connected = self.connector.connect(&uri).await?;
        let (pool, changed) = (Arc::downgrade(self), origin.clone());
        let changed = move || {
            if let Some(pool) = pool.upgrade() {
                pool.released(&changed);
            }
        };
        let opened = Opened::new(connected, changed).await;
        opened.map_err(|kind| Failure {
            kind,
            proxy: self.connector.proxy(&uri).map(ToString::to_string),
        })
    }

    /// For hosts that speak HTTP/1.
    async fn open_own(self: &Arc<Self>, origin: &Origin) -> Result<Lease, Failure> {
        match self.open(origin).await? {
            Opened::Single(connection) => Ok(Lease::Own {
                connection,
                is_new: true,
                home: Some((Arc::clone(self), origin.clone())),
            }),
            // The host turned out to speak HTTP/2.
            Opened::Multiplexed(connection) => {
                let lease = connection.slot(self, origin);
                let mut hosts = self.hosts.lock();
                let host = hosts.by_origin.entry(origin.clone()).or_default();
                host.speaks_h2 = Some(true);
                host.multiplexed.push((connection, Instant::now()));
                lease.ok_or_else(|| FailureKind::Lost.into())
            }
        }
    }

    /// Opens connections for what waits. Each in a task: a request that is given up leaves it to others.
    fn open_wanted(self: &Arc<Self>, host: &mut Host, origin: &Origin) {
        for _ in 0..host.wanted() {
            host.opening += 1;
            let (pool, origin) = (Arc::clone(self), origin.clone());
            tokio::spawn(async move {
                let opened = pool.open(&origin).await;
                pool.opened(&origin, opened);
            });
        }
    }

    fn opened(self: &Arc<Self>, origin: &Origin, opened: Result<Opened, Failure>) {
        let now = Instant::now();
        let mut hosts = self.hosts.lock();
        let host = hosts.by_origin.entry(origin.clone()).or_default();
        host.opening = host.opening.saturating_sub(1);
        host.prune(now);
        match opened {
            Ok(Opened::Multiplexed(connection)) => {
                host.speaks_h2 = Some(true);
                host.multiplexed.push((connection, now));
            }
            Ok(Opened::Single(connection)) => {
                host.speaks_h2 = Some(false);
                host.idle.push((connection, now));
            }
            Err(failure) => {
                // With others open or on their way what waits has a chance.
                if host.multiplexed.is_empty() && host.opening == 0 {
                    for waiting in host.waiting.drain(..) {
                        let _ = waiting.send(Err(failure.clone()));
                    }
                }
                return;
            }
        }
        self.serve(host, origin, now);
    }

    /// Gives free streams to waiting requests, and opens missing connections.
    fn serve(self: &Arc<Self>, host: &mut Host, origin: &Origin, now: Instant) {
        let mut unused = Vec::new();
        while let Some(waiting) = host.waiting.pop_front() {
            if waiting.is_closed() {
                continue;
            }
            let granted = match host.lease(self, origin, now) {
                Some(lease) => Granted::Lease(lease),
                None if host.speaks_h2 == Some(false) => Granted::OpenYourself,
                None => {
                    host.waiting.push_front(waiting);
                    break;
                }
            };
            // Its request was cancelled: the next one gets it.
            unused.extend(waiting.send(Ok(granted)).err());
        }
        self.open_wanted(host, origin);
        if !unused.is_empty() {
            // Dropping a stream slot takes the lock.
            tokio::spawn(async move { drop(unused) });
        }
    }

    /// Called when a stream slot on a shared connection is free, and when such a connection has ended.
    pub(super) fn released(self: &Arc<Self>, origin: &Origin) {
        // Without a runtime no request can wait.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let mut hosts = self.hosts.lock();
        if let Some(host) = hosts.by_origin.get_mut(origin) {
            let now = Instant::now();
            host.prune(now);
            self.serve(host, origin, now);
        }
    }

    /// A connection of HTTP/1 is free.
    pub(super) fn give_back(self: &Arc<Self>, origin: &Origin, connection: Single) {
        let mut hosts = self.hosts.lock();
        self.keep_swept(&mut hosts);
        let host = hosts.by_origin.entry(origin.clone()).or_default();
        host.idle.push((connection, Instant::now()));
    }

    /// Closes idle connections even when the host is not called again.
    fn keep_swept(self: &Arc<Self>, hosts: &mut Hosts) {
        if std::mem::replace(&mut hosts.is_swept, true) {
            return;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE / 3).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut hosts = pool.hosts.lock();
                let now = Instant::now();
                hosts.by_origin.retain(|_, host| {
                    host.prune(now);
                    !host.is_empty()
                });
                if hosts.by_origin.is_empty() {
                    hosts.is_swept = false;
                    return;
                }
            }
        });
    }
}

/// An address at this origin.
fn address((scheme, authority): &Origin) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority.clone());
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    Uri::from_parts(parts).unwrap_or_default()
}

//! Opens connections of one address: with the password that was read last, to the host that was chosen last.
//!
//! Where an address names several hosts, connections go to the one that accepts writes. Of several it is the one that
//! was promoted last, and never one that was promoted earlier than the host in use: what a former primary is given is
//! lost. A check asks all hosts, over a connection of its own to each, and its failure changes nothing.

use super::environment::ReadVariables;
use super::options::{self, Address};
use super::password::PasswordFile;
use super::timeline::{Found, Timeline, collect_answers, is_former, timeline_of};
use super::timeouts::ROLE;
use crate::domain::pause::with_jitter;
use crate::ports::probe::{Host, HostRole};
use crate::ports::store_error::{Detail, StoreError};
use crate::store::error::opening;
use crate::store::settings::DatabaseSettings;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest time for a check of the hosts, if half of the time to open a connection is not shorter. Each failed check
/// doubles it, as they may be slow, up to the time to open a connection: no call could use a slower host.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two checks while connections succeed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The same after an error. Each failed check doubles it.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Connector {
    /// The key of the address.
    key: &'static str,
    hosts: Vec<PgConnectOptions>,
    /// Whether prepared statements have names.
    pub named: bool,
    /// Whether it leads to a replica, where no session may write.
    pub only_reads: bool,
    pub password: Option<Arc<PasswordFile>>,
    /// What the driver has read beside the address.
    variables: ReadVariables,
    /// Time to open a connection.
    pub opening_timeout: Duration,
    /// Index of the host that is used.
    used: AtomicUsize,
    /// Whether a connection has failed, or may not write, since the last check.
    has_failed: AtomicBool,
    checks: Mutex<HostChecks>,
    /// Held during a check.
    seen: tokio::sync::Mutex<Seen>,
    /// Sent when another host is used.
    switched: watch::Sender<()>,
}

/// When the last check was, and how many in a row have found no host that accepts writes.
#[derive(Default)]
struct HostChecks {
    last: Option<Instant>,
    failures: u32,
}

/// What checks have found of the hosts.
#[derive(Default)]
struct Seen {
    /// Of the host that was chosen last.
    timeline: Option<Timeline>,
    /// Those that the log has named.
    named: Vec<usize>,
}

impl Connector {
    /// Reads `database.url`, and the file of its password.
    pub(super) fn of(settings: &DatabaseSettings) -> Result<Arc<Self>, StoreError> {
        let password = PasswordFile::open(&settings.password_file)?;
        let timeout = settings.acquire_timeout;
        Self::read("database.url", &settings.url, timeout, password).map(Arc::new)
    }

    /// Reads `database.listen_url`, for which the same password counts.
    pub(super) fn of_listening(
        &self,
        settings: &DatabaseSettings,
    ) -> Result<Arc<Self>, StoreError> {
        let password = self.password.clone();
        let (url, timeout) = (&settings.listen_url, settings.acquire_timeout);
        Self::read("database.listen_url", url, timeout, password).map(Arc::new)
    }

    /// Reads `database.read_url`, for which the same password file counts.
    pub(super) fn of_replica(settings: &DatabaseSettings) -> Result<Arc<Self>, StoreError> {
        const KEY: &str = "database.read_url";
        let password = PasswordFile::open(&settings.password_file)?;
        let (url, timeout) = (&settings.read_url, settings.acquire_timeout);
        let connector = Self {
            only_reads: true,
            ..Self::read(KEY, url, timeout, password)?
        };
        match connector.has_several_hosts() {
            true => Err(StoreError::Settings(
                format!("{KEY} names several hosts, allowed: one").into(),
            )),
            false => Ok(Arc::new(connector)),
        }
    }

    fn read(
        key: &'static str,
        url: &SecretString,
        acquire_timeout: Duration,
        password: Option<Arc<PasswordFile>>,
    ) -> Result<Self, StoreError> {
        let Address {
            hosts,
            named,
            has_password,
            variables,
        } = options::read(key, url.expose_secret())?;
        if has_password && password.is_some() {
            let why = format!(
                "{key} has a password, and database.password_file is set; remove one of the two"
            );
            return Err(StoreError::Settings(why.into()));
        }
        Ok(Self {
            key,
            hosts,
            named,
            only_reads: false,
            variables: match &password {
                Some(_) => variables.without_password(),
                None => variables,
            },
            password,
            opening_timeout: acquire_timeout,
            used: AtomicUsize::new(0),
            has_failed: AtomicBool::new(false),
            checks: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
            switched: watch::Sender::new(()),
        })
    }

    /// Whether what it connects with may be another one later.
    pub(super) fn may_change(&self) -> bool {
        self.has_several_hosts() || self.password.is_some()
    }

    pub(super) fn has_several_hosts(&self) -> bool {
        self.hosts.len() > 1
    }

    /// The driver's options, as they are now.
    pub(super) fn options(&self) -> PgConnectOptions {
        self.options_of(&self.hosts[self.used()])
    }

    fn options_of(&self, host: &PgConnectOptions) -> PgConnectOptions {
        match &self.password {
            Some(file) => host.clone().password(file.password().expose_secret()),
            None => host.clone(),
        }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Opens the first connection, to the host that accepts writes.
    pub(super) async fn open(&self) -> Result<PgConnection, StoreError> {
        self.choose().await?;
        let opened = self.connect().await;
        opened.map_err(|error| self.named_in(opening(error)))
    }

    /// Adds to the error of opening a connection the variables of the environment, or the file of the password, that
    /// may be its cause.
    pub(super) fn named_in(&self, error: StoreError) -> StoreError {
        let error = self.variables.named_in(error);
        match &self.password {
            Some(file) => file.named_in(error),
            None => error,
        }
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.options().connect().await
    }

    /// Records that a connection has failed, or may not write: the next check is due soon.
    pub(super) fn record_failure(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    /// Sees when another host is used from now on.
    pub(super) fn switches(&self) -> watch::Receiver<()> {
        self.switched.subscribe()
    }

    /// Names the host that is used.
    pub(super) fn host(&self) -> String {
        name(&self.hosts[self.used()])
    }

    /// Checks the hosts when that is due. A failed check changes nothing.
    pub(super) async fn follow(&self) {
        if !self.has_several_hosts() || !self.is_check_due() {
            return;
        }
        let chosen = self.choose_within(self.check_timeout()).await;
        let mut checks = self.checks.lock();
        checks.last = Some(Instant::now());
        match chosen {
            Ok(()) => checks.failures = 0,
            Err(error) => {
                if checks.failures == 0 {
                    tracing::warn!(%error, "{}: the host that was used stays in use", self.key);
                }
                checks.failures = checks.failures.saturating_add(1);
            }
        }
    }

    fn first_check_timeout(&self) -> Duration {
        self.opening_timeout / 2
    }

    fn check_timeout(&self) -> Duration {
        let first = CHECK_TIMEOUT.min(self.first_check_timeout());
        let doublings = 2_u32.saturating_pow(self.checks.lock().failures);
        let doubled = first.saturating_mul(doublings);
        doubled.min(self.opening_timeout)
    }

    fn is_check_due(&self) -> bool {
        let checks = self.checks.lock();
        let Some(last) = checks.last else { return true };
        let has_failed = self.has_failed.load(Ordering::Relaxed);
        let pause = match (has_failed, checks.failures) {
            (false, 0) => CHECK_INTERVAL,
            (true, 0) => RETRY_INTERVAL,
            (_, failures) => RETRY_INTERVAL * 2_u32.pow(failures.min(4)),
        };
        last.elapsed() >= with_jitter(pause, 0.2, CHECK_INTERVAL)
    }

    /// Chooses the host that accepts writes. Does nothing where there is one host only.
    pub(super) async fn choose(&self) -> Result<(), StoreError> {
        self.choose_within(self.first_check_timeout()).await
    }

    async fn choose_within(&self, timeout: Duration) -> Result<(), StoreError> {
        if !self.has_several_hosts() {
            return Ok(());
        }
        let mut seen = self.seen.lock().await;
        self.has_failed.store(false, Ordering::Relaxed);
        let found = self.ask_all(&seen, timeout).await;
        let used = self.used();
        let is_primary = |index: &usize| found[*index].role == HostRole::Primary;
        let Some(chosen) = in_order(used, found.len()).find(is_primary) else {
            return Err(self.none_accepts_writes(&found, seen.timeline));
        };
        seen.timeline = found[chosen].timeline.or(seen.timeline);
        if chosen != used {
            self.used.store(chosen, Ordering::Relaxed);
            self.switched.send_replace(());
        }
        self.warn(&found, &mut seen);
        Ok(())
    }

    /// The error where no host can be chosen. `chosen`: the timeline of the host that was chosen last.
    fn none_accepts_writes(&self, found: &[Found], chosen: Option<Timeline>) -> StoreError {
        let hosts = self.hosts.iter().zip(found);
        let roles: Vec<String> = hosts
            .map(|(host, found)| format!("{} {}", name(host), found.role))
            .collect();
        let roles = roles.join("; ");
        let mut why = format!("no host of {} accepts writes: {roles}", self.key);
        // One that was restored from a backup looks the same.
        let is_left =
            |host: &Found| host.role == HostRole::FormerPrimary && is_former(host.timeline, chosen);
        if found.iter().any(is_left) {
            why += "; to go back to a former primary, restart verifyd";
        }
        let code = found.iter().find_map(|found| match &found.role {
            HostRole::Unreachable(why) => why.code.clone(),
            _ => None,
        });
        StoreError::Unavailable(Detail::new(why, code))
    }

    /// Logs each host that is a former primary or has not answered, once until it is well again.
    fn warn(&self, found: &[Found], seen: &mut Seen) {
        let mut named = Vec::new();
        for (index, host) in found.iter().enumerate() {
            let problem = match &host.role {
                HostRole::FormerPrimary => {
                    "it still accepts writes, which are lost: stop (fence) it"
                }
                HostRole::Unreachable(_) => {
                    "it cannot take over; if it is the primary, it is used once it answers"
                }
                HostRole::Primary | HostRole::ReadOnly | HostRole::Standby => continue,
            };
            named.push(index);
            if !seen.named.contains(&index) {
                let (host, role) = (name(&self.hosts[index]), &host.role);
                tracing::warn!(host, %role, used = self.host(), "{}: {problem}", self.key);
            }
        }
        seen.named = named;
    }

    /// What each host is, where there are several.
    pub(super) async fn roles(&self) -> Vec<Host> {
        if !self.has_several_hosts() {
            return Vec::new();
        }
        let seen = self.seen.lock().await;
        let found = self.ask_all(&seen, self.first_check_timeout()).await;
        let hosts = self.hosts.iter().zip(found).enumerate();
        hosts
            .map(|(index, (host, found))| Host {
                name: name(host),
                role: found.role,
                is_used: index == self.used(),
            })
            .collect()
    }

    /// Asks all hosts at once what they are.
    async fn ask_all(&self, seen: &Seen, timeout: Duration) -> Vec<Found> {
        let hosts = self.hosts.iter().enumerate();
        let answers: FuturesUnordered<_> =
            hosts.map(|(index, host)| self.ask(index, host)).collect();
        collect_answers(answers, seen.timeline, timeout).await
    }

    async fn ask(&self, index: usize, host: &PgConnectOptions) -> (usize, Found) {
        let options = self.options_of(host);
        let asking = async {
            let mut connection = options.connect().await?;
            let row = sqlx::raw_sql(ROLE).fetch_one(&mut connection).await?;
            let is_standby: bool = row.try_get(0)?;
            let may_write: bool = row.try_get(1)?;
            let timeline = match is_standby {
                true => None,
                false => timeline_of(&mut connection).await,
            };
            let _ = connection.close().await;
            let role = match (is_standby, may_write) {
                (true, _) => HostRole::Standby,
                (false, false) => HostRole::ReadOnly,
                (false, true) => HostRole::Primary,
            };
            Ok::<_, sqlx::Error>(Found { role, timeline })
        };
        let found = asking.await.unwrap_or_else(|error| {
            let error = self.named_in(opening(error));
            let why = error.detail().cloned();
            Found::unreachable(why.unwrap_or_else(|| error.to_string().into()))
        });
        (index, found)
    }
}

/// The host in use, then the others as they are listed.
fn in_order(used: usize, count: usize) -> impl Iterator<Item = usize> {
    std::iter::once(used).chain((0..count).filter(move |index| *index != used))
}

/// The host as people know it.
fn name(host: &PgConnectOptions) -> String {
    match host.get_socket() {
        Some(socket) => socket.display().to_string(),
        None if host.get_host().contains(':') => {
            format!("[{}]:{}", host.get_host(), host.get_port())
        }
        None => format!("{}:{}", host.get_host(), host.get_port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(url: &str, password: Option<Arc<PasswordFile>>) -> Result<Connector, StoreError> {
        let url = SecretString::from(url);
        Connector::read("database.url", &url, Duration::from_secs(6), password)
    }

    #[test]
    fn each_host_is_one_of_the_address() {
        let url = "postgres://u@h1:5432,[::1]:5433/db?target_session_attrs=read-write";
        let connector = connector(url, None).unwrap();
        let names: Vec<String> = connector.hosts.iter().map(name).collect();
        assert_eq!(names, ["h1:5432", "[::1]:5433"]);
        assert!(connector.may_change());
        assert_eq!(in_order(1, 3).collect::<Vec<_>>(), [1, 0, 2]);
    }

    #[test]
    fn a_password_in_a_file_stands_beside_none_in_the_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "p4ss").unwrap();
        let file = || PasswordFile::open(&path).unwrap();
        for url in ["postgres://u:x9z@h/db", "postgres://u@h/db?password=x9z"] {
            let error = connector(url, file()).err().unwrap().to_string();
            assert!(error.contains("remove one of the two"), "{error}");
            assert!(!error.contains("x9z") && !error.contains("p4ss"), "{error}");
            assert!(!connector(url, None).unwrap().may_change());
        }
        let found = connector("postgres://u@h/db", file()).unwrap();
        let options = found.options().to_url_lossy();
        assert_eq!(options.password(), Some("p4ss"));
    }

    #[test]
    fn a_check_that_finds_no_host_is_followed_by_one_with_more_time() {
        let url = SecretString::from("postgres://u@h1,h2/db");
        for (opening, timeouts) in [
            (60_000, [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]),
            (5_000, [2_500, 5_000, 5_000, 5_000, 5_000, 5_000]),
        ] {
            let opening = Duration::from_millis(opening);
            let connector = Connector::read("database.url", &url, opening, None).unwrap();
            for (failures, timeout) in [0, 1, 2, 3, 4, 99].into_iter().zip(timeouts) {
                connector.checks.lock().failures = failures;
                let found = connector.check_timeout();
                assert_eq!(found.as_millis(), timeout, "{opening:?} {failures}");
            }
        }
    }

    #[test]
    fn the_way_back_to_a_former_primary_is_named() {
        let connector = connector("postgres://u@h1,h2/db", None).unwrap();
        let of = |number| Some(Timeline { cluster: 7, number });
        for (chosen, is_named) in [(None, false), (of(1), false), (of(2), true)] {
            let hosts = [
                (HostRole::FormerPrimary, of(1)),
                (HostRole::ReadOnly, of(2)),
            ];
            let found = hosts.map(|(role, timeline)| Found { role, timeline });
            let said = connector.none_accepts_writes(&found, chosen).to_string();
            assert_eq!(said.contains("restart verifyd"), is_named, "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn checks_are_rare_while_nothing_fails_and_slow_down_while_no_host_is_found() {
        let connector = connector("postgres://u@h1,h2/db", None).unwrap();
        assert!(connector.is_check_due());
        for (has_failed, failures, not_yet, due) in [
            (false, 0, 4_900, 5_000),
            (true, 0, 900, 1_200),
            (true, 1, 1_900, 2_400),
            (false, 2, 3_900, 4_800),
            (true, 9, 4_900, 5_000),
        ] {
            connector.has_failed.store(has_failed, Ordering::Relaxed);
            *connector.checks.lock() = HostChecks {
                last: Some(Instant::now()),
                failures,
            };
            tokio::time::advance(Duration::from_millis(not_yet)).await;
            assert!(!connector.is_check_due(), "{has_failed} {failures}");
            tokio::time::advance(Duration::from_millis(due - not_yet)).await;
            assert!(connector.is_check_due(), "{has_failed} {failures}");
        }
    }
}

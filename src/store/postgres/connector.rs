//! Opens connections of one address: with the password that was read last, to the host that was chosen last.
//!
//! Where an address names several hosts, the connection goes to the first that accepts writes, and stays there while it
//! does. A look at the hosts has connections of its own, one at a time, and its failure changes nothing: a primary that
//! answers late is no reason to leave it.

use super::environment::ReadVariables;
use super::options::{self, Address};
use super::password::PasswordFile;
use super::timeouts::ROLE;
use crate::domain::pause::with_jitter;
use crate::ports::probe::{Host, HostRole};
use crate::ports::store_error::StoreError;
use crate::store::error::opening;
use crate::store::settings::DatabaseSettings;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest time for a host to say what it is. Shorter where the first connection has less time for all hosts.
const ROLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a host that is well.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same after an error. Each look that finds no host doubles it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    role_timeout: Duration,
    /// Index of the host that is used.
    used: AtomicUsize,
    /// Whether a connection has failed, or may not write, since the last look.
    is_suspect: AtomicBool,
    looks: Mutex<Looks>,
    /// Held during a look.
    looking: tokio::sync::Mutex<()>,
    /// Sent when another host is used.
    switched: watch::Sender<()>,
}

/// When the last look was, and how many in a row have found no host.
#[derive(Default)]
struct Looks {
    last: Option<Instant>,
    in_vain: u32,
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
            true => Err(StoreError::Refused(format!(
                "{KEY} names several hosts, allowed: one"
            ))),
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
            return Err(StoreError::Refused(format!(
                "{key} has a password, and database.password_file is set; remove one of the two"
            )));
        }
        // Leaves time for the connection itself.
        let shares = u32::try_from(hosts.len() + 1).unwrap_or(u32::MAX);
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
            role_timeout: (acquire_timeout / shares).min(ROLE_TIMEOUT),
            used: AtomicUsize::new(0),
            is_suspect: AtomicBool::new(false),
            looks: Mutex::default(),
            looking: tokio::sync::Mutex::new(()),
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

    /// Adds to the error of opening a connection the variables of the environment that may be its cause.
    pub(super) fn named_in(&self, error: StoreError) -> StoreError {
        self.variables.named_in(error)
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        self.options().connect().await
    }

    /// Says that a connection has failed, or may not write: the next look is due soon.
    pub(super) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Sees when another host is used from now on.
    pub(super) fn switches(&self) -> watch::Receiver<()> {
        self.switched.subscribe()
    }

    /// Names the host that is used.
    pub(super) fn host(&self) -> String {
        name(&self.hosts[self.used()])
    }

    /// Looks at the hosts when that is due. A look that finds none changes nothing.
    pub(super) async fn follow(&self) {
        if !self.has_several_hosts() || !self.is_look_due() {
            return;
        }
        let chosen = self.choose().await;
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.last = Some(Instant::now());
        match chosen {
            Ok(()) => looks.in_vain = 0,
            Err(error) => {
                if looks.in_vain == 0 {
                    tracing::warn!(%error, "{}: the host that was used stays in use", self.key);
                }
                looks.in_vain = looks.in_vain.saturating_add(1);
            }
        }
    }

    fn is_look_due(&self) -> bool {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = looks.last else { return true };
        let is_suspect = self.is_suspect.load(Ordering::Relaxed);
        let pause = match (is_suspect, looks.in_vain) {
            (false, 0) => LOOK_EVERY,
            (true, 0) => LOOK_AGAIN,
            (_, in_vain) => LOOK_AGAIN * 2_u32.pow(in_vain.min(4)),
        };
        last.elapsed() >= with_jitter(pause, 0.2, LOOK_EVERY)
    }

    /// Chooses the host that accepts writes, the one in use before the others. Does nothing where there is one host only.
    pub(super) async fn choose(&self) -> Result<(), StoreError> {
        if !self.has_several_hosts() {
            return Ok(());
        }
        let _one_look = self.looking.lock().await;
        self.is_suspect.store(false, Ordering::Relaxed);
        let used = self.used();
        let mut found = Vec::new();
        for index in in_order(used, self.hosts.len()) {
            let host = &self.hosts[index];
            match self.role(host).await {
                HostRole::Primary => {
                    if index != used {
                        self.used.store(index, Ordering::Relaxed);
                        self.switched.send_replace(());
                    }
                    return Ok(());
                }
                role => found.push(format!("{} {role}", name(host))),
            }
        }
        Err(StoreError::Unavailable(format!(
            "no host of {} accepts writes: {}",
            self.key,
            found.join("; ")
        )))
    }

    /// What each host is, where there are several.
    pub(super) async fn roles(&self) -> Vec<Host> {
        let mut hosts = Vec::new();
        if self.has_several_hosts() {
            let _one_look = self.looking.lock().await;
            for (index, host) in self.hosts.iter().enumerate() {
                hosts.push(Host {
                    name: name(host),
                    role: self.role(host).await,
                    is_used: index == self.used(),
                });
            }
        }
        hosts
    }

    async fn role(&self, host: &PgConnectOptions) -> HostRole {
        let options = self.options_of(host);
        let asking = async {
            let mut connection = options.connect().await?;
            let row = sqlx::raw_sql(ROLE).fetch_one(&mut connection).await?;
            let is_standby: bool = row.try_get(0)?;
            let may_write: bool = row.try_get(1)?;
            let _ = connection.close().await;
            Ok::<_, sqlx::Error>(match (is_standby, may_write) {
                (true, _) => HostRole::Standby,
                (false, false) => HostRole::ReadOnly,
                (false, true) => HostRole::Primary,
            })
        };
        match tokio::time::timeout(self.role_timeout, asking).await {
            Ok(Ok(role)) => role,
            Ok(Err(error)) => HostRole::Unreachable(match self.named_in(opening(error)) {
                StoreError::Unavailable(why) | StoreError::Refused(why) => why,
                other => other.to_string(),
            }),
            Err(_) => HostRole::Unreachable(format!("no answer within {:?}", self.role_timeout)),
        }
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
        assert_eq!(connector.role_timeout, Duration::from_secs(2));
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

    #[tokio::test(start_paused = true)]
    async fn looks_are_rare_while_nothing_fails_and_slow_down_while_no_host_is_found() {
        let connector = connector("postgres://u@h1,h2/db", None).unwrap();
        assert!(connector.is_look_due());
        for (is_suspect, in_vain, not_yet, due) in [
            (false, 0, 4_900, 5_000),
            (true, 0, 900, 1_200),
            (true, 1, 1_900, 2_400),
            (false, 2, 3_900, 4_800),
            (true, 9, 4_900, 5_000),
        ] {
            connector.is_suspect.store(is_suspect, Ordering::Relaxed);
            *connector.looks.lock().unwrap() = Looks {
                last: Some(Instant::now()),
                in_vain,
            };
            tokio::time::advance(Duration::from_millis(not_yet)).await;
            assert!(!connector.is_look_due(), "{is_suspect} {in_vain}");
            tokio::time::advance(Duration::from_millis(due - not_yet)).await;
            assert!(connector.is_look_due(), "{is_suspect} {in_vain}");
        }
    }
}

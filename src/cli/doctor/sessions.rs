//! Tests the connections that `serve` opens: whether it may have so many, and whether notifications arrive.

use super::{Line, State, bad, error, ok};
use crate::cli::{output, remedy};
use crate::config::Settings;
use crate::ports::probe::{ConnectionLimit, Host, HostRole, LimitedBy};
use crate::ports::store::{Store, StoreError};
use crate::ports::wake::{Listening, TriggerFault};
use secrecy::ExposeSecret as _;

/// A line where `serve` may not open all its connections. It failed where a limit allows fewer than `serve` works with.
pub async fn limit(store: &dyn Store, settings: &Settings) -> Option<Line> {
    let pool = settings.database.max_connections;
    match store.connection_limit(pool).await {
        Ok(limit) => limit.as_ref().map(line),
        Err(failure) => Some(refused(&failure, settings)),
    }
}

fn line(limit: &ConnectionLimit) -> Line {
    let ConnectionLimit {
        by,
        allowed,
        least,
        needed,
    } = limit;
    let is_fatal = allowed < least;
    let state = match is_fatal {
        true => State::Failed,
        false => State::Warning,
    };
    let name = match by {
        LimitedBy::Pool => return small_pool(state, *allowed, *needed),
        LimitedBy::FreeInPool => return few_free(*allowed, *needed),
        LimitedBy::Role(role) => format!("CONNECTION LIMIT of the role {role}"),
        LimitedBy::Database(database) => format!("CONNECTION LIMIT of the database {database}"),
        LimitedBy::Server => "max_connections of the server".to_owned(),
    };
    let opens = format!("`serve` opens up to {needed} connections");
    let found = match is_fatal {
        true => format!("{name} is {allowed}; {opens}, and works with {least} or more"),
        false => format!("{name} is {allowed}; {opens}"),
    };
    let remedy = match by {
        LimitedBy::Role(role) if is_fatal => raise("ROLE", role, *needed),
        LimitedBy::Database(database) if is_fatal => raise("DATABASE", database, *needed),
        _ => remedy::MORE_CONNECTIONS.to_owned(),
    };
    bad("database", state, found, remedy)
}

/// A pooler in session mode that has fewer sessions than `serve` opens: what listens or works last waits for one.
fn small_pool(state: State, all: i64, needed: i64) -> Line {
    bad(
        "pooler",
        state,
        format!(
            "the pooler, in session mode, has at most {all} sessions for this role and database; `serve` opens up to \
             {needed} connections with a session each, and what gets none waits without an error at first"
        ),
        format!(
            "let the pooler have {needed} connections to the server for each replica (PgBouncer: raise \
             default_pool_size, or pool_size of the database), or lower database.max_connections"
        ),
    )
}

/// A pooler in session mode that has few connections free, which does not say how many it has.
fn few_free(free: i64, needed: i64) -> Line {
    bad(
        "pooler",
        State::Warning,
        format!(
            "behind the pooler, in session mode, {free} connections are free now; `serve` opens up to {needed} connections"
        ),
        format!(
            "if `serve` does not run yet, let the pooler have {needed} connections to the server for each replica \
             (PgBouncer: raise default_pool_size, or pool_size of the database), or lower database.max_connections"
        ),
    )
}

/// Allows one replica. `name`: quoted as an identifier.
fn raise(kind: &str, name: &str, needed: i64) -> String {
    format!(
        "allow {needed} connections for each replica, as a superuser: ALTER {kind} {name} CONNECTION LIMIT {needed};"
    )
}

/// The line of a database that refuses a connection or a statement.
pub fn refused(failure: &StoreError, settings: &Settings) -> Line {
    let mut line = error("database", failure);
    if let Some(remedy) = of_limit(Some(failure), settings) {
        line.remedy = Some(remedy);
    }
    line
}

/// The remedy where the server names the limit of a role or database in its refusal. It does not say how high that is,
/// so that no number is sure to raise it.
pub fn of_limit(failure: Option<&StoreError>, settings: &Settings) -> Option<String> {
    let is_limit = |failure: &&StoreError| failure.sqlstate() == Some("53300");
    let (kind, name) = limited(&failure.filter(is_limit)?.to_string())?;
    // Besides those of the pool one for the heartbeat, one for listening, and one to look for the primary.
    let listening = i64::from(settings.database.listens());
    let looking = i64::from(settings.database.has_several_hosts());
    let needed = i64::from(settings.database.max_connections) + 1 + listening + looking;
    Some(format!(
        "allow {needed} connections for each replica, and those of whatever else connects, or lift the limit, as a \
         superuser: ALTER {kind} {name} CONNECTION LIMIT -1;"
    ))
}

/// Whether the first limit that is named is of a role or a database, and its name, quoted as an identifier.
fn limited(said: &str) -> Option<(&'static str, String)> {
    let (_, limited) = said.split_once("too many connections for ")?;
    let (limited, _) = limited.split_once("\" (SQLSTATE 53300)")?;
    let (kind, name) = limited.split_once(" \"")?;
    let kind = match kind {
        "role" => "ROLE",
        "database" => "DATABASE",
        _ => return None,
    };
    Some((kind, format!("\"{}\"", name.replace('"', "\"\""))))
}

/// Adds a line for the file of the password, and one for the hosts of the address where there are several.
pub async fn hosts(store: &dyn Store, lines: &mut Vec<Line>) {
    if let Some(read) = store.password_read() {
        let at = output::second(read.at);
        let found = format!("file {} read at {at}", read.path.display());
        lines.push(ok("password", found));
    }
    lines.extend(line_of_hosts(&store.hosts().await));
}

fn line_of_hosts(hosts: &[Host]) -> Option<Line> {
    let used = hosts.iter().find(|host| host.is_used)?;
    let is = |host: &Host| format!("{} {}", host.name, host.role);
    let all: Vec<String> = hosts.iter().map(is).collect();
    let found = format!("{}; in use is {}", all.join(", "), used.name);
    let is_former = |host: &Host| host.role == HostRole::FormerPrimary;
    let primaries = hosts.iter().filter(|host| host.role == HostRole::Primary);
    let is_away = |host: &Host| matches!(host.role, HostRole::Unreachable(_));
    // Poolers may be several ways to one server.
    let remedy = if hosts.iter().any(is_former) {
        "stop (fence) the former primary, which still accepts writes: what is written to it is lost"
    } else if primaries.count() > 1 {
        "unless they lead to the same server, stop (fence) the former primary, then restart the replicas of verifyd \
         that use it: replicas may use different ones, and what is written to the former one is lost"
    } else if hosts.iter().any(is_away) {
        "start the host that is unreachable, or correct it in database.url (DATABASE_URL): it cannot take over"
    } else {
        return Some(ok("hosts", found));
    };
    Some(bad("hosts", State::Warning, found, remedy))
}

const LISTENING: &str = "listening";

/// Whether an INSERT notifies, where notifications arrive. `notifies`: whether that of a check has.
async fn notifying(store: &dyn Store, notifies: Option<bool>) -> Line {
    let (why, remedy) = match (store.trigger_fault().await, notifies) {
        (Ok(None), None | Some(true)) => {
            return ok(
                LISTENING,
                "notifications arrive: a bare INSERT wakes a worker",
            );
        }
        (Ok(None), Some(false)) => (
            "the INSERT of a check, which was rolled back, has sent none".to_owned(),
            "look for what keeps verifyd.notify_queued from it: verifyd.told set for the role or the database, a rule or \
             trigger that changes the INSERT, a condition of the trigger, another function of that name"
                .to_owned(),
        ),
        (Ok(Some(TriggerFault::Missing)), _) => (
            "operation_runs has no trigger that sends them".to_owned(),
            "run `verifyd migrate --enforce` as the table's owner".to_owned(),
        ),
        (Ok(Some(TriggerFault::Disabled { trigger })), _) => (
            format!("the trigger {trigger} of operation_runs, which sends them, is disabled"),
            format!("as the table's owner: ALTER TABLE operation_runs ENABLE TRIGGER {trigger};"),
        ),
        (Ok(Some(TriggerFault::Replica { trigger, by, reset })), _) => (
            format!(
                "the trigger {trigger} of operation_runs, which sends them, does not fire, and neither do guards and \
                 foreign keys, where session_replication_role is replica, as set for {by}"
            ),
            format!("as a superuser: {reset}"),
        ),
        (Err(failure), _) => {
            return Line {
                state: State::Warning,
                ..error(LISTENING, &failure)
            };
        }
    };
    let found =
        format!("notifications arrive, but {why}: bare INSERTs are found by the sweep only");
    bad(LISTENING, State::Warning, found, remedy)
}

/// Whether a bare INSERT wakes a worker. `notifies`: see [`notifying`].
pub async fn listening(store: &dyn Store, settings: &Settings, notifies: Option<bool>) -> Line {
    let part = LISTENING;
    let not_received =
        "notifications do not arrive, so that bare INSERTs are found by the sweep only";
    match store.try_listening().await {
        Ok(Listening::Received) => notifying(store, notifies).await,
        Ok(Listening::Off) => ok(part, "off: bare INSERTs are found by the sweep"),
        Ok(Listening::NotReceived) => bad(
            part,
            State::Warning,
            not_received,
            "set database.listen_url to a connection without a pooler in transaction mode",
        ),
        Ok(Listening::Elsewhere) => bad(
            part,
            State::Warning,
            not_received,
            "let database.listen_url name the server and the database of database.url",
        ),
        Err(failure) => bad(
            part,
            State::Warning,
            format!("bare INSERTs are found by the sweep only: {failure}"),
            remedy::of_listening(
                &failure,
                !settings.database.listen_url.expose_secret().is_empty(),
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_primaries_are_a_warning() {
        let line = |roles: [HostRole; 2]| {
            let hosts = roles.map(|role| Host {
                name: "h:5432".to_owned(),
                is_used: role == HostRole::Primary,
                role,
            });
            line_of_hosts(&hosts).unwrap()
        };
        let away = HostRole::Unreachable("no answer".into());
        for (other, state, advice) in [
            (HostRole::Standby, State::Ok, ""),
            (HostRole::ReadOnly, State::Ok, ""),
            (away, State::Warning, "start the host"),
            (HostRole::Primary, State::Warning, "unless they lead"),
            (HostRole::FormerPrimary, State::Warning, "fence"),
        ] {
            let line = line([HostRole::Primary, other]);
            let remedy = line.remedy.unwrap_or_default();
            assert_eq!(line.state, state, "{}", line.found);
            assert!(remedy.contains(advice), "{advice}: {remedy}");
        }
        assert!(line_of_hosts(&[]).is_none());
    }

    #[test]
    fn a_limit_is_named_once_where_several_hosts_have_it() {
        let of = |name: &str| format!("too many connections for {name} (SQLSTATE 53300)");
        let both = format!(
            "h1 unreachable ({0}); h2 unreachable ({0})",
            of("role \"a\"")
        );
        for (said, wanted) in [
            (both, Some(("ROLE", "\"a\""))),
            (
                of("database \"a\" (b\""),
                Some(("DATABASE", "\"a\"\" (b\"")),
            ),
            (of("table \"a\""), None),
            (
                "sorry, too many clients already (SQLSTATE 53300)".to_owned(),
                None,
            ),
        ] {
            let found = limited(&said);
            let found = found.as_ref().map(|(kind, name)| (*kind, name.as_str()));
            assert_eq!(found, wanted, "{said}");
        }
    }

    #[test]
    fn a_limit_below_which_serve_does_not_work_has_failed() {
        let limit = |by, allowed| {
            line(&ConnectionLimit {
                by,
                allowed,
                least: 4,
                needed: 12,
            })
        };
        let role = LimitedBy::Role("\"App\"".to_owned());
        for (by, allowed, state, advice) in [
            (
                role.clone(),
                3,
                State::Failed,
                ": ALTER ROLE \"App\" CONNECTION LIMIT 12;",
            ),
            (role, 4, State::Warning, "database.max_connections"),
            (
                LimitedBy::Database("app".to_owned()),
                0,
                State::Failed,
                ": ALTER DATABASE app CONNECTION LIMIT 12;",
            ),
            (
                LimitedBy::Server,
                3,
                State::Failed,
                "max_connections of the server",
            ),
            // Others use it, too.
            (
                LimitedBy::FreeInPool,
                0,
                State::Warning,
                "default_pool_size",
            ),
            (
                LimitedBy::Pool,
                3,
                State::Failed,
                "12 connections to the server",
            ),
            (
                LimitedBy::Pool,
                4,
                State::Warning,
                "12 connections to the server",
            ),
        ] {
            let line = limit(by, allowed);
            let remedy = line.remedy.unwrap_or_default();
            assert_eq!(line.state, state, "{remedy}");
            assert!(remedy.contains(advice), "{advice}: {remedy}");
            assert!(
                line.found.contains("up to 12 connections"),
                "{}",
                line.found
            );
        }
    }
}

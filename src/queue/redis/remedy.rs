//! Finds what mends an error of Redis, for logs and commands.

use crate::domain::tls_cause::{REFUSED, TlsCause};
use crate::files::trusted_authorities;

/// Steps by parts of an error's text. The first that fits counts.
type Remedies = &'static [(&'static [&'static str], &'static str)];

/// What mends an error that names a Sentinel, before [`QUEUE`]: its address is written in another way.
const SENTINELS: Remedies = &[
    (
        &["speaks no TLS", "may speak no TLS"],
        "let redis.url (REDIS_URL) begin with redis+sentinel:// if neither Sentinels nor Redis speak TLS; else name \
         the ports where they do",
    ),
    (
        &["may want TLS"],
        "let redis.url (REDIS_URL) begin with rediss+sentinel:// if Sentinels and Redis speak TLS; else look at the \
         server's log",
    ),
    (
        &["without any password"],
        "leave sentinel_password (or, where the primary answers so, the password of Redis) out of redis.url \
         (REDIS_URL): that server has none",
    ),
    // Protected mode, too, speaks of authentication.
    (
        &["WRONGPASS", "NOAUTH", "uthentication failed"],
        "correct sentinel_username and sentinel_password of redis.url (REDIS_URL), or, where the primary answers so, \
         its user and password",
    ),
];

/// What mends an error of Redis or of the way to it.
const QUEUE: Remedies = &[
    // It may name any path.
    (
        &["of the variable SSL_CERT_", "of the authorities that this"],
        trusted_authorities::REMEDY,
    ),
    (
        &["it monitors no primary named"],
        "let redis.url (REDIS_URL) end in the name that Sentinel has for the primary",
    ),
    (
        &["'SENTINEL'", "`SENTINEL`"],
        "let redis.url (REDIS_URL) name the hosts and ports of Sentinels, or begin with redis:// or rediss://",
    ),
    // Its text quotes the command's arguments.
    (
        &["unknown command"],
        "let Redis have that command; if a Sentinel answers so, write redis.url (REDIS_URL) as \
         redis+sentinel://HOST:PORT/NAME, with TLS rediss+sentinel://, where NAME is the one that Sentinel has for the \
         primary",
    ),
    // Its text speaks of much that other remedies are found by.
    (
        &["DENIED"],
        "give Redis a password and redis.url (REDIS_URL) the same, or turn its protected mode off",
    ),
    (
        &["OOM command"],
        "raise maxmemory, or let Redis remove something else",
    ),
    (
        &["READONLY", "read only replica"],
        "let redis.url (REDIS_URL) name the primary",
    ),
    (
        &["MASTERDOWN"],
        "let redis.url (REDIS_URL) name the primary, which this replica does not reach",
    ),
    (
        &["NOREPLICAS"],
        "bring the replicas of Redis back, or lower its min-replicas-to-write",
    ),
    (
        &["MOVED", "CLUSTERDOWN", "CROSSSLOT", "ASK ", "cluster mode"],
        "let redis.url (REDIS_URL) name a server that is no Redis Cluster",
    ),
    (
        &["'select'"],
        "let redis.url (REDIS_URL) name no database (`/2`), or give the user +select",
    ),
    (
        &["DB index"],
        "let redis.url (REDIS_URL) name a database that Redis has, or none",
    ),
    // In the words of Redis 6 and 7.0, of 7.2, and of their scripts.
    (
        &[
            "one of the keys",
            "of the channels",
            "to the channel",
            "access the '",
            "access a ",
        ],
        "let the patterns of keys (~) and channels (&) of the user fit redis.queue, as deploy/redis.acl shows",
    ),
    (
        &[
            "NOPERM",
            "ACL failure",
            "o permissions",
            "user executing the script",
        ],
        "serve needs the rights of verifyd_serve in deploy/redis.acl: give them to the user, or let redis.url \
         (REDIS_URL) name one who has them",
    ),
    (
        &["without any password"],
        "leave the password out of redis.url (REDIS_URL): the server has none",
    ),
    (
        &["WRONGPASS", "NOAUTH", "uthentication"],
        "correct user and password of redis.url (REDIS_URL)",
    ),
    (
        &["MISCONF"],
        "mend what keeps Redis from saving (its log names it)",
    ),
    (&["LOADING"], "wait until Redis has loaded its data"),
    (&["max number of clients"], "raise maxclients of Redis"),
    (
        &["WRONGTYPE"],
        "let nothing else write the keys of redis.queue; serve removes what does not fit",
    ),
    (
        &["NotValidForName", "not valid for name"],
        "let redis.url (REDIS_URL) name the server as its certificate does",
    ),
    (&[TlsCause::Expired.text()], TlsCause::Expired.step()),
    (
        &[TlsCause::NotYetValid.text()],
        TlsCause::NotYetValid.step(),
    ),
    (
        &[TlsCause::AuthorityAsServer.text()],
        TlsCause::AuthorityAsServer.step(),
    ),
    (
        &[TlsCause::ProtocolVersion.text()],
        TlsCause::ProtocolVersion.step(),
    ),
    (
        &["UnknownIssuer", "BadSignature"],
        "add the authority that issued the certificate of Redis to those that this machine trusts (SSL_CERT_FILE \
         names a file of all of them)",
    ),
    (
        &["certificate is not accepted"],
        TlsCause::Certificate.step(),
    ),
    (
        &["certificate_required"],
        "let Redis ask its clients for no certificate (tls-auth-clients no)",
    ),
    (&[REFUSED.text()], REFUSED.step()),
    (
        &["speaks no TLS", "may speak no TLS"],
        "let redis.url (REDIS_URL) begin with redis://, or name the port where the server speaks TLS",
    ),
    (
        &["may want TLS"],
        "let redis.url (REDIS_URL) begin with rediss:// if the server speaks TLS; else look at its log",
    ),
    (
        &["closed the connection"],
        "look at the log of Redis; beyond its maxclients it closes connections over TLS without an answer",
    ),
    (
        &["another protocol"],
        "let redis.url (REDIS_URL) name the host and the port of Redis",
    ),
    (
        &["cannot be resolved"],
        "correct the host of redis.url (REDIS_URL)",
    ),
    (
        &["the server answers"],
        "look up the answer in the documentation of Redis",
    ),
];

/// Returns the remedy by the error of Redis or of the network. No run is lost meanwhile.
pub fn remedy(said: &str) -> String {
    format!("{}; until then workers poll the database", step(said))
}

/// Returns the remedy by the error of one Sentinel, while another leads to the primary.
pub fn sentinel_remedy(said: &str) -> String {
    format!("{}; until then verifyd depends on the others", step(said))
}

fn step(said: &str) -> &'static str {
    let (of_sentinels, otherwise): (Remedies, &'static str) = match said.contains("Sentinel ") {
        true => (
            SENTINELS,
            "check redis.url (REDIS_URL), and that its Sentinels and the primary that they name run",
        ),
        false => (&[], "check redis.url (REDIS_URL) and that Redis runs"),
    };
    let mut all = of_sentinels.iter().chain(QUEUE);
    let known = all.find(|(parts, _)| parts.iter().any(|part| said.contains(part)));
    known.map_or(otherwise, |(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_of_redis_has_a_remedy_of_its_own() {
        for (said, advice) in [
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                "maxmemory",
            ),
            (
                "READONLY You can't write against a read only replica.",
                "the primary",
            ),
            ("MASTERDOWN Link with MASTER is down", "the primary"),
            (
                "NOREPLICAS Not enough good replicas to write.",
                "min-replicas-to-write",
            ),
            ("MOVED 3999 127.0.0.1:6381", "no Redis Cluster"),
            ("CLUSTERDOWN Hash slot not served", "no Redis Cluster"),
            (
                "NOPERM User a has no permissions to run the 'select' command",
                "+select",
            ),
            (
                "NOPERM this user has no permissions to run the 'lrem' command",
                "verifyd_serve",
            ),
            (
                "ERR The user executing the script can't run this command or subcommand",
                "verifyd_serve",
            ),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned in the \
                 command arguments",
                "redis.queue",
            ),
            (
                "ERR The user executing the script can't publish to the channel mentioned",
                "redis.queue",
            ),
            (
                "ERR ACL failure in script: No permissions to access a key",
                "redis.queue",
            ),
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                "user and password",
            ),
            (
                "ERR AUTH <password> called without any password configured",
                "leave the password out",
            ),
            ("ERR DB index is out of range", "a database that Redis has"),
            ("ERR max number of clients reached", "raise maxclients"),
            (
                "DENIED Redis is running in protected mode. 4) Set up an authentication password",
                "protected mode off",
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                "wait until",
            ),
            ("ERR unknown command 'SENTINEL', with args", "of Sentinels"),
            (
                "ERR unknown command 'LREM', with args beginning with: 'q:active' '-1'",
                "redis+sentinel://HOST:PORT/NAME",
            ),
            ("FROBNICATED by a later version", "documentation"),
        ] {
            let remedy = remedy(&format!("the server answers {said}"));
            assert!(remedy.contains(advice), "{said}: {remedy}");
            // Only what a Sentinel answers is about Sentinels.
            let is_of_sentinels = said.contains("unknown command");
            assert_eq!(
                remedy.contains("entinel"),
                is_of_sentinels,
                "{said}: {remedy}"
            );
        }
        for (said, advice) in [
            (
                "\"/certificate\" of the variable SSL_CERT_FILE holds no certificate in PEM",
                "files of PEM",
            ),
            (
                "certificate is not accepted: UnknownIssuer",
                "SSL_CERT_FILE",
            ),
            (
                "certificate is not accepted: invalid peer certificate: BadSignature",
                "SSL_CERT_FILE",
            ),
            (
                "certificate is not accepted: invalid peer certificate: InvalidPurpose",
                "certificate replaced",
            ),
            (
                "certificate is not accepted: certificate not valid for name \"a\"",
                "as its certificate",
            ),
            (
                "Sentinel h:26379: it monitors no primary named \"m\"",
                "the name that Sentinel has",
            ),
            (
                "Sentinel h:26379: no answer within the timeout; the server may speak no TLS there (rediss://)",
                "begin with redis+sentinel://",
            ),
            (
                "Sentinel h:26379: the server speaks no TLS there (rediss://): corrupt message",
                "begin with redis+sentinel://",
            ),
            (
                "Sentinel h:26379: the server closed the connection; it may want TLS (rediss://): broken pipe",
                "begin with rediss+sentinel://",
            ),
            (
                "Sentinel h:26379: the server answers ERR AUTH <password> called without any password configured",
                "leave sentinel_password",
            ),
            (
                "Sentinel h:26379: the server answers WRONGPASS invalid username-password pair or user is disabled.",
                "correct sentinel_username and sentinel_password",
            ),
            (
                "Sentinel h:26379: the server answers DENIED Redis is running in protected mode. 4) Set up an \
                 authentication password",
                "protected mode off",
            ),
            (
                "Sentinel h:26379: no server listens there: Connection refused (os error 111)",
                "that its Sentinels",
            ),
            ("the server may speak no TLS there (rediss://)", "redis://"),
            (
                "the server closed the connection; it may want TLS (rediss://)",
                "rediss://",
            ),
            (
                "the server closed the connection: tls handshake eof",
                "maxclients",
            ),
            (
                "the server speaks another protocol than that of Redis",
                "the port of Redis",
            ),
            (
                "no server listens there: Connection refused (os error 111)",
                "that Redis runs",
            ),
        ] {
            let remedy = remedy(said);
            assert!(remedy.contains(advice), "{said}: {remedy}");
        }
    }
}

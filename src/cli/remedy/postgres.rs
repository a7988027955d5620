//! The remedies for errors of PostgreSQL, and of a pooler before it.

use crate::domain::tls_cause::{REFUSED, TlsCause};
use crate::files::trusted_authorities;
use crate::ports::store_error::Sign;

pub(in crate::cli) const MORE_CONNECTIONS: &str = "allow more connections (max_connections of the server, CONNECTION LIMIT of role and \
     database), lower database.max_connections (each replica takes two more), or use a pooler (docs/guides/deploy.md)";

/// How the error begins of a session that is not had in time.
pub(in crate::cli) const GAVE_NO: &str = "the server or pooler gave no";

pub(in crate::cli) const NO_SESSION: &str = "let the pooler have two connections to the server free (PgBouncer: raise \
     default_pool_size, or pool_size of the database), or raise max_connections of the server, which others use up";

const TRUST_AUTHORITY: &str = "let sslrootcert of database.url (DATABASE_URL) name a file of the authority that \
     issued the server's certificate, in PEM";
const GIVE_CLIENT_CERTIFICATE: &str = "let sslcert and sslkey of database.url (DATABASE_URL) name a certificate that \
     the server accepts, and its key";

pub(super) const CORRECT_OPTIONS: &str =
    "correct `options` of database.url (DATABASE_URL), or PGOPTIONS";

const REACH_SERVER: &str = "check database.url (DATABASE_URL), and that PostgreSQL runs there";

/// unique_violation of a primary key, which PostgreSQL names so.
pub(in crate::cli) const REPEATED_KEY: Sign = ("23505", "_pkey\"");

/// sequence_generator_limit_exceeded.
pub(in crate::cli) const NO_FURTHER_ID: Sign = ("2200H", "");

/// A setting that `options` of the address name, or a policy or trigger: verifyd's statements read no such one.
pub(super) const UNKNOWN_SETTING: Sign = ("", "unrecognized configuration parameter");

/// What mends an error of PostgreSQL or of a pooler before it. The first sign that fits counts.
pub(super) const POSTGRES: &[(Sign, &str)] = &[
    (
        ("", "leaves the port to the variable PGPORT"),
        "check the variable PGPORT and database.url (DATABASE_URL), and that PostgreSQL runs there",
    ),
    (("", "no server listens"), REACH_SERVER),
    (("", "failed to lookup address information"), REACH_SERVER),
    (
        ("25006", ""),
        "connect to the primary (database.url); where pg_is_in_recovery() is false there already, let it write: ALTER ROLE … \
         RESET default_transaction_read_only, or the same of the database (ALTER DATABASE), of both (ALTER ROLE … IN \
         DATABASE …) or of the server (ALTER SYSTEM)",
    ),
    (
        ("", "must be owner of"),
        "run the command as the owner of what is named, or as a member of its role",
    ),
    (
        ("", "row-level security or a trigger"),
        "let a policy admit to the role what verifyd reads and writes: CREATE POLICY … ON the table TO the role USING \
         (true), as the table's owner; if that is so already, let the trigger that keeps the row accept it",
    ),
    (
        ("", "hides every row of verifyd.schema_migrations"),
        "as the table's owner, since only verifyd uses it: ALTER TABLE verifyd.schema_migrations DISABLE ROW LEVEL \
         SECURITY;",
    ),
    (
        ("", "row-level security"),
        "let a policy admit to the role what verifyd reads and writes: CREATE POLICY … ON the table TO the role USING \
         (true), as the table's owner",
    ),
    // Also a role for another command, one that the file does not know, and objects of the application.
    (
        ("42501", ""),
        "connect as the role that deploy/postgres-grants.sql has for this command, and apply the file again as its \
         first lines say; grant the role by hand what the file does not name",
    ),
    (
        ("23502", ""),
        "give the column a default, or let it be NULL: verifyd's own INSERT does not name it \
         (docs/guides/enqueue.md says which columns it does)",
    ),
    // Or a key that the application fills by itself.
    (
        REPEATED_KEY,
        "if the ids of the table begin again, as `verifyd doctor` says then, execute the statement that it prints",
    ),
    (
        ("22001", ""),
        "give the column that is too short the type text; `verifyd doctor` names those that serve writes",
    ),
    (
        ("42P17", ""),
        "correct or drop the policies or rules that lead back to their own table, also through another one",
    ),
    (
        NO_FURTHER_ID,
        "the sequence of the ids gives no further one: raise its MAXVALUE, and make the column a bigint if it is none",
    ),
    (("53100", ""), "make room on the server's disk"),
    (("53300", ""), MORE_CONNECTIONS),
    (("", GAVE_NO), NO_SESSION),
    (
        ("", "statement pooling mode"),
        "let PgBouncer pool in transaction or session mode (pool_mode): verifyd uses transactions",
    ),
    (
        ("", "no more connections allowed"),
        "raise the limit of PgBouncer that is named, or lower database.max_connections (each replica takes two more)",
    ),
    (
        ("", "query_wait_timeout"),
        "let PgBouncer have as many connections to the server as all replicas open, database.max_connections and three \
         more each in session mode (default_pool_size, or pool_size of the database)",
    ),
    (
        ("", "startup parameter"),
        "leave `options` out of database.url and PGOPTIONS unset and set them for the role (ALTER ROLE … SET …), or let \
         PgBouncer drop them (ignore_startup_parameters = options)",
    ),
    (
        ("", "the parameter options holds"),
        "let `options` of database.url (DATABASE_URL), and PGOPTIONS, hold settings only, as options=-c%20NAME%3DVALUE",
    ),
    (
        UNKNOWN_SETTING,
        "as the owner of the table, let the policy or trigger of it that reads the setting do without it for verifyd's \
         role: ALTER POLICY … ON the table USING (true), or TO other roles",
    ),
    (("", "configuration parameter"), CORRECT_OPTIONS),
    (("", "invalid value for parameter"), CORRECT_OPTIONS),
    (
        ("", "the TLS file"),
        "let what is named lead to a file of PEM that this user can read",
    ),
    (
        ("", "of the variable SSL_CERT_"),
        trusted_authorities::REMEDY,
    ),
    (
        ("", "SASLprep"),
        "give the role another password or name; every printable ASCII character can be in it",
    ),
    // Before those of the variable: less than what was asked of TLS is no remedy.
    (
        ("", "server does not support TLS"),
        "turn TLS on in the server (ssl = on)",
    ),
    (
        ("", "to the variable PGSSLMODE"),
        "let both sides agree on TLS: ssl = on in the server and PGSSLMODE=require or stricter, or PGSSLMODE=prefer and a \
         pg_hba.conf that admits the user from here without TLS",
    ),
    (
        ("", "to the variable PGSSLROOTCERT"),
        "let the variable PGSSLROOTCERT name a file of the authority that issued the server's certificate, in PEM",
    ),
    (
        ("", "to the variable PGDATABASE"),
        "create the database, or correct its name in the variable PGDATABASE",
    ),
    (
        ("", "to the variable PGUSER"),
        "correct what is named, or create the role, or let the server admit the user from here: LOGIN of the role, \
         pg_hba.conf",
    ),
    (
        ("", "the variable PG"),
        "correct or unset the variable, or write into database.url (DATABASE_URL) what it stands for",
    ),
    (
        ("", "must be given together"),
        "give both parameters in database.url (DATABASE_URL), or neither",
    ),
    (("", "UnknownIssuer"), TRUST_AUTHORITY),
    // Of another authority with the name of the trusted one, such as one that was made again.
    (("", "certificate: BadSignature"), TRUST_AUTHORITY),
    (
        ("", TlsCause::AuthorityAsServer.text()),
        TlsCause::AuthorityAsServer.step(),
    ),
    (
        ("", "not valid for name"),
        "let database.url (DATABASE_URL) name the server as its certificate does",
    ),
    (("", TlsCause::Expired.text()), TlsCause::Expired.step()),
    (
        ("", TlsCause::NotYetValid.text()),
        TlsCause::NotYetValid.step(),
    ),
    (
        ("", TlsCause::ProtocolVersion.text()),
        TlsCause::ProtocolVersion.step(),
    ),
    (
        ("", "invalid peer certificate"),
        TlsCause::Certificate.step(),
    ),
    (
        ("", "no encryption"),
        "let pg_hba.conf admit the user from here without TLS, or connect with it: ssl = on in the server, and \
         sslmode=require in database.url (DATABASE_URL)",
    ),
    (
        ("", "KeyMismatch"),
        "let sslkey name the key of the certificate that sslcert names",
    ),
    (("", "valid client certificate"), GIVE_CLIENT_CERTIFICATE),
    (("", "alert unknown_ca"), GIVE_CLIENT_CERTIFICATE),
    // One of verifyd may be what it does not accept.
    (
        ("", REFUSED.text()),
        "look at the log of the server or pooler, which says why it refuses TLS",
    ),
    (
        ("28P01", ""),
        "correct user and password of database.url (DATABASE_URL), or database.password_file",
    ),
    (
        ("28000", "does not exist"),
        "create the role, or write a user that the server knows into database.url (DATABASE_URL)",
    ),
    (
        ("28000", ""),
        "let the server admit the user that is named from here (LOGIN of the role, pg_hba.conf), or write another one into \
         database.url (DATABASE_URL)",
    ),
    (
        ("3D000", ""),
        "create the database, or correct its name in database.url (DATABASE_URL)",
    ),
    (
        ("", "accepts writes"),
        "promote a standby, or add the primary to database.url (DATABASE_URL)",
    ),
    (
        ("", "database.password_file:"),
        "let database.password_file name a regular file with nothing but the password; it is read again and again, so it \
         can be no pipe",
    ),
    (
        ("", "database.password_file is set"),
        "leave the password out of the address, or database.password_file empty",
    ),
];

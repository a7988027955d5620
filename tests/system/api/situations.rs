//! Requests, and what every surface that can express one decides: the rows of `surfaces`.

use crate::api::scene::bound;
use verifyd::domain::access::Binding;

/// What a surface makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<Words = String> {
    /// Something new was made: a run, an acknowledgement.
    Made,
    /// What was there is returned, or shown.
    There,
    /// It does not exist, or is out of reach.
    NotFound,
    /// Refused, in words that hold these.
    Refused(Words),
}

/// The decision that a row expects.
pub type Expected = Decision<&'static str>;

const fn refused(words: &'static str) -> Expected {
    Expected::Refused(words)
}

impl Expected {
    pub fn fits(self, found: &Decision) -> bool {
        match (self, found) {
            (Self::Made, Decision::Made)
            | (Self::There, Decision::There)
            | (Self::NotFound, Decision::NotFound) => true,
            (Self::Refused(words), Decision::Refused(said)) => said.contains(words),
            _ => false,
        }
    }
}

/// Whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Everything,
    /// The workspace and the tenant that everything in the row belongs to.
    Own,
    OtherTenant,
    OtherWorkspace,
}

impl Reach {
    pub fn binding(self, tenant: i64) -> Binding {
        match self {
            Self::Everything => Binding::EVERYTHING,
            Self::Own => bound(1, Some(tenant)),
            Self::OtherTenant => bound(1, Some(tenant + 1_000_000)),
            Self::OtherWorkspace => bound(2, None),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Connection {
    Enabled,
    Disabled,
    /// Its row names no module.
    WithoutModule,
    /// Its row holds a status that there is not.
    Unusable,
    /// A check of it is queued.
    Active,
    DisabledAndActive,
    Missing,
}

#[derive(Clone, Copy, Debug)]
pub enum Session {
    OfTheTenant,
    OfNoTenant,
    OfAnotherTenant,
    OfAnotherWorkspace,
    Unreadable,
    Missing,
}

/// A check is started.
#[derive(Clone, Copy)]
pub struct Check {
    pub what: &'static str,
    pub connection: Connection,
    pub module: Option<&'static str>,
    pub session: Option<Session>,
    pub reach: Reach,
    pub expected: Expected,
}

const CHECK: Check = Check {
    what: "an enabled connection",
    connection: Connection::Enabled,
    module: None,
    session: None,
    reach: Reach::Everything,
    expected: Expected::Made,
};

#[rustfmt::skip]
pub const CHECKS: &[Check] = &[
    CHECK,
    Check { what: "a token of the tenant", reach: Reach::Own, ..CHECK },
    Check { what: "a token of another tenant", reach: Reach::OtherTenant, expected: Expected::NotFound, ..CHECK },
    Check { what: "a token of another workspace", reach: Reach::OtherWorkspace, expected: Expected::NotFound, ..CHECK },
    Check { what: "no such connection", connection: Connection::Missing, expected: Expected::NotFound, ..CHECK },
    Check { what: "a disabled connection", connection: Connection::Disabled, expected: refused("it is disabled"), ..CHECK },
    Check { what: "a disabled connection out of reach", connection: Connection::Disabled, reach: Reach::OtherTenant, expected: Expected::NotFound, ..CHECK },
    Check { what: "a connection whose row cannot be used", connection: Connection::Unusable, expected: refused("provider_connections.status"), ..CHECK },
    Check { what: "an active run", connection: Connection::Active, expected: Expected::There, ..CHECK },
    Check { what: "an active run, and a module", connection: Connection::Active, module: Some("intune"), expected: Expected::There, ..CHECK },
    Check { what: "disabled while a run is active", connection: Connection::DisabledAndActive, expected: refused("it is disabled"), ..CHECK },
    Check { what: "a connection without a module", connection: Connection::WithoutModule, ..CHECK },
    Check { what: "a known module", module: Some("intune"), ..CHECK },
    Check { what: "an unknown module", module: Some("teleport"), expected: refused("is not known"), ..CHECK },
    Check { what: "an unknown module, and an active run", connection: Connection::Active, module: Some("teleport"), expected: refused("is not known"), ..CHECK },
    Check { what: "a session of the tenant", session: Some(Session::OfTheTenant), ..CHECK },
    Check { what: "a session of no tenant", session: Some(Session::OfNoTenant), ..CHECK },
    Check { what: "a session of another tenant", session: Some(Session::OfAnotherTenant), expected: refused("is not for this connection"), ..CHECK },
    Check { what: "a session of another workspace", session: Some(Session::OfAnotherWorkspace), expected: refused("is not for this connection"), ..CHECK },
    Check { what: "a session out of reach", session: Some(Session::OfAnotherTenant), reach: Reach::Own, expected: Expected::NotFound, ..CHECK },
    Check { what: "a session whose state cannot be read", session: Some(Session::Unreadable), expected: refused("whose state cannot be read"), ..CHECK },
    Check { what: "no such session", session: Some(Session::Missing), expected: Expected::NotFound, ..CHECK },
    Check { what: "a session for an active run", connection: Connection::Active, session: Some(Session::OfTheTenant), expected: Expected::There, ..CHECK },
];

#[derive(Clone, Copy, Debug)]
pub enum Run {
    Completed,
    Queued,
    WithoutReport,
    OfAnotherVersion,
    Missing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Read,
    Acknowledge,
    AcknowledgeAgain,
    Withdraw,
    WithdrawAgain,
}

/// A run is read, one of its checks acknowledged, or that withdrawn.
#[derive(Clone, Copy)]
pub struct OfRun {
    pub what: &'static str,
    pub run: Run,
    pub doing: Doing,
    pub check_key: &'static str,
    pub reason: &'static str,
    pub reach: Reach,
    pub expected: Expected,
}

pub const FAILED: &str = "permissions.x";
pub const PASSED: &str = "provider.sign_in";

const READ: OfRun = OfRun {
    what: "a run",
    run: Run::Completed,
    doing: Doing::Read,
    check_key: FAILED,
    reason: "it is planned",
    reach: Reach::Everything,
    expected: Expected::There,
};
pub const ACKNOWLEDGE: OfRun = OfRun {
    what: "a failed check",
    doing: Doing::Acknowledge,
    expected: Expected::Made,
    ..READ
};
const WITHDRAW: OfRun = OfRun {
    what: "an acknowledgement",
    doing: Doing::Withdraw,
    ..READ
};

#[rustfmt::skip]
pub const RUNS: &[OfRun] = &[
    READ,
    OfRun { what: "a queued run", run: Run::Queued, ..READ },
    OfRun { what: "a run without a report", run: Run::WithoutReport, ..READ },
    OfRun { what: "a run, by a token of its tenant", reach: Reach::Own, ..READ },
    OfRun { what: "a run of another tenant", reach: Reach::OtherTenant, expected: Expected::NotFound, ..READ },
    OfRun { what: "a run of another workspace", reach: Reach::OtherWorkspace, expected: Expected::NotFound, ..READ },
    OfRun { what: "no such run", run: Run::Missing, expected: Expected::NotFound, ..READ },
    ACKNOWLEDGE,
    OfRun { what: "by a token of the tenant", reach: Reach::Own, ..ACKNOWLEDGE },
    OfRun { what: "of another tenant's run", reach: Reach::OtherTenant, expected: Expected::NotFound, ..ACKNOWLEDGE },
    OfRun { what: "of another workspace's run", reach: Reach::OtherWorkspace, expected: Expected::NotFound, ..ACKNOWLEDGE },
    OfRun { what: "of no such run", run: Run::Missing, expected: Expected::NotFound, ..ACKNOWLEDGE },
    OfRun { what: "of a queued run", run: Run::Queued, expected: refused("only a check of a completed run can be acknowledged"), ..ACKNOWLEDGE },
    OfRun { what: "of a run without a report", run: Run::WithoutReport, expected: refused("has no report that can be read"), ..ACKNOWLEDGE },
    OfRun { what: "of a report of another version", run: Run::OfAnotherVersion, expected: refused("has no report that can be read"), ..ACKNOWLEDGE },
    OfRun { what: "a passed check", check_key: PASSED, expected: refused("checks that are fail or warn: permissions.x"), ..ACKNOWLEDGE },
    OfRun { what: "no such check", check_key: "permissions.y", expected: refused("checks that are fail or warn: permissions.x"), ..ACKNOWLEDGE },
    OfRun { what: "a reason with a control character", reason: "a\u{7}b", expected: refused("reason"), ..ACKNOWLEDGE },
    OfRun { what: "a check that is acknowledged", doing: Doing::AcknowledgeAgain, expected: Expected::There, ..ACKNOWLEDGE },
    WITHDRAW,
    OfRun { what: "one of the tenant", reach: Reach::Own, ..WITHDRAW },
    OfRun { what: "one of another tenant", reach: Reach::OtherTenant, expected: Expected::NotFound, ..WITHDRAW },
    OfRun { what: "one of another workspace", reach: Reach::OtherWorkspace, expected: Expected::NotFound, ..WITHDRAW },
    OfRun { what: "one that is withdrawn", doing: Doing::WithdrawAgain, ..WITHDRAW },
];

//! What a tenant is like, as data.

use crate::app_roles::{ALL_READ, AppRole};
use crate::calls::Endpoint;
use crate::login::error::EntraError;

/// A tenant, from the view of one app in it.
pub(crate) struct Behaviour {
    /// Entra refuses the sign-in with one of these; the instance chooses. Empty: it does not.
    pub refusals: &'static [&'static EntraError],
    /// What is shown in place of answers.
    pub fault: Option<Fault>,
    /// The Graph roles that are assigned to the app.
    pub granted: &'static [AppRole],
    /// The Graph roles that its tokens name: the same, except while a change is on its way.
    pub token_roles: &'static [AppRole],
    /// Assignments to another API that stand before Graph's in the list.
    pub other_grants: usize,
    pub token_form: TokenForm,
    /// `/organization` tells of another directory.
    pub another_directory: bool,
    /// `accountEnabled` of the app's service principal.
    pub enabled: bool,
    pub intune: Intune,
    /// How the app is registered.
    pub registration: Registration,
    /// Every answer takes `SimulatorOptions::slow_answer` longer.
    pub slow: bool,
}

impl Behaviour {
    /// Nothing is wrong.
    pub(crate) const HEALTHY: Self = Self {
        refusals: &[],
        fault: None,
        granted: ALL_READ,
        token_roles: ALL_READ,
        other_grants: 2,
        token_form: TokenForm::Jwt,
        another_directory: false,
        enabled: true,
        intune: Intune::State("active"),
        registration: Registration::OWN,
        slow: false,
    };

    /// Entra refuses the sign-in.
    pub(crate) const fn refused(refusals: &'static [&'static EntraError]) -> Self {
        Self {
            refusals,
            ..Self::HEALTHY
        }
    }

    /// This comes in place of so many answers to one tenant.
    pub(crate) const fn faulty(at: At, what: What, times: u32) -> Self {
        Self {
            fault: Some(Fault { at, what, times }),
            ..Self::HEALTHY
        }
    }

    /// This comes in place of every answer.
    pub(crate) const fn always(at: At, what: What) -> Self {
        Self::faulty(at, what, u32::MAX)
    }

    /// This comes in place of one answer to each tenant.
    pub(crate) const fn once(at: At, what: What) -> Self {
        Self::faulty(at, what, 1)
    }

    /// These roles are granted, and the token names them.
    pub(crate) const fn granted(roles: &'static [AppRole]) -> Self {
        Self {
            granted: roles,
            token_roles: roles,
            ..Self::HEALTHY
        }
    }
}

/// How an app is registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registration {
    pub owner: Owner,
    /// Application permissions on Graph that it asks for.
    pub roles: &'static [AppRole],
    /// Delegated permissions on Graph that it asks for.
    pub scopes: &'static [AppRole],
    /// Delegated permissions on Graph that are granted to it.
    pub delegated: &'static [AppRole],
    pub secrets: &'static [Secret],
}

impl Registration {
    /// In the tenant itself, with everything that is granted in healthy tenants, and a secret that lasts.
    pub(crate) const OWN: Self = Self {
        owner: Owner::Itself,
        roles: ALL_READ,
        scopes: &[],
        delegated: &[],
        secrets: &[Secret {
            hint: "sim",
            ends_in_days: 400,
        }],
    };

    /// In a directory that nobody can sign in to.
    pub(crate) const UNREADABLE: Self = Self {
        owner: Owner::Unknown,
        ..Self::OWN
    };
}

/// Which directory owns an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Itself,
    /// One that is not simulated.
    Unknown,
    /// The tenant of the scenario with this number and of the same instance.
    TenantOf(u16),
}

/// A client secret of a registration, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Secret {
    /// Its first three characters.
    pub hint: &'static str,
    /// At the beginning of that day, in UTC, counted from the day of the call.
    pub ends_in_days: i64,
}

/// What access tokens look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenForm {
    /// A JWT that the caller may look into.
    Jwt,
    /// Something that only the simulator understands: Graph promises no more.
    Opaque,
    /// A JWT of an app that has no service principal: neither `oid` nor `roles`.
    WithoutServicePrincipal,
    /// A JWT whose `tid` is not the tenant that was asked; Graph knows nobody by it.
    AnotherTenant,
}

/// The tenant's Intune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intune {
    /// `subscriptionState`
    State(&'static str),
    /// Every call is refused.
    NotLicensed,
}

/// Something that comes in place of an answer.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub at: At,
    pub what: What,
    /// How often it is shown to one tenant.
    pub times: u32,
}

/// Which calls a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Token,
    Graph,
    Only(Endpoint),
}

impl At {
    pub(crate) fn covers(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Token => endpoint == Endpoint::Token,
            Self::Graph => endpoint.is_graph(),
            Self::Only(only) => endpoint == only,
        }
    }
}

/// What comes in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// 429.
    Throttled(RetryAfter),
    /// This status, with an error in the service's own shape.
    Unavailable(u16),
    /// This status, with an HTML page as gateways and networks make them.
    Page(u16),
    /// No answer, for `SimulatorOptions::stall`.
    Stall,
    /// Status and headers, then half a body, then nothing, for as long.
    StallInBody,
    /// 200 with JSON that ends in the middle.
    Truncated,
    /// 200 with arrays in arrays, 20 000 deep.
    Deep,
    /// 200 with JSON whose members are of other types than promised.
    WrongShape,
    /// 200 with 64 MiB of JSON; with a `Content-Length` or without.
    Huge { declared: bool },
    /// This redirecting status, to the trap.
    Redirect(u16),
    /// The list of grants has pages as they should not be.
    Pages(Pages),
    /// Graph: 404, there is no such object.
    NotFound,
    /// Intune: 403, although the token's roles would open the call.
    Forbidden,
    /// Graph: an error of this status, code and message.
    Error(u16, &'static str, &'static str),
    /// The same as Intune reports it: with JSON in the message.
    IntuneError(u16, &'static str, &'static str),
    /// Graph: 401, a token with other claims is needed.
    ClaimsChallenge,
}

/// What is wrong with the pages of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// The next link leads to the trap.
    Foreign,
    /// There is always another page.
    Endless,
    /// The next link leads to the same page.
    Circular,
}

/// What `Retry-After` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    /// So many seconds.
    Seconds(u64),
    /// `SimulatorOptions::long_retry_after`, in seconds.
    Long,
    /// The same, as a date.
    LongDate,
    /// The header is missing.
    Missing,
}

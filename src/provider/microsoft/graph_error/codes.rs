//! The tables of codes, words in messages, and statuses.
//!
//! Sources: Microsoft Graph's pages on errors and on resolving authorisation errors, the reference of the
//! directory's error codes, and answers that public threads quote.

use super::body::ErrorBody;
use crate::domain::Reason;
use crate::provider::microsoft::fault::Retry;

pub(super) const NO: Retry = Retry::Never;
pub(super) const WAIT: Retry = Retry::Backoff(None);

/// Words of a message about a request without a token.
pub(super) const NO_TOKEN: &[&[&str]] = &[
    &["token", "empty"],
    &["token", "missing or malformed"],
    &["token", "is missing"],
    &["missing", "authorization header"],
    &["authorization header", "not present"],
];

/// The token in a link to the next page is too old: the list has to be read from its beginning.
pub(in super::super) const EXPIRED_PAGE: &str = "Directory_ExpiredPageToken";

/// Specific codes, compared without regard to case, in which services behind Graph differ.
pub(super) static CODES: &[(&str, Reason, Retry)] = &[
    (
        "Authorization_IdentityNotFound",
        Reason::ServicePrincipalMissing,
        NO,
    ),
    ("Authorization_IdentityDisabled", Reason::AppDisabled, NO),
    ("InteractionRequired", Reason::ConditionalAccessBlocked, NO),
    ("insufficient_claims", Reason::ConditionalAccessBlocked, NO),
    ("Authentication_ExpiredToken", Reason::TokenTimeInvalid, NO),
    (
        "Authentication_MissingOrMalformed",
        Reason::TokenRejected,
        NO,
    ),
    ("Authentication_Unauthorized", Reason::TokenRejected, NO),
    (
        "Authentication_UnsupportedTokenType",
        Reason::TokenRejected,
        NO,
    ),
    ("invalid_token", Reason::TokenRejected, NO),
    (
        "Authentication_RequestFromNonPremiumTenantOrB2CTenant",
        Reason::EntraNotLicensed,
        NO,
    ),
    ("UnauthorizedTenant", Reason::ServiceNotProvisioned, NO),
    ("TenantNotProvisioned", Reason::ServiceNotProvisioned, NO),
    (
        "OrganizationFromTenantGuidNotFound",
        Reason::ServiceNotProvisioned,
        NO,
    ),
    ("UnknownTenantId", Reason::ServiceNotProvisioned, NO),
    (
        "MailboxNotEnabledForRESTAPI",
        Reason::ServiceNotProvisioned,
        NO,
    ),
    ("ServiceDisabled", Reason::ServiceDisabled, NO),
    ("Directory_CompanyNotFound", Reason::TenantUnavailable, NO),
    ("Directory_ObjectNotFound", Reason::ResourceNotFound, NO),
    ("Request_ResourceNotFound", Reason::ResourceNotFound, NO),
    ("ResourceNotFound", Reason::ResourceNotFound, NO),
    ("itemNotFound", Reason::ResourceNotFound, NO),
    ("Directory_QuotaExceeded", Reason::QuotaExceeded, NO),
    ("quotaLimitReached", Reason::QuotaExceeded, NO),
    (
        "Directory_ResultSizeLimitExceeded",
        Reason::ResponseTooLarge,
        NO,
    ),
    (EXPIRED_PAGE, Reason::GraphUnknown, NO),
    ("TooManyRequests", Reason::Throttled, WAIT),
    ("activityLimitReached", Reason::Throttled, WAIT),
    ("Request_ThrottledTemporarily", Reason::Throttled, WAIT),
    ("Request_ThrottledPermanently", Reason::Throttled, WAIT),
    ("serviceNotAvailable", Reason::ProviderUnavailable, WAIT),
    ("ServiceUnavailable", Reason::ProviderUnavailable, WAIT),
    (
        "Service_ServiceUnavailable",
        Reason::ProviderUnavailable,
        WAIT,
    ),
    (
        "Service_InternalServerError",
        Reason::ProviderUnavailable,
        WAIT,
    ),
    ("GatewayTimeout", Reason::ProviderUnavailable, WAIT),
    (
        "Directory_ConcurrencyViolation",
        Reason::ProviderUnavailable,
        WAIT,
    ),
    (
        "Directory_ReplicaUnavailable",
        Reason::ProviderUnavailable,
        WAIT,
    ),
    (
        "Directory_BindingRedirection",
        Reason::ProviderUnavailable,
        WAIT,
    ),
    (
        "Directory_BindingRedirectionInternalServerError",
        Reason::ProviderUnavailable,
        WAIT,
    ),
    ("Request_BadRequest", Reason::RequestMalformed, NO),
    ("Request_UnsupportedQuery", Reason::RequestMalformed, NO),
    ("Request_InvalidRequestUrl", Reason::RequestMalformed, NO),
    (
        "Request_DataContractVersionMissing",
        Reason::RequestMalformed,
        NO,
    ),
    (
        "Request_InvalidDataContractVersion",
        Reason::RequestMalformed,
        NO,
    ),
    (
        "Headers_DataContractVersionMissing",
        Reason::RequestMalformed,
        NO,
    ),
    ("Headers_HeaderNotSupported", Reason::RequestMalformed, NO),
    ("invalidRequest", Reason::RequestMalformed, NO),
    ("notSupported", Reason::RequestMalformed, NO),
];

/// Unspecific codes: messages take precedence.
pub(super) static VAGUE: &[(&str, Reason, Retry)] = &[
    ("Authorization_RequestDenied", Reason::PermissionDenied, NO),
    ("accessDenied", Reason::PermissionDenied, NO),
    ("Forbidden", Reason::PermissionDenied, NO),
    ("InvalidAuthenticationToken", Reason::TokenRejected, NO),
    ("unauthenticated", Reason::TokenRejected, NO),
    ("Unauthorized", Reason::TokenRejected, NO),
];

/// Words of one message or code, in lowercase, and their meaning. The first matching line counts. Only
/// answers below 500 are compared.
pub(super) static WORDS: &[(&[&str], Reason, Retry)] = &[
    // Not offered by a cloud.
    (
        &["resource not found for the segment"],
        Reason::ResourceNotFound,
        NO,
    ),
    (
        &["identity of the calling application could not be established"],
        Reason::ServicePrincipalMissing,
        NO,
    ),
    (
        &["calling application", "disabled"],
        Reason::AppDisabled,
        NO,
    ),
    // A token that was issued before is revoked: a new one decides.
    (
        &["tokenissuedbeforerevocationtimestamp"],
        Reason::TokenRejected,
        NO,
    ),
    (
        &["conditional access"],
        Reason::ConditionalAccessBlocked,
        NO,
    ),
    (
        &["interactionrequired"],
        Reason::ConditionalAccessBlocked,
        NO,
    ),
    (
        &["interaction required"],
        Reason::ConditionalAccessBlocked,
        NO,
    ),
    (
        &["continuous access evaluation"],
        Reason::ConditionalAccessBlocked,
        NO,
    ),
    (
        &["insufficient_claims"],
        Reason::ConditionalAccessBlocked,
        NO,
    ),
    (&["page token", "expired"], Reason::GraphUnknown, NO),
    (
        &["lifetime validation failed"],
        Reason::TokenTimeInvalid,
        NO,
    ),
    (&["token", "is expired"], Reason::TokenTimeInvalid, NO),
    (&["token", "has expired"], Reason::TokenTimeInvalid, NO),
    (&["token", "not yet valid"], Reason::TokenTimeInvalid, NO),
    (&["invalid audience"], Reason::WrongCloud, NO),
    (&["audience", "invalid"], Reason::WrongCloud, NO),
    (&["audience validation failed"], Reason::WrongCloud, NO),
    (&["invalid issuer"], Reason::WrongCloud, NO),
    (&["issuer validation failed"], Reason::WrongCloud, NO),
    // Licences. The first form is all that Intune answers for a tenant without one.
    (
        &["not applicable to target tenant"],
        Reason::IntuneNotLicensed,
        NO,
    ),
    (&["intune", "licen"], Reason::IntuneNotLicensed, NO),
    (
        &["intune", "subscription", "expired"],
        Reason::IntuneInactive,
        NO,
    ),
    (
        &["intune", "subscription", "suspended"],
        Reason::IntuneInactive,
        NO,
    ),
    (
        &["intune", "subscription", "disabled"],
        Reason::IntuneInactive,
        NO,
    ),
    (
        &["intune", "subscription", "inactive"],
        Reason::IntuneInactive,
        NO,
    ),
    (
        &["intune", "subscription", "not active"],
        Reason::IntuneInactive,
        NO,
    ),
    (&["intune", "subscription"], Reason::IntuneNotLicensed, NO),
    (&["premium", "licen"], Reason::EntraNotLicensed, NO),
    (&["entra id p", "licen"], Reason::EntraNotLicensed, NO),
    (&["not have", "licen"], Reason::ServiceNotLicensed, NO),
    (&["doesn't have", "licen"], Reason::ServiceNotLicensed, NO),
    (&["not licen"], Reason::ServiceNotLicensed, NO),
    (&["notlicen"], Reason::ServiceNotLicensed, NO),
    (&["no valid licen"], Reason::ServiceNotLicensed, NO),
    (&["unlicensed"], Reason::ServiceNotLicensed, NO),
    (&["license required"], Reason::ServiceNotLicensed, NO),
    (&["licenserequired"], Reason::ServiceNotLicensed, NO),
    (
        &["not have", "subscription"],
        Reason::ServiceNotLicensed,
        NO,
    ),
    (&["no active subscription"], Reason::ServiceNotLicensed, NO),
    (&["subscription required"], Reason::ServiceNotLicensed, NO),
    (&["requires", "licen"], Reason::ServiceNotLicensed, NO),
    (&["missing", "licen"], Reason::ServiceNotLicensed, NO),
    // Not set up.
    (&["mdm authority"], Reason::ServiceNotProvisioned, NO),
    (&["mdmauthority"], Reason::ServiceNotProvisioned, NO),
    (
        &["mobile device management authority"],
        Reason::ServiceNotProvisioned,
        NO,
    ),
    (&["not provisioned"], Reason::ServiceNotProvisioned, NO),
    (&["notprovisioned"], Reason::ServiceNotProvisioned, NO),
    (&["not been provisioned"], Reason::ServiceNotProvisioned, NO),
    (&["n't provisioned"], Reason::ServiceNotProvisioned, NO),
    (&["n't been provisioned"], Reason::ServiceNotProvisioned, NO),
    (&["not onboarded"], Reason::ServiceNotProvisioned, NO),
    (&["not been onboarded"], Reason::ServiceNotProvisioned, NO),
    (
        &["tenant for tenant guid", "does not exist"],
        Reason::ServiceNotProvisioned,
        NO,
    ),
    (
        &["not recognize this tenant"],
        Reason::ServiceNotProvisioned,
        NO,
    ),
    // The tenant as a whole.
    (&["tenant is disabled"], Reason::TenantUnavailable, NO),
    (&["tenant has been disabled"], Reason::TenantUnavailable, NO),
    (&["tenant is blocked"], Reason::TenantUnavailable, NO),
    (&["tenant has been blocked"], Reason::TenantUnavailable, NO),
    (&["tenant", "suspended"], Reason::TenantUnavailable, NO),
    // Switched off.
    (&["service", "is disabled"], Reason::ServiceDisabled, NO),
    (&["service", "been disabled"], Reason::ServiceDisabled, NO),
    (&["service", "not enabled"], Reason::ServiceDisabled, NO),
    (&["disabled for", "tenant"], Reason::ServiceDisabled, NO),
    (&["quota", "exceeded"], Reason::QuotaExceeded, NO),
    (&["too many requests"], Reason::Throttled, WAIT),
    (&["throttled"], Reason::Throttled, WAIT),
    // Queries.
    (&["invalid filter"], Reason::RequestMalformed, NO),
    (&["unsupported", "query"], Reason::RequestMalformed, NO),
    (&["query option"], Reason::RequestMalformed, NO),
    (&["could not find a property"], Reason::RequestMalformed, NO),
    (&["not found for the segment"], Reason::RequestMalformed, NO),
    (&["syntax error"], Reason::RequestMalformed, NO),
];

/// Returns the meaning of the codes: the innermost known one is the most exact.
pub(super) fn by_code(
    table: &[(&str, Reason, Retry)],
    body: &ErrorBody,
) -> Option<(Reason, Retry)> {
    body.codes.iter().rev().find_map(|code| {
        table
            .iter()
            .find(|(name, ..)| name.eq_ignore_ascii_case(code))
            .map(|(_, reason, retry)| (*reason, *retry))
    })
}

/// Returns the meaning of the messages.
pub(super) fn by_words(body: &ErrorBody) -> Option<(Reason, Retry)> {
    WORDS
        .iter()
        .find(|(words, ..)| body.says(words))
        .map(|(_, reason, retry)| (*reason, *retry))
}

/// Returns the meaning of the status, for an answer of Graph or of another server.
pub(super) fn by_status(status: u16, is_graph: bool) -> (Reason, Retry) {
    match status {
        // That of a proxy is body by its challenge or page before this.
        401 => (Reason::TokenRejected, NO),
        429 | 509 => (Reason::Throttled, WAIT),
        // A proxy requires credentials, a network requires a login, or a firewall of Azure denies the call.
        407 | 470 | 511 => (Reason::ProxyRefused, NO),
        501 if is_graph => (Reason::ResourceNotFound, NO),
        408 => (Reason::ProviderTimeout, WAIT),
        425 | 500.. => (Reason::ProviderUnavailable, WAIT),
        // Not Graph's own answer: it always has an error object.
        _ if !is_graph => (Reason::ResponseInvalid, NO),
        402 => (Reason::ServiceNotLicensed, NO),
        403 => (Reason::PermissionDenied, NO),
        404 | 410 => (Reason::ResourceNotFound, NO),
        // Another client is changing the object.
        409 | 423 => (Reason::ProviderUnavailable, WAIT),
        405 | 406 | 411..=416 | 422 | 428 | 431 => (Reason::RequestMalformed, NO),
        451 => (Reason::TenantUnavailable, NO),
        _ => (Reason::GraphUnknown, NO),
    }
}

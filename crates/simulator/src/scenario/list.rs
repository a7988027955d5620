//! Every scenario. `crates/simulator/README.md` lists them.

use super::Entry;
use super::behaviour::{
    At, Behaviour, Intune, Owner, Pages, Registration, RetryAfter, Secret, TokenForm, What,
};
use super::expected::{
    BLOCKED, CONDITIONAL_ACCESS, HEALTH_CHECK, INTUNE, NEEDS_ATTENTION, exhausted, failed,
    failed_module, ready, succeeded,
};
use crate::app_roles as role;
use crate::calls::Endpoint;
use crate::login::error as aadsts;

/// What `conditional_access` needs but for the one that it cannot do without.
const WITHOUT_POLICY: &[role::AppRole] = &[
    role::ORGANIZATION_READ,
    role::DIRECTORY_READ,
    role::APPLICATION_READ,
    role::CONFIGURATION_READ,
    role::APPS_READ,
    role::MANAGED_DEVICES_READ,
    role::RBAC_READ,
    role::SERVICE_CONFIG_READ,
    role::GROUP_READ,
    role::USER_READ,
    role::ROLE_MANAGEMENT_READ,
];

macro_rules! scenarios {
    ($(
        $variant:ident = $number:literal, $name:literal, $description:literal,
        $expectation:expr, $behaviour:expr;
    )+) => {
        /// A scenario: what a tenant is like, and what a check of it must end in.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Scenario {
            $(#[doc = $description] $variant),+
        }

        impl Scenario {
            /// Every scenario there is, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub(super) fn entry(self) -> &'static Entry {
                match self {
                    $(Self::$variant => {
                        static ENTRY: Entry = Entry {
                            number: $number,
                            name: $name,
                            description: $description,
                            expectation: $expectation,
                            behaviour: $behaviour,
                        };
                        &ENTRY
                    })+
                }
            }
        }
    };
}

scenarios! {
    // Nothing is wrong in the end.
    Healthy = 1, "healthy", "Every permission that only reads is granted.",
        ready(HEALTH_CHECK), Behaviour::HEALTHY;
    HealthyIntune = 2, "healthy_intune", "The same, with an active Intune.",
        ready(INTUNE), Behaviour::HEALTHY;
    HealthyReadWrite = 3, "healthy_read_write",
        "Writing permissions are granted where there are any; they include the reading ones.",
        ready(INTUNE), Behaviour::granted(role::READ_WRITE);
    HealthyManyGrants = 4, "healthy_many_grants",
        "The app has 250 grants to another API, listed before Graph's on several pages.",
        ready(INTUNE), Behaviour { other_grants: 250, ..Behaviour::HEALTHY };
    HealthyOpaqueToken = 5, "healthy_opaque_token",
        "The access tokens are no JWTs, so only Graph can tell what is granted.",
        ready(HEALTH_CHECK), Behaviour { token_form: TokenForm::Opaque, ..Behaviour::HEALTHY };
    ThrottledBriefly = 6, "throttled_briefly",
        "Graph answers 429 with a Retry-After of one second, once.",
        ready(HEALTH_CHECK),
        Behaviour::once(At::Graph, What::Throttled(RetryAfter::Seconds(1)));
    ThrottledBrieflyWithoutHint = 7, "throttled_briefly_without_hint",
        "Graph answers 429 without a Retry-After, once.",
        ready(HEALTH_CHECK),
        Behaviour::once(At::Graph, What::Throttled(RetryAfter::Missing));
    ThrottledBrieflySignIn = 8, "throttled_briefly_sign_in",
        "The token endpoint answers 429 with a Retry-After of one second, once.",
        ready(HEALTH_CHECK),
        Behaviour::once(At::Token, What::Throttled(RetryAfter::Seconds(1)));
    Flaky = 9, "flaky", "Graph answers 503, once.",
        ready(HEALTH_CHECK), Behaviour::once(At::Graph, What::Unavailable(503));
    FlakySignIn = 10, "flaky_sign_in", "The token endpoint answers 503, once.",
        ready(HEALTH_CHECK), Behaviour::once(At::Token, What::Unavailable(503));
    Slow = 11, "slow", "Every answer takes some hundred milliseconds.",
        ready(HEALTH_CHECK), Behaviour { slow: true, ..Behaviour::HEALTHY };
    HealthyAfterConsent = 12, "healthy_after_consent",
        "An administrator has consented a moment ago: the service principal is found by the third look-up.",
        ready(HEALTH_CHECK),
        Behaviour::faulty(At::Only(Endpoint::ServicePrincipalByAppId), What::NotFound, 2);
    HealthyNewClaims = 13, "healthy_new_claims",
        "Continuous access evaluation rejects a token once, and accepts the next one.",
        ready(HEALTH_CHECK),
        Behaviour::once(At::Only(Endpoint::Organization), What::ClaimsChallenge);

    // Entra refuses the sign-in.
    SecretInvalid = 101, "secret_invalid", "The app's secret is not the one that is sent.",
        failed(&["secret_invalid"]),
        Behaviour::refused(&[
            &aadsts::SECRET_INVALID,
            &aadsts::CREDENTIALS_INVALID,
            &aadsts::SIGNATURE_INVALID,
        ]);
    SecretExpired = 102, "secret_expired", "The app's secret has expired.",
        failed(&["secret_expired"]), Behaviour::refused(&[&aadsts::SECRET_EXPIRED]);
    CredentialNotAccepted = 103, "credential_not_accepted",
        "Entra finds no credential in the request that the app may use.",
        failed(&["credential_not_accepted"]), Behaviour::refused(&[&aadsts::CREDENTIAL_ABSENT]);
    AppIsPublicClient = 104, "app_is_public_client", "The app is registered as a public client.",
        failed(&["app_is_public_client"]), Behaviour::refused(&[&aadsts::PUBLIC_CLIENT]);
    AppNotFound = 105, "app_not_found", "The tenant does not know the app.",
        failed(&["app_not_found"]),
        Behaviour::refused(&[&aadsts::APP_NOT_IN_TENANT, &aadsts::APP_NOT_FOUND]);
    ServicePrincipalMissingSignIn = 106, "service_principal_missing_sign_in",
        "Entra itself notices that the app has no service principal.",
        failed(&["service_principal_missing"]),
        Behaviour::refused(&[&aadsts::NO_SERVICE_PRINCIPAL]);
    AppDisabled = 107, "app_disabled", "The enterprise application is disabled.",
        failed(&["app_disabled"]),
        Behaviour::refused(&[&aadsts::APP_DISABLED, &aadsts::APP_DISABLED_FOR_TENANT]);
    ConsentMissing = 108, "consent_missing", "No administrator has consented.",
        failed(&["consent_missing"]),
        Behaviour::refused(&[&aadsts::CONSENT_MISSING, &aadsts::ADMIN_CONSENT_MISSING]);
    AppPermissionsMisconfigured = 109, "app_permissions_misconfigured",
        "The registration's permissions do not cover Graph.",
        failed(&["app_permissions_misconfigured"]),
        Behaviour::refused(&[
            &aadsts::APP_MISCONFIGURED,
            &aadsts::RESOURCE_NOT_LISTED,
            &aadsts::PERMISSIONS_MISCONFIGURED,
        ]);
    ResourceUnavailable = 110, "resource_unavailable", "The tenant has no Microsoft Graph.",
        failed(&["resource_unavailable"]),
        Behaviour::refused(&[&aadsts::RESOURCE_NOT_FOUND, &aadsts::RESOURCE_NOT_SUBSCRIBED]);
    TenantNotFound = 111, "tenant_not_found", "There is no such tenant.",
        failed(&["tenant_not_found"]), Behaviour::refused(&[&aadsts::TENANT_NOT_FOUND]);
    TenantIdMalformed = 112, "tenant_id_malformed", "Entra does not take the tenant id for one.",
        failed(&["tenant_id_malformed"]), Behaviour::refused(&[&aadsts::TENANT_ID_MALFORMED]);
    TenantUnavailable = 113, "tenant_unavailable", "The tenant is suspended.",
        failed(&["tenant_unavailable"]), Behaviour::refused(&[&aadsts::TENANT_UNAVAILABLE]);
    WrongCloud = 114, "wrong_cloud", "The tenant lives in another national cloud.",
        failed(&["wrong_cloud"]),
        Behaviour::refused(&[
            &aadsts::OTHER_CLOUD,
            &aadsts::OTHER_CLOUD_REQUEST,
            &aadsts::OTHER_CLOUD_APP,
        ]);
    CertificateNotRegistered = 115, "certificate_not_registered",
        "The app does not know the certificate.",
        failed(&["certificate_not_registered"]),
        Behaviour::refused(&[&aadsts::KEY_NOT_FOUND]);
    CertificateExpired = 116, "certificate_expired", "The app's certificate has expired.",
        failed(&["certificate_expired"]), Behaviour::refused(&[&aadsts::KEY_EXPIRED]);
    CertificateSubjectRejected = 117, "certificate_subject_rejected",
        "The app trusts only certain subject names, and not this one.",
        failed(&["certificate_subject_rejected"]),
        Behaviour::refused(&[&aadsts::CERTIFICATE_SUBJECT]);
    AssertionTimeInvalid = 118, "assertion_time_invalid",
        "Entra finds the assertion too old or too early.",
        failed(&["assertion_time_invalid"]), Behaviour::refused(&[&aadsts::ASSERTION_TIME]);
    RequestMalformed = 119, "request_malformed", "Entra does not understand the request.",
        failed(&["request_malformed"]),
        Behaviour::refused(&[
            &aadsts::ASSERTION_HEADER,
            &aadsts::SCOPE_INVALID,
            &aadsts::SCOPE_EMPTY,
            &aadsts::PARAMETER_ABSENT,
            &aadsts::FIELD_ABSENT,
        ]);
    FederationMismatch = 120, "federation_mismatch",
        "The app's federated credential names another issuer or subject.",
        failed(&["federation_mismatch"]),
        Behaviour::refused(&[
            &aadsts::FEDERATION_NO_MATCH,
            &aadsts::FEDERATION_ISSUER,
            &aadsts::FEDERATION_SUBJECT,
        ]);
    FederationNotConfigured = 121, "federation_not_configured",
        "The app has no federated credential.",
        failed(&["federation_not_configured"]),
        Behaviour::refused(&[&aadsts::FEDERATION_ABSENT]);
    FederationBlocked = 122, "federation_blocked", "The tenant's policy forbids the issuer.",
        failed(&["federation_blocked"]),
        Behaviour::refused(&[&aadsts::FEDERATION_POLICY, &aadsts::FEDERATION_NOT_ALLOWED]);
    ConditionalAccessBlocked = 123, "conditional_access_blocked",
        "A Conditional Access policy blocks the sign-in.",
        failed(&["conditional_access_blocked"]),
        Behaviour::refused(&[&aadsts::CONDITIONAL_ACCESS, &aadsts::SECURITY_POLICY]);
    AuthUnknown = 124, "auth_unknown", "Entra refuses with a code that no list has.",
        failed(&["auth_unknown"]), Behaviour::refused(&[&aadsts::UNLISTED]);
    CertificateOutsideValidity = 125, "certificate_outside_validity",
        "By Entra's clock the certificate is not valid.",
        failed(&["certificate_outside_validity"]),
        Behaviour::refused(&[&aadsts::CERTIFICATE_VALIDITY]);
    FederatedTokenRejected = 126, "federated_token_rejected",
        "Entra does not take the external token for a credential.",
        failed(&["federated_token_rejected"]),
        Behaviour::refused(&[&aadsts::FEDERATION_OF_ENTRA, &aadsts::FEDERATION_OF_USER]);
    FederationIssuerUnreachable = 127, "federation_issuer_unreachable",
        "Entra cannot get the keys of the external issuer.",
        failed(&["federation_issuer_unreachable"]),
        Behaviour::refused(&[&aadsts::FEDERATION_ENDPOINT, &aadsts::FEDERATION_KEY]);
    TenantRestricted = 128, "tenant_restricted", "A proxy allows other tenants only.",
        failed(&["tenant_restricted"]), Behaviour::refused(&[&aadsts::TENANT_RESTRICTED]);
    SignInDenied = 129, "sign_in_denied", "The resource is for assigned applications only.",
        failed(&["sign_in_denied"]), Behaviour::refused(&[&aadsts::NOT_ASSIGNED]);
    ProxyRefused = 130, "proxy_refused",
        "A proxy answers in Entra's place and asks for its own credentials.",
        failed(&["proxy_refused"]),
        Behaviour::always(At::Token, What::Page(407));

    // Any call.
    Throttled = 201, "throttled", "Graph answers 429 to every call and asks to wait long.",
        exhausted(&["throttled"]),
        Behaviour::always(At::Graph, What::Throttled(RetryAfter::Long));
    ThrottledWithoutHint = 202, "throttled_without_hint",
        "Graph answers 429 to every call, without a Retry-After.",
        exhausted(&["throttled"]),
        Behaviour::always(At::Graph, What::Throttled(RetryAfter::Missing));
    ThrottledUntilDate = 203, "throttled_until_date",
        "Graph answers 429 to every call; Retry-After is a date.",
        exhausted(&["throttled"]),
        Behaviour::always(At::Graph, What::Throttled(RetryAfter::LongDate));
    ThrottledSignIn = 204, "throttled_sign_in", "Entra has seen too many sign-ins of the app.",
        exhausted(&["throttled"]),
        Behaviour::refused(&[&aadsts::REQUEST_LOOP, &aadsts::TENANT_THROTTLED]);
    ProviderUnavailable = 205, "provider_unavailable", "Graph answers 503 to every call.",
        exhausted(&["provider_unavailable"]),
        Behaviour::always(At::Graph, What::Unavailable(503));
    ProviderUnavailableGateway = 206, "provider_unavailable_gateway",
        "A gateway before Graph answers 504 with an HTML page.",
        exhausted(&["provider_unavailable"]),
        Behaviour::always(At::Graph, What::Page(504));
    ProviderUnavailableSignIn = 207, "provider_unavailable_sign_in",
        "Entra says that it is temporarily unavailable.",
        exhausted(&["provider_unavailable"]),
        Behaviour::refused(&[
            &aadsts::UNAVAILABLE,
            &aadsts::RETRYABLE,
            &aadsts::BUSY,
            &aadsts::TIMED_OUT,
            &aadsts::RETRYABLE_DATABASE,
            &aadsts::DELEGATION_FAILED,
        ]);
    ProviderTimeout = 208, "provider_timeout", "Graph does not answer.",
        exhausted(&["provider_timeout"]),
        Behaviour::always(At::Graph, What::Stall);
    ProviderTimeoutSignIn = 209, "provider_timeout_sign_in", "The token endpoint does not answer.",
        exhausted(&["provider_timeout"]),
        Behaviour::always(At::Token, What::Stall);
    ProviderTimeoutInBody = 210, "provider_timeout_in_body",
        "Graph's answers begin and do not go on.",
        exhausted(&["provider_timeout"]),
        Behaviour::always(At::Graph, What::StallInBody);
    ResponseInvalid = 211, "response_invalid", "Graph's JSON ends in the middle.",
        failed(&["response_invalid"]),
        Behaviour::always(At::Graph, What::Truncated);
    ResponseInvalidHtml = 212, "response_invalid_html",
        "A proxy answers for Graph with a page of its own and status 200.",
        failed(&["response_invalid"]),
        Behaviour::always(At::Graph, What::Page(200));
    ResponseInvalidDeep = 213, "response_invalid_deep", "Graph's JSON is nested 20 000 deep.",
        failed(&["response_invalid"]),
        Behaviour::always(At::Graph, What::Deep);
    ResponseInvalidShape = 214, "response_invalid_shape",
        "Graph's JSON has members of other types than promised.",
        failed(&["response_invalid"]),
        Behaviour::always(At::Graph, What::WrongShape);
    ProxyRefusedPage = 215, "proxy_refused_page",
        "A proxy answers for the token endpoint with a page of its own and status 200.",
        failed(&["proxy_refused"]),
        Behaviour::always(At::Token, What::Page(200));
    ResponseTooLarge = 216, "response_too_large", "Graph sends 64 MiB without saying so before.",
        failed(&["response_too_large"]),
        Behaviour::always(At::Graph, What::Huge { declared: false });
    ResponseTooLargeSignIn = 217, "response_too_large_sign_in",
        "The token endpoint announces 64 MiB and sends them.",
        failed(&["response_too_large"]),
        Behaviour::always(At::Token, What::Huge { declared: true });
    ResponseTooLargePages = 218, "response_too_large_pages",
        "The list of grants has no last page.",
        failed(&["response_too_large"]),
        Behaviour::always(At::Only(Endpoint::AppRoleAssignments), What::Pages(Pages::Endless));
    PagingLoop = 219, "paging_loop",
        "The next link of the list of grants leads back to the same page.",
        failed(&["paging_loop"]),
        Behaviour::always(At::Only(Endpoint::AppRoleAssignments), What::Pages(Pages::Circular));
    RedirectRefused = 220, "redirect_refused", "Graph redirects to another host.",
        failed(&["redirect_refused"]),
        Behaviour::always(At::Graph, What::Redirect(302));
    RedirectRefusedSignIn = 221, "redirect_refused_sign_in",
        "The token endpoint redirects to another host, in the way that sends the secret along.",
        failed(&["redirect_refused"]),
        Behaviour::always(At::Token, What::Redirect(307));
    RedirectRefusedNextLink = 222, "redirect_refused_next_link",
        "The next page of the list of grants is said to be on another host.",
        failed(&["redirect_refused"]),
        Behaviour::always(At::Only(Endpoint::AppRoleAssignments), What::Pages(Pages::Foreign));

    // What Graph says.
    IdentityMismatch = 301, "identity_mismatch", "Graph tells of another directory.",
        failed(&["identity_mismatch"]),
        Behaviour { another_directory: true, ..Behaviour::HEALTHY };
    IdentityMismatchToken = 302, "identity_mismatch_token",
        "Entra issues a token of another directory.",
        failed(&["identity_mismatch"]),
        Behaviour { token_form: TokenForm::AnotherTenant, ..Behaviour::HEALTHY };
    TokenRejected = 303, "token_rejected", "Graph does not accept Entra's tokens.",
        failed(&["token_rejected"]),
        Behaviour::always(At::Graph, What::Error(401, "InvalidAuthenticationToken",
            "Access token validation failure. CompactToken parsing failed with error code: 80049217"));
    PermissionNotEffective = 304, "permission_not_effective",
        "Intune refuses a call that the granted permission should open.",
        failed_module(INTUNE, &["permission_not_effective"]),
        Behaviour::always(At::Only(Endpoint::DeviceManagement), What::Forbidden);
    PermissionDeniedIdentity = 305, "permission_denied_identity",
        "The app may read applications, but not the organization: only its token names the directory.",
        succeeded(
            HEALTH_CHECK,
            BLOCKED,
            &["permission_denied", "permission_not_consented"],
        ),
        Behaviour::granted(&[role::APPLICATION_READ]);
    GraphUnknown = 306, "graph_unknown", "Graph answers with an error that nobody documented.",
        failed(&["graph_unknown"]),
        Behaviour::always(At::Only(Endpoint::Organization),
            What::Error(400, "Directory_Undocumented", "An error that no list mentions."));
    ServicePrincipalMissing = 307, "service_principal_missing",
        "Entra issues a token to an app without service principal, and Graph knows nobody by it.",
        failed(&["service_principal_missing"]),
        Behaviour {
            token_form: TokenForm::WithoutServicePrincipal,
            granted: &[],
            token_roles: &[],
            ..Behaviour::HEALTHY
        };
    ConsentPropagating = 308, "consent_propagating",
        "An administrator has consented a moment ago: the token has the permissions, the look-up of the service principal finds nobody.",
        exhausted(&["consent_propagating"]),
        Behaviour::always(At::Only(Endpoint::ServicePrincipalByAppId), What::NotFound);
    AppDisabledInDirectory = 309, "app_disabled_in_directory",
        "Tokens are still issued, but the app's service principal is disabled.",
        failed(&["app_disabled"]), Behaviour { enabled: false, ..Behaviour::HEALTHY };
    IntuneNotLicensed = 310, "intune_not_licensed", "The tenant has no Intune licence.",
        failed_module(INTUNE, &["intune_not_licensed"]),
        Behaviour { intune: Intune::NotLicensed, ..Behaviour::HEALTHY };
    IntuneInactive = 311, "intune_inactive", "The tenant's Intune subscription is disabled.",
        failed_module(INTUNE, &["intune_inactive"]),
        Behaviour { intune: Intune::State("disabled"), ..Behaviour::HEALTHY };
    IntuneInactiveSoon = 312, "intune_inactive_soon",
        "The tenant's Intune subscription is about to end, but still works.",
        succeeded(INTUNE, NEEDS_ATTENTION, &["intune_inactive"]),
        Behaviour { intune: Intune::State("warning"), ..Behaviour::HEALTHY };
    PermissionNotEffectiveIdentity = 313, "permission_not_effective_identity",
        "Graph refuses to show the organization without saying why; the permission is in the token.",
        succeeded(HEALTH_CHECK, NEEDS_ATTENTION, &["permission_not_effective"]),
        Behaviour::always(At::Only(Endpoint::Organization), What::Error(403, "UnknownError", ""));
    TokenTimeInvalid = 314, "token_time_invalid",
        "Graph finds each token expired, however new it is.",
        failed(&["token_time_invalid"]),
        Behaviour::always(At::Graph, What::Error(401, "InvalidAuthenticationToken",
            "Lifetime validation failed, the token is expired."));
    WrongCloudAudience = 315, "wrong_cloud_audience",
        "Graph gets tokens that were issued for another cloud's Graph.",
        failed(&["wrong_cloud"]),
        Behaviour::always(At::Graph, What::Error(401, "InvalidAuthenticationToken",
            "Access token validation failure. Invalid audience."));
    ConditionalAccessBlockedGraph = 316, "conditional_access_blocked_graph",
        "Graph asks for other claims, whatever token it gets.",
        failed(&["conditional_access_blocked"]),
        Behaviour::always(At::Graph, What::ClaimsChallenge);
    ResourceNotFound = 317, "resource_not_found",
        "Graph finds nothing at the address of Intune.",
        failed_module(INTUNE, &["resource_not_found"]),
        Behaviour::always(At::Only(Endpoint::DeviceManagement),
            What::Error(404, "ResourceNotFound", "Resource not found."));
    QuotaExceeded = 318, "quota_exceeded", "The directory has used up its quota.",
        failed(&["quota_exceeded"]),
        Behaviour::always(At::Only(Endpoint::Organization),
            What::Error(403, "Directory_QuotaExceeded", "The quota is used up."));
    EntraNotLicensed = 319, "entra_not_licensed",
        "Graph answers a call only in tenants with a premium licence of Microsoft Entra.",
        failed_module(INTUNE, &["entra_not_licensed"]),
        Behaviour::always(At::Only(Endpoint::DeviceManagement),
            What::Error(403, "Authentication_RequestFromNonPremiumTenantOrB2CTenant",
                "Neither tenant is B2C or tenant doesn't have premium license"));
    ServiceNotLicensed = 320, "service_not_licensed",
        "Graph answers a call only in tenants with a licence of the service behind it.",
        failed_module(INTUNE, &["service_not_licensed"]),
        Behaviour::always(At::Only(Endpoint::DeviceManagement),
            What::Error(403, "Forbidden", "The tenant does not have the license that is needed."));
    ServiceNotProvisioned = 321, "service_not_provisioned",
        "Intune's MDM authority is not set.",
        failed_module(INTUNE, &["service_not_provisioned"]),
        Behaviour::always(At::Only(Endpoint::DeviceManagement),
            What::IntuneError(403, "Forbidden", "The MDM authority is not set."));
    ServiceDisabled = 322, "service_disabled", "Intune is switched off in the tenant.",
        failed_module(INTUNE, &["service_disabled"]),
        Behaviour::always(At::Only(Endpoint::DeviceManagement),
            What::IntuneError(403, "Forbidden", "The service is disabled for this tenant."));
    IntuneNotLicensedRefused = 323, "intune_not_licensed_refused",
        "Intune refuses with 403 and names the missing licence.",
        failed_module(INTUNE, &["intune_not_licensed"]),
        Behaviour {
            intune: Intune::NotLicensed,
            ..Behaviour::always(At::Only(Endpoint::DeviceManagement), What::IntuneError(403,
                "Forbidden", "Tenant does not have a valid Intune license/subscription."))
        };

    // The permission inventory.
    PermissionMissing = 401, "permission_missing",
        "A permission without which the module cannot work is not granted.",
        succeeded(CONDITIONAL_ACCESS, BLOCKED, &["permission_missing"]),
        Behaviour {
            registration: Registration::UNREADABLE,
            ..Behaviour::granted(WITHOUT_POLICY)
        };
    PermissionMissingOptional = 402, "permission_missing_optional",
        "A permission is not granted without which the module can do less.",
        succeeded(INTUNE, NEEDS_ATTENTION, &["permission_missing"]),
        Behaviour { registration: Registration::UNREADABLE, ..Behaviour::granted(&[
            role::ORGANIZATION_READ, role::DIRECTORY_READ, role::APPLICATION_READ,
            role::CONFIGURATION_READ, role::APPS_READ, role::MANAGED_DEVICES_READ, role::RBAC_READ,
            role::GROUP_READ, role::POLICY_READ, role::USER_READ, role::ROLE_MANAGEMENT_READ,
        ]) };
    PermissionMissingIntune = 403, "permission_missing_intune",
        "The permission is not granted that a probe of Intune needs.",
        succeeded(INTUNE, BLOCKED, &["permission_missing"]),
        Behaviour { registration: Registration::UNREADABLE, ..Behaviour::granted(&[
            role::ORGANIZATION_READ, role::DIRECTORY_READ, role::APPLICATION_READ,
            role::APPS_READ, role::MANAGED_DEVICES_READ, role::RBAC_READ,
            role::SERVICE_CONFIG_READ, role::GROUP_READ, role::POLICY_READ, role::USER_READ,
            role::ROLE_MANAGEMENT_READ,
        ]) };
    PermissionPropagating = 404, "permission_propagating",
        "A permission was granted a moment ago: it is assigned, but not yet in the token.",
        succeeded(HEALTH_CHECK, NEEDS_ATTENTION, &["permission_propagating"]),
        // Directory.Read.All still opens what the missing role would.
        Behaviour {
            token_roles: &[
                role::ORGANIZATION_READ, role::DIRECTORY_READ, role::CONFIGURATION_READ,
                role::APPS_READ, role::MANAGED_DEVICES_READ, role::RBAC_READ,
                role::SERVICE_CONFIG_READ, role::GROUP_READ, role::POLICY_READ, role::USER_READ,
                role::ROLE_MANAGEMENT_READ,
            ],
            ..Behaviour::HEALTHY
        };
    PermissionPropagatingList = 411, "permission_propagating_list",
        "Permissions were granted a moment ago: they are in the token, but not yet in the list of grants.",
        succeeded(HEALTH_CHECK, NEEDS_ATTENTION, &["permission_propagating"]),
        Behaviour { granted: &[], other_grants: 0, ..Behaviour::HEALTHY };
    InventoryFromToken = 405, "inventory_from_token",
        "The app may not read its own grants, only its token names them.",
        succeeded(
            HEALTH_CHECK,
            NEEDS_ATTENTION,
            &["inventory_from_token", "permission_missing"],
        ),
        Behaviour::granted(&[
            role::ORGANIZATION_READ, role::CONFIGURATION_READ, role::APPS_READ,
            role::MANAGED_DEVICES_READ, role::RBAC_READ, role::SERVICE_CONFIG_READ,
            role::GROUP_READ, role::POLICY_READ, role::USER_READ, role::ROLE_MANAGEMENT_READ,
        ]);
    InventoryUnreadable = 406, "inventory_unreadable",
        "The app may not read its own grants, and its token cannot be looked into.",
        failed(&["inventory_unreadable"]),
        Behaviour {
            token_form: TokenForm::Opaque,
            ..Behaviour::granted(&[role::ORGANIZATION_READ])
        };
    PermissionNotRequested = 407, "permission_not_requested",
        "A permission is not granted, and the registration in the tenant does not ask for it.",
        succeeded(CONDITIONAL_ACCESS, BLOCKED, &["permission_not_requested"]),
        Behaviour {
            registration: Registration { roles: WITHOUT_POLICY, ..Registration::OWN },
            ..Behaviour::granted(WITHOUT_POLICY)
        };
    PermissionNotRequestedElsewhere = 408, "permission_not_requested_elsewhere",
        "The same, with the registration in another directory: that of 407 with the same instance.",
        succeeded(CONDITIONAL_ACCESS, BLOCKED, &["permission_not_requested"]),
        Behaviour {
            registration: Registration { owner: Owner::TenantOf(407), ..Registration::OWN },
            ..Behaviour::granted(WITHOUT_POLICY)
        };
    PermissionNotConsented = 409, "permission_not_consented",
        "The registration asks for a permission that nobody has consented to in the tenant.",
        succeeded(CONDITIONAL_ACCESS, BLOCKED, &["permission_not_consented"]),
        Behaviour::granted(WITHOUT_POLICY);
    PermissionDelegatedOnly = 410, "permission_delegated_only",
        "A permission is asked for and granted as a delegated one.",
        succeeded(CONDITIONAL_ACCESS, BLOCKED, &["permission_delegated_only"]),
        Behaviour {
            registration: Registration {
                roles: WITHOUT_POLICY,
                scopes: &[role::POLICY_READ],
                delegated: &[role::POLICY_READ],
                ..Registration::OWN
            },
            ..Behaviour::granted(WITHOUT_POLICY)
        };

    // The credential's end.
    CredentialExpiring = 420, "credential_expiring", "The secret ends within a week.",
        succeeded(HEALTH_CHECK, NEEDS_ATTENTION, &["credential_expiring"]),
        Behaviour {
            registration: Registration {
                secrets: &[
                    Secret { hint: "old", ends_in_days: 200 },
                    Secret { hint: "sim", ends_in_days: -30 },
                    Secret { hint: "sim", ends_in_days: 6 },
                ],
                ..Registration::OWN
            },
            ..Behaviour::HEALTHY
        };
    CredentialExpiryUnknown = 421, "credential_expiry_unknown",
        "The registration is in a directory that nobody can sign in to, so no end of the secret is known.",
        ready(HEALTH_CHECK),
        Behaviour { registration: Registration::UNREADABLE, ..Behaviour::HEALTHY };
}

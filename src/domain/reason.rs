//! The closed list of reason codes: what is wrong, why it matters, what to do.
//!
//! Reasons are defined only here. `docs/reference/reasons.md` and the schema's list of codes are generated
//! from it.

use super::link::Link;
use super::names::text_enum;
use super::severity::Severity;
use serde::{Deserialize, Serialize};

text_enum! {
    /// The effect of a reason on the run that it ends.
    pub enum Stage: "stage" {
        /// A prerequisite is missing: the run ends `blocked`, the provider is never called.
        Preflight => "preflight",
        /// The provider does not answer as it should: the run ends `failed`.
        Provider => "provider",
        /// The inventory was read; the outcome stays as it is.
        Permission => "permission",
        /// verifyd itself could not finish: the run ends `failed`.
        Engine => "engine",
        /// The check was not made because an earlier one failed.
        Skipped => "skipped",
    }
}

macro_rules! reasons {
    ($(
        $variant:ident = $code:literal, $stage:ident, $severity:ident,
        $what:literal,
        $why:literal,
        [$(($label:literal, $link:ident)),+ $(,)?];
    )+) => {
        /// A reason code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $(#[serde(rename = $code)] #[doc = $what] $variant),+
        }

        impl Reason {
            /// Every reason there is, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the code, as in reports.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// Where in a run it arises, and so which outcome it leads to.
            pub const fn stage(self) -> Stage {
                match self { $(Self::$variant => Stage::$stage),+ }
            }

            /// Returns the severity, unless the check sets another one.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity),+ }
            }

            /// Returns what is wrong, in one sentence.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what),+ }
            }

            /// Why it matters: one sentence.
            pub const fn why(self) -> &'static str {
                match self { $(Self::$variant => $why),+ }
            }

            /// Returns what to do about it: labels and their links, the most useful first.
            pub const fn steps(self) -> &'static [(&'static str, Link)] {
                match self { $(Self::$variant => &[$(($label, Link::$link)),+]),+ }
            }
        }
    };
}

impl Reason {
    /// Returns whether it says that a required permission is not granted.
    pub const fn is_missing_permission(self) -> bool {
        matches!(
            self,
            Self::PermissionMissing
                | Self::PermissionNotRequested
                | Self::PermissionNotConsented
                | Self::PermissionDelegatedOnly
        )
    }

    /// Returns what is wrong and why it matters, as the message of a check.
    pub fn message(self) -> String {
        format!("{} {}", self.what(), self.why())
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl std::str::FromStr for Reason {
    type Err = super::names::UnknownName;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|r| r.code() == s)
            .ok_or_else(|| super::names::UnknownName {
                field: "reason_code",
                found: s.chars().take(64).collect(),
                allowed: "a code listed in docs/reference/reasons.md",
            })
    }
}

reasons! {
    // Preflight: the run ends blocked.
    TenantMissing = "tenant_missing", Preflight, Critical,
        "The operation run names no tenant.",
        "Without a tenant it cannot be told whose connection may be checked.",
        [("Start the check again from the tenant's connection", Connections)];
    ContextMalformed = "context_malformed", Preflight, High,
        "The context of the operation run, or a member of it, is not what it must be.",
        "It cannot be told what is to be checked; what the producer wrote is kept.",
        [("Correct whoever records the run, then start the check again", Connections)];
    ContextTooLarge = "context_too_large", Preflight, High,
        "The context of the operation run is larger than allowed.",
        "It was not read, so it cannot be told what is to be checked.",
        [("Leave out of the context what verifyd does not need, then start the check again", Connections)];
    ConnectionMissing = "connection_missing", Preflight, Critical,
        "The operation run names no provider connection that exists.",
        "There is nothing that could be checked.",
        [("Choose or add a provider connection", Connections)];
    ConnectionDisabled = "connection_disabled", Preflight, High,
        "The provider connection is disabled.",
        "A disabled connection is never used, so nothing that relies on it works.",
        [("Enable the connection, then check again", Connection)];
    ConnectionTenantMismatch = "connection_tenant_mismatch", Preflight, Critical,
        "The provider connection belongs to another tenant than the operation run.",
        "Credentials of one tenant are never used for another.",
        [("Start the check from the tenant that owns the connection", Connections)];
    ConnectionWorkspaceMismatch = "connection_workspace_mismatch", Preflight, Critical,
        "The operation run does not belong to the workspace of the provider connection.",
        "Credentials of one workspace are never used for another.",
        [("Start the check from the workspace that owns the connection", Connections)];
    ConnectionMalformed = "connection_malformed", Preflight, High,
        "The row of the provider connection, or of its credential, holds a value that cannot be used.",
        "Nothing can be checked until the value that the evidence names is corrected.",
        [("Correct the connection, then check again", Connection)];
    ProviderUnknown = "provider_unknown", Preflight, High,
        "The provider is not one that this installation knows.",
        "No check can be made without knowing how to talk to the provider.",
        [("Correct the provider of the connection or of the run", Connection)];
    ProviderMismatch = "provider_mismatch", Preflight, High,
        "The provider of the operation run is not the one of the connection.",
        "The check would talk to another provider than the one that the connection is registered with.",
        [("Start the check again from the connection", Connection)];
    ModuleUnknown = "module_unknown", Preflight, High,
        "The module is not one that the provider knows.",
        "The module decides which permissions are required and what is probed.",
        [("Start the check again with a known module", Connection)];
    CloudUnknown = "cloud_unknown", Preflight, High,
        "The cloud of the connection is not configured.",
        "Without the cloud's addresses the provider cannot be called.",
        [("Correct the cloud of the connection", Connection), ("See which clouds there are", NationalClouds)];
    TargetScopeMissing = "target_scope_missing", Preflight, High,
        "The operation run does not say which Entra tenant is meant.",
        "A check must never guess whose directory it reads.",
        [("Start the check again from the connection", Connection)];
    TargetScopeMalformed = "target_scope_malformed", Preflight, High,
        "The Entra tenant id of the operation run is not a GUID.",
        "A tenant is only ever addressed by its id.",
        [("Correct the Entra tenant id", Connection), ("How to find the tenant id", FindTenantId)];
    TargetScopeMismatch = "target_scope_mismatch", Preflight, Critical,
        "The Entra tenant of the operation run is not the one of the connection.",
        "The check would have read another directory than the one that was asked for.",
        [("Compare the Entra tenant id with the connection's", Connection)];
    ClientIdMalformed = "client_id_malformed", Preflight, High,
        "The application (client) id of the connection is missing or not a GUID.",
        "Without it nobody can sign in.",
        [("Correct the client id", Connection), ("Find the client id in the portal", AppOverview)];
    CredentialMissing = "credential_missing", Preflight, Critical,
        "The connection has no credential.",
        "Nothing can sign in to the tenant.",
        [("Store a credential for the connection", Connection), ("Create a client secret or certificate", AppCredentials)];
    CredentialExpired = "credential_expired", Preflight, Critical,
        "The credential of the connection has expired by its own date.",
        "The provider refuses expired credentials.",
        [("Create a new credential", AppCredentials), ("Store it for the connection", Connection)];
    CertificateNotYetValid = "certificate_not_yet_valid", Preflight, Critical,
        "The certificate of the connection is not valid yet.",
        "The provider refuses it until its first day; the evidence says when that is.",
        [("Create a certificate that is valid now", AppCredentials), ("Store it for the connection", Connection)];
    CredentialUndecryptable = "credential_undecryptable", Preflight, Critical,
        "The stored credential cannot be decrypted with the keys of this installation.",
        "Its key is missing here, or its payload is damaged, copied or not encrypted; the evidence says which.",
        [("Store the credential again", Connection)];
    CredentialMalformed = "credential_malformed", Preflight, Critical,
        "The stored credential is not a secret, certificate or token file that can be used.",
        "Nothing can sign in to the tenant; the evidence says what is wrong with it.",
        [("Store the credential again", Connection)];

    // Sign-in.
    SecretInvalid = "secret_invalid", Provider, Critical,
        "Microsoft Entra refuses the client secret.",
        "Nothing can sign in until it is replaced; often the secret's ID was stored in place of its value.",
        [("Replace the secret with a new one's value, not its ID", AppCredentials), ("Store it for the connection", Connection)];
    SecretExpired = "secret_expired", Provider, Critical,
        "The client secret has expired.",
        "Nothing can sign in until a new one is stored.",
        [("Create a new secret", AppCredentials), ("Store it for the connection", Connection)];
    CredentialNotAccepted = "credential_not_accepted", Provider, Critical,
        "Microsoft Entra says that the sign-in carried no credential that it accepts.",
        "The app registration needs a secret, a certificate or a federated credential.",
        [("Add a credential to the app registration", AppCredentials), ("Store it for the connection", Connection)];
    AppIsPublicClient = "app_is_public_client", Provider, High,
        "The app registration is a public client.",
        "Public clients may not sign in with a credential of their own.",
        [("Make the registration a confidential client", AppAuthentication), ("What the error means", ErrorCodes)];
    AppNotFound = "app_not_found", Provider, Critical,
        "The application is not known in the tenant.",
        "Either the client id or the tenant id is wrong, or an administrator never consented.",
        [("Grant admin consent", AdminConsent), ("Compare client id and tenant id", Connection)];
    ServicePrincipalMissing = "service_principal_missing", Provider, Critical,
        "The application has no service principal in the tenant.",
        "A token alone opens nothing: the tenant's administrator has to consent first.",
        [("Grant admin consent", AdminConsent), ("Check again some minutes after the consent", Run)];
    AppDisabled = "app_disabled", Provider, Critical,
        "The application is disabled in the tenant.",
        "Sign-in is refused as long as the enterprise application is disabled.",
        [("Enable the enterprise application", EnterpriseAppProperties), ("What the error means", ErrorCodes)];
    ConsentMissing = "consent_missing", Provider, Critical,
        "No administrator of the tenant has consented to the application.",
        "Without consent no permission is granted.",
        [("Grant admin consent", AdminConsent)];
    AppPermissionsMisconfigured = "app_permissions_misconfigured", Provider, High,
        "The permissions of the app registration do not fit what is asked for.",
        "Microsoft Entra issues no token for them.",
        [("Review the API permissions", ApiPermissions)];
    ResourceUnavailable = "resource_unavailable", Provider, High,
        "The tenant does not offer Microsoft Graph to this application.",
        "The resource has no service principal there, or no subscription.",
        [("What the error means", ErrorCodes), ("Review the API permissions", ApiPermissions)];
    TenantNotFound = "tenant_not_found", Provider, Critical,
        "Microsoft Entra knows no tenant with this id in this cloud.",
        "Either the tenant id or the cloud of the connection is wrong.",
        [("Check tenant id and cloud", Connection), ("Which cloud has which addresses", NationalClouds)];
    TenantIdMalformed = "tenant_id_malformed", Provider, Critical,
        "Microsoft Entra does not accept the form of the tenant id.",
        "The tenant cannot be addressed.",
        [("Correct the tenant id", Connection), ("How to find the tenant id", FindTenantId)];
    TenantUnavailable = "tenant_unavailable", Provider, Critical,
        "The tenant exists but is not available.",
        "It may be suspended, blocked for inactivity, or deleted; a tenant that is inactive can be reactivated for a short time only.",
        [("Ask the customer whether the tenant still exists, and to reactivate it", InaccessibleTenant)];
    WrongCloud = "wrong_cloud", Provider, Critical,
        "The tenant lives in another national cloud than the connection says.",
        "Each cloud signs in only its own tenants.",
        [("Correct the cloud of the connection", Connection), ("Which cloud has which addresses", NationalClouds)];
    CertificateNotRegistered = "certificate_not_registered", Provider, Critical,
        "The certificate is not registered for the application.",
        "Microsoft Entra cannot verify the assertion; right after a rotation this can take minutes.",
        [("Upload the certificate", AppCredentials), ("How certificate credentials work", CertificateCredentials)];
    CertificateExpired = "certificate_expired", Provider, Critical,
        "The certificate has expired.",
        "Nothing can sign in until a new one is uploaded and stored.",
        [("Upload a new certificate", AppCredentials), ("Store it for the connection", Connection)];
    CertificateSubjectRejected = "certificate_subject_rejected", Provider, High,
        "The subject of the certificate is not one that the application allows.",
        "The application trusts only certain subject names and issuers.",
        [("Use a certificate with an allowed subject", CertificateCredentials)];
    CertificateOutsideValidity = "certificate_outside_validity", Provider, Critical,
        "Microsoft Entra finds the certificate outside its validity.",
        "By the provider's clock it has expired or is not valid yet.",
        [("Upload a certificate that is valid now", AppCredentials), ("Store it for the connection", Connection)];
    AssertionTimeInvalid = "assertion_time_invalid", Provider, High,
        "The signed assertion is outside its time range.",
        "A clock is wrong: of an assertion that a certificate signs, most likely the worker's.",
        [("Set the clock of the worker (NTP)", CertificateCredentials)];
    RequestMalformed = "request_malformed", Provider, High,
        "The provider rejected the request as malformed.",
        "Most likely this is a defect of verifyd or of its configuration, not of the tenant; the error code tells more.",
        [("What the error means", ErrorCodes)];
    FederationMismatch = "federation_mismatch", Provider, Critical,
        "No federated credential of the application matches the token's issuer, subject or audience.",
        "The external token is refused.",
        [("Compare issuer, subject and audience", AppFederation), ("How federation works", WorkloadFederation)];
    FederationNotConfigured = "federation_not_configured", Provider, Critical,
        "The application has no federated credential.",
        "An external token cannot be exchanged without one.",
        [("Add a federated credential", AppFederation), ("How federation works", WorkloadFederation)];
    FederationBlocked = "federation_blocked", Provider, Critical,
        "The tenant forbids this federated credential.",
        "A policy restricts which issuers may be trusted.",
        [("Review the tenant's federation policy", WorkloadFederation)];
    FederatedTokenUnreadable = "federated_token_unreadable", Provider, High,
        "The file with the federated token cannot be read, or holds no token.",
        "The external issuer's token is read afresh for each sign-in.",
        [("Mount the projected token where the connection expects it", WorkloadFederation), ("Correct the path", Connection)];
    FederatedTokenExpired = "federated_token_expired", Provider, Critical,
        "The token in the file of the federated credential has expired.",
        "Whatever writes the file no longer renews it; nothing can sign in until it does.",
        [("Renew the token in the file: see to its issuer or to the volume that projects it", WorkloadFederation), ("Compare the path with the connection's", Connection)];
    FederatedTokenRejected = "federated_token_rejected", Provider, Critical,
        "Microsoft Entra does not accept the token in the file as a credential.",
        "Its signature, form or kind is not what a federated credential needs.",
        [("Compare the token with the federated credential", AppFederation), ("How federation works", WorkloadFederation)];
    FederationIssuerUnreachable = "federation_issuer_unreachable", Provider, High,
        "Microsoft Entra cannot get the key of the token's issuer.",
        "The issuer's discovery document or key set does not answer on the internet, or lacks the key that signed the token.",
        [("Publish the issuer's discovery document and its signing keys", WorkloadFederation), ("Check again", Run)];
    TenantRestricted = "tenant_restricted", Provider, High,
        "A proxy between the worker and Microsoft Entra allows no sign-in to this tenant.",
        "It adds a list of the allowed tenants to each request, and this one is not on it.",
        [("Add the tenant to the proxy's list, or let the worker's requests pass unchanged", TenantRestrictions)];
    SignInDenied = "sign_in_denied", Provider, High,
        "Microsoft Entra denies the sign-in of the application.",
        "A rule of the tenant or of the resource forbids it, though the credential may be right.",
        [("Look at the sign-in logs of the enterprise application", EnterpriseApp), ("What the error means", ErrorCodes)];
    ConditionalAccessBlocked = "conditional_access_blocked", Provider, High,
        "A Conditional Access policy of the tenant blocks the application.",
        "The policy applies to workload identities, for example by location.",
        [("Exclude the application or allow the worker's address", ConditionalAccess)];
    AuthUnknown = "auth_unknown", Provider, High,
        "Microsoft Entra refused the sign-in with an error that is not in the list.",
        "Nothing can sign in until its cause is removed.",
        [("Look the error code up", ErrorCodes)];

    // Any call to the provider.
    Throttled = "throttled", Provider, Medium,
        "The provider asked to slow down, for longer than this run may wait.",
        "The connection itself may be fine; too many calls are made for this tenant.",
        [("Check again later", Run), ("How throttling works", Throttling)];
    ProviderUnavailable = "provider_unavailable", Provider, Medium,
        "The provider answered that it is temporarily unavailable.",
        "Nothing can be said of the connection until it is back.",
        [("See the service health", ServiceHealth), ("Check again later", Run)];
    ProviderUnreachable = "provider_unreachable", Provider, High,
        "The provider's address could not be reached.",
        "Name resolution, a firewall or a proxy stands between the worker and the provider.",
        [("Allow the worker to reach the provider's hosts", NationalClouds), ("Check again", Run)];
    ProviderTimeout = "provider_timeout", Provider, Medium,
        "The provider did not answer in time.",
        "Nothing can be said of the connection.",
        [("See the service health", ServiceHealth), ("Check again", Run)];
    TlsFailed = "tls_failed", Provider, High,
        "No trusted TLS connection to the provider could be made.",
        "Certificates, clocks or versions of TLS are wrong or not accepted; something may be intercepting the traffic.",
        [("Check proxies and the trusted certificates of the worker", NationalClouds)];
    ProxyRefused = "proxy_refused", Provider, High,
        "A proxy or a network's login page answers in the provider's place.",
        "It lets nothing pass, or asks for a login of its own first.",
        [("Let the worker reach the provider's hosts, without a login", NationalClouds), ("Check again", Run)];
    ResponseInvalid = "response_invalid", Provider, High,
        "The provider's answer is not what its interface promises.",
        "An answer that cannot be understood proves nothing; a proxy may have answered instead.",
        [("Check proxies between worker and provider", NationalClouds), ("See the service health", ServiceHealth), ("Check again", Run)];
    ResponseTooLarge = "response_too_large", Provider, High,
        "The provider's answer is larger than allowed.",
        "It was cut off to protect the worker.",
        [("Check again", Run), ("How the API pages its answers", GraphPaging)];
    PagingLoop = "paging_loop", Provider, High,
        "The provider's pages lead back to one that was read already.",
        "The list has no end, so it is not known what belongs to it.",
        [("Check again", Run), ("How the API pages its answers", GraphPaging)];
    RedirectRefused = "redirect_refused", Provider, High,
        "The provider's answer points to another address.",
        "Credentials and tokens are only ever sent to the cloud's own hosts.",
        [("Check proxies between worker and provider", NationalClouds)];

    // What Graph says.
    IdentityMismatch = "identity_mismatch", Provider, Critical,
        "The directory that answered is not the one of the connection.",
        "Anything read through this connection would belong to another customer.",
        [("Compare the Entra tenant id", Connection), ("How to find the tenant id", FindTenantId)];
    TokenRejected = "token_rejected", Provider, High,
        "Microsoft Graph does not accept the token that Microsoft Entra issued.",
        "Usually login and Graph addresses belong to different clouds.",
        [("Check the cloud of the connection", Connection),
         ("Compare the cloud's addresses, and let proxies pass requests unchanged", NationalClouds), ("Check again", Run)];
    TokenTimeInvalid = "token_time_invalid", Provider, High,
        "Microsoft Graph finds a token that was issued just now expired, or not yet valid.",
        "A clock is wrong: that of the worker, or one of the provider's.",
        [("Set the clock of the worker (NTP)", GraphAuthErrors), ("See the service health", ServiceHealth), ("Check again", Run)];
    PermissionDenied = "permission_denied", Provider, High,
        "Microsoft Graph refuses the call for lack of rights.",
        "What the module needs to read cannot be read.",
        [("Grant the permission", ApiPermissions), ("Grant admin consent", AdminConsent)];
    PermissionNotEffective = "permission_not_effective", Provider, High,
        "Microsoft Graph refuses a call although its permission is granted.",
        "Consent is not what is missing: a licence, a role within the service, or the service itself stands in the way.",
        [("Check the licence of the service in the tenant", IntuneLicences),
         ("Check roles and scopes within the service, in Intune its role-based access control", IntuneRoles),
         ("See the service health", ServiceHealth), ("Check again", Run)];
    ConsentPropagating = "consent_propagating", Provider, Medium,
        "The application's service principal is not known everywhere in the tenant yet.",
        "A consent takes some minutes to reach every part of the provider; until then some of its parts know nobody.",
        [("Check again in a few minutes", Run)];
    ResourceNotFound = "resource_not_found", Provider, High,
        "Microsoft Graph finds nothing at the address that was called.",
        "What was asked for is gone, or this cloud or tenant does not offer it.",
        [("Compare what each cloud offers", NationalClouds), ("Look the error up", GraphErrors), ("Check again", Run)];
    QuotaExceeded = "quota_exceeded", Provider, High,
        "The tenant has used up a quota of its directory.",
        "The directory answers the call no more until there is room again.",
        [("Review the limits of the directory", DirectoryLimits), ("Check again", Run)];
    GraphUnknown = "graph_unknown", Provider, High,
        "Microsoft Graph answered with an error that is not in the list.",
        "The call that the module relies on does not work.",
        [("Look the error up", GraphErrors), ("Check again", Run)];
    IntuneNotLicensed = "intune_not_licensed", Provider, High,
        "The tenant has no Intune licence.",
        "Microsoft Graph answers no Intune call for this tenant.",
        [("Assign an Intune licence in the tenant", IntuneLicences)];
    EntraNotLicensed = "entra_not_licensed", Provider, High,
        "The tenant has no Microsoft Entra ID P1 or P2 licence, which the call needs.",
        "Microsoft Graph answers it only in tenants that have one.",
        [("Review the Microsoft Entra licences of the tenant", EntraLicences), ("Check again", Run)];
    ServiceNotLicensed = "service_not_licensed", Provider, High,
        "The tenant has no licence for the service that the call belongs to.",
        "Microsoft Graph answers no call of this service for this tenant.",
        [("Look the error up", GraphErrors), ("Check again", Run)];
    ServiceNotProvisioned = "service_not_provisioned", Provider, High,
        "The service that the call belongs to is not set up in the tenant.",
        "It may be licensed, but nobody has opened it yet; Intune also needs its MDM authority to be set.",
        [("Set the service up, in Intune the MDM authority", MdmAuthority), ("Check again", Run)];
    ServiceDisabled = "service_disabled", Provider, High,
        "The service that the call belongs to is switched off in the tenant.",
        "Microsoft Graph answers none of its calls until it is switched on.",
        [("Enable the enterprise application of the service itself", EnterpriseApps),
         ("See whether the subscription or licence of the service has lapsed", Subscriptions),
         ("See the service health", ServiceHealth), ("Check again", Run)];
    IntuneInactive = "intune_inactive", Provider, High,
        "The tenant's Intune subscription is not active.",
        "Devices and policies cannot be managed while it is not.",
        [("Review the subscription", IntuneLicences)];

    ProbeUnexpected = "probe_unexpected", Provider, High,
        "The service answers, but not as the module expects.",
        "What the module does with the service may not work for this tenant.",
        [("Look at the state of the service", ServiceHealth)];

    // The permission inventory.
    PermissionMissing = "permission_missing", Permission, High,
        "A required permission is not granted.",
        "What needs it does not work for this tenant.",
        [("Add the permission to the app registration", ApiPermissions), ("Grant admin consent", AdminConsent)];
    PermissionNotRequested = "permission_not_requested", Permission, High,
        "A required permission is not granted, and the app registration does not ask for it.",
        "Consent grants only what the registration asks for.",
        [("Add the permission to the app registration", ApiPermissions), ("Then grant admin consent", AdminConsent)];
    PermissionNotConsented = "permission_not_consented", Permission, High,
        "A required permission is asked for by the app registration, but not granted in this directory.",
        "An administrator of the customer has to consent to it.",
        [("Grant admin consent", AdminConsent)];
    PermissionDelegatedOnly = "permission_delegated_only", Permission, High,
        "A required permission is there as a delegated permission only.",
        "An application that signs in by itself needs it as an application permission.",
        [("Add it to the app registration as an application permission", ApiPermissions), ("Then grant admin consent", AdminConsent)];
    PermissionPropagating = "permission_propagating", Permission, Low,
        "The granted permissions and those in the token differ.",
        "A change of grants takes some minutes to reach every part of the provider.",
        [("Check again in a few minutes", Run), ("Review what is granted to the application", EnterpriseAppPermissions)];
    InventoryFromToken = "inventory_from_token", Permission, Low,
        "The granted permissions could only be read from the token.",
        "Without Application.Read.All the assignments themselves stay hidden.",
        [("Grant Application.Read.All", ApiPermissions), ("Grant admin consent", AdminConsent)];
    PermissionNotOffered = "permission_not_offered", Permission, High,
        "The API does not offer a required permission in this directory.",
        "It cannot be granted: the module names a role that the API does not have, or the directory has no \
         service principal of the API.",
        [("Compare the module with the permissions that the API offers", ApiPermissions)];
    PermissionUnknown = "permission_unknown", Permission, Low,
        "It is unknown whether a required permission is granted.",
        "The token names permissions on Microsoft Graph only; those on other APIs stand in the assignments.",
        [("Grant Application.Read.All", ApiPermissions), ("Grant admin consent", AdminConsent)];
    PermissionExcess = "permission_excess", Permission, Low,
        "Permissions are granted that no module of the connection needs.",
        "Who gets hold of the credential can do whatever is granted.",
        [("Revoke what nothing needs", EnterpriseAppPermissions),
         ("Remove it from what the registration asks for, or the next consent grants it again", ApiPermissions)];
    InventoryUnreadable = "inventory_unreadable", Provider, High,
        "The granted permissions could not be read.",
        "It is unknown what works for this tenant; the last known inventory is kept.",
        [("Grant Application.Read.All", ApiPermissions), ("Grant admin consent", AdminConsent)];

    // What is about to happen.
    CredentialExpiring = "credential_expiring", Permission, Low,
        "The credential is near its end, or past it.",
        "Nothing can sign in after the end; the severity grows 14, 7 and 1 days before.",
        [("Create a new secret or certificate", AppCredentials), ("Store it for the connection", Connection)];

    // verifyd itself.
    WorkerLost = "worker_lost", Engine, High,
        "No attempt at this run has stored a result: its worker was lost, lost the run, or could not use the database.",
        "All attempts are used up, so the run is not tried again.",
        [("Look at the attempts of the run", Run), ("Check again", Connection)];
    ResultRefused = "result_refused", Engine, High,
        "The database refused to store the result of this run.",
        "All attempts are used up, so the run is not tried again.",
        [("Look at the attempts of the run, and correct the rule of the database that they name", Run), ("Check again", Connection)];
    DeadlineExceeded = "deadline_exceeded", Engine, Medium,
        "The check did not finish within its time limit.",
        "Nothing can be said of what was not yet checked.",
        [("Check again", Run), ("See the service health", ServiceHealth)];
    InternalError = "internal_error", Engine, High,
        "verifyd failed while it was checking.",
        "This is a defect of verifyd, not of the tenant; its log tells more.",
        [("Look at the run and its log", Run)];
    ReportInvalid = "report_invalid", Engine, High,
        "The report of this run was not valid and has been replaced by this one.",
        "This is a defect of verifyd; the outcome of the run stands.",
        [("Look at the run and its log", Run)];
    CredentialExpiryUnknown = "credential_expiry_unknown", Skipped, Info,
        "It is not known when the credential expires.",
        "No date is recorded with the credential, and its registration tells none.",
        [("Look the date up at the registration", AppCredentials), ("Record it with the credential", Connection)];
    NotEvaluated = "not_evaluated", Skipped, Info,
        "This was not checked.",
        "An earlier check has to pass first.",
        [("Solve what stands before it, then check again", Run)];
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_read_back() {
        let codes: BTreeSet<&str> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(reason.code().parse::<Reason>().as_ref(), Ok(reason));
            assert_eq!(
                serde_json::to_value(reason).unwrap(),
                serde_json::json!(reason.code())
            );
        }
    }

    #[test]
    fn every_reason_says_what_why_and_what_to_do() {
        for reason in Reason::ALL {
            assert!(reason.what().ends_with('.'), "{reason}");
            assert!(reason.why().ends_with('.'), "{reason}");
            assert!(!reason.steps().is_empty(), "{reason}");
        }
    }
}

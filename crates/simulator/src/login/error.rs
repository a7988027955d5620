//! Entra's refusals: code, OAuth error and status.
//!
//! Codes: Microsoft's error reference; those it does not list were seen in public logs. The
//! sentences are the simulator's own, except for the words that callers have to look for.

/// When Entra comes to the point of refusing for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Looking up tenant and app: whatever the credential is.
    Directory,
    /// Judging the credential.
    Credential,
    /// After the credential was found good.
    Policy,
}

/// One refusal.
#[derive(Debug)]
pub(crate) struct EntraError {
    /// The number behind `AADSTS`.
    pub code: u32,
    /// OAuth's `error`.
    pub error: &'static str,
    pub status: u16,
    pub step: Step,
    /// What `error_description` says after the code.
    pub text: &'static str,
}

macro_rules! entra_errors {
    ($($name:ident = $code:literal, $error:literal, $status:literal, $step:ident, $text:literal;)+) => {
        $(pub(crate) static $name: EntraError = EntraError {
            code: $code, error: $error, status: $status, step: Step::$step, text: $text,
        };)+
    };
}

entra_errors! {
    // The credential.
    SECRET_INVALID = 7000215, "invalid_client", 401, Credential, "Invalid client secret: the secret's value is expected, not its ID.";
    CREDENTIALS_INVALID = 70002, "invalid_client", 401, Credential, "The credentials could not be validated.";
    SECRET_EXPIRED = 7000222, "invalid_client", 401, Credential, "The provided client secret keys are expired.";
    CREDENTIAL_ABSENT = 7000218, "invalid_client", 401, Credential, "The request body must contain 'client_assertion' or 'client_secret'.";
    PUBLIC_CLIENT = 700025, "invalid_client", 401, Credential, "The client is public, so neither 'client_assertion' nor 'client_secret' may be presented.";
    KEY_NOT_FOUND = 700027, "invalid_client", 401, Credential, "The assertion failed signature validation. The key was not found by its thumbprint.";
    KEY_EXPIRED = 700027, "invalid_client", 401, Credential, "The assertion failed signature validation. The key used is expired.";
    SIGNATURE_WRONG = 700027, "invalid_client", 401, Credential, "The assertion failed signature validation. The signature does not fit the key.";
    SIGNATURE_INVALID = 50012, "invalid_client", 401, Credential, "The signature of the assertion could not be verified.";
    CERTIFICATE_SUBJECT = 700030, "invalid_client", 401, Credential, "The certificate's subject name or issuer is not authorized for the app.";
    ASSERTION_TIME = 700024, "invalid_client", 401, Credential, "Client assertion is not within its valid time range.";
    ASSERTION_CLIENT = 700021, "invalid_client", 401, Credential, "The assertion's application identifier does not match 'client_id'.";
    ASSERTION_AUDIENCE = 700023, "invalid_client", 401, Credential, "The assertion's audience does not match this issuer.";
    ASSERTION_HEADER = 5002727, "invalid_client", 401, Credential, "Invalid JWT header.";
    ASSERTION_MALFORMED = 50027, "invalid_request", 400, Credential, "Invalid JWT token.";

    // The credential of another issuer.
    FEDERATION_NO_MATCH = 70021, "invalid_request", 400, Credential, "No matching federated identity record was found for the presented assertion.";
    FEDERATION_ISSUER = 700211, "invalid_client", 401, Credential, "No matching federated identity record was found for the presented assertion issuer.";
    FEDERATION_AUDIENCE = 700212, "invalid_client", 401, Credential, "No matching federated identity record was found for the presented assertion audience.";
    FEDERATION_SUBJECT = 700213, "invalid_client", 401, Credential, "No matching federated identity record was found for the presented assertion subject.";
    FEDERATION_ABSENT = 70025, "invalid_client", 401, Credential, "The client has no configured federated identity credentials.";
    FEDERATION_POLICY = 700223, "unauthorized_client", 400, Credential, "The federated identity credential is disabled by policy.";
    FEDERATION_NOT_ALLOWED = 700238, "unauthorized_client", 400, Credential, "The issuer is not allowed by the tenant's policy for federated credentials.";

    // Tenant and app.
    APP_NOT_IN_TENANT = 700016, "unauthorized_client", 400, Directory, "The application was not found in the directory.";
    APP_NOT_FOUND = 700011, "unauthorized_client", 400, Directory, "The application was not found.";
    NO_SERVICE_PRINCIPAL = 7000229, "unauthorized_client", 400, Directory, "The client application has no service principal in the tenant.";
    APP_DISABLED = 7000112, "unauthorized_client", 400, Directory, "The application is disabled.";
    APP_DISABLED_FOR_TENANT = 70001, "unauthorized_client", 400, Directory, "The application is not installed, or disabled in this tenant.";
    TENANT_NOT_FOUND = 90002, "invalid_request", 400, Directory, "The tenant was not found. Check that the tenant id and the cloud are right.";
    TENANT_ID_MALFORMED = 900023, "invalid_request", 400, Directory, "The tenant identifier is neither a valid DNS name nor a valid external domain.";
    TENANT_UNAVAILABLE = 5000224, "invalid_request", 400, Directory, "The tenant is not available.";
    OTHER_CLOUD = 90038, "invalid_request", 400, Directory, "The tenant belongs to a national cloud: the request has to go there.";
    OTHER_CLOUD_REQUEST = 900382, "invalid_request", 400, Directory, "A confidential client is not supported in a cross-cloud request.";
    OTHER_CLOUD_APP = 900432, "invalid_request", 400, Directory, "A confidential client is not supported across clouds.";
    APP_MISCONFIGURED = 650056, "unauthorized_client", 400, Directory, "The application is misconfigured: it lists no permissions.";
    RESOURCE_NOT_LISTED = 650057, "invalid_resource", 400, Directory, "The client asked for a resource that is not among its requested permissions.";
    PERMISSIONS_MISCONFIGURED = 65005, "invalid_resource", 400, Directory, "The application's required resource access is misconfigured.";
    RESOURCE_NOT_FOUND = 500011, "invalid_resource", 400, Directory, "The resource principal was not found in the tenant.";
    RESOURCE_NOT_SUBSCRIBED = 650052, "invalid_client", 400, Directory, "The app needs access to a service that the organization has not subscribed to.";

    // The request.
    SCOPE_INVALID = 70011, "invalid_scope", 400, Directory, "The requested scope is not valid.";
    SCOPE_NOT_DEFAULT = 1002012, "invalid_scope", 400, Directory, "Client credential flows must have a scope that is the resource with /.default behind it.";
    SCOPE_EMPTY = 28002, "invalid_scope", 400, Directory, "The requested scope is not valid for the resource.";
    PARAMETER_ABSENT = 900144, "invalid_request", 400, Directory, "The request body must contain a parameter that is missing.";
    FIELD_ABSENT = 90014, "invalid_request", 400, Directory, "A required field is missing from the credential.";
    GRANT_TYPE_UNSUPPORTED = 70003, "unsupported_grant_type", 400, Directory, "The app asked for a grant type that is not supported.";

    // Policies.
    CONSENT_MISSING = 65001, "invalid_grant", 400, Policy, "Nobody has consented to use the application.";
    ADMIN_CONSENT_MISSING = 90094, "invalid_grant", 400, Policy, "The application needs permissions that only an administrator can grant.";
    CONDITIONAL_ACCESS = 53003, "invalid_grant", 400, Policy, "Access has been blocked by Conditional Access policies.";
    SECURITY_POLICY = 530032, "invalid_grant", 400, Policy, "Access has been blocked by the tenant's security policy.";

    // Too much, or not now.
    REQUEST_LOOP = 50196, "invalid_grant", 400, Directory, "The server ended the operation because the client seems to ask in a loop.";
    TENANT_THROTTLED = 90055, "temporarily_unavailable", 429, Directory, "There are too many requests for this tenant.";
    UNAVAILABLE = 90033, "temporarily_unavailable", 503, Directory, "A transient error has occurred. Please try again.";
    RETRYABLE = 90006, "server_error", 400, Directory, "The service is temporarily unavailable. Please retry.";
    BUSY = 90024, "server_error", 400, Directory, "The request budget is exceeded: a transient error has occurred.";
    TIMED_OUT = 90012, "temporarily_unavailable", 400, Directory, "The request has timed out.";
    RETRYABLE_DATABASE = 50033, "server_error", 400, Directory, "A transient error of the database has occurred.";
    DELEGATION_FAILED = 90090, "temporarily_unavailable", 400, Directory, "The service could not reach Graph to evaluate the request.";

    // Rarely seen.
    CERTIFICATE_VALIDITY = 1000502, "invalid_client", 401, Credential, "The certificate is not within its validity.";
    FEDERATION_OF_ENTRA = 700222, "invalid_client", 401, Credential, "Tokens that Entra issues are not taken as federated credentials.";
    FEDERATION_OF_USER = 700229, "invalid_client", 401, Credential, "Only tokens of applications are taken as federated credentials.";
    FEDERATION_ENDPOINT = 50166, "invalid_request", 400, Credential, "The external OIDC endpoint did not answer.";
    FEDERATION_KEY = 7000272, "invalid_client", 401, Credential, "The key of the federated credential is not in the issuer's metadata.";
    TENANT_RESTRICTED = 500021, "access_denied", 400, Directory, "Access to the tenant is denied.";
    NOT_ASSIGNED = 501051, "access_denied", 400, Directory, "The application is not assigned to a role of the resource.";

    // Not in any list.
    UNLISTED = 7999999, "unlisted_error", 400, Directory, "An error that no list mentions has occurred.";
}

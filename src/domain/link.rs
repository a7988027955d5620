//! Where a next step leads.

/// A place that helps. Resolved against the run's own target by [`LinkContext`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// The list of connections in the surrounding application.
    Connections,
    /// The run's connection in the surrounding application.
    Connection,
    /// The run itself in the surrounding application.
    Run,
    AppOverview,
    AppCredentials,
    AppAuthentication,
    ApiPermissions,
    EnterpriseApp,
    AdminConsent,
    ErrorCodes,
    GraphErrors,
    GraphPaging,
    Throttling,
    CertificateCredentials,
    ConditionalAccess,
    WorkloadFederation,
    NationalClouds,
    FindTenantId,
    ServiceHealth,
    IntuneLicences,
    IntuneRoles,
    MdmAuthority,
    EntraLicences,
    DirectoryLimits,
    GraphAuthErrors,
}

/// What links are made of: the run's target, and where the surrounding application has its pages.
#[derive(Clone, Debug)]
pub struct LinkContext {
    /// Path or `https` address of the list of connections.
    pub connections: String,
    /// The same for one connection; `{id}` stands for its id.
    pub connection: String,
    /// The same for one run; `{id}` stands for its id.
    pub run: String,
    pub run_id: i64,
    pub connection_id: Option<i64>,
    /// Base address of the cloud's portal, without a slash at the end.
    pub portal: String,
    /// Base address of the cloud's login, without a slash at the end.
    pub login: String,
    pub entra_tenant_id: Option<String>,
    pub client_id: Option<String>,
}

const LEARN: &str = "https://learn.microsoft.com";

impl LinkContext {
    /// The address that a link leads to: `https://…`, or a path of the surrounding application.
    pub fn resolve(&self, link: Link) -> String {
        let learn = |path: &str| format!("{LEARN}{path}");
        let app = |blade: &str| match &self.client_id {
            Some(id) if is_guid(id) => format!(
                "{}/#view/Microsoft_AAD_RegisteredApps/ApplicationMenuBlade/~/{blade}/appId/{id}",
                self.portal
            ),
            _ => format!(
                "{}/#view/Microsoft_AAD_RegisteredApps/ApplicationsListBlade",
                self.portal
            ),
        };
        match link {
            Link::Connections => self.connections.clone(),
            Link::Connection => match self.connection_id {
                Some(id) => self.connection.replace("{id}", &id.to_string()),
                None => self.connections.clone(),
            },
            Link::Run => self.run.replace("{id}", &self.run_id.to_string()),
            Link::AppOverview => app("Overview"),
            Link::AppCredentials => app("Credentials"),
            Link::AppAuthentication => app("Authentication"),
            Link::ApiPermissions => app("CallAnAPI"),
            Link::EnterpriseApp => format!(
                "{}/#view/Microsoft_AAD_IAM/StartboardApplicationsMenuBlade/~/AppAppsPreview",
                self.portal
            ),
            Link::AdminConsent => match (&self.entra_tenant_id, &self.client_id) {
                // A login on loopback (simulator) has no page for people.
                (Some(tenant), Some(client))
                    if is_guid(tenant) && is_guid(client) && self.login.starts_with("https://") =>
                {
                    format!("{}/{tenant}/adminconsent?client_id={client}", self.login)
                }
                _ => app("CallAnAPI"),
            },
            Link::ErrorCodes => learn("/entra/identity-platform/reference-error-codes"),
            Link::GraphErrors => learn("/graph/errors"),
            Link::GraphPaging => learn("/graph/paging"),
            Link::Throttling => learn("/graph/throttling"),
            Link::CertificateCredentials => {
                learn("/entra/identity-platform/certificate-credentials")
            }
            Link::ConditionalAccess => {
                learn("/entra/identity/conditional-access/workload-identity")
            }
            Link::WorkloadFederation => learn("/entra/workload-id/workload-identity-federation"),
            Link::NationalClouds => learn("/graph/deployments"),
            Link::FindTenantId => learn("/entra/fundamentals/how-to-find-tenant"),
            Link::ServiceHealth => "https://admin.microsoft.com/#/servicehealth".to_owned(),
            Link::IntuneLicences => learn("/mem/intune/fundamentals/licenses"),
            Link::IntuneRoles => learn("/mem/intune/fundamentals/role-based-access-control"),
            Link::MdmAuthority => learn("/mem/intune/fundamentals/mdm-authority-set"),
            Link::EntraLicences => learn("/entra/fundamentals/licensing"),
            Link::DirectoryLimits => {
                learn("/entra/identity/users/directory-service-limits-restrictions")
            }
            Link::GraphAuthErrors => learn("/graph/resolve-auth-errors"),
        }
    }
}

/// Whether the text is a GUID in its usual form of 36 characters.
pub fn is_guid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

//! The targets of next steps. Every form of link is defined in this file and tested.

use super::report::NextStep;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The target of a next step, resolved against the run's target by [`LinkContext`].
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
    /// Federated credentials of the registration: a tab of the page of secrets and certificates.
    AppFederation,
    ApiPermissions,
    /// Overview of the enterprise application.
    EnterpriseApp,
    EnterpriseAppPermissions,
    EnterpriseAppUsers,
    /// Where the enterprise application is enabled and disabled.
    EnterpriseAppProperties,
    /// The list of enterprise applications of the customer.
    EnterpriseApps,
    AdminConsent,
    ErrorCodes,
    GraphErrors,
    GraphPaging,
    Throttling,
    CertificateCredentials,
    ConditionalAccess,
    WorkloadFederation,
    TenantRestrictions,
    NationalClouds,
    FindTenantId,
    ServiceHealth,
    /// Subscriptions of the customer, in the Microsoft 365 admin center.
    Subscriptions,
    IntuneLicences,
    InaccessibleTenant,
    IntuneRoles,
    MdmAuthority,
    EntraLicences,
    DirectoryLimits,
    GraphAuthErrors,
}

/// Whose directory a link opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    /// The one that the application is registered in.
    Owner,
    /// The one that the connection checks.
    Customer,
}

impl Directory {
    /// Returns the words after a step's label that say whose directory it is for.
    const fn as_words(self) -> &'static str {
        match self {
            Self::Owner => "in the directory that owns the application",
            Self::Customer => "in the customer's directory",
        }
    }
}

impl Link {
    /// The directory that it opens; `None` where it opens none.
    pub const fn directory(self) -> Option<Directory> {
        match self {
            Self::AppOverview
            | Self::AppCredentials
            | Self::AppAuthentication
            | Self::AppFederation
            | Self::ApiPermissions => Some(Directory::Owner),
            Self::EnterpriseApp
            | Self::EnterpriseAppPermissions
            | Self::EnterpriseAppUsers
            | Self::EnterpriseAppProperties
            | Self::EnterpriseApps
            | Self::Subscriptions
            | Self::AdminConsent => Some(Directory::Customer),
            _ => None,
        }
    }
}

/// Base addresses of one cloud, each without a slash at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkBases {
    pub portal: String,
    pub login: String,
    pub graph: String,
}

/// The values that links are built from: the run's target, facts about the connection, and the addresses of
/// the surrounding application's pages.
#[derive(Clone, Debug, Default)]
pub struct LinkContext {
    /// Path or `https` address of the list of connections.
    pub connections: String,
    /// Address of the page of a connection; `{id}` is replaced by its id.
    pub connection: String,
    /// Address of the page of a run; `{id}` is replaced by its id.
    pub run: String,
    pub run_id: i64,
    pub connection_id: Option<i64>,
    /// Base address of the cloud's portal, without a slash at the end.
    pub portal: String,
    /// Base address of the cloud's login, without a slash at the end.
    pub login: String,
    /// Base address of the cloud's Graph, without a slash at the end.
    pub graph: String,
    /// The customer's directory.
    pub entra_tenant_id: Option<String>,
    pub client_id: Option<String>,
    /// The directory that owns the application (`appOwnerOrganizationId`), where it is known.
    pub owner_tenant_id: Option<String>,
    /// Object id of the application's service principal in the customer's directory, where it is known.
    pub service_principal_id: Option<String>,
    /// Where the consent page leads back to; `None` where nothing is configured.
    pub consent_redirect: Option<String>,
}

const LEARN: &str = "https://learn.microsoft.com";

/// Everything that RFC 3986 does not call unreserved.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl LinkContext {
    /// Builds a next step: its label with whose directory it is for, and its address.
    pub fn step(&self, label: &str, link: Link) -> NextStep {
        NextStep {
            label: labelled(label, link),
            url: self.resolve(link),
        }
    }

    /// The address that a link leads to: `https://…`, or a path of the surrounding application.
    pub fn resolve(&self, link: Link) -> String {
        let learn = |path: &str| format!("{LEARN}{path}");
        match link {
            Link::Connections => self.connections.clone(),
            Link::Connection => match self.connection_id {
                Some(id) => self.connection.replace("{id}", &id.to_string()),
                None => self.connections.clone(),
            },
            Link::Run => self.run.replace("{id}", &self.run_id.to_string()),
            Link::AppOverview => self.registration("Overview", ""),
            // Federated credentials have no address of their own.
            Link::AppCredentials | Link::AppFederation => self.registration("Credentials", ""),
            Link::AppAuthentication => self.registration("Authentication", ""),
            Link::ApiPermissions => self.registration("CallAnAPI", "/isMSAApp~/false"),
            Link::EnterpriseApp => self.enterprise_app("Overview"),
            Link::EnterpriseAppPermissions => self.enterprise_app("Permissions"),
            Link::EnterpriseAppUsers => self.enterprise_app("Users"),
            Link::EnterpriseAppProperties => self.enterprise_app("Properties"),
            Link::EnterpriseApps => self.enterprise_apps(),
            // The page of permissions has a button for it, too.
            Link::AdminConsent => self
                .consent()
                .unwrap_or_else(|| self.enterprise_app("Permissions")),
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
            Link::TenantRestrictions => {
                learn("/entra/identity/enterprise-apps/tenant-restrictions")
            }
            Link::NationalClouds => learn("/graph/deployments"),
            Link::FindTenantId => learn("/entra/fundamentals/how-to-find-tenant"),
            Link::ServiceHealth => self.admin_center("servicehealth"),
            Link::Subscriptions => self.admin_center("subscriptions"),
            Link::InaccessibleTenant => learn("/entra/fundamentals/inaccessible-tenant"),
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

    /// The login service's own page on an AADSTS code.
    pub fn error_lookup(&self, code: u64) -> String {
        if self.has_login_pages() {
            format!("{}/error?code={code}", self.login)
        } else {
            self.resolve(Link::ErrorCodes)
        }
    }

    /// Returns a page of the Microsoft 365 admin center of the cloud, which its Graph address identifies.
    fn admin_center(&self, page: &str) -> String {
        let center = match self.graph.as_str() {
            "https://graph.microsoft.us" => "https://portal.office365.us",
            "https://dod-graph.microsoft.us" => "https://portal.apps.mil",
            "https://microsoftgraph.chinacloudapi.cn" => {
                "https://portal.partner.microsoftonline.cn"
            }
            _ => "https://admin.microsoft.com",
        };
        format!("{center}/adminportal/home#/{page}")
    }

    /// Returns a page of the registration, in the directory that owns it. Where the owner is unknown the
    /// address names no directory: the one that the person is signed in to may be right, a guessed one is
    /// not.
    fn registration(&self, page: &str, more: &str) -> String {
        let base = self.portal_of(self.owner_tenant_id.as_deref());
        match guid(self.client_id.as_deref()) {
            Some(client) => format!(
                "{base}/#view/Microsoft_AAD_RegisteredApps/ApplicationMenuBlade/~/{page}/appId/{client}{more}"
            ),
            None => format!("{base}/#view/Microsoft_AAD_RegisteredApps/ApplicationsListBlade"),
        }
    }

    /// A page of the enterprise application in the customer's directory, else the list of them there.
    fn enterprise_app(&self, page: &str) -> String {
        let base = self.portal_of(self.entra_tenant_id.as_deref());
        let object = guid(self.service_principal_id.as_deref());
        match object.zip(guid(self.client_id.as_deref())) {
            Some((object, client)) => format!(
                "{base}/#view/Microsoft_AAD_IAM/ManagedAppMenuBlade/~/{page}/objectId/{object}/appId/{client}"
            ),
            None => self.enterprise_apps(),
        }
    }

    fn enterprise_apps(&self) -> String {
        let base = self.portal_of(self.entra_tenant_id.as_deref());
        format!("{base}/#view/Microsoft_AAD_IAM/StartboardApplicationsMenuBlade/~/AppAppsPreview")
    }

    fn portal_of(&self, directory: Option<&str>) -> String {
        match guid(directory) {
            Some(directory) => format!("{}/{directory}", self.portal),
            None => self.portal.clone(),
        }
    }

    /// Returns the page where an administrator of the customer consents to the permissions that the
    /// registration requests.
    ///
    /// `state` names the connection and nothing else, so it is the same in every report. It identifies the
    /// connection to whoever handles the redirect; it proves nothing.
    fn consent(&self) -> Option<String> {
        let tenant = guid(self.entra_tenant_id.as_deref())?;
        let client = guid(self.client_id.as_deref())?;
        if !self.has_login_pages() {
            return None;
        }
        let encode = |text: &str| utf8_percent_encode(text, COMPONENT).to_string();
        let scope = encode(&format!("{}/.default", self.graph));
        let mut url = format!(
            "{}/{tenant}/v2.0/adminconsent?client_id={client}&scope={scope}",
            self.login
        );
        if let Some(redirect) = &self.consent_redirect {
            url.push_str("&redirect_uri=");
            url.push_str(&encode(redirect));
            if let Some(id) = self.connection_id {
                url.push_str(&format!("&state=connection-{id}"));
            }
        }
        Some(url)
    }

    /// A login on loopback (simulator) has no page for people.
    fn has_login_pages(&self) -> bool {
        self.login.starts_with("https://")
    }
}

/// Returns a step's label with whose directory it is for.
fn labelled(label: &str, link: Link) -> String {
    match link.directory() {
        Some(directory) => format!("{label}, {}", directory.as_words()),
        None => label.to_owned(),
    }
}

fn guid(text: Option<&str>) -> Option<&str> {
    text.filter(|text| is_guid(text))
}

/// Whether the text is a GUID in its usual form of 36 characters.
pub fn is_guid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUSTOMER: &str = "5c000000-0000-4000-8000-000000000001";
    const OWNER: &str = "5c000000-0000-4000-8000-000000000002";
    const CLIENT: &str = "5c000000-0000-4000-8000-00000000000a";
    const OBJECT: &str = "5c000000-0000-4000-8000-00000000000b";

    fn links() -> LinkContext {
        LinkContext {
            connections: "/connections".into(),
            connection: "/connections/{id}".into(),
            run: "/runs/{id}".into(),
            run_id: 42,
            connection_id: Some(7),
            portal: "https://entra.microsoft.com".into(),
            login: "https://login.microsoftonline.com".into(),
            graph: "https://graph.microsoft.com".into(),
            entra_tenant_id: Some(CUSTOMER.into()),
            client_id: Some(CLIENT.into()),
            owner_tenant_id: Some(OWNER.into()),
            service_principal_id: Some(OBJECT.into()),
            consent_redirect: None,
        }
    }

    #[test]
    fn pages_of_the_registration_open_in_the_directory_that_owns_it() {
        let base = format!(
            "https://entra.microsoft.com/{OWNER}/#view/Microsoft_AAD_RegisteredApps/ApplicationMenuBlade/~"
        );
        for (link, page) in [
            (Link::AppOverview, format!("Overview/appId/{CLIENT}")),
            (Link::AppCredentials, format!("Credentials/appId/{CLIENT}")),
            (Link::AppFederation, format!("Credentials/appId/{CLIENT}")),
            (
                Link::AppAuthentication,
                format!("Authentication/appId/{CLIENT}"),
            ),
            (
                Link::ApiPermissions,
                format!("CallAnAPI/appId/{CLIENT}/isMSAApp~/false"),
            ),
        ] {
            assert_eq!(links().resolve(link), format!("{base}/{page}"));
            assert_eq!(link.directory(), Some(Directory::Owner));
        }
    }

    #[test]
    fn pages_of_the_enterprise_application_open_in_the_customers_directory() {
        let base = format!(
            "https://entra.microsoft.com/{CUSTOMER}/#view/Microsoft_AAD_IAM/ManagedAppMenuBlade/~"
        );
        for (link, page) in [
            (Link::EnterpriseApp, "Overview"),
            (Link::EnterpriseAppPermissions, "Permissions"),
            (Link::EnterpriseAppUsers, "Users"),
            (Link::EnterpriseAppProperties, "Properties"),
        ] {
            assert_eq!(
                links().resolve(link),
                format!("{base}/{page}/objectId/{OBJECT}/appId/{CLIENT}")
            );
            assert_eq!(link.directory(), Some(Directory::Customer));
        }
    }

    /// What is changed of the context, the link, and where it leads then.
    type Row<'a> = (fn(&mut LinkContext), Link, &'a str);

    fn assert_leads(rows: &[Row<'_>]) {
        for (row, (change, link, to)) in rows.iter().enumerate() {
            let mut links = links();
            change(&mut links);
            assert_eq!(links.resolve(*link), *to, "row {row}: {link:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_never_guessed() {
        const ENTRA: &str = "https://entra.microsoft.com";
        let registration = format!(
            "{ENTRA}/#view/Microsoft_AAD_RegisteredApps/ApplicationMenuBlade/~/Credentials/appId/{CLIENT}"
        );
        let registrations =
            format!("{ENTRA}/{OWNER}/#view/Microsoft_AAD_RegisteredApps/ApplicationsListBlade");
        let apps = format!(
            "{ENTRA}/{CUSTOMER}/#view/Microsoft_AAD_IAM/StartboardApplicationsMenuBlade/~/AppAppsPreview"
        );
        let permissions = links().resolve(Link::EnterpriseAppPermissions);
        assert_leads(&[
            (|c| c.connection_id = None, Link::Connection, "/connections"),
            (
                |c| c.owner_tenant_id = None,
                Link::AppCredentials,
                &registration,
            ),
            (
                |c| c.owner_tenant_id = Some("contoso.com".into()),
                Link::AppCredentials,
                &registration,
            ),
            (
                |c| c.owner_tenant_id = Some("../x".into()),
                Link::AppCredentials,
                &registration,
            ),
            (
                |c| c.client_id = Some("not a guid".into()),
                Link::ApiPermissions,
                &registrations,
            ),
            (
                |c| c.service_principal_id = None,
                Link::EnterpriseAppProperties,
                &apps,
            ),
            (|c| c.client_id = None, Link::EnterpriseAppProperties, &apps),
            // Also where the application's own is known: another one is meant.
            (|_| {}, Link::EnterpriseApps, &apps),
            // A login on loopback has no page for people.
            (
                |c| c.login = "http://127.0.0.1:1".into(),
                Link::AdminConsent,
                &permissions,
            ),
        ]);
    }

    #[test]
    fn pages_of_the_application_and_consent_have_their_addresses_in_each_cloud() {
        let consent = format!(
            "https://login.microsoftonline.com/{CUSTOMER}/v2.0/adminconsent?client_id={CLIENT}&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default"
        );
        let consent_in_china = format!(
            "https://login.partner.microsoftonline.cn/{CUSTOMER}/v2.0/adminconsent?client_id={CLIENT}&scope=https%3A%2F%2Fmicrosoftgraph.chinacloudapi.cn%2F.default"
        );
        let app_in_china = format!(
            "https://portal.azure.cn/{CUSTOMER}/#view/Microsoft_AAD_IAM/ManagedAppMenuBlade/~/Overview/objectId/{OBJECT}/appId/{CLIENT}"
        );
        assert_leads(&[
            (|_| {}, Link::Connections, "/connections"),
            (|_| {}, Link::Connection, "/connections/7"),
            (|_| {}, Link::Run, "/runs/42"),
            (|_| {}, Link::AdminConsent, &consent),
            (in_china, Link::AdminConsent, &consent_in_china),
            (in_china, Link::EnterpriseApp, &app_in_china),
        ]);
    }

    fn in_china(links: &mut LinkContext) {
        links.portal = "https://portal.azure.cn".into();
        links.login = "https://login.partner.microsoftonline.cn".into();
        links.graph = "https://microsoftgraph.chinacloudapi.cn".into();
    }

    #[test]
    fn consent_leads_back_where_a_redirect_is_configured() {
        let back = LinkContext {
            consent_redirect: Some("https://app.example/consent?a=1&b=ü".into()),
            ..links()
        };
        let url = back.resolve(Link::AdminConsent);
        let tail = "&redirect_uri=https%3A%2F%2Fapp.example%2Fconsent%3Fa%3D1%26b%3D%C3%BC&state=connection-7";
        assert!(url.ends_with(tail), "{url}");
        // Read as a browser's server reads it.
        let read: std::collections::HashMap<_, _> = url::Url::parse(&url)
            .unwrap()
            .query_pairs()
            .into_owned()
            .collect();
        assert_eq!(read["redirect_uri"], "https://app.example/consent?a=1&b=ü");
        assert_eq!(read["scope"], "https://graph.microsoft.com/.default");
        assert_eq!(read["state"], "connection-7");
        // The same in every report.
        assert_eq!(url, back.resolve(Link::AdminConsent));
    }

    #[test]
    fn an_error_is_looked_up_at_the_login_service_of_the_cloud() {
        let mut links = links();
        let global = "https://login.microsoftonline.com/error?code=50058";
        assert_eq!(links.error_lookup(50_058), global);
        in_china(&mut links);
        let china = "https://login.partner.microsoftonline.cn/error?code=90002";
        assert_eq!(links.error_lookup(90_002), china);
        links.login = "http://127.0.0.1:1".into();
        let codes = links.resolve(Link::ErrorCodes);
        assert_eq!(links.error_lookup(7_000_215), codes);
    }

    #[test]
    fn steps_say_in_whose_directory_they_are_taken() {
        let label = |link| links().step("Do it", link).label;
        assert_eq!(
            label(Link::AppCredentials),
            "Do it, in the directory that owns the application"
        );
        assert_eq!(
            label(Link::AdminConsent),
            "Do it, in the customer's directory"
        );
        assert_eq!(label(Link::Connection), "Do it");
    }

    #[test]
    fn documentation_is_microsofts() {
        for link in [
            Link::ErrorCodes,
            Link::GraphErrors,
            Link::GraphPaging,
            Link::Throttling,
            Link::CertificateCredentials,
            Link::ConditionalAccess,
            Link::WorkloadFederation,
            Link::NationalClouds,
            Link::FindTenantId,
            Link::IntuneLicences,
            Link::InaccessibleTenant,
        ] {
            assert!(
                links()
                    .resolve(link)
                    .starts_with("https://learn.microsoft.com/")
            );
            assert_eq!(link.directory(), None);
        }
    }

    #[test]
    fn service_health_opens_in_the_admin_center_of_the_cloud() {
        for (graph, center) in [
            ("https://graph.microsoft.com", "https://admin.microsoft.com"),
            ("https://graph.microsoft.us", "https://portal.office365.us"),
            ("https://dod-graph.microsoft.us", "https://portal.apps.mil"),
            (
                "https://microsoftgraph.chinacloudapi.cn",
                "https://portal.partner.microsoftonline.cn",
            ),
        ] {
            let links = LinkContext {
                graph: graph.to_owned(),
                ..links()
            };
            assert_eq!(
                links.resolve(Link::ServiceHealth),
                format!("{center}/adminportal/home#/servicehealth")
            );
            assert_eq!(
                links.resolve(Link::Subscriptions),
                format!("{center}/adminportal/home#/subscriptions")
            );
        }
    }
}

//! A case through the real provider over HTTP: preflight, check, report.

use crate::verdicts::case::{Case, Kind};
use crate::verdicts::server::Server;
use crate::verdicts::tenant::Tenant;
use crate::verdicts::text;
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use test_support::microsoft::{self, CLIENT, Still, TENANT, jwt};
use verifyd::domain::ConnectionId;
use verifyd::domain::connection_facts::RecordedExpiry;
use verifyd::domain::credential::Credential;
use verifyd::domain::report::{Identity, Report, ReportDraft, Severity, schema};
use verifyd::ports::provider::{CheckSpec, Disposition, Provider, Target};
use verifyd::provider::microsoft::{CloudSettings, MicrosoftProvider, MicrosoftSettings};

pub const NOW: &str = "2026-01-01T00:00:00Z";

/// What a case led to.
pub struct Got {
    pub outcome: &'static str,
    pub report: Report,
    pub json: String,
    pub later: Option<Duration>,
    pub token_requests: usize,
}

/// Asked for modules only: the provider of the replays needs their servers first.
static CATALOGUE: LazyLock<MicrosoftProvider> =
    LazyLock::new(|| provider(std::iter::once("http://127.0.0.1:1".to_owned())));

fn provider(bases: impl Iterator<Item = String>) -> MicrosoftProvider {
    MicrosoftProvider::new(&settings(bases), Arc::new(Still)).unwrap()
}

static KEY: LazyLock<rcgen::KeyPair> =
    LazyLock::new(|| rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());

fn settings(bases: impl Iterator<Item = String>) -> MicrosoftSettings {
    MicrosoftSettings {
        default_cloud: cloud(0),
        request_timeout: Duration::from_secs(240),
        clouds: bases
            .enumerate()
            .map(|(at, base)| {
                let settings = CloudSettings {
                    login: base.clone(),
                    graph: base,
                    portal: "https://portal.example.com".into(),
                };
                (cloud(at), settings)
            })
            .collect(),
        ..microsoft::settings("", "")
    }
}

/// Each replay has a cloud of its own, so that it shares no token and nothing else that is kept.
fn cloud(at: usize) -> String {
    format!("case_{at}")
}

fn certificate(valid_days: i64) -> Credential {
    let mut params = rcgen::CertificateParams::new(vec!["worker.test".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    // Of the day only: rcgen has no type of time that this crate could name.
    let last = text::now() + TimeDelta::days(valid_days);
    use chrono::Datelike as _;
    let (month, day) = (last.month() as u8, last.day() as u8);
    params.not_after = rcgen::date_time_ymd(last.year(), month, day);
    Credential::Certificate {
        private_key_pem: KEY.serialize_pem().into(),
        certificate_pem: params.self_signed(&*KEY).unwrap().pem(),
    }
}

/// Writes the token's file, unless there is to be none.
fn federated(case: &Case, folder: &std::path::Path) -> Credential {
    let path = folder.join("token");
    let wanted = &case.connection.federated_token;
    let now = text::now().timestamp();
    let mut claims = json!({
        "iss": "https://issuer.example.com/cluster",
        "sub": "system:serviceaccount:verifyd:worker",
        "aud": ["api://AzureADTokenExchange"],
        "iat": now - 600,
        "nbf": now - 600,
        "exp": now + wanted.expires_in.unwrap_or(3000),
    });
    for (name, value) in &wanted.claims {
        claims[name] = serde_json::to_value(value).unwrap();
    }
    let token = jwt(&claims);
    let text = match &wanted.text {
        Some(text) => text.replace("${jwt}", &token),
        None => token,
    };
    if !wanted.missing {
        std::fs::write(&path, text).unwrap();
    }
    Credential::FederatedTokenFile { path }
}

fn target(case: &Case, credential: Credential) -> Target {
    let ago = |seconds: Option<i64>| seconds.map(|ago| text::now() - TimeDelta::seconds(ago));
    let expires = case.connection.credential_expires_in_days;
    let deadline = Duration::from_secs(case.connection.deadline_seconds);
    let mut target = Target {
        credential,
        credential_changed_at: ago(case.connection.credential_changed_seconds_ago),
        credential_expiry: expires.map_or(RecordedExpiry::Absent, |days| {
            RecordedExpiry::At(text::now() + TimeDelta::days(days))
        }),
        deadline: tokio::time::Instant::now() + deadline,
        ..microsoft::target(&case.connection.module)
    };
    target.connection.created_at = ago(case.connection.created_seconds_ago);
    target
}

/// A provider with a server for each of some cases. Making one reads all trusted certificates, so it is
/// not made for each case.
pub struct Stage {
    provider: MicrosoftProvider,
    servers: Vec<Server>,
}

impl Stage {
    pub async fn open(cases: &[Case]) -> Self {
        let mut servers = Vec::new();
        for case in cases {
            servers.push(Server::start(case, tenant(case)).await);
        }
        Self {
            provider: provider(servers.iter().map(|server| server.base().to_owned())),
            servers,
        }
    }

    /// Replays the case at this place.
    pub async fn replay(&self, at: usize, case: &Case) -> Got {
        replay(&self.provider, &self.servers[at], cloud(at), case).await
    }
}

/// With what its module needs, unless the case says otherwise.
fn tenant(case: &Case) -> Tenant {
    let connection = &case.connection;
    let required = CATALOGUE
        .required_permissions(&connection.module)
        .iter()
        .map(|permission| permission.key.to_owned())
        .collect();
    let granted: Vec<String> = connection.granted.clone().unwrap_or(required);
    Tenant {
        token_roles: connection.token_roles.clone().unwrap_or(granted.clone()),
        granted,
        opaque_token: connection.opaque_token,
    }
}

async fn replay(provider: &MicrosoftProvider, server: &Server, cloud: String, case: &Case) -> Got {
    let folder = tempfile::tempdir().unwrap();
    let credential = match case.connection.credential {
        Kind::Secret => Credential::ClientSecret {
            secret: "canary-secret-value".to_owned().into(),
            client_id: None,
        },
        Kind::Certificate => certificate(case.connection.certificate_valid_days),
        Kind::Federated => federated(case, folder.path()),
    };
    let mut target = target(case, credential);
    target.connection.cloud = Some(cloud);
    let module = &case.connection.module;
    let planned = provider.planned_checks(module);
    let (outcome, checks, later) = match provider.preflight(&target.connection, &target.credential)
    {
        Err(unmet) => {
            let (key, title) = ("preflight.credential", "The credential is ready");
            let spec = CheckSpec::new(key, title, true, Severity::Critical);
            let mut checks = vec![spec.fail(unmet.reason, &target.links, unmet.evidence)];
            checks.extend(planned.iter().map(|spec| spec.skip(&target.links)));
            ("blocked", checks, None)
        }
        Ok(()) => {
            let findings = provider.check(&target).await;
            let outcome = match findings.healthy && findings.inventory.is_some() {
                true => "succeeded",
                false => "failed",
            };
            let later = match findings.disposition {
                Disposition::Later(wait)
                | Disposition::Backoff(wait)
                | Disposition::Budget(wait) => Some(wait),
                Disposition::Finished => None,
            };
            (outcome, findings.checks, later)
        }
    };
    let draft = ReportDraft {
        identity: Identity {
            entra_tenant_id: Some(TENANT.into()),
            client_id: Some(CLIENT.into()),
            cloud: Some("test".into()),
            provider_connection_id: Some(ConnectionId(7)),
        },
        generated_at: text::now(),
        previous_report_id: None,
        checks,
    };
    let finished = draft.finish(&target.credential.secret_values(), "/runs/1");
    let json = finished.json.get().to_owned();
    assert_eq!(
        finished.replaced, None,
        "{}: the report is replaced",
        case.name
    );
    let tree: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(schema::validate(&tree), Ok(()), "{}", case.name);
    Got {
        outcome,
        report: finished.report,
        json,
        later,
        token_requests: server.token_requests(),
    }
}

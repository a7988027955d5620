//! Whether a report is the one that its case expects, and what holds for every report.

use crate::verdicts::case::{Case, ExpectedCheck};
use crate::verdicts::replay::Got;
use crate::verdicts::text;
use std::collections::BTreeSet;
use verifyd::domain::Reason;
use verifyd::domain::report::{Check, CheckStatus, EvidenceKind, NextStep};

/// The kind of link that an address is: what it leads to, whatever directory or application is meant.
pub fn kind_of_link(url: &str) -> String {
    let rules: &[(&str, &str)] = &[
        ("/adminconsent?", "admin_consent"),
        ("~/Credentials/", "app_credentials"),
        ("~/CallAnAPI/", "api_permissions"),
        ("ApplicationMenuBlade/~/Overview/", "app_overview"),
        (
            "ApplicationMenuBlade/~/Authentication/",
            "app_authentication",
        ),
        (
            "ManagedAppMenuBlade/~/Permissions/",
            "enterprise_app_permissions",
        ),
        ("ManagedAppMenuBlade", "enterprise_app"),
        ("StartboardApplicationsMenuBlade", "enterprise_app"),
        ("/error?code=", "error_lookup"),
        ("reference-error-codes", "error_codes"),
        ("/graph/errors", "graph_errors"),
        ("/graph/paging", "graph_paging"),
        ("/graph/throttling", "throttling"),
        ("certificate-credentials", "certificate_credentials"),
        ("/conditional-access/", "conditional_access"),
        ("workload-identity-federation", "workload_federation"),
        ("/graph/deployments", "national_clouds"),
        ("how-to-find-tenant", "find_tenant_id"),
        ("inaccessible-tenant", "inaccessible_tenant"),
        ("servicehealth", "service_health"),
        ("adminportal/home#/subscriptions", "subscriptions"),
        ("/intune/fundamentals/licenses", "intune_licences"),
        ("tenant-restrictions", "tenant_restrictions"),
        ("/intune/fundamentals/role-based", "intune_roles"),
        ("/intune/fundamentals/mdm-authority", "mdm_authority"),
        ("/entra/fundamentals/licensing", "entra_licences"),
        ("directory-service-limits", "directory_limits"),
        ("/graph/resolve-auth-errors", "graph_auth_errors"),
    ];
    match url {
        "/connections" => "connections".to_owned(),
        path if path.starts_with("/connections/") => "connection".to_owned(),
        path if path.starts_with("/runs/") => "run".to_owned(),
        _ => rules
            .iter()
            .find(|(part, _)| url.contains(part))
            .map_or_else(|| url.to_owned(), |(_, kind)| (*kind).to_owned()),
    }
}

fn kinds(steps: &[NextStep]) -> Vec<String> {
    steps.iter().map(|step| kind_of_link(&step.url)).collect()
}

/// What is not as expected; nothing when all is.
pub fn problems(case: &Case, got: &Got) -> Vec<String> {
    let expect = &case.expect;
    let mut problems = Vec::new();
    let mut hold = |what: &str, expected: String, found: String| {
        if expected != found {
            problems.push(format!("{what}: expected {expected}, got {found}"));
        }
    };
    hold("outcome", expect.outcome.clone(), got.outcome.to_owned());
    hold(
        "overall",
        expect.overall.clone(),
        got.report.summary.overall.to_string(),
    );
    if expect.later_seconds.is_some() || got.later.is_some() {
        let found = got.later.map(|wait| wait.as_secs());
        hold(
            "later_seconds",
            format!("{:?}", expect.later_seconds),
            format!("{found:?}"),
        );
    }
    if let Some(expected) = expect.token_requests {
        hold(
            "token_requests",
            expected.to_string(),
            got.token_requests.to_string(),
        );
    }
    for expected in &expect.checks {
        let found = got
            .report
            .checks
            .iter()
            .find(|check| check.key == expected.key);
        match found {
            Some(found) => problems.extend(check_problems(expected, found)),
            None => problems.push(format!("no check {}", expected.key)),
        }
    }
    if expect.only {
        let named: BTreeSet<&str> = expect
            .checks
            .iter()
            .map(|check| check.key.as_str())
            .collect();
        for check in &got.report.checks {
            if check.status != CheckStatus::Pass && !named.contains(check.key.as_str()) {
                problems.push(format!("{} is {}, too", check.key, state(check)));
            }
        }
    }
    problems
}

fn check_problems(expected: &ExpectedCheck, found: &Check) -> Vec<String> {
    let mut problems = Vec::new();
    let mut hold = |what: &str, expected: &str, got: &str| {
        if expected != got {
            problems.push(format!(
                "{} {what}: expected {expected}, got {got}",
                found.key
            ));
        }
    };
    hold("status", &expected.status, found.status.as_str());
    let reason = found.reason_code.map_or("none", Reason::code);
    hold(
        "reason",
        expected.reason.as_deref().unwrap_or("none"),
        reason,
    );
    if let Some(severity) = &expected.severity {
        hold("severity", severity, found.severity.as_str());
    }
    if let Some(steps) = &expected.steps {
        hold(
            "steps",
            &steps.join(", "),
            &kinds(&found.next_steps).join(", "),
        );
    }
    for url in &expected.urls {
        let url = text::expand(url, "");
        if !found.next_steps.iter().any(|step| step.url == url) {
            let urls: Vec<&str> = found.next_steps.iter().map(|s| s.url.as_str()).collect();
            hold("urls", &url, &urls.join(", "));
        }
    }
    for (kind, values) in &expected.evidence {
        let of_kind = found.evidence.iter().filter(|e| e.kind.as_str() == kind);
        let got: Vec<&str> = of_kind.map(|e| e.value.as_str()).collect();
        let wanted: Vec<String> = values.all().iter().map(|v| text::expand(v, "")).collect();
        hold(kind, &wanted.join(", "), &got.join(", "));
    }
    problems
}

/// Status and reason in short.
pub fn state(check: &Check) -> String {
    match check.reason_code {
        Some(reason) => format!("{}/{reason}", check.status),
        None => check.status.to_string(),
    }
}

fn is_permission_name(word: &str) -> bool {
    word.contains('.') && (word.ends_with(".All") || word.contains(".Read"))
}

/// No step asks for what the same report shows to be done.
pub fn contradictions(checks: &[Check]) -> Vec<String> {
    let passed = |key: &str| {
        let check = checks.iter().find(|check| check.key == key);
        check.is_some_and(|check| check.status == CheckStatus::Pass)
    };
    let permissions = |status: CheckStatus| {
        let of_status = checks
            .iter()
            .filter(move |check| check.key.starts_with("permissions.") && check.status == status);
        of_status.flat_map(|check| {
            check
                .evidence
                .iter()
                .filter(|e| matches!(e.kind, EvidenceKind::Permission | EvidenceKind::SatisfiedBy))
                .map(|e| e.value.as_str())
        })
    };
    let granted: BTreeSet<&str> = permissions(CheckStatus::Pass).collect();
    let is_missing = permissions(CheckStatus::Fail).next().is_some();
    let mut found = Vec::new();
    for check in checks {
        if matches!(check.status, CheckStatus::Pass | CheckStatus::Skip) {
            continue;
        }
        for step in &check.next_steps {
            let kind = kind_of_link(&step.url);
            let words = step.label.split([' ', ',']);
            let mut asked: BTreeSet<&str> = words.filter(|word| is_permission_name(word)).collect();
            let asks_to_grant = ["Grant", "Add"]
                .iter()
                .any(|verb| step.label.starts_with(verb));
            if asks_to_grant {
                let named = check
                    .evidence
                    .iter()
                    .filter(|e| e.kind == EvidenceKind::Permission);
                asked.extend(named.map(|e| e.value.as_str()));
            }
            let mut say = |what: &str| {
                let state = state(check);
                found.push(format!(
                    "{} ({state}) asks \"{}\", but {what}",
                    check.key, step.label
                ));
            };
            if asks_to_grant && !asked.is_empty() && asked.is_subset(&granted) {
                say("that is granted");
            }
            if asks_to_grant && asked.is_empty() && !granted.is_empty() && !is_missing {
                say("nothing is missing");
            }
            if kind == "admin_consent"
                && check.reason_code == Some(Reason::ServicePrincipalMissing)
                && (passed("provider.service_principal") || !granted.is_empty())
            {
                say("the service principal is there");
            }
            if kind == "app_credentials"
                && check.key.starts_with("provider.")
                && passed("provider.authentication")
            {
                say("the sign-in works");
            }
        }
    }
    found
}

/// What of a message, a secret or a token has reached the report.
pub fn leaks(json: &str) -> Vec<String> {
    ["canary", "eyJ"]
        .iter()
        .filter(|text| json.contains(**text))
        .map(|text| format!("the report holds {text:?}"))
        .collect()
}

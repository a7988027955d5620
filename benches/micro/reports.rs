//! Building, fingerprinting and validating reports.

use super::Suite;
use chrono::DateTime;
use criterion::BatchSize;
use secrecy::SecretString;
use serde_json::Value;
use std::hint::black_box;
use verifyd::domain::reason::Reason;
use verifyd::domain::report::{
    Check, CheckStatus, Evidence, EvidenceKind, Identity, NextStep, ReportDraft, SCHEMA_VERSION,
    Severity, fingerprint, schema,
};
use verifyd::domain::run::RUN_TYPE;
use verifyd::domain::{ConnectionId, RunId};

/// Checks of a small report, of ones for a module with many permissions, and of a very large one.
const SIZES: [usize; 5] = [10, 25, 30, 50, 100];

/// A folder into which the measured reports are written, for whoever measures more of them
/// (`bench/growth/run`).
const WRITE_INTO: &str = "VERIFYD_MICRO_REPORTS";

pub fn measure(suite: &mut Suite) {
    let secrets = [SecretString::from(
        "a-client-secret-of-usual-length-0123456",
    )];
    for size in SIZES {
        let draft = draft(size);
        let finished = draft.clone().finish(&secrets, "/operation-runs/42");
        assert_eq!(finished.replaced, None, "the draft is valid");
        if let Some(folder) = std::env::var_os(WRITE_INTO) {
            let file = std::path::Path::new(&folder).join(format!("{size}.json"));
            std::fs::write(file, finished.json.get()).unwrap();
        }
        suite.measure(&format!("report/finish/{size}"), |b| {
            b.iter_batched(
                || draft.clone(),
                |draft| draft.finish(black_box(&secrets), "/operation-runs/42"),
                BatchSize::SmallInput,
            );
        });
        let report = &finished.report;
        suite.measure(&format!("report/fingerprint/{size}"), |b| {
            b.iter(|| {
                fingerprint::fingerprint(
                    SCHEMA_VERSION,
                    RUN_TYPE,
                    black_box(&report.identity),
                    black_box(&report.checks),
                )
            });
        });
        let tree: Value = serde_json::from_str(finished.json.get()).unwrap();
        suite.measure(&format!("report/validate/{size}"), |b| {
            b.iter(|| schema::validate(black_box(&tree)));
        });
    }
}

fn draft(checks: usize) -> ReportDraft {
    ReportDraft {
        identity: Identity {
            provider_connection_id: Some(ConnectionId(7)),
            entra_tenant_id: Some("5c000000-0000-4000-8000-000000000001".into()),
            client_id: Some("5c000000-0000-4000-8000-00000000000a".into()),
            cloud: Some("global".into()),
        },
        generated_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
        previous_report_id: Some(RunId(41)),
        checks: (0..checks).map(check).collect(),
    }
}

/// Four of five pass, as in practice; the fifth misses a permission.
fn check(i: usize) -> Check {
    let missing = i % 5 == 4;
    let reason = Reason::PermissionMissing;
    let mut evidence = vec![
        Evidence::new(
            EvidenceKind::Permission,
            format!("DeviceManagement{i}.Read.All"),
        ),
        Evidence::new(
            EvidenceKind::AppRoleId,
            format!("5c000000-0000-4000-8000-{i:012}"),
        ),
    ];
    if missing {
        evidence.push(Evidence::new(EvidenceKind::HttpStatus, 403));
        evidence.push(Evidence::new(
            EvidenceKind::RequestId,
            "2a4b2ec2-2f7a-4b8e-9a0d-7f6f4f4c3a01",
        ));
    }
    Check {
        key: format!("permissions.device_management_{i}.read_all"),
        title: format!("DeviceManagement{i}.Read.All is granted"),
        status: if missing {
            CheckStatus::Fail
        } else {
            CheckStatus::Pass
        },
        severity: if missing {
            reason.severity()
        } else {
            Severity::Info
        },
        blocking: false,
        reason_code: missing.then_some(reason),
        message: if missing {
            reason.message()
        } else {
            "The permission is granted to the application.".into()
        },
        evidence,
        next_steps: missing
            .then(|| NextStep {
                label: "Grant the permission".into(),
                url: "https://entra.microsoft.com/#view/Microsoft_AAD_RegisteredApps".into(),
            })
            .into_iter()
            .collect(),
    }
}

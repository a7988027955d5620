//! The report: six checks, their fingerprint over the canonical form (keys sorted, no blanks).
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Res;

#[derive(Deserialize)]
struct Perm {
    key: String,
    app_role_id: String,
}

#[derive(Deserialize)]
struct Template {
    key: String,
    title: String,
    message: String,
    severity: String,
    blocking: bool,
}

pub struct Spec {
    pub keys: Vec<String>,
    pub bits: HashMap<String, u32>,
    granted: Vec<String>,
    missing: Vec<String>,
    checks: Vec<Template>,
}

impl Spec {
    pub fn load() -> Res<Spec> {
        let dir = std::env::var("SPEC_DIR")?;
        let perms: Vec<Perm> =
            serde_json::from_slice(&std::fs::read(format!("{dir}/permissions.json"))?)?;
        let checks = serde_json::from_slice(&std::fs::read(format!("{dir}/checks.json"))?)?;
        Ok(Spec {
            keys: perms.iter().map(|p| p.key.clone()).collect(),
            granted: perms.iter().map(|p| format!("{}:granted", p.key)).collect(),
            missing: perms.iter().map(|p| format!("{}:missing", p.key)).collect(),
            bits: perms
                .into_iter()
                .zip(0..)
                .map(|(p, i)| (p.app_role_id, i))
                .collect(),
            checks,
        })
    }
}

#[derive(Deserialize)]
pub struct Scope<'a> {
    #[serde(borrow)]
    pub entra_tenant_id: &'a str,
}

#[derive(Deserialize)]
pub struct Context<'a> {
    #[serde(borrow)]
    pub target_scope: Scope<'a>,
    pub provider_connection_id: i64,
}

pub struct Token {
    pub access: String,
    pub kind: String,
    pub expires_in: i64,
}

pub struct Org {
    pub id: String,
    pub name: String,
}

// Fields in alphabetical order: serde writes them in this order, which is the canonical one.
#[derive(Serialize)]
struct Evidence<'a> {
    kind: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Check<'a> {
    blocking: bool,
    evidence: Vec<Evidence<'a>>,
    key: &'a str,
    message: &'a str,
    next_steps: [&'a str; 0],
    reason_code: &'a str,
    severity: &'a str,
    status: &'a str,
    title: &'a str,
}

#[derive(Serialize)]
struct Identity<'a> {
    entra_tenant_id: &'a str,
    provider_connection_id: i64,
}

#[derive(Serialize)]
struct Counts {
    fail: usize,
    pass: usize,
    running: usize,
    skip: usize,
    total: usize,
    warn: usize,
}

#[derive(Serialize)]
struct Summary<'a> {
    counts: Counts,
    overall: &'a str,
}

#[derive(Serialize)]
struct Report<'a> {
    checks: &'a RawValue,
    fingerprint: &'a str,
    flow: &'a str,
    generated_at: &'a str,
    identity: Identity<'a>,
    previous_report_id: Option<i64>,
    schema_version: &'a str,
    summary: Summary<'a>,
}

fn now_iso() -> String {
    let d = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("clock after 1970");
    let (days, secs) = ((d.as_secs() / 86400) as i64, d.as_secs() % 86400);
    // civil-from-days, Gregorian calendar
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (
        doy - (153 * mp + 2) / 5 + 1,
        if mp < 10 { mp + 3 } else { mp - 9 },
    );
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        secs / 3600,
        secs / 60 % 60,
        secs % 60,
        d.subsec_millis()
    )
}

pub fn build(
    spec: &Spec,
    ctx: &Context,
    token: &Token,
    org: &Org,
    mask: i64,
) -> Res<(i64, Vec<u8>)> {
    let expires = token.expires_in.to_string();
    let mut pass = 0;
    let checks: Vec<Check> = spec
        .checks
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let mut ok = true;
            let evidence = match i {
                0 => vec![
                    Evidence {
                        kind: "token_type",
                        value: &token.kind,
                    },
                    Evidence {
                        kind: "expires_in",
                        value: &expires,
                    },
                ],
                1 => vec![
                    Evidence {
                        kind: "organization_id",
                        value: &org.id,
                    },
                    Evidence {
                        kind: "display_name",
                        value: &org.name,
                    },
                ],
                _ => ((i - 2) * 5..(i - 1) * 5)
                    .map(|j| {
                        let granted = mask >> j & 1 == 1;
                        ok &= granted;
                        Evidence {
                            kind: "perm",
                            value: if granted {
                                &spec.granted[j]
                            } else {
                                &spec.missing[j]
                            },
                        }
                    })
                    .collect(),
            };
            pass += usize::from(ok);
            Check {
                blocking: t.blocking,
                evidence,
                key: &t.key,
                message: &t.message,
                next_steps: [],
                reason_code: if ok { "ok" } else { "permission_missing" },
                severity: &t.severity,
                status: if ok { "pass" } else { "fail" },
                title: &t.title,
            }
        })
        .collect();
    let canon = serde_json::to_string(&checks)?;
    let mut fingerprint = String::with_capacity(64);
    for b in Sha256::digest(canon.as_bytes()) {
        write!(fingerprint, "{b:02x}")?;
    }
    let raw = RawValue::from_string(canon)?;
    let mut out = Vec::with_capacity(4096);
    serde_json::to_writer(
        &mut out,
        &Report {
            checks: &raw,
            fingerprint: &fingerprint,
            flow: "provider.connection.check",
            generated_at: &now_iso(),
            identity: Identity {
                entra_tenant_id: ctx.target_scope.entra_tenant_id,
                provider_connection_id: ctx.provider_connection_id,
            },
            previous_report_id: None,
            schema_version: "1.5",
            summary: Summary {
                counts: Counts {
                    fail: 6 - pass,
                    pass,
                    running: 0,
                    skip: 0,
                    total: 6,
                    warn: 0,
                },
                overall: if pass == 6 { "ready" } else { "blocked" },
            },
        },
    )?;
    Ok((mask, out))
}

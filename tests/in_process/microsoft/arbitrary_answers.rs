//! Whatever the provider answers, the findings are whole and make a valid report.

use crate::microsoft::directory::{Directory, INTUNE, Reply};
use crate::microsoft::fixture::{provider_with, run, settings, target};
use proptest::prelude::*;
use serde_json::{Value, json};

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        Just(json!("00000003-0000-0000-c000-000000000000")),
        Just(json!(
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl"
        )),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof![
            Just("value"),
            Just("error"),
            Just("code"),
            Just("message"),
            Just("innerError"),
            Just("request-id"),
            Just("error_codes"),
            Just("id"),
            Just("appRoles"),
            Just("appId"),
            Just("access_token"),
            Just("@odata.nextLink"),
            Just("subscriptionState"),
            Just("appOwnerOrganizationId"),
            Just("displayName"),
            Just("assignedPlans"),
            Just("requiredResourceAccess"),
            Just("resourceAccess"),
            Just("passwordCredentials"),
            Just("hint"),
            Just("endDateTime"),
            Just("scope"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..4).prop_map(|map| {
                map.into_iter()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }),
        ]
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let status = prop::sample::select(vec![
        200u16, 200, 201, 204, 302, 400, 401, 403, 404, 418, 429, 500, 503, 504,
    ]);
    let kind = prop::sample::select(vec!["application/json", "application/json", "text/html"]);
    let wait = prop::option::of(prop::sample::select(vec!["0", "600", "x"]));
    (status, kind, json_value(), wait).prop_map(|(status, kind, body, wait)| {
        let reply = Reply::text(status, kind, &body.to_string());
        match wait {
            Some(wait) => reply.header("retry-after", wait),
            None => reply,
        }
    })
}

/// Null leaves the usual answer to the call.
fn replies() -> impl Strategy<Value = Vec<Option<Reply>>> {
    prop::collection::vec(prop::option::weighted(0.35, reply()), CALLS.len())
}

const CALLS: &[&str] = &[
    "token",
    "organization",
    "service_principal",
    "assignments",
    "resource",
    "/v1.0/deviceManagement",
    "/v1.0/deviceManagement/deviceConfigurations",
    "/v1.0/deviceManagement/roleDefinitions",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn findings_are_whole(
        replies in replies(),
        opaque in any::<bool>(),
        module in prop::sample::select(vec!["health_check", "intune", "conditional_access"]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let directory = Directory::start(INTUNE).await;
            directory.change(|facts| facts.opaque = opaque);
            directory.script(move |seen| {
                let at = CALLS.iter().position(|call| *call == seen.call)?;
                replies[at].clone()
            });
            let settings = settings(directory.base(), directory.base());
            let provider = provider_with(&settings);
            let target = target(module);
            // Twice: the second time with whatever is cached.
            for _ in 0..2 {
                let found = run(&provider, &target).await;
                let report = found.report(&target.credential.secret_values());
                assert_eq!(report.replaced, None);
            }
        });
    }

    #[test]
    fn equal_answers_give_equal_fingerprints(replies in replies()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let directory = Directory::start(INTUNE).await;
            directory.script(move |seen| {
                let at = CALLS.iter().position(|call| *call == seen.call)?;
                replies[at].clone()
            });
            let settings = settings(directory.base(), directory.base());
            let mut fingerprints = Vec::new();
            for _ in 0..2 {
                let found = run(&provider_with(&settings), &target("intune")).await;
                fingerprints.push(found.report(&[]).report.fingerprint);
            }
            assert_eq!(fingerprints[0], fingerprints[1]);
        });
    }
}

//! `verifyd webhooks`

use super::args::{
    DeliveriesArgs, DeliveryArgs, EndpointArgs, ReplayArgs, RotateSecretArgs, WebhooksAddArgs,
    WebhooksCommand, WebhooksListArgs,
};
use super::origin::terminal;
use super::{output, render};
use crate::app::Services;
use crate::domain::circuit::CircuitState;
use crate::domain::webhook::{self, AttemptResult, DisabledReason};
use crate::notify::webhook::{AddressRule, signature};
use crate::operations::webhooks;
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::webhook_deliveries::{DeliveryAttempt, DeliveryFilter, Replay};
use crate::ports::webhook_endpoints::{Endpoint, NewEndpoint};
use crate::view::words::{counted, span};
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use owo_colors::OwoColorize as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use std::process::ExitCode;
use zeroize::Zeroizing;

pub async fn run(services: &Services, command: WebhooksCommand) -> anyhow::Result<ExitCode> {
    match command {
        WebhooksCommand::Add(args) => add(services, &args).await?,
        WebhooksCommand::List(args) => list(services, &args).await?,
        WebhooksCommand::RotateSecret(args) => rotate_secret(services, &args).await?,
        WebhooksCommand::Disable(args) => {
            set_enabled(services, &args, Some(DisabledReason::Operator)).await?;
        }
        WebhooksCommand::Enable(args) => set_enabled(services, &args, None).await?,
        WebhooksCommand::Remove(args) => remove(services, &args).await?,
        WebhooksCommand::Deliveries(args) => deliveries(services, &args).await?,
        WebhooksCommand::Attempts(args) => attempts(services, &args).await?,
        WebhooksCommand::Replay(args) => replay(services, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn fresh_secret() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    signature::fresh_secret()
        .ok()
        .context("the system provides no random bytes")
}

async fn add(services: &Services, args: &WebhooksAddArgs) -> anyhow::Result<()> {
    let secret = fresh_secret()?;
    let new = NewEndpoint {
        workspace_id: args.workspace,
        url: args.url.clone(),
        description: args.description.clone(),
        changed_only: args.changed_only,
    };
    let (store, vault) = (services.store.as_ref(), services.vault.as_ref());
    let (rule, by) = (AddressRule::new(&services.settings.webhooks), terminal());
    let endpoint = webhooks::add_endpoint(store, vault, &rule, new, &secret, &by).await?;
    show_secret(&endpoint, &signature::shown(&secret), args.json.json)
}

async fn rotate_secret(services: &Services, args: &RotateSecretArgs) -> anyhow::Result<()> {
    let secret = fresh_secret()?;
    let (store, vault) = (services.store.as_ref(), services.vault.as_ref());
    let (keep, by) = (args.keep_previous, terminal());
    let endpoint = webhooks::rotate_secret(store, vault, args.id, &secret, keep, &by).await?;
    show_secret(&endpoint, &signature::shown(&secret), args.json.json)?;
    if !keep.is_zero() && endpoint.previous_secret_until.is_none() {
        output::note("The previous secret is not kept: no key here opens it.");
    }
    Ok(())
}

/// Shows the secret. It is not shown again, since it is stored encrypted.
fn show_secret(endpoint: &Endpoint, secret: &SecretString, json: bool) -> anyhow::Result<()> {
    let secret = secret.expose_secret();
    if json {
        return output::json(&json!({ "endpoint": endpoint, "secret": secret }));
    }
    output::line(format!("endpoint {}", endpoint.id));
    output::line(format!("secret   {secret}"));
    output::note("The secret is not shown again. Give it to the receiver, which verifies with it.");
    if let Some(until) = endpoint.previous_secret_until {
        output::note(format!(
            "The previous secret also signs until {}.",
            output::minute(until)
        ));
    }
    Ok(())
}

/// An endpoint, and its last failure while none of its attempts has succeeded since.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    endpoint: Endpoint,
    last_failure: Option<DeliveryAttempt>,
}

async fn list(services: &Services, args: &WebhooksListArgs) -> anyhow::Result<()> {
    let mut endpoints = Vec::new();
    for endpoint in services.store.endpoints(args.workspace).await? {
        let last_failure = match endpoint.failures {
            0 => None,
            _ => services.store.last_failure(endpoint.id).await?,
        };
        endpoints.push(Listed {
            endpoint,
            last_failure,
        });
    }
    if args.json.json {
        return output::json(&endpoints);
    }
    let mut table = output::table([
        "id",
        "workspace",
        "url",
        "events",
        "state",
        "last failure",
        "oldest pending",
        "description",
    ]);
    let now = SystemClock.now();
    for Listed {
        endpoint,
        last_failure,
    } in endpoints
    {
        let last_failure =
            last_failure.map(|last| said(last.result, last.http_status, last.cause.as_deref()));
        let oldest = endpoint
            .oldest_pending_since
            .map(|since| span((now - since).num_milliseconds()))
            .unwrap_or_default();
        table.add_row([
            endpoint.id.to_string(),
            endpoint.workspace_id.to_string(),
            webhook::shown_url(&endpoint.url),
            match endpoint.changed_only {
                true => "changed reports".to_owned(),
                false => "all".to_owned(),
            },
            state(&endpoint, now),
            last_failure.unwrap_or_default(),
            oldest,
            render::clean(endpoint.description.as_deref().unwrap_or_default()),
        ]);
    }
    output::line(table);
    Ok(())
}

fn state(endpoint: &Endpoint, now: DateTime<Utc>) -> String {
    if !endpoint.enabled {
        return match endpoint.disabled_reason {
            Some(DisabledReason::Gone) => "disabled, gone (410)".to_owned(),
            _ => "disabled".to_owned(),
        };
    }
    let mut state = "enabled".to_owned();
    if endpoint.failures > 0 {
        let failures = counted(endpoint.failures.into(), "failure");
        state += &format!(", {failures} in a row");
    }
    match (endpoint.circuit, endpoint.circuit_probe_at) {
        (CircuitState::Closed, _) | (_, None) => {}
        (circuit, Some(probe)) => {
            let at = output::second(probe);
            let next = match endpoint.oldest_pending_since {
                _ if probe <= now => "a probe goes with the next message".to_owned(),
                Some(_) => format!("next probe at {at}"),
                None => format!("a probe goes with the first message after {at}"),
            };
            state += &format!(", circuit {circuit}, {next}");
        }
    }
    state
}

async fn set_enabled(
    services: &Services,
    args: &EndpointArgs,
    disabled: Option<DisabledReason>,
) -> anyhow::Result<()> {
    webhooks::set_enabled(services.store.as_ref(), args.id, disabled, &terminal()).await?;
    let is_disabled = disabled.is_some();
    done(args, if is_disabled { "disabled" } else { "enabled" })
}

async fn remove(services: &Services, args: &EndpointArgs) -> anyhow::Result<()> {
    webhooks::remove_endpoint(services.store.as_ref(), args.id, &terminal()).await?;
    done(args, "removed")
}

/// Says what the endpoint is now.
fn done(args: &EndpointArgs, state: &str) -> anyhow::Result<()> {
    if args.json.json {
        return output::json(&json!({ "endpoint_id": args.id, "state": state }));
    }
    output::line(format!("{} endpoint {} is {state}", "✓".green(), args.id));
    Ok(())
}

fn said(result: Option<AttemptResult>, http_status: Option<u16>, cause: Option<&str>) -> String {
    match (result, http_status, cause) {
        (Some(result), Some(status), _) => format!("{result} ({status})"),
        (Some(result), None, Some(cause)) => format!("{result}: {}", render::clean(cause)),
        (Some(result), None, None) => result.to_string(),
        (None, ..) => String::new(),
    }
}

async fn deliveries(services: &Services, args: &DeliveriesArgs) -> anyhow::Result<()> {
    let found = services
        .store
        .deliveries(&DeliveryFilter {
            endpoint: args.endpoint,
            state: args.state,
            before: args.before,
            limit: args.limit,
        })
        .await?;
    if args.json.json {
        return output::json(&found);
    }
    let mut table = output::table([
        "id",
        "endpoint",
        "run",
        "state",
        "attempts",
        "last",
        "recorded",
        "next attempt",
    ]);
    for delivery in found {
        table.add_row([
            delivery.id.to_string(),
            delivery.endpoint_id.to_string(),
            delivery.operation_run_id.to_string(),
            match delivery.give_up_reason {
                Some(reason) => format!("{} ({reason})", delivery.state),
                None => delivery.state.to_string(),
            },
            delivery.attempts.to_string(),
            // Its cause, which would be too wide for this table, is in the attempts and in the JSON.
            said(delivery.last_result, delivery.last_http_status, None),
            output::second(delivery.created_at),
            delivery
                .next_attempt_at
                .map(output::second)
                .unwrap_or_default(),
        ]);
    }
    output::line(table);
    Ok(())
}

async fn attempts(services: &Services, args: &DeliveryArgs) -> anyhow::Result<()> {
    let found = webhooks::attempts(services.store.as_ref(), args.id).await?;
    if args.json.json {
        return output::json(&found);
    }
    let mut table = output::table(["attempt", "started", "took", "result"]);
    for attempt in found {
        table.add_row([
            attempt.attempt.to_string(),
            output::second(attempt.started_at),
            attempt
                .duration_ms
                .map(|ms| format!("{ms} ms"))
                .unwrap_or_default(),
            match attempt.result {
                Some(_) => {
                    let cause = attempt.cause.as_deref();
                    said(attempt.result, attempt.http_status, cause)
                }
                None => "under way, or lost with its sender".to_owned(),
            },
        ]);
    }
    output::line(table);
    Ok(())
}

async fn replay(services: &Services, args: &ReplayArgs) -> anyhow::Result<()> {
    let which = match (args.id, args.endpoint, args.since) {
        (Some(id), ..) => Replay::One(id),
        (None, Some(endpoint), Some(since)) => Replay::Since {
            endpoint,
            since,
            delivered_too: args.delivered_too,
        },
        _ => anyhow::bail!("name a delivery, or --endpoint with --since"),
    };
    let (replayed, endpoint) = webhooks::replay(services.store.as_ref(), which).await?;
    if args.json.json {
        return output::json(&json!({
            "replayed": replayed,
            "endpoint_id": endpoint.id,
            "endpoint_enabled": endpoint.enabled,
        }));
    }
    output::line(format!("{} {replayed} to be sent again", "✓".green()));
    if let (Some(id), 0) = (args.id, replayed) {
        output::note(format!("Delivery {id} is pending already."));
    }
    if !endpoint.enabled {
        let id = endpoint.id;
        output::note(format!(
            "Endpoint {id} is disabled: nothing is sent until `verifyd webhooks enable {id}`."
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EndpointId, WorkspaceId};

    #[test]
    fn a_state_says_when_a_probe_is_sent() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let said = |failures, probe: Option<i64>, pending: bool| {
            let endpoint = Endpoint {
                id: EndpointId(1),
                workspace_id: WorkspaceId(1),
                url: "https://example.com".into(),
                description: None,
                changed_only: false,
                enabled: true,
                disabled_reason: None,
                failures,
                circuit: match probe {
                    Some(_) => CircuitState::Open,
                    None => CircuitState::Closed,
                },
                circuit_opened_at: probe.map(|_| at(0)),
                circuit_probe_at: probe.map(at),
                oldest_pending_since: pending.then(|| at(0)),
                created_at: at(0),
                previous_secret_until: None,
            };
            state(&endpoint, at(10))
        };
        for (failures, probe, pending, words) in [
            (0, None, false, "enabled"),
            (1, None, true, "enabled, 1 failure in a row"),
            (
                5,
                Some(10),
                true,
                "enabled, 5 failures in a row, circuit open, a probe goes with the next message",
            ),
            (
                5,
                Some(20),
                true,
                "enabled, 5 failures in a row, circuit open, next probe at 1970-01-01 00:00:20",
            ),
            (
                5,
                Some(20),
                false,
                "enabled, 5 failures in a row, circuit open, a probe goes with the first message \
                 after 1970-01-01 00:00:20",
            ),
        ] {
            assert_eq!(said(failures, probe, pending), words);
        }
    }
}

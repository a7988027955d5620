//! What stands for something else in a case's texts, and what is planted in its bodies.

use crate::verdicts::replay::NOW;
use chrono::{DateTime, TimeDelta, Utc};
use test_support::microsoft::{CLIENT, GRAPH_RESOURCE, SERVICE_PRINCIPAL, TENANT};

/// Stands in every description and message: it must reach no report.
pub const CANARY: &str = "canary-of-a-message";

pub fn now() -> DateTime<Utc> {
    NOW.parse().unwrap()
}

/// Replaces `${tenant}`, `${client}`, `${base}`, `${service_principal}`, `${graph_resource}`, `${canary}`,
/// `${http_date:SECONDS}`, `${rfc3339:SECONDS}`, `${unix:SECONDS}` (from the case's time on) and
/// `${repeat:COUNT:TEXT}`.
pub fn expand(text: &str, base: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, end) = after.split_once('}').expect("${…} has an end");
        out.push_str(before);
        out.push_str(&value(name, base));
        rest = end;
    }
    out + rest
}

fn value(name: &str, base: &str) -> String {
    let (kind, argument) = name.split_once(':').unwrap_or((name, ""));
    let moment = || now() + TimeDelta::seconds(argument.parse().expect("seconds"));
    match kind {
        "tenant" => TENANT.to_owned(),
        "client" => CLIENT.to_owned(),
        "base" => base.to_owned(),
        "service_principal" => SERVICE_PRINCIPAL.to_owned(),
        "graph_resource" => GRAPH_RESOURCE.to_owned(),
        "canary" => CANARY.to_owned(),
        "http_date" => httpdate::fmt_http_date(moment().into()),
        "rfc3339" => moment().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        "unix" => moment().timestamp().to_string(),
        "repeat" => {
            let (count, text) = argument.split_once(':').expect("${repeat:COUNT:TEXT}");
            text.repeat(count.parse().expect("a count"))
        }
        _ => panic!("nothing stands for ${{{name}}}"),
    }
}

/// Puts the canary behind each `AADSTS<digits>:` and in front of each plain message of Graph.
pub fn plant(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find("AADSTS") {
        let digits = rest[at + 6..]
            .bytes()
            .take_while(u8::is_ascii_digit)
            .count();
        let end = at + 6 + digits;
        out.push_str(&rest[..end]);
        rest = &rest[end..];
        if digits > 0 && rest.starts_with(": ") {
            out.push_str(": ");
            out.push_str(CANARY);
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    for quote in ["\"message\":\"", "\"message\": \""] {
        out = plant_messages(&out, quote);
    }
    out
}

/// Not where the message holds JSON or nothing: these decide.
fn plant_messages(body: &str, quote: &str) -> String {
    let mut parts = body.split(quote);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(quote);
        if !part.starts_with(['{', '"', '\\', ' ']) {
            out.push_str(CANARY);
            out.push(' ');
        }
        out.push_str(part);
    }
    out
}

use super::{Cli, with_negative_values};
use crate::domain::{
    AcknowledgementId, AuditEntryId, ConnectionId, DeliveryId, EndpointId, ObjectId, RunId,
    SessionId, TenantId, TokenId, WorkspaceId,
};
use clap::CommandFactory as _;
use std::any::TypeId;

/// The arguments of a command and of those below it, each with the words that lead to its command.
fn arguments(command: &clap::Command, path: &[String], found: &mut Vec<(Vec<String>, clap::Arg)>) {
    let mut path = path.to_vec();
    path.push(command.get_name().to_owned());
    for argument in command.get_arguments() {
        found.push((path.clone(), argument.clone()));
    }
    for below in command.get_subcommands() {
        arguments(below, &path, found);
    }
}

fn is_id(argument: &clap::Arg) -> bool {
    let value = argument.get_value_parser().type_id();
    [
        TypeId::of::<AcknowledgementId>(),
        TypeId::of::<AuditEntryId>(),
        TypeId::of::<ConnectionId>(),
        TypeId::of::<DeliveryId>(),
        TypeId::of::<EndpointId>(),
        TypeId::of::<ObjectId>(),
        TypeId::of::<RunId>(),
        TypeId::of::<SessionId>(),
        TypeId::of::<TenantId>(),
        TypeId::of::<TokenId>(),
        TypeId::of::<WorkspaceId>(),
    ]
    .iter()
    .any(|id| value == *id)
}

#[test]
fn what_is_no_id_is_refused_with_the_argument_and_what_is_allowed() {
    let mut all = Vec::new();
    arguments(&Cli::command(), &[], &mut all);
    let mut ids = 0;
    for (path, argument) in &all {
        let name = argument.get_value_names().and_then(<[_]>::first);
        let name = name.map_or("", |name| name.as_str());
        if !is_id(argument) {
            let is_named_so = ["ID", "RUN", "ENDPOINT", "DELIVERY"].contains(&name);
            assert!(!is_named_so, "{path:?}: {name} is read as something else");
            continue;
        }
        ids += 1;
        for value in [
            "0",
            "-1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999999999999999999",
            "01",
            "+1",
            "1_000",
            " 1",
            "1 ",
            "1 2",
            "",
            "1.0",
            "1e3",
            "one",
        ] {
            let mut line = path.clone();
            line.extend(argument.get_long().map(|long| format!("--{long}")));
            line.push(value.to_owned());
            let parsed = with_negative_values(Cli::command()).try_get_matches_from(&line);
            let said = parsed.unwrap_err().to_string();
            let option = argument
                .get_long()
                .map(|long| format!("'--{long} <{name}>'"));
            let option = option.unwrap_or_else(|| name.to_owned());
            for words in [
                option.as_str(),
                "allowed: a whole number from 1 to 9223372036854775807, without leading zeros",
            ] {
                assert!(said.contains(words), "{line:?}: {said}");
            }
        }
    }
    assert!(ids > 30, "only {ids} arguments are ids");
}

//! `verifyd modules`

use super::args::{JsonArg, ModuleArgs, ModulesCommand, ModulesValidateArgs};
use super::{exit, output};
use crate::app;
use crate::config::Settings;
use crate::ports::provider::Providers;
use crate::provider::microsoft::{module_schema, read_module_file};
use crate::view::ModuleView;
use anyhow::Context as _;
use owo_colors::OwoColorize as _;
use serde_json::json;
use std::process::ExitCode;

/// Files are tested without a configuration.
pub fn run(
    ready: impl FnOnce() -> anyhow::Result<Settings>,
    command: &ModulesCommand,
) -> anyhow::Result<ExitCode> {
    let providers = || app::providers_offline(&ready()?);
    match command {
        ModulesCommand::List(args) => list(&providers()?, args)?,
        ModulesCommand::Show(args) => show(&providers()?, args)?,
        ModulesCommand::Validate(args) => return validate(args),
        ModulesCommand::Schema => output::json(&module_schema())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(providers: &Providers, args: &JsonArg) -> anyhow::Result<()> {
    let modules = providers.all_modules();
    if args.json {
        let views: Vec<ModuleView> = modules.iter().map(|(p, m)| ModuleView::of(p, m)).collect();
        return output::json(&views);
    }
    let mut table = output::table(["key", "title", "provider", "permissions", "probes", "from"]);
    for (provider, module) in modules {
        table.add_row([
            module.key.clone(),
            module.title.clone(),
            provider.to_owned(),
            module.permissions.len().to_string(),
            module.probes.len().to_string(),
            module.file.clone().unwrap_or_else(|| "verifyd".to_owned()),
        ]);
    }
    output::line(table);
    Ok(())
}

fn show(providers: &Providers, args: &ModuleArgs) -> anyhow::Result<()> {
    let modules = providers.all_modules();
    let (provider, module) = modules
        .iter()
        .find(|(_, module)| module.key == args.key)
        .with_context(|| {
            let known: Vec<&str> = modules.iter().map(|(_, m)| m.key.as_str()).collect();
            format!("{:?}: not known, allowed: {}", args.key, known.join(", "))
        })?;
    let view = ModuleView::of(provider, module);
    if args.json.json {
        return output::json(&view);
    }
    output::line(format!("{}  {}", view.key.bold(), view.title));
    output::line(format!(
        "{}\n",
        format!(
            "from {}, excess: {}",
            view.file.as_deref().unwrap_or("verifyd"),
            view.excess
        )
        .dimmed()
    ));
    let mut table = output::table([
        "permission",
        "resource",
        "blocking",
        "needed, or else",
        "satisfied by, too",
    ]);
    for permission in &view.permissions {
        table.add_row([
            permission.role.clone(),
            permission
                .resource
                .clone()
                .unwrap_or_else(|| "Microsoft Graph".to_owned()),
            yes(permission.blocking),
            permission.needed_for.clone(),
            permission.satisfied_by.join("\n"),
        ]);
    }
    output::line(table);
    if !view.probes.is_empty() {
        let mut table = output::table(["probe", "GET", "permission", "blocking", "expects"]);
        for probe in &view.probes {
            table.add_row([
                probe.key.clone(),
                probe.request.clone(),
                probe.permission.clone(),
                yes(probe.blocking),
                probe.expects.clone(),
            ]);
        }
        output::line(format!("\n{table}"));
    }
    Ok(())
}

fn yes(flag: bool) -> String {
    (if flag { "yes" } else { "no" }).to_owned()
}

fn validate(args: &ModulesValidateArgs) -> anyhow::Result<ExitCode> {
    let mut results = Vec::new();
    let mut keys: Vec<(String, String)> = Vec::new();
    for file in &args.files {
        let name = file.display().to_string();
        let mut problems = Vec::new();
        let module = match read_module_file(file) {
            Ok(module) => {
                if let Some((_, other)) = keys.iter().find(|(key, _)| *key == module.key) {
                    problems.push(format!(
                        "{name}:1: key: {} is the key of {other}, too",
                        module.key
                    ));
                }
                keys.push((module.key.clone(), name.clone()));
                Some(module)
            }
            Err(found) => {
                problems = found;
                None
            }
        };
        results.push((name, module, problems));
    }
    let valid = results.iter().all(|(_, _, problems)| problems.is_empty());
    if args.json.json {
        let files: Vec<_> = results
            .iter()
            .map(|(file, module, problems)| {
                let key = module.as_ref().map(|module| &module.key);
                json!({ "file": file, "module": key, "valid": problems.is_empty(), "problems": problems })
            })
            .collect();
        output::json(&json!({ "valid": valid, "files": files }))?;
    } else {
        for (file, module, problems) in &results {
            match module.as_ref().filter(|_| problems.is_empty()) {
                Some(module) => output::line(format!(
                    "{} {file}: module {} (permissions: {}, probes: {})",
                    "✓".green(),
                    module.key,
                    module.permissions.len(),
                    module.probes.len()
                )),
                None => {
                    for problem in problems {
                        output::line(format!("{} {problem}", "✗".red()));
                    }
                }
            }
        }
        output::note(if valid {
            "Before a file goes into the folder of microsoft.modules_dir, see what it would break: verifyd plan \
             --module FILE"
        } else {
            "A problem is file:line: field: what is wrong. docs/guides/modules.md explains the fields, and verifyd \
             modules schema prints them."
        });
    }
    Ok(exit::passed(valid))
}

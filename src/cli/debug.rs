//! `verifyd debug`

use super::args::{DebugCommand, DebugStateArgs, LogFilterArgs};
use super::output;
use crate::config::Settings;
use crate::debug::{self, Answer, DebugState, Request};
use crate::telemetry::log_filter::LogFilterState;
use crate::view::words::span_of_seconds;
use anyhow::Context as _;
use std::process::ExitCode;

pub async fn run(settings: &Settings, command: &DebugCommand) -> anyhow::Result<ExitCode> {
    match command {
        DebugCommand::State(args) => show_state(settings, args).await?,
        DebugCommand::LogFilter(args) => change_log_filter(settings, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the process at the socket that the settings name.
pub(super) async fn ask(settings: &Settings, request: &Request) -> anyhow::Result<Answer> {
    let path = &settings.debug.socket;
    anyhow::ensure!(
        !path.as_os_str().is_empty(),
        "debug.socket is not set: set it where the daemon starts, and name the daemon's socket by --socket, such as \
         /run/verifyd-9464/debug.sock"
    );
    let answer = debug::ask(path, request).await;
    match answer.with_context(|| format!("debug.socket {}", path.display()))? {
        Answer::Refused(why) => anyhow::bail!("refused: {why}"),
        answer => Ok(answer),
    }
}

async fn show_state(settings: &Settings, args: &DebugStateArgs) -> anyhow::Result<()> {
    let Answer::State(state) = ask(settings, &Request::State).await? else {
        anyhow::bail!("the daemon is of another version");
    };
    if args.json.json {
        return output::json(&state);
    }
    print_process(&state);
    print_runs(&state);
    Ok(())
}

fn print_process(state: &DebugState) {
    let DebugState {
        queue, database, ..
    } = state;
    let uptime = span_of_seconds(state.uptime_seconds);
    let stopping = if state.stopping { ", stopping" } else { "" };
    let flag = |holds: bool, yes: &'static str, no: &'static str| if holds { yes } else { no };
    for (part, found) in [
        (
            "worker",
            format!("{} {}, up {uptime}{stopping}", state.worker, state.version),
        ),
        (
            "lease",
            match state.lease_seconds {
                Some(left) if left > 0.0 => format!("{left:.1} s left"),
                _ => "none: the heartbeat does not get through".to_owned(),
            },
        ),
        (
            "slots",
            format!("{} of {} free", state.slots.free, state.slots.total),
        ),
        (
            "queue",
            format!(
                "{}, {}, {} waiting, {} restarts, {} dead letters{}",
                queue.kind,
                flag(queue.connected, "connected", "not connected"),
                output::or_dash(queue.waiting),
                queue.restarts,
                queue.dead_letters,
                flag(queue.polling, "; runs are taken from the database", ""),
            ),
        ),
        (
            "database",
            format!("{}, {}", database.kind, debug::connections(database)),
        ),
        ("logs", filter(&state.log_filter)),
    ] {
        output::line(format!("{part:<9} {found}"));
    }
}

fn print_runs(state: &DebugState) {
    if state.runs.is_empty() {
        output::note("No runs in flight.");
        return;
    }
    let mut table = output::table([
        "Run",
        "Connection",
        "Attempt",
        "Phase",
        "For",
        "In flight",
        "Lease",
        "Open calls",
    ]);
    let seconds = |seconds: f64| format!("{seconds:.1} s");
    for run in &state.runs {
        table.add_row([
            run.run.to_string(),
            output::or_dash(run.connection),
            output::or_dash(run.attempt),
            run.phase.as_str().to_owned(),
            seconds(run.phase_seconds),
            seconds(run.seconds),
            output::or_dash(run.lease_seconds.map(seconds)),
            debug::calls(run),
        ]);
    }
    output::line(table);
}

async fn change_log_filter(settings: &Settings, args: &LogFilterArgs) -> anyhow::Result<()> {
    let request = Request::LogFilter {
        add: args.filter.clone(),
        seconds: args.period.as_secs(),
    };
    let Answer::LogFilter(state) = ask(settings, &request).await? else {
        anyhow::bail!("the daemon is of another version");
    };
    if args.json.json {
        return output::json(&state);
    }
    output::line(filter(&state));
    Ok(())
}

/// The filter in words.
fn filter(state: &LogFilterState) -> String {
    match state.seconds_left {
        Some(seconds) => format!("{}, for {} more", state.filter, span_of_seconds(seconds)),
        None => format!("{} (log.filter)", state.filter),
    }
}

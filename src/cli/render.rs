//! Renders a run for a terminal: problems first, then what to do.

use crate::domain::Reason;
use crate::domain::report::diff::Change;
use crate::domain::report::{Check, CheckStatus, Overall};
use crate::domain::run::{Outcome, RunStatus};
use crate::view::diff::DiffState;
use crate::view::report::ReportState;
use crate::view::words::{self, RunBadge, span};
use crate::view::{AcknowledgementView, CheckView, DiffView, ReportView, RunView, Timeline};
use owo_colors::{OwoColorize as _, Style};
use std::fmt::Display;

/// The widest that text is set.
const WIDTH: usize = 96;

/// Adds a line.
fn line(out: &mut String, text: impl Display) {
    out.push_str(&format!("{text}\n"));
}

/// The whole run.
pub fn run(view: &RunView) -> String {
    let mut out = String::new();
    let (badge, style) = badge(view.status, view.outcome);
    let badge = badge.to_uppercase();
    let name = view
        .display_name
        .as_deref()
        .map(|n| format!("{} · ", clean(n)))
        .unwrap_or_default();
    let badge = format!(" {badge} ");
    let badge = badge.style(style.reversed().bold());
    let id = view.operation_run_id;
    line(&mut out, format!("{badge}  {}run {id}", name.bold()));
    line(&mut out, format!("{}\n", wrapped(&view.verdict, 0).bold()));
    match &view.report {
        ReportState::Readable { report: r } => report(&mut out, r),
        ReportState::Unreadable { problems } => {
            for problem in problems {
                line(&mut out, format!("  {} {}", "✗".red(), clean(problem)));
            }
        }
        ReportState::OtherVersion { .. } | ReportState::Pending | ReportState::Missing => {}
    }
    if !view.other_acknowledgements.is_empty() {
        line(&mut out, "Acknowledgements of other checks".underline());
        for said in &view.other_acknowledgements {
            line(&mut out, format!("  {}", clean(&said.check_key)));
            acknowledgement(&mut out, said);
        }
    }
    out
}

/// Recorded, claimed, the attempts, completed.
pub fn timeline(view: &Timeline) -> String {
    let mut out = String::new();
    let mut dimmed = |text: String| line(&mut out, text.dimmed());
    let time = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    let later = |ms: Option<i64>| ms.map_or(String::new(), |ms| format!(", {} later", span(ms)));
    if let Some(at) = view.recorded_at {
        dimmed(format!("recorded   {}", time(at)));
    }
    if let Some(at) = view.claimed_at {
        dimmed(format!("claimed    {}{}", time(at), later(view.waited_ms)));
    } else if let Some(ms) = view.waited_ms {
        dimmed(format!("waiting    for {}", span(ms)));
    }
    for attempt in &view.attempts {
        let counted = if attempt.counted {
            ""
        } else {
            " (not counted)"
        };
        dimmed(format!(
            "attempt {}{counted} by {}: {}, after {}",
            attempt.attempt,
            clean(&attempt.worker_id),
            clean(&attempt.end),
            span(attempt.took_ms)
        ));
    }
    if let Some(at) = view.completed_at {
        dimmed(format!("completed  {}{}", time(at), later(view.worked_ms)));
    }
    out
}

/// A report that is not part of a run of this database.
pub fn report(out: &mut String, view: &ReportView) {
    if !view.problems.is_empty() {
        line(out, "What is wrong".underline());
        for check in &view.problems {
            problem(out, check);
        }
    }
    for (status, mark, checks) in [
        (CheckStatus::Running, "…".cyan().to_string(), &view.running),
        (CheckStatus::Pass, "✓".green().to_string(), &view.passed),
        (CheckStatus::Skip, "–".dimmed().to_string(), &view.skipped),
    ] {
        list(out, words::check_status(status), &mark, checks);
    }
    let mut facts = vec![format!("overall {}", view.overall)];
    if let Some(id) = view.provider_connection_id {
        facts.push(format!("connection {id}"));
    }
    if let Some(tenant) = &view.entra_tenant_id {
        facts.push(format!("Entra tenant {tenant}"));
    }
    if let Some(cloud) = &view.cloud {
        facts.push(format!("cloud {cloud}"));
    }
    facts.push(match view.previous_report_id {
        Some(id) => format!("previous report: run {id}"),
        None => "first report".to_owned(),
    });
    facts.push(format!("generated {}", view.generated_at));
    facts.push(format!("fingerprint {}", &view.fingerprint[..12]));
    line(out, wrapped(&facts.join(" · "), 0).dimmed());
}

/// One acknowledgement, under its check.
fn acknowledgement(out: &mut String, said: &AcknowledgementView) {
    let text = format!("{}: {}", said.summary(), said.reason);
    line(out, wrapped(&text, 4).dimmed());
}

fn steps(out: &mut String, check: &Check) {
    for step in &check.next_steps {
        line(out, format!("    {} {}", "→".cyan(), clean(&step.label)));
        line(out, format!("      {}", clean(&step.url).cyan()));
    }
}

fn problem(out: &mut String, view: &CheckView) {
    let check = &view.check;
    let mark = match check.status {
        CheckStatus::Fail => "✗".red().bold().to_string(),
        _ => "!".yellow().bold().to_string(),
    };
    let reason = check.reason_code.map(|r| r.code()).unwrap_or_default();
    let blocking = if view.blocks() { ", blocking" } else { "" };
    let title = clean(&check.title);
    let about = format!("{}{blocking} · {reason}", view.severity_words());
    line(
        out,
        format!("  {mark} {}  {}", title.bold(), about.dimmed()),
    );
    line(out, wrapped(&check.message, 4));
    if !check.evidence.is_empty() {
        let evidence: Vec<String> = check
            .evidence
            .iter()
            .map(|e| format!("{} {}", e.kind, clean(&e.value)))
            .collect();
        line(out, wrapped(&evidence.join(" · "), 4).dimmed());
    }
    steps(out, check);
    if let Some(said) = &view.acknowledgement {
        let said = clean(&format!("{}: {}", said.summary(), said.reason));
        line(out, format!("    {} {said}", "✓".green()));
    }
    for said in &view.history {
        acknowledgement(out, said);
    }
    out.push('\n');
}

fn list(out: &mut String, title: &str, mark: &str, checks: &[CheckView]) {
    if checks.is_empty() {
        return;
    }
    let count = format!("({})", checks.len());
    line(out, format!("{} {}", title.underline(), count.dimmed()));
    for view in checks {
        let check = &view.check;
        let stands_in = view
            .satisfied_by()
            .map(|other| format!("  by {}", clean(other)))
            .unwrap_or_default();
        let title = clean(&check.title);
        line(out, format!("  {mark} {title}{}", stands_in.dimmed()));
        if let Some(listed) = view.listed() {
            line(out, wrapped(&listed, 4).dimmed());
        }
        // A skipped check with its own reason has its own steps.
        if check.status == CheckStatus::Skip && check.reason_code != Some(Reason::NotEvaluated) {
            line(out, wrapped(&check.message, 4));
            steps(out, check);
        }
        for said in view.acknowledgement.iter().chain(&view.history) {
            acknowledgement(out, said);
        }
    }
    out.push('\n');
}

/// Renders the difference, changes first.
pub fn diff(view: &DiffView) -> String {
    if view.state != DiffState::Compared {
        return view.state.sentence().to_owned();
    }
    let mut out = String::new();
    for row in &view.checks {
        let title = clean(row.title());
        let text = match row.change {
            Change::Unchanged => continue,
            Change::New => format!("{} {title}: {}", "+".green(), row.found_now()),
            Change::Gone => format!("{} {title}: was {}", "-".red(), row.found_before()),
            Change::Changed => format!(
                "{} {title}: {} → {}",
                "~".yellow(),
                row.found_before(),
                row.found_now()
            ),
        };
        line(&mut out, format!("  {text}"));
    }
    if out.is_empty() {
        out.push_str("  Nothing changed.\n");
    }
    let unchanged = view.counts.unchanged;
    line(&mut out, format!("  {unchanged} unchanged").dimmed());
    out
}

/// The outcome as one coloured word.
pub fn outcome(status: RunStatus, outcome: Option<Outcome>) -> String {
    let (word, style) = badge(status, outcome);
    word.to_lowercase().style(style).to_string()
}

/// The verdict over all checks as one coloured word.
pub fn overall(overall: &str) -> String {
    match overall.parse() {
        Ok(Overall::Ready) => overall.green().to_string(),
        Ok(Overall::NeedsAttention) => overall.yellow().to_string(),
        Ok(Overall::Blocked) => overall.red().to_string(),
        _ => overall.to_owned(),
    }
}

fn badge(status: RunStatus, outcome: Option<Outcome>) -> (&'static str, Style) {
    let state = RunBadge::of(status, outcome);
    let style = match state {
        RunBadge::Queued => Style::new().blue(),
        RunBadge::Running => Style::new().cyan(),
        RunBadge::Succeeded => Style::new().green(),
        RunBadge::Failed => Style::new().red(),
        RunBadge::Blocked => Style::new().magenta(),
        RunBadge::Unknown => Style::new(),
    };
    (state.words(), style)
}

/// Cleans text from other sources: no control characters reach the terminal.
pub fn clean(text: &str) -> String {
    crate::domain::report::redact::clean(text, 4000)
}

fn wrapped(text: &str, indent: usize) -> String {
    let indent = " ".repeat(indent);
    let width = textwrap::termwidth().min(WIDTH);
    textwrap::fill(
        &clean(text),
        textwrap::Options::new(width)
            // Ids and dates must stay whole, to be copied.
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .word_separator(textwrap::WordSeparator::AsciiSpace)
            .initial_indent(&indent)
            .subsequent_indent(&indent),
    )
}

//! An acknowledgement, as it stands now.

use crate::domain::RunId;
use crate::domain::acknowledgement::{Acknowledgement, Actor};
use crate::domain::names::text_enum;
use crate::domain::report::{Check, redact};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

text_enum! {
    /// Whether an acknowledgement stands.
    pub enum Standing: "standing" {
        Active => "active",
        Withdrawn => "withdrawn",
        Expired => "expired",
    }
}

/// What a person has seen and accepted on one check. It changes no status and no outcome.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Acknowledgement)]
pub struct AcknowledgementView {
    pub id: i64,
    #[schema(inline)]
    pub standing: Standing,
    /// The run on whose check it was made.
    pub operation_run_id: i64,
    /// Made on an earlier run than the one that is shown.
    pub inherited: bool,
    pub check_key: String,
    pub reason_code: Option<String>,
    /// Why it is accepted, in the words of the person.
    pub reason: String,
    /// As the person says.
    pub acknowledged_by: String,
    /// Who it was by what verifyd knows; null where it does not.
    pub acknowledged_through: Option<Actor>,
    /// A time is null where another application recorded one outside the years 1 to 9999.
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub withdrawn_at: Option<DateTime<Utc>>,
    pub withdrawn_by: Option<String>,
    pub withdrawn_through: Option<Actor>,
}

impl AcknowledgementView {
    /// How it looks beside this run at this time.
    pub fn of(acknowledgement: &Acknowledgement, run: RunId, now: DateTime<Utc>) -> Self {
        let a = acknowledgement;
        Self {
            id: a.id.0,
            standing: if a.is_withdrawn {
                Standing::Withdrawn
            } else if a.is_active(now) {
                Standing::Active
            } else {
                Standing::Expired
            },
            operation_run_id: a.operation_run_id.0,
            inherited: a.operation_run_id != run,
            check_key: a.check_key.clone(),
            reason_code: a.reason_code.clone(),
            reason: a.reason.clone(),
            acknowledged_by: a.acknowledged_by.clone(),
            acknowledged_through: a.acknowledged_through.clone(),
            acknowledged_at: a.acknowledged_at,
            expires_at: a.expires_at,
            withdrawn_at: a.withdrawn_at,
            withdrawn_by: a.withdrawn_by.clone(),
            withdrawn_through: a.withdrawn_through.clone(),
        }
    }

    /// Whether it speaks about this check as it was found. One of the shown run without a reason
    /// code was written by another application, and means the check whatever its reason.
    pub(super) fn stands_for(&self, check: &Check) -> bool {
        let found = check.reason_code.map(|r| r.code());
        self.is_active()
            && self.check_key == check.key
            && (self.reason_code.as_deref() == found
                || !self.inherited && self.reason_code.is_none())
    }

    /// Neither withdrawn nor expired.
    pub fn is_active(&self) -> bool {
        self.standing == Standing::Active
    }

    /// Who, when, on which run, until when; without the reason.
    pub fn summary(&self) -> String {
        let on = |at: Option<DateTime<Utc>>| at.map(|at| at.format(" on %Y-%m-%d").to_string());
        let mut text = format!(
            "acknowledged by {}{}",
            who(&self.acknowledged_by, self.acknowledged_through.as_ref()),
            on(self.acknowledged_at).unwrap_or_default()
        );
        if self.inherited {
            text.push_str(&format!(" (run {})", self.operation_run_id));
        }
        match (self.standing, self.expires_at) {
            (Standing::Withdrawn, _) => {
                text.push_str(", withdrawn");
                if let Some(by) = &self.withdrawn_by {
                    let by = who(by, self.withdrawn_through.as_ref());
                    text.push_str(&format!(" by {by}"));
                }
                text.push_str(&on(self.withdrawn_at).unwrap_or_default());
            }
            (Standing::Expired, at) => {
                text.push_str(", expired");
                text.push_str(&on(at).unwrap_or_default());
            }
            (_, Some(at)) => text.push_str(&format!(", until {}", at.format("%Y-%m-%d %H:%M UTC"))),
            (_, None) => {}
        }
        text
    }
}

/// Longest name that is shown, in characters.
const NAME_CHARS: usize = 300;

/// The name that the person gave, in quotation marks; outside of them the token or the system's user behind it. Nothing
/// in the name ends the quotation, or changes the direction of what follows.
fn who(person: &str, through: Option<&Actor>) -> String {
    let name = quotable(&redact::clean(person, NAME_CHARS));
    match through.map(Actor::words) {
        Some(words) if words == person => redact::clean(&words, NAME_CHARS),
        Some(words) => {
            let words = redact::clean(&words, NAME_CHARS);
            format!("\u{201c}{name}\u{201d} ({words})")
        }
        None => format!("\u{201c}{name}\u{201d}"),
    }
}

/// The text with an apostrophe for each group of quotation marks: two that stand together look like a double mark.
fn quotable(text: &str) -> String {
    let mut quotable = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(is_quotation_mark) {
        quotable.push_str(before);
        quotable.push('\'');
        let others = behind.trim_start_matches(|c: char| is_quotation_mark(c) || c.is_whitespace());
        let group = &behind[..behind.len() - others.len()];
        let last = group.char_indices().rfind(|(_, c)| is_quotation_mark(*c));
        rest = last.map_or(behind, |(at, c)| &behind[at + c.len_utf8()..]);
    }
    quotable + rest
}

/// Whether it is a quotation mark or an apostrophe, or looks like one (Unicode Technical Standard 39, confusables).
/// Letters such as U+02BB are among them: two of them look like a double mark, and a name with an apostrophe in place of
/// one stays readable.
const fn is_quotation_mark(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | '`'
            | '\u{b4}'
            | '\u{2b9}'..='\u{2bf}'
            | '\u{2c8}'
            | '\u{2ca}'
            | '\u{2cb}'
            | '\u{2dd}'
            | '\u{2ee}'
            | '\u{2f4}'
            | '\u{2f6}'
            | '\u{30b}'
            | '\u{30e}'
            | '\u{30f}'
            | '\u{374}'
            | '\u{384}'
            | '\u{55a}'
            | '\u{55d}'
            | '\u{5f2}'..='\u{5f4}'
            | '\u{1cd3}'
            | '\u{1fbd}'
            | '\u{1fbf}'
            | '\u{1fef}'
            | '\u{1ffd}'
            | '\u{1ffe}'
            | '\u{2018}'..='\u{201f}'
            | '\u{2032}'..='\u{2037}'
            | '\u{2057}'
            | '\u{275b}'..='\u{275e}'
            | '\u{3003}'
            | '\u{301d}'..='\u{301f}'
            | '\u{a78b}'
            | '\u{a78c}'
            | '\u{ff02}'
            | '\u{ff07}'
            | '\u{ff40}'
            | '\u{1f676}'..='\u{1f678}'
    )
}

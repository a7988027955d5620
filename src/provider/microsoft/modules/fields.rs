//! Reads a TOML document field by field, so that each problem has its line and its field.

use crate::domain::module::ModuleProblem;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Largest number of problems that are listed for one file.
const MAX_PROBLEMS: usize = 50;

/// The problems of one file.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    text: &'t str,
    found: Vec<ModuleProblem>,
}

/// A value with its position.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub field: String,
    pub span: Range<usize>,
}

impl<'t> Problems<'t> {
    pub fn new(text: &'t str) -> Self {
        Self {
            text,
            found: Vec::new(),
        }
    }

    pub fn add(&mut self, field: &str, at: &Range<usize>, problem: impl Into<String>) {
        let end = at.start.min(self.text.len());
        let before = self.text.as_bytes().get(..end).unwrap_or_default();
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        if self.found.len() < MAX_PROBLEMS {
            self.found.push(ModuleProblem {
                line,
                field: field.to_owned(),
                problem: problem.into(),
            });
        }
    }

    /// Returns what was read, if there is no problem.
    pub fn into_result<T>(mut self, read: Option<T>) -> Result<T, Vec<ModuleProblem>> {
        match read {
            Some(read) if self.found.is_empty() => Ok(read),
            _ => {
                self.found.sort();
                Err(self.found)
            }
        }
    }
}

/// A table of the document.
#[derive(Debug)]
pub(super) struct Fields<'d> {
    table: &'d DeTable<'d>,
    /// Path of the table, with a dot at the end; empty for the document.
    prefix: String,
    span: Range<usize>,
}

impl<'d> Fields<'d> {
    /// Refuses fields that are not `known`.
    pub fn new(
        table: &'d DeTable<'d>,
        path: &str,
        span: Range<usize>,
        known: &[&str],
        problems: &mut Problems<'_>,
    ) -> Self {
        let prefix = match path {
            "" => String::new(),
            path => format!("{path}."),
        };
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let near = known
                    .iter()
                    .map(|known| (strsim::damerau_levenshtein(known, name), *known))
                    .min()
                    .filter(|(distance, _)| *distance <= 2);
                let hint = match near {
                    Some((_, near)) => format!("did you mean {near}?"),
                    None => format!("allowed: {}", known.join(", ")),
                };
                let shown: String = name.chars().take(64).collect();
                let field = format!("{prefix}{}", shown.escape_debug());
                problems.add(&field, &key.span(), format!("is not a field here; {hint}"));
            }
        }
        Self {
            table,
            prefix,
            span,
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn value(&self, name: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.table.get(name)
    }

    /// A field that must be there.
    fn needed(&self, name: &str, allowed: &str, problems: &mut Problems<'_>) {
        if self.value(name).is_none() {
            problems.add(
                &self.path(name),
                &self.span,
                format!("is missing; it must be {allowed}"),
            );
        }
    }

    /// Reads a text of at most `most` characters.
    pub fn text(
        &self,
        name: &str,
        most: usize,
        allowed: &str,
        is_allowed: impl Fn(&str) -> bool,
        problems: &mut Problems<'_>,
    ) -> Option<At<String>> {
        let value = self.value(name)?;
        text_of(value, self.path(name), most, allowed, is_allowed, problems)
    }

    /// Reads a required text.
    pub fn needed_text(
        &self,
        name: &str,
        most: usize,
        allowed: &str,
        is_allowed: impl Fn(&str) -> bool,
        problems: &mut Problems<'_>,
    ) -> Option<At<String>> {
        self.needed(name, allowed, problems);
        self.text(name, most, allowed, is_allowed, problems)
    }

    /// True or false; false where the field is absent.
    pub fn flag(&self, name: &str, problems: &mut Problems<'_>) -> bool {
        let Some(value) = self.value(name) else {
            return false;
        };
        value.get_ref().as_bool().unwrap_or_else(|| {
            problems.add(&self.path(name), &value.span(), "must be true or false");
            false
        })
    }

    /// The items of a list, each with its path; empty where the field is absent.
    pub fn list(
        &self,
        name: &str,
        most: usize,
        problems: &mut Problems<'_>,
    ) -> Vec<At<&'d Spanned<DeValue<'d>>>> {
        let Some(value) = self.value(name) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            problems.add(&self.path(name), &value.span(), "must be a list");
            return Vec::new();
        };
        if items.len() > most {
            let problem = format!("has {} items; allowed: at most {most}", items.len());
            problems.add(&self.path(name), &value.span(), problem);
        }
        items
            .iter()
            .take(most)
            .enumerate()
            .map(|(index, value)| At {
                value,
                field: format!("{}[{index}]", self.path(name)),
                span: value.span(),
            })
            .collect()
    }

    /// A list of texts.
    pub fn texts(
        &self,
        name: &str,
        most: usize,
        characters: usize,
        allowed: &str,
        is_allowed: impl Fn(&str) -> bool + Copy,
        problems: &mut Problems<'_>,
    ) -> Vec<At<String>> {
        self.list(name, most, problems)
            .into_iter()
            .filter_map(|item| {
                text_of(
                    item.value, item.field, characters, allowed, is_allowed, problems,
                )
            })
            .collect()
    }

    /// The value of a field that may have several forms.
    pub fn any(&self, name: &str) -> Option<At<&'d Spanned<DeValue<'d>>>> {
        let value = self.value(name)?;
        Some(At {
            value,
            field: self.path(name),
            span: value.span(),
        })
    }

    /// Returns the position of the table.
    pub fn span(&self) -> &Range<usize> {
        &self.span
    }
}

fn text_of(
    value: &Spanned<DeValue<'_>>,
    field: String,
    most: usize,
    allowed: &str,
    is_allowed: impl Fn(&str) -> bool,
    problems: &mut Problems<'_>,
) -> Option<At<String>> {
    let span = value.span();
    let Some(text) = value.get_ref().as_str() else {
        problems.add(&field, &span, format!("must be a text: {allowed}"));
        return None;
    };
    let characters = text.chars().count();
    if characters > most {
        let problem = format!("has {characters} characters; allowed: at most {most}");
        problems.add(&field, &span, problem);
        return None;
    }
    if !is_allowed(text) {
        problems.add(&field, &span, format!("must be {allowed}"));
        return None;
    }
    Some(At {
        value: text.to_owned(),
        field,
        span,
    })
}

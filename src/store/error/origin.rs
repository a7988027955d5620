//! Says what an error of PostgreSQL comes from, and names the rule that refuses the row. The context of an error is
//! translated, and quotes statements and parameters, with values of rows: only lines that the server alone writes count.

use crate::domain::report::redact::clean;
use crate::ports::store_error::Origin;
use sqlx::postgres::PgDatabaseError;

/// Characters of the name of a rule that are kept, with its schema.
const NAME_LENGTH: usize = 130;

/// How the values of a statement begin that `log_parameter_max_length_on_error` adds, as the last part of a context.
const VALUES: &str = "$1 = ";

/// Returns what the error comes from, and the rule that refused the row, where PostgreSQL names it: a constraint of the
/// table that the statement itself writes, or of a partition of it, or a function of the application. What goes wrong within
/// a function, such as that of a trigger, has a context with lines about it; without one there are at most values.
pub(super) fn origin(error: &PgDatabaseError) -> (Option<Origin>, Option<String>) {
    let context = error.r#where().filter(|context| !has_only_values(context));
    let Some(context) = context else {
        // integrity_constraint_violation
        return match error.code().starts_with("23") && error.table().is_some() {
            true => (Some(Origin::Constraint), constraint_of_table(error)),
            false => (None, None),
        };
    };
    let is_raised = error.routine() == Some("exec_stmt_raise");
    let name = function(context, is_raised).filter(|name| !name.starts_with("verifyd."));
    // pl_exec.c, plpy_elog.c and so on: a procedural language.
    let is_of_language = error.file().is_some_and(|file| file.starts_with("pl"));
    let origin = name.and_then(|_| origin_within(error.code(), is_of_language));
    let rule = origin.and(name);
    (
        origin,
        rule.map(|name| format!("function {}", clean(name, NAME_LENGTH))),
    )
}

/// What PL/pgSQL calls a DO.
const INLINE: &str = "inline_code_block";

/// Returns the constraint with its table, which may be another one of those that a completion writes.
fn constraint_of_table(error: &PgDatabaseError) -> Option<String> {
    let of_table = |table| format!(" of {}", clean(table, NAME_LENGTH));
    let of_table = error.table().map(of_table).unwrap_or_default();
    error.constraint().map(|name| constraint(name) + &of_table)
}

pub(super) fn constraint(name: &str) -> String {
    format!("constraint {}", clean(name, NAME_LENGTH))
}

/// Returns what an error comes from that has ended a function of the application. A function may raise each code. Of what
/// the server raises meanwhile, conflicts with other transactions and a lack of resources are not due to the function.
fn origin_within(code: &str, is_of_language: bool) -> Option<Origin> {
    match code {
        _ if is_of_language => Some(Origin::Function),
        // serialization_failure, deadlock_detected
        "40001" | "40P01" => None,
        // lock_not_available, query_canceled
        "55P03" | "57014" => Some(Origin::Waiting),
        // insufficient_resources
        _ if code.starts_with("53") => None,
        _ => Some(Origin::Function),
    }
}

/// Whether the context is `unnamed portal with parameters: $1 = …`. A statement, which may say the same, is quoted.
fn has_only_values(context: &str) -> bool {
    context.split_once(VALUES).is_some_and(|(before, _)| {
        // In French values are quoted, too.
        let before = before.trim_end_matches([' ', '\u{a0}', '«']);
        before.strip_suffix(':').is_some_and(begins_line)
    })
}

/// Returns the name of a function that has failed, with its schema where the search_path does not lead to it: the one that
/// raises the error, else the one that the statement of verifyd has called, such as that of a trigger or policy. `None`:
/// there is none, or it is a DO, which has no name and may be of a migration.
///
/// Between the first line and the last one are statements with values of rows. The first is of the function where RAISE
/// made the error. The last one is of the outermost function, unless values follow, the last of which ends there.
fn function(context: &str, is_raised: bool) -> Option<&str> {
    let (first, last) = (context.lines().next()?, context.lines().next_back()?);
    let may_be_value = context.contains(VALUES) && last.contains(['\'', '$']);
    let raising = match is_raised || may_be_value {
        true => signed(first),
        false => None,
    };
    raising.or_else(|| {
        let name = (!may_be_value).then(|| signed(last).or_else(|| quoted(last)));
        name.flatten()
    })
}

/// Returns the name before the arguments of a function in PL/pgSQL: `PL/pgSQL function public.refuse(text) line 1 at RAISE`.
fn signed(line: &str) -> Option<&str> {
    let mut is_quoted = false;
    let end = line.find(|c: char| {
        is_quoted ^= c == '"';
        c == '(' && !is_quoted
    })?;
    let line = line.contains("PL/").then(|| &line[..end])?;
    let before = line.trim_end_matches(|c: char| {
        is_quoted ^= c == '"';
        is_quoted
            || c == '"'
            || c == '.'
            || c == '_'
            || c.is_ascii_lowercase()
            || c.is_ascii_digit()
    });
    let name = &line[before.len()..];
    (begins_line(before) && !name.is_empty()).then_some(name)
}

/// Returns the name of a function in another language, which is quoted: `SQL function "of_tenant" statement 1`. Instead of
/// one, a foreign key has a statement, with spaces.
fn quoted(line: &str) -> Option<&str> {
    let mut parts = line.split(['"', '»', '«', '“', '”', '„']);
    let before = parts.next()?;
    let is_of_function = before.contains("SQL") || before.contains("PL/");
    let name = parts.next()?.split('(').next()?.trim();
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace) && name != INLINE;
    (is_of_function && begins_line(before) && is_name).then_some(name)
}

/// Whether a line about a function may begin so, in each language of the server. A line that quotes a value or a statement
/// has a colon, a comma or a quotation mark before it.
fn begins_line(before: &str) -> bool {
    before
        .chars()
        .all(|c| c.is_alphanumeric() || c.is_whitespace() || "/-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_that_failed_is_named_in_each_language_of_the_server() {
        for (context, name) in [
            ("PL/pgSQL function refuse() line 1 at RAISE", "refuse"),
            (
                "PL/pgSQL function a.refuse(text,b.\"C d\") line 1",
                "a.refuse",
            ),
            (
                "PL/pgSQL function \"My (rule\".\"a\"\"b\"() line 1",
                "\"My (rule\".\"a\"\"b\"",
            ),
            ("PL/pgSQL-Funktion refuse() Zeile 1 bei RAISE", "refuse"),
            ("fonction PL/pgSQL refuse(), ligne 1 à RAISE", "refuse"),
            ("在RAISE的第1行的PL/pgSQL函数refuse()", "refuse"),
            ("PL/pgSQL関数refuse()の1行目 - RAISE", "refuse"),
            ("PL/pgSQL 함수 \"refuse()\" 의 1번째 RAISE", "refuse"),
            (
                "refuse() PL/pgSQL fonksiyonu, 1. satır, RAISE içinde",
                "refuse",
            ),
            ("SQL function \"of_tenant\" statement 1", "of_tenant"),
            ("SQL-Funktion »of_tenant« Anweisung 1", "of_tenant"),
            (
                "fonction SQL «\u{a0}of_tenant\u{a0}», instruction 1",
                "of_tenant",
            ),
            (
                "Traceback (most recent call last):\nPL/Python function \"refuse\"",
                "refuse",
            ),
            // A schema and a type, not the schema of verifyd's functions.
            (
                "PL/pgSQL function my_verifyd.refuse(verifyd.workers) line 1",
                "my_verifyd.refuse",
            ),
            (
                "PL/pgSQL function verifyd.guard() line 9 at RAISE",
                "verifyd.guard",
            ),
        ] {
            assert_eq!(function(context, false), Some(name), "{context}");
        }
    }

    /// They are in statements, parameters and texts of an error.
    #[test]
    fn no_value_becomes_the_name_of_a_function() {
        const FORGED: &str = "PL/pgSQL function s3cret() line 1";
        let own = "PL/pgSQL function refuse() line 3 at EXECUTE";
        for (context, is_raised, name) in [
            (
                format!("SQL statement \"SELECT 'a\"\n{FORGED}'::int\"\n{own}"),
                false,
                Some("refuse"),
            ),
            (
                format!("SQL-Anweisung »SELECT 'a«\n{FORGED}'«\n{own}"),
                false,
                Some("refuse"),
            ),
            (
                format!("PL/pgSQL assignment \"x := '\n{FORGED}'\"\n{own}"),
                true,
                Some("refuse"),
            ),
            (
                format!("{own}\nSQL statement \"\n{FORGED}\"\nPL/pgSQL function outer() line 1"),
                true,
                Some("refuse"),
            ),
            (
                format!("{own}\nunnamed portal with parameters: $1 = '\n{FORGED}'"),
                false,
                Some("refuse"),
            ),
            (
                format!(
                    "SQL statement \"SELECT '\n{FORGED}\"\n{own}\nportail : « $1 = '\n{FORGED}' »"
                ),
                false,
                None,
            ),
            (
                format!("SQL statement \"INSERT INTO audit SELECT 1 WHERE $1 = 2\"\n{own}"),
                false,
                Some("refuse"),
            ),
            (
                format!("SQL statement \"SELECT '$1 = \n{FORGED}'::int\"\n{own}"),
                false,
                Some("refuse"),
            ),
            (format!("JSON data, line 1: {{\"{FORGED}"), false, None),
            (
                "JSON data, line 1: {\"s3cret\": \"SQL PL/".to_owned(),
                false,
                None,
            ),
            (format!("JSON-Daten, Zeile 1: {FORGED}"), true, None),
            ("JSON data, line 1: SQL \"s3cret\"".to_owned(), false, None),
        ] {
            assert_eq!(function(&context, is_raised), name, "{context}");
        }
    }

    #[test]
    fn values_are_told_from_a_statement_that_looks_like_them() {
        for (context, has_only) in [
            ("unnamed portal with parameters: $1 = 'x'", true),
            ("portail non nommé avec les paramètres : « $1 = 'x' »", true),
            (
                "SQL-Anweisung »INSERT INTO audit SELECT 1 WHERE $1 = 2«\nPL/pgSQL-Funktion refuse() Zeile 1 bei EXECUTE",
                false,
            ),
            (
                "instruction SQL « SELECT ': $1 = ' »\nfonction PL/pgSQL refuse(), ligne 1 à EXECUTE",
                false,
            ),
            (
                "PL/pgSQL function refuse() line 1 at RAISE\nunnamed portal with parameters: $1 = 'x'",
                false,
            ),
        ] {
            assert_eq!(has_only_values(context), has_only, "{context}");
        }
    }

    #[test]
    fn what_is_no_function_has_no_name() {
        for context in [
            "PL/pgSQL function inline_code_block line 3 at EXECUTE",
            "PL/pgSQL 함수 \"inline_code_block\" 의 1번째 RAISE",
            "while updating tuple (0,1) in relation \"operation_runs\"",
            "while locking tuple (0,1) in relation \"t\"\nSQL statement \"SELECT 1 FROM ONLY \"public\".\"t\" x \
             WHERE \"id\" OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x\"",
            "parallel worker",
            "",
        ] {
            assert_eq!(function(context, true), None, "{context}");
        }
        let inline = "PL/pgSQL function inline_code_block line 1 at RAISE\n\
                      PL/pgSQL function refuse() line 1 at EXECUTE";
        assert_eq!(function(inline, true), Some("refuse"));
        let guard = "PL/pgSQL function verifyd.guard() line 9 at RAISE\n\
                     SQL statement \"UPDATE t\"\nPL/pgSQL function refuse() line 1";
        assert_eq!(function(guard, true), Some("verifyd.guard"));
    }

    #[test]
    fn what_the_server_meets_within_a_function_is_told_from_what_the_function_raises() {
        use Origin::{Function, Waiting};
        for (code, met) in [
            ("40001", None),
            ("40P01", None),
            ("53100", None),
            ("55P03", Some(Waiting)),
            ("57014", Some(Waiting)),
            // A function may end its own session, and make its transaction read-only.
            ("57P01", Some(Function)),
            ("25006", Some(Function)),
            ("42P01", Some(Function)),
        ] {
            assert_eq!(origin_within(code, false), met, "{code}");
            assert_eq!(origin_within(code, true), Some(Function), "{code}");
        }
    }
}

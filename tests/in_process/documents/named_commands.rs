//! Every command that a document, a page, a log line, an error or a remedy names is one that verifyd has, with arguments
//! that it takes.
//!
//! In a document `verifyd prune` alone may name a command. Whoever reads the other texts is to run what they say, so
//! there a command is whole. Words such as `ID`, `{id}`, `<ID>` and `$ID` stand for values.

use super::commands::blocks;
use crate::{files, rust_files};
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use std::path::Path;
use verifyd::config::{Settings, Sources};

/// What stands before a command in a line of a shell.
const BEFORE: &[&str] = &["|", "$(", "--", "&&", ";"];

/// What ends the arguments of a command in a line of a shell.
const AFTER: &[&str] = &["|", "<", ">", "2>", "&", "&&", ";", "#"];

/// The words behind `verifyd `, as a shell splits them, up to whatever is no argument.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for sign in text.trim_end().chars().chain([' ']) {
        match quote {
            Some(open) if sign == open => quote = None,
            Some(_) => word.push(sign),
            None if sign == '"' || sign == '\'' => quote = Some(sign),
            None if !sign.is_whitespace() => word.push(sign),
            None if word.is_empty() => {}
            None if AFTER.contains(&word.as_str()) => break,
            None => words.push(std::mem::take(&mut word)),
        }
    }
    words
}

fn is_placeholder(word: &str) -> bool {
    let is_capital = |sign: char| sign.is_ascii_uppercase() || sign == '_' || sign == '|';
    let is_enclosed = |open: char, close: char| word.starts_with(open) && word.ends_with(close);
    is_enclosed('{', '}')
        || is_enclosed('<', '>')
        || word.starts_with('$')
        || !word.is_empty() && word.chars().all(is_capital)
}

/// A value for a word that stands for one, by the option before it or by its name.
fn value(before: &str, word: &str) -> &'static str {
    match (before, word.trim_matches(['<', '>'])) {
        ("--since" | "--expires" | "--expires-at", _) => "2026-12-31",
        ("--older-than" | "--for", _) => "1d",
        ("--scope", _) => "read",
        (_, "SHELL") => "bash",
        (_, "FILTER") => "info",
        _ => "1",
    }
}

/// The arguments that a text means: brackets mark what may be left out, three dots what may be repeated.
fn arguments(text: &str) -> Vec<String> {
    let mut arguments = vec!["verifyd".to_owned()];
    for word in words(text) {
        let word = word
            .trim_matches(['[', ']'])
            .trim_end_matches("...")
            .trim_end_matches(')');
        let before = arguments.last().map_or("", String::as_str);
        let argument = match is_placeholder(word) {
            true => value(before, word).to_owned(),
            false => word.to_owned(),
        };
        arguments.push(argument);
    }
    arguments
}

/// What is wrong with a command, if anything.
fn problem(text: &str, may_be_a_name: bool) -> Option<String> {
    let arguments = arguments(text);
    let parsed = verifyd::cli::Cli::command().try_get_matches_from(&arguments);
    let error = parsed.err()?;
    let is_only_a_name = arguments.iter().all(|word| !word.starts_with('-'));
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            if may_be_a_name && is_only_a_name =>
        {
            None
        }
        _ => Some(format!("verifyd {text}: {error}")),
    }
}

/// What stands between these marks and begins with `verifyd `, without that.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    let begin = format!("{open}verifyd ");
    let parts = text.split(begin.as_str()).skip(1);
    parts.filter_map(|rest| rest.split(close).next()).collect()
}

/// The commands in the text of a literal: in backquotes or quotation marks, or at its beginning or behind a colon, up to
/// its end.
fn named_in(literal: &str) -> Vec<&str> {
    let mut named = between(literal, "`", '`');
    named.extend(between(literal, "\u{201c}", '\u{201d}'));
    let bare = literal
        .rsplit_once(": verifyd ")
        .map(|(_, bare)| bare)
        .or_else(|| literal.strip_prefix("verifyd "))
        .unwrap_or_default();
    let first = bare.split_whitespace().next().unwrap_or_default();
    let cli = verifyd::cli::Cli::command();
    // Elsewhere the name of the program begins a sentence.
    let is_command = cli.get_subcommands().any(|known| known.get_name() == first);
    if is_command {
        named.push(bare);
    }
    named
}

/// The strings of a Rust source, without those in comments.
fn literals(source: &str) -> Vec<String> {
    let signs: Vec<char> = source.chars().collect();
    let at = |index: usize| signs.get(index).copied().unwrap_or('\0');
    let find = |from: usize, wanted: &str| -> usize {
        let wanted: Vec<char> = wanted.chars().collect();
        let rest = signs.get(from..).unwrap_or_default();
        let found = rest.windows(wanted.len()).position(|part| part == wanted);
        found.map_or(signs.len(), |found| from + found)
    };
    let mut literals = Vec::new();
    let mut index = 0;
    while index < signs.len() {
        index = match (at(index), at(index + 1)) {
            ('/', '/') => find(index, "\n"),
            ('/', '*') => find(index, "*/") + 2,
            ('r', '"' | '#') => {
                let marks = signs[index + 1..].iter().take_while(|sign| **sign == '#');
                let marks = "#".repeat(marks.count());
                let begin = index + 1 + marks.len();
                if at(begin) == '"' {
                    let end = find(begin + 1, &format!("\"{marks}"));
                    literals.push(signs[begin + 1..end].iter().collect());
                    end + 1 + marks.len()
                } else {
                    index + 1
                }
            }
            ('"', _) => {
                let (literal, end) = escaped(&signs, index + 1);
                literals.push(literal);
                end
            }
            ('\'', '\\') => find(index + 3, "'") + 1,
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            _ => index + 1,
        };
    }
    literals
}

/// Reads a string up to its closing quote. Returns it, and where the source goes on.
fn escaped(signs: &[char], from: usize) -> (String, usize) {
    let mut literal = String::new();
    let mut index = from;
    while let Some(sign) = signs.get(index).copied() {
        let next = signs.get(index + 1).copied().unwrap_or('\0');
        match (sign, next) {
            ('"', _) => return (literal, index + 1),
            ('\\', '\n') => {
                let blanks = signs[index + 1..].iter().take_while(|s| s.is_whitespace());
                index += 1 + blanks.count();
            }
            ('\\', 'u') => {
                let digits = signs[index + 3..].iter().take_while(|sign| **sign != '}');
                let digits: String = digits.collect();
                let code = u32::from_str_radix(&digits, 16).unwrap();
                literal.push(char::from_u32(code).unwrap());
                index += 4 + digits.len();
            }
            ('\\', 'n' | 't' | 'r') => {
                literal.push(' ');
                index += 2;
            }
            ('\\', _) => {
                literal.push(next);
                index += 2;
            }
            _ => {
                literal.push(sign);
                index += 1;
            }
        }
    }
    (literal, index)
}

/// The command in a line of a shell.
fn in_line(line: &str) -> Option<&str> {
    let (before, command) = line.split_once("verifyd ")?;
    let before = before.trim();
    let begins = before.is_empty() || BEFORE.iter().any(|sign| before.ends_with(sign));
    begins.then_some(command)
}

/// The commands of a document, and whether each may be a mere name.
fn of_document(page: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut shell: Option<String> = None;
    for event in Parser::new(page) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                shell = ["sh", "bash"].contains(&&*language).then(String::new);
            }
            Event::End(TagEnd::CodeBlock) => {
                // Lines that a backslash continues are one.
                let block = shell.take().unwrap_or_default().replace("\\\n", " ");
                let commands = block.lines().filter_map(in_line);
                found.extend(commands.map(|command| (command.to_owned(), false)));
            }
            Event::Text(text) => {
                if let Some(block) = &mut shell {
                    block.push_str(&text);
                }
            }
            Event::Code(code) => {
                if let Some(command) = code.strip_prefix("verifyd ") {
                    found.push((command.to_owned(), true));
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn every_command_that_a_text_names_can_be_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named: Vec<(String, String, bool)> = Vec::new();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    for path in rust_files(&root.join("src")) {
        for literal in literals(&read(&path)) {
            let commands = named_in(&literal).into_iter().map(str::to_owned);
            named.extend(commands.map(|command| (name(&path), command, false)));
        }
    }
    for path in files(&root.join("templates"), |_| true) {
        let text = read(&path);
        let commands = between(&text, ">", '<').into_iter().map(str::to_owned);
        // What is between two tags of a page is text or a variable of it.
        let commands = commands.filter(|command| !command.starts_with('{'));
        named.extend(commands.map(|command| (name(&path), command, false)));
    }
    for path in files(root, |path| path.extension().is_some_and(|end| end == "md")) {
        let commands = of_document(&read(&path)).into_iter();
        named
            .extend(commands.map(|(command, may_be_a_name)| (name(&path), command, may_be_a_name)));
    }
    let problems: Vec<String> = named
        .iter()
        .filter_map(|(file, command, may_be_a_name)| {
            Some(format!("{file}: {}", problem(command, *may_be_a_name)?))
        })
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let of = |folder: &str| named.iter().filter(|(f, ..)| f.starts_with(folder)).count();
    assert!(
        of("src/") > 30 && of("templates/") > 3 && of("docs/") > 100,
        "too few are found: {named:?}"
    );
}

/// What is wrong with a line of the README that no test runs, as it lasts long or is for the whole checkout.
fn problem_of_line(root: &Path, line: &str) -> Option<String> {
    let (program, rest) = line.split_once(' ').unwrap_or((line, ""));
    match program {
        "cargo" => match rest.strip_prefix("run -- ") {
            Some(arguments) => problem(arguments, false),
            None => Some(format!("cargo {rest}: not compared with anything")),
        },
        "verifyd" => problem(rest, false),
        "export" | "cd" => None,
        script => (!root.join(script).is_file()).then(|| format!("{script} is not there")),
    }
}

#[test]
fn blocks_of_the_readme_that_are_not_run_fit_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |page: &str| std::fs::read_to_string(root.join(page)).unwrap();
    let blocks = blocks(&read("README.md"), "bash");
    let lines: Vec<&str> = blocks.iter().flat_map(|(_, block)| block.lines()).collect();
    let problems = lines.iter().filter_map(|line| problem_of_line(root, line));
    let problems: Vec<String> = problems.collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    // The simulator of the tour, and the daemon beside it, have the addresses that the next commands name.
    let mut commands = lines
        .iter()
        .filter_map(|line| line.strip_prefix("verifyd "));
    let simulate = commands.find(|command| command.starts_with("simulate"));
    let simulate = arguments(simulate.unwrap());
    let matches = verifyd::cli::Cli::command().try_get_matches_from(simulate);
    let matches = matches.unwrap();
    let matches = matches.subcommand_matches("simulate").unwrap();
    let port = matches.get_one::<u16>("port").unwrap();
    let simulator = format!("http://127.0.0.1:{port}");
    let listen = Settings::load(Sources::default()).unwrap().http.listen;
    let cloud = "export VERIFYD__MICROSOFT__CLOUDS__SIMULATED__";
    for (page, wanted) in [
        ("README.md", format!("{cloud}LOGIN={simulator}\n")),
        ("README.md", format!("{cloud}GRAPH={simulator}\n")),
        ("README.md", format!("<http://{listen}>")),
        (
            "crates/simulator/README.md",
            format!("login = \"{simulator}\"\n"),
        ),
        (
            "crates/simulator/README.md",
            format!("graph = \"{simulator}\"\n"),
        ),
        ("docs/tutorial.md", format!("<http://{listen}>")),
    ] {
        assert!(read(page).contains(&wanted), "{page} has no {wanted}");
    }
    for page in ["README.md", "docs/tutorial.md"] {
        let export = format!("export VERIFYD__HTTP__LISTEN={listen}\n");
        assert!(read(page).contains(&export), "{page} has no {export}");
    }
    for (wrong, is_wrong) in [
        ("cargo run -- demo --keep", false),
        ("cargo run -- demo --kept", true),
        ("cargo test", true),
        ("verifyd simulate --prt 1 &", true),
        ("scripts/tests", true),
    ] {
        assert_eq!(problem_of_line(root, wrong).is_some(), is_wrong, "{wrong}");
    }
}

#[test]
fn commands_are_found_and_judged() {
    let source = r##"
        // "`verifyd nothing`"
        let quote = '"'; let other = '\''; let life: &'static str = r#"a "quoted" text"#;
        warn!("it failed; `verifyd webhooks \
            replay {id}` sends it, \u{201c}verifyd doctor\u{201d} says why");
        note("Do it with: verifyd runs show {id}");
    "##;
    let literals = literals(source);
    assert_eq!(literals[0], "a \"quoted\" text");
    let named: Vec<&str> = literals
        .iter()
        .flat_map(|literal| named_in(literal))
        .collect();
    assert_eq!(named, ["webhooks replay {id}", "doctor", "runs show {id}"]);
    let page = "Use `verifyd prune`.\n\n```sh\nX=$(verifyd runs show \\\n    1)   # one\nkubectl -n verifyd get\n```\n";
    let found = of_document(page);
    assert_eq!(found[0], ("prune".to_owned(), true));
    assert_eq!(arguments(&found[1].0), ["verifyd", "runs", "show", "1"]);
    assert_eq!(found.len(), 2);
    for sound in [
        "webhooks replay DELIVERY",
        "webhooks replay --endpoint ENDPOINT --since TIME",
        "runs show <ID> [--json]",
        "connections add --help",
        "connections set-credential 1 --secret-stdin < secret.txt",
        "acknowledgements add 1 check --reason \"two words\"",
    ] {
        assert_eq!(problem(sound, false), None);
    }
    for wrong in [
        "webhooks replay",
        "webhooks reply 1",
        "runs show ID --jsn",
        "runs show zero",
        "frobnicate",
    ] {
        assert!(problem(wrong, false).is_some(), "{wrong}");
    }
    assert_eq!(problem("webhooks replay", true), None);
    assert!(problem("webhooks replay --endpoint 1", true).is_some());
    assert!(problem("webhooks reply", true).is_some());
}

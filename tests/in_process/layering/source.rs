//! Reads Rust source far enough to know which modules and crates it names.

use std::collections::HashSet;

/// A path that the source names, and where.
#[derive(Debug)]
pub struct Mention {
    pub line: usize,
    pub place: Place,
    /// Below a `#[cfg(test)]`.
    pub test: bool,
}

/// What a path begins in.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// This crate; the path from its root.
    Crate(Vec<String>),
    /// Another crate, or something local that cannot be told apart from one.
    Outside(Vec<String>),
}

/// What [`read`] finds.
#[derive(Debug, Default)]
pub struct Text {
    pub mentions: Vec<Mention>,
    /// Modules with a body in this file: line and name.
    pub inline_modules: Vec<(usize, String)>,
}

/// Reads `source`, the text of the module `module` (its path from the crate's root).
pub fn read(source: &str, module: &[String]) -> Text {
    let mut reader = Reader {
        tokens: tokens(source),
        at: 0,
        module: module.to_vec(),
        scopes: Vec::new(),
        test_ahead: false,
        paths: Vec::new(),
        locals: HashSet::new(),
        text: Text::default(),
    };
    reader.read();
    reader.finish()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Colons,
    Sign(char),
}

/// Splits into words and signs. Comments, literals and lifetimes are left out.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = source.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        match chars[i] {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && chars[i] != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                while i < chars.len() {
                    match (chars[i], at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => i = end_of_string(&chars, i),
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => {
                i += 1;
                while is_word(at(i)) {
                    i += 1;
                }
            }
            ':' if at(i + 1) == ':' => {
                found.push((line, Token::Colons));
                i += 2;
            }
            first if is_word(first) => {
                while is_word(at(i)) {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                let hashes = (i..).take_while(|&index| at(index) == '#').count();
                let raw = matches!(word.as_str(), "r" | "br" | "cr");
                if raw && at(i + hashes) == '"' {
                    i = end_of_raw_string(&chars, i + hashes + 1, hashes);
                } else if word == "r" && hashes == 1 && is_word(at(i + 1)) {
                    i += 1; // a raw identifier: its name is the next word
                } else if !first.is_ascii_digit() {
                    found.push((line, Token::Word(word)));
                }
            }
            sign => {
                if !sign.is_whitespace() {
                    found.push((line, Token::Sign(sign)));
                }
                i += 1;
            }
        }
        let end = i.min(chars.len());
        line += chars[start..end].iter().filter(|&&one| one == '\n').count();
    }
    found
}

fn is_word(one: char) -> bool {
    one == '_' || one.is_alphanumeric()
}

/// Behind the string that begins at `i`.
fn end_of_string(chars: &[char], mut i: usize) -> usize {
    i += 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Behind the raw string whose text begins at `i`.
fn end_of_raw_string(chars: &[char], mut i: usize, hashes: usize) -> usize {
    while i < chars.len() {
        let closes = chars[i] == '"'
            && chars.len() > i + hashes
            && chars[i + 1..=i + hashes].iter().all(|&one| one == '#');
        if closes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

/// A pair of braces that is open.
struct Scope {
    is_module: bool,
    test: bool,
}

/// A path as written, before it is known what it begins in.
struct Written {
    line: usize,
    segments: Vec<String>,
    /// With a leading `::`.
    absolute: bool,
    /// The modules around it.
    module: Vec<String>,
    test: bool,
}

struct Reader {
    tokens: Vec<(usize, Token)>,
    at: usize,
    module: Vec<String>,
    scopes: Vec<Scope>,
    /// A `#[cfg(test)]` was read whose item is still to come.
    test_ahead: bool,
    paths: Vec<Written>,
    /// Names that this file declares or imports from within: they hide a crate of the same name.
    locals: HashSet<String>,
    text: Text,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|(_, token)| token)
    }

    fn word(&self, ahead: usize) -> Option<&str> {
        match self.peek(ahead) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn is_sign(&self, ahead: usize, sign: char) -> bool {
        self.peek(ahead) == Some(&Token::Sign(sign))
    }

    fn line(&self) -> usize {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens
            .get(self.at.min(last))
            .map_or(1, |(line, _)| *line)
    }

    fn read(&mut self) {
        while let Some(token) = self.peek(0).cloned() {
            match token {
                Token::Sign('#') => {
                    self.test_ahead |= self.is_test_attribute();
                    self.at += 1;
                }
                Token::Sign('{') => self.open(false),
                Token::Sign('}') => {
                    if self.scopes.pop().is_some_and(|scope| scope.is_module) {
                        self.module.pop();
                    }
                    self.test_ahead = false;
                    self.at += 1;
                }
                Token::Sign(';') => {
                    self.test_ahead = false;
                    self.at += 1;
                }
                // A method or field, and what follows it, is no path of its own.
                Token::Sign('.') => {
                    self.at += 1;
                    if self.word(0).is_some() {
                        self.at += 1;
                    }
                    if self.peek(0) == Some(&Token::Colons) {
                        self.at += 1;
                    }
                }
                Token::Sign(_) => self.at += 1,
                Token::Word(word) => match word.as_str() {
                    "mod" if self.word(1).is_some() => self.declare_module(),
                    // Not the `use<'a>` of a type.
                    "use" if !self.is_sign(1, '<') => {
                        self.at += 1;
                        self.use_tree(&[], false);
                    }
                    "extern" if self.word(1) == Some("crate") => {
                        self.at += 2;
                        self.use_tree(&[], true);
                    }
                    _ => self.path(false),
                },
                Token::Colons => {
                    self.at += 1;
                    // `<T as Trait>::Item` goes on with a name of the trait; `::name` is a crate.
                    let follows_type =
                        self.at >= 2 && self.tokens[self.at - 2].1 == Token::Sign('>');
                    match (self.word(0).is_some(), follows_type) {
                        (true, false) => self.path(true),
                        (true, true) => self.at += 1,
                        (false, _) => {}
                    }
                }
            }
        }
    }

    /// Whether the attribute that begins here is `#[cfg(test)]` or has `test` among others.
    fn is_test_attribute(&self) -> bool {
        let is_cfg = self.is_sign(1, '[') && self.word(2) == Some("cfg");
        let mut words = (3..)
            .take_while(|&ahead| self.peek(ahead).is_some() && !self.is_sign(ahead, ']'))
            .filter_map(|ahead| self.word(ahead));
        let (mut test, mut not) = (false, false);
        for word in words.by_ref() {
            test |= word == "test";
            not |= word == "not";
        }
        is_cfg && test && !not
    }

    fn open(&mut self, is_module: bool) {
        let outer = self.scopes.last().is_some_and(|scope| scope.test);
        let test = outer || std::mem::take(&mut self.test_ahead);
        self.scopes.push(Scope { is_module, test });
        self.at += 1;
    }

    fn declare_module(&mut self) {
        let line = self.line();
        let Some(name) = self.word(1).map(str::to_owned) else {
            return;
        };
        self.locals.insert(name.clone());
        self.at += 2;
        if self.is_sign(0, '{') {
            self.text.inline_modules.push((line, name.clone()));
            self.module.push(name);
            self.open(true);
        }
    }

    fn note(&mut self, line: usize, segments: Vec<String>, absolute: bool) {
        let test = self.test_ahead || self.scopes.last().is_some_and(|scope| scope.test);
        let module = self.module.clone();
        self.paths.push(Written {
            line,
            segments,
            absolute,
            module,
            test,
        });
    }

    /// A path outside of `use`: words joined by `::`. A single word is no path.
    fn path(&mut self, absolute: bool) {
        let line = self.line();
        let mut segments = Vec::new();
        while let Some(word) = self.word(0).map(str::to_owned) {
            segments.push(word);
            self.at += 1;
            if self.peek(0) != Some(&Token::Colons) {
                break;
            }
            self.at += 1;
        }
        let qualified = segments.len() > 1 || self.tokens[self.at - 1].1 == Token::Colons;
        if qualified || absolute {
            self.note(line, segments, absolute);
        }
    }

    /// One branch of a `use`, behind `before`; stands behind the branch afterwards.
    fn use_tree(&mut self, before: &[String], absolute: bool) {
        let line = self.line();
        let mut absolute = absolute;
        let mut path = before.to_vec();
        if self.peek(0) == Some(&Token::Colons) {
            absolute = true;
            self.at += 1;
        }
        loop {
            if let Some(word) = self.word(0).map(str::to_owned) {
                path.push(word);
            } else if self.is_sign(0, '*') {
                path.push("*".to_owned());
            } else if self.is_sign(0, '{') {
                self.at += 1;
                while self.at < self.tokens.len() && !self.is_sign(0, '}') {
                    self.use_tree(&path, absolute);
                    if self.is_sign(0, ',') {
                        self.at += 1;
                    }
                }
                self.at += 1;
                return;
            } else {
                // Nothing that a `use` may hold (a macro's pattern, say): leave it to the caller.
                self.at += 1;
                return;
            }
            self.at += 1;
            if self.peek(0) != Some(&Token::Colons) {
                break;
            }
            self.at += 1;
        }
        let mut name = path.last().cloned().unwrap_or_default();
        if self.word(0) == Some("as") {
            name = self.word(1).unwrap_or_default().to_owned();
            self.at += 2;
        }
        if path.len() > 1 {
            self.locals.insert(name);
        }
        // `use a::{self}` names `a`.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
            self.locals
                .extend(path.last().filter(|_| path.len() > 1).cloned());
        }
        self.note(line, path, absolute);
    }

    fn finish(mut self) -> Text {
        for written in std::mem::take(&mut self.paths) {
            let Written { line, test, .. } = written;
            if let Some(place) = self.place(written) {
                self.text.mentions.push(Mention { line, place, test });
            }
        }
        self.text
    }

    /// What the path begins in; nothing when that is a name of this file.
    fn place(&self, written: Written) -> Option<Place> {
        let Written {
            segments,
            absolute,
            mut module,
            ..
        } = written;
        let first = segments.first()?.as_str();
        if absolute {
            return Some(Place::Outside(segments));
        }
        match first {
            "crate" | "verifyd" => Some(Place::Crate(segments[1..].to_vec())),
            "self" | "super" => {
                let mut rest = segments.as_slice();
                while let [step, after @ ..] = rest {
                    match step.as_str() {
                        "self" => {}
                        "super" => drop(module.pop()),
                        _ => break,
                    }
                    rest = after;
                }
                module.extend_from_slice(rest);
                Some(Place::Crate(module))
            }
            _ if self.locals.contains(first) => None,
            _ => Some(Place::Outside(segments)),
        }
    }
}

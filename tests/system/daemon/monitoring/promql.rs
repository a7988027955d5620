//! Which metrics a query in PromQL names, and with which labels.

use std::iter::Peekable;
use std::vec::IntoIter;

/// A metric as a query names it, or a series as it is exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<Matcher>,
    /// The labels of the aggregations around it.
    pub grouping: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    pub label: String,
    pub operator: String,
    pub value: String,
}

#[derive(Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Sign(char),
}

type Tokens = Peekable<IntoIter<Token>>;

/// Stand between two operands. Each other name is a function, an aggregation or a metric.
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// Precede the labels of an aggregation.
const GROUPINGS: [&str; 2] = ["by", "without"];

/// The selectors of a query. Labels of an aggregation stand before what is aggregated.
pub fn selectors(query: &str) -> Vec<Selector> {
    let mut tokens = tokens(query);
    let mut found = Vec::new();
    // The labels of each parenthesis that is open, and of the one that comes next.
    let mut open: Vec<Vec<String>> = Vec::new();
    let mut next = Vec::new();
    while let Some(token) = tokens.next() {
        match token {
            Token::Sign('(') => open.push(std::mem::take(&mut next)),
            Token::Sign(')') => assert!(open.pop().is_some(), "{query}"),
            Token::Name(name) if GROUPINGS.contains(&name.as_str()) => {
                next = names(&mut tokens);
                let is_before = tokens.peek() == Some(&Token::Sign('('));
                assert!(is_before, "labels come before what is aggregated: {query}");
            }
            Token::Name(name) if OPERATORS.contains(&name.as_str()) => {}
            Token::Name(metric) => {
                let is_called = match tokens.peek() {
                    Some(Token::Sign(sign)) => *sign == '(',
                    Some(Token::Name(next)) => GROUPINGS.contains(&next.as_str()),
                    _ => false,
                };
                if !is_called {
                    found.push(Selector {
                        metric,
                        matchers: matchers(&mut tokens),
                        grouping: open.concat(),
                    });
                }
            }
            Token::Text(_) | Token::Sign(_) => {}
        }
    }
    assert!(open.is_empty(), "{query}");
    found
}

/// The series of an answer of `/metrics`.
pub fn series(metrics: &str) -> Vec<Selector> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter_map(|line| line.rsplit_once(' '));
    lines.flat_map(|(series, _)| selectors(series)).collect()
}

/// `(NAME, …)`
fn names(tokens: &mut Tokens) -> Vec<String> {
    let listed = tokens.take_while(|token| *token != Token::Sign(')'));
    let names = listed.filter_map(|token| match token {
        Token::Name(name) => Some(name),
        _ => None,
    });
    names.collect()
}

/// `{LABEL OPERATOR "VALUE", …}`, if that follows.
fn matchers(tokens: &mut Tokens) -> Vec<Matcher> {
    let mut found = Vec::new();
    if tokens.next_if_eq(&Token::Sign('{')).is_none() {
        return found;
    }
    let mut matcher = Matcher::default();
    for token in tokens {
        match token {
            Token::Name(label) => matcher.label = label,
            Token::Text(value) => found.push(Matcher {
                value,
                ..std::mem::take(&mut matcher)
            }),
            Token::Sign('}') => break,
            Token::Sign(',') => {}
            Token::Sign(sign) => matcher.operator.push(sign),
        }
    }
    found
}

fn tokens(query: &str) -> Tokens {
    let mut found = Vec::new();
    let mut rest = query.chars().peekable();
    while let Some(first) = rest.next() {
        let mut word = |first: char| {
            let mut word = String::from(first);
            while let Some(next) = rest.next_if(|c| c.is_ascii_alphanumeric() || "_:.".contains(*c))
            {
                word.push(next);
            }
            word
        };
        match first {
            'a'..='z' | 'A'..='Z' | '_' => found.push(Token::Name(word(first))),
            // A number, a duration, or a variable of Grafana.
            '0'..='9' | '$' => drop(word(first)),
            // A range.
            '[' => {
                let end = rest.find(|c| *c == ']');
                assert!(end.is_some(), "{query}");
            }
            '"' => {
                let mut text = String::new();
                while let Some(c) = rest.next_if(|c| *c != '"') {
                    match c {
                        '\\' => text.extend(rest.next()),
                        c => text.push(c),
                    }
                }
                assert!(rest.next().is_some(), "{query}");
                found.push(Token::Text(text));
            }
            blank if blank.is_whitespace() => {}
            sign => found.push(Token::Sign(sign)),
        }
    }
    found.into_iter().peekable()
}

fn selector(metric: &str, matchers: &[(&str, &str, &str)], grouping: &[&str]) -> Selector {
    let matchers = matchers.iter().map(|(label, operator, value)| Matcher {
        label: (*label).to_owned(),
        operator: (*operator).to_owned(),
        value: (*value).to_owned(),
    });
    Selector {
        metric: metric.to_owned(),
        matchers: matchers.collect(),
        grouping: grouping.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn each_selector_has_the_labels_of_what_is_around_it() {
    let query = r#"
        max by (job) (rate(a_total{job=~"$job", x!="1"}[5m])) > 0.5
        or histogram_quantile(0.9, sum without (le, y) (b_bucket offset 1d)) / sum(c[$__rate_interval]) >= bool 1e3"#;
    let wanted = [
        selector(
            "a_total",
            &[("job", "=~", "$job"), ("x", "!=", "1")],
            &["job"],
        ),
        selector("b_bucket", &[], &["le", "y"]),
        selector("c", &[], &[]),
    ];
    assert_eq!(selectors(query), wanted);
}

#[test]
fn a_series_has_the_labels_that_it_is_exported_with() {
    let metrics = "\
# HELP a_total What (it) counts
# TYPE a_total counter
a_total{route=\"/v1/runs/{run_id}\",text=\"a \\\"quoted\\\" one\"} 12

b NaN
";
    let wanted = [
        selector(
            "a_total",
            &[
                ("route", "=", "/v1/runs/{run_id}"),
                ("text", "=", "a \"quoted\" one"),
            ],
            &[],
        ),
        selector("b", &[], &[]),
    ];
    assert_eq!(series(metrics), wanted);
}

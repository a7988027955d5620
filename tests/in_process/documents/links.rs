//! Relative links of all Markdown files lead to files and headings that exist. Addresses of other sites are
//! not called.

use crate::files;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Folders whose comments and texts name pages. Migrations are not among them: what was applied is never
/// edited.
const NAMING: &[&str] = &[
    "src", "crates", "tests", "benches", "bench", "fuzz", "config", "deploy", "scripts", ".ci",
];

/// A page, as far as links need it.
#[derive(Debug, Default)]
struct Page {
    /// Targets of links and images, in order.
    targets: Vec<String>,
    /// What `#…` may name.
    anchors: BTreeSet<String>,
}

/// Reads a page as GitHub renders it.
fn parse(text: &str) -> Page {
    let mut page = Page::default();
    let mut heading: Option<String> = None;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let slug = slug(&heading.take().unwrap_or_default());
                let before = seen.entry(slug.clone()).or_default();
                let anchor = match *before {
                    0 => slug,
                    n => format!("{slug}-{n}"),
                };
                *before += 1;
                page.anchors.insert(anchor);
            }
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.targets.push(dest_url.into_string());
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::Html(html) | Event::InlineHtml(html) => {
                page.anchors.extend(attributes(&html, &["id", "name"]));
                page.targets.extend(attributes(&html, &["href", "src"]));
            }
            _ => {}
        }
    }
    page
}

/// The anchor of a heading: lower case, spaces as hyphens, no punctuation.
fn slug(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Values of these attributes in a piece of HTML, in double quotes.
fn attributes(html: &str, names: &[&str]) -> Vec<String> {
    let of = |name: &&str| {
        let form = format!(" {name}=\"");
        let values: Vec<String> = html
            .split(&form)
            .skip(1)
            .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
            .collect();
        values
    };
    names.iter().flat_map(of).collect()
}

/// Without `.` and `..`; nothing is read. `None` where the path leaves the root.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => normal.pop().then_some(())?,
            other => normal.push(other),
        }
    }
    Some(normal)
}

/// What is wrong with one link, if anything.
fn problem(
    root: &Path,
    from: &Path,
    target: &str,
    pages: &BTreeMap<PathBuf, Page>,
) -> Option<String> {
    let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
    if is_elsewhere {
        return None;
    }
    let (path, anchor) = target
        .split_once('#')
        .map_or((target, None), |(path, a)| (path, Some(a)));
    if path.starts_with('/') {
        return Some("is absolute".to_owned());
    }
    let to = if path.is_empty() {
        from.to_path_buf()
    } else {
        match normal(&from.parent().unwrap_or(Path::new("")).join(path)) {
            Some(to) => to,
            None => return Some("leads out of the repository".to_owned()),
        }
    };
    if !root.join(&to).exists() {
        return Some(format!("there is no {}", to.display()));
    }
    let anchor = anchor?;
    match pages.get(&to) {
        Some(page) if page.anchors.contains(anchor) => None,
        Some(_) => Some(format!("{} has no heading #{anchor}", to.display())),
        None => Some(format!(
            "{} is no page, so it has no #{anchor}",
            to.display()
        )),
    }
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_page = |path: &Path| path.extension().is_some_and(|end| end == "md");
    let pages: BTreeMap<PathBuf, Page> = files(root, is_page)
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root).unwrap().to_path_buf(), parse(&text))
        })
        .collect();
    let mut followed = 0;
    let mut broken = Vec::new();
    for (from, page) in &pages {
        for target in &page.targets {
            followed += 1;
            if let Some(problem) = problem(root, from, target, &pages) {
                broken.push(format!("{}: {target}: {problem}", from.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{} broken links:\n{}",
        broken.len(),
        broken.join("\n")
    );
    assert!(followed > 100, "only {followed} links were found");
}

/// Comments, help texts and messages name pages by their path from the root.
#[test]
fn every_page_that_the_sources_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = BTreeSet::new();
    let mut named = 0;
    for folder in NAMING
        .iter()
        .map(|folder| root.join(folder))
        .filter(|f| f.exists())
    {
        for path in files(&folder, |_| true) {
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            for page in pages_named_in(&text) {
                named += 1;
                if !root.join(page).exists() {
                    missing.insert(format!(
                        "{}: {page}",
                        path.strip_prefix(root).unwrap().display()
                    ));
                }
            }
        }
    }
    let missing: Vec<String> = missing.into_iter().collect();
    assert!(
        missing.is_empty(),
        "pages that are not there:\n{}",
        missing.join("\n")
    );
    assert!(named > 10, "only {named} pages are named");
}

/// `docs/….md`, where it does not go on from another path.
fn pages_named_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("docs/").filter_map(|(at, _)| {
        let is_inside = text[..at].ends_with(|c: char| c.is_alphanumeric() || "/.-_".contains(c));
        let is_path = |c: char| c.is_ascii_alphanumeric() || "/.-_".contains(c);
        let rest = &text[at..];
        let end = rest.find(|c| !is_path(c)).unwrap_or(rest.len());
        let path = &rest[..rest[..end].rfind(".md")? + 3];
        (!is_inside).then_some(path)
    })
}

#[test]
fn anchors_are_those_of_github() {
    let page = parse(
        "# Who can *write* to `Redis`?\n\n## Runs\n\n## Runs\n\n### `worker_lost`\n\n<a id=\"own\"></a>\n\n\
         ```text\n## no heading\n```\n\n[a](b.md#c) ![d](e.png) <https://f.example>\n",
    );
    let anchors: Vec<&str> = page.anchors.iter().map(String::as_str).collect();
    assert_eq!(
        anchors,
        [
            "own",
            "runs",
            "runs-1",
            "who-can-write-to-redis",
            "worker_lost"
        ]
    );
    assert_eq!(page.targets, ["b.md#c", "e.png", "https://f.example"]);
}

#[test]
fn broken_links_are_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = BTreeMap::from([(PathBuf::from("README.md"), parse("# verifyd\n"))]);
    let found = |target: &str| problem(root, Path::new("README.md"), target, &pages).is_some();
    for sound in [
        "#verifyd",
        "README.md",
        "./docs",
        "https://a.example/b",
        "README.md#verifyd",
    ] {
        assert!(!found(sound), "{sound}");
    }
    for broken in [
        "#nothing",
        "nothing.md",
        "/docs",
        "../outside.md",
        "Cargo.toml#a",
    ] {
        assert!(found(broken), "{broken}");
    }
    let named: Vec<&str> =
        pages_named_in("see docs/adr/README.md. Not ../docs/c.md or docs/images/d.png").collect();
    assert_eq!(named, ["docs/adr/README.md"]);
}

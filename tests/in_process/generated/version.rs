//! Files that a release changes by hand name the version of `Cargo.toml`.

use std::path::Path;

#[test]
fn every_file_names_the_same_version() {
    let version = env!("CARGO_PKG_VERSION");
    let read = |file: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        std::fs::read_to_string(file).unwrap()
    };
    for (file, line) in [
        ("Dockerfile", format!("ARG VERSION={version}")),
        (
            "deploy/kubernetes/overlays/managed/kustomization.yaml",
            format!("newTag: {version}"),
        ),
    ] {
        let text = read(file);
        let mut lines = text.lines().map(str::trim);
        assert!(lines.any(|found| found == line), "{file} has no {line:?}");
    }
    let changes = read("CHANGELOG.md");
    let sections = changes.lines().filter_map(|line| line.strip_prefix("## ["));
    let mut names = sections.filter_map(|section| section.split(']').next());
    assert_eq!(names.next(), Some("Unreleased"));
    // None before the first release.
    if let Some(latest) = names.next() {
        assert_eq!(latest, version, "the latest release in CHANGELOG.md");
    }
}

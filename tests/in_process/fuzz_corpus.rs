//! Replays the corpus of the fuzz targets (`fuzz/`) through the same functions: every file of
//! `tests/corpus/<target>/`, and each of them cut and with bytes changed.

use std::path::Path;
use test_support::fuzz_targets;

/// Replays a target's files. Those whose name begins with `accepted` must be accepted, so that a
/// target which reaches nothing is noticed, and the others must not.
fn replay(name: &str, target: fn(&[u8]) -> bool, changed: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    let mut files = [0, 0];
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let data = std::fs::read(&path).unwrap();
        let wanted = file.starts_with("accepted");
        files[usize::from(wanted)] += 1;
        assert_eq!(target(&data), wanted, "{name}/{file}");
        let steps = changed.min(data.len());
        for step in 0..steps {
            let at = (2 * step + 1) * data.len() / (2 * steps);
            target(&data[..at]);
            for value in [0, b'"', b'[', 0xFF, data[at].wrapping_add(1)] {
                let mut other = data.clone();
                other[at] = value;
                target(&other);
            }
        }
    }
    assert!(files[0] >= 2 && files[1] >= 1, "{name}: {files:?}");
}

#[test]
fn job_payload() {
    replay("job_payload", fuzz_targets::job_payload, 200);
}

#[test]
fn token_response() {
    replay("token_response", fuzz_targets::token_response, 1);
}

#[test]
fn graph_pages() {
    replay("graph_pages", fuzz_targets::graph_pages, 1);
}

#[test]
fn laravel_payload() {
    replay("laravel_payload", fuzz_targets::laravel_payload, 60);
}

#[test]
fn report_input() {
    replay("report_input", fuzz_targets::report_input, 60);
}

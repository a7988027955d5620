//! Where settings come from: files, environment, flags. Each source becomes a layer of values that
//! remember their origin; unknown keys are found here, because only here the source is known.

use super::error::{ConfigError, Problem};
use super::keys::{self, rule};
use super::rule::Rule;
use super::toml_text;
use crate::domain::text_decoding;
use crate::files;
use config::{Map, Source, Value, ValueKind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const PREFIX: &str = "VERIFYD__";
const FILE_VARIABLE: &str = "VERIFYD_CONFIG";
/// Names that other programs use, too. They lose against `VERIFYD__…`.
const PLAIN: [(&str, &str); 3] = [
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT),
];
/// The same, read only where `traces.endpoint` is set: other programs accept more values.
const HEADERS: (&str, &str) = ("OTEL_EXPORTER_OTLP_HEADERS", "traces.headers");
/// The same, read only where `SAMPLER` is set, too.
const SAMPLER_ARG: (&str, &str) = ("OTEL_TRACES_SAMPLER_ARG", RATIO);
/// The key that says which traces are recorded.
const RATIO: &str = "traces.sampling_ratio";
/// Read where `HEADERS` is.
const PROTOCOL: Keyless = Keyless {
    name: "OTEL_EXPORTER_OTLP_PROTOCOL",
    field: "traces.protocol",
    rule: Rule::OneOf(&["http/protobuf", "grpc"]),
};
/// Read where `HEADERS` is. Refused where a layer above the defaults sets `RATIO`.
const SAMPLER: Keyless = Keyless {
    name: "OTEL_TRACES_SAMPLER",
    field: "traces.sampler",
    rule: Rule::OneOf(&[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ]),
};
/// The key without which there are no traces.
const ENDPOINT: &str = "traces.endpoint";
/// Switches traces off, whatever else is set.
const TRACES_DISABLED: &str = "OTEL_SDK_DISABLED";
/// Names that programs share, the first that is not empty counts. They only fill in what nothing else sets.
const SHARED: [(&str, &[&str]); 3] = [
    (
        "outbound.proxy",
        &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
    ),
    ("outbound.no_proxy", &["NO_PROXY", "no_proxy"]),
    (SOCKET, &["RUNTIME_DIRECTORY"]),
];
/// The key whose shared variable names the folder.
const SOCKET: &str = "debug.socket";
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// A variable of OpenTelemetry that sets a field of the settings without a key.
struct Keyless {
    name: &'static str,
    field: &'static str,
    rule: Rule,
}

impl Keyless {
    /// Returns the value, unless it is empty.
    fn value<'a>(&self, environment: &'a BTreeMap<String, String>) -> Option<&'a str> {
        let value = environment.get(self.name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    fn read(
        &self,
        environment: &BTreeMap<String, String>,
        layer: &mut Layer,
        problems: &mut Vec<Problem>,
    ) {
        let Some(value) = self.value(environment) else {
            return;
        };
        let (source, rule) = (variable(self.name), self.rule);
        let value = rule.read(&source, value);
        match rule.check(&value) {
            Ok(()) => layer.0.push((self.field.to_owned(), value)),
            Err(found) => {
                problems.push(Problem::at(
                    source,
                    format!("must be {rule}, found {found}"),
                ));
            }
        }
    }
}

/// Everything that settings are made of, besides the defaults.
#[derive(Clone, Default)]
pub struct Sources {
    /// What `--config` names; without it `VERIFYD_CONFIG` counts.
    pub file: Option<PathBuf>,
    /// Environment variables by name. Those that are not verifyd's are ignored.
    pub environment: BTreeMap<String, String>,
    /// What flags set.
    pub overrides: Overrides,
}

/// Shows names only.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("environment", &self.environment.keys())
            .field("overrides", &self.overrides)
            .finish()
    }
}

impl Sources {
    /// With the environment of this process. Fails when a variable that is verifyd's is not UTF-8.
    pub fn from_process(file: Option<PathBuf>, overrides: Overrides) -> Result<Self, ConfigError> {
        Ok(Self {
            file,
            environment: environment(std::env::vars_os())?,
            overrides,
        })
    }
}

/// The variables that are verifyd's.
fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else {
            continue;
        };
        let plain = name.strip_suffix("_FILE").unwrap_or(&name);
        let ours = name.starts_with(PREFIX)
            || [FILE_VARIABLE, TRACES_DISABLED, PROTOCOL.name, SAMPLER.name]
                .contains(&name.as_str())
            || PLAIN
                .iter()
                .chain([&HEADERS, &SAMPLER_ARG])
                .any(|(known, _)| *known == plain)
            || SHARED
                .iter()
                .any(|(_, names)| names.contains(&name.as_str()));
        if !ours {
            continue;
        }
        let Ok(value) = value.into_string() else {
            return Err(Problem::at(variable(&name), "its value is not UTF-8").into());
        };
        found.insert(name, value);
    }
    Ok(found)
}

/// What flags of the command line set.
#[derive(Clone, Default)]
pub struct Overrides(Vec<(&'static str, String, String)>);

/// Shows flags only.
impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(flag, ..)| flag))
            .finish()
    }
}

impl Overrides {
    /// Sets `key` (`worker.concurrency`) to what the user gave to `flag` (`--concurrency`).
    #[must_use]
    pub fn with(mut self, flag: &'static str, key: &str, value: impl Into<String>) -> Self {
        self.0.push((flag, key.to_owned(), value.into()));
        self
    }

    /// The same, where the flag may be absent.
    #[must_use]
    pub fn with_optional(
        self,
        flag: &'static str,
        key: &str,
        value: Option<impl ToString>,
    ) -> Self {
        match value {
            Some(value) => self.with(flag, key, value.to_string()),
            None => self,
        }
    }
}

/// The values of one source, by dotted key. Only known keys.
#[derive(Clone, Default)]
pub(super) struct Layer(pub(super) Vec<(String, Value)>);

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(key, _)| key))
            .finish()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.iter().cloned().collect())
    }
}

/// All layers, the weakest first.
pub(super) fn layers(
    default: &str,
    sources: &Sources,
    problems: &mut Vec<Problem>,
) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = vec![toml_text::parse(default, "default", problems)?];
    let named = sources.environment.get(FILE_VARIABLE);
    let file = sources
        .file
        .clone()
        .map(|path| ("flag --config".to_owned(), path))
        .or_else(|| {
            named
                .filter(|path| !path.is_empty())
                .map(|path| (variable(FILE_VARIABLE), PathBuf::from(path)))
        });
    if let Some((named_by, path)) = file {
        let text = read_file(&path).map_err(|error| {
            Problem::at(
                named_by,
                format!("{} cannot be read: {error}", path.display()),
            )
        })?;
        let origin = format!("file {}", path.display());
        layers.push(toml_text::parse(&text, &origin, problems)?);
    }
    let environment = &sources.environment;
    layers.push(from_plain(&PLAIN, environment, problems));
    let plain = layers.len();
    layers.push(from_environment(environment, problems));
    layers.push(from_flags(&sources.overrides, problems));
    let disabled = environment.get(TRACES_DISABLED);
    if disabled.is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
        let off = Value::new(Some(&variable(TRACES_DISABLED)), "");
        layers.push(Layer(vec![(ENDPOINT.to_owned(), off)]));
    }
    if is_set(&layers, ENDPOINT) {
        let mut standard = from_plain(&[HEADERS], environment, problems);
        PROTOCOL.read(environment, &mut standard, problems);
        if SAMPLER.value(environment).is_some() {
            if is_sampling_chosen(&layers) {
                problems.push(Problem::at(
                    variable(SAMPLER.name),
                    format!(
                        "counts for nothing where {RATIO} is set; set {} instead of the key",
                        SAMPLER_ARG.0
                    ),
                ));
            }
            SAMPLER.read(environment, &mut standard, problems);
            let ratio = from_plain(&[SAMPLER_ARG], environment, problems);
            standard.0.extend(ratio.0);
        }
        layers.insert(plain, standard);
    }
    let shared = shared_environment(environment, &layers);
    layers.push(shared);
    Ok(layers)
}

/// Whether a layer above the defaults says which traces are recorded.
fn is_sampling_chosen(layers: &[Layer]) -> bool {
    let mut chosen = layers.iter().skip(1).flat_map(|layer| &layer.0);
    chosen.any(|(key, _)| key == RATIO)
}

/// Whether the strongest layer that has the key says something.
fn is_set(layers: &[Layer], key: &str) -> bool {
    let set = layers
        .iter()
        .rev()
        .find_map(|layer| layer.0.iter().find(|(known, _)| known == key));
    set.is_some_and(|(_, value)| !is_empty(value))
}

/// What variables say that programs share, where no layer says anything.
fn shared_environment(environment: &BTreeMap<String, String>, layers: &[Layer]) -> Layer {
    let mut layer = Layer::default();
    for (key, names) in SHARED {
        let named = names.iter().find_map(|name| {
            let value = environment.get(*name)?.trim();
            (!value.is_empty()).then_some((*name, value))
        });
        if let (Some((name, value)), Some(rule), false) = (named, rule(key), is_set(layers, key)) {
            let value = match key {
                // systemd separates several folders by colons.
                SOCKET => format!("{}/debug.sock", value.split(':').next().unwrap_or(value)),
                _ => value.to_owned(),
            };
            layer
                .0
                .push((key.to_owned(), rule.read(&variable(name), &value)));
        }
    }
    layer
}

fn variable(name: &str) -> String {
    format!("environment variable {name}")
}

fn from_plain(
    names: &[(&str, &str)],
    environment: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut layer = Layer::default();
    for &(name, key) in names {
        // Compose files set such a variable to nothing where they mean "not set".
        let value = environment.get(name).filter(|value| !value.is_empty());
        let file_name = format!("{name}_FILE");
        let file = environment.get(&file_name).filter(|path| !path.is_empty());
        match (value, file, rule(key)) {
            (Some(_), Some(_), _) => problems.push(both(name, &file_name)),
            (Some(value), None, Some(rule)) => {
                layer
                    .0
                    .push((key.to_owned(), rule.read(&variable(name), value)));
            }
            (None, Some(path), Some(rule)) => {
                from_secret_file(&file_name, path, key, rule, &mut layer, problems);
            }
            _ => {}
        }
    }
    layer
}

fn from_environment(environment: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = rest.to_lowercase().replace("__", ".");
        if let Some(rule) = rule(&key) {
            layer.0.push((key, rule.read(&variable(name), value)));
            continue;
        }
        let secret = key
            .strip_suffix("_file")
            .and_then(|key| Some((key, rule(key).filter(|rule| rule.is_secret())?)));
        match secret {
            Some((_, _)) if value.is_empty() => {}
            Some((key, rule)) => {
                let direct = &name[..name.len() - "_FILE".len()];
                if environment.contains_key(direct) {
                    problems.push(both(direct, name));
                } else {
                    from_secret_file(name, value, key, rule, &mut layer, problems);
                }
            }
            None => problems.push(Problem::at(variable(name), keys::unknown(&key))),
        }
    }
    layer
}

fn both(direct: &str, file: &str) -> Problem {
    Problem::at(
        variable(file),
        format!("{direct} is set, too; set only one of the two"),
    )
}

/// A path that cannot be read is not quoted: by mistake it may be the secret itself.
fn from_secret_file(
    name: &str,
    path: &str,
    key: &str,
    rule: Rule,
    layer: &mut Layer,
    problems: &mut Vec<Problem>,
) {
    let path = text_decoding::without_byte_order_mark(text_decoding::without_line_end(path));
    match read_file(Path::new(path)) {
        Ok(text) => {
            let text = text_decoding::without_line_end(&text);
            let origin = format!("the file that {} names", variable(name));
            let value = rule.read(&origin, text);
            // Whoever names a file means what is in it, not the default.
            if is_empty(&value) {
                problems.push(Problem::at(
                    variable(name),
                    format!(
                        "must be the path of a file with {key}, or empty; {path:?} holds no value"
                    ),
                ));
            } else {
                layer.0.push((key.to_owned(), value));
            }
        }
        Err(error) => problems.push(Problem::at(
            variable(name),
            format!("must be the path of a file with {key}; it cannot be read: {error}"),
        )),
    }
}

fn is_empty(value: &Value) -> bool {
    match &value.kind {
        ValueKind::String(text) => text.is_empty(),
        ValueKind::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn read_file(path: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = files::read(path, MAX_FILE_BYTES)?;
    text_decoding::decode(&bytes).map_err(io::Error::other)
}

fn from_flags(overrides: &Overrides, problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::default();
    for (flag, key, value) in &overrides.0 {
        let origin = format!("flag {flag}");
        match rule(key) {
            Some(rule) => layer.0.push((key.clone(), rule.read(&origin, value))),
            None => problems.push(Problem::at(origin, keys::unknown(key))),
        }
    }
    layer
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn only_variables_that_are_verifyds_are_taken_and_these_must_be_text() {
        let broken = || OsString::from_vec(vec![b'a', 0xff]);
        let taken = environment(
            [
                ("PATH".into(), broken()),
                (broken(), "x".into()),
                ("VERIFYD_TEST_DATABASE_URL".into(), "x".into()),
                ("VERIFYD__LOG__FILTER".into(), "info".into()),
                ("REDIS_URL_FILE".into(), "/x".into()),
                ("VERIFYD_CONFIG".into(), "/y".into()),
            ]
            .into_iter(),
        )
        .unwrap();
        assert_eq!(
            taken.keys().collect::<Vec<_>>(),
            ["REDIS_URL_FILE", "VERIFYD_CONFIG", "VERIFYD__LOG__FILTER"]
        );
        let error = environment([("DATABASE_URL".into(), broken())].into_iter()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable DATABASE_URL: its value is not UTF-8"
        );
    }
}

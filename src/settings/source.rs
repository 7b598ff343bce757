//! The sources of settings: a TOML text and environment variables, each read into a list of fields with their
//! values and where they stand. Names that no field has are errors. The only place that names `config`.

use std::{collections::HashMap, ffi::OsString};

use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::{
    field::{FIELDS, Field, names_in, sections},
    value::Found,
};
use crate::error::{Error, ErrorKind, Result};

const PREFIX: &str = "DBEX_";
const PROBLEMS_SHOWN: usize = 20;

/// A field's value in one source.
pub(super) struct Setting {
    pub(super) field: &'static Field,
    pub(super) found: Found,
    pub(super) origin: Origin,
}

/// Where a field's value comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The settings file, at this line where it is known.
    File(Option<usize>),
    /// An environment variable.
    Environment,
    /// This option of the command line.
    Argument(&'static str),
}

/// Reads a TOML text; `name` is the file's, for errors.
pub(super) fn from_toml(text: &str, name: &str) -> Result<Vec<Setting>> {
    if text.trim().is_empty() {
        return Err(Error::invalid(format!(
            "{name} is empty: `dbex config --template` prints a file to start from"
        )));
    }
    let tables = File::from_str(text, FileFormat::Toml).collect().map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("{name}: {}", cut_lines(&error.to_string())))
    })?;
    let lines = lines_of(text);
    let line = |path: &str| lines.get(path).copied();
    let at = |path: &str| line(path).map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"));
    let known = sections();
    let mut settings = vec![];
    let mut problems = vec![];
    for (section, value) in in_file_order(tables, line) {
        let place = at(&section);
        match value.kind {
            ValueKind::Table(fields) if known.contains(&section.as_str()) => {
                for (name, value) in in_file_order(fields, |name| line(&format!("{section}.{name}"))) {
                    let path = format!("{section}.{name}");
                    match Field::find(&section, &name) {
                        Some(field) => {
                            let origin = Origin::File(line(&path));
                            settings.push(Setting { field, found: Found::Typed(value.kind), origin });
                        }
                        None => problems.push(format!(
                            "{}: there is no field {path}; [{section}] has {}",
                            at(&path),
                            names_in(&section)
                        )),
                    }
                }
            }
            ValueKind::Table(_) | ValueKind::Array(_) => problems.push(format!(
                "{place}: there is no section [{section}]; the sections are {}",
                known.join(", ")
            )),
            _ => problems.push(format!(
                "{place}: {section} stands outside the sections, which are {}",
                known.join(", ")
            )),
        }
    }
    if problems.is_empty() { Ok(settings) } else { Err(invalid(problems)) }
}

/// One error for all problems; a file that is none of ours has too many to show.
pub(super) fn invalid(mut problems: Vec<String>) -> Error {
    let more = problems.len().saturating_sub(PROBLEMS_SHOWN);
    problems.truncate(PROBLEMS_SHOWN);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    Error::invalid(problems.join("\n"))
}

fn in_file_order(map: Map<String, Value>, line: impl Fn(&str) -> Option<usize>) -> Vec<(String, Value)> {
    let mut entries: Vec<_> = map.into_iter().collect();
    entries.sort_by_cached_key(|(name, _)| (line(name), name.clone()));
    entries
}

/// The lines of section headers (`node`) and fields (`node.shards`): the parser keeps no positions once it has
/// succeeded. Unusual spellings (inline tables, quoted names) are not found, and an error then has no line.
fn lines_of(text: &str) -> HashMap<String, usize> {
    let mut lines = HashMap::new();
    let mut section = "";
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
            lines.entry(section.to_owned()).or_insert(number);
        } else if let Some((name, _)) = line.split_once('=') {
            let mut parts: Vec<_> = name.split('.').map(str::trim).collect();
            if section.is_empty() {
                lines.entry(parts.first().copied().unwrap_or_default().to_owned()).or_insert(number);
            } else {
                parts.insert(0, section);
            }
            lines.entry(parts.join(".")).or_insert(number);
        }
    }
    lines
}

/// The parser's words with its picture of the line, which may be long, cut to a screen's width.
fn cut_lines(words: &str) -> String {
    let cut: Vec<String> = words.trim_end().lines().map(|line| line.chars().take(120).collect()).collect();
    cut.join("\n")
}

/// Reads the variables that begin with `DBEX_`.
pub(super) fn from_environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Setting>> {
    let mut ours = HashMap::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with(PREFIX) || is_service_link(&name) {
            continue;
        }
        let value = value
            .into_string()
            .map_err(|_| Error::invalid(format!("the value of the variable {name} is not UTF-8 text")))?;
        if !FIELDS.iter().any(|field| field.variable() == name) {
            let known: Vec<_> = FIELDS.iter().map(Field::variable).collect();
            return Err(Error::invalid(format!(
                "there is no setting for the environment variable {name}; the names are {}",
                known.join(", ")
            )));
        }
        ours.insert(name, value);
    }
    let source = Environment::with_prefix("DBEX").prefix_separator("_").separator("__").source(Some(ours));
    let values = source.collect().map_err(|error| {
        Error::with_source(ErrorKind::Invalid, "the environment's settings cannot be read", error)
    })?;
    let found = |field: &'static Field| {
        let ValueKind::String(text) = values.get(&field.path())?.kind.clone() else { return None };
        Some(Setting { field, found: Found::Text(text), origin: Origin::Environment })
    };
    Ok(FIELDS.iter().filter_map(found).collect())
}

/// Kubernetes sets such names in every container beside a service that is called `dbex`.
fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    rest == "SERVICE_HOST"
        || rest == "PORT"
        || rest.starts_with("SERVICE_PORT")
        || rest.strip_prefix("PORT_").is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_sections_and_dotted_names() {
        let text =
            "# [node]\nnode.shards = 1\n[memory] # x\nqueue_bytes=1\n[ log ]\n  level = 'info'\nlevel = 1\n";
        let lines = lines_of(text);
        let line = |path: &str| lines.get(path).copied();
        assert_eq!(line("node.shards"), Some(2));
        assert_eq!(line("node"), Some(2));
        assert_eq!(line("memory"), Some(3));
        assert_eq!(line("memory.queue_bytes"), Some(4));
        assert_eq!(line("log.level"), Some(6));
        assert_eq!(line("log.queue_bytes"), None);
    }

    #[test]
    fn a_file_of_another_program_is_refused_quickly_and_briefly() {
        let fields: Vec<String> = (0..60_000).map(|n| format!("x{n} = 1")).collect();
        let error = from_toml(&format!("[node]\n{}", fields.join("\n")), "x.toml").err().unwrap().to_string();
        assert!(error.starts_with("x.toml:2: there is no field node.x0; "), "{error}");
        assert!(error.ends_with("\nand 59980 more"), "{error}");

        let long =
            from_toml(&format!("[node]\nx = {}", "[".repeat(500_000)), "x.toml").err().unwrap().to_string();
        assert!(long.starts_with("x.toml: ") && long.len() < 1000, "{}", long.len());
    }

    #[test]
    fn every_field_has_its_own_path_and_variable() {
        let mut variables: Vec<_> = FIELDS.iter().map(Field::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), FIELDS.len());
        assert!(variables.contains(&"DBEX_NODE__SYNC_INTERVAL_MS".to_owned()));
        // No name looks like a service link, or the environment could not override it.
        assert!(!variables.iter().any(|name| is_service_link(name)));
    }
}

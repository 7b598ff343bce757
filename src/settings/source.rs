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
        // The parser's own words have the line, a picture of it, and end in a line break.
        Error::new(ErrorKind::Invalid, format!("{name}: {}", error.to_string().trim_end()))
    })?;
    let mut settings = vec![];
    let mut problems = vec![];
    for (section, value) in in_file_order(tables, |section| line_of(text, section, None)) {
        let at = |field: Option<&str>| match line_of(text, &section, field) {
            Some(line) => format!("{name}:{line}"),
            None => name.to_owned(),
        };
        match value.kind {
            ValueKind::Table(fields) if sections().contains(&section.as_str()) => {
                for (field, value) in in_file_order(fields, |field| line_of(text, &section, Some(field))) {
                    match Field::find(&section, &field) {
                        Some(known) => settings.push(Setting {
                            field: known,
                            found: Found::Typed(value.kind),
                            origin: Origin::File(line_of(text, &section, Some(&field))),
                        }),
                        None => problems.push(format!(
                            "{}: there is no field {section}.{field}; [{section}] has {}",
                            at(Some(&field)),
                            names_in(&section)
                        )),
                    }
                }
            }
            ValueKind::Table(_) | ValueKind::Array(_) => problems.push(format!(
                "{}: there is no section [{section}]; the sections are {}",
                at(None),
                sections().join(", ")
            )),
            _ => problems.push(format!(
                "{}: {section} stands outside the sections, which are {}",
                at(None),
                sections().join(", ")
            )),
        }
    }
    if problems.is_empty() { Ok(settings) } else { Err(Error::invalid(problems.join("\n"))) }
}

fn in_file_order(map: Map<String, Value>, line: impl Fn(&str) -> Option<usize>) -> Vec<(String, Value)> {
    let mut entries: Vec<_> = map.into_iter().collect();
    entries.sort_by_cached_key(|(name, _)| (line(name), name.clone()));
    entries
}

/// The line of a section's header, or of a field in it: the parser keeps no positions once it has succeeded.
/// Unusual spellings (inline tables, quoted names) are not found, and the error then has no line.
fn line_of(text: &str, section: &str, field: Option<&str>) -> Option<usize> {
    let mut current = "";
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            current = header.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
            if current == section && field.is_none() {
                return Some(number);
            }
        } else if let Some((name, _)) = line.split_once('=') {
            let name = name.trim();
            let here = match field {
                None => current.is_empty() && name.split('.').next().map(str::trim) == Some(section),
                Some(field) if current.is_empty() => {
                    name.split_once('.').is_some_and(|(s, f)| s.trim() == section && f.trim() == field)
                }
                Some(field) => current == section && name == field,
            };
            if here {
                return Some(number);
            }
        }
    }
    None
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
        let text = "# [node]\nnode.shards = 1\n[memory] # x\nqueue_bytes=1\n[ log ]\n  level = 'info'\n";
        assert_eq!(line_of(text, "node", Some("shards")), Some(2));
        assert_eq!(line_of(text, "node", None), Some(2));
        assert_eq!(line_of(text, "memory", None), Some(3));
        assert_eq!(line_of(text, "memory", Some("queue_bytes")), Some(4));
        assert_eq!(line_of(text, "log", Some("level")), Some(6));
        assert_eq!(line_of(text, "log", Some("queue_bytes")), None);
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

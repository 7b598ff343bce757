//! Settings with where each field comes from: defaults, then the file, then the environment, then the command
//! line; the later wins.

use std::{ffi::OsString, fmt::Write as _, path::Path};

use super::{
    Settings, check,
    field::{FIELDS, Field},
    file::{physical_memory, read_text},
    source::{self, Origin, Setting},
    value::Found,
};
use crate::error::{Error, Result};

const DEFAULTS: [Origin; FIELDS.len()] = [Origin::Default; FIELDS.len()];

/// Settings on their way from their sources: read, perhaps overridden, then [`Loaded::check`]ed.
#[derive(Debug)]
pub struct Loaded {
    settings: Settings,
    file: String,
    /// Beside [`FIELDS`].
    origins: [Origin; FIELDS.len()],
}

impl Loaded {
    /// Reads the file, or with `None` the defaults, and the `DBEX_…` variables among `variables`.
    ///
    /// # Errors
    /// `Io` when the file cannot be read; `Invalid` when it or a variable is malformed, or names no field.
    pub fn read(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self> {
        let mut loaded = match path {
            Some(path) => Self::parse(&read_text(path, "settings file")?, &path.display().to_string())?,
            None => Self { origins: DEFAULTS, ..Self::parse(Settings::TEMPLATE, "shards.toml")? },
        };
        loaded.apply(source::from_environment(variables)?)?;
        Ok(loaded)
    }

    /// Reads a TOML text; `name` is its file's, for errors.
    pub(super) fn parse(text: &str, name: &str) -> Result<Self> {
        let mut loaded = Self { settings: Settings::default(), file: name.to_owned(), origins: DEFAULTS };
        loaded.apply(source::from_toml(text, name)?)?;
        Ok(loaded)
    }

    /// Overrides `section.name` with the text of a command-line `option`.
    ///
    /// # Errors
    /// `Invalid` when there is no such field or the text does not fit its type.
    pub fn set(&mut self, section: &str, name: &str, text: &str, option: &'static str) -> Result<()> {
        let field = Field::find(section, name).ok_or_else(|| {
            Error::internal(format!("{option} is for {section}.{name}, which does not exist"))
        })?;
        let found = Found::Text(text.to_owned());
        self.apply(vec![Setting { field, found, origin: Origin::Argument(option) }])
    }

    fn apply(&mut self, settings: Vec<Setting>) -> Result<()> {
        let mut problems = vec![];
        for Setting { field, found, origin } in settings {
            let set = (field.set)(&mut self.settings, &found);
            if let Some((_, entry)) = self.entries().find(|(other, _)| other.path() == field.path()) {
                *entry = origin;
            }
            if let Err(expected) = set {
                let shown = if field.secret { "(not shown)".to_owned() } else { found.show() };
                problems.push(format!("{}{} is {shown}; {expected}", self.place(field), field.path()));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(source::invalid(problems)) }
    }

    fn entries(&mut self) -> impl Iterator<Item = (&'static Field, &mut Origin)> {
        FIELDS.iter().zip(&mut self.origins)
    }

    fn origin(&self, field: &Field) -> Origin {
        let mut pairs = FIELDS.iter().zip(self.origins);
        pairs.find(|(other, _)| other.path() == field.path()).map(|(_, origin)| origin).unwrap_or_default()
    }

    /// Where a field's value stands, to open an error message.
    fn place(&self, field: &Field) -> String {
        match self.origin(field) {
            Origin::Default => String::new(),
            Origin::File(Some(line)) => format!("{}:{line}: ", self.file),
            Origin::File(None) => format!("{}: ", self.file),
            Origin::Environment => format!("{}: ", field.variable()),
            Origin::Argument(option) => format!("{option}: "),
        }
    }

    /// Checks everything that can be checked without opening the data directory.
    ///
    /// # Errors
    /// `Invalid`, with a line for each field that does not fit: where it stands, what was found, what to do.
    pub fn check(self) -> Result<Settings> {
        self.check_for(physical_memory())
    }

    /// [`Loaded::check`] for a machine with so much memory.
    pub(super) fn check_for(self, physical_memory: Option<u64>) -> Result<Settings> {
        let problems: Vec<_> = check::problems(&self.settings, physical_memory)
            .into_iter()
            .map(|problem| {
                let field = problem.field;
                let value = (field.toml)(&self.settings).unwrap_or_else(|| "unset".to_owned());
                format!("{}{} is {value}; {}", self.place(field), field.path(), problem.message)
            })
            .collect();
        if problems.is_empty() { Ok(self.settings) } else { Err(source::invalid(problems)) }
    }

    /// Settings made in code, to be checked.
    pub(super) fn from_code(settings: Settings) -> Self {
        Self { settings, file: String::new(), origins: DEFAULTS }
    }

    /// The settings as they are, unchecked.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The effective settings as a TOML file that reads back to them, each with where it comes from. Passwords
    /// are left out.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for field in &FIELDS {
            if field.section != section {
                section = field.section;
                let gap = if text.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{section}]");
            }
            let origin = match self.origin(field) {
                Origin::Default => "default".to_owned(),
                Origin::File(Some(line)) => format!("{}:{line}", self.file),
                Origin::File(None) => self.file.clone(),
                Origin::Environment => field.variable(),
                Origin::Argument(option) => option.to_owned(),
            };
            let line = match (field.toml)(&self.settings) {
                Some(value) => format!("{} = {value}", field.name),
                None if field.secret && origin != "default" => format!("# {} is set, not shown", field.name),
                None => format!("# {} is not set", field.name),
            };
            let _ = writeln!(text, "{line:<40} # {}", origin.replace(char::is_control, "?"));
        }
        text
    }
}

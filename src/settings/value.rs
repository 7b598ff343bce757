//! How one field's value is read, from a typed value of the file or from the text of an environment
//! variable, and how it is written as TOML.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::{ByteSize, Unit};
use config::ValueKind;

use super::sections::{LogFormat, LogLevel, Secret};
use crate::{
    codec::compress::Compression,
    node::options::{CompactionStrategy, Durability, IoBudget},
};

/// A value as it was found.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// In a TOML file, with the type it has there.
    Typed(ValueKind),
    /// In an environment variable or an argument: text, of whatever type the field has.
    Text(String),
}

impl Found {
    fn integer(&self) -> Option<i128> {
        match self {
            Self::Typed(ValueKind::I64(n)) => Some(i128::from(*n)),
            Self::Text(text) => text.parse().ok(),
            Self::Typed(_) => None,
        }
    }

    fn boolean(&self) -> Option<bool> {
        match self {
            Self::Typed(ValueKind::Boolean(value)) => Some(*value),
            Self::Text(text) => text.parse().ok(),
            Self::Typed(_) => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Typed(ValueKind::String(text)) | Self::Text(text) => Some(text),
            Self::Typed(_) => None,
        }
    }

    /// The members of an array, or of text with commas.
    fn list(&self) -> Option<Vec<Self>> {
        match self {
            Self::Typed(ValueKind::Array(values)) => {
                Some(values.iter().map(|value| Self::Typed(value.kind.clone())).collect())
            }
            Self::Text(text) if text.contains(',') => {
                Some(text.split(',').map(|part| Self::Text(part.trim().to_owned())).collect())
            }
            _ => None,
        }
    }

    /// The value for an error message, cut to a line's part.
    pub(super) fn show(&self) -> String {
        let shown = match self {
            Self::Typed(ValueKind::Table(_)) => "a table".to_owned(),
            Self::Typed(ValueKind::Array(_)) => "an array".to_owned(),
            Self::Typed(ValueKind::String(text)) | Self::Text(text) => quote(text),
            Self::Typed(other) => other.to_string(),
        };
        if shown.chars().count() <= 60 { shown } else { shown.chars().take(60).chain(['…']).collect() }
    }
}

/// A type that a field can have.
pub(super) trait SettingValue: Sized {
    /// Reads it; the error says what was expected.
    fn parse(found: &Found) -> Result<Self, String>;
    /// Writes it as TOML; `None` if it is unset.
    fn toml(&self) -> Option<String>;
}

impl SettingValue for bool {
    fn parse(found: &Found) -> Result<Self, String> {
        found.boolean().ok_or_else(|| "expected true or false".to_owned())
    }

    fn toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

fn count<T: TryFrom<i128>>(found: &Found) -> Result<T, String> {
    let n = found.integer().ok_or("expected a whole number")?;
    T::try_from(n).map_err(|_| if n < 0 { "it must not be negative" } else { "it is too large" }.to_owned())
}

impl SettingValue for u32 {
    fn parse(found: &Found) -> Result<Self, String> {
        count(found)
    }

    fn toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl SettingValue for usize {
    fn parse(found: &Found) -> Result<Self, String> {
        count(found)
    }

    fn toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A size in bytes. (What is counted in pieces is a `u32` or `usize`.)
impl SettingValue for u64 {
    fn parse(found: &Found) -> Result<Self, String> {
        if found.integer().is_some() {
            return count(found);
        }
        let text =
            found.text().ok_or("expected a number of bytes or a string with a unit, such as \"64MiB\"")?;
        parse_size(text)
    }

    fn toml(&self) -> Option<String> {
        Some(match size_text(*self) {
            plain if plain.bytes().all(|byte| byte.is_ascii_digit()) => plain,
            with_unit => quote(&with_unit),
        })
    }
}

/// Reads `64MiB`, `64 MB`, `1.5GiB`, `1048576`.
fn parse_size(text: &str) -> Result<u64, String> {
    let malformed = || "expected a size such as \"64MiB\", \"64MB\" or 67108864".to_owned();
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(unit_at).ok_or_else(malformed)?;
    if digits.is_empty() {
        return Err(malformed());
    }
    if unit.starts_with('.') {
        // A fraction; the conversion saturates, so the largest value may be an overflow.
        let size = text.parse::<ByteSize>().map_err(|_| malformed())?.as_u64();
        return if size == u64::MAX { Err(too_large()) } else { Ok(size) };
    }
    let number: u64 = digits.parse().map_err(|_| too_large())?;
    let factor = match unit.trim() {
        "" => 1,
        // `u64 * Unit` is the library's only way to a unit's factor.
        unit => 1 * unit.parse::<Unit>().map_err(|_| malformed())?,
    };
    number.checked_mul(factor).ok_or_else(too_large)
}

fn too_large() -> String {
    "it is more than 16 EiB".to_owned()
}

/// The largest binary unit that fits exactly: `64MiB`; plain bytes where none does.
pub(crate) fn size_text(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A size, or "off".
impl SettingValue for Option<u64> {
    fn parse(found: &Found) -> Result<Self, String> {
        match found.text() {
            Some("off") => Ok(None),
            _ => u64::parse(found).map(Some).map_err(|expected| format!("{expected}, or \"off\"")),
        }
    }

    fn toml(&self) -> Option<String> {
        self.map_or_else(|| Some(quote("off")), |bytes| bytes.toml())
    }
}

/// Whole milliseconds.
impl SettingValue for Duration {
    fn parse(found: &Found) -> Result<Self, String> {
        let millis: u32 = count(found).map_err(|expected| format!("{expected} (milliseconds)"))?;
        Ok(Self::from_millis(u64::from(millis)))
    }

    fn toml(&self) -> Option<String> {
        Some(self.as_millis().to_string())
    }
}

impl SettingValue for PathBuf {
    fn parse(found: &Found) -> Result<Self, String> {
        match found.text() {
            Some(text) if !text.is_empty() => Ok(text.into()),
            _ => Err("expected a path in quotes".to_owned()),
        }
    }

    fn toml(&self) -> Option<String> {
        Some(quote(&self.to_string_lossy()))
    }
}

impl SettingValue for Option<PathBuf> {
    fn parse(found: &Found) -> Result<Self, String> {
        PathBuf::parse(found).map(Some)
    }

    fn toml(&self) -> Option<String> {
        self.as_ref().and_then(PathBuf::toml)
    }
}

impl SettingValue for SocketAddr {
    fn parse(found: &Found) -> Result<Self, String> {
        let expected = "expected an IP address and a port, such as \"127.0.0.1:6380\" or \"[::1]:6380\"";
        found.text().and_then(|text| text.parse().ok()).ok_or_else(|| expected.to_owned())
    }

    fn toml(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl SettingValue for Option<Secret> {
    fn parse(found: &Found) -> Result<Self, String> {
        match found {
            Found::Text(text) if !text.is_empty() => Ok(Some(Secret::new(text.as_str()))),
            Found::Text(_) => Err("it is empty".to_owned()),
            Found::Typed(_) => {
                Err("a password does not belong in this file: put it in a file of its own and \
                name that in password_file, or set DBEX_SERVER__PASSWORD"
                    .to_owned())
            }
        }
    }

    fn toml(&self) -> Option<String> {
        None
    }
}

impl SettingValue for IoBudget {
    fn parse(found: &Found) -> Result<Self, String> {
        match found.text() {
            Some("auto") => Ok(Self::Auto),
            Some("unlimited") => Ok(Self::Unlimited),
            Some(text) => match parse_size(text.strip_suffix("/s").unwrap_or(text)) {
                Ok(bytes) => Ok(Self::BytesPerSecond(bytes)),
                Err(_) => Err(EXPECTED_BUDGET.to_owned()),
            },
            None => u64::parse(found).map(Self::BytesPerSecond).map_err(|_| EXPECTED_BUDGET.to_owned()),
        }
    }

    fn toml(&self) -> Option<String> {
        Some(quote(&match self {
            Self::Auto => "auto".to_owned(),
            Self::Unlimited => "unlimited".to_owned(),
            Self::BytesPerSecond(bytes) => format!("{}/s", size_text(*bytes)),
        }))
    }
}

const EXPECTED_BUDGET: &str =
    "expected \"auto\", \"unlimited\", a rate such as \"200MiB/s\", or a number of bytes per second";

/// One algorithm for all levels, or one each for L0, L1 and L2.
impl SettingValue for [Compression; 3] {
    fn parse(found: &Found) -> Result<Self, String> {
        let expected = "expected \"none\", \"lz4\" or \"zstd\", or three of them for L0, L1 and L2";
        if let Some(list) = found.list() {
            let levels: Vec<Compression> = list.iter().map(SettingValue::parse).collect::<Result<_, _>>()?;
            return Self::try_from(levels).map_err(|_| expected.to_owned());
        }
        Compression::parse(found).map(|all| [all; 3]).map_err(|_| expected.to_owned())
    }

    fn toml(&self) -> Option<String> {
        let [l0, l1, l2] = self;
        if l0 == l1 && l1 == l2 {
            return l0.toml();
        }
        Some(format!("[{}, {}, {}]", l0.toml()?, l1.toml()?, l2.toml()?))
    }
}

/// Gives an enum's variants their names in settings.
macro_rules! named {
    ($type:ty, $expected:literal, $($name:literal => $variant:path),+ $(,)?) => {
        impl SettingValue for $type {
            fn parse(found: &Found) -> Result<Self, String> {
                match found.text() {
                    $(Some($name) => Ok($variant),)+
                    _ => Err($expected.to_owned()),
                }
            }

            fn toml(&self) -> Option<String> {
                Some(quote(match self {
                    $($variant => $name,)+
                }))
            }
        }
    };
}

named!(Durability, "expected \"buffered\" or \"synced\"",
    "buffered" => Durability::Buffered, "synced" => Durability::Synced);
named!(CompactionStrategy, "expected \"leveled\" or \"size_tiered\"",
    "leveled" => CompactionStrategy::Leveled, "size_tiered" => CompactionStrategy::SizeTiered);
named!(Compression, "expected \"none\", \"lz4\" or \"zstd\"",
    "none" => Compression::None, "lz4" => Compression::Lz4, "zstd" => Compression::Zstd);
named!(LogLevel, "expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    "error" => LogLevel::Error, "warn" => LogLevel::Warn, "info" => LogLevel::Info,
    "debug" => LogLevel::Debug, "trace" => LogLevel::Trace);
named!(LogFormat, "expected \"auto\", \"text\" or \"json\"",
    "auto" => LogFormat::Auto, "text" => LogFormat::Text, "json" => LogFormat::Json);

/// A TOML basic string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(text: &str) -> Result<u64, String> {
        u64::parse(&Found::Typed(ValueKind::String(text.to_owned())))
    }

    #[test]
    fn sizes_are_exact_and_never_wrap() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("64 MB"), Ok(64_000_000));
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        assert_eq!(size("9007199254740993B"), Ok(9_007_199_254_740_993));
        assert_eq!(size("18446744073709551615"), Ok(u64::MAX));
        for overflow in ["18446744073709551616", "17EiB", "99999999999999999999TiB", "99999.5EiB"] {
            assert_eq!(size(overflow), Err(too_large()), "{overflow}");
        }
        for malformed in ["", "MiB", "-1", "64 Mi B", "64furlongs", "1e3", ".5MiB", "1.2.3MiB"] {
            assert!(size(malformed).unwrap_err().starts_with("expected a size"), "{malformed}");
        }
    }

    #[test]
    fn a_type_of_the_file_is_not_bent() {
        assert!(u32::parse(&Found::Typed(ValueKind::String("4".into()))).is_err());
        assert!(bool::parse(&Found::Typed(ValueKind::I64(1))).is_err());
        assert!(PathBuf::parse(&Found::Typed(ValueKind::I64(1))).is_err());
        assert_eq!(u32::parse(&Found::Text("4".into())), Ok(4));
        assert_eq!(u32::parse(&Found::Text("-4".into())), Err("it must not be negative".to_owned()));
        assert_eq!(u32::parse(&Found::Typed(ValueKind::I64(1 << 40))), Err("it is too large".to_owned()));
    }

    #[test]
    fn a_secret_shows_nowhere() {
        let secret = Option::<Secret>::parse(&Found::Text("hunter2".into())).unwrap();
        assert_eq!(secret.toml(), None);
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn a_written_size_reads_back(bytes in any::<u64>(), shift in 0..64u32) {
            let bytes = (bytes >> shift) << (shift / 2);
            prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (size(&text), IoBudget::parse(&Found::Text(text.clone())));
            prop_assert!(Found::Text(text).show().chars().count() <= 61);
        }
    }
}

//! Read-modify-write, as steps: what the named operations of a handle are made of.

use bytes::Bytes;

use super::step::{Change, Step, StepDone};
use crate::error::{Error, ErrorKind, Result};

/// What a compare expects of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// The key has this value.
    Value(&'a [u8]),
    /// The key is absent.
    Absent,
}

pub(super) fn update<C: Into<Change>>(
    key: Bytes,
    change: impl FnOnce(Option<&[u8]>) -> C + Send + 'static,
) -> Step {
    update_by(key, move |value| Ok(change(value).into()))
}

fn update_by(key: Bytes, change: impl FnOnce(Option<&[u8]>) -> Result<Change> + Send + 'static) -> Step {
    Step::Update { key, change: Box::new(move |current| change(current.map(|current| current.value))) }
}

pub(super) fn put_if_absent(key: Bytes, value: Bytes) -> Step {
    let change = move |current: Option<&[u8]>| match current {
        None => Ok(Change::Put(value)),
        Some(_) => Err(Error::conflict("the key is there already")),
    };
    update_by(key, change)
}

pub(super) fn compare_and_set(key: Bytes, expected: Expected<'_>, value: Option<Bytes>) -> Step {
    let expected = match expected {
        Expected::Value(value) => Some(value.to_vec()),
        Expected::Absent => None,
    };
    let change = move |current: Option<&[u8]>| {
        if current == expected.as_deref() {
            Ok(Change::from(value))
        } else {
            Err(Error::conflict("the value is not as expected"))
        }
    };
    update_by(key, change)
}

/// Whether a compare found what it expected.
pub(super) fn swapped(done: Result<StepDone>) -> Result<bool> {
    match done {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn increment(key: Bytes, by: i64) -> Step {
    let change = move |current: Option<&[u8]>| {
        let sum = number(current)?.checked_add(by);
        let sum = sum.ok_or_else(|| Error::invalid("the increment would overflow a 64-bit number"))?;
        Ok(Change::Put(Bytes::from(sum.to_string())))
    };
    update_by(key, change)
}

/// The decimal number that a value holds; 0 for an absent one.
pub(super) fn number(value: Option<&[u8]>) -> Result<i64> {
    let Some(value) = value else { return Ok(0) };
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::invalid("the value is not a 64-bit decimal number"))
}

//! For each key the values that it may have, when writes can fail and their outcome be unknown: what it had when
//! it was last promised to stay, and everything that was tried since.

use std::collections::BTreeMap;

use dbex::{ErrorKind, Result};

use crate::history::{Key, State, Value, show_value};

/// What one client knows of its keys.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    keys: BTreeMap<Key, Line>,
}

#[derive(Clone, Default)]
struct Line {
    /// What the last write that was acked made of it.
    acked: Option<Value>,
    /// What writes of unknown outcome since then would have made of it.
    unknown: Vec<Option<Value>>,
    /// What it may be after a power loss, or after its log was read back: all since the last promise.
    possible: Vec<Option<Value>>,
}

impl Ledger {
    /// Notes a write and how it ended.
    pub(crate) fn wrote(&mut self, key: &[u8], value: Option<&[u8]>, done: &Result<()>, is_promised: bool) {
        let line = self.line(key);
        let value = value.map(<[u8]>::to_vec);
        match done {
            Ok(()) => {
                if is_promised {
                    line.possible.clear();
                }
                line.possible.push(value.clone());
                line.unknown.clear();
                line.acked = value;
            }
            // Nothing was written, say the docs of these.
            Err(error)
                if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Busy | ErrorKind::Closed) => {}
            Err(_) => {
                line.possible.push(value.clone());
                line.unknown.push(value);
            }
        }
    }

    fn line(&mut self, key: &[u8]) -> &mut Line {
        self.keys.entry(key.to_vec()).or_insert_with(|| Line { possible: vec![None], ..Line::default() })
    }

    /// A sync or a flush returned: what was acked is promised.
    pub(crate) fn promised_all(&mut self) {
        for line in self.keys.values_mut() {
            line.possible.clone_from(&line.unknown);
            line.possible.insert(0, line.acked.clone());
        }
    }

    /// Checks what a live node returns for every key: acks count, and what is unknown may have happened.
    ///
    /// # Errors
    /// What may not be.
    pub(crate) fn check_live(&self, found: &State) -> Result<(), String> {
        self.check(found, |line| line.unknown.iter().chain([&line.acked]).cloned().collect())
    }

    /// Checks what a node returns that was opened after a power loss, and goes on from it.
    ///
    /// # Errors
    /// What may not be.
    pub(crate) fn check_opened(&mut self, found: &State) -> Result<(), String> {
        self.check(found, |line| line.possible.clone())?;
        for (key, line) in &mut self.keys {
            let value = found.get(key).cloned();
            *line = Line { acked: value.clone(), unknown: vec![], possible: vec![value] };
        }
        Ok(())
    }

    fn check(&self, found: &State, allowed: impl Fn(&Line) -> Vec<Option<Value>>) -> Result<(), String> {
        for (key, line) in &self.keys {
            let (value, allowed) = (found.get(key).cloned(), allowed(line));
            if !allowed.contains(&value) {
                let allowed: Vec<_> = allowed.iter().map(|value| show_value(value.as_ref())).collect();
                return Err(format!(
                    "{} is {}, allowed: {}",
                    String::from_utf8_lossy(key),
                    show_value(value.as_ref()),
                    allowed.join(" ")
                ));
            }
        }
        let stranger = found.keys().find(|key| !self.keys.contains_key(*key));
        stranger.map_or(Ok(()), |key| Err(format!("{} was never written", String::from_utf8_lossy(key))))
    }
}

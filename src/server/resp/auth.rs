//! The password check: its time does not depend on where a wrong password differs, and wrong ones are
//! answered late.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::settings::Secret;

/// By how many doublings the delay of failures in a row grows.
const MAX_DOUBLINGS: u32 = 4;

/// The server's password and how often in a row it was missed, on whatever connections.
#[derive(Debug)]
pub(super) struct AuthGate {
    password: Option<Secret>,
    failures_in_a_row: AtomicU32,
    failure_delay: Duration,
}

/// What a password given by a client is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// Answer only after this time.
    Wrong {
        delay: Duration,
    },
}

impl AuthGate {
    pub(super) fn new(password: Option<Secret>, failure_delay: Duration) -> Self {
        Self { password, failures_in_a_row: AtomicU32::new(0), failure_delay }
    }

    /// Whether clients must authenticate.
    pub(super) fn is_closed(&self) -> bool {
        self.password.is_some()
    }

    /// Checks a user's password. There is one user, `default`.
    pub(super) fn check(&self, user: &[u8], password: &[u8]) -> Verdict {
        // Without a password, as in Redis, any is right for the default user.
        let right = self.password.as_ref().is_none_or(|right| constant_time_eq(right.expose(), password));
        let right = right && user == b"default";
        if right {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
            return Verdict::Right;
        }
        let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        Verdict::Wrong { delay: self.failure_delay * (1 << failures.min(MAX_DOUBLINGS)) }
    }
}

/// Compares in a time that depends on the given password's length only.
fn constant_time_eq(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(expected.len() != given.len());
    let mut expected = expected.iter();
    for byte in given {
        let other = expected.next().copied().unwrap_or_default();
        difference = black_box(difference | (byte ^ other));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_wrong_and_none() {
        let gate = AuthGate::new(Some(Secret::new("pass")), Duration::from_millis(10));
        assert_eq!(gate.check(b"default", b"pass"), Verdict::Right);
        for wrong in [&b"Pass"[..], b"pas", b"passs", b"", b"pass\0"] {
            assert!(matches!(gate.check(b"default", wrong), Verdict::Wrong { .. }));
        }
        assert!(matches!(gate.check(b"admin", b"pass"), Verdict::Wrong { .. }));
        let open = AuthGate::new(None, Duration::ZERO);
        assert_eq!(open.check(b"default", b"any"), Verdict::Right);
        assert!(matches!(open.check(b"other", b"any"), Verdict::Wrong { .. }));
    }

    #[test]
    fn failures_in_a_row_are_answered_ever_later() {
        let gate = AuthGate::new(Some(Secret::new("pass")), Duration::from_millis(10));
        let delays: Vec<_> = (0..7).map(|_| gate.check(b"default", b"x")).collect();
        let expected = [10, 20, 40, 80, 160, 160, 160];
        let expected = expected.map(|ms| Verdict::Wrong { delay: Duration::from_millis(ms) });
        assert_eq!(delays, expected);
        gate.check(b"default", b"pass");
        assert_eq!(gate.check(b"default", b"x"), Verdict::Wrong { delay: Duration::from_millis(10) });
    }
}

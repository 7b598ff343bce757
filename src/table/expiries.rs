//! When the values of a table expire, in a few numbers: by each of them another eighth has.

/// How many parts they are told in.
const PARTS: usize = 8;

/// Times on the node's clock, in milliseconds, ascending: by the n-th of them n + 1 eighths of the expiring entries have
/// expired. All 0 where none expires.
pub type ExpiryParts = [u64; PARTS];

/// Collects when the entries of a table expire.
#[derive(Clone, Debug, Default)]
pub(super) struct ExpiryTimes(Vec<u64>);

impl ExpiryTimes {
    pub(super) fn add(&mut self, expires_at_ms: u64) {
        self.0.push(expires_at_ms);
    }

    pub(super) fn parts(mut self) -> ExpiryParts {
        self.0.sort_unstable();
        let count = self.0.len();
        std::array::from_fn(|part| {
            let last = ((part + 1) * count).div_ceil(PARTS).saturating_sub(1);
            self.0.get(last).copied().unwrap_or_default()
        })
    }
}

/// How many of `expiring` entries have expired by then, at least.
pub fn expired_by(parts: &ExpiryParts, expiring: u64, now_ms: u64) -> u64 {
    let parts_gone = parts.iter().filter(|time| **time <= now_ms).count() as u64;
    let expired = u128::from(expiring) * u128::from(parts_gone) / PARTS as u128;
    u64::try_from(expired).unwrap_or(expiring)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_is_said_to_have_expired_than_has_and_all_in_the_end(
            times in proptest::collection::vec(1u64..50, 0..40),
            now_ms in 0u64..60,
        ) {
            let mut all = ExpiryTimes::default();
            for time in &times {
                all.add(*time);
            }
            let (parts, count) = (all.parts(), times.len() as u64);
            prop_assert!(parts.is_sorted());
            let expired = times.iter().filter(|time| **time <= now_ms).count() as u64;
            let said = expired_by(&parts, count, now_ms);
            prop_assert!(said <= expired, "{} of {}", said, expired);
            prop_assert!(expired < said + count.div_ceil(8) + 1, "{} of {}", said, expired);
            prop_assert_eq!(expired_by(&parts, count, 60), count);
        }
    }
}

//! How steady a series of seconds is, and what of that the machine's own speed explains.

use crate::seconds::Second;

/// Seconds whose puts count together.
const WINDOW: usize = 10;

/// The furthest that the puts of ten seconds in a row are from the mean of all, as a part of it.
pub fn swing(seconds: &[Second]) -> f64 {
    let puts = |second: &Second| Some(second.puts as f64);
    let all = mean(seconds, puts).unwrap_or_default();
    let windows = seconds.windows(WINDOW).filter_map(|ten| mean(ten, puts));
    windows.map(|ten| (ten / all - 1.0).abs()).fold(0.0, f64::max)
}

/// Ten seconds' puts against the processor time of the fixed work in them, both as logarithms.
#[derive(Debug)]
pub struct Explained {
    /// -1 where the machine's speed decides alone.
    pub correlation: f64,
    /// The furthest that ten seconds are from the line through all of them: the swing that is left.
    pub rest: f64,
}

/// What the machine's speed explains, by least squares; `None` where it was not looked at, or never changed.
pub fn explained_by_machine(seconds: &[Second]) -> Option<Explained> {
    let windows = seconds.windows(WINDOW);
    let point = |ten: &[Second]| {
        let puts = mean(ten, |second| Some(second.puts as f64))?;
        Some((mean(ten, |second| second.yardstick_us)?.ln(), puts.ln()))
    };
    let points: Vec<(f64, f64)> = windows.map(point).collect::<Option<_>>()?;
    let first = points.first()?;
    // NOTE: from the first one, so that what never changes is exactly zero.
    let points: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x - first.0, y - first.1)).collect();
    let count = points.len() as f64;
    let (x_mean, y_mean) =
        points.iter().fold((0.0, 0.0), |(x_sum, y_sum), (x, y)| (x_sum + x / count, y_sum + y / count));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in &points {
        let (x, y) = (x - x_mean, y - y_mean);
        (xx, xy, yy) = (xx + x * x, xy + x * y, yy + y * y);
    }
    let slope = xy / xx;
    let distance = |(x, y): &(f64, f64)| ((y - y_mean - slope * (x - x_mean)).exp() - 1.0).abs();
    let rest = points.iter().map(distance).fold(0.0, f64::max);
    let correlation = xy / (xx * yy).sqrt();
    correlation.is_finite().then_some(Explained { correlation, rest })
}

/// The mean of a figure that all of the seconds have.
fn mean(seconds: &[Second], figure: impl Fn(&Second) -> Option<f64>) -> Option<f64> {
    let sum = seconds.iter().map(figure).sum::<Option<f64>>()?;
    (!seconds.is_empty()).then(|| sum / seconds.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(puts: impl IntoIterator<Item = (u64, f64)>) -> Vec<Second> {
        let second = |(puts, us)| Second { puts, yardstick_us: Some(us), ..Second::default() };
        puts.into_iter().map(second).collect()
    }

    #[test]
    fn a_swing_is_that_of_ten_seconds() {
        assert!(swing(&seconds([(100, 1.0); 30])).abs() < 1e-9);
        // One second without puts: a tenth of its window.
        let mut puts = [(100, 1.0); 100];
        puts[50].0 = 0;
        assert!((swing(&seconds(puts)) - (1.0 - 90.0 / 99.0)).abs() < 1e-9);
    }

    #[test]
    fn what_goes_with_the_machines_speed_is_explained_and_the_rest_is_not() {
        let times = || (0..100).map(|second| 500 + 3 * second);
        let with_the_machine = |us: u32| (u64::from(1_000_000_000 / us), f64::from(us));
        let explained = explained_by_machine(&seconds(times().map(with_the_machine))).unwrap();
        assert!(explained.correlation < -0.999 && explained.rest < 0.01, "{explained:?}");
        let mut with_a_stall: Vec<_> = times().map(with_the_machine).collect();
        with_a_stall[50..60].iter_mut().for_each(|(puts, _)| *puts /= 2);
        let explained = explained_by_machine(&seconds(with_a_stall)).unwrap();
        assert!(explained.correlation > -0.95 && explained.rest > 0.4, "{explained:?}");
        assert!(explained_by_machine(&seconds([(100, 500.0); 30])).is_none());
        assert!(explained_by_machine(&[Second { puts: 100, ..Second::default() }; 30]).is_none());
    }
}

//! Charts over time, one a sustained workload: rate, tails, debt and background work of every engine, second by second.

use std::path::Path;

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

use super::charts::ENGINES;
use crate::{rows::LONG_GROUPS, sample::Sample, seconds::Second};

const WIDTH: u32 = 1_000;
const PANEL_HEIGHT: u32 = 200;
/// What cannot be drawn on a logarithmic scale.
const LEAST: f64 = 0.01;

/// One panel: what is drawn of a second.
struct Panel {
    title: &'static str,
    is_logarithmic: bool,
    figure: fn(&Second) -> Option<f64>,
}

const PANELS: [Panel; 10] = [
    Panel {
        title: "puts a second, thousands",
        is_logarithmic: false,
        figure: |second| Some(second.puts as f64 / 1e3),
    },
    Panel { title: "p50 put, ms", is_logarithmic: true, figure: |second| Some(second.put?.p50_us / 1e3) },
    Panel { title: "p99.9 put, ms", is_logarithmic: true, figure: |second| Some(second.put?.p999_us / 1e3) },
    Panel { title: "worst put, ms", is_logarithmic: true, figure: |second| Some(second.put?.max_us / 1e3) },
    Panel { title: "p99 get, ms", is_logarithmic: true, figure: |second| Some(second.get?.p99_us / 1e3) },
    Panel { title: "worst get, ms", is_logarithmic: true, figure: |second| Some(second.get?.max_us / 1e3) },
    Panel {
        title: "debt, MiB (dbex, RocksDB)",
        is_logarithmic: false,
        figure: |second| Some(second.debt_bytes? as f64 / f64::from(1 << 20)),
    },
    Panel {
        title: "background reads and writes, MiB a second (dbex)",
        is_logarithmic: false,
        figure: |second| Some(second.background_bytes? as f64 / f64::from(1 << 20)),
    },
    Panel {
        title: "written by the process, MiB a second",
        is_logarithmic: false,
        figure: |second| Some(second.written_bytes as f64 / f64::from(1 << 20)),
    },
    Panel {
        title: "the machine: processor time of a fixed piece of work, us",
        is_logarithmic: false,
        figure: |second| second.yardstick_us,
    },
];

/// Draws a chart a workload, of each engine's last round.
pub(super) fn draw(samples: &[Sample], out: &Path) -> Result<()> {
    for group in LONG_GROUPS {
        let last = |engine| {
            let of_engine = |sample: &&Sample| sample.engine == engine && sample.row == group.name;
            samples.iter().rev().find(of_engine).map(|sample| sample.series.as_slice())
        };
        let lines: Vec<(&str, RGBColor, &[Second])> = ENGINES
            .iter()
            .filter_map(|(engine, color)| Some((engine.name(), *color, last(*engine)?)))
            .filter(|(_, _, series)| !series.is_empty())
            .collect();
        if lines.is_empty() {
            continue;
        }
        let path = out.join(format!("{}.svg", group.name));
        let height = PANEL_HEIGHT * u32::try_from(PANELS.len())?;
        let area = SVGBackend::new(&path, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        for (panel, part) in PANELS.iter().zip(area.split_evenly((PANELS.len(), 1))) {
            draw_panel(panel, &part, &lines)?;
        }
        area.present()?;
    }
    Ok(())
}

fn draw_panel(
    panel: &Panel,
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    lines: &[(&str, RGBColor, &[Second])],
) -> Result<()> {
    let figures = |series: &[Second]| -> Vec<(f64, f64)> {
        let points = series.iter().zip(0_u32..);
        points.filter_map(|(second, at)| Some((f64::from(at), (panel.figure)(second)?))).collect()
    };
    let all = || lines.iter().flat_map(|(_, _, series)| figures(series));
    let (end, most) = all()
        .fold((1.0, LEAST * 10.0), |(end, most): (f64, f64), (at, figure)| (end.max(at), most.max(figure)));
    let mut builder = ChartBuilder::on(area);
    builder.caption(panel.title, ("sans-serif", 16)).margin(8).x_label_area_size(22).y_label_area_size(60);
    // NOTE: the two scales are of different types.
    macro_rules! lines_on {
        ($scale:expr, $least:expr) => {{
            let mut chart = builder.build_cartesian_2d(0.0..end, $scale)?;
            chart.configure_mesh().x_labels(12).y_labels(5).draw()?;
            for (name, color, series) in lines {
                let points = figures(series).into_iter().map(|(at, figure)| (at, figure.max($least)));
                chart
                    .draw_series(LineSeries::new(points, color))?
                    .label(*name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color.stroke_width(2)));
            }
            chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
        }};
    }
    if panel.is_logarithmic {
        lines_on!((LEAST..most * 1.2).log_scale(), LEAST);
    } else {
        lines_on!(0.0..most * 1.1, 0.0);
    }
    Ok(())
}

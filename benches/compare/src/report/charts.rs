//! A bar chart a unit: every engine's figure as a multiple of the best peer's, on a logarithmic scale. Bars begin at 1,
//! the best peer itself.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use crate::{
    engines::EngineKind,
    report::summary::{RowSummary, Summary},
    rows::Target,
};

pub(super) const ENGINES: [(EngineKind, RGBColor); 4] = [
    (EngineKind::Dbex, RGBColor(0xD9, 0x48, 0x01)),
    (EngineKind::RocksDb, RGBColor(0x6B, 0x6B, 0x6B)),
    (EngineKind::Fjall, RGBColor(0x31, 0x82, 0xBD)),
    (EngineKind::Redb, RGBColor(0x75, 0x6B, 0xB1)),
];
const ROW_HEIGHT: u32 = 60;
const WIDTH: u32 = 900;
/// How much further the scale goes than the figures.
const MARGIN: f64 = 1.2;
/// What the bar of the best peer goes to either side of 1.
const TICK: f64 = 1.01;

pub(super) fn draw(summary: &Summary, out: &Path) -> Result<()> {
    let rates = |row: &&RowSummary| matches!(row.row.target, Target::TimesBest(_));
    let costs = |row: &&RowSummary| row.row.target.less_is_better();
    chart(&out.join("rates.svg"), "operations a second, best peer = 1", summary.rows.iter().filter(rates))?;
    chart(&out.join("costs.svg"), "time, space, tails: best peer = 1", summary.rows.iter().filter(costs))
}

fn chart<'a>(path: &Path, caption: &str, rows: impl Iterator<Item = &'a RowSummary>) -> Result<()> {
    let rows: Vec<(&RowSummary, f64)> =
        rows.filter_map(|row| Some((row, row.best_peer().filter(|best| *best > 0.0)?))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let multiple = |row: &RowSummary, best: f64, engine| row.figure(engine).map(|figure| figure / best);
    let multiples = || {
        rows.iter().flat_map(|&(row, best)| {
            ENGINES.iter().filter_map(move |(engine, _)| multiple(row, best, *engine))
        })
    };
    let (least, most) = (multiples().fold(1.0, f64::min), multiples().fold(1.0, f64::max));
    let scale = (least / MARGIN..most * MARGIN).log_scale();
    let height = ROW_HEIGHT * u32::try_from(rows.len() + 2)?;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(30)
        .build_cartesian_2d(scale, 0.0..f64::from(u32::try_from(rows.len())?))?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_labels(12).draw()?;
    for (engine, color) in ENGINES {
        let place = ENGINES.iter().position(|(other, _)| *other == engine).unwrap_or_default();
        let bars = rows.iter().rev().zip(0_u32..).filter_map(|(&(row, best), line)| {
            let top = f64::from(line) + 0.68 - 0.15 * f64::from(u32::try_from(place).ok()?);
            let length = multiple(row, best, engine)?;
            let (left, right) = (length.min(1.0 / TICK), length.max(TICK));
            Some(Rectangle::new([(left, top - 0.13), (right, top)], color.filled()))
        });
        chart
            .draw_series(bars)?
            .label(engine.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
    }
    let titles = rows.iter().rev().zip(0_u32..).map(|(&(row, _), line)| {
        Text::new(row.row.title, (least / MARGIN, f64::from(line) + 0.92), ("sans-serif", 14))
    });
    chart.draw_series(titles)?;
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

//! Charts of what the tests of the scheduling saw in their model world (`src/node/schedule/simulator_test` of dbex, with
//! `DBEX_SIMULATION_DIR` set): what came in, what the background moved and might have, backlog and syncs.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use plotters::{coord::Shift, prelude::*};

const WIDTH: u32 = 1_000;
const PANEL_HEIGHT: u32 = 220;
const COLUMNS: usize = 6;

/// A line: its column in the table, its name and its color.
type Line = (usize, &'static str, RGBColor);

/// What is drawn, panel by panel.
const PANELS: [(&str, &[Line]); 3] = [
    ("MiB a second", &[(2, "background", BLUE), (3, "budget", RED), (1, "written", BLACK)]),
    ("backlog, in parts of what is healthy", &[(4, "worst shard", BLACK)]),
    ("worst sync of each second, µs", &[(5, "syncs", BLACK)]),
];

/// Draws a chart for each table in `dir` into `out`.
pub fn draw(dir: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            let rows =
                read(&path).with_context(|| format!("{} is no table of a simulation", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            draw_table(&rows, &out.join(format!("simulated-{name}.svg")))?;
        }
    }
    Ok(())
}

/// Rows of a table; what is empty in it was not limited, or not there.
fn read(path: &Path) -> Result<Vec<[Option<f64>; COLUMNS]>> {
    let text = fs::read_to_string(path)?;
    let row = |line: &str| -> Result<[Option<f64>; COLUMNS]> {
        let figures = line.split(',').map(|cell| (!cell.is_empty()).then(|| cell.parse()).transpose());
        let figures = figures.collect::<Result<Vec<_>, _>>()?;
        figures.try_into().map_err(|row: Vec<_>| anyhow::anyhow!("{} figures in a row", row.len()))
    };
    text.lines().skip(1).map(row).collect()
}

fn draw_table(rows: &[[Option<f64>; COLUMNS]], path: &Path) -> Result<()> {
    let height = PANEL_HEIGHT * u32::try_from(PANELS.len())?;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    for ((title, lines), part) in PANELS.iter().zip(area.split_evenly((PANELS.len(), 1))) {
        draw_panel(title, lines, rows, &part)?;
    }
    area.present()?;
    Ok(())
}

fn draw_panel(
    title: &str,
    lines: &[Line],
    rows: &[[Option<f64>; COLUMNS]],
    area: &DrawingArea<SVGBackend<'_>, Shift>,
) -> Result<()> {
    let column = |column: usize| rows.iter().map(move |row| row.get(column).copied().flatten());
    let most = lines.iter().flat_map(|(at, ..)| column(*at)).flatten().fold(0.1, f64::max);
    let mut builder = ChartBuilder::on(area);
    builder.caption(title, ("sans-serif", 16)).margin(8).x_label_area_size(22).y_label_area_size(60);
    let mut chart = builder.build_cartesian_2d(0.0..rows.len() as f64, 0.0..most * 1.1)?;
    chart.configure_mesh().x_labels(12).y_labels(5).draw()?;
    for (at, name, color) in lines {
        // A line for each stretch in which there is a figure.
        let points: Vec<_> = (0_u32..).map(f64::from).zip(column(*at)).collect();
        let mut stretches =
            points.split(|(_, figure)| figure.is_none()).filter(|stretch| !stretch.is_empty());
        let line = |stretch: &[(f64, Option<f64>)]| {
            let points: Vec<_> =
                stretch.iter().filter_map(|(second, figure)| Some((*second, (*figure)?))).collect();
            LineSeries::new(points, *color)
        };
        if let Some(first) = stretches.next() {
            chart
                .draw_series(line(first))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color.stroke_width(2)));
        }
        for stretch in stretches {
            chart.draw_series(line(stretch))?;
        }
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    Ok(())
}

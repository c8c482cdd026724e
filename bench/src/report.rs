//! Samples, medians and the one table.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Goal {
    /// The median is below.
    Below(f64),
    /// The median is at least.
    AtLeast(f64),
    /// The ratio to the baseline is at least.
    RatioAtLeast(f64),
    /// The ratio to the baseline is at most.
    RatioAtMost(f64),
}

/// What else was measured in the same rounds, to compare with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Baseline {
    /// What it is.
    pub name: String,
    /// Its samples. As many as the row has, in the same order, if the rounds were interleaved.
    pub samples: Vec<f64>,
}

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Unit of the samples.
    pub unit: String,
    /// One a round.
    pub samples: Vec<f64>,
    /// To compare with.
    pub baseline: Option<Baseline>,
    /// What it should be.
    pub goal: Option<Goal>,
    /// The machine before the measurement.
    pub machine: Machine,
}

impl Row {
    /// A figure without baseline and goal.
    pub fn new(name: impl Into<String>, unit: &str, samples: Vec<f64>, machine: Machine) -> Self {
        Self { name: name.into(), unit: unit.to_owned(), samples, baseline: None, goal: None, machine }
    }

    /// Compared with `samples` of `name`.
    #[must_use]
    pub fn against(mut self, name: &str, samples: &[f64]) -> Self {
        self.baseline = Some(Baseline { name: name.to_owned(), samples: samples.to_vec() });
        self
    }

    /// With a goal.
    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// Median of the ratios of each round where rounds were interleaved, else ratio of the medians.
    pub fn ratio(&self) -> Option<f64> {
        let baseline = &self.baseline.as_ref()?.samples;
        if baseline.len() == self.samples.len() {
            let ratios: Vec<f64> = self.samples.iter().zip(baseline).map(|(a, b)| a / b).collect();
            return Some(median(&ratios));
        }
        Some(median(&self.samples) / median(baseline))
    }

    /// Whether the goal is met; `None` without one.
    pub fn met(&self) -> Option<bool> {
        let figure = median(&self.samples);
        Some(match self.goal? {
            Goal::Below(limit) => figure < limit,
            Goal::AtLeast(limit) => figure >= limit,
            Goal::RatioAtLeast(limit) => self.ratio()? >= limit,
            Goal::RatioAtMost(limit) => self.ratio()? <= limit,
        })
    }
}

/// The middle of `samples`; not a number if there are none.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The sample below which a share `q` of the others lies, interpolated.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

/// How busy the machine was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Load of the last minute; our own earlier measurements count in it.
    pub load: f64,
    /// Share of the processors that others used, in percent, while we did nothing.
    pub others: f64,
}

impl Machine {
    /// Watches the machine for a moment.
    pub fn look() -> Self {
        const WATCHED: Duration = Duration::from_millis(300);
        let before = processor_ticks();
        std::thread::sleep(WATCHED);
        let after = processor_ticks();
        let (idle, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        let others = if all == 0 { 0.0 } else { 100.0 * (1.0 - idle as f64 / all as f64) };
        Self { load: load(), others }
    }
}

/// Load of the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(f64::NAN)
}

/// Idle and all ticks of all processors since boot.
fn processor_ticks() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers: Vec<u64> =
        text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    let idle = numbers.iter().skip(3).take(2).sum();
    (idle, numbers.iter().take(8).sum())
}

/// Runs `work` and says how many milliseconds it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let result = work();
    (milliseconds(started.elapsed()), result)
}

/// A duration as a sample.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The table.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        ["measurement", "median", "min - max", "n", "baseline", "ratio", "goal", "met", "load", "others"]
            .map(str::to_owned),
    ];
    for row in rows {
        let figure = |v: f64| number(v);
        let baseline = row.baseline.as_ref();
        lines.push([
            row.name.clone(),
            format!("{} {}", figure(median(&row.samples)), row.unit),
            format!("{} - {}", figure(quantile(&row.samples, 0.0)), figure(quantile(&row.samples, 1.0))),
            row.samples.len().to_string(),
            baseline.map_or(String::new(), |b| format!("{} {}", b.name, figure(median(&b.samples)))),
            row.ratio().map_or(String::new(), |r| format!("{r:.3}")),
            match row.goal {
                None => String::new(),
                Some(Goal::Below(v)) => format!("< {}", figure(v)),
                Some(Goal::AtLeast(v)) => format!(">= {}", figure(v)),
                Some(Goal::RatioAtLeast(v)) => format!("ratio >= {v}"),
                Some(Goal::RatioAtMost(v)) => format!("ratio <= {v}"),
            },
            row.met().map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
            format!("{:.2}", row.machine.load),
            format!("{:.0}%", row.machine.others),
        ]);
    }
    let columns = lines.first().map_or(0, |l| l.len());
    let widths: Vec<usize> =
        (0..columns).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        text.push('|');
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, " {cell:width$} |");
        }
        text.push('\n');
        if at == 0 {
            text.push('|');
            for width in &widths {
                let _ = write!(text, "{}|", "-".repeat(width + 2));
            }
            text.push('\n');
        }
    }
    text
}

/// Three or four digits that count.
fn number(v: f64) -> String {
    let decimals = match v.abs() {
        a if a >= 1000.0 => 0,
        a if a >= 100.0 => 1,
        a if a >= 1.0 => 2,
        _ => 3,
    };
    format!("{v:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_and_need_no_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile(&[1.0, 2.0], 1.0), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn interleaved_rounds_are_compared_round_by_round() {
        // The machine was three times slower in the second round: it does not show in the ratio.
        let row = Row::new("x", "ms", vec![2.0, 6.0, 2.0], Machine::default()).against("b", &[1.0, 3.0, 1.0]);
        assert_eq!(row.ratio(), Some(2.0));
        assert_eq!(row.clone().goal(Goal::RatioAtMost(2.0)).met(), Some(true));
        assert_eq!(row.goal(Goal::Below(2.0)).met(), Some(false));
    }
}

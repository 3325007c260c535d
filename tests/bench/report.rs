//! Ratios, their spread, and the table they are shown in.

use serde_json::{Value, json};

/// What a ratio should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// A should be at least so much of B.
    AtLeast(f64),
    /// A should be at most so much of B.
    AtMost(f64),
    /// It is only to be known.
    Known,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Goal::AtLeast(bound) => format!(">= {bound}"),
            Goal::AtMost(bound) => format!("<= {bound}"),
            Goal::Known => String::new(),
        }
    }

    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(bound) => value >= bound,
            Goal::AtMost(bound) => value <= bound,
            Goal::Known => true,
        }
    }
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    goal: Goal,
    /// A and B of each round; a figure by itself has a B of 1.
    rounds: Vec<(f64, f64)>,
}

/// The rows so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    only: Vec<String>,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report of the rows whose name holds one of these texts; of all if there are none.
    pub(crate) fn new(only: Vec<String>) -> Self {
        Self { only, rows: Vec::new() }
    }

    /// Whether a row is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str()))
    }

    /// A row of ratios.
    pub(crate) fn ratio(&mut self, name: &str, unit: &'static str, goal: Goal, rounds: Vec<(f64, f64)>) {
        let row = Row { name: name.to_owned(), unit, goal, rounds };
        println!("{}", row.line());
        self.rows.push(row);
    }

    /// A figure that stands by itself.
    pub(crate) fn figure(&mut self, name: &str, unit: &'static str, goal: Goal, value: f64) {
        self.ratio(name, unit, goal, vec![(value, 1.0)]);
    }

    /// Prints all rows together.
    pub(crate) fn print(&self) {
        println!(
            "\n{:<52} {:>8} {:>17}  {:<8} {:>11} {:>11}  unit",
            "work", "A/B", "range", "goal", "A", "B"
        );
        self.rows.iter().for_each(|row| println!("{}", row.line()));
        let missed = self.rows.iter().filter(|row| !row.goal.is_met(row.median())).count();
        println!("{} rows, {missed} short of their goal", self.rows.len());
    }

    /// All rows for programs.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "work": row.name,
                "unit": row.unit,
                "goal": row.goal.text(),
                "median": row.median(),
                "met": row.goal.is_met(row.median()),
                "rounds": row.rounds.iter().map(|(a, b)| json!({"a": a, "b": b})).collect::<Vec<_>>(),
            })
        });
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        json!({"rows": rows.collect::<Vec<_>>(), "processors": processors})
    }
}

impl Row {
    fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<f64> = self.rounds.iter().map(|(a, b)| a / b).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    fn median(&self) -> f64 {
        median(self.ratios())
    }

    fn line(&self) -> String {
        let ratios = self.ratios();
        let (least, most) = (ratios.first().copied().unwrap_or(0.0), ratios.last().copied().unwrap_or(0.0));
        let mark = if self.goal.is_met(self.median()) { ' ' } else { '!' };
        let a = median(self.rounds.iter().map(|round| round.0).collect());
        let b = median(self.rounds.iter().map(|round| round.1).collect());
        let is_ratio = self.rounds.iter().any(|round| (round.1 - 1.0).abs() > f64::EPSILON);
        if is_ratio {
            format!(
                "{:<52} {:>8.3} {least:>8.3} -{most:>7.3} {mark}{:<8} {a:>11.0} {b:>11.0}  {}",
                self.name,
                self.median(),
                self.goal.text(),
                self.unit
            )
        } else {
            format!(
                "{:<52} {:>8} {:>17} {mark}{:<8} {a:>11.2} {:>11}  {}",
                self.name,
                "",
                "",
                self.goal.text(),
                "",
                self.unit
            )
        }
    }
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

//! Tables: columns without lines, the last of which is cut where the terminal ends.

use comfy_table::{CellAlignment, ColumnConstraint, Table, Width, presets};
use unicode_width::UnicodeWidthStr;

use super::text::{cut, printable};

/// The space between two columns.
const GAP: u16 = 2;
/// The last column keeps at least so many columns of the terminal.
const MIN_LAST: usize = 12;

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Column {
    title: &'static str,
    is_number: bool,
    is_wide: bool,
    /// So wide at least, so that rows that come later stand below those before.
    least: u16,
}

impl Column {
    /// Of text.
    pub(in crate::cli) const fn text(title: &'static str) -> Self {
        Self { title, is_number: false, is_wide: false, least: 0 }
    }

    /// Of numbers, which end below each other.
    pub(in crate::cli) const fn number(title: &'static str) -> Self {
        Self { title, is_number: true, is_wide: false, least: 0 }
    }

    /// Only in a wide table.
    pub(in crate::cli) const fn wide(title: &'static str) -> Self {
        Self { title, is_number: false, is_wide: true, least: 0 }
    }

    /// So wide at least.
    pub(in crate::cli) const fn at_least(self, least: u16) -> Self {
        Self { least, ..self }
    }
}

/// What is printed of one thing, in any form.
#[derive(Debug, Clone)]
pub(in crate::cli) struct ShownItem {
    pub(in crate::cli) name: String,
    /// One line.
    pub(in crate::cli) json: String,
    /// One for each column.
    pub(in crate::cli) cells: Vec<String>,
}

/// How wide the columns of what was printed before were: rows that come later stand below those.
#[derive(Debug, Default)]
pub(super) struct ColumnWidths(Vec<usize>);

impl ColumnWidths {
    /// Widens them to these rows, and under a header to the titles, too.
    fn widen(&mut self, shown: &[(usize, &Column)], rows: &[Vec<String>], has_header: bool) {
        self.0.resize(shown.len(), 0);
        for (place, (known, (_, column))) in self.0.iter_mut().zip(shown).enumerate() {
            let title = if has_header { column.title.width() } else { 0 };
            let cells = rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.width());
            *known = cells.fold(title.max(*known).max(column.least.into()), usize::max);
        }
    }

    /// Columns of the terminal before the last one of the table.
    fn before_last(&self) -> usize {
        let before = self.0.len().saturating_sub(1);
        self.0.iter().take(before).map(|width| width + usize::from(GAP)).sum()
    }
}

/// The text of a table, which ends with a line's end. It has a header if nothing was printed before.
pub(super) fn render(
    columns: &[Column],
    items: &[ShownItem],
    is_wide: bool,
    widths: &mut ColumnWidths,
    terminal: Option<usize>,
) -> String {
    let shown: Vec<(usize, &Column)> =
        columns.iter().enumerate().filter(|(_, column)| is_wide || !column.is_wide).collect();
    let cells = |item: &ShownItem| -> Vec<String> {
        let cell = |(place, _): &(usize, &Column)| {
            item.cells.get(*place).map(|cell| printable(cell).into_owned()).unwrap_or_default()
        };
        shown.iter().map(cell).collect()
    };
    let mut rows: Vec<Vec<String>> = items.iter().map(cells).collect();
    let has_header = widths.0.is_empty();
    widths.widen(&shown, &rows, has_header);
    if let Some(terminal) = terminal {
        let used = widths.before_last();
        for last in rows.iter_mut().filter_map(|row| row.last_mut()) {
            *last = cut(last, terminal.saturating_sub(used).max(MIN_LAST)).into_owned();
        }
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if has_header {
        table.set_header(shown.iter().map(|(_, column)| column.title.to_uppercase()));
    }
    for row in rows {
        table.add_row(row);
    }
    for (place, (_, column)) in shown.iter().enumerate() {
        let Some(styled) = table.column_mut(place) else { continue };
        if column.is_number {
            styled.set_cell_alignment(CellAlignment::Right);
        }
        let is_last = place + 1 == shown.len();
        let gap = if is_last { 0 } else { GAP };
        styled.set_padding((0, gap));
        if !is_last || column.is_number {
            let width = u16::try_from(widths.0[place]).unwrap_or(u16::MAX).saturating_add(gap);
            styled.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

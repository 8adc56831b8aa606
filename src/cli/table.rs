//! Plain tables for terminals.

use super::output::printable;

/// Longest cell; longer ones are cut with a mark.
const MAX_CELL: usize = 60;

/// Which side a column's cells keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a head, padded so that columns line up.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. Text from outside loses its control characters.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| shortened(&printable(cell))).collect());
    }

    pub(super) fn render(&self) -> String {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| width(name)).collect();
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell));
            }
        }
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &wide), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let padding = " ".repeat(wide.saturating_sub(width(cell)));
                let (first, second) = match align {
                    Align::Left => (cell, &padding),
                    Align::Right => (&padding, cell),
                };
                line.extend([first.as_str(), second.as_str(), "  "]);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn shortened(text: &str) -> String {
    if width(text) <= MAX_CELL {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(MAX_CELL - 1).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_long_cells_are_cut() {
        let mut table = Table::new(&[("NAME", Align::Left), ("JOBS", Align::Right)]);
        table.row(["gw".to_owned(), "1".to_owned()]);
        table.row(["batch_rt".to_owned(), "12345".to_owned()]);
        assert_eq!(table.render(), "NAME       JOBS\ngw            1\nbatch_rt  12345\n");
        let mut table = Table::new(&[("TEXT", Align::Left)]);
        table.row(["x".repeat(100)]);
        assert!(table.render().ends_with("x…\n"));
    }
}

//! Tables of text: columns with their headers, numbers at the right.

use std::fmt;

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    header: String,
    is_number: bool,
}

impl Column {
    /// A column of numbers.
    pub(super) fn number(header: &str) -> Column {
        Column { header: header.to_owned(), is_number: true }
    }

    /// A column of words.
    pub(super) fn words(header: &str) -> Column {
        Column { header: header.to_owned(), is_number: false }
    }
}

/// Columns and rows.
#[derive(Clone, Debug)]
pub(super) struct TextTable {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// A table without rows.
    pub(super) fn new(columns: impl IntoIterator<Item = Column>) -> TextTable {
        TextTable { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row, with a cell for each column. Control characters are shown as what they are, so that a name of a
    /// client does nothing to the terminal.
    pub(super) fn add(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    fn width(&self, column: usize) -> usize {
        let header = self.columns.get(column).map_or("", |column| &column.header);
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells.chain([header]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

fn harmless(cell: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    cell.chars().map(shown).collect()
}

impl fmt::Display for TextTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        let headers: Vec<String> = self.columns.iter().map(|column| column.header.clone()).collect();
        for row in [&headers].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                match column.is_number {
                    true => line.extend([padding.as_str(), cell]),
                    false => line.extend([cell, padding.as_str()]),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_at_the_left_and_numbers_at_the_right() {
        let mut table =
            TextTable::new([Column::words("client"), Column::number("queue"), Column::words("peer")]);
        table.add(["ada", "7", "192.0.2.1:5"].map(str::to_owned));
        table.add(["grün", "123456", ""].map(str::to_owned));
        let expected = "client   queue  peer\nada          7  192.0.2.1:5\ngrün    123456\n";
        assert_eq!(table.to_string(), expected);
        assert_eq!(TextTable::new([Column::words("a"), Column::number("b")]).to_string(), "a  b\n");
    }

    #[test]
    fn names_do_nothing_to_the_terminal() {
        let mut table = TextTable::new([Column::words("client")]);
        table.add(["a\u{1b}[2Jb\n\u{9b}c".to_owned()]);
        assert_eq!(table.to_string(), "client\na\\u{1b}[2Jb\\n\\u{9b}c\n");
    }
}

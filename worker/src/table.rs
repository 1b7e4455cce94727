//! How results are printed: tables with aligned columns, tables in Markdown, JSON. Knows nothing of what they mean.

use serde::Serialize;

/// Rows of cells below a heading.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// # Panics
    /// If there are not as many cells as columns.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "one cell for each column");
        self.rows.push(cells);
    }

    /// Columns as wide as their widest cell, the heading in capitals.
    pub fn text(&self) -> String {
        let width = |(column, heading): (usize, &str)| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([heading.chars().count()]).max().unwrap_or(0)
        };
        let headings: Vec<String> =
            self.columns.iter().map(|(heading, _)| heading.to_uppercase()).collect();
        let widths: Vec<usize> =
            headings.iter().map(String::as_str).enumerate().map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).zip(&self.columns);
            let padded = cells.map(|((cell, &width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        std::iter::once(&headings).chain(&self.rows).map(|cells| line(cells)).collect()
    }

    /// A GitHub-flavoured table.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let headings = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let rules = self.columns.iter().map(|(_, align)| match align {
            Align::Left => "---".to_owned(),
            Align::Right => "---:".to_owned(),
        });
        let escape = |cell: &String| cell.replace('|', "\\|");
        let rows = self.rows.iter().map(|row| line(row.iter().map(escape).collect()));
        [line(headings), line(rules.collect())].into_iter().chain(rows).collect()
    }
}

/// A value as JSON, for programs.
pub fn json<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string_pretty(value);
    text.expect("what is printed has only types that JSON can hold") + "\n"
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (11_689_512, "11,689,512")]
        {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn words_align_to_the_left_and_numbers_to_the_right() {
        let mut table = Table::new(&[("name", Align::Left), ("count", Align::Right)]);
        table.row(vec!["a".to_owned(), "1".to_owned()]);
        table.row(vec!["longer|".to_owned(), "12".to_owned()]);
        assert_eq!(table.text(), "NAME     COUNT\na            1\nlonger|     12\n");
        assert_eq!(
            table.markdown(),
            "| name | count |\n| --- | ---: |\n| a | 1 |\n| longer\\| | 12 |\n"
        );
    }
}

//! Output for people, and for programs with `--json`.

use std::fmt;
use std::io::{self, Write};

use kms_api::Timestamp;
use kms_api::civil::Civil;
use serde::Serialize;
use serde_json::json;

use crate::exit::{Exit, Failure};

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Results as JSON, or for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints one result: `human` for people, `value` as JSON.
    ///
    /// # Errors
    /// Standard output cannot be written. A reader that went away (`| head`) is not an error.
    pub fn print(self, human: impl fmt::Display, value: &impl Serialize) -> Result<(), Failure> {
        if self.json {
            let text = serde_json::to_string_pretty(value).map_err(|e| {
                Failure::new(Exit::Local, format!("the result has no JSON form: {e}"))
            })?;
            self.write(format!("{text}\n").as_bytes())
        } else {
            let mut text = human.to_string();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            self.write(text.as_bytes())
        }
    }

    /// Prints a result that is only a confirmation: nothing for JSON but `{}`.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn done(self, human: impl fmt::Display) -> Result<(), Failure> {
        self.print(human, &json!({}))
    }

    /// Writes bytes to standard output.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn write(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::local("standard output", &e))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reports a failure on standard error.
    pub fn failure(self, failure: &Failure) {
        if self.json {
            let value = json!({ "error": {
                "code": failure.code,
                "exit": failure.exit as u8,
                "message": failure.message,
                "next_step": failure.next_step,
            }});
            eprintln!("{value}");
            return;
        }
        eprintln!("kmsctl: {}", failure.message);
        if let Some(step) = &failure.next_step {
            eprintln!("        {step}");
        }
    }
}

/// A table with a heading and columns as wide as their content.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A point in time as `2026-11-23 21:59:23 UTC`.
pub fn time(at: Timestamp) -> String {
    let Civil {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = Civil::from_millis(at.secs().saturating_mul(1000));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil_dates() {
        let cases = [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_795_471_163, "2026-11-23 21:59:23 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
        ];
        for (secs, text) in cases {
            assert_eq!(time(Timestamp::from_secs(secs)), text);
        }
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["alias/long-name".into(), "Enabled".into()]);
        table.row(vec!["a".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "NAME             STATE\nalias/long-name  Enabled\na\n"
        );
    }
}

//! What commands print: results on the standard output, in the form that is asked for, and all else on the
//! standard error. It knows nothing of requests.

mod progress;
mod record;
mod table;
pub(super) mod text;

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use clap::ValueEnum;
use serde_json::{Number, Value, value::RawValue};

use self::table::ColumnWidths;
pub(super) use self::{
    progress::{StatusLine, tell},
    record::ShownRecord,
    table::{Column, ShownItem},
};
use crate::yaml;

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// Columns for people
    Table,
    /// The same with more columns, and nothing cut off
    Wide,
    /// A JSON object a line
    Json,
    /// A YAML document each
    Yaml,
    /// Names only
    Name,
    /// Of events: their payloads as they were sent
    Payload,
}

/// Where results go, and how they look there.
pub(super) struct Output {
    format: OutputFormat,
    /// Columns of the terminal, if it is one.
    width: Option<usize>,
    /// Whether YAML has its first document already.
    has_begun: bool,
    /// Of the table that was printed so far.
    widths: ColumnWidths,
    out: Box<dyn Write>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Output {
    /// On the standard output: a table on a terminal and JSON lines in a pipe, unless `format` says
    /// otherwise.
    pub(super) fn of_stdout(format: Option<OutputFormat>) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let usual = if is_terminal { OutputFormat::Table } else { OutputFormat::Json };
        let width = is_terminal.then(|| columns_of(&stdout)).flatten();
        Self::new(format.unwrap_or(usual), width, Box::new(BufWriter::new(stdout)))
    }

    fn new(format: OutputFormat, width: Option<usize>, out: Box<dyn Write>) -> Self {
        Self { format, width, has_begun: false, widths: ColumnWidths::default(), out }
    }

    /// The form.
    pub(super) fn format(&self) -> OutputFormat {
        self.format
    }

    /// Whether a person looks at it.
    pub(super) fn is_for_people(&self) -> bool {
        matches!(self.format, OutputFormat::Table | OutputFormat::Wide)
    }

    /// Whether it goes to a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// Prints items that have the same columns, and sees to it that they are out.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn items(&mut self, columns: &[Column], items: &[ShownItem]) -> io::Result<()> {
        self.print(columns, items)?;
        self.flush()
    }

    fn print(&mut self, columns: &[Column], items: &[ShownItem]) -> io::Result<()> {
        match self.format {
            OutputFormat::Table | OutputFormat::Wide => {
                let is_wide = self.format == OutputFormat::Wide;
                let width = self.width.filter(|_| !is_wide);
                let text = table::render(columns, items, is_wide, &mut self.widths, width);
                self.out.write_all(text.as_bytes())
            }
            OutputFormat::Json => items.iter().try_for_each(|item| writeln!(self.out, "{}", item.json)),
            OutputFormat::Yaml => items.iter().try_for_each(|item| self.document(&item.json)),
            OutputFormat::Name => items.iter().try_for_each(|item| writeln!(self.out, "{}", item.name)),
            // Refused before anything is asked: see `Session::refuse_payload`.
            OutputFormat::Payload => Ok(()),
        }
    }

    /// Prints events.
    ///
    /// # Errors
    /// What the system says; a record that is none is an error of its own.
    pub(super) fn records(&mut self, table: &str, records: &[Box<RawValue>]) -> io::Result<()> {
        match self.format {
            OutputFormat::Json => {
                records.iter().try_for_each(|record| writeln!(self.out, "{}", record.get()))
            }
            OutputFormat::Yaml => records.iter().try_for_each(|record| self.document(record.get())),
            OutputFormat::Payload => records.iter().try_for_each(|record| {
                self.out.write_all(&ShownRecord::parse(record)?.payload()?)?;
                self.out.write_all(b"\n")
            }),
            OutputFormat::Table | OutputFormat::Wide | OutputFormat::Name => {
                let items =
                    records.iter().map(|record| ShownRecord::parse(record)?.item(table, record.get()));
                let items = items.collect::<io::Result<Vec<_>>>()?;
                if items.is_empty() { Ok(()) } else { self.print(record::COLUMNS, &items) }
            }
        }
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn text(&mut self, text: &[u8]) -> io::Result<()> {
        self.out.write_all(text)
    }

    /// Sees to it that all of what was printed is out.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// A YAML document of a JSON text.
    fn document(&mut self, json: &str) -> io::Result<()> {
        let document = if keeps_numbers(json) {
            let value: Value = serde_json::from_str(json)?;
            yaml::write_yaml(&value).map_err(io::Error::other)?
        } else {
            format!("{json}\n") // every JSON text is YAML
        };
        if self.has_begun {
            writeln!(self.out, "---")?;
        }
        self.has_begun = true;
        self.out.write_all(document.as_bytes())
    }
}

/// Whether each number of a JSON text is the same once it was read: here it has 64 bits then.
fn keeps_numbers(json: &str) -> bool {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let is_no_number = |letter: char| {
        let was_quoted = is_quoted;
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        was_quoted || is_quoted || !matches!(letter, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')
    };
    let is_number = |text: &&str| text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let is_kept =
        |text: &str| serde_json::from_str::<Number>(text).is_ok_and(|read| read.to_string() == text);
    json.split(is_no_number).filter(is_number).all(is_kept)
}

/// How many columns a terminal has; 80 if it does not say.
fn columns_of(stdout: &Stdout) -> Option<usize> {
    let columns = rustix::termios::tcgetwinsize(stdout).map_or(0, |size| usize::from(size.ws_col));
    Some(if columns == 0 { 80 } else { columns })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    #[test]
    fn a_number_that_would_be_another_one_is_noticed() {
        for (json, keeps) in [
            (r#"{"a":[1,-2.5,true,null],"e\"5e999":"1e999 \\"}"#, true),
            (r#"{"a":18446744073709551615}"#, true),
            (r#"{"a":123456789012345678901234567890}"#, false),
            ("[1e400]", false),
            ("[0.1000]", false),
        ] {
            assert_eq!(keeps_numbers(json), keeps, "{json}");
        }
    }

    /// Keeps what is printed.
    #[derive(Clone, Default)]
    struct Printed(Rc<RefCell<Vec<u8>>>);

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(
        format: OutputFormat,
        width: Option<usize>,
        print: impl FnOnce(&mut Output) -> io::Result<()>,
    ) -> String {
        let kept = Printed::default();
        print(&mut Output::new(format, width, Box::new(kept.clone()))).unwrap();
        let bytes = kept.0.borrow().clone();
        String::from_utf8(bytes).unwrap()
    }

    const COLUMNS: &[Column] = &[Column::text("table"), Column::number("events"), Column::wide("kept for")];

    fn items() -> Vec<ShownItem> {
        vec![
            ShownItem {
                name: "orders".to_owned(),
                json: r#"{"table":"orders","events":1234567,"keep":null}"#.to_owned(),
                cells: vec!["orders".to_owned(), "1,234,567".to_owned(), "7 days".to_owned()],
            },
            ShownItem {
                name: "carts".to_owned(),
                json: r#"{"table":"carts","events":0,"keep":"x: y"}"#.to_owned(),
                cells: vec!["carts".to_owned(), "0".to_owned(), "ever".to_owned()],
            },
        ]
    }

    #[test]
    fn items_have_one_form_each() {
        let of = |format| printed(format, None, |output| output.items(COLUMNS, &items()));
        for (format, expected) in [
            (OutputFormat::Table, "TABLE      EVENTS\norders  1,234,567\ncarts           0\n"),
            (
                OutputFormat::Wide,
                "TABLE      EVENTS  KEPT FOR\norders  1,234,567  7 days\ncarts           0  ever\n",
            ),
            (
                OutputFormat::Json,
                "{\"table\":\"orders\",\"events\":1234567,\"keep\":null}\n\
                 {\"table\":\"carts\",\"events\":0,\"keep\":\"x: y\"}\n",
            ),
            (
                OutputFormat::Yaml,
                "table: orders\nevents: 1234567\nkeep: null\n---\ntable: carts\nevents: 0\nkeep: 'x: y'\n",
            ),
            (OutputFormat::Name, "orders\ncarts\n"),
        ] {
            assert_eq!(of(format), expected, "{format:?}");
        }
    }

    #[test]
    fn a_table_in_parts_has_one_header() {
        let text = printed(OutputFormat::Table, Some(80), |output| {
            items().into_iter().try_for_each(|item| output.items(COLUMNS, &[item]))
        });
        assert_eq!(text, "TABLE      EVENTS\norders  1,234,567\ncarts           0\n");
    }

    fn records() -> Vec<Box<RawValue>> {
        let texts = [
            r#"{"payload":{"order": 7},"timestamp_ms":0,"partition":2,"offset":9,"key":"k"}"#,
            concat!(
                r#"{"payload":"two\nrows \u001b[31m","timestamp_ms":1,"partition":0,"offset":0,"#,
                r#""headers":{"a":"b"}}"#
            ),
            r#"{"payload_base64":"/wA=","timestamp_ms":-1,"partition":0,"offset":1,"idempotency_key":"i"}"#,
            r#"{"payload":null,"timestamp_ms":0,"partition":0,"offset":2}"#,
        ];
        texts.map(|text| RawValue::from_string(text.to_owned()).unwrap()).into()
    }

    #[test]
    fn events_are_columns_lines_or_their_payloads() {
        let of = |format, width| printed(format, width, |output| output.records("t", &records()));
        let table = of(OutputFormat::Table, None);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "PARTITION  OFFSET  TIME                      KEY  PAYLOAD");
        assert_eq!(lines[1], "        2       9  1970-01-01T00:00:00.000Z  k    {\"order\": 7}");
        assert_eq!(lines[2], "        0       0  1970-01-01T00:00:00.001Z       two\\nrows \\u{1b}[31m");
        assert_eq!(lines[3], "        0       1  1969-12-31T23:59:59.999Z       base64:/wA=");
        assert_eq!(lines[4], "        0       2  1970-01-01T00:00:00.000Z       null");
        let narrow = of(OutputFormat::Table, Some(62));
        assert!(narrow.lines().all(|line| line.chars().count() <= 62), "{narrow}");
        assert!(narrow.contains("two\\nrows \\…"), "{narrow}");
        let wide = of(OutputFormat::Wide, Some(40));
        assert!(wide.lines().nth(2).unwrap().contains("a=b"), "{wide}");
        assert!(wide.lines().nth(3).unwrap().contains(" i "), "{wide}");
        let json = of(OutputFormat::Json, Some(40));
        assert_eq!(json.lines().next().unwrap(), records()[0].get());
        assert_eq!(of(OutputFormat::Name, None), "t/2/9\nt/0/0\nt/0/1\nt/0/2\n");
    }

    #[test]
    fn payloads_are_printed_byte_for_byte() {
        let kept = Printed::default();
        let mut output = Output::new(OutputFormat::Payload, None, Box::new(kept.clone()));
        output.records("t", &records()).unwrap();
        let expected = [&b"{\"order\": 7}\ntwo\nrows \x1b[31m\n"[..], b"\xff\x00\n", b"null\n"].concat();
        assert_eq!(*kept.0.borrow(), expected);
    }
}

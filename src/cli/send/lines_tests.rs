use super::super::columns::{Column, Header, Part, TimeUnit};
use super::*;

fn table(delimiter: u8, quoting: bool, time_unit: Option<TimeUnit>) -> Format {
    let mapping = Mapping { columns: [const { None }; 5], header: Header::Auto, no_value: false, time_unit };
    Format::Table { delimiter, quoting, mapping }
}

fn lines(text: impl AsRef<[u8]>, format: Format) -> Vec<Result<Line, LinesError>> {
    Lines::new(text.as_ref(), format, Objective::Implicit).collect()
}

/// Line number, key and payload of good lines; line number and reason of bad ones.
fn shown(lines: Vec<Result<Line, LinesError>>) -> Vec<String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let line = |line: Line| match line.event {
        Ok(event) => format!("{} {} {}", line.number, text(event.key), text(event.payload)),
        Err(bad) => format!("{} bad: {bad}", line.number),
    };
    lines.into_iter().map(|next| next.map_or_else(|error| format!("stop: {error}"), line)).collect()
}

#[test]
fn recbole_file() {
    let file = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n\n186\t\"302\t3\t891717742\n";
    assert_eq!(
        shown(lines(file, table(b'\t', false, Some(TimeUnit::S)))),
        [
            r#"2 196 {"user":"196","item":"242","value":3.0,"time":881250949000}"#,
            r#"4 186 {"user":"186","item":"\"302","value":3.0,"time":891717742000}"#,
        ]
    );
}

#[test]
fn csv_with_mark_quotes_and_no_header() {
    let file = "\u{feff}ada,\"dune,\nthe film\",1,1700000000000\r\nbob,alien,2,1700000000001\r\n";
    assert_eq!(
        shown(lines(file, table(b',', true, None))),
        [
            r#"1 ada {"user":"ada","item":"dune,\nthe film","value":1.0,"time":1700000000000}"#,
            r#"3 bob {"user":"bob","item":"alien","value":2.0,"time":1700000000001}"#,
        ]
    );
}

#[test]
fn bad_rows_keep_their_number_and_do_not_end_the_file() {
    let file = "user,item,value,time\nu,i,x,1700000000000\nu\n,i,1,1700000000000\nu,i,-1,1700000000000\nu,i,1,9e15\nu,i,1,1700000000000\n";
    let shown = shown(lines(file, table(b',', true, None)));
    let parts =
        ["2 bad: value \"x\" in column 3", "3 bad: 1 columns, but the", "4 bad: invalid_id", "5 bad: invalid_value", "6 bad: invalid_time"];
    for (line, part) in shown.iter().zip(parts) {
        assert!(line.starts_with(part), "{line} does not start with {part}");
    }
    assert!(shown[5].starts_with("7 u {"));
    assert_eq!(shown.len(), 6);
}

#[test]
fn json_lines_go_as_they_are() {
    let first = "\u{feff} {\"user\":7,\"item\":\"i\",\"extra\":[1]} \r\n\n{\"user\":\"u\"}\nnonsense\n";
    let file = format!("{first}{{\"type\":\"forget\",\"user\":\"u\"}}\n{{\"user\":\"u\",\"item\":\"i\"}}");
    let shown = shown(lines(file, Format::JsonLines));
    assert_eq!(shown[0], r#"1 7 {"user":7,"item":"i","extra":[1]}"#);
    assert!(shown[1].starts_with("3 bad: missing_field"), "{}", shown[1]);
    assert!(shown[2].starts_with("4 bad: invalid_json"), "{}", shown[2]);
    assert!(shown[3].starts_with("5 bad: this is a forget"), "{}", shown[3]);
    assert_eq!(shown[4], r#"6 u {"user":"u","item":"i"}"#);
}

#[test]
fn an_endless_line_does_not_fill_the_memory() {
    let mut file = b"{\"user\":\"".to_vec();
    file.resize(file.len() + 3 * MAX_RECORD, b'x');
    file.extend_from_slice(b"\n{\"user\":\"u\",\"item\":\"i\"}\n");
    let found = lines(&file, Format::JsonLines);
    assert_eq!(found[0].as_ref().unwrap().event, Err(BadLine::TooLong));
    assert!(found[1].as_ref().unwrap().event.is_ok());

    let mut file = b"u,i\nu,\"open".to_vec();
    file.resize(file.len() + 3 * MAX_RECORD, b'\n');
    let found = lines(&file, table(b',', true, None));
    assert!(matches!(found[..], [Ok(_), Err(LinesError::Endless { line: 1 })]), "{found:?}");
}

#[test]
fn a_table_with_other_columns_stops_at_once() {
    let found = lines("wer,was,wie\n1,2,3\n", table(b',', true, None));
    assert!(matches!(found[..], [Err(LinesError::Columns(ColumnsError::NotFound { part: Part::User, .. }))]), "{found:?}");
    assert!(lines("", table(b',', true, None)).is_empty());
    let mut mapping = Mapping { columns: [const { None }; 5], header: Header::Yes, no_value: true, time_unit: None };
    mapping.columns[Part::User as usize] = Some(Column::Name("wer".to_owned()));
    mapping.columns[Part::Item as usize] = Some(Column::Index(2));
    let found = lines("wer,was,wie\n1,2,3\n", Format::Table { delimiter: b',', quoting: true, mapping });
    assert_eq!(shown(found), [r#"2 1 {"user":"1","item":"3","value":1.0}"#]);
}

/// Found by fuzzing: the open row was said to be on the line of the row before it.
#[test]
fn a_quote_that_is_left_open_does_not_count_lines_twice() {
    let file = "user,item,value,time\nu1,i1,1.5,1700000000000\nu2,\"i2\nu3,i3\n";
    let numbers: Vec<u64> = lines(file, table(b',', true, None)).into_iter().map(|line| line.unwrap().number).collect();
    assert_eq!(numbers, [2, 3]);
}

#[test]
fn fuzz_files_of_interactions() {
    let seeds = [
        "user,item,value,time\nu1,i1,1.5,1700000000000\n\"u\"\"2\",\"i,2\",,\r\n",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n",
        "{\"user\":\"u\",\"item\":\"i\",\"time\":5}\n\n\u{feff}{\"type\":\"forget\",\"user\":\"u\"}\n{\n",
        "u1,i1,2,2024-02-29T12:00:00Z\nu2,i2,3,1e12\n",
    ];
    crate::fuzz::fuzz("files of interactions", &seeds, |bytes| {
        let formats =
            [table(b',', true, None), table(b'\t', false, Some(TimeUnit::S)), table(b';', true, Some(TimeUnit::Ms)), Format::JsonLines];
        for format in formats {
            let mut last = 0;
            for line in lines(bytes, format) {
                let Ok(line) = line else { break };
                assert!(line.number > last, "lines are counted");
                last = line.number;
                // What is sent is what the service takes.
                if let Ok(event) = line.event {
                    assert_eq!(checked(event.payload.clone(), Objective::Implicit), Ok(event));
                }
            }
            // A carriage return alone ends a line of a table, too.
            assert!(last <= bytes.iter().filter(|byte| b"\n\r".contains(byte)).count() as u64 + 1);
        }
    });
}

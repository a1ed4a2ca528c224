use super::*;

fn mapping() -> Mapping {
    Mapping { columns: [const { None }; 5], header: Header::Auto, no_value: false, time_unit: None }
}

fn with(part: Part, column: &str) -> Mapping {
    let mut mapping = mapping();
    mapping.columns[part as usize] = Some(Column::parse(column).unwrap());
    mapping
}

fn row(cells: &[&str]) -> ByteRecord {
    ByteRecord::from(cells.to_vec())
}

#[test]
fn recbole_header_is_understood() {
    let first = row(&["user_id:token", "item_id:token", "rating:float", "timestamp:float"]);
    let (columns, header) = mapping().resolve(&first).unwrap();
    assert!(header);
    assert_eq!(columns, Columns { user: 0, item: 1, value: Some(2), time: Some(3), event_id: None });
    for name in ["rating", "rating:float"] {
        assert_eq!(with(Part::Value, name).resolve(&first).unwrap().0.value, Some(2));
    }
}

#[test]
fn header_is_found_or_not() {
    let header = |mapping: &Mapping, cells: &[&str]| mapping.resolve(&row(cells)).unwrap().1;
    assert!(!header(&mapping(), &["1", "2", "3.5", "881250949"]));
    assert!(!header(&mapping(), &["ada", "dune", "3.5", "2026-01-01T00:00:00Z"]));
    assert!(!header(&mapping(), &["ada", "dune"]));
    assert!(header(&mapping(), &["timestamp", "userId", "movieId"]));
    let forced = Mapping { header: Header::No, ..mapping() };
    assert!(!header(&forced, &["user", "item", "value"]));
}

#[test]
fn headings_in_another_language_need_names() {
    let first = row(&["wer", "was", "wie"]);
    assert!(matches!(mapping().resolve(&first), Err(ColumnsError::NotFound { part: Part::User, .. })));
    let mut named = with(Part::User, "wer");
    named.columns[Part::Item as usize] = Some(Column::Index(1));
    assert_eq!(named.resolve(&first).unwrap(), (Columns { user: 0, item: 1, value: None, time: None, event_id: None }, true));
}

#[test]
fn order_without_header() {
    let of = |mapping: &Mapping, cells: &[&str]| mapping.resolve(&row(cells)).unwrap().0;
    let columns = of(&mapping(), &["u", "i"]);
    assert_eq!((columns.value, columns.time), (None, None));
    let columns = of(&with(Part::Time, "3"), &["u", "i", "100"]);
    assert_eq!((columns.value, columns.time), (None, Some(2)));
    let plays = Mapping { no_value: true, ..mapping() };
    assert_eq!(of(&plays, &["u", "i", "100"]).time, Some(2));
    let columns = of(&plays, &["u", "i", "5", "100"]);
    assert_eq!((columns.value, columns.time), (None, Some(3)));
}

#[test]
fn options_that_point_nowhere_are_refused() {
    let data = row(&["u", "i", "1"]);
    assert!(matches!(with(Part::Time, "4").resolve(&data), Err(ColumnsError::NoSuchIndex { number: 4, there: 3, .. })));
    assert!(matches!(with(Part::Time, "when").resolve(&data), Err(ColumnsError::NoSuchName { .. })));
    let forced = Mapping { header: Header::No, ..with(Part::Time, "when") };
    assert!(matches!(forced.resolve(&data), Err(ColumnsError::NameWithoutHeader { .. })));
    let mut twice = with(Part::User, "1");
    twice.columns[Part::Item as usize] = Some(Column::Index(0));
    assert_eq!(twice.resolve(&data), Err(ColumnsError::Twice { one: Part::User, other: Part::Item }));
    assert_eq!(mapping().resolve(&row(&["u;i;1"])), Err(ColumnsError::TooFew { there: 1 }));
    assert!(Column::parse("0").is_err() && Column::parse("").is_err());
}

#[test]
fn rows_become_json() {
    let columns = Columns { user: 0, item: 1, value: Some(2), time: Some(3), event_id: Some(4) };
    let json = columns.to_json(&row(&["a\"b", "ü", "3", "881250949.5", "e\\1"]), Some(TimeUnit::S)).unwrap();
    let expected = r#"{"event_id":"e\\1","user":"a\"b","item":"ü","value":3.0,"time":881250949500}"#;
    assert_eq!(String::from_utf8(json).unwrap(), expected);
    let bare = Columns { value: None, time: None, event_id: None, ..columns };
    assert_eq!(bare.to_json(&row(&["u", "i"]), None).unwrap(), br#"{"user":"u","item":"i","value":1.0}"#);
}

#[test]
fn bad_rows_say_why() {
    let columns = Columns { user: 0, item: 1, value: Some(2), time: Some(3), event_id: None };
    let refused = |cells: &[&str]| columns.to_json(&row(cells), None).unwrap_err();
    assert_eq!(refused(&["u", "i"]), RowError::Missing { part: Part::Value, number: 3, there: 2 });
    assert_eq!(refused(&["u", "i", "NaN", "1"]), RowError::Value { text: "NaN".to_owned(), number: 3 });
    assert_eq!(refused(&["u", "i", "1", "monday"]), RowError::Time { text: "monday".to_owned(), number: 4 });
    assert_eq!(refused(&["u", "i", "1", "881250949"]), RowError::Unit { text: "881250949".to_owned() });
    let row = ByteRecord::from(vec![&b"\xff"[..], b"i", b"1", b"1000000000000"]);
    assert_eq!(columns.to_json(&row, None), Err(RowError::NotUtf8 { part: Part::User, number: 1 }));
}

#[test]
fn times_in_every_spelling() {
    assert_eq!(millis("1700000000", 0, Some(TimeUnit::S)), Ok(1_700_000_000_000));
    assert_eq!(millis("1700000000.123", 0, Some(TimeUnit::S)), Ok(1_700_000_000_123));
    assert_eq!(millis("1700000000123", 0, None), Ok(1_700_000_000_123));
    assert_eq!(millis("5", 0, Some(TimeUnit::Ms)), Ok(5));
    assert_eq!(millis("2023-11-14T22:13:20.123Z", 0, None), Ok(1_700_000_000_123));
    assert_eq!(millis("8.81250949e8", 0, Some(TimeUnit::S)), Ok(881_250_949_000));
}

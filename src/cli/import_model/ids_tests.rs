use std::io::Write;

use super::*;
use crate::model::play::Row;
use crate::model::ratings::{Builder, Ratings};

/// A state that knows the users a, b, c and 7, of which b has no interactions any more.
fn known() -> (Dictionary, Ratings) {
    let (mut dictionary, mut ratings) = (Dictionary::default(), Builder::default());
    for (number, name) in ["a", "b", "c", "7"].into_iter().enumerate() {
        dictionary.assign(Side::User, name).unwrap();
        let columns: Box<[u32]> = if name == "b" { Box::default() } else { Box::new([0]) };
        ratings.push(number as u32, &Row { values: columns.iter().map(|_| 1.0).collect(), interactions: columns.len() as u32, columns });
    }
    (dictionary, ratings.finish())
}

fn read_file(suffix: &str, content: &[u8], column: Option<&str>) -> Result<Vec<Option<u32>>, IdsError> {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    file.write_all(content).unwrap();
    let (dictionary, ratings) = known();
    read(file.path(), column, Known { side: Side::User, dictionary: &dictionary, rows: &ratings.users })
}

#[test]
fn every_form_of_a_list_is_the_same_list() {
    let expected = [Some(2), None, Some(0), None, Some(3)];
    let mut numbers = Vec::new();
    crate::cli::npy::write_header(&mut numbers, "<U2", &[5]).unwrap();
    for id in ["c\0", "b\0", "a\0", "zz", "7\0"] {
        numbers.extend(id.chars().flat_map(|letter| u32::from(letter).to_le_bytes()));
    }
    let cases: [(&str, &[u8], Option<&str>); 8] = [
        (".txt", b"c\nb\na\nzz\n7\n", None),
        ("", b"\xef\xbb\xbfc\r\nb\r\na\r\nzz\r\n7", None),
        (".csv", b"n,user_id\n0,c\n1,b\n2,a\n3,zz\n4,7\n", None),
        (".csv", b"\"user\"\nc\n\"b\"\na\nzz\n7\n", None),
        (".tsv", b"id:token\tage\nc\t1\nb\t2\na\t3\nzz\t4\n7\t5\n", None),
        (".CSV", b"user,who\nx,c\nx,b\nx,a\nx,zz\nx,7\n", Some("who")),
        (".npy", &numbers, None),
        (".ids", &numbers, None),
    ];
    for (suffix, content, column) in cases {
        assert_eq!(read_file(suffix, content, column).unwrap(), expected, "{suffix} {:?}", String::from_utf8_lossy(content));
    }
}

#[test]
fn bad_lists_are_refused_with_the_place() {
    let long = [b'x'; 70_000];
    let cases: [(&str, &[u8], &str); 10] = [
        (".txt", b"", "it holds no ids"),
        (".csv", b"user\n", "it holds no ids"),
        (".txt", b"a\n\nb\n", "line 2: the id is empty"),
        (".txt", b"a\nzz\na\n", "line 3: the id \"a\" stands on line 1 already"),
        (".txt", b"zz\nzz\n", "line 2: the id \"zz\""),
        (".txt", b"a\n\xff\n", "line 2 is no UTF-8"),
        (".txt", &long, "line 1 is longer than"),
        (".csv", b"a\nb\n", "it has the columns a, and none is called id, user, user_id, userid"),
        (".csv", b"n,user\n0,a\n1\n", "line 3 has 1 columns, the ids are in column 2"),
        (".npy", b"\x93NUMPY\x01\x00\xff\xff", "cut off"),
    ];
    for (suffix, content, part) in cases {
        let error = read_file(suffix, content, None).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    let error = read_file(".csv", b"user\na\n", Some("sku")).unwrap_err().to_string();
    assert!(error.contains("none is called sku") && error.contains("--user-id-column"), "{error}");
}

#[test]
fn fuzz_lists_of_ids() {
    let (dictionary, ratings) = known();
    let known = Known { side: Side::User, dictionary: &dictionary, rows: &ratings.users };
    let seeds: [&[u8]; 4] = [b"a\r\nb\nzz\n7", b"\xef\xbb\xbfa\nb\n", b"user_id:token,n\na,1\n\"b\",2\nc\n", b"id\tx\na\t1\n"];
    crate::fuzz::fuzz("lists of ids", &seeds, |bytes| {
        let mut ids = Vec::new();
        let _ = from_lines(bytes, |id, _| {
            ids.push(id.to_owned());
            Ok(())
        });
        assert!(ids.iter().all(|id| !id.contains('\n')));
        for (delimiter, column) in [(b',', None), (b'\t', None), (b',', Some("n"))] {
            let mut taker = Taker::new(known);
            let _ = from_table(table(bytes, delimiter), column, known, |id, place| taker.take(id, place).map(drop));
        }
    });
}

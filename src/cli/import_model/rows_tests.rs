use std::io::Write;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;
use crate::cli::npy::write_header;
use crate::model::dictionary::Dictionary;
use crate::model::factors::Side;
use crate::model::play::Row;
use crate::model::ratings::{Builder, Ratings};

/// A state that knows the users c, a and b, in this order.
fn known() -> (Dictionary, Ratings) {
    let (mut dictionary, mut ratings) = (Dictionary::default(), Builder::default());
    for (number, name) in ["c", "a", "b"].into_iter().enumerate() {
        dictionary.assign(Side::User, name).unwrap();
        ratings.push(number as u32, &Row { columns: Box::new([0]), values: Box::new([1.0]), interactions: 1 });
    }
    (dictionary, ratings.finish())
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        path
    }

    fn npy(&self, values: &[u8], ids: &str) -> Source {
        Source::Npy { rows: self.put("u.npy", values), ids: self.put("ids.txt", ids.as_bytes()), column: None }
    }

    fn npz(&self, archive: &[u8], ids: &str) -> Source {
        let (archive, ids) = (self.put("m.npz", archive), self.put("ids.txt", ids.as_bytes()));
        Source::Npz { archive, member: "user_factors", ids, column: None }
    }

    fn table(&self, content: &str) -> Source {
        Source::Table { rows: self.put("u.csv", content.as_bytes()), delimiter: b',' }
    }
}

/// Rows of the state's users c, a, b as they were taken, and how many there were in the file.
type Rows = (Vec<Option<Vec<f64>>>, u64);

fn taken(source: &Source) -> Result<Rows, String> {
    let (dictionary, ratings) = known();
    let known = Known { side: Side::User, dictionary: &dictionary, rows: &ratings.users };
    let Taken { table, given } = source.read(2, known).map_err(|error| error.to_string())?;
    Ok(((0..3).map(|row| table.row(row).map(<[f64]>::to_vec)).collect(), given))
}

fn array(shape: &[usize], values: &[f64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_header(&mut bytes, "<f8", shape).unwrap();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

fn archive(members: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in members {
        archive.start_file(*name, SimpleFileOptions::default().compression_method(method).large_file(true)).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

const THREE: [f64; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

#[test]
fn rows_come_under_the_numbers_of_the_state() {
    let files = Files::new();
    let expected = (vec![None, Some(vec![1.0, 2.0]), Some(vec![5.0, 6.0])], 3);
    assert_eq!(taken(&files.npy(&array(&[3, 2], &THREE), "a\nnobody\nb\n")).unwrap(), expected);
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let archive = archive(&[("item_factors.npy", vec![]), ("user_factors.npy", array(&[3, 2], &THREE))], method);
        assert_eq!(taken(&files.npz(&archive, "a\nnobody\nb\n")).unwrap(), expected);
    }
    for table in ["a,1,2\nnobody,3,4\nb,5,6\n", "id,f1,f2\r\na,1e0, 2 \r\n\"nobody\",3,4\r\nb,5,6", "\u{feff}a,1,2\nnobody,3,4\nb,5,6\n"] {
        assert_eq!(taken(&files.table(table)).unwrap(), expected, "{table:?}");
    }
}

#[test]
fn arrays_that_do_not_fit_are_refused_by_name() {
    let files = Files::new();
    let nan = [1.0, 2.0, 3.0, f64::NAN, 5.0, 6.0];
    let cases = [
        (array(&[3, 3], &[0.0; 9]), "a\nb\nc", "u.npy: its rows have 3 values and model.rank is 2; say --set model.rank=3"),
        (array(&[2, 3], &THREE), "a\nb\nc", "one column for each id"),
        (array(&[3, 2], &THREE), "a\nb", "u.npy: it has 3 rows and"),
        (array(&[0, 2], &[]), "a", "u.npy: it holds no rows"),
        (array(&[3, 2], &nan), "a\nx\nc", "u.npy: row 1, column 1 (counted from 0) is NaN"),
        (array(&[3, 2], &[f64::NEG_INFINITY; 6]), "a\nx\nc", "row 0, column 0 (counted from 0) is -inf"),
        (array(&[3, 2], &[1e39; 6]), "a\nb\nc", "no finite number that fits 32 bits"),
        (array(&[3, 2], &THREE[..5]), "a\nb\nc", "48 bytes of values are announced, 40 are there"),
        (array(&[3, 2], &THREE), "a\nb\na", "ids.txt: line 3: the id \"a\" stands on line 1 already"),
    ];
    for (bytes, ids, part) in cases {
        let error = taken(&files.npy(&bytes, ids)).unwrap_err();
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn archives_that_are_damaged_are_refused_by_name() {
    let files = Files::new();
    let whole = archive(&[("user_factors.npy", array(&[3, 2], &THREE))], CompressionMethod::Stored);
    let mut flipped = whole.clone();
    let at = whole.windows(8).position(|bytes| bytes == 6.0f64.to_le_bytes()).unwrap();
    flipped[at + 7] ^= 1;
    let cases = [
        (flipped, "cannot be read"),
        (whole[..whole.len() - 30].to_vec(), "as an archive"),
        (archive(&[("arr_0.npy", vec![])], CompressionMethod::Stored), "it has no array user_factors, only arr_0.npy"),
        (archive(&[("user_factors.npy", array(&[3, 2], &THREE[..3]))], CompressionMethod::Deflated), "24 are there"),
        (archive(&[("user_factors.npy", vec![])], CompressionMethod::Stored), "it is empty"),
    ];
    for (bytes, part) in cases {
        let error = taken(&files.npz(&bytes, "a\nb\nc")).unwrap_err();
        assert!(error.contains(part) && error.contains("m.npz: "), "{part:?} is not in {error:?}");
    }
}

#[test]
fn tables_that_do_not_fit_are_refused_with_line_and_column() {
    let files = Files::new();
    let cases = [
        ("", "u.csv: it holds no rows"),
        ("id,f1,f2\n", "it holds no rows"),
        ("a,1,2,3\n", "its rows have 3 values and model.rank is 2; say --set model.rank=3"),
        ("a,1,2\nb,3\n", "line 2 has 1 values"),
        ("a,1,2\nb,3,x\n", "line 2, column 3: \"x\""),
        ("a,1,x\nb,3,4\n", "line 1, column 3: \"x\""),
        ("a,,\nb,3,4\n", "line 1, column 2: \"\""),
        ("a,1,2\nb,nan,4\n", "line 2, column 2: \"nan\""),
        ("a,1,2\nb,3,-inf\n", "line 2, column 3: \"-inf\""),
        ("a,1,2\nb,3,1e39\n", "line 2, column 3"),
        ("a,1,2\n,3,4\n", "line 2: the id is empty"),
        ("a,1,2\nb,3,4\na,5,6\n", "line 3: the id \"a\" stands on line 1 already"),
    ];
    for (content, part) in cases {
        let error = taken(&files.table(content)).unwrap_err();
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn fuzz_rows_of_a_model() {
    let archive = |method| {
        let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        writer.start_file("user_factors.npy", SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(&array(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
        writer.finish().unwrap().into_inner()
    };
    let files = Files::new();
    let ids = files.put("ids.txt", b"a\nb\nc\n");
    let as_archive =
        |rows: &[u8]| Source::Npz { archive: files.put("m.npz", rows), member: "user_factors", ids: ids.clone(), column: None };
    let as_array = |rows: &[u8]| Source::Npy { rows: files.put("u.npy", rows), ids: ids.clone(), column: None };
    let as_table = |rows: &[u8]| Source::Table { rows: files.put("u.csv", rows), delimiter: b',' };
    let seeds = [
        archive(CompressionMethod::Stored),
        archive(CompressionMethod::Deflated),
        array(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        b"user,f1,f2\na,1,2\nb,-3e5,4\n\"c\",5,6\n".to_vec(),
    ];
    crate::fuzz::fuzz_costly("rows of a model", &seeds, |bytes| {
        let source = match bytes.first() {
            Some(b'P') => as_archive(bytes),
            Some(0x93) => as_array(bytes),
            _ => as_table(bytes),
        };
        if let Ok((rows, _)) = taken(&source) {
            assert!(rows.iter().flatten().all(|row| row.len() == 2 && row.iter().all(|&value| fits(value))));
        }
    });
}

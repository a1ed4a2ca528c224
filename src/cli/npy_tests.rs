use super::*;

/// An array as `numpy.save` writes it, with this header and these bytes behind it.
fn file(header: &str, values: &[u8]) -> Vec<u8> {
    let mut bytes = [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
    bytes.extend_from_slice(values);
    bytes
}

fn described(descr: &str, fortran: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
}

/// Row, column and value.
type Cell = (u64, u64, f64);

fn read(bytes: &[u8]) -> Result<(Array, Vec<Cell>), NpyError> {
    let mut input = bytes;
    let (array, _) = Array::read(&mut input)?;
    let mut values = Vec::new();
    array.floats(&mut input, |row, column, value| {
        values.push((row, column, value));
        Ok::<_, NpyError>(())
    })?;
    Ok((array, values))
}

fn names(bytes: &[u8]) -> Result<Vec<String>, NpyError> {
    let mut input = bytes;
    let (array, _) = Array::read(&mut input)?;
    let mut names = Vec::new();
    array.texts(&mut input, |_, name| {
        names.push(name.to_owned());
        Ok::<_, NpyError>(())
    })?;
    Ok(names)
}

#[test]
fn every_order_of_bytes_and_axes_is_the_same_matrix() {
    // ((1, 2, 3), (4, 5, 6))
    let (by_row, by_column) = ([1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    for (fortran, values) in [("False", by_row), ("True", by_column)] {
        let (small, wide) = (values.map(|value| value as f32), values);
        let cases = [
            ("'<f4'", small.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()),
            ("'>f4'", small.iter().flat_map(|x| x.to_be_bytes()).collect()),
            ("'<f8'", wide.iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("\">f8\"", wide.iter().flat_map(|x| x.to_be_bytes()).collect()),
        ];
        for (descr, bytes) in cases {
            let (_, mut values) = read(&file(&described(descr, fortran, "(2, 3)"), &bytes)).unwrap();
            values.sort_by_key(|&(row, column, _)| (row, column));
            let expected = by_row.iter().enumerate().map(|(at, &value)| (at as u64 / 3, at as u64 % 3, value)).collect::<Vec<_>>();
            assert_eq!(values, expected, "{descr} {fortran}");
        }
    }
}

#[test]
fn what_is_written_is_read() {
    for shape in [&[][..], &[7], &[3, 2]] {
        let mut bytes = Vec::new();
        write_header(&mut bytes, "<f8", shape).unwrap();
        assert!(bytes.len().is_multiple_of(64));
        let (array, length) = Array::read(&mut &bytes[..]).unwrap();
        assert_eq!((array.shape, length), (shape.iter().map(|&axis| axis as u64).collect(), bytes.len() as u64));
        assert_eq!((array.kind, array.size, array.big_endian, array.fortran), (Kind::Float, 8, false, false));
    }
}

#[test]
fn wider_header_versions_and_old_tuples_are_read() {
    let header = described("'<f4'", "False", "(1L, 2L)");
    for version in [2, 3] {
        let mut bytes = [MAGIC, &[version, 0], &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
        bytes.extend([1f32, 2.0].iter().flat_map(|x| x.to_le_bytes()));
        assert_eq!(read(&bytes).unwrap().1, [(0, 0, 1.0), (0, 1, 2.0)]);
    }
}

#[test]
fn ids_of_every_kind_are_text() {
    let points = |text: &str| text.chars().map(u32::from).chain(std::iter::repeat(0)).take(3).collect::<Vec<u32>>();
    let both = [points("é1"), points("abc")].concat();
    let little: Vec<u8> = both.iter().flat_map(|point| point.to_le_bytes()).collect();
    let big: Vec<u8> = both.iter().flat_map(|point| point.to_be_bytes()).collect();
    assert_eq!(names(&file(&described("'<U3'", "False", "(2,)"), &little)).unwrap(), ["é1", "abc"]);
    assert_eq!(names(&file(&described("'>U3'", "False", "(2,)"), &big)).unwrap(), ["é1", "abc"]);
    assert_eq!(names(&file(&described("'|S2'", "False", "(2,)"), b"a\0bc")).unwrap(), ["a", "bc"]);
    let numbers: Vec<u8> = [-7i64, 12].iter().flat_map(|n| n.to_be_bytes()).collect();
    assert_eq!(names(&file(&described("'>i8'", "False", "(2,)"), &numbers)).unwrap(), ["-7", "12"]);
    assert_eq!(names(&file(&described("'|u1'", "False", "(2,)"), &[255, 0])).unwrap(), ["255", "0"]);
}

#[test]
fn what_is_no_plain_matrix_is_refused_by_name() {
    let matrix = |descr: &str, shape: &str| file(&described(descr, "False", shape), &[0; 24]);
    let mut wide = [MAGIC, &[2, 0], &u32::MAX.to_le_bytes()].concat();
    wide.extend(b"{}");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "it is empty"),
        (b"id,1,2\n".to_vec(), "does not begin with"),
        (b"\x93NUMPY\x04\x00".to_vec(), "version 4.0"),
        (wide, "claims 4294967295 bytes"),
        (matrix("'|O'", "(2, 3)"), "pickled Python objects"),
        (matrix("[('a', '<f4')]", "(2, 3)"), "a record"),
        (matrix("'<i8'", "(2, 3)"), "factors are float32 or float64"),
        (matrix("'<f2'", "(2, 3)"), "\"<f2\""),
        (matrix("'<f4'", "(6,)"), "its shape is (6,)"),
        (matrix("'<f4'", "(2, 4)"), "32 bytes of values are announced, 24 are there"),
        (matrix("'<f4'", "(99999999999, 4)"), "1599999999984 bytes of values are announced, 24 are there"),
        (matrix("'<f4'", "(2, 2)"), "something follows"),
        (matrix("'<f4'", "(18446744073709551615, 2)"), "one that fits a file"),
        (matrix("'<f4'", "(-1, 2)"), "no tuple of whole numbers"),
        (file("{'descr': '<f4', 'shape': (2, 3)}", &[0; 24]), "does not tell"),
        (file("{'descr': '<f4', 'fortran_order': 1, 'shape': (2, 3)}", &[0; 24]), "neither True nor False"),
        (file("{'descr': '<f4', 'descr': '<f4'}", &[]), "repeated key"),
        (file("__import__('os')", &[]), "no dictionary"),
        (file(&described("'<f4'", "False", "(2, 3)"), &[])[..40].to_vec(), "cut off"),
    ];
    for (bytes, part) in cases {
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    assert!(names(&matrix("'<f8'", "(3,)")).unwrap_err().to_string().contains("whole numbers or strings"));
    assert!(names(&matrix("'<i8'", "(3, 1)")).unwrap_err().to_string().contains("a plain list"));
    assert!(names(&file(&described("'<U1'", "False", "(1,)"), &[0xff; 4])).unwrap_err().to_string().contains("element 0"));
}

#[test]
fn a_matrix_of_nothing_has_no_values() {
    for shape in ["(0, 3)", "(3, 0)"] {
        assert_eq!(read(&file(&described("'<f4'", "False", shape), &[])).unwrap().1, []);
    }
}

#[test]
fn fuzz_arrays() {
    let floats: Vec<u8> = [1.0f32, -2.5, 3.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let seeds = [
        file(&described("'<f4'", "False", "(2, 2)"), &floats),
        file(&described("'>f8'", "True", "(1, 2)"), &floats),
        file(&described("'<i2'", "False", "(3,)"), &floats[..6]),
        file(&described("'>u8'", "False", "(2,)"), &floats),
        file(&described("'<U2'", "False", "(2,)"), &floats),
        file(&described("'|S4'", "False", "(4L,)"), &floats),
        file(&described("'|O'", "False", "(4,)"), &floats),
    ];
    crate::fuzz::fuzz("arrays", &seeds, |bytes| {
        if let Ok((array, values)) = read(bytes) {
            let (rows, columns) = array.matrix().unwrap();
            assert_eq!(values.len() as u64, rows * columns);
            assert!(values.iter().all(|&(row, column, _)| row < rows && column < columns));
        }
        if let Ok(names) = names(bytes) {
            assert!(names.iter().all(|name| !name.ends_with('\0')));
        }
    });
}

//! What becomes of an input on its way to a decoder: damage to bytes, and to JSON as JSON.

use crate::model::splitmix::SplitMix64;

/// What damage is drawn with.
pub(crate) struct Dice(SplitMix64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(SplitMix64::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.bits()
    }

    /// A number below `n`; 0 when there is none.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    pub fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.below(from.len())]
    }

    /// Once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A part of something of this length.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..start + self.below((length - start).min(64) + 1)
    }
}

/// Bytes and words on which readers of text and numbers turn.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xf4\x90\x80\x80",
    b"\r\n",
    b"\n",
    b"\t",
    b"\"",
    b"'",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b")",
    b":",
    b",",
    b";",
    b"=",
    b"&",
    b"%",
    b"%00",
    b"%ff",
    b".",
    b"-",
    b"+",
    b"/",
    b"null",
    b"true",
    b"False",
    b"NaN",
    b"inf",
    b"-0",
    b"0",
    b"1",
    b"1e999",
    b"1e-999",
    b"1e308",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"9007199254740993",
    b"99999999999999999999999999999999999999999",
    b"0.1",
    b"1970-01-01T00:00:00Z",
    b"9999-12-31T23:59:60Z",
    b"-009999-01-01T00:00:00Z",
    b"<f8",
    b">U4",
    b"|O",
    b"\x93NUMPY",
    b"user",
    b"item",
    b"items",
    b"event_ids",
    b"time",
];

/// One to four damages to bytes; `other` is what may be spliced in.
pub(crate) fn mutate(dice: &mut Dice, input: &mut Vec<u8>, other: &[u8]) {
    loop {
        damage(dice, input, other);
        if dice.once_in(2) {
            return;
        }
    }
}

fn damage(dice: &mut Dice, input: &mut Vec<u8>, other: &[u8]) {
    let at = dice.below(input.len());
    match dice.below(11) {
        0 if !input.is_empty() => input[at] ^= 1 << dice.below(8),
        1 if !input.is_empty() => input[at] = dice.next() as u8,
        2 => drop(input.drain(dice.range(input.len()))),
        3 => {
            let copy = input[dice.range(input.len())].to_vec();
            insert(input, at, &copy);
        }
        4 | 5 => insert(input, at, dice.pick(TOKENS)),
        6 => {
            let token = dice.pick(TOKENS);
            let end = (at + token.len()).min(input.len());
            input.splice(at..end, token.iter().copied());
        }
        7 => input.truncate(at),
        8 => {
            let from = dice.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        9 => {
            let number = [0, 1, u64::MAX, i64::MAX as u64, 1 << 31, 1 << 32, 0x7ff8_0000_0000_0000, dice.next()][dice.below(8)];
            let width = [1, 2, 4, 8][dice.below(4)];
            let bytes = if dice.once_in(2) { number.to_le_bytes() } else { number.to_be_bytes() };
            let end = (at + width).min(input.len());
            input.splice(at..end, bytes[..width].iter().copied());
        }
        _ => {
            // A number as text becomes another one.
            let Some(start) = input[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
            let end = start + input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let number = dice.next() >> dice.below(64);
            input.splice(start..end, number.to_string().into_bytes());
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

/// Values that are valid JSON, nearly valid, or of another type than expected.
const VALUES: &[&[u8]] = &[
    b"null",
    b"true",
    b"\"\"",
    b"\"x\"",
    b"0",
    b"-0.0",
    b"-1",
    b"1.5",
    b"1e999",
    b"-1e400",
    b"1e-400",
    b"1E308",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"123456789012345678901234567890",
    b"0.1000000000000000055511151231257827",
    b"01",
    b".5",
    b"NaN",
    b"Infinity",
    b"[]",
    b"{}",
    b"[null]",
    b"[\"a\",\"a\"]",
    b"[[]]",
    b"{\"a\":{\"b\":[]}}",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\"\\udc00\\ud800\"",
    b"\"\\ud83d\\ude00\"",
    b"\"\xc0\xaf\"",
    b"\"\xed\xa0\x80\"",
    b"\"\xff\"",
    b"\"\xe2\x82\"",
    b"\"a\nb\"",
    b"\"1970-01-01\"",
    b"\"2024-02-30T00:00:00Z\"",
    b"\"2024-02-29T12:00:00+25:00\"",
    b"4102444800000",
    b"7258118400000",
    b"253402300800000",
    b"\"interaction\"",
    b"\"forget\"",
];

const NAMES: &[&[u8]] = &[
    b"\"type\"",
    b"\"user\"",
    b"\"item\"",
    b"\"items\"",
    b"\"event_id\"",
    b"\"event_ids\"",
    b"\"request_id\"",
    b"\"value\"",
    b"\"time\"",
    b"\"from\"",
    b"\"to\"",
    b"\"\"",
    b"\"\\u0075ser\"",
    b"\"note\"",
];

/// Damage to a record as JSON: types swapped, members repeated, renamed, lost or nested, numbers out of range, text that is none.
pub(crate) fn mangle(dice: &mut Dice, record: &[u8], other: &[u8]) -> Vec<u8> {
    let mut mangled = record.to_vec();
    let scalars = scalars(record);
    let inside = record.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    match dice.below(10) {
        0..3 if !scalars.is_empty() => drop(mangled.splice(scalars[dice.below(scalars.len())].clone(), dice.pick(VALUES).iter().copied())),
        3 if !scalars.is_empty() => drop(mangled.splice(scalars[dice.below(scalars.len())].clone(), dice.pick(NAMES).iter().copied())),
        4 => insert(&mut mangled, inside, &[dice.pick(NAMES), b":", dice.pick(VALUES), b","].concat()),
        5 => {
            let depth = [1, 3, 130, 1_000][dice.below(4)];
            let (open, close) = if dice.once_in(2) { ("[", "]") } else { ("{\"a\":", "}") };
            let nested = [dice.pick(NAMES), b":", open.repeat(depth).as_bytes(), b"1", close.repeat(depth).as_bytes(), b","].concat();
            insert(&mut mangled, inside, &nested);
        }
        6 => {
            let (open, close): (&[u8], &[u8]) =
                [(&b"["[..], &b"]"[..]), (b"{\"user\":", b"}"), (b"\xef\xbb\xbf", b""), (b" ", b"x")][dice.below(4)];
            mangled = [open, &mangled, close].concat();
        }
        7 => mangled.extend_from_slice(other),
        _ => mutate(dice, &mut mangled, other),
    }
    mangled
}

/// Where strings, numbers and words stand.
fn scalars(record: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < record.len() {
        let start = at;
        at += 1;
        match record[start] {
            b'"' => {
                while at < record.len() && record[at] != b'"' {
                    at += if record[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(record.len());
            }
            b'{' | b'}' | b'[' | b']' | b':' | b',' | b' ' => continue,
            _ => at += record[at..].iter().take_while(|byte| !b"{}[]:, \"".contains(byte)).count(),
        }
        found.push(start..at);
    }
    found
}

#[test]
fn equal_seeds_give_equal_damage() {
    let made = |seed: u64| {
        let mut dice = Dice::new(seed);
        let record = br#"{"user":"u","item":"i","value":1.5,"time":1700000000000}"#;
        (0..2_000).map(|_| mangle(&mut dice, record, b"{}")).collect::<Vec<_>>()
    };
    assert_eq!(made(1), made(1));
    assert_ne!(made(1), made(2));
    let words: Vec<String> = scalars(br#"{"a\"":[1,true],"b":-2.5}"#)
        .into_iter()
        .map(|range| String::from_utf8_lossy(&br#"{"a\"":[1,true],"b":-2.5}"#[range]).into())
        .collect();
    assert_eq!(words, [r#""a\"""#, "1", "true", "\"b\"", "-2.5"]);
}

//! The short way for what nearly all records are: an interaction as one flat object, strings without escapes, plain numbers.
//! It reads nothing that the long way reads otherwise, and leaves everything else to it.

use std::borrow::Cow;

use super::{Kind, Plain, Text, Time};

/// Reads a record if it is one of those, to the same as the long way; `None` says nothing of it. `kind` is what it is when it
/// does not say so itself; `layout` that of a record before, and then of this one.
pub(super) fn read<'a>(text: &'a str, kind: Kind, layout: &mut Option<Layout<'a>>) -> Option<Plain<'a>> {
    if let Some(plain) = layout.as_ref().filter(|layout| layout.kind == kind).and_then(|layout| layout.read(text)) {
        return Some(plain);
    }
    let (plain, found) = by_name(text, kind)?;
    *layout = Some(found);
    Some(plain)
}

/// A field that differs from one interaction to the next.
#[derive(Clone, Copy)]
enum Field {
    EventId,
    User,
    Item,
    Value,
    Time,
}

/// How a producer writes its records: what stands before each value, and behind the last. Most records are written as the
/// one before was, and then no name in them needs to be read.
#[derive(Clone, Copy)]
pub(super) struct Layout<'a> {
    kind: Kind,
    fields: [(&'a str, Field); 5],
    count: usize,
    end: &'a str,
}

impl Layout<'_> {
    /// Where a record is written so, it has the fields of the one that this was found in, each once, and is an interaction.
    fn read<'a>(&self, text: &'a str) -> Option<Plain<'a>> {
        let mut at = Scan { text, at: 0 };
        let mut plain = Plain::default();
        for (before, field) in &self.fields[..self.count] {
            at.pass(before)?;
            at.value(*field, &mut plain)?;
        }
        (text.as_bytes().get(at.at..)? == self.end.as_bytes()).then_some(plain)
    }
}

/// Reads a record name by name.
fn by_name(text: &str, kind: Kind) -> Option<(Plain<'_>, Layout<'_>)> {
    let mut at = Scan { text, at: 0 };
    let mut plain = Plain::default();
    let mut layout = Layout { kind, fields: [("", Field::User); 5], count: 0, end: "" };
    let mut stated = None;
    let mut last = 0;
    at.expect(b'{')?;
    loop {
        let name = at.string()?;
        at.expect(b':')?;
        let field = match name {
            "type" => None,
            "event_id" => Some(Field::EventId),
            "user" => Some(Field::User),
            "item" => Some(Field::Item),
            "value" => Some(Field::Value),
            "time" => Some(Field::Time),
            _ => return None,
        };
        let before = &text[last..at.at];
        let fresh = match field {
            None => stated.replace(at.string()?).is_none(),
            Some(field) => at.value(field, &mut plain)?,
        };
        // A repeated field is refused; the long way has the words.
        if !fresh {
            return None;
        }
        if let Some(field) = field {
            layout.fields[layout.count] = (before, field);
            layout.count += 1;
            last = at.at;
        }
        match at.token()? {
            b',' => at.blanks(),
            b'}' => break,
            _ => return None,
        }
    }
    at.blanks();
    layout.end = &text[last..];
    let is_interaction = stated.map_or(kind == Kind::Interaction, |stated| stated == "interaction");
    (is_interaction && at.at == text.len()).then_some((plain, layout))
}

/// Powers of ten that are exact, as far as they are needed.
const TENS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
/// Digits that are exact as f64.
const EXACT: usize = 15;

/// Where the first quote, backslash or control character is. Looks at eight bytes at once: ids are short, but there are
/// ten strings in a record.
fn ends(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The lowest bit that is set tells the first byte below `limit`; those above it may tell of a borrow.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let (words, rest) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = below(word, 0x20) | below(word ^ (ONES * u64::from(b'"')), 1) | below(word ^ (ONES * u64::from(b'\\')), 1);
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let ends = |&byte: &u8| byte == b'"' || byte == b'\\' || byte < b' ';
    rest.iter().position(ends).map(|at| words.len() * 8 + at)
}

/// A place in a text.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The next byte that is no blank.
    fn token(&mut self) -> Option<u8> {
        self.blanks();
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }

    /// One such token, and the blanks after it.
    fn expect(&mut self, token: u8) -> Option<()> {
        (self.token()? == token).then(|| self.blanks())
    }

    fn string(&mut self) -> Option<&'a str> {
        if self.peek()? != b'"' {
            return None;
        }
        let start = self.at + 1;
        let rest = self.text.as_bytes().get(start..)?;
        // Escapes need the long way, control characters are refused there.
        let length = ends(rest)?;
        if rest[length] != b'"' {
            return None;
        }
        self.at = start + length + 1;
        self.text.get(start..start + length)
    }

    /// What is written next, to the letter.
    fn pass(&mut self, what: &str) -> Option<()> {
        let there = self.text.as_bytes().get(self.at..)?.starts_with(what.as_bytes());
        there.then(|| self.at += what.len())
    }

    /// Reads a field's value; false when there was one already.
    fn value(&mut self, field: Field, plain: &mut Plain<'a>) -> Option<bool> {
        Some(match field {
            Field::EventId => plain.event_id.replace(self.identifier()?).is_none(),
            Field::User => plain.user.replace(self.identifier()?).is_none(),
            Field::Item => plain.item.replace(self.identifier()?).is_none(),
            Field::Value => plain.value.replace(self.number()?).is_none(),
            Field::Time => plain.time.replace(self.time()?).is_none(),
        })
    }

    /// How many digits follow, and the number that they are behind the digits of `before`: right up to 19 of them.
    fn digits(&mut self, before: u64) -> (usize, u64) {
        let start = self.at;
        let mut number = before;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        (self.at - start, number)
    }

    /// At most 15 digits without a sign: exact as f64, and its own decimal text.
    fn integer(&mut self) -> Option<(&'a str, u64)> {
        let start = self.at;
        let zero = self.peek()? == b'0';
        let (digits, number) = self.digits(0);
        let whole = (1..=EXACT).contains(&digits) && (digits == 1 || !zero) && !matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        whole.then(|| (&self.text[start..self.at], number))
    }

    /// A number without an exponent.
    fn number(&mut self) -> Option<f64> {
        let start = self.at;
        let negative = self.peek()? == b'-';
        if negative {
            self.at += 1;
        }
        let zero = self.peek()? == b'0';
        let (digits, mut number) = self.digits(0);
        if digits == 0 || (digits > 1 && zero) {
            return None;
        }
        let mut places = 0;
        if self.peek() == Some(b'.') {
            self.at += 1;
            (places, number) = self.digits(number);
            if places == 0 {
                return None;
            }
        }
        // Many digits and powers of ten are where parsers differ.
        if self.at - start > 17 || matches!(self.peek(), Some(b'e' | b'E')) {
            return None;
        }
        if digits + places > EXACT {
            return self.text[start..self.at].parse().ok();
        }
        // Both are exact, so their quotient is what rounds to the nearest.
        let size = number as f64 / TENS[places];
        Some(if negative { -size } else { size })
    }

    fn identifier(&mut self) -> Option<Text<'a>> {
        let text = if self.peek()? == b'"' { self.string()? } else { self.integer()?.0 };
        Some(Text(Cow::Borrowed(text)))
    }

    fn time(&mut self) -> Option<Time<'a>> {
        if self.peek()? == b'"' {
            return Some(Time::Text(Cow::Borrowed(self.string()?)));
        }
        Some(Time::Millis(self.integer()?.1 as f64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Event, Objective, Origin, RawEvent, interaction, interpret};
    use super::*;

    fn origin(kind: Kind) -> Origin<'static> {
        Origin { topic: "t", partition: 0, offset: 1, timestamp: Some(7), kind, objective: Objective::Explicit }
    }

    fn long(text: &str) -> Result<RawEvent<'_>, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// What both ways make of a text; true when the short way answered.
    fn agree(text: &str) -> bool {
        let ways = [Kind::Interaction, Kind::Forget].map(|kind| {
            let origin = origin(kind);
            let Some(short) = read(text, kind, &mut None) else { return false };
            let long = long(text).unwrap_or_else(|e| panic!("the long way refuses {text:?}: {e}"));
            assert_eq!(interaction(&origin, short).map(Event::Interaction), interpret(&origin, long), "{text:?}");
            true
        });
        ways[0]
    }

    #[test]
    fn what_producers_send_goes_the_short_way() {
        for text in [
            r#"{"type":"interaction","event_id":"evt-0000000007","user":"user-000123","item":"item-00042","value":1,"time":1704067200007}"#,
            r#"{"user":17,"item":"ä","value":-3.5,"time":"2024-01-01T00:00:00Z"}"#,
            r#" { "user" : "u" , "item" : 0 } "#,
            r#"{"user":"u","item":"i","value":0}"#,
            r#"{"user":"u"}"#,
        ] {
            assert!(agree(text), "{text}");
            assert_eq!(read(text, Kind::Forget, &mut None).is_some(), text.contains("type"), "{text}");
        }
    }

    #[test]
    fn what_is_odd_goes_the_long_way() {
        for text in [
            "",
            "{",
            "{}",
            "[]",
            r#"{"type":"forget","user":"u"}"#,
            r#"{"type":"else","user":"u","item":"i"}"#,
            r#"{"user":null,"item":"i"}"#,
            r#"{"user":"u","user":"v"}"#,
            r#"{"user":"\u0041","item":"i"}"#,
            r#"{"user":01,"item":"i"}"#,
            r#"{"user":-1,"item":"i"}"#,
            r#"{"user":1.0,"item":"i"}"#,
            r#"{"user":1e3,"item":"i"}"#,
            r#"{"user":"u","item":"i","value":1e3}"#,
            r#"{"user":"u","item":"i","value":.5}"#,
            r#"{"user":"u","item":"i","value":1.}"#,
            r#"{"user":"u","item":"i","value":-}"#,
            r#"{"user":"u","item":"i","value":"1"}"#,
            r#"{"user":"u","item":"i","value":00}"#,
            r#"{"user":"u","item":"i","time":1.5}"#,
            r#"{"user":"u","item":"i","time":9999999999999999}"#,
            r#"{"user":"u",}"#,
            r#"{"user":"u"}}"#,
            r#"{"user":"u"} x"#,
            r#"{"user" "u"}"#,
            r#"{user:"u"}"#,
            "{\"user\":\"a\tb\"}",
            r#"{"user":"u","note":1}"#,
            r#"{"user":"u","items":["i"]}"#,
            r#"{"user":"u","item":"i","value":123456789012345678}"#,
        ] {
            assert!(read(text, Kind::Interaction, &mut None).is_none(), "{text}");
        }
    }

    /// Objects that are nearly right, so that most of them go the short way and some do not.
    fn objects() -> impl Strategy<Value = String> {
        let name = prop::sample::select(&["type", "event_id", "user", "item", "value", "time", "request_id", "\\u0074ime", "x"][..]);
        let value = prop_oneof![
            "[0-9]{1,17}",
            "-?[0-9]{1,6}(\\.[0-9]{0,12})?",
            "\"[a-zä€ \\\\]{0,5}\"",
            "\"20[0-9]{2}-0[1-9]-1[0-9]T00:00:00Z\"",
            Just("null".to_owned()),
            Just("\"interaction\"".to_owned()),
            "[-+.0-9eE]{1,5}",
        ];
        let field = (name, "[ \t]?", value, "[ ,]?").prop_map(|(name, blank, value, after)| format!("\"{name}\":{blank}{value}{after}"));
        prop::collection::vec(field, 0..6).prop_map(|fields| format!("{{{}}}", fields.join(",")))
    }

    /// What a text says, read after `before`, whose layout is known then; true when that was of use.
    fn follows(before: &str, text: &str) -> bool {
        let used = [Kind::Interaction, Kind::Forget].map(|kind| {
            let origin = origin(kind);
            let mut layout = None;
            // The topic that a layout was found in may be another.
            for learnt in [Kind::Interaction, Kind::Forget] {
                read(before, learnt, &mut layout);
                let [after, alone] =
                    [layout, None].map(|mut layout| read(text, kind, &mut layout).map(|plain| interaction(&origin, plain)));
                assert_eq!(after, alone, "{before:?}, then {text:?}");
            }
            layout.is_some_and(|layout| layout.read(text).is_some())
        });
        used[0]
    }

    #[test]
    fn what_is_written_like_the_record_before_needs_no_names() {
        let first = r#"{"type":"interaction","event_id":"e1","user":"u1","item":"i1","value":1,"time":1704067200007}"#;
        for text in [
            r#"{"type":"interaction","event_id":"ä","user":17,"item":"longer","value":-0.25,"time":"2024-01-01T00:00:00Z"}"#,
            r#"{"type":"interaction","event_id":0,"user":"","item":"i","value":0,"time":0}"#,
        ] {
            assert!(follows(first, text), "{text}");
        }
        for text in [
            r#"{"type":"forget","event_id":"e1","user":"u1","item":"i1","value":1,"time":1704067200007}"#,
            r#"{"type":"interaction","event_id":"e1","user":"u1","item":"i1","value":1,"time":1704067200007} "#,
            r#"{"type":"interaction","event_id":"e1","user":"u1","item":"i1","value":1,"time":1704067200007"#,
            r#"{"type":"interaction","event_id":"e1","user":"u1","item":"i1","value":1,"time":1704067200007,"time":1}"#,
            r#"{"type":"interaction","event_id":"e1","user":"u\","item":"i1","value":1,"time":1}"#,
            r#"{"type":"interaction","event_id": "e1","user":"u1","item":"i1","value":1,"time":1}"#,
            r#"{"type":"interaction","event_id":"e1","user":"u1","item":"i1","value":1e2,"time":1}"#,
            r#"{"type":"interaction","event_id":"e1"}"#,
            "",
        ] {
            assert!(!follows(first, text), "{text}");
        }
        // Of a topic of requests, what does not say that it is an interaction is none.
        let mut layout = None;
        assert!(read(r#"{"user":1,"item":2}"#, Kind::Interaction, &mut layout).is_some());
        assert!(read(r#"{"user":1,"item":3}"#, Kind::Forget, &mut layout).is_none());
    }

    /// What ends a string, and the bytes beside each.
    const NEAR_ENDS: &[u8] = b"a !\"#[\\]\x1f\x00\x7f\x80\xa2\xff";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn a_string_ends_at_the_first_that_may_not_be_in_it(text in prop::collection::vec(prop::sample::select(NEAR_ENDS), 0..40)) {
            let first = text.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < b' ');
            prop_assert_eq!(ends(&text), first);
        }

        #[test]
        fn both_ways_read_the_same(text in objects()) {
            agree(&text);
        }

        #[test]
        fn the_record_before_makes_no_difference(before in objects(), text in objects()) {
            follows(&before, &text);
        }

        #[test]
        fn a_layout_is_not_more_than_what_was_written(
            value in "-?[0-9]{1,3}(\\.[0-9]{1,3})?",
            user in prop_oneof!["[0-9]{1,3}", "\"[a-z\"{}:, ]{0,6}\""],
            at in 0usize..120,
            byte in 0u8..0x7f,
        ) {
            let text = |user: &str, value: &str| format!(r#"{{"type":"interaction","user":{user},"item":"i","value":{value}}}"#);
            let before = text("\"u\"", "1");
            let mut after = text(&user, &value).into_bytes();
            follows(&before, std::str::from_utf8(&after).unwrap());
            let at = at % after.len();
            after[at] = byte;
            follows(&before, std::str::from_utf8(&after).unwrap());
        }

        #[test]
        fn a_changed_byte_makes_no_difference_between_them(at in 0usize..110, byte in 0u8..0x7f) {
            let mut bytes =
                br#"{"type":"interaction","event_id":"e-07","user":"user-000123","item":42,"value":1.5,"time":1704067200007}"#.to_vec();
            let before = String::from_utf8(bytes.clone()).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            agree(std::str::from_utf8(&bytes).unwrap());
            follows(&before, std::str::from_utf8(&bytes).unwrap());
        }
    }
}

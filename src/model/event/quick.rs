//! The short way for what nearly all records are: an interaction as one flat object, strings without escapes, plain numbers.
//! It reads nothing that the long way reads otherwise, and leaves everything else to it.

use std::borrow::Cow;

use super::{Kind, Plain, Text, Time};

/// Reads a record if it is one of those, to the same as the long way; `None` says nothing of it. `kind` is what it is when it
/// does not say so itself.
pub(super) fn read(text: &str, kind: Kind) -> Option<Plain<'_>> {
    let mut at = Scan { text, at: 0 };
    let mut plain = Plain::default();
    let mut stated = None;
    at.expect(b'{')?;
    loop {
        let name = at.string()?;
        at.expect(b':')?;
        let fresh = match name {
            "type" => stated.replace(at.string()?).is_none(),
            "event_id" => plain.event_id.replace(at.identifier()?).is_none(),
            "user" => plain.user.replace(at.identifier()?).is_none(),
            "item" => plain.item.replace(at.identifier()?).is_none(),
            "value" => plain.value.replace(at.number()?.parse().ok()?).is_none(),
            "time" => plain.time.replace(at.time()?).is_none(),
            _ => return None,
        };
        // A repeated field is refused; the long way has the words.
        if !fresh {
            return None;
        }
        match at.token()? {
            b',' => at.blanks(),
            b'}' => break,
            _ => return None,
        }
    }
    at.blanks();
    let is_interaction = stated.map_or(kind == Kind::Interaction, |stated| stated == "interaction");
    (is_interaction && at.at == text.len()).then_some(plain)
}

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

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    /// At most 15 digits without a sign: exact as f64, and its own decimal text.
    fn integer(&mut self) -> Option<&'a str> {
        let start = self.at;
        let zero = self.peek()? == b'0';
        let digits = self.digits();
        let whole = (1..=15).contains(&digits) && (digits == 1 || !zero) && !matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        whole.then(|| &self.text[start..self.at])
    }

    /// A number without an exponent.
    fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        let zero = self.peek()? == b'0';
        let digits = self.digits();
        if digits == 0 || (digits > 1 && zero) {
            return None;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return None;
            }
        }
        // Many digits and powers of ten are where parsers differ.
        let short = self.at - start <= 17 && !matches!(self.peek(), Some(b'e' | b'E'));
        short.then(|| &self.text[start..self.at])
    }

    fn identifier(&mut self) -> Option<Text<'a>> {
        let text = if self.peek()? == b'"' { self.string()? } else { self.integer()? };
        Some(Text(Cow::Borrowed(text)))
    }

    fn time(&mut self) -> Option<Time<'a>> {
        if self.peek()? == b'"' {
            return Some(Time::Text(Cow::Borrowed(self.string()?)));
        }
        self.integer()?.parse().ok().map(Time::Millis)
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
            let Some(short) = read(text, kind) else { return false };
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
            assert_eq!(read(text, Kind::Forget).is_some(), text.contains("type"), "{text}");
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
            assert!(read(text, Kind::Interaction).is_none(), "{text}");
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
        fn a_changed_byte_makes_no_difference_between_them(at in 0usize..110, byte in 0u8..0x7f) {
            let mut bytes =
                br#"{"type":"interaction","event_id":"e-07","user":"user-000123","item":42,"value":1.5,"time":1704067200007}"#.to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            agree(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

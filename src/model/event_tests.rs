use super::*;
use crate::schemas;

fn origin(kind: Kind, objective: Objective) -> Origin<'static> {
    Origin { topic: "t", partition: 3, offset: 9, timestamp: Some(1_000_000), kind, objective }
}

/// Decodes, and holds what comes of it against the published schemas.
fn decode<'a>(origin: &Origin<'_>, payload: &'a [u8]) -> Result<Event<'a>, Refusal> {
    let decoded = super::decode(origin, payload);
    schemas::agree(origin, payload, &decoded);
    decoded
}

fn read(kind: Kind, text: &str) -> Result<Event<'_>, Refusal> {
    decode(&origin(kind, Objective::Implicit), text.as_bytes())
}

fn code(kind: Kind, text: &str) -> &'static str {
    read(kind, text).map(|event| panic!("{text} was taken as {event:?}")).unwrap_err().code
}

fn forget(text: &str) -> Forget {
    match read(Kind::Forget, text).unwrap() {
        Event::Forget(forget) => forget,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_interaction_has_defaults_and_integers_are_text() {
    let Event::Interaction(plain) = read(Kind::Interaction, r#"{"user":7,"item":"i3","more":[1]}"#).unwrap() else { panic!() };
    assert_eq!((&*plain.user, &*plain.item, plain.value, plain.time, plain.event_id), ("7", "i3", 1.0, 1_000_000, None));
    let full = r#"{"type":"interaction","event_id":"e","user":"u","item":-4,"value":2.5,"time":"2024-02-29T12:00:00+01:00"}"#;
    let Event::Interaction(full) = read(Kind::Forget, full).unwrap() else { panic!("the type decides") };
    assert_eq!((&*full.item, full.value, full.time), ("-4", 2.5, 1_709_204_400_000));
    let Event::Interaction(null) = read(Kind::Interaction, r#"{"user":"u","item":"i","value":null,"time":null}"#).unwrap() else {
        panic!()
    };
    assert_eq!((null.value, null.time), (1.0, 1_000_000));
}

#[test]
fn every_selector_has_its_shape() {
    for (text, shape) in [
        (r#"{"user":"u7"}"#, Shape::User),
        (r#"{"user":"u7","items":["i3"]}"#, Shape::Pair),
        (r#"{"items":["i3"]}"#, Shape::Items),
        (r#"{"user":"u7","from":5,"to":9}"#, Shape::Window),
        (r#"{"user":"u7","event_ids":["e"]}"#, Shape::Events),
    ] {
        assert_eq!(forget(text).selector.shape(), shape, "{text}");
    }
    let forget = forget(r#"{"user":"u7","items":["b","a","b"],"time":500}"#);
    assert_eq!(forget.request_id, "t/3/9");
    assert_eq!(forget.selector.items.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
    assert_eq!((forget.selector.from, forget.selector.to), (0, 500));
}

#[test]
fn a_request_is_its_content() {
    let base = forget(r#"{"request_id":"r","user":"u","items":["a","b"]}"#);
    for same in [r#"{"items":["b","a"],"user":"u","request_id":"r","note":1}"#, r#"{"type":"forget","user":"u","items":["a","b","a"]}"#] {
        assert_eq!(forget(same).content, base.content, "{same}");
    }
    for other in [r#"{"user":"u","items":["a"]}"#, r#"{"user":"ua","items":["b"]}"#, r#"{"user":"u","items":["a","b"],"from":3}"#] {
        assert_ne!(forget(other).content, base.content, "{other}");
    }
    let instant = forget(r#"{"user":"u","time":1000}"#);
    assert_eq!(forget(r#"{"user":"u","time":"1970-01-01T00:00:01Z"}"#).content, instant.content);
}

#[test]
fn bad_interactions_are_refused_by_name() {
    let long = "x".repeat(257);
    for (text, expected) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("[1]", "invalid_field"),
        (r#"{"user":"u","item":"i","value":NaN}"#, "invalid_json"),
        (r#"{"user":"u","item":"i","value":1e999}"#, "invalid_json"),
        (r#"{"user":"u","item":"i","value":"3"}"#, "invalid_field"),
        (r#"{"user":"u","item":"i","value":-1}"#, "invalid_value"),
        (r#"{"user":"u","item":"i","value":1.1e12}"#, "invalid_value"),
        (r#"{"user":"u","user":"v","item":"i"}"#, "invalid_field"),
        (r#"{"user":1.5,"item":"i"}"#, "invalid_field"),
        (r#"{"user":"","item":"i"}"#, "invalid_id"),
        (&format!(r#"{{"user":"{long}","item":"i"}}"#), "invalid_id"),
        (&format!(r#"{{"user":"u","item":"i","event_id":"{}"}}"#, &long[..129]), "invalid_id"),
        (r#"{"item":"i"}"#, "missing_field"),
        (r#"{"user":"u"}"#, "missing_field"),
        (r#"{"user":"u","item":"i","time":-1}"#, "invalid_time"),
        (r#"{"user":"u","item":"i","time":7258118400000}"#, "invalid_time"),
        (r#"{"user":"u","item":"i","time":"yesterday"}"#, "invalid_time"),
        (r#"{"user":"u","item":"i","type":"play"}"#, "unknown_type"),
    ] {
        assert_eq!(code(Kind::Interaction, text), expected, "{text}");
    }
    let deep = format!(r#"{{"user":"u","item":"i","x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(read(Kind::Interaction, &deep).is_ok(), "an unknown field is skipped without recursion, however deep");
}

#[test]
fn bad_bytes_are_refused_by_name() {
    let interactions = origin(Kind::Interaction, Objective::Implicit);
    assert_eq!(decode(&interactions, b"{\"user\":\"\xff\"}").unwrap_err().code, "invalid_utf8");
    assert_eq!(decode(&interactions, &vec![b' '; MAX_RECORD + 1]).unwrap_err().code, "oversize");
    let timeless = Origin { timestamp: None, ..interactions };
    assert_eq!(decode(&timeless, br#"{"user":"u","item":"i"}"#).unwrap_err().code, "invalid_time");
}

#[test]
fn bad_forgets_are_refused_by_name() {
    for (text, expected) in [
        ("{}", "no_selector"),
        (r#"{"user":null,"items":["i"]}"#, "invalid_field"),
        (r#"{"user":"u","items":[]}"#, "no_selector"),
        (r#"{"event_ids":["e"]}"#, "no_selector"),
        (r#"{"items":["i"],"event_ids":["e"]}"#, "no_selector"),
        (r#"{"user":"u","items":"i"}"#, "invalid_field"),
        (r#"{"user":"u","to":1000001}"#, "future_forget"),
        (r#"{"user":"u","from":9,"to":8}"#, "invalid_time"),
        (r#"{"user":"u","from":1000001}"#, "invalid_time"),
        (r#"{"user":"u","request_id":""}"#, "invalid_id"),
    ] {
        assert_eq!(code(Kind::Forget, text), expected, "{text}");
    }
}

#[test]
fn a_request_cannot_ask_for_millions_of_fences() {
    let ids = |prefix: &str, n: usize| (0..n).map(|at| format!("\"{prefix}{at}\"")).collect::<Vec<_>>().join(",");
    let request = |n: usize| format!(r#"{{"user":"u","items":[{}],"event_ids":[{}]}}"#, ids("i", n), ids("e", n));
    assert_eq!(code(Kind::Forget, &request(101)), "invalid_field");
    assert!(read(Kind::Forget, &request(100)).is_ok());
}

#[test]
fn a_rating_may_be_negative() {
    let explicit = origin(Kind::Interaction, Objective::Explicit);
    assert!(decode(&explicit, br#"{"user":"u","item":"i","value":-1}"#).is_ok());
}

#[test]
fn a_value_is_read_to_its_last_bit() {
    for at in 1..200u32 {
        // Numbers that need all seventeen digits.
        let value = f64::from(at).sqrt() / 7.0;
        let text = format!(r#"{{"user":"u","item":"i","value":{value:?}}}"#);
        let Event::Interaction(read) = read(Kind::Interaction, &text).unwrap() else { panic!() };
        assert_eq!(read.value.to_bits(), value.to_bits(), "{text}");
    }
}

#[test]
fn an_array_is_no_event() {
    for text in [r#"["interaction","e","u","i",1,5]"#, " \n\t[null,null,\"u\",\"i\"]", "[]", "[{\"user\":\"u\",\"item\":\"i\"}]"] {
        assert_eq!(code(Kind::Interaction, text), "invalid_field", "{text}");
        assert_eq!(code(Kind::Forget, text), "invalid_field", "{text}");
    }
}

#[test]
fn an_explanation_is_short_whatever_it_quotes() {
    let long = "\u{e4}\u{0}".repeat(20_000);
    let quoted = serde_json::to_string(&long).unwrap();
    let refusal = read(Kind::Interaction, &format!(r#"{{"user":"u","item":"i","value":{quoted}}}"#)).unwrap_err();
    assert_eq!(refusal.code, "invalid_field");
    assert!((500..=MAX_DETAIL).contains(&refusal.detail.len()), "{} bytes", refusal.detail.len());
    assert!(refusal.detail.starts_with("invalid type: string"), "{}", refusal.detail);
}

/// What is invalid JSON, or valid JSON that few expect, each by itself.
#[test]
fn strange_json_is_taken_or_refused_by_name() {
    let brackets = |n: usize, open: &str, close: &str| format!("{}{}", open.repeat(n), close.repeat(n));
    let half = MAX_RECORD / 2;
    for (text, expected) in [
        // 1 MiB of nested brackets, as the record, in a field that is read, and never closed.
        (brackets(half, "[", "]"), "invalid_field"),
        ("[".repeat(MAX_RECORD), "invalid_field"),
        ("{\"a\":".repeat(MAX_RECORD / 5), "invalid_json"),
        (format!(r#"{{"item":"i","user":{}}}"#, brackets(half - 20, "[", "]")), "invalid_field"),
        (format!(r#"{{"user":"u","items":{}}}"#, brackets(half - 20, "[", "]")), "invalid_field"),
        (format!(r#"{{"user":"u","item":"i","value":{}}}"#, brackets(100_000, "{\"a\":", "}")), "invalid_field"),
        // Numbers without end.
        (format!(r#"{{"user":"u","item":"i","value":{}}}"#, "9".repeat(1_000_000)), "invalid_json"),
        (format!(r#"{{"user":{},"item":"i"}}"#, "1".repeat(1_000_000)), "invalid_json"),
        (format!(r#"{{"user":"u","item":"i","time":{}e300}}"#, "1".repeat(8)), "invalid_time"),
        (r#"{"user":"u","item":"i","time":-1e-9}"#.to_owned(), "invalid_time"),
        (r#"{"user":18446744073709551616,"item":"i"}"#.to_owned(), "invalid_field"),
        (r#"{"user":"u","item":"i","value":1e13}"#.to_owned(), "invalid_value"),
        (r#"{"user":"u","item":"i","value":01}"#.to_owned(), "invalid_json"),
        // One name twice, also written in two ways.
        (r#"{"user":"u","item":"i","item":"j"}"#.to_owned(), "invalid_field"),
        (r#"{"user":"u","item":"i","\u0069tem":"j"}"#.to_owned(), "invalid_field"),
        (r#"{"user":"u","item":"i","time":1,"time":1}"#.to_owned(), "invalid_field"),
        // Halves of a surrogate pair.
        (r#"{"user":"\ud800","item":"i"}"#.to_owned(), "invalid_json"),
        (r#"{"user":"u","item":"\udc00\ud800"}"#.to_owned(), "invalid_json"),
        (r#"{"user":"u","item":"i","event_id":"\ud83dx"}"#.to_owned(), "invalid_json"),
        // Text that is none.
        ("{\"user\":\"a\nb\",\"item\":\"i\"}".to_owned(), "invalid_json"),
        (r#"{"user":"\x41","item":"i"}"#.to_owned(), "invalid_json"),
        ("\u{feff}{\"user\":\"u\",\"item\":\"i\"}".to_owned(), "invalid_json"),
        (r#"{"user":"u","item":"i"}{"user":"u","item":"i"}"#.to_owned(), "invalid_json"),
        (r#"{"user":"u","item":"i",}"#.to_owned(), "invalid_json"),
        ("null".to_owned(), "invalid_field"),
        (r#""user""#.to_owned(), "invalid_field"),
    ] {
        let start: String = text.chars().take(60).collect();
        let found = read(Kind::Interaction, &text).map(|event| panic!("{start} was taken as {event:?}")).unwrap_err();
        let forget = text.contains("items");
        let found = if forget { read(Kind::Forget, &text).unwrap_err() } else { found };
        assert_eq!(found.code, expected, "{start}: {}", found.detail);
        assert!(found.detail.len() <= MAX_DETAIL);
    }
    let tiny = format!(r#"{{"user":"u","item":"i","value":0.{}1}}"#, "0".repeat(1_000_000));
    let Event::Interaction(tiny) = read(Kind::Interaction, &tiny).unwrap() else { panic!() };
    assert_eq!(tiny.value, 0.0, "less than the least double is zero");
    for unread in [brackets(half - 30, "[", "]"), "1e999".to_owned(), r#""\ud800""#.to_owned(), r#"{"user":"v","user":"w"}"#.to_owned()] {
        let text = format!(r#"{{"user":"u","item":"i","x":{unread}}}"#);
        let Event::Interaction(event) = read(Kind::Interaction, &text).unwrap() else { panic!() };
        assert_eq!((&*event.user, &*event.item), ("u", "i"), "a field that is not ours is skipped, whatever it holds");
    }
}

#[test]
fn overlong_and_broken_utf8_is_refused() {
    let interactions = origin(Kind::Interaction, Objective::Implicit);
    // `/` in two and three bytes, a surrogate, beyond the last code point, cut off, a lone continuation.
    for bytes in [&b"\xc0\xaf"[..], b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xff\xfe"] {
        let record = [b"{\"user\":\"", bytes, b"\",\"item\":\"i\"}"].concat();
        assert_eq!(decode(&interactions, &record).unwrap_err().code, "invalid_utf8", "{bytes:x?}");
    }
}

#[test]
fn a_forget_of_a_hundred_thousand_items_is_one_request() {
    let items: Vec<String> = (0..100_000).map(|n| format!("\"{n:x}\"")).collect();
    let text = format!(r#"{{"user":"u","items":[{}]}}"#, items.join(","));
    assert!(text.len() < MAX_RECORD);
    assert_eq!(forget(&text).selector.items.map(|items| items.len()), Some(100_000));
}

/// Seeds for all that reads events.
pub(crate) const RECORDS: &[&str] = &[
    r#"{"type":"interaction","event_id":"e1","user":"u1","item":"i1","value":2.5,"time":1700000000000}"#,
    r#"{"user":7,"item":-4,"time":"2024-02-29T12:00:00+01:00","note":[1,{"a":null}]}"#,
    r#"{"user":"ü\u00e4\ud83d\ude00","item":"i\"\\","value":null}"#,
    r#"{"type":"forget","request_id":"r1","user":"u1","items":["i1","i2"],"from":5,"to":1600000000000,"time":1700000000000}"#,
    r#"{"type":"forget","user":"u1","event_ids":["e1","e2"],"time":"2030-01-01T00:00:00Z"}"#,
    r#"{"type":"forget","items":["i1"]}"#,
];

#[test]
fn fuzz_events() {
    crate::fuzz::fuzz("events", RECORDS, |payload| {
        for (kind, objective) in [(Kind::Interaction, Objective::Implicit), (Kind::Forget, Objective::Explicit)] {
            // Not held against the schemas, which see the last of several fields of one name where the decoder refuses them.
            match super::decode(&origin(kind, objective), payload) {
                Ok(Event::Interaction(event)) => {
                    let ids = [(&event.user, MAX_ID), (&event.item, MAX_ID), (event.event_id.as_ref().unwrap_or(&event.user), MAX_ID)];
                    assert!(ids.iter().all(|(id, longest)| (1..=*longest).contains(&id.len())));
                    assert!(event.value.abs() <= MAX_VALUE && (0..END_OF_TIME).contains(&event.time));
                    assert!(objective == Objective::Explicit || event.value >= 0.0);
                }
                Ok(Event::Forget(Forget { selector, time, request_id, .. })) => {
                    assert!(selector.user.is_some() || selector.items.as_ref().is_some_and(|items| !items.is_empty()));
                    assert!(selector.from <= selector.to && selector.to <= time && (0..END_OF_TIME).contains(&time));
                    assert!((1..=MAX_EVENT_ID).contains(&request_id.len()));
                }
                Err(refusal) => {
                    assert!(Refusal::CODES.contains(&refusal.code) && refusal.detail.len() <= MAX_DETAIL && !refusal.detail.is_empty());
                }
            }
        }
    });
}

/// Seeds are what the short way takes and what it nearly takes: it may accept only what the library does, to the same.
#[test]
fn fuzz_the_short_way() {
    let plain: [&str; 6] = [
        r#"{"type":"interaction","event_id":"evt-07","user":"user-000123","item":42,"value":-1.25,"time":1704067200007}"#,
        r#"{ "user" : 17 , "item":"i", "value":0.000001, "time":"2024-01-01T00:00:00Z"}"#,
        r#"{"type":"forget","user":"u","time":5}"#,
        r#"{"user":"u","item":"i","value":-0}"#,
        r#"{"user":"u","item":"i","value":12345678901234567}"#,
        r#"{"user":"u","item":999999999999999,"event_id":0}"#,
    ];
    let seeds: Vec<&str> = plain.iter().chain(RECORDS).copied().collect();
    crate::fuzz::fuzz("events, the short way", &seeds, |payload| {
        let Ok(text) = std::str::from_utf8(payload) else { return };
        for (kind, objective) in [(Kind::Interaction, Objective::Implicit), (Kind::Forget, Objective::Explicit)] {
            // After one of another layout, and after one of the layout of most seeds.
            let before = [r#"{"user":"u"}"#, r#"{"type":"interaction","event_id":"e","user":"u","item":2,"value":1,"time":1}"#];
            let origin = origin(kind, objective);
            let ways = before.map(|before| {
                let mut layout = None;
                quick::read(before, kind, &mut layout);
                quick::read(text, kind, &mut layout).map(|plain| interaction(&origin, plain).map(Event::Interaction))
            });
            assert_eq!(ways[0], ways[1]);
            let Some(short) = &ways[0] else { continue };
            let long: RawEvent<'_> = serde_json::from_str(text).unwrap();
            assert_eq!(*short, interpret(&origin, long));
        }
    });
}

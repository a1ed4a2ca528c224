use super::*;

fn origin(kind: Kind, objective: Objective) -> Origin<'static> {
    Origin { topic: "t", partition: 3, offset: 9, timestamp: Some(1_000_000), kind, objective }
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

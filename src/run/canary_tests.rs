//! A canary in everything that a forget can name, on a real RocksDB: after `purged` no byte of it is left.

use super::*;

/// Everything that can be read from all families.
fn readable(store: &dyn Store, texts: &[&String]) -> bool {
    let mut found = false;
    for family in Family::ALL {
        store
            .scan(family, b"", None, &mut |key, value| {
                let text = |bytes: &[u8]| texts.iter().any(|text| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
                found |= text(key) || text(value);
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
    }
    found
}

/// Lets every order be done for real, on the disk; the topic is believed.
fn purge_for_real(rig: &mut Rig, store: &Arc<dyn Store>) {
    let settings = ClientSettings { brokers: "127.0.0.1:1".into(), group: "g".into(), properties: BTreeMap::new() };
    let worker = Worker::new(store.clone(), Prover::new(settings, "factors".to_owned()), key());
    for _ in 0..6 {
        rig.pass();
        if let Some(Order::Disk(ranges)) = rig.purger.ordered.clone() {
            let result = worker.erase(&ranges);
            assert_eq!(result.as_ref().unwrap().leftover, None);
            rig.purger.answer = Some(Purged::Disk { result, seconds: 0.0 });
        }
        rig.turns(6);
    }
}

#[test]
fn after_purged_no_byte_of_it_is_in_the_state_directory() {
    for (objective, compressed) in [(Objective::Implicit, true), (Objective::Implicit, false), (Objective::Explicit, false)] {
        let dir = tempfile::tempdir().unwrap();
        let rocks = RocksStore::open(dir.path()).unwrap();
        if !compressed {
            // Then a search of the files reads all that is in them, also what deletions hide from a reader.
            rocks.leave_uncompressed().unwrap();
        }
        let store: Arc<dyn Store> = Arc::new(rocks);
        let mut rig = Rig::open(store.clone(), objective, TopicProof::None);
        let [user, item, event, reason, value, bad] = [(); 6].map(|()| canary());
        for n in 0..300 {
            rig.source.0.push((0, format!(r#"{{"user":"u{}","item":"i{}","event_id":"e{n}","value":3,"time":1}}"#, n % 30, n % 7)));
        }
        rig.play(&format!(r#"{{"user":"{user}","item":"{item}","event_id":"{event}","value":4,"time":1,"note":"{value}"}}"#));
        rig.play(&format!(r#"{{"user":"{user}","item":"i3","event_id":"{event}","value":4,"time":1}}"#));
        rig.play(&format!(r#"{{"user":"{bad}","item":"#));
        let all = [&user, &item, &event, &reason, &value, &bad];
        assert!(readable(&*store, &all) && !holders(dir.path(), &all).is_empty(), "the search finds what is there");
        rig.forget(&format!(r#"{{"request_id":"r","user":"{user}","reason":"{reason}","time":5}}"#));
        // Late, and twice.
        rig.play(&format!(r#"{{"user":"{user}","item":"{item}","event_id":"{event}","value":4,"time":2}}"#));
        rig.forget(&format!(r#"{{"request_id":"r","user":"{user}","reason":"{reason}","time":5}}"#));
        purge_for_real(&mut rig, &store);
        assert_eq!(rig.receipt("r").status, Status::Purged);
        assert!(!readable(&*store, &all));
        assert_eq!(holders(dir.path(), &all), [""; 0]);
        let told = rig.metrics.render() + &rig.board.status().to_string();
        assert!(all.iter().all(|canary| !told.contains(canary.as_str())));
        drop((rig, store));
        let again: Arc<dyn Store> = Arc::new(RocksStore::open(dir.path()).unwrap());
        assert_eq!(holders(dir.path(), &all), [""; 0], "nor after a restart");
        assert!(Tables::new(again, objective, &key()).unwrap().unpurged().unwrap().is_empty());
    }
}

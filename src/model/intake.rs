//! The part of taking records in that needs no order: decoding, hashing, looking up. Done for a whole batch on all cores,
//! because it is most of the work of an event.

use rayon::prelude::*;

use super::event::{self, Event, Forget, Interaction, Kind, Origin, Refusal};
use super::factors::Side;
use super::processor::State;
use super::step::Input;

/// Below this many records, handing work to other threads costs more than it saves.
const SEVERAL: usize = 512;

/// What a record says, and what is known of it already.
pub(super) enum Reading<'a> {
    /// No value.
    Empty,
    Refused(Refusal),
    Interaction(Known<'a>),
    Forget(Forget),
}

/// An interaction with what could be looked up. The state only grows while a batch is taken in, so what was found stays
/// true; what was not found may have come since.
pub(super) struct Known<'a> {
    pub event: Interaction<'a>,
    /// A fence that stood before the batch covers it.
    pub fenced: bool,
    pub user: Option<u32>,
    pub item: Option<u32>,
    /// Keyed hash of the event id.
    pub ident: Option<u64>,
}

impl State {
    /// Reads a batch, in order.
    pub(super) fn read<'a>(&self, topics: &[String], inputs: &[Input<'a>]) -> Vec<Reading<'a>> {
        let kind = |topic: &String| if *topic == self.topics.interactions { Kind::Interaction } else { Kind::Forget };
        let kinds: Vec<Kind> = topics.iter().map(kind).collect();
        let read = |input: &Input<'a>| self.read_one(topics, &kinds, input);
        if inputs.len() < SEVERAL { inputs.iter().map(read).collect() } else { inputs.par_iter().map(read).collect() }
    }

    /// The record's place and time, as far as its meaning depends on them.
    fn origin<'t>(&self, topics: &'t [String], kind: Kind, input: &Input<'_>) -> Origin<'t> {
        Origin {
            topic: &topics[input.topic as usize],
            partition: input.partition,
            offset: input.offset,
            timestamp: input.timestamp,
            kind,
            objective: self.params.objective,
        }
    }

    fn read_one<'a>(&self, topics: &[String], kinds: &[Kind], input: &Input<'a>) -> Reading<'a> {
        let Some(payload) = input.payload else { return Reading::Empty };
        let origin = self.origin(topics, kinds[input.topic as usize], input);
        match event::decode(&origin, payload) {
            Ok(Event::Interaction(event)) => Reading::Interaction(Known {
                fenced: self.fences.cover(&event),
                user: self.dictionary.get(Side::User, &event.user),
                item: self.dictionary.get(Side::Item, &event.item),
                ident: event.event_id.as_deref().map(|id| self.fences.key().event(id)),
                event,
            }),
            Ok(Event::Forget(forget)) => Reading::Forget(forget),
            Err(refusal) => Reading::Refused(refusal),
        }
    }
}

//! The part of taking records in that needs no order: decoding, hashing, looking up. Done for a whole batch on all cores,
//! because it is most of the work of an event.

use rayon::prelude::*;

use super::Objective;
use super::event::{self, Decoder, Event, Forget, Interaction, Kind, Origin, Refusal};
use super::factors::Side;
use super::play::{Play, ordered};
use super::processor::State;
use super::step::{DeadLetter, Input, Outgoing};

/// Largest part of an undecodable record that goes to the dead letters: brokers refuse records above 1 MiB.
const DEAD_LETTER_BYTES: usize = 1_000_000;
/// Records that one thread reads at a time; fewer than two such pieces are not worth a second thread.
const PIECE: usize = 512;
/// Records that are decoded before their names are looked up. Each look-up waits for memory; those that follow each other
/// without anything between wait together.
const AHEAD: usize = 32;

/// What a record says, and what is known of it already. Small, for it is moved more than once; what is large is rare.
pub(super) enum Reading<'a> {
    /// No value.
    Empty,
    Refused(Box<Refusal>),
    /// A fence that stood before the batch covers it.
    Fenced,
    /// Of a user and an item that had their numbers before the batch, with the event id where the objective needs it.
    Play(Play, Box<str>),
    /// At least one of them had none. The state only grows while a batch is taken in: what was found stays true, and what was
    /// not found may have come since.
    New(Box<Interaction<'a>>),
    Forget(Box<Forget>),
}

impl State {
    /// Reads a batch, in order: pieces of several records each.
    pub(super) fn read<'a>(&self, topics: &[String], inputs: &[Input<'a>]) -> Vec<Vec<Reading<'a>>> {
        let kinds: Vec<Kind> = topics.iter().map(|topic| self.kind(topic)).collect();
        let read = |inputs: &[Input<'a>]| self.read_piece(topics, &kinds, inputs);
        if inputs.len() < 2 * PIECE { inputs.chunks(PIECE).map(read).collect() } else { inputs.par_chunks(PIECE).map(read).collect() }
    }

    fn kind(&self, topic: &String) -> Kind {
        if *topic == self.topics.interactions { Kind::Interaction } else { Kind::Forget }
    }

    /// What a record says, whatever is known of it.
    pub(super) fn decode<'a>(&self, topic: &String, input: &Input<'a>) -> Option<Result<Event<'a>, Refusal>> {
        input.payload.map(|payload| event::decode(&self.origin(topic, self.kind(topic), input), payload))
    }

    fn origin<'t>(&self, topic: &'t str, kind: Kind, input: &Input<'_>) -> Origin<'t> {
        let &Input { partition, offset, timestamp, .. } = input;
        Origin { topic, partition, offset, timestamp, kind, objective: self.params.objective }
    }

    fn read_piece<'a>(&self, topics: &[String], kinds: &[Kind], inputs: &[Input<'a>]) -> Vec<Reading<'a>> {
        let mut readings = Vec::with_capacity(inputs.len());
        let mut decoded = Vec::with_capacity(AHEAD);
        let mut decoder = Decoder::default();
        let mut numbers = [[None; AHEAD]; 2];
        for inputs in inputs.chunks(AHEAD) {
            decoded.extend(inputs.iter().map(|input| {
                let origin = self.origin(&topics[input.topic as usize], kinds[input.topic as usize], input);
                input.payload.map(|payload| decoder.decode(&origin, payload))
            }));
            for (side, numbers) in Side::BOTH.into_iter().zip(&mut numbers) {
                for (event, number) in decoded.iter().zip(numbers) {
                    if let Some(Ok(Event::Interaction(event))) = event {
                        *number = self.dictionary.get(side, if side == Side::User { &event.user } else { &event.item });
                    }
                }
            }
            let [users, items] = numbers;
            readings.extend(decoded.drain(..).zip(users.into_iter().zip(items)).map(|(event, known)| match event {
                None => Reading::Empty,
                Some(Ok(Event::Interaction(event))) => self.interpret(event, known),
                Some(Ok(Event::Forget(forget))) => Reading::Forget(Box::new(forget)),
                Some(Err(refusal)) => Reading::Refused(Box::new(refusal)),
            }));
        }
        readings
    }

    fn interpret<'a>(&self, event: Interaction<'a>, known: (Option<u32>, Option<u32>)) -> Reading<'a> {
        if self.fences.cover(&event) {
            return Reading::Fenced;
        }
        let (Some(user), Some(item)) = known else { return Reading::New(Box::new(event)) };
        let (play, name) = self.play(&event, user, item);
        Reading::Play(play, name)
    }

    /// An interaction as it is stored, and its event id where the objective needs it.
    pub(super) fn play(&self, event: &Interaction<'_>, user: u32, item: u32) -> (Play, Box<str>) {
        // Only ratings of equal time are decided by the id itself.
        let name = match (self.params.objective, &event.event_id) {
            (Objective::Explicit, Some(id)) => Box::from(&**id),
            _ => Box::default(),
        };
        let ident = event.event_id.as_deref().map(|id| self.fences.key().event(id));
        (Play { user, item, ident, time: event.time, value: ordered(event.value) }, name)
    }
}

/// An undecodable record as it goes out.
pub(super) fn dead_letter(topic: &str, input: &Input<'_>, refusal: Refusal) -> Outgoing {
    let payload = input.payload.unwrap_or_default();
    Outgoing::DeadLetter(DeadLetter {
        topic: topic.to_owned(),
        partition: input.partition,
        offset: input.offset,
        // A key is as long as a record may be; the letter must fit into one.
        key: input.key.map(|key| key[..key.len().min(event::MAX_ID + 2)].to_vec()),
        value: payload[..payload.len().min(DEAD_LETTER_BYTES)].to_vec(),
        length: payload.len() as u64,
        error: refusal.code.to_owned(),
        detail: refusal.detail,
    })
}

//! What the core asks of the past.

use super::tables::{Tables, request};
use super::{Family, StoreError};
use crate::model::play::Play;
use crate::model::receipt::{Request, RequestKey};
use crate::model::step::{History, Range};

impl History for Tables {
    type Error = StoreError;

    fn plays(&self, range: Range, visit: &mut dyn FnMut(Play, &str)) -> Result<(), StoreError> {
        let users = match range {
            Range::All => (0, None),
            Range::Users(from, to) => (from, to),
            Range::User(user) => (user, user.checked_add(1)),
        };
        // What is read by the many is put in rows by number.
        let by_number = matches!(range, Range::All | Range::Users(..));
        let given = by_number.then(|| self.given()).transpose()?;
        self.each_play(users, &mut |play, event_id| {
            if given.is_some_and(|[users, items]| play.user >= users || play.item >= items) {
                return Err(StoreError::damaged(Family::Interactions, &play.user.to_be_bytes(), "a play of a number that was never given"));
            }
            visit(play, event_id);
            Ok(())
        })
    }

    fn request(&self, key: &RequestKey) -> Result<Option<Request>, StoreError> {
        request(&**self.store(), key)
    }
}

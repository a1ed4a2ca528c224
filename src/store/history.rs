//! What the core asks of the past.

use super::tables::{Tables, between, request};
use super::{Family, StoreError, rows};
use crate::model::play::Play;
use crate::model::receipt::{Request, RequestKey};
use crate::model::step::{History, Range};

impl History for Tables {
    type Error = StoreError;

    fn plays(&self, range: Range, visit: &mut dyn FnMut(Play, &str)) -> Result<(), StoreError> {
        let (from, to) = match range {
            Range::All => (Vec::new(), None),
            Range::Users(from, to) => (from.to_be_bytes().to_vec(), to.map(|to| to.to_be_bytes().to_vec())),
            Range::User(user) => under(&user.to_be_bytes()),
            Range::Pair(user, item) => under(&[user.to_be_bytes(), item.to_be_bytes()].concat()),
        };
        // What is read by the many is put in rows by number.
        let by_number = matches!(range, Range::All | Range::Users(..));
        let [users, items] = if by_number { self.given()? } else { [u32::MAX; 2] };
        between(&**self.store(), Family::Interactions, &from, to.as_deref(), |key, value| {
            let event_id = std::str::from_utf8(rows::unversioned(Family::Interactions, key, value)?);
            match (rows::play(key), event_id) {
                (Some(play), Ok(event_id)) if play.user < users && play.item < items => visit(play, event_id),
                _ => return Err(StoreError::damaged(Family::Interactions, key, "not a play")),
            }
            Ok(())
        })
    }

    fn request(&self, key: &RequestKey) -> Result<Option<Request>, StoreError> {
        request(&**self.store(), key)
    }
}

/// All keys that start with a prefix.
fn under(prefix: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    (prefix.to_vec(), super::after(prefix))
}

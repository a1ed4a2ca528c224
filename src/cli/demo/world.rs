//! A small town and what it plays in four months: generated from a seed, so that the story is the same everywhere.

use super::rng::Rng;
use super::titles::{self, GENRES, PER_GENRE, Title, catalogue};

/// Asks to forget the evenings.
pub const MARA: &str = "mara";
/// Was there too, and does not ask.
pub const JONAS: &str = "jonas";
/// Leaves altogether.
pub const EDITH: &str = "edith";

/// 2025-01-01T00:00:00Z, in milliseconds since 1970.
const NEW_YEAR: i64 = 1_735_689_600_000;
pub const DAY: i64 = 86_400_000;
/// Length of the story.
const DAYS: i64 = 120;
/// When Mara and Edith ask: after all plays.
pub const ASKED: i64 = NEW_YEAR + DAYS * DAY;
/// Evenings that Mara and Jonas shared.
const EVENINGS: usize = 20;
/// Different musicals they saw in them.
const SEEN: usize = 13;

/// Everyone in town beside the three.
const FIRST_NAMES: [&str; 24] = [
    "ada", "bela", "cyra", "dmitri", "elif", "farid", "greta", "hugo", "ines", "jun", "kofi", "lena", "milo", "nadia", "oskar", "petra",
    "quinn", "rosa", "sami", "tilda", "umar", "vera", "wim", "yara",
];

/// Somebody played something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    pub user: String,
    /// Index into [`World::titles`].
    pub title: usize,
    /// Milliseconds since the epoch; no two plays of a user share one.
    pub time: i64,
    /// One of the evenings that Mara asks to forget.
    pub evening: bool,
}

pub struct World {
    pub titles: Vec<Title>,
    /// Ascending by time.
    pub plays: Vec<Play>,
}

impl World {
    /// A town of `people` and its plays; equal arguments give equal worlds.
    pub fn generate(seed: u64, people: usize) -> World {
        let mut rng = Rng::new(seed);
        let titles = catalogue(&mut rng);
        let mut plays = Vec::new();
        for person in 0..people {
            let user = format!("{}-{person:04}", FIRST_NAMES[rng.below(FIRST_NAMES.len())]);
            let favourite = rng.below(GENRES.len());
            let second = (favourite + 1 + rng.below(GENRES.len() - 1)) % GENRES.len();
            for _ in 0..12 + rng.below(24) {
                let genre = match rng.unit() {
                    x if x < 0.60 => favourite,
                    x if x < 0.88 => second,
                    _ => rng.below(GENRES.len()),
                };
                plays.push(play(&mut rng, &user, genre));
            }
        }
        for (user, genres) in
            [(MARA, [titles::NOIR, titles::JAZZ]), (JONAS, [titles::SPACE, titles::NATURE]), (EDITH, [titles::GHOSTS, titles::KITCHEN])]
        {
            for at in 0..16 {
                plays.push(play(&mut rng, user, genres[at % 2]));
            }
        }
        evenings(&mut rng, &mut plays);
        plays.sort_by(|a, b| (a.time, &a.user).cmp(&(b.time, &b.user)));
        World { titles, plays }
    }

    /// Mara's half of the shared evenings.
    pub fn evenings(&self) -> impl Iterator<Item = &Play> {
        self.plays.iter().filter(|play| play.evening)
    }

    /// What nobody asks to forget.
    pub fn survivors(&self) -> impl Iterator<Item = &Play> {
        self.plays.iter().filter(|play| !play.evening && play.user != EDITH)
    }

    /// What somebody asks to forget.
    pub fn forgotten(&self) -> impl Iterator<Item = &Play> {
        self.plays.iter().filter(|play| play.evening || play.user == EDITH)
    }

    /// The title behind an item id.
    pub fn title(&self, id: &str) -> Option<&Title> {
        self.titles.iter().find(|title| title.id == id)
    }

    /// The event as it goes over the topic: key and value.
    pub fn record(&self, play: &Play) -> (String, Vec<u8>) {
        let item = &self.titles[play.title].id;
        let event = serde_json::json!({ "user": play.user, "item": item, "time": play.time });
        (play.user.clone(), event.to_string().into_bytes())
    }
}

/// One play of a genre, at any hour; the first titles of a genre are the better known ones.
fn play(rng: &mut Rng, user: &str, genre: usize) -> Play {
    // The square of a uniform number prefers small ranks, as popularity does.
    let rank = (rng.unit().powi(2) * PER_GENRE as f64) as usize;
    let time = NEW_YEAR + (rng.unit() * (DAYS * DAY) as f64) as i64;
    Play { user: user.to_owned(), title: genre * PER_GENRE + rank, time, evening: false }
}

/// Mara and Jonas, every sixth evening an old musical, some of them twice.
fn evenings(rng: &mut Rng, plays: &mut Vec<Play>) {
    let mut seen: Vec<usize> = (0..PER_GENRE).collect();
    rng.shuffle(&mut seen);
    seen.truncate(SEEN);
    for evening in 0..EVENINGS {
        let title = titles::MUSICALS * PER_GENRE + seen[evening % SEEN];
        // Half past eight.
        let time = NEW_YEAR + evening as i64 * 6 * DAY + 20 * DAY / 24 + DAY / 48;
        plays.push(Play { user: MARA.to_owned(), title, time, evening: true });
        plays.push(Play { user: JONAS.to_owned(), title, time, evening: false });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_tells_one_story() {
        let (once, again, other) = (World::generate(7, 50), World::generate(7, 50), World::generate(8, 50));
        assert_eq!(once.plays, again.plays);
        assert!(once.titles.iter().zip(&again.titles).all(|(a, b)| a.id == b.id));
        assert_ne!(once.plays, other.plays);
    }

    #[test]
    fn titles_fit_the_screen_and_differ() {
        for seed in 0..50 {
            let titles = catalogue(&mut Rng::new(seed));
            assert_eq!(titles.len(), GENRES.len() * PER_GENRE);
            assert!(titles.iter().all(|title| title.name.len() <= titles::LONGEST && GENRES[title.genre].tag.len() <= 7));
            assert!(titles.iter().enumerate().all(|(at, title)| title.genre == at / PER_GENRE));
            assert_eq!(titles.iter().map(|title| &title.id).collect::<BTreeSet<_>>().len(), titles.len());
        }
    }

    #[test]
    fn identities_are_unique_and_before_the_forgets() {
        let world = World::generate(7, 3000);
        let identities: BTreeSet<_> = world.plays.iter().map(|play| (&play.user, play.title, play.time)).collect();
        assert_eq!(identities.len(), world.plays.len());
        assert!(world.plays.iter().all(|play| play.time < ASKED));
    }

    #[test]
    fn the_genre_of_the_evenings_is_nowhere_else_in_maras_life() {
        for seed in 0..20 {
            let world = World::generate(seed, 10);
            assert_eq!(world.evenings().count(), EVENINGS);
            for play in world.plays.iter().filter(|play| play.user == MARA) {
                assert_eq!(play.evening, world.titles[play.title].genre == titles::MUSICALS);
            }
        }
    }

    #[test]
    fn events_are_what_the_contract_says() {
        let world = World::generate(7, 5);
        let (key, value) = world.record(&world.plays[0]);
        let event: serde_json::Value = serde_json::from_slice(&value).expect("JSON");
        assert_eq!(event["user"], key);
        assert!(event["user"].is_string() && event["item"].is_string() && event["time"].is_i64());
    }
}

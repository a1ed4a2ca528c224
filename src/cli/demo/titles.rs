//! The catalogue: eight genres, each with its own way of naming things. All titles are invented.

use std::collections::BTreeSet;

use super::rng::Rng;

/// Titles of one genre.
pub const PER_GENRE: usize = 25;
/// Longest title in characters: two lists stand side by side in 80 columns.
pub const LONGEST: usize = 25;

/// A kind of film, series or record, and the words its titles are made of.
pub struct Genre {
    /// At most seven letters, as shown beside a title.
    pub tag: &'static str,
    first: [&'static str; 10],
    second: [&'static str; 10],
}

// Places in GENRES of those that the story speaks of.
pub const MUSICALS: usize = 0;
pub const NOIR: usize = 1;
pub const JAZZ: usize = 2;
pub const SPACE: usize = 3;
pub const NATURE: usize = 4;
pub const KITCHEN: usize = 6;
pub const GHOSTS: usize = 7;

#[rustfmt::skip]
pub const GENRES: [Genre; 8] = [
    Genre {
        tag: "musical",
        first: [
            "Marzipan", "Parasol", "Tin-Whistle", "Cloakroom", "Bellhop",
            "Apricot", "Stairwell", "Two-Penny", "Roof-Garden", "Postman's",
        ],
        second: [
            "Serenade", "Promenade", "Two-Step", "Overture", "Polka",
            "Pirouette", "Matinee", "Cabaret", "Tap Lesson", "Encore",
        ],
    },
    Genre {
        tag: "noir",
        first: [
            "Frost over", "The Drowned of", "Lamps in", "Ashes at", "The Ferry to",
            "Silence in", "The Coroner of", "Black Ice at", "Nine Nights in", "The Quay at",
        ],
        second: [
            "Hjelmvik", "Tornholm", "Velsund", "Grimstrup", "Askevag",
            "Sorrenby", "Ulvskar", "Kaldmo", "Isvatn", "Brennholt",
        ],
    },
    Genre {
        tag: "jazz",
        first: [
            "Quartet for", "Slow Train to", "Brushes and", "Midnight at", "Three Takes of",
            "Ballad of", "Upstairs at", "Bass Walk to", "Smoke over", "Last Call at",
        ],
        second: [
            "Delphine", "the Ferry Bar", "Pier Eleven", "Juniper Lane", "Mister Oakes",
            "the Tin Room", "Odalys", "Wednesday", "Gate Nine", "Room Forty",
        ],
    },
    Genre {
        tag: "space",
        first: [
            "Charts of", "Exiles of", "A Treaty with", "Drift beyond", "Last Beacon of",
            "Children of", "Mutiny at", "Salt Moons of", "Embassy to", "Signal from",
        ],
        second: [
            "Orrery Nine", "Vant", "Kesh-Amar", "the Ninth Ring", "Tessarine",
            "Oldlight", "Perihel", "the Glass Sun", "Caldera", "Umbriax",
        ],
    },
    Genre {
        tag: "nature",
        first: [
            "A Year with", "Small Hours of", "Following", "Winter among", "The Patience of",
            "Nightfall with", "Letters from", "Listening to", "The Return of", "Mapping",
        ],
        second: [
            "Moss", "Bog Owls", "Eel Rivers", "Puffins", "the Heath",
            "Dung Beetles", "the Saltmarsh", "Wolf Lichen", "River Otters", "the Alders",
        ],
    },
    Genre {
        tag: "heist",
        first: [
            "The Left-Handed", "The Retired", "The Second-Best", "The Unlucky", "The Polite",
            "The Drowsy", "The Honest", "The Seasick", "The Thursday", "The Reluctant",
        ],
        second: [
            "Safecracker", "Forger", "Getaway", "Locksmith", "Vault Job",
            "Pickpocket", "Decoy", "Alibi", "Lookout", "Auction",
        ],
    },
    Genre {
        tag: "kitchen",
        first: [
            "Saffron", "Rye", "Quince", "Cardamom", "Buckwheat",
            "Plum", "Sourdough", "Chestnut", "Rhubarb", "Treacle",
        ],
        second: [
            "on a Sunday", "for Beginners", "by the Sea", "vs. the Clock", "with Grandmother",
            "at Dawn", "Academy", "Road Trip", "in a Tiny Kitchen", "Championship",
        ],
    },
    Genre {
        tag: "ghosts",
        first: [
            "Whispers in", "Governess of", "What Waits in", "The Tenant of", "A Candle for",
            "Portrait in", "Footsteps in", "The Bride of", "Nobody at", "The Well at",
        ],
        second: [
            "Mirewood Hall", "Number Forty", "the Linen Room", "Coldharrow", "the East Stair",
            "Wexcombe", "the Nursery", "Thornby End", "the Icehouse", "Gallow Lane",
        ],
    },
];

/// One thing to watch or to hear.
pub struct Title {
    /// Its item id on the topics.
    pub id: String,
    pub name: String,
    /// Index into [`GENRES`].
    pub genre: usize,
}

/// All titles, genre by genre, the well-known ones of a genre first.
pub fn catalogue(rng: &mut Rng) -> Vec<Title> {
    let mut titles = Vec::with_capacity(GENRES.len() * PER_GENRE);
    for (genre, words) in GENRES.iter().enumerate() {
        let mut names = BTreeSet::new();
        let mut pairs: Vec<(usize, usize)> = (0..100).map(|pair| (pair / 10, pair % 10)).collect();
        rng.shuffle(&mut pairs);
        for (first, second) in pairs {
            let name = format!("{} {}", words.first[first], words.second[second]);
            if names.len() < PER_GENRE && name.len() <= LONGEST && names.insert(name.clone()) {
                titles.push(Title { id: slug(&name), name, genre });
            }
        }
    }
    titles
}

/// Lower case, words joined by hyphens.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

//! Generated ratings with the shape of MovieLens-20M: heavy tails on both sides, tastes, play counts. The same for the
//! same seed.

use nepenthe::model::play::Row;
use nepenthe::model::ratings::{Builder, Ratings};
use rayon::prelude::*;

/// Size of a generated world.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub users: usize,
    pub items: usize,
    pub pairs: usize,
    /// Largest number of items that one user has.
    pub heaviest: usize,
    pub seed: u64,
}

/// As many users, items and pairs as MovieLens-20M has left after its rarest ratings.
pub const LARGE: Shape = Shape { users: 138_493, items: 26_744, pairs: 19_300_000, heaviest: 9_254, seed: 1 };
/// A tenth of it, small enough to be solved again and again.
pub const MEDIUM: Shape = Shape { users: 20_000, items: 6_000, pairs: 2_000_000, heaviest: 2_100, seed: 2 };
/// For a look that is over in a moment.
pub const SMALL: Shape = Shape { users: 6_000, items: 2_000, pairs: 400_000, heaviest: 700, seed: 3 };

/// Items that one user has at least, as in MovieLens.
const LIGHTEST: f64 = 20.0;
/// How steeply the numbers of a user's items fall with the user's place.
const USER_TAIL: f64 = 0.4;
/// The same of items, counted from [`ITEM_HEAD`] (of 26,744): the first of them gets half of all users, half of them
/// get a fortieth of the mean.
const ITEM_TAIL: f64 = 2.0;
const ITEM_HEAD: f64 = 130.0;
/// Items fall into this many kinds; a user has a taste for three of them, and takes this share of items from there.
const KINDS: usize = 32;
const TASTE: f64 = 0.5;
/// Draws of an item that the user has already, after which the next free one in popularity is taken.
const REDRAWS: usize = 6;

/// SplitMix64 (Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n - 1)
    }

    fn shuffled(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        (1..n).rev().for_each(|at| order.swap(at, self.below(at + 1)));
        order
    }
}

/// Makes the ratings of a shape: exactly its users and pairs, no pair twice, every item at least once.
pub fn generate(shape: &Shape) -> Ratings {
    let mut random = Random::new(shape.seed);
    let degrees = degrees(shape);
    let (users, items) = (random.shuffled(shape.users), random.shuffled(shape.items));
    let popularity = Popularity::new(shape.items);
    let seed = random.bits();
    let mut builder = Builder::default();
    for (block, places) in users.chunks(4096).enumerate() {
        let first = block * 4096;
        let rows: Vec<Row> = places
            .par_iter()
            .enumerate()
            .map_init(
                || vec![u32::MAX; shape.items],
                |seen, (at, &place)| row(shape, &popularity, &items, degrees[place as usize], (first + at, seed), seen),
            )
            .collect();
        rows.iter().enumerate().for_each(|(at, row)| builder.push((first + at) as u32, row));
    }
    builder.finish()
}

/// Numbers of items by a user's place, falling; together exactly the pairs of the shape.
fn degrees(shape: &Shape) -> Vec<usize> {
    let of = |scale: f64| -> Vec<usize> {
        let steep = |place: usize| ((place as f64 + 0.5) / shape.users as f64).powf(-USER_TAIL) - 1.0;
        (0..shape.users).map(|place| ((LIGHTEST + scale * steep(place)) as usize).min(shape.heaviest)).collect()
    };
    let total = |degrees: &[usize]| degrees.iter().sum::<usize>();
    let (mut low, mut high) = (0.0, shape.pairs as f64);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if total(&of(middle)) <= shape.pairs { low = middle } else { high = middle }
    }
    let mut degrees = of(low);
    let missing = shape.pairs - total(&degrees);
    // Past the capped head, one more each.
    let start = degrees.iter().position(|&degree| degree < shape.heaviest).unwrap_or(0);
    (0..missing).for_each(|at| degrees[start + at % (shape.users - start)] += 1);
    degrees
}

/// Cumulated weights of items by their place in popularity, of all and of each kind; place `p` is of kind `p % KINDS`.
struct Popularity {
    all: Vec<f64>,
    kinds: Vec<Vec<f64>>,
}

impl Popularity {
    fn new(items: usize) -> Popularity {
        let head = ITEM_HEAD * items as f64 / LARGE.items as f64;
        let weight = |place: usize| (place as f64 + head).powf(-ITEM_TAIL);
        let cumulated = |places: &mut dyn Iterator<Item = usize>| {
            let mut sum = 0.0;
            let add = |place| {
                sum += weight(place);
                sum
            };
            places.map(add).collect::<Vec<f64>>()
        };
        Popularity { all: cumulated(&mut (0..items)), kinds: (0..KINDS).map(|kind| cumulated(&mut (kind..items).step_by(KINDS))).collect() }
    }

    /// A place, drawn from the kind or from all.
    fn draw(&self, kind: Option<usize>, random: &mut Random) -> usize {
        let of = |cumulated: &[f64], random: &mut Random| {
            let last = cumulated.len() - 1;
            let target = random.unit() * cumulated[last];
            cumulated.partition_point(|&sum| sum <= target).min(last)
        };
        match kind {
            Some(kind) => of(&self.kinds[kind], random) * KINDS + kind,
            None => of(&self.all, random),
        }
    }
}

/// The row of one user. `seen` is scratch memory, by place: the last user that took it.
fn row(shape: &Shape, popularity: &Popularity, items: &[u32], degree: usize, (user, seed): (usize, u64), seen: &mut [u32]) -> Row {
    let mut random = Random::new(seed ^ (user as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
    let tastes = [random.below(KINDS), random.below(KINDS), random.below(KINDS)];
    let mut places: Vec<usize> = Vec::with_capacity(degree);
    // Every item has somebody: the places are dealt out once, at most one to a user unless there are fewer users.
    places.extend((user..shape.items).step_by(shape.users).take(degree));
    places.iter().for_each(|&place| seen[place] = user as u32);
    while places.len() < degree {
        let kind = (random.unit() < TASTE).then(|| tastes[random.below(3)]);
        let mut place = popularity.draw(kind, &mut random);
        for _ in 0..REDRAWS {
            if seen[place] == user as u32 {
                place = popularity.draw(None, &mut random);
            }
        }
        while seen[place] == user as u32 {
            place = (place + 1) % shape.items;
        }
        seen[place] = user as u32;
        places.push(place);
    }
    // Once for half of the pairs, twice for a quarter, …
    let mut times = || (1 + random.bits().trailing_zeros().min(9)) as f32;
    let mut pairs: Vec<(u32, f32)> = places.into_iter().map(|place| (items[place], times())).collect();
    pairs.sort_unstable_by_key(|pair| pair.0);
    let (columns, values): (Vec<u32>, Vec<f32>) = pairs.into_iter().unzip();
    Row { columns: columns.into(), values: values.into(), interactions: degree as u32 }
}

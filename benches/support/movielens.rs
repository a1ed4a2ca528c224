//! MovieLens-100K from the file that RecBole carries: user, item, rating, seconds, tab separated with a header.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use nepenthe::model::play::Row;
use nepenthe::model::ratings::{Builder, Ratings};

/// Reads the file. `plays` makes every rating a play of strength 1.
pub fn read(path: &Path, plays: bool) -> Result<Ratings, String> {
    let place = |line: usize| format!("{}: line {line}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}; scripts/bench fetches it", path.display()))?;
    let (mut users, mut items) = (HashMap::new(), HashMap::new());
    let mut rows: BTreeMap<u32, BTreeMap<u32, f32>> = BTreeMap::new();
    for (at, line) in text.lines().enumerate().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [user, item, rating, _] = fields[..] else { return Err(format!("{}: not four fields", place(at + 1))) };
        let rating: f32 = rating.parse().map_err(|e| format!("{}: {e}", place(at + 1)))?;
        let user = number(&mut users, user);
        rows.entry(user).or_default().insert(number(&mut items, item), if plays { 1.0 } else { rating });
    }
    let mut builder = Builder::default();
    for (user, pairs) in &rows {
        let (columns, values): (Vec<u32>, Vec<f32>) = pairs.iter().map(|(&item, &value)| (item, value)).unzip();
        builder.push(*user, &Row { interactions: columns.len() as u32, columns: columns.into(), values: values.into() });
    }
    Ok(builder.finish())
}

/// Numbers in the order of first appearance.
fn number<'t>(known: &mut HashMap<&'t str, u32>, name: &'t str) -> u32 {
    let next = known.len() as u32;
    *known.entry(name).or_insert(next)
}

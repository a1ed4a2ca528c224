//! What was found, for people and for machines.

use serde_json::{Value, json};

use super::data::Data;
use super::metrics::{Estimate, Metric, behind, estimate};
use super::model::Facts;
use super::ranking::Ranking;
use super::space::{Trial, within_noise};
use super::split::Part;
use crate::cli::output::{Table, Tone, plural};
use crate::model::{Objective, Params};

/// Something that was ranked: a model, or what does without one.
pub struct Line<'a> {
    pub name: &'static str,
    pub model: Option<(&'a Params, &'a Facts)>,
    pub ranking: &'a Ranking,
}

impl<'a> Line<'a> {
    pub fn of_trial(trial: &'a Trial) -> Line<'a> {
        Line { name: "als", model: Some((&trial.params, &trial.facts)), ranking: &trial.ranking }
    }

    fn sound(&self) -> bool {
        self.model.is_none_or(|(_, facts)| facts.sound())
    }
}

/// Lines over one part of the data, best first.
pub struct Board<'a> {
    pub metric: Metric,
    pub objective: Objective,
    lines: Vec<Line<'a>>,
    /// The trial that all are held against; ranks on the same part.
    best: &'a Ranking,
}

impl<'a> Board<'a> {
    /// Sorts the lines by the metric; lines without it come last.
    pub fn new(metric: Metric, objective: Objective, best: &'a Ranking, mut lines: Vec<Line<'a>>) -> Board<'a> {
        let worse = |line: &Line<'_>| {
            let value = estimate(metric, &line.ranking.outcomes).map_or(f64::INFINITY, |estimate| estimate.value);
            if metric == Metric::Rmse || value == f64::INFINITY { value } else { -value }
        };
        lines.sort_by(|a, b| worse(a).total_cmp(&worse(b)));
        Board { metric, objective, lines, best }
    }

    pub fn table(&self) -> Table {
        let explicit = self.objective == Objective::Explicit;
        let mut headings = vec!["", "model", "rank", "in use", "λ", "ν"];
        headings.extend(if explicit { &["rmse"][..] } else { &["α", "a0"][..] });
        headings.extend(["recall", "ndcg", "mrr", "coverage", "sweeps", "seconds", "behind the best"]);
        let mut table = Table::new(&headings);
        for line in &self.lines {
            table.cells(self.cells(line, explicit));
        }
        table
    }

    fn cells(&self, line: &Line<'_>, explicit: bool) -> Vec<(String, Tone)> {
        let is_best = std::ptr::eq(line.ranking, self.best);
        let same = line.sound() && line.model.is_some() && within_noise(self.metric, self.best, line.ranking);
        let tone = if is_best {
            Tone::Good
        } else if line.sound() {
            Tone::Plain
        } else {
            Tone::Faint
        };
        let plain = |text: String| (text, tone);
        let of = |metric| estimate(metric, &line.ranking.outcomes);
        let share = |metric| plain(of(metric).map_or("–".to_owned(), shown));
        let mark = if is_best {
            "best"
        } else if same {
            "≈"
        } else {
            ""
        };
        let mut cells = vec![plain(mark.to_owned()), plain(line.name.to_owned())];
        let model =
            |text: &dyn Fn(&Params, &Facts) -> String| plain(line.model.map_or(String::new(), |(params, facts)| text(params, facts)));
        cells.push(model(&|params, _| params.rank.to_string()));
        cells.push(match line.model {
            Some((_, facts)) if facts.binds => ("binds".to_owned(), Tone::Bad),
            _ => model(&|_, facts| facts.effective_rank.map_or(String::new(), |rank| rank.to_string())),
        });
        cells.push(model(&|params, _| params.regularization.to_string()));
        cells.push(model(&|params, _| params.regularization_exp.to_string()));
        if explicit {
            cells.push(share(Metric::Rmse));
        } else {
            cells.push(model(&|params, _| params.alpha.to_string()));
            cells.push(model(&|params, _| params.unobserved_weight.to_string()));
        }
        cells.extend([share(Metric::Recall), share(Metric::Ndcg)]);
        cells.push(plain(of(Metric::Mrr).map_or(String::new(), |mrr| format!("{:.4}", mrr.value))));
        cells.push(plain(format!("{:.3}", line.ranking.coverage)));
        cells.push(match line.model {
            Some((_, facts)) if !facts.converged() => (format!("{} open", facts.sweeps), Tone::Bad),
            _ => model(&|_, facts| facts.sweeps.to_string()),
        });
        cells.push(model(&|_, facts| format!("{:.2}", facts.seconds)));
        let distance = behind(self.metric, &self.best.outcomes, &line.ranking.outcomes).filter(|_| !is_best);
        cells.push(plain(distance.map_or(String::new(), shown)));
        cells
    }

    pub fn json(&self) -> Value {
        self.lines.iter().map(|line| self.line_json(line)).collect()
    }

    fn line_json(&self, line: &Line<'_>) -> Value {
        let interval = |estimate: Estimate| json!({"value": estimate.value, "margin": estimate.margin});
        let metrics =
            Metric::ALL.iter().map(|&metric| (metric.name().to_owned(), json!(estimate(metric, &line.ranking.outcomes).map(interval))));
        let mut row = json!({
            "name": line.name,
            "best": std::ptr::eq(line.ranking, self.best),
            "coverage": line.ranking.coverage,
            "behind": behind(self.metric, &self.best.outcomes, &line.ranking.outcomes).map(interval),
        });
        if let Value::Object(fields) = &mut row {
            fields.extend(metrics);
            if let Some((params, facts)) = line.model {
                fields.insert("model".to_owned(), settings(params));
                fields.insert("effective_rank".to_owned(), json!(facts.effective_rank));
                fields.insert("rank_binds".to_owned(), json!(facts.binds));
                fields.insert("converged".to_owned(), json!(facts.converged()));
                fields.insert("tolerance".to_owned(), json!(facts.tolerance));
                fields.insert("residual".to_owned(), json!(facts.residual));
                fields.insert("sweeps".to_owned(), json!(facts.sweeps));
                fields.insert("seconds".to_owned(), json!(facts.seconds));
            }
        }
        row
    }
}

/// The settings that a search decides, under their names in `[model]`.
pub fn settings(params: &Params) -> Value {
    let mut model = json!({
        "rank": params.rank,
        "regularization": params.regularization,
        "regularization_exp": params.regularization_exp,
    });
    if let (Value::Object(fields), Objective::Implicit) = (&mut model, params.objective) {
        fields.insert("alpha".to_owned(), params.alpha.into());
        fields.insert("unobserved_weight".to_owned(), params.unobserved_weight.into());
    }
    model
}

/// One line above a table: what was predicted from what.
pub fn caption(title: &str, part: &Part, n: usize) -> String {
    let training = plural(part.ratings.pairs(), "pair");
    let held = plural(part.count() as u64, "held-out pair");
    let unseen = match part.unseen() {
        0 => String::new(),
        unseen => format!(", {unseen} of items that nobody else has"),
    };
    format!("{title}: {held} from {training} in training{unseen}; lists of {n}, ± is a 95 % interval over users")
}

/// The data and how they were divided, for `--json`.
pub fn part_json(part: &Part) -> Value {
    json!({"training_pairs": part.ratings.pairs(), "held_out": part.count(), "held_out_unseen_items": part.unseen()})
}

pub fn data_json(data: &Data) -> Value {
    json!({"users": data.users.len(), "items": data.items.len(), "pairs": data.pairs(), "interactions": data.interactions})
}

fn shown(estimate: Estimate) -> String {
    format!("{:.4} ± {:.4}", estimate.value, estimate.margin)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;

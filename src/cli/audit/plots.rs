//! The plots of a case, each with its figures beside it.

use std::fmt::Write;

use super::compare::Agreement;
use super::inference::Inference;
use super::page::put;
use super::report::{Case, Path};
use super::roc::Estimate;
use super::svg::{Bar, Curve, Dots, Told, bars, curves, dots, escape};

/// A number as it is read best: 3.2e-7, 0.031.
fn short(value: f64) -> String {
    if value == 0.0 || (1e-2..1e4).contains(&value.abs()) { format!("{value:.3}") } else { format!("{value:.1e}") }
}

/// The curves after forgetting and from scratch.
fn both(case: &Case, values: fn(&Path) -> &[f64]) -> [Curve<'_>; 2] {
    let warm = if case.went_on { "after forgetting" } else { "after forgetting (anew)" };
    [
        Curve { name: warm, class: "ours", values: values(&case.warm) },
        Curve { name: "from scratch", class: "theirs", values: values(&case.cold) },
    ]
}

/// Sweeps that each curve needs until it stays below each level.
fn until(body: &mut String, what: &str, lines: &[Curve<'_>; 2], levels: &[f64]) {
    let reached = |values: &[f64], level: f64| match values.iter().rposition(|value| value.is_nan() || *value > level) {
        _ if values.is_empty() => "–".to_owned(),
        None => "1".to_owned(),
        Some(last) if last + 1 == values.len() => format!("> {}", values.len()),
        Some(last) => (last + 2).to_string(),
    };
    put!(body, "<table><caption>Sweeps until the {what} is below</caption>");
    put!(body, "<tr><th scope=\"col\"></th><td>after forgetting</td><td>from scratch</td></tr>");
    for &level in levels {
        let [warm, cold] = lines.map(|line| reached(line.values, level));
        put!(body, "<tr><th scope=\"row\">{level:.0e}</th><td>{warm}</td><td>{cold}</td></tr>");
    }
    put!(body, "</table>");
}

/// Distance of the objective from the lowest one, sweep by sweep.
pub fn gaps(body: &mut String, at: usize, case: &Case) {
    let lines = both(case, |path| &path.gap);
    let id = format!("gaps-{at}");
    let last = |path: &Path| path.gap.last().map_or("–".to_owned(), |gap| format!("{gap:.0e}"));
    let description = format!(
        "Relative distance of the objective from the lowest that was reached, after each sweep, on a logarithmic axis: {} at the last \
         sweep after forgetting, {} from scratch.",
        last(&case.warm),
        last(&case.cold)
    );
    put!(body, "<figure>\n<h3>What is left to gain</h3>");
    let told = Told { id: &id, title: "Gap of the objective per sweep", description: &description };
    let certified = case.fixed_point.gap.filter(|gap| *gap > 0.0).map(|gap| (gap, "certified"));
    put!(body, "{}", curves(told, "sweep", &lines, certified));
    until(body, "gap", &lines, &[1e-2, 1e-4, 1e-6, 1e-8, 1e-10]);
    let mut words = String::from(
        "How much higher the objective is than the lowest that this model or a retrain reached on the remaining data, as a share of it; \
         what is below 1e-14 is rounding. The first sweeps are computed in f32 and know it to 1e-5 only.",
    );
    if case.fixed_point.gap.is_some() {
        words.push_str(" The line is the certificate: no model at all, of any rank, is further below than that.");
    }
    put!(body, "<figcaption>{words}</figcaption>\n</figure>");
}

/// Residual of each sweep, from the trained factors and from scratch.
pub fn sweeps(body: &mut String, at: usize, case: &Case) {
    let tolerance = case.fixed_point.tolerance;
    let lines = both(case, |path| &path.residual);
    let id = format!("sweeps-{at}");
    let description = format!(
        "Largest residual after each sweep over the data, on a logarithmic axis: {} sweeps after forgetting, {} from scratch, \
         down to {:.0e}.",
        case.warm.sweeps(),
        case.cold.sweeps(),
        tolerance
    );
    put!(body, "<figure>\n<h3>The way to the new optimum</h3>");
    put!(
        body,
        "{}",
        curves(Told { id: &id, title: "Residual per sweep", description: &description }, "sweep", &lines, Some((tolerance, "tolerance")))
    );
    let mut levels: Vec<f64> = (1..=12).step_by(2).map(|decade| 10f64.powi(-decade)).filter(|level| *level > tolerance * 1.01).collect();
    levels.push(tolerance);
    until(body, "residual", &lines, &levels);
    let words = if case.warm.residual.is_empty() {
        "The generation that served the request is in the state already; how its sweeps went is not kept. Beside it, training from scratch."
    } else {
        "How far the worst row is from what the data say, sweep by sweep. Forgetting goes on from the trained factors and arrives where \
         training from scratch arrives."
    };
    put!(body, "<figcaption>{words}</figcaption>\n</figure>");
}

/// The model's distance to the retrains, and theirs to each other.
pub fn distances(body: &mut String, at: usize, case: &Case) {
    let found = &case.retrain;
    let of = |agreements: &[Agreement]| agreements.iter().map(|agreement| agreement.distance).collect::<Vec<f64>>();
    let rows = [
        Dots { name: "unlearned to each retrain".to_owned(), class: "ours", values: of(&found.to_retrains) },
        Dots { name: "retrains to each other".to_owned(), class: "theirs", values: of(&found.among_retrains) },
    ];
    let id = format!("distances-{at}");
    let description = format!(
        "Relative distance of predictions on a logarithmic axis: the unlearned model is at most {} from a retrain, two retrains at most {} \
         from each other; the limit is {}.",
        short(found.furthest()),
        short(found.spread()),
        short(found.threshold)
    );
    put!(body, "<figure>\n<h3>As near to retraining as retraining is to itself</h3>");
    let told = Told { id: &id, title: "Distance to retrained models", description: &description };
    put!(body, "{}", dots(told, "relative distance of predictions", &rows, (found.threshold, "limit")));
    put!(body, "<table><caption>Predictions apart; lists of recommendations in common, and the same</caption>");
    put!(body, "<tr><th scope=\"col\"></th><td>distance</td><td>in common</td><td>same</td></tr>");
    let couples = (1..=found.to_retrains.len()).flat_map(|a| (a + 1..=found.to_retrains.len()).map(move |b| format!("{a} and {b}")));
    let ours = (1..=found.to_retrains.len()).map(|seed| format!("to retrain {seed}"));
    for (name, agreement) in ours.zip(&found.to_retrains).chain(couples.zip(&found.among_retrains)) {
        put!(
            body,
            "<tr><th scope=\"row\">{name}</th><td>{}</td><td>{:.1}\u{202f}%</td><td>{:.1}\u{202f}%</td></tr>",
            short(agreement.distance),
            100.0 * agreement.overlap,
            100.0 * agreement.identical
        );
    }
    put!(body, "</table>");
    let mut words = if found.users < found.users_of {
        format!(
            "Of {} users, {} were compared: chance chose them, up to half of them among those who lost data.",
            found.users_of, found.users
        )
    } else {
        match found.users {
            1 => "The one user was compared.".to_owned(),
            users => format!("All {users} users were compared."),
        }
    };
    let fixed = &case.fixed_point;
    let used = fixed.effective_rank.map_or("unknown".to_owned(), |used| used.to_string());
    let _ = write!(words, " Effective rank: {used} of {}", fixed.rank);
    words.push_str(if fixed.rank_binds {
        "; it binds, so that retraining has more than one outcome. "
    } else {
        ", so the rank does not bind. "
    });
    let _ = write!(words, "The objective is {:+.1e} (relative) from the lowest of the retrains.", fixed.gap_to_retrains);
    if let Some(sigma) = fixed.sigma {
        let _ = write!(words, " σ = {sigma:.6}; up to 1, no other model does better.");
    }
    if let Some(gap) = fixed.gap {
        let _ = write!(words, " Certified distance of the objective from the global optimum: at most {gap:.1e} (relative).");
    }
    if let Some(refused) = &fixed.refused {
        let _ = write!(words, " The global optimum is {refused}.");
    }
    put!(body, "<figcaption>{}</figcaption>\n</figure>", escape(&words));
}

/// How well the attack does, in each model and with two.
pub fn areas(body: &mut String, at: usize, found: &Inference) {
    let two = &found.two_snapshots;
    let rows: [(&str, &str, Estimate); 5] = [
        ("before forgetting", "theirs", found.before),
        ("unlearned", "ours", found.unlearned),
        ("retrained", "theirs", found.retrained),
        ("before and unlearned together", "ours", two.unlearned),
        ("before and retrained together", "theirs", two.retrained),
    ];
    let drawn: Vec<Bar<'_>> = rows
        .iter()
        .map(|&(name, class, estimate)| Bar { name, class, value: estimate.value, low: estimate.low, high: estimate.high })
        .collect();
    let id = format!("areas-{at}");
    let description = format!(
        "Area under the ROC curve of an attacker who looks for the forgotten: {:.3} before, {:.3} unlearned, {:.3} retrained; \
         {:.3} and {:.3} for one who holds both models. One half is guessing.",
        found.before.value, found.unlearned.value, found.retrained.value, two.unlearned.value, two.retrained.value
    );
    put!(body, "<figure>\n<h3>What an attacker finds</h3>");
    let told = Told { id: &id, title: "Membership inference", description: &description };
    put!(body, "{}", bars(told, "area under the ROC curve; 0.5 is guessing", &drawn));
    put!(body, "<table><caption>Area with its 95 % interval</caption>");
    for (name, _, estimate) in rows {
        put!(body, "<tr><th scope=\"row\">{name}</th><td>{:.3} ({:.3} … {:.3})</td></tr>", estimate.value, estimate.low, estimate.high);
    }
    let apart = found.apart;
    put!(
        body,
        "<tr><th scope=\"row\">unlearned − retrained</th><td>{:.4} ({:.4} … {:.4})</td></tr></table>",
        apart.value,
        apart.low,
        apart.high
    );
    let mut words = format!(
        "{} forgotten pairs against {} held-out ones of like popularity, scored by {}. {:.1} % of the data were held out of all \
         three models.",
        found.members,
        found.controls,
        found.score,
        100.0 * found.held_out
    );
    if found.unmatched > 0 {
        let _ = write!(words, " For {} forgotten pairs there was none alike; they are left out.", found.unmatched);
    }
    put!(body, "<figcaption>{words}</figcaption>\n</figure>");
}

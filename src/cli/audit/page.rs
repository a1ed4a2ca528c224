//! The page: one self-contained HTML file that a privacy officer can read, print and keep.

use std::fmt::Write;

use super::inference::{AREA_THRESHOLD, Inference, Outcome};
use super::plots;
use super::report::{Case, OVERLAP_SLACK, Report, Rung, SLACK, Subject, TOLERANCES, TWO_SNAPSHOTS, Verdict};
use super::svg::escape;
use crate::cli::output;
use crate::model::receipt::Receipt;

const STYLE: &str = include_str!("page.css");
const METHOD: &str = include_str!("method.html");

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut body = String::new();
    header(&mut body, report);
    for (at, case) in report.cases.iter().enumerate() {
        section(&mut body, at, case);
    }
    method(&mut body, report);
    facts(&mut body, report);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Proof of forgetting, {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        report.created.strftime("%Y-%m-%d")
    )
}

/// Adds text that may hold markup; what comes from outside is escaped by the caller.
macro_rules! put {
    ($body:expr, $($part:tt)*) => {
        // Writing to a string cannot fail.
        let _ = writeln!($body, $($part)*);
    };
}
pub(super) use put;

fn header(body: &mut String, report: &Report) {
    let state = &report.state;
    put!(body, "<header>\n<h1>Was it forgotten?</h1>");
    let generation = state.generation.map_or("no generation yet".to_owned(), |generation| format!("generation {generation}"));
    put!(
        body,
        "<p class=\"soft\">Audit of {}, {generation} of a recommender with {}, {} and {}.</p>",
        report.created.strftime("%-d %B %Y, %H:%M UTC"),
        plural(state.users, "user"),
        plural(state.items, "item"),
        plural(state.interactions, "interaction"),
    );
    let (class, words) = if report.holds {
        ("", "Yes. Everything that was claimed holds.")
    } else {
        ("fails", "No. Something that was claimed does not hold; what it is stands below.")
    };
    put!(body, "<p class=\"verdict {class}\"><strong>{words}</strong></p>");
    if !report.other_settings.is_empty() {
        let settings = escape(&report.other_settings.join(", "));
        put!(body, "<p>The model in the state was made with other settings ({settings}); this audit trained its own with those below.</p>");
    }
    put!(body, "</header>\n<main>");
}

/// A count whose digits stay on one line.
fn count(n: u64) -> String {
    output::count(n).replace(' ', "\u{202f}")
}

fn plural(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// What was asked, in a sentence.
pub fn asked(case: &Case) -> String {
    match &case.subject {
        Subject::Request { receipt, .. } => {
            let shape = match receipt.selector {
                crate::model::event::Shape::User => "everything of one user",
                crate::model::event::Shape::Pair => "items of one user",
                crate::model::event::Shape::Items => "items, for everybody",
                crate::model::event::Shape::Window => "a window of time",
                crate::model::event::Shape::Events => "single events of one user",
            };
            // Whoever chose the id may have put control characters into it.
            format!("Request {}: {shape}", receipt.request_id.escape_debug())
        }
        Subject::Sample { noun, how, share, .. } => {
            let share = if share.ends_with('%') { format!("{share} of all {noun}s") } else { format!("{share} {noun}") };
            format!("A sample: {share}, {how}")
        }
    }
}

fn section(body: &mut String, at: usize, case: &Case) {
    put!(body, "<section>\n<h2>{}</h2>", escape(&asked(case)));
    let gone = &case.forgotten;
    let mut words = format!("{} forgotten", plural(gone.interactions, "interaction"));
    if gone.users + gone.items > 0 {
        let _ = write!(words, "; {} and {} disappeared with them", plural(gone.users, "user"), plural(gone.items, "item"));
    }
    put!(body, "<p class=\"soft\">{words}. {}</p>", escape(&remark(case)));
    put!(body, "<ul class=\"rungs\">");
    case.rungs.iter().for_each(|rung| card(body, rung));
    put!(body, "</ul>");
    plots::sweeps(body, at, case);
    plots::gaps(body, at, case);
    plots::distances(body, at, case);
    if let Outcome::Measured(found) = &case.inference {
        plots::areas(body, at, found);
        put!(body, "<p>{}</p>", two_snapshots(found));
    }
    put!(body, "</section>");
}

/// What must be known about a case beside its verdicts.
pub fn remark(case: &Case) -> String {
    match &case.subject {
        Subject::Request { receipt, next } => {
            let mut words = format!("The receipt says: {}.", receipt.status.name());
            if *next {
                words.push_str(
                    " Newer events have come in since that generation: audited is what the next one would be, made from the same factors.",
                );
            }
            words
        }
        Subject::Sample { .. } if case.went_on => {
            "They were forgotten on a copy in memory, with the code that serves requests; the service and its state did not notice."
                .to_owned()
        }
        Subject::Sample { .. } => {
            "They were forgotten on a copy in memory, with the code that serves requests. It was more than a quarter of \
             the data: so the model was trained anew, from its initial factors."
                .to_owned()
        }
    }
}

fn two_snapshots(found: &Inference) -> String {
    let pair = found.two_snapshots;
    format!(
        "<strong>Who holds two copies.</strong> Scored by the drop from before to after, the area is {:.3} for the unlearned and {:.3} \
         for the retrained model. {}",
        pair.unlearned.value,
        pair.retrained.value,
        escape(TWO_SNAPSHOTS)
    )
}

fn card(body: &mut String, rung: &Rung) {
    let (class, word) = match rung.verdict {
        Verdict::Holds => ("", "holds"),
        Verdict::Fails => ("fails", "does not hold"),
        Verdict::NotClaimed => ("open", "not claimed"),
    };
    put!(
        body,
        "<li><span class=\"state {class}\">{word}</span><b>{} · {}</b><p>{}</p>\
         <p class=\"soft\"><span class=\"number\">{}</span>; needed: {}</p></li>",
        rung.rung,
        rung.claim,
        escape(&rung.words),
        escape(&rung.measured),
        escape(&rung.threshold)
    );
}

fn method(body: &mut String, report: &Report) {
    let fill = [
        ("{seeds}", report.method.seeds.to_string()),
        ("{top}", report.method.top.to_string()),
        ("{slack}", SLACK.to_string()),
        ("{tolerances}", TOLERANCES.to_string()),
        ("{overlap}", OVERLAP_SLACK.to_string()),
        ("{area}", AREA_THRESHOLD.to_string()),
        ("{two}", escape(TWO_SNAPSHOTS)),
    ];
    let text = fill.iter().fold(METHOD.to_owned(), |text, (place, words)| text.replace(place, words));
    put!(body, "</main>\n<section>\n{text}</section>");
}

fn facts(body: &mut String, report: &Report) {
    let (state, model, method) = (&report.state, &report.model, &report.method);
    put!(body, "<section>\n<h2>What it was looked at with</h2>\n<div class=\"facts\"><table>");
    let mut row = |name: &str, value: &str| {
        put!(body, "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>", escape(value));
    };
    row("nepenthe", report.version);
    row("time", &format!("{}, {:.1} s", report.created.strftime("%Y-%m-%dT%H:%M:%SZ"), report.seconds));
    if let (Some(generation), Some(created), Some(digest)) = (state.generation, state.created, &state.digest) {
        row("generation", &format!("{generation} of {}", created.strftime("%Y-%m-%dT%H:%M:%SZ")));
        row("digest of its rows", digest);
    }
    for case in &report.cases {
        row("digest of the data", &format!("{} ({} interactions; {})", case.data.digest, count(case.data.interactions), asked(case)));
    }
    for case in &report.cases {
        if let Subject::Request { receipt, .. } = &case.subject {
            row("receipt", &receipt_line(receipt));
        }
    }
    let objective = format!("{:?}", model.objective).to_lowercase();
    row("objective", &objective);
    row("rank, λ, ν", &format!("{}, {}, {}", model.rank, model.regularization, model.regularization_exp));
    if model.objective == crate::model::Objective::Implicit {
        row("α, a0", &format!("{}, {}", model.alpha, model.unobserved_weight));
    }
    row("tolerance", &format!("{:e}, at most {} sweeps", model.tolerance, model.max_sweeps));
    let seeds = format!("{} of the model, {} of the sample; {} retrains, lists of {}", model.seed, method.seed, method.seeds, method.top);
    row("seeds", &seeds);
    put!(body, "</table></div>\n</section>");
}

/// What the receipt of a request says, on a line.
fn receipt_line(receipt: &Receipt) -> String {
    let mut line = format!("{}: {}", receipt.request_id.escape_debug(), receipt.status.name());
    let stages = &receipt.stages;
    for (name, at) in [("accepted", stages.accepted), ("unlearned", stages.unlearned), ("published", stages.published)] {
        if let Some(at) = at {
            let _ = write!(line, "; {name} {}", at.strftime("%Y-%m-%dT%H:%M:%SZ"));
        }
    }
    if let Some(generation) = receipt.generation {
        let _ = write!(line, "; generation {generation}");
    }
    let _ = write!(line, "; claims {}", receipt.exactness.join(", "));
    line
}

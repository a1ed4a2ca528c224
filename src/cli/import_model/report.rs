//! What is said of an import, for people or machines.

use serde_json::{Value, json};

use crate::cli::CliError;
use crate::cli::output::{self, Stream, Table, Tone, colour, count};
use crate::model::receipt::Manifest;

/// How the rows of one side match the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Matched {
    /// Rows in the file.
    pub given: u64,
    /// Those of which the state has interactions.
    pub matched: u64,
    /// Rows that the state has.
    pub known: u64,
}

impl Matched {
    pub fn unknown(self) -> u64 {
        self.given - self.matched
    }

    pub fn missing(self) -> u64 {
        self.known - self.matched
    }

    fn json(self) -> Value {
        json!({"given": self.given, "matched": self.matched, "unknown": self.unknown(), "missing": self.missing()})
    }
}

/// What was imported, measured on the state's data.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub residual: f64,
    /// `None` where the users were solved first.
    pub objective: Option<f64>,
}

/// What a start from nothing needed.
#[derive(Debug, Clone, Copy)]
pub struct Cold {
    pub sweeps: u32,
    pub seconds: f64,
    pub residual: f64,
    pub objective: f64,
    pub certified: bool,
    /// Relative RMS between the predictions of the two.
    pub distance: f64,
}

/// Everything that is said at the end.
pub struct Report {
    pub rank: usize,
    pub items: Matched,
    pub users: Matched,
    pub start: Start,
    /// The new generation; `None` in a dry run.
    pub solved: Option<Manifest>,
    pub cold: Option<Cold>,
}

impl Report {
    /// # Errors
    /// Exit 1 when stdout cannot be written.
    pub fn print(&self, json: bool) -> Result<(), CliError> {
        if json {
            output::out_json(&self.json())?;
        } else {
            output::out(&self.text(colour(Stream::Out)))?;
        }
        if let Some(manifest) = self.solved.as_ref().filter(|manifest| !manifest.certificate.holds()) {
            let sweeps = manifest.certificate.sweeps;
            output::warning(&format!(
                "the tolerance was not reached in {sweeps} sweeps: the generation is committed without a certificate, and \
                 `nepenthe run` goes on from it; see model.max_sweeps"
            ));
        }
        Ok(())
    }

    pub fn json(&self) -> Value {
        json!({
            "rank": self.rank,
            "users": self.users.json(),
            "items": self.items.json(),
            "imported": {"residual": self.start.residual, "objective": self.start.objective},
            "dry_run": self.solved.is_none(),
            "generation": self.solved.as_ref().map(|manifest| manifest.generation),
            "certified": self.solved.as_ref().map(|manifest| manifest.certificate.holds()),
            "certificate": self.solved.as_ref().map(|manifest| &manifest.certificate),
            "cold": self.cold.map(|cold| json!({
                "sweeps": cold.sweeps,
                "seconds": cold.seconds,
                "residual": cold.residual,
                "objective": cold.objective,
                "certified": cold.certified,
                "distance": cold.distance,
            })),
        })
    }

    pub fn text(&self, colour: bool) -> String {
        let mut text = self.matches().render(colour);
        if self.users.given == 0 {
            text.push_str("no user rows are given: users are solved from the items\n");
        }
        text.push('\n');
        text.push_str(&self.numbers().render(colour));
        if let Some(cold) = &self.cold {
            text.push_str(&format!("\nthe predictions of the two lie {:.1e} apart (relative RMS)\n", cold.distance));
        }
        let end = match &self.solved {
            Some(manifest) => format!("\ngeneration {} is committed; `nepenthe run` publishes it\n", manifest.generation),
            None => "\ndry run: nothing is changed\n".to_owned(),
        };
        text.push_str(&end);
        text
    }

    fn matches(&self) -> Table {
        let mut table = Table::new(&["", "users", "items"]);
        let plain = |n: u64| (count(n), Tone::Plain);
        let mut row = |name: &str, of: fn(Matched) -> u64| {
            table.row([(name.to_owned(), Tone::Faint), plain(of(self.users)), plain(of(self.items))]);
        };
        row("rows given", |side| side.given);
        row("matched", |side| side.matched);
        row("unknown, ignored", Matched::unknown);
        row("missing", Matched::missing);
        table
    }

    fn numbers(&self) -> Table {
        let mut headings = vec!["", "imported"];
        let certificate = self.solved.as_ref().map(|manifest| &manifest.certificate);
        headings.extend(certificate.map(|_| "solved"));
        headings.extend(self.cold.map(|_| "cold start"));
        let mut table = Table::new(&headings);
        let columns = headings.len();
        let mut row = |name: &str, start: Option<String>, solved: Option<String>, cold: Option<String>| {
            let cell = |value: Option<String>| (value.unwrap_or_else(|| "–".to_owned()), Tone::Plain);
            let mut cells = vec![(name.to_owned(), Tone::Faint), cell(start), cell(solved), cell(cold)];
            cells.truncate(columns);
            table.cells(cells);
        };
        let (start, cold) = (self.start, self.cold);
        row(
            "residual",
            Some(format!("{:.1e}", start.residual)),
            certificate.map(|it| format!("{:.1e}", it.residual)),
            cold.map(|it| format!("{:.1e}", it.residual)),
        );
        row(
            "objective",
            start.objective.map(|value| format!("{value:.6e}")),
            certificate.map(|it| format!("{:.6e}", it.objective)),
            cold.map(|it| format!("{:.6e}", it.objective)),
        );
        if certificate.is_none() {
            return table;
        }
        row("sweeps", None, certificate.map(|it| it.sweeps.to_string()), cold.map(|it| it.sweeps.to_string()));
        row("seconds", None, certificate.map(|it| format!("{:.2}", it.seconds)), cold.map(|it| format!("{:.2}", it.seconds)));
        table
    }
}

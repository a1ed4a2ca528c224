//! `nepenthe topics`: the topics with the settings that erasure needs.

use clap::Args;
use serde_json::{Value, json};

use super::output::{self, Stream, Table, Tone, colour};
use super::{CliError, client_settings};
use crate::config::{Config, Topics};
use crate::kafka::admin::{Outcome, Role, TopicPlan, TopicReport, ensure_topics};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe topics --brokers localhost:9092              create what is missing, look at the rest
  nepenthe topics --partitions 24 --replication 3
  nepenthe topics --check                               change nothing; exit code 1 when something differs

A topic that exists is never changed: what differs is shown with the reason why it matters.")]
pub struct TopicsArgs {
    /// Partitions of interactions, forgets and factors when they are created; the others get one
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Replicas of each partition when it is created
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
    replication: i32,
    /// Change nothing
    #[arg(long)]
    check: bool,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Creates or checks the topics.
///
/// # Errors
/// Exit 1 when the broker does not do it, and with `--check` when a topic is missing or differs.
pub fn run(config: &Config, args: &TopicsArgs) -> Result<(), CliError> {
    let plan = plan(&config.topics, args);
    let settings = client_settings(config)?;
    let reports = output::patiently("asking the broker", || ensure_topics(&settings, &plan, args.check)).map_err(CliError::failed)?;
    if args.json {
        output::out_json(&Value::Array(reports.iter().map(as_json).collect()))?;
    } else {
        output::out(&table(&reports).render(colour(Stream::Out)))?;
        reasons(&reports);
    }
    if args.check { verdict(&reports) } else { Ok(()) }
}

/// # Errors
/// Exit 1 when a topic is missing or differs.
fn verdict(reports: &[TopicReport]) -> Result<(), CliError> {
    let missing = reports.iter().any(|report| report.outcome == Outcome::Missing);
    let differing = reports.iter().any(|report| matches!(report.outcome, Outcome::Differs(_)));
    let remedy = match (missing, differing) {
        (false, false) => return Ok(()),
        (true, false) => "create what is missing with `nepenthe topics`",
        (false, true) => "change the settings shown with kafka-configs --alter",
        (true, true) => "create what is missing with `nepenthe topics`, change the settings shown with kafka-configs --alter",
    };
    Err(CliError::failed(format!("the topics are not as erasure needs them: {remedy}")))
}

/// Interactions and forgets may be one topic; it is made once.
fn plan(topics: &Topics, args: &TopicsArgs) -> Vec<TopicPlan> {
    let made = |name: &str, role: Role, partitions: i32| TopicPlan::new(name, role, partitions, args.replication);
    let mut plan = vec![made(&topics.interactions, Role::Events, args.partitions)];
    if topics.forgets != topics.interactions {
        plan.push(made(&topics.forgets, Role::Events, args.partitions));
    }
    plan.push(made(&topics.factors, Role::Factors, args.partitions));
    // Few records, and the newest of all must be easy to find.
    plan.push(made(&topics.generations, Role::Generations, 1));
    plan.push(made(&topics.receipts, Role::Receipts, 1));
    plan.push(made(&topics.dead_letters, Role::DeadLetters, 1));
    plan
}

fn table(reports: &[TopicReport]) -> Table {
    let details = reports.iter().any(|report| matches!(report.outcome, Outcome::Differs(_)));
    let headings = ["topic", "", "setting", "is", "should be"];
    let mut table = Table::new(if details { &headings } else { &headings[..1] });
    let empty = || (String::new(), Tone::Plain);
    for report in reports {
        let topic = (report.topic.clone(), Tone::Strong);
        match &report.outcome {
            Outcome::Created => table.row([topic, ("created".to_owned(), Tone::Good), empty(), empty(), empty()]),
            Outcome::Fine => table.row([topic, ("fine".to_owned(), Tone::Good), empty(), empty(), empty()]),
            Outcome::Missing => table.row([topic, ("missing".to_owned(), Tone::Bad), empty(), empty(), empty()]),
            Outcome::Differs(differences) => {
                for (at, difference) in differences.iter().enumerate() {
                    let name = if at == 0 { topic.clone() } else { empty() };
                    let verdict = if at == 0 { ("differs".to_owned(), Tone::Bad) } else { empty() };
                    let is = if difference.is.is_empty() { "not known" } else { &difference.is };
                    let cell = |text: &str| (text.to_owned(), Tone::Plain);
                    table.row([name, verdict, cell(difference.setting), cell(is), cell(&difference.should)]);
                }
            }
        }
    }
    table
}

/// Says once for each differing setting why it matters.
fn reasons(reports: &[TopicReport]) {
    let mut said: Vec<(&str, &str)> = Vec::new();
    for report in reports {
        let Outcome::Differs(differences) = &report.outcome else { continue };
        said.extend(differences.iter().map(|difference| (difference.setting, difference.why)));
    }
    said.sort_unstable();
    said.dedup();
    if !said.is_empty() {
        output::note("Why it matters:");
    }
    for (setting, why) in said {
        output::note(&format!("  {setting}: {why}"));
    }
}

fn as_json(report: &TopicReport) -> Value {
    let (outcome, differences) = match &report.outcome {
        Outcome::Created => ("created", &[][..]),
        Outcome::Missing => ("missing", &[][..]),
        Outcome::Fine => ("fine", &[][..]),
        Outcome::Differs(differences) => ("differs", &differences[..]),
    };
    let differences: Vec<Value> = differences
        .iter()
        .map(|difference| json!({"setting": difference.setting, "is": difference.is, "should": difference.should, "why": difference.why}))
        .collect();
    json!({"topic": report.topic, "outcome": outcome, "differences": differences})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::admin::Difference;

    fn names(forgets: &str) -> Vec<(String, i32)> {
        let name = str::to_owned;
        let topics = Topics {
            interactions: name("in"),
            forgets: name(forgets),
            factors: name("f"),
            generations: name("g"),
            receipts: name("r"),
            dead_letters: name("d"),
        };
        let args = TopicsArgs { partitions: 4, replication: 1, check: false, json: false };
        plan(&topics, &args).into_iter().map(|topic| (topic.name, topic.partitions)).collect()
    }

    #[test]
    fn a_shared_input_topic_is_planned_once() {
        assert_eq!(names("in").len(), 5);
        let apart = names("out");
        assert_eq!(apart.iter().map(|(_, partitions)| *partitions).collect::<Vec<_>>(), [4, 4, 4, 1, 1, 1]);
    }

    #[test]
    fn the_table_shows_each_difference() {
        let differs = Difference { setting: "segment.ms", is: String::new(), should: "at most 600000".to_owned(), why: "because" };
        let reports = [
            TopicReport { topic: "a".to_owned(), outcome: Outcome::Fine },
            TopicReport { topic: "b".to_owned(), outcome: Outcome::Differs(vec![differs.clone(), differs]) },
            TopicReport { topic: "c".to_owned(), outcome: Outcome::Missing },
        ];
        let text = table(&reports).render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "topic           setting     is         should be");
        assert_eq!(lines[2], "b      differs  segment.ms  not known  at most 600000");
        assert_eq!(lines[3], "                segment.ms  not known  at most 600000");
        assert_eq!(lines[4], "c      missing");
        assert_eq!(table(&reports[..1]).render(false), "topic\na      fine\n");
        assert!(verdict(&reports).is_err() && verdict(&reports[..1]).is_ok());
        assert_eq!(as_json(&reports[1])["differences"][0]["should"], "at most 600000");
    }
}

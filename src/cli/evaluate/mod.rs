//! `nepenthe evaluate`: how well a model of these data predicts what people do next, and a search for a better one.
//!
//! Temporal leave-last-out: the last pair of each user is the test, the second last the validation by which a search
//! chooses; the test is looked at once the choice is made.

mod baseline;
mod data;
mod metrics;
mod model;
mod ranking;
mod report;
mod space;
mod split;

use clap::Args;
use clap::builder::TypedValueParser;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use self::baseline::{Biases, ItemKnn, Popularity};
use self::data::Data;
use self::metrics::Metric;
use self::model::train;
use self::ranking::{Ranking, Scores, rank};
use self::report::{Board, Line, caption, data_json, part_json, settings};
use self::space::{SpaceArgs, Trial, within_noise};
use self::split::{Part, Stage, split};
use super::output::{self, Stream, colour, plural};
use super::send::input::InputArgs;
use super::{CliError, reading};
use crate::config::Config;
use crate::model::unlearn::Watch;
use crate::model::{Certify, Objective, Params};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe evaluate                                               the configured model on the state's own data
  nepenthe evaluate --data ml-100k.inter --time-unit s --no-value
  nepenthe evaluate --rank 32,64 --regularization 0.03,0.05,0.08  these six points and the configured one
  nepenthe evaluate --search --trials 60 --json                   built-in lists

The last pair of each user is held out; what a user has is left out of lists. A search chooses by the second last pairs
and reports the choice on the last ones. Points whose rank binds are shown, not chosen: two trainings of them differ.")]
pub struct EvaluateArgs {
    /// CSV, TSV or JSON lines instead of the state directory; - is stdin
    #[arg(long = "data", value_name = "FILE")]
    file: Option<String>,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    space: SpaceArgs,
    /// Length of the lists, 1 to 1000
    #[arg(short, long = "number", value_name = "N", default_value_t = 20, value_parser = super::top_n())]
    n: usize,
    /// What a search goes by [default: ndcg for the implicit objective, rmse for the explicit]
    #[arg(long, value_enum)]
    metric: Option<Metric>,
    /// Residual at which a search stops training, 1e-12 to 1e-1; what is reported at the end is trained to model.tolerance
    #[arg(long, value_name = "R", default_value_t = 1e-4, value_parser = tolerance())]
    tolerance: f64,
    /// Leave out the models that are there for comparison
    #[arg(long)]
    no_baselines: bool,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

fn tolerance() -> impl TypedValueParser<Value = f64> {
    |text: &str| match text.parse::<f64>() {
        Ok(tolerance) if (1e-12..=1e-1).contains(&tolerance) => Ok(tolerance),
        _ => Err("it must be a number from 1e-12 to 1e-1"),
    }
}

/// Evaluates one point, or searches and evaluates the best; prints tables or JSON.
///
/// # Errors
/// Exit 2 for options, a file or a configuration that cannot be used; 1 for data that cannot be split, or when training
/// fails; 4 for a damaged state.
pub fn run(config: &Config, args: &EvaluateArgs) -> Result<(), CliError> {
    let found = find(config, args)?;
    if args.json { output::out_json(&found) } else { Ok(()) }
}

fn find(config: &Config, args: &EvaluateArgs) -> Result<Value, CliError> {
    let objective = config.model.objective;
    let metric = args.metric.unwrap_or(if objective == Objective::Explicit { Metric::Rmse } else { Metric::Ndcg });
    if metric == Metric::Rmse && objective == Objective::Implicit {
        return Err(CliError::usage("--metric rmse needs ratings: say --set model.objective=explicit, or choose another metric"));
    }
    let data = match &args.file {
        Some(file) => Data::of_file(file, &args.input, objective)?,
        None => Data::of_state(&reading::state(config)?, objective)?,
    };
    let test = split(&data, Stage::Test);
    if test.count() == 0 {
        let (users, pairs) = (plural(data.users.len() as u64, "user"), plural(data.pairs() as u64, "pair"));
        let remedy = "a user needs two different items, one to learn from and one to predict";
        return Err(CliError::failed(format!("nothing to evaluate in {users} with {pairs}: {remedy}")));
    }
    let points = args.space.points(&config.model, &test)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.model.threads).build();
    let pool = pool.map_err(|error| CliError::failed(format!("cannot start the solver threads: {error}; lower model.threads")))?;
    let evaluation = Evaluation { config, args, metric, data };
    pool.install(|| evaluation.conduct(points, &test))
}

struct Evaluation<'a> {
    config: &'a Config,
    args: &'a EvaluateArgs,
    metric: Metric,
    data: Data,
}

impl Evaluation<'_> {
    /// All that was found, as JSON; tables go to stdout on the way.
    fn conduct(&self, points: Vec<Params>, test: &Part) -> Result<Value, CliError> {
        let mut found = json!({"data": data_json(&self.data), "n": self.args.n, "metric": self.metric.name()});
        let chosen = match &points[..] {
            [one] => one.clone(),
            many => {
                let validation = split(&self.data, Stage::Validation);
                if validation.count() == 0 {
                    let remedy = "a search needs users with three different items; evaluate one point, without lists";
                    return Err(CliError::failed(format!("nothing to choose by: {remedy}")));
                }
                let (chosen, board) = self.search(many, &validation)?;
                found["validation"] = json!({"split": part_json(&validation), "models": board});
                chosen
            }
        };
        let mut last = vec![chosen.clone()];
        if chosen != self.config.model && points.len() > 1 {
            last.push(self.config.model.clone());
        }
        // As the service would train them.
        let trials = self.trials(&last, test, self.config.model.tolerance)?;
        let board = self.show("test", &trials, &trials[0].ranking, test)?;
        self.advise(&trials);
        found["test"] = json!({"split": part_json(test), "models": board});
        found["chosen"] = settings(&chosen);
        Ok(found)
    }

    /// The point that does best on the validation pairs, and all of them as JSON.
    fn search(&self, points: &[Params], part: &Part) -> Result<(Params, Value), CliError> {
        let mut trials = self.trials(points, part, self.args.tolerance)?;
        let best = self.settle(&mut trials, part)?;
        let best = &trials[best];
        let board = self.show("validation", &trials, &best.ranking, part)?;
        let configured = trials.iter().find(|trial| trial.params == self.config.model);
        if let Some(configured) = configured.filter(|trial| trial.params != best.params)
            && configured.facts.sound()
            && within_noise(self.metric, &best.ranking, &configured.ranking)
        {
            output::note("the configured model is as good as the best, as far as these data can tell");
        }
        Ok((best.params.clone(), board))
    }

    /// The best trial that is sound; the best of all when none is. Those before it whose rank seems to bind are trained
    /// again to the configured tolerance, which tells whether it does.
    fn settle(&self, trials: &mut [Trial], part: &Part) -> Result<usize, CliError> {
        let precise = self.config.model.tolerance.min(self.args.tolerance);
        let open = |trial: &Trial| trial.facts.converged() && trial.facts.tolerance > precise;
        while let Some(at) = space::best(self.metric, trials, |trial| trial.facts.sound() || open(trial)) {
            if trials[at].facts.sound() {
                return Ok(at);
            }
            let again = self.trials(std::slice::from_ref(&trials[at].params), part, precise)?;
            trials[at..=at].clone_from_slice(&again);
        }
        space::best(self.metric, trials, |_| true)
            .ok_or_else(|| CliError::failed(format!("no point has a value of {}; choose another --metric", self.metric.name())))
    }

    fn trials(&self, points: &[Params], part: &Part, tolerance: f64) -> Result<Vec<Trial>, CliError> {
        let bar = output::steps_bar(points.len() as u64);
        let mut trials = Vec::with_capacity(points.len());
        for params in points {
            let live = Live { bar: &bar, what: described(params) };
            // How well it predicts does not hang on the proof that there is no better one.
            let params_used = Params { tolerance, certify: Certify::Residual, ..params.clone() };
            let model = train(&self.data, part, &params_used, &live)?;
            bar.set_message(format!("{}: ranking", live.what));
            trials.push(Trial { params: params.clone(), facts: model.facts, ranking: rank(&model, part, self.args.n) });
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(trials)
    }

    fn baselines(&self, part: &Part) -> Vec<(&'static str, Ranking)> {
        if self.args.no_baselines {
            return Vec::new();
        }
        let bar = output::spinner();
        bar.set_message("baselines");
        let ranked = |scores: &dyn Scores| rank(scores, part, self.args.n);
        let mut baselines = vec![("popularity", ranked(&Popularity::new(part))), ("item-knn", ranked(&ItemKnn::new(part)))];
        if self.config.model.objective == Objective::Explicit {
            baselines.push(("biases", ranked(&Biases::new(part))));
        }
        bar.finish_and_clear();
        baselines
    }

    /// Prints the table unless JSON is wanted; answers the JSON.
    fn show(&self, title: &str, trials: &[Trial], best: &Ranking, part: &Part) -> Result<Value, CliError> {
        let baselines = self.baselines(part);
        let mut lines: Vec<Line<'_>> = trials.iter().map(Line::of_trial).collect();
        lines.extend(baselines.iter().map(|(name, ranking)| Line { name, model: None, ranking }));
        let board = Board::new(self.metric, self.config.model.objective, best, lines);
        if !self.args.json {
            output::out(&format!("{}\n{}\n", caption(title, part, self.args.n), board.table().render(colour(Stream::Out))))?;
        }
        Ok(board.json())
    }

    /// What the user should do about the result.
    fn advise(&self, trials: &[Trial]) {
        let [chosen, ..] = trials else { return };
        if !chosen.facts.converged() {
            output::warning("training stopped before it had converged: raise model.max_sweeps");
        } else if chosen.facts.binds {
            output::warning("the rank binds: two trainings may differ by more than any forget; raise the rank or the regularization");
        }
    }
}

fn described(params: &Params) -> String {
    let Params { rank, regularization, regularization_exp, unobserved_weight, .. } = params;
    format!("rank {rank} λ {regularization} ν {regularization_exp} a0 {unobserved_weight}")
}

/// Shows a solve on the bar.
struct Live<'a> {
    bar: &'a ProgressBar,
    what: String,
}

impl Watch for Live<'_> {
    fn swept(&self, sweep: u32, residual: f64) {
        self.bar.set_message(format!("{}: sweep {sweep}, residual {residual:.0e}", self.what));
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

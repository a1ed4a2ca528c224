//! One audit of one thing: a sample that is forgotten on a copy, or a request that the service has served.

use std::collections::BTreeSet;
use std::sync::Arc;

use pulp::Arch;

use super::compare::compare;
use super::copy::{Copy, nameless, problem, rebuild, retrained};
use super::inference::{Outcome, Target, attack};
use super::progress::{Steps, Way};
use super::report::{Case, Data, FixedPoint, Forgotten, Method, Path, Retrain, Subject, rungs};
use super::sample::{Kind, Nameless, Selection, Share, pairs, priority, smallest};
use crate::cli::CliError;
use crate::cli::reading::State;
use crate::model::als::Weights;
use crate::model::certificate::{at_zero, measure};
use crate::model::dictionary::Dictionary;
use crate::model::event::END_OF_TIME;
use crate::model::factors::Factors;
use crate::model::fence::Scope;
use crate::model::generation::Current;
use crate::model::ratings::{Ratings, Rows};
use crate::model::receipt::{Certificate, Request, Status};
use crate::model::step::History;
use crate::model::{Millis, Objective, Params};

/// What every case is made from.
pub struct Bench<'a> {
    /// Read only.
    pub state: &'a State,
    pub params: &'a Params,
    pub method: &'a Method,
    pub steps: &'a Steps,
    pub now: Millis,
}

/// Steps of a sample, at most.
pub fn steps_of_sample(seeds: usize) -> usize {
    7 + seeds
}

/// Steps of a request, at most.
pub fn steps_of_request(seeds: usize) -> usize {
    3 + seeds
}

/// A model under audit, and what its certificate says.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub factors: Arc<Factors>,
    pub certificate: Certificate,
    /// The sweeps that led to it.
    pub way: Way,
}

impl Candidate {
    pub fn of(current: &Current, way: Way) -> Candidate {
        Candidate { factors: current.factors.clone(), certificate: current.manifest.certificate.clone(), way }
    }
}

/// E1 and E2 of a candidate.
pub struct Judged {
    pub fixed_point: FixedPoint,
    pub retrain: Retrain,
    /// Sweeps of the candidate and of the first retrain.
    pub ways: Ways,
}

/// What a plot of both needs.
pub struct Ways {
    warm: Path,
    cold: Path,
}

impl Bench<'_> {
    /// The state, to be changed in memory.
    ///
    /// # Errors
    /// Exit 2 when the state is of another objective, 4 when it is damaged.
    pub fn copy(&self) -> Result<Copy, CliError> {
        let _step = self.steps.aside("read the interactions");
        Copy::of(self.state.store.clone(), self.params, self.state.restored.fences.key())
    }

    /// Brings a copy's model up to its data, as the next generation of the service would; tells whether it went on from
    /// trained factors.
    fn settle(&self, copy: &mut Copy, what: &str) -> Result<(Candidate, bool), CliError> {
        let job = copy.state.freeze(&copy.tables)?;
        let went_on = job.problem.previous.is_some();
        let step = self.steps.begin(what);
        let outcome = job.run(&step).map_err(|error| CliError::failed(format!("cannot {what}: {error}")))?;
        let way = step.way();
        copy.state.adopt(outcome, 0.0, self.now);
        let current = copy.state.current().ok_or_else(|| CliError::failed("a generation was made and is not there; please report it"))?;
        Ok((Candidate::of(current, way), went_on))
    }

    /// Forgets a sample on a copy and looks at what is left.
    ///
    /// # Errors
    /// Exit 2 for a sample that would leave nothing, 1 when a model cannot be solved, 4 when the state is damaged.
    pub fn sample(&self, kind: Kind, share: Share) -> Result<Case, CliError> {
        let mut copy = self.copy()?;
        let ratings = copy.state.ratings().clone();
        let selection = Selection::choose(kind, share, &ratings, self.method.seed).map_err(CliError::usage)?;
        let (before, _) = self.settle(&mut copy, "bring the model up to the data")?;
        let erased = self.forget(&mut copy, &selection)?;
        let (unlearned, went_on) = self.settle(&mut copy, "forget and go on from the trained factors")?;
        let data = self.data(&copy, Some(&selection))?;
        let remaining = copy.state.ratings().clone();
        let gone = pairs(&ratings).filter(|&(user, item)| selection.contains(user, item));
        let touched: BTreeSet<u32> = gone.map(|(user, _)| user).collect();
        let judged = self.judge(&unlearned, copy.state.dictionary(), &remaining, &touched)?;
        let target = Target {
            params: self.params,
            names: copy.state.dictionary(),
            ratings: &ratings,
            before: &before.factors,
            forgotten: &selection,
            seed: self.method.seed,
        };
        let inference = attack(&target, self.steps)?;
        let forgotten = Forgotten {
            interactions: erased,
            pairs: Some(ratings.pairs() - remaining.pairs()),
            users: (live(&ratings.users) - live(&remaining.users)) as u64,
            items: (live(&ratings.items) - live(&remaining.items)) as u64,
        };
        let name = clap::ValueEnum::to_possible_value(&kind).map(|value| value.get_name().to_owned()).unwrap_or_default();
        let subject = Subject::Sample { sample: name, noun: kind.noun(), how: kind.how(), share: share.to_string() };
        Ok(case(subject, forgotten, data, judged, inference, None, went_on))
    }

    /// Asks for the sample to be forgotten, the way a producer would; answers how many interactions went.
    fn forget(&self, copy: &mut Copy, selection: &Selection) -> Result<u64, CliError> {
        let _step = self.steps.aside("erase the sample from the copy");
        // Whatever time the events bear, the requests come after them.
        let requests = selection.requests(copy.state.dictionary(), END_OF_TIME - 1, &self.now.to_string());
        let requests = requests.map_err(|Nameless(side, row)| nameless(side, row))?;
        Ok(copy.fold(true, &requests, self.now)?.erased.len() as u64)
    }

    /// E0: the copy against a rebuild from the state's own plays without the selected ones.
    fn data(&self, copy: &Copy, selection: Option<&Selection>) -> Result<Data, CliError> {
        let step = self.steps.begin("build the data anew from what remains");
        let restored = &self.state.restored;
        let rebuilt = rebuild(&self.state.tables, restored, self.params, selection, &step)?;
        Ok(Data {
            digest: copy.digest()?,
            rebuilt: rebuilt.digest,
            interactions: rebuilt.plays,
            fenced: rebuilt.fenced,
            blind: self.params.objective == Objective::Implicit
                && [Scope::Event, Scope::Ident].iter().any(|scope| restored.fences.of_scope(*scope) > 0),
        })
    }

    /// Looks at what the service made of a request that it served.
    ///
    /// # Errors
    /// Exit 1 for a request that is not known or was rejected, or a state without a generation; 4 when it is damaged.
    pub fn request(&self, id: &str) -> Result<Case, CliError> {
        let restored = &self.state.restored;
        let request: Option<Request> = self.state.tables.request(&restored.fences.key().request(id))?;
        let receipt = request.map(|request| request.receipt).ok_or_else(|| {
            CliError::failed(format!(
                "the ledger holds no request {id:?}: has the service read it, and is this its state? See nepenthe status"
            ))
        })?;
        if receipt.status == Status::Rejected {
            return Err(CliError::failed(format!("request {id:?} was rejected: nothing was forgotten for it")));
        }
        let Some(current) = &restored.current else {
            return Err(CliError::failed("the state has no generation yet; wait for the service to make the first one"));
        };
        let mut copy = self.copy()?;
        let data = self.data(&copy, None)?;
        let at_rest = current.cut() == restored.positions;
        let candidate = match at_rest {
            true => Candidate::of(current, Way::default()),
            false => self.settle(&mut copy, "bring the model up to the data")?.0,
        };
        let ratings = copy.state.ratings().clone();
        let judged = self.judge(&candidate, copy.state.dictionary(), &ratings, &BTreeSet::new())?;
        let inference = Outcome::NotMeasured(
            "Which pairs it was is not known here any more, and that is the point. What the attack finds on others shows a sample: \
             --sample pairs --share 1%"
                .to_owned(),
        );
        let removed = receipt.removed;
        let unclaimed = (receipt.status < Status::Unlearned)
            .then_some("The request is not served yet: its data are erased, the generation without them is still to come.");
        let forgotten = Forgotten { interactions: removed.interactions, pairs: None, users: removed.users, items: removed.items };
        let subject = Subject::Request { receipt: Box::new(receipt), next: !at_rest };
        Ok(case(subject, forgotten, data, judged, inference, unclaimed, true))
    }

    /// Measures a candidate afresh on the data that it should follow from, and against models trained from scratch on
    /// them. `touched` are users that lost data: they are among those compared.
    ///
    /// # Errors
    /// Exit 1 when a retrain cannot be solved.
    pub fn judge(
        &self,
        candidate: &Candidate,
        names: &Dictionary,
        ratings: &Arc<Ratings>,
        touched: &BTreeSet<u32>,
    ) -> Result<Judged, CliError> {
        let Method { seeds, top, users: most, seed } = *self.method;
        let mean = if self.params.objective == Objective::Explicit { ratings.mean() } else { 0.0 };
        let measured = measure(Arch::new(), ratings, &candidate.factors, &Weights::new(self.params, mean));
        let (mut retrains, mut cold) = (Vec::new(), Way::default());
        let (mut lowest, mut unconverged) = (f64::INFINITY, 0);
        for at in 1..=seeds {
            let fresh = retrained(self.params, at as u64);
            let (solution, way) =
                self.steps.solve(&format!("retrain from seed {at} of {seeds}"), &problem(&fresh, names, ratings, None))?;
            lowest = lowest.min(solution.measured.objective);
            unconverged += usize::from(solution.measured.residual > self.params.tolerance);
            if at == 1 {
                cold = way;
            }
            retrains.push(solution.factors);
        }
        let _step = self.steps.begin("compare predictions");
        let users = compared(&ratings.users, touched, most, seed);
        let models: Vec<&Factors> = std::iter::once(&*candidate.factors).chain(&retrains).collect();
        let found = compare(&models, ratings, &users, top);
        let (ours, among): (Vec<_>, Vec<_>) = found.into_iter().partition(|((first, _), _)| *first == 0);
        let only = |found: Vec<(_, _)>| found.into_iter().map(|(_, agreement)| agreement).collect();
        let fixed_point = FixedPoint {
            residual: measured.residual,
            tolerance: self.params.tolerance,
            objective: measured.objective,
            gap_to_retrains: (measured.objective - lowest) / measured.objective.abs().max(f64::MIN_POSITIVE),
            sigma: candidate.certificate.sigma,
            effective_rank: candidate.certificate.effective_rank,
            rank: self.params.rank,
            rank_binds: candidate.certificate.rank_binds,
            gap: candidate.certificate.gap.map(|gap| gap / candidate.certificate.objective.abs().max(f64::MIN_POSITIVE)),
            refused: candidate.certificate.refused.clone(),
            sweeps: candidate.certificate.sweeps,
        };
        let mut retrain = Retrain::new(only(ours), only(among), self.params.tolerance);
        (retrain.users, retrain.users_of) = (users.len(), live(&ratings.users));
        (retrain.unconverged, retrain.binds) = (unconverged, fixed_point.rank_binds);
        let optimum = lowest.min(measured.objective);
        let constant = at_zero(ratings, &Weights::new(self.params, mean));
        let ways = Ways { warm: Path::of(&candidate.way, constant, optimum), cold: Path::of(&cold, constant, optimum) };
        Ok(Judged { fixed_point, retrain, ways })
    }
}

fn case(
    subject: Subject,
    forgotten: Forgotten,
    data: Data,
    judged: Judged,
    inference: Outcome,
    unclaimed: Option<&str>,
    went_on: bool,
) -> Case {
    let Judged { fixed_point, retrain, ways: Ways { warm, cold } } = judged;
    let rungs = rungs(&data, &fixed_point, &retrain, &inference, unclaimed);
    Case { subject, forgotten, data, fixed_point, retrain, inference, rungs, warm, cold, went_on }
}

/// Number of rows that have data.
pub fn live(rows: &Rows) -> usize {
    (0..rows.len()).filter(|&row| rows.degree(row) > 0).count()
}

/// The users that are compared: all, or as many as wanted, up to half of them those who lost data.
fn compared(rows: &Rows, touched: &BTreeSet<u32>, most: usize, seed: u64) -> Vec<u32> {
    let by_chance = |users: &mut dyn Iterator<Item = u32>, n| {
        let ranked = users.map(|user| (priority(seed, user, 2), user));
        smallest(ranked, n).into_iter().map(|(_, user)| user).collect::<BTreeSet<u32>>()
    };
    let alive = |user: &u32| rows.degree(*user as usize) > 0;
    let mut chosen = by_chance(&mut touched.iter().copied().filter(alive), most.div_ceil(2));
    let others = by_chance(&mut (0..rows.len() as u32).filter(alive).filter(|user| !chosen.contains(user)), most - chosen.len());
    chosen.extend(others);
    chosen.into_iter().collect()
}

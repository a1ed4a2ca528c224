use clap::Parser;

use super::world::tastes;
use super::*;
use crate::cli::Exit;
use crate::config::Sources;
use crate::model::unlearn::Unwatched;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: EvaluateArgs,
}

fn parsed(options: &[&str]) -> Result<EvaluateArgs, clap::Error> {
    Command::try_parse_from(std::iter::once("evaluate").chain(options.iter().copied())).map(|command| command.args)
}

fn config(settings: &[(&str, &str)]) -> Config {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Config::load(&Sources { overrides: settings, ..Sources::default() }).unwrap()
}

fn refused(text: &str, options: &[&str], settings: &[(&str, &str)]) -> CliError {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plays.csv");
    std::fs::write(&path, text).unwrap();
    let options: Vec<&str> = ["--data", path.to_str().unwrap()].into_iter().chain(options.iter().copied()).collect();
    run(&config(settings), &parsed(&options).unwrap()).unwrap_err()
}

fn params(objective: Objective, rank: usize) -> Params {
    let settings = config(&[]).model;
    Params { objective, rank, regularization: 0.1, tolerance: 1e-6, ..settings }
}

fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn a_model_finds_tastes_that_popularity_does_not_know() {
    let part = split(&tastes(1, 200, 60), Stage::Test);
    let data = tastes(1, 200, 60);
    let strong = Params { regularization: 0.3, ..params(Objective::Implicit, 8) };
    let model = train(&data, &part, &strong, &Unwatched).unwrap();
    assert!(model.facts.residual <= 1e-6 && model.facts.effective_rank.unwrap() < 8, "{:?}", model.facts);
    let value = |scores: &dyn Scores| metrics::estimate(Metric::Ndcg, &rank(scores, &part, 10).outcomes).unwrap();
    let (als, popularity, knn) = (value(&model), value(&Popularity::new(&part)), value(&ItemKnn::new(&part)));
    assert!(als.value > popularity.value + als.margin, "{als:?} {popularity:?}");
    assert!(knn.value > popularity.value + knn.margin, "{knn:?} {popularity:?}");
}

#[test]
fn scores_are_products_of_factors_and_ratings_stand_on_the_mean() {
    let data = tastes(2, 130, 30);
    let part = split(&data, Stage::Test);
    let model = train(&data, &part, &params(Objective::Explicit, 4), &Unwatched).unwrap();
    let mut out = vec![f64::NAN; part.users * part.items];
    // Blocks that do not begin at 0, too.
    for users in [0..64, 64..part.users] {
        let range = users.start * part.items..users.end * part.items;
        model.fill(users, &mut out[range]);
    }
    for (user, row) in out.chunks(part.items).enumerate() {
        for (item, &score) in row.iter().enumerate() {
            let rating = model.rating(user, item).unwrap();
            assert!((score + part.ratings.mean() - rating).abs() < 1e-12, "{user} {item}");
        }
    }
    let implicit = train(&data, &part, &params(Objective::Implicit, 4), &Unwatched).unwrap();
    assert_eq!(implicit.rating(0, 0), None);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let data = tastes(4, 200, 40);
    let part = split(&data, Stage::Validation);
    let loose = Params { tolerance: 1e-3, ..params(Objective::Explicit, 6) };
    let all = |threads| {
        in_pool(threads, || {
            let model = train(&data, &part, &loose, &Unwatched).unwrap();
            let lists = [&model as &dyn Scores, &ItemKnn::new(&part), &Biases::new(&part)].map(|scores| rank(scores, &part, 5));
            (lists, model.facts.sweeps, model.facts.residual.to_bits())
        })
    };
    let one = all(1);
    assert_eq!(one, all(2));
    assert_eq!(one, all(5));
}

#[test]
fn a_held_out_value_changes_nothing_that_is_learnt() {
    let part = |value: f32| {
        let mut pairs: Vec<_> = (0..20).flat_map(|user| (0..6).map(move |item| (user, (item + user) % 9, 3.0, i64::from(item)))).collect();
        pairs.push((0, 8, value, 99));
        let data = world::data(&pairs);
        let part = split(&data, Stage::Test);
        let model = train(&data, &part, &params(Objective::Explicit, 3), &Unwatched).unwrap();
        (model.rating(0, 8).unwrap().to_bits(), Biases::new(&part).rating(0, 8).unwrap().to_bits(), part.held[0].unwrap().value)
    };
    let (low, high) = (part(1.0), part(5.0));
    assert_eq!((low.0, low.1), (high.0, high.1));
    assert_eq!((low.2, high.2), (1.0, 5.0), "the test itself sees it");
}

#[test]
fn data_that_cannot_be_split_are_refused_by_name() {
    let single = "user,item,value,time\nu,a,1,1700000000000\nv,a,1,1700000000000\nu,a,1,1700000001000\n";
    let error = refused(single, &[], &[]);
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.message.contains("2 users with 2 pairs") && error.message.contains("two different items"), "{}", error.message);
    let error = refused("user,item,value,time\n", &[], &[]);
    assert!(error.message.contains("0 users with 0 pairs"), "{}", error.message);
    let two = "user,item,value,time\nu,a,1,1700000000000\nu,b,1,1700000000001\nv,a,1,1700000000000\n";
    let error = refused(two, &["--rank", "2,3"], &[]);
    assert!(error.message.contains("three different items"), "{}", error.message);
    let error = refused(two, &["--metric", "rmse"], &[]);
    assert!(error.exit == Exit::Usage && error.message.contains("explicit"), "{}", error.message);
}

#[test]
fn one_point_and_searches_of_both_objectives_go_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plays.csv");
    let rows: String =
        (0..40).flat_map(|user| (0..6).map(move |at| (user, at))).fold("user,item,value,time\n".to_owned(), |text, (user, at)| {
            text + &format!("u{user},i{},{},{}\n", (user * 7 + at * at) % 13, at % 5 + 1, 1_700_000_000_000i64 + at)
        });
    std::fs::write(&path, rows).unwrap();
    let file = path.to_str().unwrap();
    for (objective, options, searched) in [
        ("implicit", &["--json"][..], false),
        ("implicit", &["--rank", "2,4", "--alpha", "1,2", "-n", "3"], true),
        ("explicit", &["--search", "--rank", "4", "--trials", "3", "--no-baselines"], true),
        ("explicit", &["--regularization", "0.1,0.2", "--metric", "recall", "--json"], true),
    ] {
        let options: Vec<&str> = ["--data", file].into_iter().chain(options.iter().copied()).collect();
        let settings = [("model.objective", objective), ("model.rank", "4"), ("model.max_sweeps", "100")];
        let found = find(&config(&settings), &parsed(&options).unwrap()).unwrap();
        let best = |board: &Value| -> Vec<Value> {
            let models = board["models"].as_array().unwrap();
            models.iter().filter(|line| line["best"] == true).map(|line| line["model"].clone()).collect()
        };
        assert_eq!(best(&found["test"]), [found["chosen"].clone()]);
        assert_eq!(found["validation"].is_object(), searched);
        if searched {
            assert_eq!(best(&found["validation"]), [found["chosen"].clone()]);
            assert_eq!(
                found["validation"]["split"]["training_pairs"].as_u64().unwrap() + 40,
                found["test"]["split"]["training_pairs"].as_u64().unwrap()
            );
        }
    }
}

#[test]
fn options_about_a_file_ask_for_the_file() {
    assert!(parsed(&[]).is_ok());
    for options in
        [&["--time-unit", "s"][..], &["--no-value"], &["-n", "0"], &["--tolerance", "0"], &["--tolerance", "nan"], &["--metric", "auc"]]
    {
        assert_eq!(parsed(options).unwrap_err().exit_code(), Exit::Usage as i32, "{options:?}");
    }
}

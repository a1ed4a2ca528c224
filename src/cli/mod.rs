//! The commands: what can be asked for, and which exit code the answer gets. One file per command.
//!
//! Arguments come in twice: as clap reads them (the `…Args` types) and, where more must hold than a type can say, as
//! what the command has checked (for example [`forget::Order`]).

pub mod audit;
pub mod backup;
pub mod config;
pub mod demo;
pub mod evaluate;
pub mod export_model;
pub mod forget;
pub mod import_model;
pub mod keys;
mod notify;
pub mod npy;
pub mod output;
pub mod purge;
pub mod reading;
pub mod receipt;
pub mod recommend;
pub mod restore;
pub mod run;
pub mod send;
pub mod shell;
pub mod similar;
pub mod status;
pub mod topics;
pub mod verify;
mod watch;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, Sources, assignment};
use crate::kafka::client::{ClientSettings, check_properties};

/// How a command ended, as the shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// It was tried and did not succeed, or a check came out negative.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// Another process holds the state directory.
    StateInUse = 3,
    /// The state is damaged or of an unknown version; nothing was written.
    StateDamaged = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not end with [`Exit::Done`]: what was tried, on what, and what to do, in words for whoever typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    pub exit: Exit,
    pub message: String,
}

impl CliError {
    pub fn new(exit: Exit, message: impl Display) -> CliError {
        CliError { exit, message: message.to_string() }
    }

    pub fn failed(message: impl Display) -> CliError {
        CliError::new(Exit::Failed, message)
    }

    pub fn usage(message: impl Display) -> CliError {
        CliError::new(Exit::Usage, message)
    }
}

const EXAMPLES: &str = "\
Examples:
  nepenthe demo                                      see the whole way, nothing needed
  nepenthe topics --brokers localhost:9092           create the topics
  nepenthe run --brokers localhost:9092 --state ./state
  nepenthe send ratings.csv --time-unit s            events in
  nepenthe recommend u7 -n 10                        what the model says now
  nepenthe forget --user u7 --wait published         and forget
  nepenthe status --watch                            where everything stands

Exit codes:
  0 done   1 failed   2 usage or configuration   3 state directory in use   4 state damaged or of an unknown version";

/// Keeps a matrix-factorisation recommender fresh and able to forget.
#[derive(Debug, Parser)]
#[command(name = "nepenthe", version, after_help = EXAMPLES, max_term_width = 100, propagate_version = true)]
#[command(infer_subcommands = false, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
struct Global {
    /// TOML file; what it leaves out keeps its default
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Kafka brokers, host:port, comma separated (kafka.brokers)
    #[arg(long, global = true, value_name = "LIST")]
    brokers: Option<String>,
    /// State directory (store.path)
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<String>,
    /// Any configuration key, such as model.rank=32; may be repeated
    // Taken apart later: clap repeats what it refuses, and it may be a secret.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Say more on stderr; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

impl Global {
    /// What the options say about the configuration, the later before the earlier.
    ///
    /// # Errors
    /// [`ConfigError::NotAnAssignment`].
    fn overrides(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let set = self.set.iter().map(|text| assignment(text)).collect::<Result<Vec<_>, _>>()?;
        let short = [("kafka.brokers", &self.brokers), ("store.path", &self.state)];
        let short = short.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        let level = match self.verbose {
            0 => None,
            1 => Some("debug"),
            _ => Some("trace"),
        };
        let level = level.map(|level| ("log.level".to_owned(), level.to_owned()));
        Ok(level.into_iter().chain(set).chain(short).collect())
    }
}

fn top_n() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u16).range(1..=1000).map(usize::from)
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    #[command(after_help = "\
Examples:
  nepenthe run --brokers localhost:9092 --state ./state
  nepenthe run --config /etc/nepenthe.toml -v
  nepenthe run --set model.rank=32 --set http.listen=127.0.0.1:0

SIGTERM and SIGINT end it in order; SIGHUP reads the level of the log anew. Its pages are at http.listen.")]
    Run,
    /// Show the whole way on an embedded broker with generated data
    Demo(demo::DemoArgs),
    /// Create or check the topics with the settings that erasure needs
    Topics(topics::TopicsArgs),
    /// Send interactions from CSV, TSV or JSON lines into the topic
    Send(send::SendArgs),
    /// Ask for something to be forgotten, and wait for it if you like
    Forget(forget::ForgetArgs),
    /// Top items for a user
    Recommend(RecommendArgs),
    /// Items most like an item
    Similar(SimilarArgs),
    /// Generation, lag, pending forgets, sizes, certificate
    Status(StatusArgs),
    /// Make the bytes of published forgets disappear, while no service runs
    Purge(purge::PurgeArgs),
    /// Copy the state, whether or not the service runs
    Backup(backup::BackupArgs),
    /// Make a state directory from a backup; what was forgotten since stays forgotten
    Restore(restore::RestoreArgs),
    /// Read factors and generations from the broker and recompute the digest
    Verify(verify::VerifyArgs),
    /// List the public keys that receipts are signed with, or make a new signing key
    Keys(keys::KeysArgs),
    /// Check the signatures of receipts, or save one as files that other tools can check
    Receipt(receipt::ReceiptArgs),
    /// Prove that something was forgotten: data, fixed point, retrain, membership inference
    Audit(audit::AuditArgs),
    /// How well the model predicts, and a search for better settings
    Evaluate(evaluate::EvaluateArgs),
    /// Go on from factors that were trained elsewhere
    ImportModel(import_model::ImportModelArgs),
    /// Write the factors as files that other tools read
    ExportModel(export_model::ExportModelArgs),
    /// Print the effective configuration, secrets hidden
    Config(ConfigArgs),
    /// Print what completes commands and options in a shell
    Completions(shell::CompletionsArgs),
    /// Write the pages of the manual
    Man(shell::ManArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  nepenthe recommend u7\n  nepenthe recommend u7 -n 20 --from-topic --json")]
pub struct RecommendArgs {
    /// Whose
    pub user: String,
    /// How many, 1 to 1000
    #[arg(short, long = "number", value_name = "N", default_value_t = 10, value_parser = top_n())]
    pub n: usize,
    /// Read the factors topic instead of the state directory
    #[arg(long)]
    pub from_topic: bool,
    /// JSON on stdout
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  nepenthe similar i42\n  nepenthe similar i42 -n 5 --json")]
pub struct SimilarArgs {
    /// To which item
    pub item: String,
    /// How many, 1 to 1000
    #[arg(short, long = "number", value_name = "N", default_value_t = 10, value_parser = top_n())]
    pub n: usize,
    /// Read the factors topic instead of the state directory
    #[arg(long)]
    pub from_topic: bool,
    /// JSON on stdout
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe status --state ./state
  nepenthe status --watch --every 5s                in place, until Ctrl-C
  nepenthe status --watch --json >> status.jsonl    a line each time
  nepenthe status --json | jq .forgets.pending")]
pub struct StatusArgs {
    /// JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// Also hash the interactions, to compare two stores bit for bit (reads all of them)
    #[arg(long, conflicts_with = "watch")]
    pub data_digest: bool,
    /// Look again and again: in place on a terminal, a line each time elsewhere; Ctrl-C ends it
    #[arg(long)]
    pub watch: bool,
    /// How long between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = forget::duration, requires = "watch")]
    pub every: Duration,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe config                          TOML that can be a file
  nepenthe config --check --config /etc/nepenthe.toml
  nepenthe config --json | jq .model")]
pub struct ConfigArgs {
    /// Only validate; print nothing but errors
    #[arg(long)]
    pub check: bool,
    /// JSON instead of TOML
    #[arg(long)]
    pub json: bool,
}

/// Reads the command line, does what it says, and tells how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => {
            // Nobody reads it when the pipe is gone: the exit code still tells.
            let _ = refused.print();
            return ExitCode::from(u8::try_from(refused.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    match dispatch(cli) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            output::error(&error.message);
            error.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    // What needs no configuration is not in the way of one that is wrong.
    match &cli.command {
        Command::Demo(args) => return demo::run(args.clone()),
        Command::Completions(args) => return shell::completions(args),
        Command::Man(args) => return shell::man(args),
        _ => (),
    }
    let overrides = cli.global.overrides().map_err(CliError::usage)?;
    let sources = Sources::from_process(cli.global.config.clone(), overrides).map_err(CliError::usage)?;
    let config = Config::load(&sources).map_err(CliError::usage)?;
    if !matches!(cli.command, Command::Run) {
        log_to_stderr(cli.global.verbose);
    }
    match cli.command {
        Command::Run => run::run(config, &sources),
        Command::Demo(args) => demo::run(args),
        Command::Topics(args) => topics::run(&config, &args),
        Command::Send(args) => send::run(&config, &args),
        Command::Forget(args) => forget::run(&config, &args),
        Command::Recommend(args) => recommend::run(&config, args),
        Command::Similar(args) => similar::run(&config, args),
        Command::Status(args) => status::run(&config, &args),
        Command::Purge(args) => purge::run(&config, &args),
        Command::Backup(args) => backup::run(&config, &args),
        Command::Restore(args) => restore::run(&config, &args),
        Command::Verify(args) => verify::run(&config, &args),
        Command::Keys(args) => keys::run(&config, &args),
        Command::Receipt(args) => receipt::run(&config, &args),
        Command::Audit(args) => audit::run(&config, &args),
        Command::Evaluate(args) => evaluate::run(&config, &args),
        Command::ImportModel(args) => import_model::run(&config, &args),
        Command::ExportModel(args) => export_model::run(&config, &args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::Config(args) => output::written(config::run(&config, args.check, args.json)),
    }
}

/// The log of a client command: quiet unless asked, since its errors are printed anyway. The service sets up its own.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(level)).with_writer(std::io::stderr);
    // Refused only where a test has set up a log already.
    let _ = subscriber.with_ansi(output::colour(output::Stream::Err)).try_init();
}

/// How to reach the broker, for the commands that talk to it.
///
/// # Errors
/// Exit 2 for properties that may not be set.
fn client_settings(config: &Config) -> Result<ClientSettings, CliError> {
    check_properties(&config.kafka.properties).map_err(CliError::usage)?;
    Ok(ClientSettings {
        brokers: config.kafka.brokers.clone(),
        group: config.kafka.group.clone(),
        properties: config.kafka.properties.clone(),
    })
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;

#[cfg(test)]
mod broker_tests;

#[cfg(test)]
mod state_tests;

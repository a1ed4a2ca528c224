//! `nepenthe completions` and `nepenthe man`: for shells and manuals, from the same definitions as the help.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output;
use super::{Cli, CliError};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe completions bash > /etc/bash_completion.d/nepenthe
  nepenthe completions zsh > ~/.zfunc/_nepenthe                     with ~/.zfunc in fpath, before compinit
  nepenthe completions fish > ~/.config/fish/completions/nepenthe.fish")]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe man /usr/local/share/man/man1          one page a command; then: man nepenthe-forget
  nepenthe man ./man && man ./man/nepenthe.1")]
pub struct ManArgs {
    /// Directory of the pages; made when missing
    to: PathBuf,
}

/// Prints what completes commands and options in a shell.
///
/// # Errors
/// When stdout cannot take it.
pub fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nepenthe", &mut script);
    output::out(&String::from_utf8_lossy(&script))
}

/// Writes the manual's pages, section 1: of the program, and of each command and what is below it.
///
/// # Errors
/// Exit 1 when the directory cannot be written to.
pub fn man(args: &ManArgs) -> Result<(), CliError> {
    let to = args.to.display();
    let failed = |error: std::io::Error| CliError::failed(format!("cannot write the pages to {to}: {error}; name another directory"));
    std::fs::create_dir_all(&args.to).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.to).map_err(failed)?;
    output::note(&format!("the pages are in {to}; man {to}/nepenthe.1 shows the first"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { to: dir.path().join("new/man1") }).unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join(format!("new/man1/{name}.1"))).unwrap();
        for command in Cli::command().get_subcommands() {
            let page = page(&format!("nepenthe-{}", command.get_name()));
            assert!(page.contains(".SH NAME") && page.contains("Example"), "{}", command.get_name());
        }
        assert!(page("nepenthe-receipt-verify").contains("signature") && page("nepenthe").contains("Exit codes"));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(man(&ManArgs { to: file }).unwrap_err().message.contains("another directory"));
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "nepenthe", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}

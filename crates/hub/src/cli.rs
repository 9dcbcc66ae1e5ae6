//! The binary `palisade`: arguments in, one clear sentence and an exit code out.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

mod asked;
mod connections;
mod demo;
mod destinations;
mod dismiss;
mod doctor;
mod emulate;
mod export;
mod found;
mod given_up;
mod halts;
mod inbox;
mod keys;
mod out;
mod outbox;
mod place;
mod records;
mod replay;
mod runs;
mod schedules;
mod serve;
mod signal;
mod sync;
mod verify;

/// What the help of the whole program shows.
const BEGIN: &str = "\
Examples:
  palisade demo                       # all of it, without an account or a configuration
  palisade keys init master.key       # then write palisade.toml: docs/palisade.example.toml explains every key
  palisade doctor                     # says what is missing
  palisade serve
  palisade completions bash           # source <(palisade completions bash)

Commands that look into a hub or tell it something open the database that --config names, whether a hub serves from it or
not. With --json they write one JSON document on one line, and what goes wrong on standard error.

Exit codes: 0 done; 1 the answer is no; 2 wrong arguments or configuration; 3 the machine refuses (port, disk, database).";

/// What the help of the completions shows.
const SHELLS: &str = "\
Examples:
  palisade completions bash           # source <(palisade completions bash)
  palisade completions zsh            # into a file _palisade on $fpath
  palisade completions fish           # into ~/.config/fish/completions/palisade.fish";

/// The fence between a product and the third-party APIs it depends on.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, about, arg_required_else_help = true, after_help = BEGIN)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tells the whole story against an emulated provider: no account, no network, no set-up.
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Arguments),
    /// Runs the hub.
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Arguments),
    /// Shows the accounts that are connected; pauses and resumes them.
    #[command(subcommand, after_help = connections::EXAMPLES)]
    Connections(connections::Command),
    /// Shows events and what became of them; pauses and resumes their handling.
    #[command(subcommand, after_help = inbox::EXAMPLES)]
    Inbox(inbox::Command),
    /// Shows calls that are kept until they are made, and decides about them.
    #[command(subcommand, after_help = outbox::EXAMPLES)]
    Outbox(outbox::Command),
    /// Shows the URLs events are forwarded to, makes and changes them.
    #[command(subcommand, after_help = destinations::EXAMPLES)]
    Destinations(destinations::Command),
    /// Shows how often runs and chores come, and when next.
    #[command(subcommand, after_help = schedules::EXAMPLES)]
    Schedules(schedules::Command),
    /// Shows executions of syncs, what they met on their way, and decides about their deletions.
    #[command(subcommand, after_help = runs::EXAMPLES)]
    Runs(runs::Command),
    /// Shows what is stored of a stream, or one record of it.
    #[command(after_help = records::EXAMPLES)]
    Records(records::Arguments),
    /// Brings a connection up to date now; pauses, resumes or resets a stream.
    #[command(after_help = sync::EXAMPLES)]
    Sync(sync::Arguments),
    /// Has events that are here by now handled again, or shows what that would do.
    #[command(after_help = replay::EXAMPLES)]
    Replay(replay::Arguments),
    /// Writes a stream to a file: JSON Lines, CSV or Parquet.
    #[command(after_help = export::EXAMPLES)]
    Export(export::Arguments),
    /// Makes, shows and rotates the master keys that seal credentials.
    #[command(subcommand, after_help = keys::EXAMPLES)]
    Keys(keys::Command),
    /// Runs an offline stand-in for a provider.
    #[command(subcommand, after_help = emulate::EXAMPLES)]
    Emulate(emulate::Provider),
    /// Says why a webhook signature is valid or not.
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::Arguments),
    /// Checks that everything the hub needs is in place.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Arguments),
    /// Writes the completions of a shell: bash, zsh or fish.
    #[command(after_help = SHELLS)]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// A shell that completes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Writes the completions of a shell.
fn completions(shell: Shell) {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "palisade", &mut script);
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&script).and_then(|()| out.flush());
}

/// Why a command ended without success: what to tell, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// The answer of the command is "no"; it has said why on its own.
    pub(crate) fn negative() -> Self {
        Self { code: 1, text: String::new() }
    }

    /// The answer of the command is "no": what was asked for is not there, or did not end well.
    pub(crate) fn no(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// The arguments, the configuration or a secret are wrong.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    /// The machine refuses: port, disk, database, permissions.
    pub(crate) fn machine(text: impl Into<String>) -> Self {
        Self { code: 3, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Runs the command line and returns its exit code: 0 done, 1 the answer is no, 2 wrong arguments or configuration,
/// 3 the machine refuses.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors: clap prints them to stdout and says so in the code.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let done = match arguments.command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Emulate(provider) => emulate::run(provider),
        Command::Connections(command) => connections::run(&command),
        Command::Inbox(command) => inbox::run(&command),
        Command::Runs(command) => runs::run(&command),
        Command::Records(arguments) => records::run(&arguments),
        Command::Sync(arguments) => sync::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Outbox(command) => outbox::run(&command),
        Command::Destinations(command) => destinations::run(&command),
        Command::Schedules(command) => schedules::run(&command),
        Command::Export(arguments) => export::run(&arguments),
        Command::Keys(command) => keys::run(&command),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Completions { shell } => {
            completions(shell);
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                let _ = writeln!(std::io::stderr().lock(), "palisade: {failure}");
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Writes one line to stdout. A reader that went away is not our failure.
pub(crate) fn say(line: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Makes the runtime of a command.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::machine(format!("the runtime cannot start: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::Command as Known;

    use super::*;

    /// Splits a line as a shell does: by spaces, but for those in single quotes; up to a comment or a pipe.
    fn words(line: &str) -> Vec<OsString> {
        let mut words = Vec::new();
        let mut quoted = false;
        let mut word = String::new();
        for c in line.chars().chain([' ']) {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted && !word.is_empty() => words.push(std::mem::take(&mut word)),
                ' ' if !quoted => {}
                c => word.push(c),
            }
        }
        words.into_iter().take_while(|word| word != "#" && word != "|").map(OsString::from).collect()
    }

    fn leaves(command: &Known, path: &str) -> Vec<(String, Known)> {
        let own = (path.to_owned(), command.clone());
        let under = command.get_subcommands().flat_map(|one| leaves(one, &format!("{path} {}", one.get_name())));
        let positional = command.get_positionals().next().is_some();
        let itself = (positional || !command.has_subcommands()).then_some(own);
        itself.into_iter().chain(under).collect()
    }

    // Fails when a command has no example in its help, or an example is one that the program does not take.
    #[test]
    fn every_command_shows_examples_that_it_takes() {
        let all = Arguments::command();
        for command in std::iter::once(&all).chain(all.get_subcommands()) {
            let name = command.get_name();
            let help = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
            assert!(help.starts_with("Examples:\n"), "{name}");
            let examples: Vec<_> = help.lines().filter(|line| line.starts_with("  palisade ")).collect();
            assert!(!examples.is_empty(), "{name}");
            for example in examples {
                if let Err(error) = Arguments::try_parse_from(words(example)) {
                    panic!("{example}: {error}");
                }
                assert!(example.contains(name), "{example} under {name}");
            }
        }
    }

    // Fails when a command that tells facts can tell them to people only.
    #[test]
    fn every_command_that_tells_facts_tells_them_as_json() {
        const OTHERS: [&str; 9] = [
            "palisade serve",
            "palisade completions",
            "palisade verify",
            "palisade emulate stripe",
            "palisade emulate slack",
            "palisade emulate google",
            "palisade emulate twilio",
            "palisade emulate sendgrid",
            "palisade help",
        ];
        let leaves = leaves(&Arguments::command(), "palisade");
        assert!(leaves.len() > 40, "{}", leaves.len());
        for (path, command) in leaves {
            let json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
            assert_eq!(json, !OTHERS.contains(&path.as_str()), "{path}");
        }
    }

    // Fails when clap finds two arguments of one name, or a default that is not taken.
    #[test]
    fn the_arguments_do_not_contradict_one_another() {
        Arguments::command().debug_assert();
    }
}

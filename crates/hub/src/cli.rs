//! The binary `palisade`: arguments in, one clear sentence and an exit code out.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

mod connections;
mod demo;
mod destinations;
mod dismiss;
mod doctor;
mod emulate;
mod export;
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

/// The fence between a product and the third-party APIs it depends on.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tells the whole story against an emulated provider: no account, no network, no set-up.
    Demo(demo::Arguments),
    /// Runs the hub.
    Serve(serve::Arguments),
    /// Shows the accounts that are connected; pauses and resumes them.
    #[command(subcommand)]
    Connections(connections::Command),
    /// Shows events and what became of them; pauses and resumes their handling.
    #[command(subcommand)]
    Inbox(inbox::Command),
    /// Shows calls that are kept until they are made, and decides about them.
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Shows the URLs events are forwarded to, makes and changes them.
    #[command(subcommand)]
    Destinations(destinations::Command),
    /// Shows how often runs and chores come, and when next.
    #[command(subcommand)]
    Schedules(schedules::Command),
    /// Shows executions of syncs.
    #[command(subcommand)]
    Runs(runs::Command),
    /// Shows what is stored of a stream, or one record of it.
    Records(records::Arguments),
    /// Brings a connection up to date now; pauses, resumes or resets a stream.
    Sync(sync::Arguments),
    /// Has events handled again, or shows what that would do.
    Replay(replay::Arguments),
    /// Writes a stream to a file: JSON Lines, CSV or Parquet.
    Export(export::Arguments),
    /// Makes, shows and rotates the master keys that seal credentials.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Runs an offline stand-in for a provider.
    #[command(subcommand)]
    Emulate(emulate::Provider),
    /// Says why a webhook signature is valid or not.
    Verify(verify::Arguments),
    /// Checks that everything the hub needs is in place.
    Doctor(doctor::Arguments),
    /// Writes the completions of a shell: bash, zsh or fish.
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

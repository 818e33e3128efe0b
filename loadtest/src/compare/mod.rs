//! `compare`: runs one scenario against two or more brokers, in turns. Each round starts a broker
//! of its own. The scenario has a process of its own too, so that rounds do not influence each
//! other.

mod broker;
mod outcome;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser as _};

use crate::child_process;
use crate::cli::{Cli, Task};
use crate::context::command_line;
use broker::{BrokerProcess, BrokerSpec};
use outcome::Outcome;
use table::Comparison;

/// Runs one scenario against two or more brokers in turns. Each round starts a fresh broker.
///
/// Exit status: 0 no faults, 1 faults were counted or a round failed, 2 all rounds of a broker
/// failed.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  midge-loadtest compare --rounds 5 --broker-cpu 0 \\\n    \
    --broker 'mosquitto@1884=mosquitto -c m.conf' --broker 'midge@1883=midge serve --config m.toml' \\\n    \
    -- fan-out --subscribers 500 --cpu 1")]
pub(crate) struct Compare {
    /// A broker to compare, as NAME@PORT=COMMAND. The command must run the broker in the
    /// foreground, listening on 127.0.0.1:PORT. Quote its arguments as for a shell. Set its
    /// environment with `env NAME=VALUE` before it. Must be given at least twice.
    #[arg(long = "broker", required = true, value_name = "NAME@PORT=COMMAND", value_parser = BrokerSpec::parse)]
    brokers: Vec<BrokerSpec>,
    /// Number of rounds. Each broker runs once in each round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Name of the broker to compare the others with. Default: the first.
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// CPUs that the brokers may use, such as 0 or 0,1. For the harness, use the scenario's --cpu.
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    broker_cpu: Vec<usize>,
    /// Print the result, with the report of every round, as one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Write an HTML page for each round into this folder.
    #[arg(long, value_name = "FOLDER")]
    reports: Option<PathBuf>,
    /// Print no progress to standard error.
    #[arg(long)]
    quiet: bool,
    /// The scenario with its flags, except --host, --port, --broker-pid, --json, --report and
    /// --quiet, which are set automatically.
    #[arg(last = true, required = true, value_name = "SCENARIO")]
    scenario: Vec<OsString>,
}

/// The run of one broker in one round.
#[derive(Debug)]
pub(crate) struct BrokerRun {
    /// Index of the broker.
    broker: usize,
    /// Starts at 1.
    round: u32,
    result: Result<Outcome, String>,
}

const EXIT_FAULTS: u8 = 1;
const EXIT_NO_RUN: u8 = 2;

pub(crate) fn run(flags: &Compare) -> ExitCode {
    let baseline = match check(flags) {
        Ok(baseline) => baseline,
        Err(error) => {
            eprintln!("midge-loadtest: {error}");
            return ExitCode::from(EXIT_NO_RUN);
        }
    };
    let mut runs = Vec::new();
    for round in 1..=flags.rounds {
        for (at, broker) in flags.brokers.iter().enumerate() {
            let print = |text: &str| {
                if !flags.quiet {
                    eprintln!("round {round}/{}  {}: {text}", flags.rounds, broker.name);
                }
            };
            print("running");
            let result = run_round(flags, broker, round);
            match &result {
                Ok(outcome) => print(&outcome.summary()),
                Err(error) => print(&format!("FAILED: {error}")),
            }
            runs.push(BrokerRun { broker: at, round, result });
        }
    }
    let scenario = command_line(flags.scenario.iter().map(|word| word.to_string_lossy().into_owned()));
    let comparison = Comparison::new(&flags.brokers, baseline, &scenario, runs);
    if flags.json {
        println!("{}", comparison.json());
    } else {
        println!("{}", comparison.table());
    }
    match () {
        () if comparison.has_broker_without_result() => ExitCode::from(EXIT_NO_RUN),
        () if comparison.has_faults() => ExitCode::from(EXIT_FAULTS),
        () => ExitCode::SUCCESS,
    }
}

/// Checks the flags before any broker is started. Returns the index of the baseline.
fn check(flags: &Compare) -> Result<usize, String> {
    let names: Vec<&str> = flags.brokers.iter().map(|broker| broker.name.as_str()).collect();
    if names.len() < 2 {
        return Err("compare needs at least two brokers".to_owned());
    }
    if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        return Err(format!("two brokers are named {}", twice.1));
    }
    let mut arguments = vec![OsString::from("midge-loadtest")];
    arguments.extend(flags.scenario.iter().cloned());
    arguments.extend(fixed_arguments(&flags.brokers[0], std::process::id()));
    match Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.task {
        Task::Run(scenario) if scenario.common().report.is_some() => {
            return Err(
                "every round would overwrite the file of --report; use --reports FOLDER before --".to_owned()
            );
        }
        Task::Run(scenario) => scenario.common().check()?,
        Task::Compare(_) | Task::RunChild(_) => {
            return Err("the arguments after -- must be a scenario".to_owned());
        }
    }
    if let Some(folder) = &flags.reports {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let Some(baseline) = &flags.baseline else { return Ok(0) };
    names.iter().position(|name| name == baseline).ok_or_else(|| format!("no broker is named {baseline}"))
}

/// The arguments that a round adds to its scenario.
fn fixed_arguments(broker: &BrokerSpec, pid: u32) -> Vec<OsString> {
    let (port, pid) = (broker.port.to_string(), pid.to_string());
    let fixed = ["--host", "127.0.0.1", "--port", &port, "--broker-pid", &pid, "--json", "--quiet"];
    fixed.into_iter().map(OsString::from).collect()
}

/// Starts the broker, runs the scenario, and stops the broker.
fn run_round(flags: &Compare, spec: &BrokerSpec, round: u32) -> Result<Outcome, String> {
    let mut broker = BrokerProcess::start(spec, &flags.broker_cpu)?;
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut arguments = vec![program.into_os_string()];
    arguments.extend(flags.scenario.iter().cloned());
    arguments.extend(fixed_arguments(spec, broker.pid()));
    if let Some(folder) = &flags.reports {
        arguments
            .extend(["--report".into(), folder.join(format!("{}-{round}.html", spec.file_name())).into()]);
    }
    let output = child_process::command(&arguments, &[]).and_then(|mut command| command.output());
    let output = output.map_err(|error| format!("the scenario: {error}"))?;
    // The check comes before the broker is stopped, and before its end would look like an error of
    // the scenario.
    broker.check()?;
    if output.status.code().is_none_or(|code| code >= i32::from(EXIT_NO_RUN)) {
        let message = String::from_utf8_lossy(&output.stderr);
        let message = message.trim().trim_start_matches("midge-loadtest: ");
        return Err(if message.is_empty() { output.status.to_string() } else { message.to_owned() });
    }
    let mut outcome = Outcome::parse(&output.stdout)?;
    if !broker.stop() {
        outcome.marks.push("the broker did not end on SIGTERM and was killed".to_owned());
    }
    Ok(outcome)
}

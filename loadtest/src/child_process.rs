//! `hold`, hidden: the moment between `compare` and a process that it starts. It asks the kernel to
//! kill the process when `compare` ends, however that happens, keeps it on the wanted CPUs, and
//! becomes the command. Both survive the exec, and the process id stays the same.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The name of the subcommand.
pub(crate) const SUBCOMMAND: &str = "hold";

#[derive(Args, Debug)]
#[command(hide = true)]
pub(crate) struct RunChild {
    /// Process that the command must not outlive.
    #[arg(long)]
    parent: i32,
    /// CPUs that the command may use; all that this process may, when none is given.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// A command that runs `program` as a child that dies with this process, on `cpus` if there are any.
///
/// # Errors
/// The path of this program can't be found.
pub(crate) fn command(program: &[OsString], cpus: &[usize]) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([SUBCOMMAND, "--parent", &std::process::id().to_string()]);
    if !cpus.is_empty() {
        let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
        command.args(["--cpus", &cpus.join(",")]);
    }
    command.arg("--").args(program);
    Ok(command)
}

/// Becomes the command; returns only if that fails, with the reason.
pub(crate) fn run(flags: &RunChild) -> String {
    // KILL, for a broker that takes its time to end would be left behind.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return format!("PR_SET_PDEATHSIG: {error}");
    }
    // Ended before the line above: nobody would ever kill the command.
    if getppid() != Pid::from_raw(flags.parent) {
        return "the process that started this is gone".to_owned();
    }
    if !flags.cpus.is_empty()
        && let Err(error) = crate::net::pin(&flags.cpus)
    {
        return format!("CPUs {:?}: {error}", flags.cpus);
    }
    let [program, arguments @ ..] = flags.command.as_slice() else { return "no command".to_owned() };
    let error = Command::new(program).args(arguments).exec();
    format!("{}: {error}", program.display())
}

//! The hidden subcommand that `compare` starts each of its child processes with. It asks the kernel
//! to kill the process when `compare` ends for any reason, pins the process to the wanted CPUs, and
//! executes the command in its place. Both settings survive the exec, and the process id stays the
//! same.

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
    /// CPUs that the command may use. Without it, all CPUs of this process.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// A command that runs `program` as a child that ends with this process, on `cpus` if there are
/// any.
///
/// # Errors
/// The path of this program is unknown.
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

/// Executes the command in place of this process. Returns the reason if this fails.
pub(crate) fn run(flags: &RunChild) -> String {
    // SIGKILL, because a broker that ends slowly would stay behind after SIGTERM.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return format!("PR_SET_PDEATHSIG: {error}");
    }
    // If the parent ended before the line above, nothing would ever kill the command.
    if getppid() != Pid::from_raw(flags.parent) {
        return "the parent process has ended".to_owned();
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

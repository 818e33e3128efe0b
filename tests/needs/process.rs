//! Processes with a bound on their time. Their output goes to files, so that no pipe can fill up.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The result of a process.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// Standard output, then standard error. Text that is not UTF-8 is replaced.
    pub(crate) output: String,
}

/// Runs the command to its end. If it takes longer than `seconds_max`, kills it and adds this to the output.
///
/// # Errors
/// It can't be started, for example because the program is not installed.
pub(crate) fn run(command: &mut Command, folder: &Path, seconds_max: u64) -> std::io::Result<Finished> {
    let (out, err) = (unique(folder, "out"), unique(folder, "err"));
    let child =
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?).spawn()?;
    let (status, in_time) = wait(Killed(child), Duration::from_secs(seconds_max));
    let mut output = String::from_utf8_lossy(&fs::read(&out)?).into_owned();
    output.push_str(&String::from_utf8_lossy(&fs::read(&err)?));
    fs::remove_file(out)?;
    fs::remove_file(err)?;
    if !in_time {
        output.push_str(&format!("\nkilled after {seconds_max} s\n"));
    }
    Ok(Finished { status, output })
}

/// A child that does not outlive its owner.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Either can only fail because it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(mut child: Killed, time_max: Duration) -> (ExitStatus, bool) {
    let deadline = Instant::now() + time_max;
    loop {
        if let Some(status) = child.0.try_wait().expect("our child") {
            return (status, true);
        }
        if Instant::now() >= deadline {
            child.0.kill().expect("our child, and it still runs");
            return (child.0.wait().expect("our child"), false);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn unique(folder: &Path, kind: &str) -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    folder.join(format!("process-{}.{kind}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

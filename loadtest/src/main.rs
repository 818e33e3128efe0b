//! `midge-loadtest`: load tests for any MQTT broker.
//!
//! The load test has one thread, one epoll loop, and an MQTT encoder and checks of its own. Every
//! message carries its publisher, its stream, a sequence number, its time and a checksum, and every
//! run verifies all messages. The main figure is the CPU time of the broker per delivered message,
//! because wall time varies too much on a shared machine.

mod bulk_publisher;
mod child_process;
mod cli;
mod codec;
mod compare;
mod connector;
mod context;
mod flags;
mod html;
mod inbox;
mod latency;
mod net;
mod payload;
mod plan;
mod plot;
mod process_usage;
mod progress;
mod report;
mod scenario;
mod timeline;
mod traffic;
mod transport;
mod verify;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Scenario, Task};
use context::Context;

/// The run counted faults.
const EXIT_FAULTS: u8 = 1;
/// The run failed. clap uses this status too, for flags that it cannot read.
const EXIT_NO_RUN: u8 = 2;

fn main() -> ExitCode {
    match cli::Cli::parse().task {
        Task::Run(scenario) => run(&scenario),
        Task::Compare(flags) => compare::run(&flags),
        Task::RunChild(flags) => failed(&child_process::run(&flags)),
    }
}

fn run(scenario: &Scenario) -> ExitCode {
    let common = scenario.common();
    if let Err(error) = common.check() {
        return failed(&error);
    }
    let context = Context::now(common.broker_pid);
    // Opens the page before the run, so that a missing folder does not cost a run.
    let page = match common.report.as_ref().map(Page::open).transpose() {
        Ok(page) => page,
        Err(error) => return failed(&error),
    };
    let report = match scenario::run(scenario) {
        Ok(report) => report,
        Err(error) => {
            if let Some(page) = page {
                page.abandon();
            }
            return failed(&error);
        }
    };
    if common.json {
        println!("{}", report.json(&context));
    } else {
        println!("{}", report.table());
    }
    if let Some(Err(error)) = page.map(|page| page.write(&html::page(&report, &context))) {
        return failed(&error);
    }
    if report.faults.total() > 0 { ExitCode::from(EXIT_FAULTS) } else { ExitCode::SUCCESS }
}

fn failed(error: &str) -> ExitCode {
    eprintln!("midge-loadtest: {error}");
    ExitCode::from(EXIT_NO_RUN)
}

/// The file of `--report`. An older page stays unchanged until the new one is written.
struct Page<'a> {
    path: &'a PathBuf,
    file: File,
}

impl Page<'_> {
    fn open(path: &PathBuf) -> Result<Page<'_>, String> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        file.map(|file| Page { path, file }).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Removes the file if it is empty.
    fn abandon(self) {
        if self.file.metadata().is_ok_and(|file| file.is_file() && file.len() == 0) {
            let _ = std::fs::remove_file(self.path);
        }
    }

    fn write(mut self, html: &str) -> Result<(), String> {
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(html.as_bytes()));
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

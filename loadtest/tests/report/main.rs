//! Tests `--report` and `compare` as a user runs them, against mock brokers. For `compare`, the
//! mock broker is a process: this test program, started again with [`MOCK_PORT`] set.

// Only the tests of faults use all faults.
#[allow(dead_code)]
#[path = "../faults/mock_broker.rs"]
mod mock_broker;

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use mock_broker::{Fault, MockBroker};
use serde_json::Value;

const MOCK_PORT: &str = "MIDGE_LOADTEST_MOCK_PORT";
const MOCK_FAULT: &str = "MIDGE_LOADTEST_MOCK_FAULT";
const PAIRS: [&str; 7] = ["pairs", "--pairs", "3", "--warm-up", "0.1", "--seconds", "0.5"];

/// Not a test: the mock broker that `compare` starts. It runs until it is killed.
#[test]
fn mock_broker_process() {
    let Ok(port) = std::env::var(MOCK_PORT) else { return };
    let fault = if std::env::var(MOCK_FAULT).is_ok() { Fault::Drop } else { Fault::None };
    let _broker = MockBroker::start_at(fault, port.parse().unwrap());
    std::thread::sleep(Duration::from_secs(60));
}

fn broker(name: &str, port: u16, fault: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let program = program.display();
    format!("--broker={name}@{port}=env {MOCK_PORT}={port} {fault} '{program}' --exact mock_broker_process")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn compare(flags: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge-loadtest"));
    command.args(["compare", "--json", "--quiet", "--rounds", "2"]).args(flags).arg("--").args(PAIRS);
    command.args(["--stall", "1"]).output().unwrap()
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("midge-loadtest-test-{}-{name}", std::process::id()))
}

#[test]
fn run_writes_a_page_with_plots_and_the_same_data_as_json() {
    let broker = MockBroker::start(Fault::None);
    let page = temporary("page.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge-loadtest"));
    command.args(PAIRS).args(["--json", "--quiet", "--port", &broker.port.to_string()]);
    command.args(["--username", "u", "--password", "hush"]);
    command.args(["--broker-pid", &std::process::id().to_string(), "--report"]).arg(&page);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    for title in
        ["deliveries per second, over time", "broker CPU, over time", "latency distribution", "p99.9"]
    {
        assert!(html.contains(title), "{title}");
    }
    // Throughput, CPU, histogram, percentiles. A unit test of the page checks that every element is
    // closed.
    assert_eq!((html.matches("<svg").count(), html.matches("</svg>").count()), (4, 4));
    assert!(html.ends_with("</html>\n") && !html.contains("hush") && !html.contains("<script"));

    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!json.to_string().contains("hush"));
    let bins = json["latency_bins_from_to_nanos_count"].as_array().unwrap();
    let counted: u64 = bins.iter().map(|bin| bin[2].as_u64().unwrap()).sum();
    assert_eq!(Some(counted), json["latency_samples"].as_u64());
    assert!(json["samples_seconds_work_broker_cpu_seconds"].as_array().unwrap().len() > 2);
    assert!(json["context"]["kernel"].is_string());
}

#[test]
fn unwritable_page_is_refused_before_the_run_and_failed_run_leaves_no_page() {
    let run = |page: &PathBuf| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_midge-loadtest"));
        // Nothing listens on port 1 of the loopback address.
        command.args(PAIRS).args(["--quiet", "--port", "1", "--report"]).arg(page).output().unwrap()
    };
    assert_eq!(run(&temporary("no-folder").join("page.html")).status.code(), Some(2));
    let page = temporary("failed.html");
    assert_eq!(run(&page).status.code(), Some(2));
    assert!(!page.exists());
}

#[test]
fn brokers_are_compared_in_turns_and_all_are_stopped() {
    let (left, right) = (free_port(), free_port());
    let output = compare(&[broker("correct", left, ""), broker("faulty", right, &format!("{MOCK_FAULT}=1"))]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let brokers: Vec<&str> =
        json["rounds"].as_array().unwrap().iter().map(|round| round["broker"].as_str().unwrap()).collect();
    assert_eq!(brokers, ["correct", "faulty", "correct", "faulty"]);
    let row =
        json["rows"].as_array().unwrap().iter().find(|row| row["key"] == "delivered_per_second").unwrap();
    assert_eq!(row["brokers"]["correct"]["ratio"], 1.0);
    assert!(row["brokers"]["faulty"]["median"].as_f64().unwrap() > 0.0, "{row}");
    // Lost messages count only for the broker that loses them, and in the exit status.
    assert_eq!(json["rounds"][0]["report"]["faults_total"], 0, "{json}");
    assert!(json["rounds"][1]["marks"][0].as_str().unwrap().contains("lost"), "{json}");
    assert_eq!(output.status.code(), Some(1));
    assert!(!listens(left) && !listens(right));
}

#[test]
fn broker_that_does_not_start_fails_only_its_own_rounds() {
    let (left, right) = (free_port(), free_port());
    let dying = format!("--broker=dying@{right}=sh -c 'echo cannot open the store >&2; exit 3'");
    let output = compare(&[broker("correct", left, ""), dying]);
    assert_eq!(output.status.code(), Some(2));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["rounds"][0]["error"].is_null());
    assert!(json["rounds"][1]["error"].as_str().unwrap().contains("cannot open the store"), "{json}");
    assert!(!listens(left));
}

#[test]
fn broker_ends_when_the_comparison_is_killed() {
    let (left, right) = (free_port(), free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_midge-loadtest"));
    command.args(["compare", "--quiet", &broker("a", left, ""), &broker("b", right, ""), "--", "pairs"]);
    let mut child = command.args(["--pairs", "2", "--seconds", "30"]).spawn().unwrap();
    let wait_until = |wanted: bool| {
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            listens(left) == wanted
        })
    };
    let came = wait_until(true);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(came && wait_until(false));
}

#[test]
fn invalid_comparison_is_refused_before_any_broker_starts() {
    let port = free_port();
    let refused = |flags: &[String]| compare(flags).status.code() == Some(2);
    assert!(refused(&[broker("alone", port, "")]));
    assert!(refused(&[broker("twin", port, ""), broker("twin", port, "")]));
    assert!(refused(&[broker("a", port, ""), broker("b", port, ""), "--baseline=c".to_owned()]));
    assert!(!listens(port));
}

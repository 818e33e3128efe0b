//! mosquitto_pub, mosquitto_sub and mosquitto_rr: the examples of the README and more, at every protocol
//! version. A subscriber also prints its debug lines, which show when it is subscribed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::broker::Broker;
use crate::needs;
use crate::needs::process::{self, Killed};
use crate::setup::Client;

/// The longest time that a client may take for a short step, in seconds.
const WAIT_SECONDS: u64 = 60;
/// The prefix of a message in the output of a subscriber. Topic, QoS, retain flag and payload follow.
const MESSAGE: &str = "message|";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Version {
    V31,
    V311,
    V5,
}

impl Version {
    fn argument(self) -> &'static str {
        match self {
            Self::V31 => "mqttv31",
            Self::V311 => "mqttv311",
            Self::V5 => "mqttv5",
        }
    }
}

/// All conversations of one version with one broker.
pub(crate) fn talk(shards: usize, version: Version) {
    if Client::Mosquitto.is_skipped() {
        return;
    }
    if !["mosquitto_pub", "mosquitto_sub", "mosquitto_rr"].into_iter().all(needs::has) {
        return;
    }
    let broker = Broker::start(shards);
    let run = broker.unique();
    let mut tools = Tools { broker, version, run };
    tools.deliver_at_each_qos();
    tools.deliver_a_megabyte();
    tools.match_wildcards();
    tools.keep_replace_and_clear_retained();
    tools.send_the_will_of_the_killed_only();
    tools.resume_a_session_with_its_queue();
    tools.unsubscribe();
    tools.ask_and_answer();
    tools.read_sys_topics();
    if version == Version::V5 {
        tools.forward_properties();
        tools.use_a_topic_alias();
        tools.delay_a_will();
    }
    tools.broker.assert_up();
}

struct Tools {
    broker: Broker,
    version: Version,
    run: String,
}

impl Tools {
    fn deliver_at_each_qos(&self) {
        for wanted in 0..=2 {
            let topic = self.topic(&format!("qos/{wanted}"));
            let subscriber = self.subscribe(&["-t", &topic, "-q", &wanted.to_string()]);
            for sent in 0..=2 {
                let text = format!("sent at {sent}, with a | and ünïcode");
                self.publish(&["-t", &topic, "-q", &sent.to_string(), "-m", &text]);
                subscriber.expect(&topic, wanted.min(sent), false, &text);
            }
        }
    }

    fn deliver_a_megabyte(&self) {
        let topic = self.topic("big");
        let text: String =
            (0..1_u32 << 20).map(|n| char::from(b'a' + (n % 23 + n / 1024 % 3) as u8)).collect();
        let file = self.broker.folder().join("big.txt");
        fs::write(&file, &text).expect("a file in the temporary folder");
        let file = file.to_str().expect("the folder's name is UTF-8");
        let subscriber = self.subscribe(&["-t", &topic, "-q", "2"]);
        for qos in [0, 1, 2] {
            self.publish(&["-t", &topic, "-q", &qos.to_string(), "-f", file]);
            subscriber.expect(&topic, qos, false, &text);
        }
    }

    fn match_wildcards(&self) {
        let (one, rest) = (self.topic("w/+/state"), self.topic("w/deep/#"));
        let subscriber = self.subscribe(&["-t", &one, "-t", &rest, "-q", "1"]);
        for name in ["w/a/other", "w/a/b/state", "w"] {
            self.publish(&["-t", &self.topic(name), "-q", "1", "-m", "no"]);
        }
        for name in ["w/a/state", "w//state", "w/deep", "w/deep/a/b"] {
            self.publish(&["-t", &self.topic(name), "-q", "1", "-m", name]);
            subscriber.expect(&self.topic(name), 1, false, name);
        }
    }

    fn keep_replace_and_clear_retained(&self) {
        let (topic, all) = (self.topic("r/kept"), self.topic("r/#"));
        for text in ["first", "second"] {
            self.publish(&["-t", &topic, "-q", "1", "-r", "-m", text]);
        }
        let subscriber = self.subscribe(&["-t", &all, "-q", "2"]);
        subscriber.expect(&topic, 1, true, "second");
        self.publish(&["-t", &topic, "-q", "1", "-r", "-m", "live"]);
        subscriber.expect(&topic, 1, false, "live");
        self.publish(&["-t", &topic, "-q", "1", "-r", "-n"]);
        subscriber.expect(&topic, 1, false, "");
        let late = self.subscribe(&["-t", &all, "-q", "1"]);
        let marker = self.topic("r/marker");
        self.publish(&["-t", &marker, "-q", "1", "-m", "end"]);
        late.expect(&marker, 1, false, "end");
    }

    fn send_the_will_of_the_killed_only(&self) {
        let (will, other) = (self.topic("will"), self.topic("other"));
        let subscriber = self.subscribe(&["-t", &will, "-q", "2"]);
        let with_will = |text: &'static str| {
            ["-t", &other, "--will-topic", &will, "--will-qos", "1", "--will-payload", text]
                .map(str::to_owned)
        };
        let calm = with_will("calm");
        let mut arguments: Vec<&str> = calm.iter().map(String::as_str).collect();
        arguments.push("-E");
        self.run_to_end("mosquitto_sub", &arguments);
        let killed = with_will("killed");
        drop(self.subscribe(&killed.each_ref().map(String::as_str)));
        subscriber.expect(&will, 1, false, "killed");
    }

    fn resume_a_session_with_its_queue(&self) {
        let (topic, id) = (self.topic("q"), format!("{}-s", self.run));
        self.run_to_end("mosquitto_sub", &["-c", "-i", &id, "-t", &topic, "-q", "2", "-E"]);
        for n in 0..6 {
            self.publish(&["-t", &topic, "-q", &(1 + n % 2).to_string(), "-m", &n.to_string()]);
        }
        let back = self.start_subscriber(&["-c", "-i", &id, "-t", &topic, "-q", "2"]);
        let mut got: Vec<String> = (0..6).map(|_| back.next()).collect();
        // The order is only defined among messages with the same QoS.
        got.sort();
        let mut wanted: Vec<String> = (0..6).map(|n| format!("{topic}|{}|0|{n}", 1 + n % 2)).collect();
        wanted.sort();
        assert_eq!(got, wanted, "the queue of the session");
        drop(back);
        // A clean start ends the session.
        self.run_to_end("mosquitto_sub", &["-i", &id, "-t", &self.topic("else"), "-E"]);
        self.publish(&["-t", &topic, "-q", "1", "-m", "lost"]);
        let marker = self.topic("marker");
        let fresh = self.subscribe(&["-c", "-i", &id, "-t", &marker, "-q", "1"]);
        self.publish(&["-t", &marker, "-q", "1", "-m", "end"]);
        fresh.expect(&marker, 1, false, "end");
        drop(fresh);
        self.run_to_end("mosquitto_sub", &["-i", &id, "-t", &marker, "-E"]);
    }

    fn unsubscribe(&self) {
        let (id, gone, kept) = (format!("{}-u", self.run), self.topic("u/gone"), self.topic("u/kept"));
        self.run_to_end("mosquitto_sub", &["-c", "-i", &id, "-t", &gone, "-q", "1", "-E"]);
        let subscriber = self.subscribe(&["-c", "-i", &id, "-t", &kept, "-U", &gone, "-q", "1"]);
        subscriber.wait_for_line("received UNSUBACK");
        self.publish(&["-t", &gone, "-q", "1", "-m", "no"]);
        self.publish(&["-t", &kept, "-q", "1", "-m", "yes"]);
        subscriber.expect(&kept, 1, false, "yes");
        drop(subscriber);
        self.run_to_end("mosquitto_sub", &["-i", &id, "-t", &kept, "-E"]);
    }

    /// mosquitto_rr sends a request. The other two programs answer it, using what has arrived.
    fn ask_and_answer(&self) {
        let (request, response) = (self.topic("rr/request"), self.topic("rr/response"));
        let format = format!("{MESSAGE}%R|%D|%p");
        let responder = match self.version {
            Version::V5 => self.subscribe_formatted(&["-t", &request, "-q", "1"], &format),
            Version::V31 | Version::V311 => self.subscribe(&["-t", &request, "-q", "1"]),
        };
        let seconds = WAIT_SECONDS.to_string();
        let mut asking = self.command("mosquitto_rr");
        asking.args(["-t", &request, "-e", &response, "-q", "1", "-W", &seconds, "-m", "6*7"]);
        if self.version == Version::V5 {
            asking.args(["-D", "publish", "correlation-data", "c-1"]);
        }
        thread::scope(|scope| {
            let answer = scope.spawn(|| process::run(&mut asking, self.broker.folder(), WAIT_SECONDS + 5));
            if self.version == Version::V5 {
                assert_eq!(responder.next(), format!("{response}|c-1|6*7"));
                let correlation = ["-D", "publish", "correlation-data", "c-1"];
                self.publish(&[&["-t", response.as_str(), "-q", "1", "-m", "42"][..], &correlation].concat());
            } else {
                responder.expect(&request, 1, false, "6*7");
                self.publish(&["-t", &response, "-q", "1", "-m", "42"]);
            }
            let finished = answer.join().expect("no panic in a process").expect("mosquitto_rr starts");
            assert!(finished.status.success(), "mosquitto_rr: {}\n{}", finished.status, finished.output);
            assert_eq!(finished.output.trim_end(), "42");
        });
    }

    fn read_sys_topics(&self) {
        let subscriber = self.subscribe(&["-t", "$SYS/broker/#"]);
        assert!(subscriber.next().starts_with("$SYS/broker/"));
        let everything = self.subscribe(&["-t", "#"]);
        let marker = self.topic("sys/marker");
        // [MQTT5-4.7.2-1]: a filter that starts with a wildcard gets nothing of $SYS.
        self.publish(&["-t", &marker, "-m", "end"]);
        loop {
            let message = everything.next();
            assert!(!message.starts_with('$'), "# gave {message}");
            if message.starts_with(&marker) {
                break;
            }
        }
    }

    fn forward_properties(&self) {
        let topic = self.topic("p");
        let format = format!("{MESSAGE}%C|%P|%R|%D|%F|%S|%p");
        let subscriber = self.subscribe_formatted(
            &["-t", &topic, "-q", "2", "-D", "subscribe", "subscription-identifier", "77"],
            &format,
        );
        let mut arguments = vec!["-t", &topic, "-q", "2", "-m", "payload"];
        for property in [
            &["content-type", "text/plain"][..],
            &["user-property", "a", "1"],
            &["user-property", "a", "2"],
            &["response-topic", "answer/here"],
            &["correlation-data", "c-2"],
            &["payload-format-indicator", "1"],
            &["message-expiry-interval", "60"],
        ] {
            arguments.extend(["-D", "publish"]);
            arguments.extend(property);
        }
        self.publish(&arguments);
        assert_eq!(subscriber.next(), "text/plain|a:1 a:2|answer/here|c-2|1|77|payload");
    }

    /// mosquitto_pub sends the topic name once, and only the alias after that.
    fn use_a_topic_alias(&self) {
        let topic = self.topic("alias");
        let subscriber = self.subscribe(&["-t", &topic, "-q", "1"]);
        let alias = ["-D", "publish", "topic-alias", "2"];
        self.publish(
            &[&["-t", topic.as_str(), "-q", "1", "-m", "again", "--repeat", "3"][..], &alias].concat(),
        );
        for _ in 0..3 {
            subscriber.expect(&topic, 1, false, "again");
        }
    }

    fn delay_a_will(&self) {
        let (will, other) = (self.topic("later"), self.topic("other"));
        let subscriber = self.subscribe(&["-t", &will, "-q", "1"]);
        let delay = ["-D", "will", "will-delay-interval", "1", "-x", "60"];
        let with_will = ["-t", &other, "--will-topic", &will, "--will-payload", "late", "--will-qos", "1"];
        drop(self.subscribe(&[&with_will[..], &delay].concat()));
        let killed = std::time::Instant::now();
        subscriber.expect(&will, 1, false, "late");
        assert!(killed.elapsed() >= Duration::from_millis(900), "after {:?}", killed.elapsed());
    }

    fn topic(&self, rest: &str) -> String {
        format!("cli/{}/{rest}", self.run)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = needs::command(program);
        command.args(self.broker_arguments());
        command
    }

    fn broker_arguments(&self) -> [String; 6] {
        let port = self.broker.port.to_string();
        ["-h", &self.broker.host, "-p", &port, "-V", self.version.argument()].map(str::to_owned)
    }

    fn publish(&self, arguments: &[&str]) {
        self.run_to_end("mosquitto_pub", arguments);
    }

    fn run_to_end(&self, program: &str, arguments: &[&str]) {
        let finished =
            process::run(self.command(program).args(arguments), self.broker.folder(), WAIT_SECONDS)
                .unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            finished.status.success() && !finished.output.contains("Warning"),
            "{program} {arguments:?}: {}\n{}",
            finished.status,
            finished.output
        );
    }

    /// A subscriber that is already subscribed.
    fn subscribe(&self, arguments: &[&str]) -> Subscriber {
        self.subscribe_formatted(arguments, &format!("{MESSAGE}%t|%q|%r|%p"))
    }

    fn subscribe_formatted(&self, arguments: &[&str], format: &str) -> Subscriber {
        let subscriber = self.start_formatted(arguments, format);
        subscriber.wait_for_line("Subscribed (mid");
        subscriber
    }

    /// A subscriber whose messages may come before it is subscribed, as in a resumed session.
    fn start_subscriber(&self, arguments: &[&str]) -> Subscriber {
        self.start_formatted(arguments, &format!("{MESSAGE}%t|%q|%r|%p"))
    }

    fn start_formatted(&self, arguments: &[&str], format: &str) -> Subscriber {
        // When it writes to a pipe, mosquitto_sub delays its debug lines until the next message. stdbuf
        // prevents this.
        let mut command = Command::new("stdbuf");
        command.arg("-oL").arg(needs::command("mosquitto_sub").get_program()).args(self.broker_arguments());
        command.args(arguments).args(["-d", "-F", format]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("mosquitto_sub starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (to_messages, messages) = channel();
        let (to_others, others) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // A test that has its result no longer listens.
                let _ = match line.strip_prefix(MESSAGE) {
                    Some(message) => to_messages.send(message.to_owned()),
                    None => to_others.send(line),
                };
            }
        });
        Subscriber { _process: Killed(child), messages, others }
    }
}

/// A running mosquitto_sub. Dropping it kills it, which is a lost connection for the broker.
struct Subscriber {
    _process: Killed,
    messages: Receiver<String>,
    others: Receiver<String>,
}

impl Subscriber {
    fn next(&self) -> String {
        self.messages.recv_timeout(Duration::from_secs(WAIT_SECONDS)).expect("a message in time")
    }

    fn expect(&self, topic: &str, qos: u8, retain: bool, payload: &str) {
        let got = self.next();
        let wanted = format!("{topic}|{qos}|{}|{payload}", u8::from(retain));
        if got != wanted {
            let short = |text: &str| text.chars().take(200).collect::<String>();
            panic!("got {:?} ({} bytes), wanted {:?}", short(&got), got.len(), short(&wanted));
        }
    }

    fn wait_for_line(&self, part: &str) {
        let mut seen = Vec::new();
        loop {
            let Ok(line) = self.others.recv_timeout(Duration::from_secs(WAIT_SECONDS)) else {
                panic!("mosquitto_sub never said {part:?}, but: {seen:#?}");
            };
            if line.contains(part) {
                return;
            }
            seen.push(line);
        }
    }
}

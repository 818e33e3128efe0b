//! Migration from mosquitto: midge serves its configuration unchanged, or converts it, and the password tools
//! of mosquitto and midge work on the same file.

use crate::needs;
use crate::running::{PATIENCE, Running, free_port, midge, run, stderr};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

/// Debian's configuration, except for the places of files.
const DEBIAN: &str = "# Place your local configuration in /etc/mosquitto/conf.d/
#
# A full description of the configuration file is at
# /usr/share/doc/mosquitto/examples/mosquitto.conf.example

pid_file /run/mosquitto/mosquitto.pid

persistence true
persistence_location {state}/

log_dest file /var/log/mosquitto/mosquitto.log

include_dir {include}
";

/// An empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("moving-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("conf.d")).expect("the target folder can be written");
    folder
}

/// Debian's file with one more file in its `conf.d`.
fn debian(name: &str, local: &str) -> PathBuf {
    let folder = folder(name);
    let text = DEBIAN
        .replace("{state}", &folder.display().to_string())
        .replace("{include}", &folder.join("conf.d").display().to_string());
    std::fs::write(folder.join("conf.d/local.conf"), local).expect("a file of ours");
    written(&folder, &text)
}

fn written(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("mosquitto.conf");
    std::fs::write(&file, text).expect("a file of ours");
    file
}

fn serve(file: &Path, more: &[&str]) -> Running {
    let mut command = midge();
    command.arg("serve").arg("--mosquitto-conf").arg(file).args(more);
    Running::start_command(command).expect("it starts")
}

#[test]
fn debians_file_with_two_listeners_is_served_to_mosquitto_sub_and_mqttjs() {
    let (plain, web) = (free_port(), free_port());
    let local = format!(
        "listener {plain} 127.0.0.1\nallow_anonymous true\nlistener {web} 127.0.0.1\nprotocol websockets\n"
    );
    let file = debian("debian", &local);
    let running = serve(&file, &[]);
    running.line("the state", |line| line.contains("moving-debian/mosquitto.db.midge"));
    running.line("the log file", |line| line.contains("mosquitto.conf:11 log_dest"));
    running.line("both", |line| line.contains(&format!("127.0.0.1:{plain} and 127.0.0.1:{web}")));

    let mut client = running.client("reader");
    client.subscribe("moving/#", 1);
    if needs::has("mosquitto_pub") {
        let mut publish = needs::command("mosquitto_pub");
        publish.args([
            "-h",
            "127.0.0.1",
            "-p",
            &plain.to_string(),
            "-q",
            "1",
            "-t",
            "moving/in",
            "-m",
            "box",
        ]);
        publish.arg("-r");
        assert!(publish.status().expect("it was there just now").success());
        let message = client.message();
        assert_eq!((message.topic.as_str(), message.payload.as_slice()), ("moving/in", b"box".as_slice()));
        let mut subscribe = needs::command("mosquitto_sub");
        subscribe.args([
            "-h",
            "127.0.0.1",
            "-p",
            &plain.to_string(),
            "-t",
            "moving/#",
            "-C",
            "1",
            "-W",
            "60",
        ]);
        let got = subscribe.output().expect("it was there just now");
        assert_eq!(String::from_utf8_lossy(&got.stdout), "box\n");
    }
    match needs::node() {
        Ok(node) => {
            let script = format!(
                "const client = require('mqtt').connect('ws://127.0.0.1:{web}/mqtt');\
                 client.on('connect', () => client.publish('moving/web', 'page', {{ qos: 1 }}, () => client.end()));\
                 client.on('error', () => process.exit(1));"
            );
            let status = node.command().arg("-e").arg(script).current_dir(&node.folder).status();
            assert!(status.expect("it can be run").success());
            assert_eq!(client.message().topic, "moving/web");
        }
        Err(why) => needs::skips::note("mqttjs", &why),
    }
}

/// The output of a mosquitto client, and whether it succeeded.
fn mosquitto(program: &str, port: u16, arguments: &[&str]) -> (String, bool) {
    let mut command = needs::command(program);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
    let output = command.output().expect("it was there just now");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

#[test]
fn qos_0_messages_wait_for_mosquitto_sub_where_the_file_says_so() {
    if !needs::has("mosquitto_sub") {
        return;
    }
    let port = free_port();
    let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nqueue_qos0_messages true\n");
    let _running = serve(&written(&folder("qos0"), &text), &[]);
    let subscribe = ["-c", "-i", "away", "-q", "1", "-t", "qos0/#"];
    assert!(mosquitto("mosquitto_sub", port, &[&subscribe[..], &["-E"]].concat()).1);
    assert!(mosquitto("mosquitto_pub", port, &["-t", "qos0/a", "-m", "waits", "-q", "0"]).1);
    let got = mosquitto("mosquitto_sub", port, &[&subscribe[..], &["-C", "1", "-W", "60"]].concat());
    assert_eq!(got, ("waits\n".to_owned(), true));
}

#[test]
fn client_identifiers_of_mosquitto_pub_are_what_the_file_says() {
    if !needs::has("mosquitto_pub") {
        return;
    }
    let (by_user, by_prefix) = (free_port(), free_port());
    let named =
        format!("allow_anonymous true\nlistener {by_user} 127.0.0.1\nuse_username_as_clientid true\n");
    let running = serve(&written(&folder("by-user"), &named), &[]);
    let publish = ["-t", "a", "-m", "b", "-q", "1", "-i", "own"];
    assert!(mosquitto("mosquitto_pub", by_user, &[&publish[..], &["-u", "ada"]].concat()).1);
    running.line("the user", |line| line.contains("client connected") && line.contains("client=\"ada\""));
    assert!(!mosquitto("mosquitto_pub", by_user, &publish).1);
    running.line("the refusal", |line| line.contains("user_name_as_client_id"));

    let begins = format!("clientid_prefixes dev-\nlistener {by_prefix} 127.0.0.1\nallow_anonymous true\n");
    let running = serve(&written(&folder("by-prefix"), &begins), &[]);
    assert!(mosquitto("mosquitto_pub", by_prefix, &["-t", "a", "-m", "b", "-i", "dev-1"]).1);
    assert!(!mosquitto("mosquitto_pub", by_prefix, &publish).1);
    running.line("the refusal", |line| line.contains("auth.client_id_prefix"));
}

#[test]
fn an_interface_of_the_file_is_listened_on_by_its_addresses() {
    let port = free_port();
    let text = format!("listener {port}\nbind_interface lo\nallow_anonymous true\n");
    let running = serve(&written(&folder("interface"), &text), &[]);
    assert_eq!(running.address, SocketAddr::from(([127, 0, 0, 1], port)));
    running.client("c").disconnect();
    for (interface, words) in
        [("nosuch0", "no network interface \"nosuch0\""), ("lo", "\"lo\" has no such address")]
    {
        let text = format!("listener {port} 192.0.2.1\nbind_interface {interface}\nallow_anonymous true\n");
        let file = written(&folder("no-interface"), &text);
        let output = run(midge().arg("serve").arg("--mosquitto-conf").arg(&file));
        assert!(!output.status.success() && stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn what_is_retained_is_withheld_when_its_publisher_loses_the_right_to_it() {
    if !needs::has("mosquitto_sub") {
        return;
    }
    let (port, folder) = (free_port(), folder("source"));
    let acl = folder.join("acl");
    std::fs::write(&acl, "topic readwrite #\n").expect("a file of ours");
    let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {}\n", acl.display());
    let running = serve(&written(&folder, &text), &[]);
    for topic in ["a", "b"] {
        assert!(mosquitto("mosquitto_pub", port, &["-t", topic, "-m", topic, "-q", "1", "-r"]).1);
    }
    // The order of the two depends on the shards.
    let mut both: Vec<_> = mosquitto("mosquitto_sub", port, &["-t", "#", "-C", "2", "-W", "60"])
        .0
        .lines()
        .map(str::to_owned)
        .collect();
    both.sort();
    assert_eq!(both, ["a", "b"]);
    std::fs::write(&acl, "topic read #\ntopic readwrite b\n").expect("a file of ours");
    running.hang_up();
    running.line("the reload", |line| line.contains("are read again"));
    // The shards switch to the new list one by one, soon.
    let all = || mosquitto("mosquitto_sub", port, &["-t", "#", "-W", "2"]).0;
    let until = Instant::now() + 2 * PATIENCE;
    while all() != "b\n" {
        assert!(Instant::now() < until, "{:?}", all());
    }
}

#[test]
fn a_bad_line_of_a_password_file_is_told_and_passed_over_and_names_with_slashes_are_text() {
    if !needs::has("mosquitto_pub") {
        return;
    }
    let (port, folder) = (free_port(), folder("lines"));
    let (users, acl) = (folder.join("users"), folder.join("acl"));
    let _ = std::fs::remove_file(&users);
    for (user, create) in [("arch/x86", &["-c"][..]), ("7", &[])] {
        let made = run(midge().arg("passwd").args(create).arg("-b").arg(&users).args([user, "secret"]));
        assert!(made.status.success(), "{}", stderr(&made));
    }
    let bad = std::fs::read_to_string(&users).expect("a file of ours") + "eve:no hash\nno colon\n";
    std::fs::write(&users, bad).expect("a file of ours");
    std::fs::write(&acl, "pattern write builders/%u/#\npattern write dev-%u/x\n").expect("a file of ours");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\nacl_file {}\n",
        users.display(),
        acl.display()
    );
    let file = written(&folder, &text);
    let running = serve(&file, &[]);
    for line in [3, 4] {
        let place = format!("skipped: {}:{line}: ", users.display());
        running.line("the bad line", |line| line.contains(&place));
    }
    let send = |user: &str, topic: &str| {
        let login = ["-u", user, "-P", "secret", "-V", "5", "-q", "1", "-m", "x", "-t", topic];
        // The client succeeds anyway. Our log has what it was told, and has it earlier.
        mosquitto("mosquitto_pub", port, &login);
    };
    let is_refusal = |line: &str, topic: &str| {
        line.contains("publish refused") && line.contains(&format!("topic=\"{topic}\""))
    };
    let allowed = [("arch/x86", "builders/arch/x86/log"), ("7", "dev-7/x")];
    allowed.into_iter().for_each(|(user, topic)| send(user, topic));
    for (user, topic) in [("arch/x86", "builders/arch/arm/log"), ("7", "dev-8/x")] {
        send(user, topic);
        running.line("a refusal", |line| is_refusal(line, topic));
    }
    for (_, topic) in allowed {
        assert!(!running.lines().iter().any(|line| is_refusal(line, topic)), "{topic}");
    }
    assert!(!mosquitto("mosquitto_pub", port, &["-u", "eve", "-P", "no hash", "-t", "a", "-m", "x"]).1);
    // In midge's own configuration such a file stops the start.
    let own = format!("[auth]\npassword_file = {users:?}\n");
    let checked = run(midge().arg("check-config").arg(crate::config_file("moving-lines", &own)));
    assert!(!checked.status.success() && stderr(&checked).contains("users:3: "), "{}", stderr(&checked));
}

#[test]
fn port_of_the_command_line_counts_where_the_file_has_no_listener() {
    let port = free_port();
    let file = written(&folder("port"), "max_queued_messages 10\n");
    let running = serve(&file, &["-p", &port.to_string()]);
    assert_eq!(running.address, SocketAddr::from(([127, 0, 0, 1], port)));
    running.client("c").disconnect();

    let (own, other) = (free_port(), free_port());
    let text = format!("listener {own} 127.0.0.1\nallow_anonymous true\n");
    let file = written(&folder("ports"), &text);
    let running = serve(&file, &["-p", &other.to_string()]);
    assert_eq!(running.address.port(), own);
    assert!(std::net::TcpStream::connect(("127.0.0.1", other)).is_err());
}

#[test]
fn hangup_reads_the_mosquitto_conf_again() {
    let text = format!("listener {} 127.0.0.1\nallow_anonymous true\n", free_port());
    let file = written(&folder("hangup"), &text);
    let mut running = serve(&file, &[]);
    let client = running.client("stays");
    std::fs::write(&file, format!("{text}frobnicate\n")).expect("a file of ours");
    running.signal("-HUP");
    let wrong = format!("{}:3: frobnicate", file.display());
    running.line("the wrong line", |line| line.contains("nothing is changed") && line.contains(&wrong));
    std::fs::write(&file, &text).expect("a file of ours");
    running.signal("-HUP");
    running.line("the reload", |line| line.contains("are read again"));
    client.disconnect();
    running.signal("-TERM");
    assert_eq!(running.wait(), 0);
}

#[test]
fn import_writes_what_check_config_reads() {
    let file = debian("import", "listener 1883\nallow_anonymous true\nlistener 9001\nprotocol websockets\n");
    let output = run(midge().arg("import-mosquitto").arg(&file));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("mosquitto.conf:6 pid_file: "), "{said}");
    assert!(said.contains("mosquitto.conf:11 log_dest: "), "{said}");
    let written = file.with_file_name("midge.toml");
    std::fs::write(&written, &output.stdout).expect("a file of ours");
    let checked = run(midge().arg("check-config").arg(&written));
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains(":1883") && checked.contains(":9001"), "{checked}");
}

#[test]
fn each_kind_of_error_ends_with_2_and_names_its_line() {
    for (name, text, wanted) in [
        ("unknown", "\nfrobnicate true\n", ":2: frobnicate: "),
        ("value", "listener 70000\n", ":1: listener: "),
        ("place", "\n\ncafile ca.pem\n", ":3: cafile: a listener line must stand above it"),
        (
            "bridge",
            "connection cloud\naddress example.org\n",
            ":1: connection: not supported: midge has no bridges",
        ),
        ("plugin", "plugin /usr/lib/other.so\n", ":1: plugin: not supported: midge has no plugins"),
        ("psk", "listener 8883\npsk_hint h\n", ":2: psk_hint: not supported"),
        ("whole", "listener 8883\ncertfile c.pem\n", ":2: certfile: needs a keyfile"),
        ("twice", "listener 1883\nlistener 1883\n", ":2: listener: "),
    ] {
        let file = written(&folder(&format!("wrong-{name}")), text);
        let wanted = format!("{}{wanted}", file.display());
        let import = run(midge().arg("import-mosquitto").arg(&file));
        let serve = run(midge().arg("serve").arg("--mosquitto-conf").arg(&file));
        for output in [import, serve] {
            assert_eq!(output.status.code(), Some(2), "{name}");
            assert!(stderr(&output).contains(&wanted), "{name}: {}", stderr(&output));
            assert!(output.stdout.is_empty(), "half a configuration is none");
        }
    }
    let two = written(&folder("wrong-two"), "frob 1\nfrob 2\n");
    let said = stderr(&run(midge().arg("import-mosquitto").arg(&two)));
    assert!(said.contains(":1: frob") && said.contains(":2: frob"), "{said}");
    let none = run(midge().args(["serve", "--mosquitto-conf", "/nowhere/mosquitto.conf"]));
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("/nowhere/mosquitto.conf: cannot be read"));
}

#[test]
fn partial_import_writes_what_can_be_had_and_says_the_rest_in_comments() {
    let text = "per_listener_settings true\nlistener 1883\nallow_anonymous true\nplugin /usr/lib/quota.so\n\
                plugin_opt_rate 5\nlistener 8883\nallow_anonymous true\npsk_hint hub\nconnection cloud\n\
                address example.org\nmax_queued_messages 50\n";
    let file = written(&folder("partial"), text);
    let whole = run(midge().arg("import-mosquitto").arg(&file));
    assert_eq!(whole.status.code(), Some(2));
    let hint = "import-mosquitto --partial leaves these lines out";
    assert!(stderr(&whole).ends_with(&format!("midge: {hint}, and writes the rest\n")), "{}", stderr(&whole));
    let output = run(midge().args(["import-mosquitto", "--partial"]).arg(&file));
    let (said, toml) = (stderr(&output), String::from_utf8_lossy(&output.stdout).into_owned());
    assert_eq!(output.status.code(), Some(3), "{said}");
    for line in [
        ":4: plugin: not supported: midge has no plugins",
        ":5: plugin_opt_rate: not supported",
        ":6: listener: left out as a whole: without line 8 it would be open to others",
        ":8: psk_hint: not supported",
        ":9: connection: not supported: midge has no bridges",
        ":10: address: not supported: belongs to the bridge of line 9",
    ] {
        assert!(said.contains(line), "{line}: {said}");
        // Long lines of a comment are broken.
        let comments = toml.replace("\n#   ", " ");
        assert!(comments.contains(&format!("# - {}{line}", file.display())), "{line}: {toml}");
    }
    assert!(
        toml.contains(":1883") && !toml.contains(":8883") && toml.contains("session_queue_messages = 50")
    );
    let own = file.with_file_name("midge.toml");
    std::fs::write(&own, &toml).expect("a file of ours");
    let checked = run(midge().arg("check-config").arg(&own));
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));

    // Nothing is left out of a file that midge fully supports.
    let good = written(&folder("partial-good"), "listener 1883\nallow_anonymous true\n");
    let output = run(midge().args(["import-mosquitto", "--partial"]).arg(&good));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("Left out"));
    // What mosquitto would not accept either can't be left out, and neither can a file without a listener.
    for (name, text, wanted) in [
        ("wrong", "listener 1883\nfrobnicate true\nplugin /a.so\n", ":2: frobnicate: "),
        ("none", "listener 8883\npsk_hint h\n", ": no listener is left"),
    ] {
        let file = written(&folder(&format!("partial-{name}")), text);
        let output = run(midge().args(["import-mosquitto", "--partial"]).arg(&file));
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr(&output).contains(wanted) && output.stdout.is_empty(), "{}", stderr(&output));
        let whole = run(midge().arg("import-mosquitto").arg(&file));
        assert!(!stderr(&whole).contains(hint), "it would not help: {}", stderr(&whole));
    }
}

#[test]
fn a_mosquitto_conf_in_the_place_of_a_midge_toml_is_told_from_it() {
    let file = debian("not-toml", "listener 1883\n");
    for command in [midge().arg("check-config").arg(&file), midge().arg("serve").arg("-c").arg(&file)] {
        let output = run(command);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let file = file.display();
        assert!(said.contains("this is a mosquitto.conf"), "{said}");
        assert!(said.contains(&format!("\"midge --mosquitto-conf {file}\"")), "{said}");
        assert!(said.contains(&format!("\"midge import-mosquitto {file}\"")), "{said}");
    }
    let own = crate::config_file("not-mosquitto", "user = \"root\"\nport 1\n");
    let said = stderr(&run(midge().arg("check-config").arg(own)));
    assert!(said.contains("not TOML") && !said.contains("mosquitto.conf"), "{said}");
}

#[test]
fn a_file_without_a_bound_of_packets_is_told_of_midges() {
    let text = format!("listener {} 127.0.0.1\nallow_anonymous true\n", free_port());
    let file = written(&folder("no-bound"), &text);
    let words = "midge disconnects a client that sends one above 2000000 bytes";
    let running = serve(&file, &[]);
    let line = running.line("the bound", |line| line.contains(words));
    assert!(line.contains("WARN") && line.contains("max_packet_size (limits.packet_bytes)"), "{line}");
    let output = run(midge().arg("import-mosquitto").arg(&file));
    assert!(stderr(&output).contains(words), "{}", stderr(&output));
    let toml = String::from_utf8_lossy(&output.stdout).replace("\n#   ", " ");
    assert!(toml.contains("# - mosquitto's default: mosquitto 2.0 takes packets of any size"), "{toml}");
    for bound in ["max_packet_size 5000000", "message_size_limit 1000"] {
        let file = written(&folder("bound"), &format!("{text}{bound}\n"));
        let said = stderr(&run(midge().arg("import-mosquitto").arg(&file)));
        assert!(!said.contains(words), "{bound}: {said}");
    }
}

#[test]
fn password_file_is_written_and_mosquitto_passwd_can_edit_it() {
    let file = folder("passwd").join("users");
    let passwd = |arguments: &[&str]| run(midge().arg("passwd").args(arguments));
    let path = file.display().to_string();
    let made = passwd(&["-c", "-b", &path, "ada", "one"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(String::from_utf8_lossy(&made.stdout).contains("added user ada"));
    let users = || {
        let text = std::fs::read_to_string(&file).expect("it was written");
        text.lines().filter_map(|line| line.split(':').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(users(), ["ada"]);
    if needs::has("mosquitto_passwd") {
        let mut theirs = needs::command("mosquitto_passwd");
        theirs.args(["-b", &path, "bob", "two"]).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(theirs.status().expect("it was there just now").success());
        assert_eq!(users(), ["ada", "bob"]);
        assert_eq!(passwd(&["-D", &path, "bob"]).status.code(), Some(0));
        assert_eq!(users(), ["ada"]);
    }
    let nobody = passwd(&["-D", &path, "carol"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("carol"), "{}", stderr(&nobody));
}

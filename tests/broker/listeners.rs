//! Several listeners, each with its own terms.

use crate::Running;
use crate::client::Client;
use crate::needs;
use crate::running::PATIENCE;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};

/// The second address in the start-up lines.
pub(crate) fn second_address(running: &Running) -> SocketAddr {
    let line = running.line("the listeners", |line| line.contains("Listening on "));
    let second = line.split(" and ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    second.unwrap_or_else(|| panic!("a second address in {line}"))
}

#[test]
fn listener_with_a_bound_of_its_own_keeps_to_it_and_leaves_the_other_alone() {
    let rest = "[[listeners]]\naddress = \"127.0.0.1:0\"\nconnections = 2\n[runtime]\nshards = 2\n";
    let running = Running::start("bounded", rest);
    let bounded = second_address(&running);
    for round in 0..3 {
        // The names have their homes on both shards, so some connections are handed over with their place.
        let one = Client::connect(bounded, &format!("one{round}"), true, 0);
        let two = Client::connect(bounded, &format!("two{round}"), true, 0);
        let mut three = TcpStream::connect(bounded).expect("the kernel accepts it");
        three.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let end = three.read(&mut [0; 1]);
        assert!(
            matches!(end, Ok(0))
                || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
        let elsewhere = running.client(&format!("elsewhere{round}"));
        for client in [one, two, elsewhere] {
            client.disconnect();
        }
        // Their places are free when the broker has noticed that they have gone.
        for name in ["one", "two"] {
            running.line("the end", |line| {
                line.contains("client disconnected") && line.contains(&format!("{name}{round}"))
            });
        }
    }
    running.line("the bound", |line| line.contains("listeners.connections"));
}

#[test]
fn mosquitto_clients_meet_the_terms_of_their_listener() {
    use std::process::Stdio;
    if !needs::has("mosquitto_pub") {
        return;
    }
    let rest = "[[listeners]]\naddress = \"127.0.0.1:0\"\nversions = [\"5.0\"]\n";
    let running = Running::start("terms", rest);
    let strict = second_address(&running);
    for (address, version, retain, good) in
        [(running.address, "311", true, true), (strict, "311", false, false), (strict, "5", false, true)]
    {
        let mut publish = needs::command("mosquitto_pub");
        publish.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-V", version, "-q", "1"]);
        publish.args(["-t", "terms", "-m", "hello"]).args(retain.then_some("-r")).stderr(Stdio::null());
        let status = publish.status().expect("it was there just now");
        assert_eq!(status.success(), good, "version {version}, retain {retain}");
    }
}

//! rumqttc's MQTT 3.1.1 client. It only works while it is polled, so one thread runs all peers in turn. A
//! dropped peer has lost its connection without DISCONNECT.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rumqttc::{
    Client as Handle, ConnAck, Connection, Event, LastWill, MqttOptions, Outgoing, Packet, Publish, QoS,
    SubscribeReasonCode,
};

use crate::broker::Broker;
use crate::setup::Client;

const WAIT_SECONDS: u64 = 60;
/// More than the megabyte that is sent. The client's own default is 10 KiB.
const PACKET_BYTES_MAX: usize = 2 << 20;
const EACH_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// All conversations with one broker.
pub(crate) fn talk(shards: usize) {
    if Client::Rumqttc.is_skipped() {
        return;
    }
    let mut broker = Broker::start(shards);
    let place = Place { run: broker.unique(), host: broker.host.clone(), port: broker.port };
    place.deliver_at_each_qos();
    place.deliver_a_megabyte();
    place.keep_and_clear_retained();
    place.send_the_will_of_the_lost_only();
    place.resume_a_session_with_its_queue();
    place.unsubscribe();
    place.ping();
    broker.assert_up();
}

struct Place {
    run: String,
    host: String,
    port: u16,
}

impl Place {
    fn deliver_at_each_qos(&self) {
        let (mut sub, mut publisher) = (self.peer("sub"), self.peer("pub"));
        for wanted in EACH_QOS {
            let filter = self.topic(&format!("{}/+", wanted as u8));
            assert_eq!(sub.subscribe(&filter, wanted), [SubscribeReasonCode::Success(wanted)]);
            for sent in EACH_QOS {
                let topic = self.topic(&format!("{}/{}", wanted as u8, sent as u8));
                for payload in [Vec::new(), (0..=255).collect(), vec![7; 50_000]] {
                    publisher.publish(&topic, sent, false, &payload);
                    let qos = if (sent as u8) < wanted as u8 { sent } else { wanted };
                    sub.expect(&topic, qos, false, &payload);
                }
            }
        }
    }

    fn deliver_a_megabyte(&self) {
        let (mut sub, mut publisher) = (self.peer("sub"), self.peer("pub"));
        let topic = self.topic("big");
        let payload: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
        sub.subscribe(&topic, QoS::AtLeastOnce);
        publisher.publish(&topic, QoS::AtLeastOnce, false, &payload);
        sub.expect(&topic, QoS::AtLeastOnce, false, &payload);
    }

    fn keep_and_clear_retained(&self) {
        let (mut publisher, topic, marker) = (self.peer("pub"), self.topic("r"), self.topic("marker"));
        publisher.publish(&topic, QoS::AtLeastOnce, true, b"kept");
        let mut late = self.peer("late");
        late.subscribe(&topic, QoS::AtLeastOnce);
        late.expect(&topic, QoS::AtLeastOnce, true, b"kept");
        publisher.publish(&topic, QoS::AtLeastOnce, true, b"");
        let mut later = self.peer("later");
        later.subscribe(&self.topic("+"), QoS::AtLeastOnce);
        publisher.publish(&marker, QoS::AtLeastOnce, false, b"end");
        later.expect(&marker, QoS::AtLeastOnce, false, b"end");
    }

    fn send_the_will_of_the_lost_only(&self) {
        let (mut sub, topic) = (self.peer("sub"), self.topic("will"));
        sub.subscribe(&topic, QoS::AtLeastOnce);
        let with_will = |who: &str| {
            let mut options = self.options(who);
            options.set_last_will(LastWill::new(&topic, who, QoS::AtLeastOnce, false));
            Peer::connect(options)
        };
        with_will("calm").disconnect();
        drop(with_will("lost"));
        sub.expect(&topic, QoS::AtLeastOnce, false, b"lost");
    }

    fn resume_a_session_with_its_queue(&self) {
        let kept = || {
            let mut options = self.options("s");
            options.set_clean_session(false);
            Peer::connect(options)
        };
        let topic = self.topic("q");
        let mut away = kept();
        assert!(!away.connack.session_present);
        away.subscribe(&topic, QoS::ExactlyOnce);
        away.disconnect();
        let mut publisher = self.peer("pub");
        for n in 0..10_u8 {
            publisher.publish(&topic, QoS::ExactlyOnce, false, &[n]);
        }
        let mut back = kept();
        assert!(back.connack.session_present);
        for n in 0..10_u8 {
            back.expect(&topic, QoS::ExactlyOnce, false, &[n]);
        }
        back.disconnect();
        assert!(!self.peer("s").connack.session_present, "a clean start begins anew");
    }

    fn unsubscribe(&self) {
        let (mut me, gone, kept) = (self.peer("me"), self.topic("gone"), self.topic("kept"));
        me.subscribe(&gone, QoS::AtLeastOnce);
        me.subscribe(&kept, QoS::AtLeastOnce);
        me.client.unsubscribe(&gone).expect("the client takes requests");
        me.wait_for("UNSUBACK", |event| matches!(event, Event::Incoming(Packet::UnsubAck(_))).then_some(()));
        me.publish(&gone, QoS::AtLeastOnce, false, b"no");
        me.publish(&kept, QoS::AtLeastOnce, false, b"yes");
        me.expect(&kept, QoS::AtLeastOnce, false, b"yes");
    }

    fn ping(&self) {
        let mut options = self.options("idle");
        options.set_keep_alive(Duration::from_secs(6));
        let mut idle = Peer::connect(options);
        // The second one comes long after one and a half times the keep alive.
        for _ in 0..2 {
            idle.wait_for("PINGRESP", |event| {
                matches!(event, Event::Incoming(Packet::PingResp)).then_some(())
            });
        }
    }

    fn topic(&self, rest: &str) -> String {
        format!("rumqttc4/{}/{rest}", self.run)
    }

    fn options(&self, who: &str) -> MqttOptions {
        let mut options = MqttOptions::new(format!("{}-{who}", self.run), &self.host, self.port);
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        options
    }

    fn peer(&self, who: &str) -> Peer {
        Peer::connect(self.options(who))
    }
}

struct Peer {
    client: Handle,
    connection: Connection,
    connack: ConnAck,
    messages: VecDeque<Publish>,
}

impl Peer {
    fn connect(options: MqttOptions) -> Self {
        let (client, connection) = Handle::new(options, 16);
        let connack = ConnAck { session_present: false, code: rumqttc::ConnectReturnCode::Success };
        let mut peer = Self { client, connection, connack, messages: VecDeque::new() };
        peer.connack = peer.wait_for("CONNACK", |event| match event {
            Event::Incoming(Packet::ConnAck(connack)) => Some(connack.clone()),
            _ => None,
        });
        peer
    }

    fn subscribe(&mut self, filter: &str, qos: QoS) -> Vec<SubscribeReasonCode> {
        self.client.subscribe(filter, qos).expect("the client takes requests");
        self.wait_for("SUBACK", |event| match event {
            Event::Incoming(Packet::SubAck(suback)) => Some(suback.return_codes.clone()),
            _ => None,
        })
    }

    /// Publishes a message. Returns when the exchange is complete.
    fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &[u8]) {
        self.client.publish(topic, qos, retain, payload).expect("the client takes requests");
        self.wait_for("the end of the publish", |event| {
            let over = match qos {
                QoS::AtMostOnce => matches!(event, Event::Outgoing(Outgoing::Publish(_))),
                QoS::AtLeastOnce => matches!(event, Event::Incoming(Packet::PubAck(_))),
                QoS::ExactlyOnce => matches!(event, Event::Incoming(Packet::PubComp(_))),
            };
            over.then_some(())
        });
    }

    fn expect(&mut self, topic: &str, qos: QoS, retain: bool, payload: &[u8]) {
        let message = match self.messages.pop_front() {
            Some(message) => message,
            None => {
                self.wait_for("a message", |event| {
                    matches!(event, Event::Incoming(Packet::Publish(_))).then_some(())
                });
                self.messages.pop_front().expect("just arrived")
            }
        };
        assert_eq!((message.topic.as_str(), message.qos, message.retain), (topic, qos, retain));
        assert!(message.payload == payload, "{} bytes came for {}", message.payload.len(), payload.len());
    }

    fn disconnect(mut self) {
        self.client.disconnect().expect("the client takes requests");
        self.wait_for("DISCONNECT", |event| {
            matches!(event, Event::Outgoing(Outgoing::Disconnect)).then_some(())
        });
    }

    /// Polls until `wanted` returns a value. Messages that come before are kept.
    fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(WAIT_SECONDS);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = match self.connection.recv_timeout(left) {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => panic!("waiting for {what}: {error}"),
                Err(_) => panic!("no {what} within {WAIT_SECONDS} s"),
            };
            let found = wanted(&event);
            if let Event::Incoming(Packet::Publish(message)) = event {
                self.messages.push_back(message);
            }
            if let Some(found) = found {
                return found;
            }
        }
    }
}

//! rumqttc's MQTT 5.0 client. See [`crate::rumqttc_v4`] for how it is run.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill,
    LastWillProperties, Packet, Publish, PublishProperties, SubscribeProperties, SubscribeReasonCode,
};
use rumqttc::v5::{Client as Handle, Connection, ConnectionError, Event, MqttOptions, StateError};

use crate::broker::Broker;
use crate::setup::Client;

const WAIT_SECONDS: u64 = 60;
/// More than the megabyte that is sent. It is announced to the broker.
const PACKET_BYTES_MAX: u32 = 2 << 20;
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
    place.forward_properties();
    place.name_the_subscription();
    place.keep_subscription_options();
    place.share_a_subscription();
    place.use_a_topic_alias();
    place.take_over();
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
        sub.subscribe(&topic, QoS::ExactlyOnce);
        publisher.publish(&topic, QoS::ExactlyOnce, false, &payload);
        sub.expect(&topic, QoS::ExactlyOnce, false, &payload);
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
            let properties = LastWillProperties {
                delay_interval: None,
                payload_format_indicator: Some(1),
                message_expiry_interval: Some(60),
                content_type: Some("text/plain".to_owned()),
                response_topic: None,
                correlation_data: None,
                user_properties: vec![("k".to_owned(), "v".to_owned())],
            };
            let mut options = self.options(who);
            options.set_last_will(LastWill::new(&topic, who, QoS::AtLeastOnce, false, Some(properties)));
            Peer::connect(options)
        };
        with_will("calm").disconnect();
        drop(with_will("lost"));
        let got = sub.expect(&topic, QoS::AtLeastOnce, false, b"lost");
        assert_eq!(got.content_type.as_deref(), Some("text/plain"));
        assert_eq!(got.user_properties, [("k".to_owned(), "v".to_owned())]);
    }

    fn resume_a_session_with_its_queue(&self) {
        let kept = || {
            let mut options = self.options("s");
            options.set_clean_start(false).set_session_expiry_interval(Some(60));
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

    fn forward_properties(&self) {
        let (mut sub, mut publisher, topic) = (self.peer("sub"), self.peer("pub"), self.topic("p"));
        sub.subscribe(&topic, QoS::ExactlyOnce);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let sent = PublishProperties {
            payload_format_indicator: Some(1),
            response_topic: Some("answer/here".to_owned()),
            correlation_data: Some(vec![0, 1, 255].into()),
            user_properties: vec![pair("a", "1"), pair("b", "2"), pair("a", "3")],
            content_type: Some("text/plain".to_owned()),
            ..PublishProperties::default()
        };
        let expiring = PublishProperties { message_expiry_interval: Some(60), ..sent.clone() };
        for qos in EACH_QOS {
            publisher.publish_with(&topic, qos, false, b"x", Some(expiring.clone()));
            let mut got = sub.expect(&topic, qos, false, b"x");
            let left = got.message_expiry_interval.take().expect("an expiry");
            assert!((55..=60).contains(&left), "{left} s left of 60");
            assert_eq!(got, sent);
        }
    }

    fn name_the_subscription(&self) {
        let (mut sub, mut publisher) = (self.peer("sub"), self.peer("pub"));
        let properties = SubscribeProperties { id: Some(1000), user_properties: Vec::new() };
        let filter = self.topic("id/+");
        sub.client
            .subscribe_with_properties(filter, QoS::AtLeastOnce, properties)
            .expect("the client takes requests");
        sub.wait_for("SUBACK", |event| matches!(event, Event::Incoming(Packet::SubAck(_))).then_some(()));
        let topic = self.topic("id/a");
        publisher.publish(&topic, QoS::AtLeastOnce, false, b"x");
        let got = sub.expect(&topic, QoS::AtLeastOnce, false, b"x");
        assert_eq!(got.subscription_identifiers, [1000]);
    }

    fn keep_subscription_options(&self) {
        let (mut me, mut publisher, topic) = (self.peer("me"), self.peer("pub"), self.topic("options"));
        let mut filter = Filter::new(&topic, QoS::AtLeastOnce);
        filter.nolocal = true;
        filter.preserve_retain = true;
        me.client.subscribe_many([filter]).expect("the client takes requests");
        me.wait_for("SUBACK", |event| matches!(event, Event::Incoming(Packet::SubAck(_))).then_some(()));
        me.publish(&topic, QoS::AtLeastOnce, false, b"mine");
        publisher.publish(&topic, QoS::AtLeastOnce, true, b"another's");
        me.expect(&topic, QoS::AtLeastOnce, true, b"another's");
        publisher.publish(&topic, QoS::AtLeastOnce, true, b"");
    }

    fn share_a_subscription(&self) {
        let (count, topic) = (20, self.topic("job"));
        let mut members = [self.peer("one"), self.peer("two")];
        for member in &mut members {
            member.subscribe(&format!("$share/group/{topic}"), QoS::AtLeastOnce);
        }
        let mut publisher = self.peer("pub");
        for n in 0..count {
            publisher.publish(&topic, QoS::AtLeastOnce, false, &[n]);
        }
        let deadline = Instant::now() + Duration::from_secs(WAIT_SECONDS);
        let mut shares = [Vec::new(), Vec::new()];
        while shares.iter().map(Vec::len).sum::<usize>() < usize::from(count) && Instant::now() < deadline {
            for (member, share) in members.iter_mut().zip(&mut shares) {
                // Nothing has come in time, so the other one is next.
                if let Ok(Ok(Event::Incoming(Packet::Publish(message)))) =
                    member.connection.recv_timeout(Duration::from_millis(20))
                {
                    share.push(message.payload[0]);
                }
            }
        }
        assert!(shares.iter().all(|share| !share.is_empty()), "one member got all: {shares:?}");
        let mut all = shares.concat();
        all.sort_unstable();
        assert_eq!(all, (0..count).collect::<Vec<u8>>());
    }

    fn use_a_topic_alias(&self) {
        let (mut sub, mut publisher, topic) = (self.peer("sub"), self.peer("pub"), self.topic("alias"));
        sub.subscribe(&topic, QoS::AtLeastOnce);
        let limit = publisher.connack.properties.as_ref().and_then(|given| given.topic_alias_max);
        assert!(limit.is_some_and(|limit| limit > 0), "no Topic Alias Maximum");
        let alias = PublishProperties { topic_alias: Some(1), ..PublishProperties::default() };
        for name in [topic.as_str(), "", ""] {
            publisher.publish_with(name, QoS::AtLeastOnce, false, b"x", Some(alias.clone()));
            sub.expect(&topic, QoS::AtLeastOnce, false, b"x");
        }
    }

    fn take_over(&self) {
        let mut first = self.peer("twin");
        let _second = self.peer("twin");
        let deadline = Instant::now() + Duration::from_secs(WAIT_SECONDS);
        let error = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match first.connection.recv_timeout(left).expect("a disconnect in time") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        // [MQTT5-3.1.4-3]; rumqttc looks at the end of the stream before it has read the DISCONNECT
        // that comes with it, so that the code is checked by the other clients.
        match &error {
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
                assert_eq!(*reason_code, DisconnectReasonCode::SessionTakenOver);
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => {}
            other => panic!("{other}"),
        }
    }

    fn topic(&self, rest: &str) -> String {
        format!("rumqttc5/{}/{rest}", self.run)
    }

    fn options(&self, who: &str) -> MqttOptions {
        let mut options = MqttOptions::new(format!("{}-{who}", self.run), &self.host, self.port);
        let properties =
            ConnectProperties { max_packet_size: Some(PACKET_BYTES_MAX), ..ConnectProperties::new() };
        options.set_connect_properties(properties);
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
        let connack = ConnAck { session_present: false, code: ConnectReturnCode::Success, properties: None };
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

    fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &[u8]) {
        self.publish_with(topic, qos, retain, payload, None);
    }

    /// Publishes a message. Returns when the exchange is complete.
    fn publish_with(
        &mut self,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: &[u8],
        properties: Option<PublishProperties>,
    ) {
        let payload = payload.to_vec();
        let sent = match properties {
            Some(properties) => self.client.publish_with_properties(topic, qos, retain, payload, properties),
            None => self.client.publish(topic, qos, retain, payload),
        };
        sent.expect("the client takes requests");
        self.wait_for("the end of the publish", |event| {
            let over = match qos {
                QoS::AtMostOnce => matches!(event, Event::Outgoing(Outgoing::Publish(_))),
                QoS::AtLeastOnce => matches!(event, Event::Incoming(Packet::PubAck(_))),
                QoS::ExactlyOnce => matches!(event, Event::Incoming(Packet::PubComp(_))),
            };
            over.then_some(())
        });
    }

    fn next(&mut self) -> Publish {
        if self.messages.is_empty() {
            self.wait_for("a message", |event| {
                matches!(event, Event::Incoming(Packet::Publish(_))).then_some(())
            });
        }
        self.messages.pop_front().expect("one waited or just arrived")
    }

    fn expect(&mut self, topic: &str, qos: QoS, retain: bool, payload: &[u8]) -> PublishProperties {
        let message = self.next();
        assert_eq!(
            (message.topic.as_ref(), message.qos, message.retain),
            (topic.as_bytes(), qos, retain),
            "for {topic}"
        );
        assert!(message.payload == payload, "{} bytes came for {}", message.payload.len(), payload.len());
        message.properties.unwrap_or_default()
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

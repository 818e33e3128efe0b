"""paho-mqtt 2 against the broker, MQTT 3.1, 3.1.1 and 5.0: paho_client.py HOST PORT 3|4|5
[mqtt|ws|mqtts|wss CA].

The widest of the client scripts: whatever paho can say is said here, and what comes back is compared.
Silence is proved by a marker: what must not arrive would have come before it.
"""

import asyncio
import concurrent.futures
import queue
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from check import WAIT_SECONDS, binary, case, cut, equal, main

ALL = (3, 4, 5)


def props(packet, **values):
    """Properties of a packet; the names are paho's, such as SessionExpiryInterval."""
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def publish_props(**values):
    return props(PacketTypes.PUBLISH, **values)


class Peer:
    """A connected paho client whose callbacks are turned into queues."""

    def __init__(self, spot, who, clean=True, keep_alive=60, will=None, expiry=0, loop=True, client_id=None, **connect):
        self.messages, self.acks, self.ended = queue.Queue(), queue.Queue(), queue.Queue()
        self.connack = queue.Queue()
        session = {} if spot.level == 5 else {"clean_session": clean}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=spot.client(who) if client_id is None else client_id,
            protocol=spot.level,
            reconnect_on_failure=False,
            transport=spot.transport,
            **session,
        )
        if spot.ca:
            self.client.tls_set(ca_certs=spot.ca)
        self.client.on_connect = lambda c, u, flags, code, p: self.connack.put((flags, code, p))
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.acks.put([code.value for code in codes])
        self.client.on_unsubscribe = lambda c, u, mid, codes, p: self.acks.put([code.value for code in codes])
        self.client.on_disconnect = lambda c, u, flags, code, p: self.ended.put((flags, code))
        if will:
            self.client.will_set(*will)
        start = {}
        if spot.level == 5:
            start = {
                "clean_start": clean,
                "properties": props(PacketTypes.CONNECT, SessionExpiryInterval=expiry, **connect),
            }
        self.client.connect(spot.host, spot.port, keepalive=keep_alive, **start)
        self.looping = loop
        if loop:
            self.client.loop_start()
            flags, code, self.properties = self.connack.get(timeout=WAIT_SECONDS)
        else:
            end = time.monotonic() + WAIT_SECONDS
            while self.connack.empty() and time.monotonic() < end:
                self.client.loop(0.1)
            flags, code, self.properties = self.connack.get_nowait()
        assert not code.is_failure, f"{who} was refused: {code}"
        self.session_present = flags.session_present

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def subscribe(self, *arguments, **options):
        result, _ = self.client.subscribe(*arguments, **options)
        equal(result, mqtt.MQTT_ERR_SUCCESS, "subscribe")
        return self.acks.get(timeout=WAIT_SECONDS)

    def unsubscribe(self, topic):
        result, _ = self.client.unsubscribe(topic)
        equal(result, mqtt.MQTT_ERR_SUCCESS, "unsubscribe")
        return self.acks.get(timeout=WAIT_SECONDS)

    def publish(self, topic, payload, qos=0, retain=False, **properties):
        """Returns when the flow is over."""
        made = publish_props(**properties) if properties else None
        info = self.client.publish(topic, payload, qos, retain, properties=made)
        info.wait_for_publish(WAIT_SECONDS)
        assert info.is_published(), f"publish to {topic} at QoS {qos} was never acknowledged"

    def next(self, seconds=WAIT_SECONDS):
        try:
            return self.messages.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no message within {seconds} s") from None

    def expect(self, topic, payload, qos=None, retain=None):
        message = self.next()
        equal((message.topic, message.payload), (topic, payload), "message")
        if qos is not None:
            equal(message.qos, qos, "QoS")
        if retain is not None:
            equal(message.retain, retain, "retain")
        return message

    def drop(self):
        """Ends the connection without DISCONNECT."""
        cut(self.client.socket())
        self.ended.get(timeout=WAIT_SECONDS)
        self.client.loop_stop()

    def close(self):
        self.client.disconnect()
        if self.looping:
            self.client.loop_stop()


@case(*ALL)
def each_qos_both_ways(spot):
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        for wanted in (0, 1, 2):
            equal(sub.subscribe(spot.topic(f"{wanted}/+"), wanted), [wanted], "granted QoS")
            for sent in (0, 1, 2):
                for payload in (b"", b"text", bytes(range(256)), binary(100_000)):
                    pub.publish(spot.topic(f"{wanted}/{sent}"), payload, sent)
                    sub.expect(spot.topic(f"{wanted}/{sent}"), payload, min(wanted, sent), False)


@case(*ALL)
def a_megabyte_arrives_whole(spot):
    payload = binary(1 << 20)
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        sub.subscribe(spot.topic("big"), 2)
        for qos in (1, 2):
            pub.publish(spot.topic("big"), payload, qos)
            message = sub.next(20)
            assert message.payload == payload, f"{len(message.payload)} bytes came, or other ones"


@case(*ALL)
def wildcards_match_levels(spot):
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        equal(sub.subscribe([(spot.topic("+/state"), 1), (spot.topic("deep/#"), 0)]), [1, 0], "granted QoS")
        for rest in ("a/other", "a/b/state", "shallow"):
            pub.publish(spot.topic(rest), b"no", 1)
        for rest in ("a/state", "/state", "deep", "deep/a/b/c"):
            pub.publish(spot.topic(rest), rest, 1)
            sub.expect(spot.topic(rest), rest.encode())


@case(*ALL)
def a_burst_keeps_its_order(spot):
    count = 500
    with Peer(spot, "sub") as sub, Peer(spot, "other") as other, Peer(spot, "pub") as pub:
        sub.subscribe(spot.topic("burst"), 2)
        other.subscribe(spot.topic("#"), 1)
        for qos in (0, 1, 2):
            for n in range(count):
                pub.client.publish(spot.topic("burst"), str(n), qos)
            for peer in (sub, other):
                equal([int(peer.next().payload) for _ in range(count)], list(range(count)), f"order at QoS {qos}")


@case(*ALL)
def retained_is_kept_replaced_and_cleared(spot):
    with Peer(spot, "pub") as pub, Peer(spot, "live") as live:
        live.subscribe(spot.topic("r"), 1)
        for payload in (b"first", b"second"):
            pub.publish(spot.topic("r"), payload, 1, True)
            live.expect(spot.topic("r"), payload, 1, False)
        with Peer(spot, "late") as late:
            late.subscribe(spot.topic("+"), 2)
            late.expect(spot.topic("r"), b"second", 1, True)
        pub.publish(spot.topic("r"), b"", 1, True)
        with Peer(spot, "later") as later:
            later.subscribe(spot.topic("#"), 1)
            pub.publish(spot.topic("marker"), b"end", 1)
            later.expect(spot.topic("marker"), b"end")


@case(*ALL)
def will_comes_after_an_abrupt_close_only(spot):
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        sub.subscribe(spot.topic("#"), 2)
        Peer(spot, "calm", will=(spot.topic("will"), b"calm", 1, False)).close()
        pub.publish(spot.topic("marker"), b"end", 1)
        sub.expect(spot.topic("marker"), b"end")
        Peer(spot, "dies", will=(spot.topic("will"), b"died", 2, True)).drop()
        sub.expect(spot.topic("will"), b"died", 2, False)
        with Peer(spot, "late") as late:
            late.subscribe(spot.topic("will"), 2)
            late.expect(spot.topic("will"), b"died", 2, True)
        pub.publish(spot.topic("will"), b"", 1, True)


@case(*ALL)
def will_comes_when_keep_alive_lapses(spot):
    with Peer(spot, "sub") as sub:
        sub.subscribe(spot.topic("will"), 1)
        start = time.monotonic()
        silent = Peer(spot, "mute", keep_alive=1, will=(spot.topic("will"), b"lapsed", 1, False), loop=False)
        sub.expect(spot.topic("will"), b"lapsed", 1)
        took = time.monotonic() - start
        # One and a half times the keep alive.
        assert 1.0 <= took, f"will after {took:.2f} s"
        silent.close()


@case(*ALL)
def ping_keeps_an_idle_connection(spot):
    with Peer(spot, "idle", keep_alive=6) as idle, Peer(spot, "pub") as pub:
        idle.subscribe(spot.topic("ping"), 1)
        time.sleep(10)
        assert idle.ended.empty(), f"disconnected: {idle.ended.queue}"
        pub.publish(spot.topic("ping"), b"still here", 1)
        idle.expect(spot.topic("ping"), b"still here")


@case(*ALL)
def session_is_resumed_with_its_queue(spot):
    keep = {"clean": False, "expiry": 120}
    with Peer(spot, "s", **keep) as away:
        equal(away.session_present, False, "session present at first")
        equal(away.subscribe(spot.topic("q"), 2), [2], "granted QoS")
    with Peer(spot, "pub") as pub:
        for n in range(20):
            pub.publish(spot.topic("q"), str(n), 1 + n % 2)
    with Peer(spot, "s", **keep) as back:
        if spot.level != 3:
            equal(back.session_present, True, "session present")
        got = [(int(m.payload), m.qos) for m in (back.next() for _ in range(20))]
        for qos in (1, 2):
            wanted = [(n, qos) for n in range(20) if 1 + n % 2 == qos]
            equal([item for item in got if item[1] == qos], wanted, f"queue at QoS {qos}")
    with Peer(spot, "s", clean=True) as fresh, Peer(spot, "pub") as pub:
        equal(fresh.session_present, False, "session present after a clean start")
        pub.publish(spot.topic("q"), b"lost", 1)
        fresh.subscribe(spot.topic("marker"), 1)
        pub.publish(spot.topic("marker"), b"end", 1)
        fresh.expect(spot.topic("marker"), b"end")


@case(*ALL)
def session_survives_an_abrupt_close(spot):
    with Peer(spot, "pub") as pub:
        lost = Peer(spot, "s", clean=False, expiry=120)
        lost.subscribe(spot.topic("q"), 1)
        lost.drop()
        pub.publish(spot.topic("q"), b"meanwhile", 1)
        with Peer(spot, "s", clean=False, expiry=0) as back:
            back.expect(spot.topic("q"), b"meanwhile", 1)


@case(*ALL)
def unsubscribe_ends_delivery(spot):
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        sub.subscribe([(spot.topic("a"), 1), (spot.topic("b"), 1)])
        pub.publish(spot.topic("a"), b"1", 1)
        sub.expect(spot.topic("a"), b"1")
        codes = sub.unsubscribe(spot.topic("a"))
        if spot.level == 5:
            equal(codes, [0], "UNSUBACK")
            equal(sub.unsubscribe(spot.topic("a")), [0x11], "UNSUBACK of no subscription")
        pub.publish(spot.topic("a"), b"2", 1)
        pub.publish(spot.topic("b"), b"3", 1)
        sub.expect(spot.topic("b"), b"3")


@case(*ALL)
def a_second_connection_takes_over(spot):
    with Peer(spot, "sub") as sub:
        sub.subscribe(spot.topic("t"), 1)
        first = Peer(spot, "twin", will=(spot.topic("t"), b"taken over", 1, False))
        with Peer(spot, "twin"):
            _, code = first.ended.get(timeout=WAIT_SECONDS)
            if spot.level == 5:
                equal(code.value, 0x8E, "DISCONNECT")
            sub.expect(spot.topic("t"), b"taken over", 1)
        first.close()


@case(4, 5)
def an_empty_client_identifier_is_assigned(spot):
    with Peer(spot, "", client_id="") as one, Peer(spot, "", client_id="") as two:
        if spot.level == 5:
            names = {peer.properties.AssignedClientIdentifier for peer in (one, two)}
            equal(len(names), 2, f"two clients are named {names}")
        one.subscribe(spot.topic("x"), 1)
        two.publish(spot.topic("x"), b"hello", 1)
        one.expect(spot.topic("x"), b"hello")


@case(5)
def publish_properties_are_forwarded(spot):
    sent = {
        "PayloadFormatIndicator": 1,
        "MessageExpiryInterval": 300,
        "ContentType": "text/plain",
        "ResponseTopic": spot.topic("answer"),
        "CorrelationData": b"\x00\xff correlation",
    }
    user = [("one", "1"), ("two", "2"), ("one", "again"), ("", "")]
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        sub.subscribe(spot.topic("p"), 2)
        for qos in (0, 1, 2):
            pub.publish(spot.topic("p"), "grün", qos, UserProperty=user, **sent)
            got = sub.expect(spot.topic("p"), "grün".encode(), qos).properties
            for name, value in sent.items():
                if name == "MessageExpiryInterval":
                    assert value - 5 <= got.MessageExpiryInterval <= value, got.MessageExpiryInterval
                else:
                    equal(getattr(got, name), value, name)
            equal(got.UserProperty, user, "UserProperty")


@case(5)
def will_properties_are_forwarded(spot):
    will = props(PacketTypes.WILLMESSAGE, ContentType="x/y", UserProperty=("k", "v"), CorrelationData=b"c")
    with Peer(spot, "sub") as sub:
        sub.subscribe(spot.topic("will"), 1)
        Peer(spot, "dies", will=(spot.topic("will"), b"died", 1, False, will)).drop()
        got = sub.expect(spot.topic("will"), b"died").properties
        equal((got.ContentType, got.UserProperty, got.CorrelationData), ("x/y", [("k", "v")], b"c"), "properties")


@case(5)
def will_is_delayed_and_called_off(spot):
    delayed = {"expiry": 60, "clean": False}
    will = lambda text, delay: (
        spot.topic("will"), text, 1, False, props(PacketTypes.WILLMESSAGE, WillDelayInterval=delay)
    )
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        sub.subscribe(spot.topic("#"), 1)
        start = time.monotonic()
        Peer(spot, "gone", will=will(b"delayed", 1), **delayed).drop()
        sub.expect(spot.topic("will"), b"delayed")
        took = time.monotonic() - start
        assert took >= 0.9, f"will after {took:.2f} s"
        Peer(spot, "back", will=will(b"called off", 6), **delayed).drop()
        with Peer(spot, "back", clean=False, expiry=0):
            time.sleep(8)
            pub.publish(spot.topic("marker"), b"end", 1)
            sub.expect(spot.topic("marker"), b"end")


@case(5)
def session_ends_at_its_expiry(spot):
    with Peer(spot, "s", clean=False, expiry=1) as short:
        short.subscribe(spot.topic("q"), 1)
    time.sleep(2.2)
    with Peer(spot, "s", clean=False, expiry=0) as late:
        equal(late.session_present, False, "session present")


@case(5)
def an_expired_message_is_not_delivered(spot):
    keep = {"clean": False, "expiry": 60}
    with Peer(spot, "s", **keep) as away:
        away.subscribe(spot.topic("q"), 1)
    with Peer(spot, "pub") as pub:
        pub.publish(spot.topic("q"), b"stale", 1, MessageExpiryInterval=1)
        pub.publish(spot.topic("q"), b"fresh", 1, MessageExpiryInterval=100)
    time.sleep(2.2)
    with Peer(spot, "s", clean=False, expiry=0) as back:
        left = back.expect(spot.topic("q"), b"fresh").properties.MessageExpiryInterval
        assert 30 <= left <= 99, f"{left} s left of 100 after 2 s"


@case(5)
def subscription_identifiers_come_with_each_match(spot):
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        for filter_, number in ((spot.topic("+/x"), 7), (spot.topic("a/#"), 268_435_455), (spot.topic("m"), 1)):
            sub.subscribe(filter_, 1, properties=props(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=number))
        pub.publish(spot.topic("a/x"), b"both", 1)
        pub.publish(spot.topic("m"), b"end", 1)
        # One message with both or a message for each: the standard allows either.
        numbers = []
        while (message := sub.next()).payload != b"end":
            numbers += message.properties.SubscriptionIdentifier
        equal(sorted(numbers), [7, 268_435_455], "identifiers")
        equal(message.properties.SubscriptionIdentifier, [1], "identifier of the marker")


@case(5)
def shared_subscription_deals_each_message_once(spot):
    count = 40
    with Peer(spot, "one") as one, Peer(spot, "two") as two, Peer(spot, "all") as every, Peer(spot, "pub") as pub:
        for member in (one, two):
            equal(member.subscribe(f"$share/group/{spot.topic('job')}", 1), [1], "granted QoS")
        every.subscribe(spot.topic("job"), 1)
        for n in range(count):
            pub.publish(spot.topic("job"), str(n), 1)
        equal([int(every.next().payload) for _ in range(count)], list(range(count)), "the plain subscriber's")
        end = time.monotonic() + WAIT_SECONDS
        while one.messages.qsize() + two.messages.qsize() < count and time.monotonic() < end:
            time.sleep(0.02)
        shares = [[int(m.payload) for m in list(peer.messages.queue)] for peer in (one, two)]
        equal(sorted(shares[0] + shares[1]), list(range(count)), "both shares")
        assert all(shares), f"one member got all: {shares}"


@case(5)
def topic_alias_stands_for_the_topic(spot):
    with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        sub.subscribe(spot.topic("#"), 1)
        limit = getattr(pub.properties, "TopicAliasMaximum", 0)
        assert limit >= 2, f"Topic Alias Maximum {limit}"
        for alias, rest in ((1, "first"), (limit, "second")):
            pub.publish(spot.topic(rest), b"named", 1, TopicAlias=alias)
            sub.expect(spot.topic(rest), b"named")
        for alias, rest in ((limit, "second"), (1, "first")):
            pub.publish("", b"by alias", 1, TopicAlias=alias)
            sub.expect(spot.topic(rest), b"by alias")
        pub.publish(spot.topic("third"), b"renamed", 1, TopicAlias=1)
        sub.expect(spot.topic("third"), b"renamed")
        pub.publish("", b"by alias", 0, TopicAlias=1)
        sub.expect(spot.topic("third"), b"by alias")


@case(5)
def topic_aliases_of_the_broker_keep_within_the_clients_limit(spot):
    with Peer(spot, "sub", TopicAliasMaximum=2) as sub, Peer(spot, "pub") as pub:
        sub.subscribe(spot.topic("#"), 1)
        topics = {}
        for n in range(12):
            pub.publish(spot.topic(str(n % 4)), str(n), 1)
            message = sub.next()
            alias = getattr(message.properties, "TopicAlias", None)
            assert alias in (None, 1, 2), f"alias {alias} of at most 2"
            # paho leaves it to its caller to remember the aliases.
            topic = message.topic or topics[alias]
            if alias:
                topics[alias] = topic
            equal((topic, message.payload), (spot.topic(str(n % 4)), str(n).encode()), "message")


@case(5)
def subscription_options_are_kept(spot):
    options = lambda **values: SubscribeOptions(qos=1, **values)
    with Peer(spot, "self") as me, Peer(spot, "pub") as pub:
        pub.publish(spot.topic("r"), b"kept", 1, True)
        # No Local
        me.subscribe(spot.topic("own"), options=options(noLocal=True))
        me.publish(spot.topic("own"), b"mine", 1)
        pub.publish(spot.topic("own"), b"another's", 1)
        me.expect(spot.topic("own"), b"another's")
        # Retain Handling: 2 never, 1 only where the subscription is new, 0 always
        me.subscribe(spot.topic("r"), options=options(retainHandling=2))
        me.subscribe(spot.topic("r"), options=options(retainHandling=1))
        me.subscribe(spot.topic("r"), options=options(retainHandling=0))
        me.expect(spot.topic("r"), b"kept", 1, True)
        pub.publish(spot.topic("own"), b"marker", 1)
        me.expect(spot.topic("own"), b"marker")
        me.unsubscribe(spot.topic("r"))
        me.subscribe(spot.topic("r"), options=options(retainHandling=1, retainAsPublished=True))
        me.expect(spot.topic("r"), b"kept", 1, True)
        # Retain As Published
        pub.publish(spot.topic("r"), b"live", 1, True)
        me.expect(spot.topic("r"), b"live", 1, True)
        pub.publish(spot.topic("r"), b"", 1, True)


@case(5)
def receive_maximum_is_respected(spot):
    with Peer(spot, "slow", ReceiveMaximum=1) as slow, Peer(spot, "pub") as pub:
        slow.subscribe(spot.topic("q"), 2)
        for n in range(30):
            pub.publish(spot.topic("q"), str(n), 1 + n // 15)
        equal([int(slow.next().payload) for _ in range(30)], list(range(30)), "messages")


@case(5)
def a_packet_over_the_clients_maximum_is_left_out(spot):
    with Peer(spot, "small", MaximumPacketSize=300) as small, Peer(spot, "pub") as pub:
        small.subscribe(spot.topic("q"), 1)
        for payload in (binary(1000), b"end"):
            pub.publish(spot.topic("q"), payload, 1)
        small.expect(spot.topic("q"), b"end")


@case(5)
def a_request_finds_its_response(spot):
    with Peer(spot, "asks") as asks, Peer(spot, "answers") as answers:
        answers.subscribe(spot.topic("request"), 1)
        asks.subscribe(spot.topic("response"), 1)
        asks.publish(spot.topic("request"), b"6*7", 1, ResponseTopic=spot.topic("response"), CorrelationData=b"42?")
        question = answers.expect(spot.topic("request"), b"6*7").properties
        answers.publish(question.ResponseTopic, b"42", 1, CorrelationData=question.CorrelationData)
        equal(asks.expect(spot.topic("response"), b"42").properties.CorrelationData, b"42?", "correlation data")


# paho blocks its caller, so each case has a thread of its own.
threads = concurrent.futures.ThreadPoolExecutor(max_workers=8)


async def in_thread(function, spot):
    await asyncio.get_running_loop().run_in_executor(threads, function, spot)


main(in_thread)

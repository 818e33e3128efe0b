"""aiomqtt 2 against the broker, MQTT 3.1, 3.1.1 and 5.0: aiomqtt_client.py HOST PORT 3|4|5
[mqtt|ws|mqtts|wss CA]."""

import asyncio
import time

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from check import WAIT_SECONDS, binary, case, cut, equal, main

ALL = (3, 4, 5)


def props(packet, **values):
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def connect(spot, who, clean=True, expiry=0, **options):
    """A client to be entered with `async with`; leaving it sends DISCONNECT."""
    if spot.level == 5:
        options |= {"clean_start": clean, "properties": props(PacketTypes.CONNECT, SessionExpiryInterval=expiry)}
    else:
        options |= {"clean_session": clean}
    return aiomqtt.Client(
        spot.host,
        spot.port,
        identifier=spot.client(who),
        protocol=aiomqtt.ProtocolVersion(spot.level),
        timeout=WAIT_SECONDS,
        transport=spot.transport,
        tls_params=aiomqtt.TLSParameters(ca_certs=spot.ca) if spot.ca else None,
        **options,
    )


async def take(client):
    try:
        return await asyncio.wait_for(anext(client.messages), WAIT_SECONDS)
    except asyncio.TimeoutError:
        raise AssertionError(f"no message within {WAIT_SECONDS} s") from None


async def expect(client, topic, payload, qos=None, retain=None):
    message = await take(client)
    equal((message.topic.value, message.payload), (topic, payload), "message")
    if qos is not None:
        equal(message.qos, qos, "QoS")
    if retain is not None:
        equal(bool(message.retain), retain, "retain")
    return message


async def die(client):
    """Ends the connection without DISCONNECT, while inside `async with`."""
    cut(client._client.socket())
    try:
        await take(client)
    except aiomqtt.MqttError:
        return
    raise AssertionError("the connection outlived its socket")


@case(*ALL)
async def each_qos_both_ways(spot):
    async with connect(spot, "sub") as sub, connect(spot, "pub") as pub:
        for wanted in (0, 1, 2):
            granted = await sub.subscribe(spot.topic(f"{wanted}/#"), wanted)
            equal([getattr(code, "value", code) for code in granted], [wanted], "granted QoS")
            for sent in (0, 1, 2):
                for payload in (b"", bytes(range(256)), binary(50_000)):
                    await pub.publish(spot.topic(f"{wanted}/{sent}"), payload, sent)
                    await expect(sub, spot.topic(f"{wanted}/{sent}"), payload, min(wanted, sent), False)


@case(*ALL)
async def messages_published_at_once_all_arrive(spot):
    count = 100
    async with connect(spot, "sub") as sub, connect(spot, "pub") as pub:
        pub.pending_calls_threshold = count
        await sub.subscribe(spot.topic("+"), 2)
        await asyncio.gather(*(pub.publish(spot.topic(str(n % 5)), str(n), n % 3) for n in range(count)))
        got = sorted([int((await take(sub)).payload) for _ in range(count)])
        equal(got, list(range(count)), "messages")


@case(*ALL)
async def retained_is_kept_and_cleared(spot):
    async with connect(spot, "pub") as pub:
        await pub.publish(spot.topic("r"), b"kept", 1, True)
        async with connect(spot, "late") as late:
            await late.subscribe(spot.topic("r"), 1)
            await expect(late, spot.topic("r"), b"kept", 1, True)
        await pub.publish(spot.topic("r"), b"", 1, True)
        async with connect(spot, "later") as later:
            await later.subscribe(spot.topic("+"), 1)
            await pub.publish(spot.topic("marker"), b"end", 1)
            await expect(later, spot.topic("marker"), b"end")


@case(*ALL)
async def will_comes_after_an_abrupt_close_only(spot):
    will = lambda text: aiomqtt.Will(spot.topic("will"), text, 1)
    async with connect(spot, "sub") as sub:
        await sub.subscribe(spot.topic("will"), 1)
        async with connect(spot, "calm", will=will(b"calm")):
            pass
        async with connect(spot, "dies", will=will(b"died")) as dies:
            await die(dies)
        await expect(sub, spot.topic("will"), b"died", 1, False)


@case(*ALL)
async def session_is_resumed_with_its_queue(spot):
    async with connect(spot, "s", clean=False, expiry=60) as away:
        await away.subscribe(spot.topic("q"), 1)
    async with connect(spot, "pub") as pub:
        for n in range(10):
            await pub.publish(spot.topic("q"), str(n), 1)
    async with connect(spot, "s", clean=False, expiry=60) as back:
        equal([int((await take(back)).payload) for _ in range(10)], list(range(10)), "queue")
    async with connect(spot, "s") as fresh, connect(spot, "pub") as pub:
        await fresh.subscribe(spot.topic("marker"), 1)
        await pub.publish(spot.topic("q"), b"lost", 1)
        await pub.publish(spot.topic("marker"), b"end", 1)
        await expect(fresh, spot.topic("marker"), b"end")


@case(*ALL)
async def unsubscribe_ends_delivery(spot):
    async with connect(spot, "me") as me:
        await me.subscribe([(spot.topic("a"), 1), (spot.topic("b"), 1)])
        await me.unsubscribe([spot.topic("a"), spot.topic("none")])
        await me.publish(spot.topic("a"), b"1", 1)
        await me.publish(spot.topic("b"), b"2", 1)
        await expect(me, spot.topic("b"), b"2")


@case(*ALL)
async def ping_keeps_an_idle_connection(spot):
    # aiomqtt looks once a second whether to ping, and a busy machine later still.
    async with connect(spot, "idle", keepalive=6) as idle, connect(spot, "pub") as pub:
        await idle.subscribe(spot.topic("ping"), 0)
        await asyncio.sleep(10)
        await pub.publish(spot.topic("ping"), b"still here")
        await expect(idle, spot.topic("ping"), b"still here")


@case(5)
async def properties_are_forwarded(spot):
    sent = {
        "PayloadFormatIndicator": 1,
        "ContentType": "application/json",
        "ResponseTopic": spot.topic("answer"),
        "CorrelationData": b"\x00\x01\xff",
        "UserProperty": [("a", "1"), ("a", "2")],
    }
    async with connect(spot, "sub") as sub, connect(spot, "pub") as pub:
        await sub.subscribe(spot.topic("p"), 2)
        given = props(PacketTypes.PUBLISH, MessageExpiryInterval=60, **sent)
        await pub.publish(spot.topic("p"), b"{}", 2, properties=given)
        got = (await expect(sub, spot.topic("p"), b"{}", 2)).properties
        for name, value in sent.items():
            equal(getattr(got, name), value, name)
        assert 55 <= got.MessageExpiryInterval <= 60, got.MessageExpiryInterval


@case(5)
async def subscription_identifier_and_options_are_kept(spot):
    async with connect(spot, "me") as me, connect(spot, "pub") as pub:
        await me.subscribe(
            spot.topic("x"),
            options=SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True),
            properties=props(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=12),
        )
        await me.publish(spot.topic("x"), b"mine", 1)
        await pub.publish(spot.topic("x"), b"another's", 1, True)
        got = await expect(me, spot.topic("x"), b"another's", 1, True)
        equal(got.properties.SubscriptionIdentifier, [12], "identifier")
        await pub.publish(spot.topic("x"), b"", 1, True)


@case(5)
async def shared_subscription_deals_each_message_once(spot):
    count = 20
    async with connect(spot, "one") as one, connect(spot, "two") as two, connect(spot, "pub") as pub:
        for member in (one, two):
            await member.subscribe(f"$share/g/{spot.topic('job')}", 1)
        shares = [[], []]

        async def collect(member, share):
            async for message in member.messages:
                share.append(int(message.payload))

        readers = [asyncio.create_task(collect(*pair)) for pair in zip((one, two), shares)]
        for n in range(count):
            await pub.publish(spot.topic("job"), str(n), 1)
        end = time.monotonic() + WAIT_SECONDS
        while sum(map(len, shares)) < count and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for reader in readers:
            reader.cancel()
        equal(sorted(shares[0] + shares[1]), list(range(count)), "both shares")
        assert all(shares), f"one member got all: {shares}"


@case(5)
async def topic_alias_stands_for_the_topic(spot):
    async with connect(spot, "sub") as sub, connect(spot, "pub") as pub:
        await sub.subscribe(spot.topic("#"), 1)
        for topic in (spot.topic("t"), ""):
            await pub.publish(topic, b"x", 1, properties=props(PacketTypes.PUBLISH, TopicAlias=1))
            await expect(sub, spot.topic("t"), b"x")


async def run(function, spot):
    await function(spot)


main(run)

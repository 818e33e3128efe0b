"""gmqtt against the broker, MQTT 3.1.1 and 5.0: gmqtt_client.py HOST PORT 4|5."""

import asyncio
import logging
import time

import gmqtt

from check import WAIT_SECONDS, binary, case, equal, main

ALL = (4, 5)

# gmqtt logs each lost connection with its traceback, and connections are lost on purpose here.
logging.disable(logging.CRITICAL)


class Peer:
    """A connected gmqtt client whose callbacks are turned into queues."""

    def __init__(self, spot, who, clean=True, keep_alive=60, **properties):
        self.spot, self.keep_alive = spot, keep_alive
        self.messages, self.acks = asyncio.Queue(), asyncio.Queue()
        self.client = gmqtt.Client(spot.client(who), clean_session=clean, **properties)
        self.client.set_config({"reconnect_retries": 0, "reconnect_delay": 60})
        self.client.on_connect = lambda client, flags, code, given: setattr(self, "flags", flags)
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda client, mid, codes, given: self.acks.put_nowait(list(codes))
        self.client.on_unsubscribe = lambda client, mid, codes: self.acks.put_nowait(list(codes))

    def _on_message(self, client, topic, payload, qos, properties):
        self.messages.put_nowait((topic, bytes(payload), qos, bool(properties["retain"]), properties))
        return 0

    async def __aenter__(self):
        connected = self.client.connect(
            self.spot.host, self.spot.port, keepalive=self.keep_alive, version=self.spot.level
        )
        await asyncio.wait_for(connected, WAIT_SECONDS)
        return self

    async def __aexit__(self, *unused):
        await self.client.disconnect()

    async def subscribe(self, *arguments, **options):
        self.client.subscribe(*arguments, **options)
        return await asyncio.wait_for(self.acks.get(), WAIT_SECONDS)

    async def unsubscribe(self, topic):
        self.client.unsubscribe(topic)
        return await asyncio.wait_for(self.acks.get(), WAIT_SECONDS)

    async def expect(self, topic, payload, qos=None, retain=None):
        try:
            got = await asyncio.wait_for(self.messages.get(), WAIT_SECONDS)
        except asyncio.TimeoutError:
            raise AssertionError(f"no message within {WAIT_SECONDS} s") from None
        equal(got[:2], (topic, payload), "message")
        if qos is not None:
            equal(got[2], qos, "QoS")
        if retain is not None:
            equal(got[3], retain, "retain")
        return got[4]

    async def delivered(self):
        """Waits until every publish at QoS 1 and 2 is acknowledged."""
        await asyncio.wait_for(self.client._persistent_storage.wait_empty(), WAIT_SECONDS)

    async def drop(self):
        """Ends the connection without DISCONNECT."""
        self.client._connection._transport.abort()
        await asyncio.sleep(0)


@case(*ALL)
async def each_qos_both_ways(spot):
    async with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        for wanted in (0, 1, 2):
            equal(await sub.subscribe(spot.topic(f"{wanted}/+"), wanted), [wanted], "granted QoS")
            for sent in (0, 1, 2):
                for payload in (b"", bytes(range(256)), binary(70_000)):
                    pub.client.publish(spot.topic(f"{wanted}/{sent}"), payload, sent)
                    await sub.expect(spot.topic(f"{wanted}/{sent}"), payload, min(wanted, sent), False)
        await pub.delivered()


@case(*ALL)
async def a_burst_keeps_its_order(spot):
    async with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        await sub.subscribe(spot.topic("burst"), 2)
        for qos in (0, 1, 2):
            for n in range(15):
                pub.client.publish(spot.topic("burst"), str(n), qos)
            for n in range(15):
                await sub.expect(spot.topic("burst"), str(n).encode(), qos)
            await pub.delivered()


@case(*ALL)
async def retained_is_kept_and_cleared(spot):
    async with Peer(spot, "pub") as pub:
        pub.client.publish(spot.topic("r"), b"kept", 1, True)
        await pub.delivered()
        async with Peer(spot, "late") as late:
            await late.subscribe(spot.topic("r"), 1)
            await late.expect(spot.topic("r"), b"kept", 1, True)
        pub.client.publish(spot.topic("r"), b"", 1, True)
        await pub.delivered()
        async with Peer(spot, "later") as later:
            await later.subscribe(spot.topic("+"), 1)
            pub.client.publish(spot.topic("marker"), b"end", 1)
            await later.expect(spot.topic("marker"), b"end")


@case(*ALL)
async def will_comes_after_an_abrupt_close_only(spot):
    will = lambda text: gmqtt.Message(spot.topic("will"), text, qos=1)
    async with Peer(spot, "sub") as sub:
        await sub.subscribe(spot.topic("will"), 1)
        async with Peer(spot, "calm", will_message=will("calm")):
            pass
        async with Peer(spot, "dies", will_message=will("died")) as dies:
            await dies.drop()
            await sub.expect(spot.topic("will"), b"died", 1, False)


@case(*ALL)
async def session_is_resumed_with_its_queue(spot):
    keep = {"session_expiry_interval": 60} if spot.level == 5 else {}
    async with Peer(spot, "s", clean=False, **keep) as away:
        await away.subscribe(spot.topic("q"), 1)
    async with Peer(spot, "pub") as pub:
        for n in range(10):
            pub.client.publish(spot.topic("q"), str(n), 1)
        await pub.delivered()
    async with Peer(spot, "s", clean=False, **keep) as back:
        equal(back.flags & 1, 1, "session present")
        for n in range(10):
            await back.expect(spot.topic("q"), str(n).encode(), 1)
    async with Peer(spot, "s") as fresh:
        equal(fresh.flags & 1, 0, "session present after a clean start")


@case(*ALL)
async def unsubscribe_ends_delivery(spot):
    async with Peer(spot, "me") as me:
        await me.subscribe(spot.topic("a"), 1)
        await me.subscribe(spot.topic("b"), 1)
        await me.unsubscribe(spot.topic("a"))
        me.client.publish(spot.topic("a"), b"1", 1)
        me.client.publish(spot.topic("b"), b"2", 1)
        await me.expect(spot.topic("b"), b"2")


@case(*ALL)
async def ping_keeps_an_idle_connection(spot):
    async with Peer(spot, "idle", keep_alive=6) as idle, Peer(spot, "pub") as pub:
        await idle.subscribe(spot.topic("ping"), 0)
        await asyncio.sleep(10)
        pub.client.publish(spot.topic("ping"), b"still here")
        await idle.expect(spot.topic("ping"), b"still here")


@case(5)
async def properties_are_forwarded(spot):
    sent = {
        "payload_format_id": 1,
        "content_type": "application/json",
        "response_topic": spot.topic("answer"),
        "correlation_data": b"\x00\x01\xff",
    }
    user = [("a", "1"), ("a", "2")]
    async with Peer(spot, "sub") as sub, Peer(spot, "pub") as pub:
        await sub.subscribe(spot.topic("p"), 2)
        pub.client.publish(spot.topic("p"), b"{}", 2, user_property=user, message_expiry_interval=60, **sent)
        got = await sub.expect(spot.topic("p"), b"{}", 2)
        for name, value in sent.items():
            equal(got[name], [value], name)
        equal(got["user_property"], user, "user_property")
        assert 55 <= got["message_expiry_interval"][0] <= 60, got["message_expiry_interval"]


@case(5)
async def subscription_identifier_and_options_are_kept(spot):
    async with Peer(spot, "me") as me, Peer(spot, "pub") as pub:
        await me.subscribe(spot.topic("x"), 1, no_local=True, retain_as_published=True, subscription_identifier=300)
        me.client.publish(spot.topic("x"), b"mine", 1)
        await me.delivered()
        pub.client.publish(spot.topic("x"), b"another's", 1, True)
        got = await me.expect(spot.topic("x"), b"another's", 1, True)
        equal(got["subscription_identifier"], [300], "identifier")
        pub.client.publish(spot.topic("x"), b"", 1, True)
        await pub.delivered()


@case(5)
async def shared_subscription_deals_each_message_once(spot):
    count = 18
    async with Peer(spot, "one") as one, Peer(spot, "two") as two, Peer(spot, "pub") as pub:
        for member in (one, two):
            await member.subscribe(f"$share/g/{spot.topic('job')}", 1)
        for n in range(count):
            pub.client.publish(spot.topic("job"), str(n), 1)
        end = time.monotonic() + WAIT_SECONDS
        while one.messages.qsize() + two.messages.qsize() < count and time.monotonic() < end:
            await asyncio.sleep(0.02)
        shares = [[int(peer.messages.get_nowait()[1]) for _ in range(peer.messages.qsize())] for peer in (one, two)]
        equal(sorted(shares[0] + shares[1]), list(range(count)), "both shares")
        assert all(shares), f"one member got all: {shares}"


@case(5)
async def topic_alias_stands_for_the_topic(spot):
    # gmqtt resolves the broker's aliases itself: with a maximum of 1, the broker may use one at any time.
    async with Peer(spot, "sub", topic_alias_maximum=1) as sub, Peer(spot, "pub") as pub:
        await sub.subscribe(spot.topic("#"), 1)
        for topic in (spot.topic("t"), "", ""):
            pub.client.publish(topic, b"x", 1, topic_alias=1)
            await sub.expect(spot.topic("t"), b"x")


async def run(function, spot):
    await function(spot)


main(run)

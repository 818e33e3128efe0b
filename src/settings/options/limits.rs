//! The limits: `[limits]`.

use super::{BYTES_PER_SECOND_MAX, MESSAGES_PER_SECOND_MAX, PACKET_BYTES_MAX, integer};
use crate::settings::value::ChangeTime::{AtOnce, NewConnections};
use crate::settings::value::{Allowed, Literal, OptionRow, QueuePolicy, Refused, Section, Setting};

const GIB: u64 = 1 << 30;

sections! {
    /// Limits of the broker.
    "limits" => Limits,
    "Limits, and what midge does when one is reached. Each limit has a counter and, where a client causes it, a log \
     line with the client's name. If a limit is divided among the shards, each shard enforces an equal part of it." {
        connections: usize = 0, integer(0..=10_000_000), "connections", NewConnections,
            "Connections at a time, including those that have not finished CONNECT. Further connections are closed at \
             once and counted. 0: as many as the limit on open files allows; the start-up lines name the number. midge \
             does not start if the limit on open files is too low for the number given here.";
        handshakes: usize = 10_000, integer(1..=10_000_000), "connections", NewConnections,
            "Connections at a time that have not finished CONNECT. Further connections are closed at once and \
             counted.";
        handshakes_per_address: usize = 2000, integer(1..=10_000_000), "connections", NewConnections,
            "Connections of one address at a time that have not finished CONNECT, divided among the shards. It keeps \
             a few addresses from locking out all others. Further connections are closed at once and counted; a log \
             line names the address once a minute. [gate] says what counts as one address. It does not apply to load \
             balancers of proxy_trusted or to addresses of gate.exempt.";
        connect_rate: u32 = 0, integer(0..=1_000_000), "connections a second", NewConnections,
            "Connections that one address may open in the long run, over all listeners and shards. Further \
             connections are closed before a byte of them is read, and counted; a log line names the address once a \
             minute. [gate] says what counts as one address. 0: no limit.";
        connect_burst: u32 = 100, integer(1..=1_000_000), "connections", NewConnections,
            "Connections that one address may open at once after a pause. It applies only with connect_rate.";
        connect_seconds: u32 = 10, integer(1..=3600), "seconds", NewConnections,
            "Time for the whole CONNECT to arrive and for enhanced authentication to finish. It includes the TLS and \
             WebSocket handshakes and a PROXY header. Devices with slow processors or links need 30 or more. Then the \
             connection is closed. A login that could not be checked in this time is refused with 0x89 (3.x: 0x03).";
        tcp_keepalive_seconds: u32 = 600, integer(0..=32_767), "seconds", NewConnections,
            "If nothing has come from a client for this long, the kernel probes whether its machine is still there \
             (SO_KEEPALIVE). It sends five probes, at most a minute apart, and ends the connection if no answer has \
             come within tcp_user_timeout_seconds. This ends the connection of a client without a keep alive, or with \
             a long one, whose network has gone. Clients whose keep alive is shorter are never probed. Set 0 if \
             devices sleep without a network for longer than tcp_user_timeout_seconds and then go on with the same \
             connection. It does not apply to Unix-domain sockets. 0: no probes.";
        tcp_user_timeout_seconds: u32 = 900, integer(0..=86_400), "seconds", NewConnections,
            "How long a client's machine may leave sent data unacknowledged, the probes of tcp_keepalive_seconds \
             included, or accept none of the data that waits for it, before the kernel ends the connection \
             (TCP_USER_TIMEOUT). If this is below tcp_keepalive_seconds, a minute without an answer is enough. It does \
             not apply to Unix-domain sockets. 0: the kernel's own rules, about 15 minutes for unacknowledged data, \
             and all five probes.";
        connect_bytes: usize = 131_072, integer(128..=16_777_216), "bytes", NewConnections,
            "Largest CONNECT packet, will message included, of a client whose certificate gives its user name \
             (tls_user_name). A larger CONNECT is refused as soon as its length is known: CONNACK 0x95 (3.x: closed).";
        connect_bytes_unnamed: usize = 16_384, integer(128..=16_777_216), "bytes", NewConnections,
            "The same for all other clients. Their names are not known until the whole CONNECT has arrived, so \
             anybody can occupy this much memory for connect_seconds. The lower of the two limits applies to them. \
             Raise it for clients with larger wills or tokens.";
        packet_bytes: usize = 2_000_000, integer(20..=PACKET_BYTES_MAX), "bytes", NewConnections,
            "Largest packet from a client after CONNECT, announced as Maximum Packet Size. A client that sends a \
             larger packet is disconnected with 0x95 (3.x: closed) as soon as the length is known.";
        payload_bytes: usize = PACKET_BYTES_MAX as usize, integer(1..=PACKET_BYTES_MAX), "bytes", AtOnce,
            "Largest payload of a message or a will. A larger message is delivered to nobody. Its publisher gets 0x95 \
             (3.x: an acknowledgement like any other; QoS 0: nothing) and stays connected. A CONNECT with a larger \
             will is refused with 0x95 (3.x: 0x05).";
        inflight_messages: usize = 1000, integer(1..=65535), "messages", NewConnections,
            "QoS 1 and 2 messages on their way to one client without acknowledgement. The client's Receive Maximum \
             applies if it is lower. Further messages wait in the session's queue.";
        inflight_bytes: usize = 16_777_216, integer(1..=2_147_483_647), "bytes", NewConnections,
            "Payload bytes of QoS 1 and 2 messages on their way to one client without acknowledgement. Once they are \
             reached, further messages wait in the session's queue. 2147483647: no limit.";
        session_queue_messages: usize = 10_000, integer(1..=100_000_000), "messages", AtOnce,
            "QoS 1 and 2 messages that wait for one session, connected or not. session_queue_policy says what happens \
             when the queue is full.";
        session_queue_policy: QueuePolicy = QueuePolicy::DropOldest, Allowed::Choice(QueuePolicy::WORDS), "", AtOnce,
            "What happens when a session's queue is full, unless its listener has its own policy. No publisher waits \
             or is closed because of it, and every other session gets the message. \"drop_oldest\": the oldest message \
             of the queue is dropped, although its publisher has an acknowledgement for it. \"drop_newest\": the new \
             message is dropped for this session and acknowledged. \"refuse\": the new message is dropped for this \
             session, and a 5.0 publisher gets 0x97 and stays connected; all sessions that had room have the message, \
             and get it again if it is published again. 3.x has no such code: its publishers get an acknowledgement. A \
             QoS 0 message (protocol.queue_qos0) never displaces another message. Dropped messages are counted for the \
             session, and logged once with its client until the queue has been empty. When the client is back, midge \
             reports them in the log, and to 5.0 clients as User Property midge-dropped in CONNACK.";
        session_queue_bytes: usize = 16_777_216, integer(1024..=1 << 40), "bytes", AtOnce,
            "Bytes of the messages that wait for one session. session_queue_policy says what happens when they are \
             reached.";
        queue_bytes_total: usize = 1_073_741_824, integer(1 << 20..=1 << 50), "bytes", AtOnce,
            "Bytes of all messages that are kept for sessions, waiting or on their way. A shard counts each message \
             once, however many sessions share it. The limit is divided among the shards, and is never more than half \
             of memory_bytes. When it is reached, session_queue_policy applies to the next message, and each client \
             has one message at a time on its way. No queue is emptied because of what other sessions hold: then the \
             new message is dropped.";
        backlog_bytes: usize = 1_048_576, integer(4096..=GIB), "bytes", AtOnce,
            "Bytes written for one connection that its socket has not taken yet. Above this, QoS 0 messages for this \
             client are dropped and counted. A message that was begun is sent to its end, whatever its size. QoS 1 and \
             2 messages wait in the session's queue as soon as there is a backlog. midge goes on reading from the \
             client, so that its PINGREQ and its acknowledgements count. The exception is a client that asks for more \
             than it reads: if an eighth of these bytes are answers to its own packets, or messages that it has sent \
             to itself, midge reads nothing more from it until it has read most of them. Meanwhile its keep alive ends \
             the connection only if its socket takes nothing.";
        upload_bytes_per_second_min: u32 = 100, integer(0..=1_000_000), "bytes per second", AtOnce,
            "Lowest average rate of a packet that is arriving. A packet at this rate keeps its client alive, however \
             long it takes; packet_bytes limits its size. A slower packet ends the connection with 0x8D (3.x: closed) \
             after one and a half times the keep alive, or after 15 minutes if the client has none, and is counted. 0: \
             any byte keeps the client alive. A packet that midge itself has stopped reading is never too slow.";
        memory_bytes: usize = 0, integer(0..=1 << 50), "bytes", AtOnce,
            "Memory that clients may make midge keep, of every kind: messages that wait or are on their way, retained \
             messages, bytes that slow clients have not taken, unfinished packets and handshakes, sessions, \
             subscriptions, wills, topic aliases. midge counts what the allocator takes and shows it under \
             $SYS/broker/memory. From three quarters of the limit on, QoS 0 messages are dropped for clients with more \
             than 64 KiB of backlog. From seven eighths on, midge stops reading packets of more than 16 KiB, and \
             refuses new sessions, wills and subscriptions, and retained messages larger than those that they replace, \
             with 0x97 (3.x: 0x03 in CONNACK, 0x80 in SUBACK). At the limit, midge ends the connection that holds the \
             most with 0x97, then the next; a connection that has not finished CONNECT is closed if more than 4 KiB of \
             its handshake or CONNECT would have to be kept. What was acknowledged is never given up to save memory. \
             0: half of the memory that the machine, the cgroup or \"ulimit -v\" allows; the start-up lines name it.";
        retained_messages: usize = 1_000_000, integer(1..=1_000_000_000), "messages", AtOnce,
            "Retained messages, divided among the shards; midge's own below $SYS do not count. A further message is \
             not retained, and the retained messages stay. Its publisher gets 0x97 (3.x has no such code: an \
             acknowledgement; QoS 0: nothing). Current subscribers get the message all the same. It is counted and \
             logged.";
        retained_bytes: usize = 1_073_741_824, integer(1024..=1 << 50), "bytes", AtOnce,
            "Bytes of all retained messages with their topics and properties, divided among the shards, and never \
             more than half of memory_bytes. Above this, the same happens as with retained_messages.";
        subscriptions_per_client: usize = 10_000, integer(1..=10_000_000), "subscriptions", AtOnce,
            "Subscriptions of one session. Further subscriptions get 0x97 in SUBACK (3.x: 0x80).";
        subscription_bytes_per_client: usize = 4_194_304, integer(1024..=1 << 40), "bytes", AtOnce,
            "Bytes of the topic filters of one session. Further subscriptions get 0x97 in SUBACK (3.x: 0x80).";
        client_id_bytes: usize = 65_535, integer(23..=65_535), "bytes", NewConnections,
            "Longest client identifier. A client with a longer one is refused with 0x85 (3.x: 0x02).";
        subscriptions_total: usize = 20_000_000, integer(1..=1_000_000_000), "subscriptions", AtOnce,
            "Subscriptions of all sessions, divided among the shards. Further subscriptions get 0x97 in SUBACK (3.x: \
             0x80).";
        wildcard_patterns_per_client: usize = 512, integer(1..=65535), "patterns", AtOnce,
            "How much one client's filters with wildcards may add to the work for each PUBLISH. A pattern is a \
             beginning of a filter in which all names count alike: a/+/b and c/+/d have the same three patterns. \
             Patterns that another client's filters already have are free. A fleet needs a few dozen. Filters with \
             every combination of names and + have twice as many with each level. Further filters get 0x97 in SUBACK \
             (3.x: 0x80). All clients of a shard together may have 32 times as many.";
        topic_levels: usize = 200, integer(1..=65535), "levels", AtOnce,
            "Levels of a topic name or filter, separated by /. A filter with more levels gets 0x8F in SUBACK (3.x: \
             0x80), a PUBLISH with more levels 0x90.";
        sessions: usize = 1_000_000, integer(1..=1_000_000_000), "sessions", AtOnce,
            "Sessions, including those of connected clients. At this limit a client that has no session yet is \
             refused: CONNACK 0x89 (3.x: 0x03).";
        client_messages_per_second: u64 = 0, integer(0..=MESSAGES_PER_SECOND_MAX), "messages per second", AtOnce,
            "PUBLISH packets that one client may send. This many may come at once. After that, midge reads from the \
             client more slowly and drops nothing; its keep alive does not end the connection meanwhile. This is \
             counted, and logged once for each connection. 0: no limit.";
        client_bytes_per_second: u64 = 0, integer(0..=BYTES_PER_SECOND_MAX), "bytes per second", AtOnce,
            "Bytes of MQTT packets that one client may send after its CONNECT, enforced in the same way. A larger \
             packet is accepted, and what follows waits longer. 0: no limit.";
    }
}

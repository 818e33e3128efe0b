//! The verdict at the end: everything that was due has arrived, and nothing is left after the sessions have
//! ended.

use crate::coverage::Mark;
use crate::model::{Coverage, GRACE, Grant, Model, Publication, Session};
use crate::sim::Sim;
use midge::broker::Counter;
use midge::settings::QueuePolicy;
use midge_kit::codec::Version;

/// Checks that every exchange of a connected client is complete.
fn check_exchanges(sim: &Sim) -> Result<(), String> {
    for (at, client) in sim.clients.iter().enumerate() {
        if !client.up {
            return Err(format!("client-{at} has not got in"));
        }
        if let Some(out) = client.outgoing.front() {
            return Err(format!(
                "client-{at} waits for the end of m{} with identifier {}",
                out.number, out.id
            ));
        }
        let Some(session) = sim.model.latest.get(&at).map(|&session| &sim.model.sessions[session]) else {
            continue;
        };
        // (Nobody waits for the rest of a session that has ended without the client's knowledge.)
        let known = |id| session.unsettled.get(id);
        if let Some((id, number)) =
            client.held.iter().find(|(id, number)| known(id).is_some_and(|known| known.number == **number))
        {
            return Err(format!("client-{at} waits for PUBREL {id} of m{number:?}"));
        }
    }
    Ok(())
}

/// Checks that everything is there that must be.
pub fn check(sim: &mut Sim) -> Result<(), String> {
    for at in 0..sim.model.sessions.len() {
        let session = &sim.model.sessions[at];
        if session.is_alive_at_end() {
            let mut missing = 0;
            for number in 0..sim.model.publications.len() {
                missing += u64::from(!check_arrival(sim, at, session, number as u64)?);
            }
            check_retained_arrived(sim, session)?;
            sim.model.sessions[at].missing = missing;
        }
    }
    check_groups(sim)?;
    check_exchanges(sim)
}

/// Checks that a message has arrived. Returns false if it has not, and its session's full queue excuses this.
fn check_arrival(sim: &Sim, at: usize, session: &Session, number: u64) -> Result<bool, String> {
    let publication = &sim.model.publications[number as usize];
    if publication.refused
        || publication.clears
        || publication.dropped_at.is_some()
        || publication.doubtful
        || session.doubtful
        || !sim.model.is_kept(publication)
        || crate::clocks::is_brief(
            sim.plan.seed,
            number,
            publication,
            sim.clients[publication.publisher].version(),
        )
    {
        return Ok(true);
    }
    if may_be_too_large(sim, session, publication) {
        return Ok(true);
    }
    let own = session.client == publication.publisher;
    let mut best = None;
    for coverage in session.coverages_of(&publication.topic).filter(|coverage| !coverage.is_shared()) {
        if coverage.surely_covers(publication) && !(own && coverage.grants.iter().any(|g| g.no_local)) {
            let qos = coverage.grants.iter().map(|grant| grant.qos).min().unwrap_or(0);
            best = best.max(Some(qos.min(publication.qos)));
        }
    }
    let Some(qos) = best else { return Ok(true) };
    let got =
        session.got.get(&number).copied().unwrap_or(0) > 0 || session.got_retained.contains_key(&number);
    if got {
        return Ok(true);
    }
    if publication.qos > 0 && sim.model.may_be_unkept(publication) {
        // Nothing was promised. For a will nothing ever is.
        return Ok(true);
    }
    let link = &sim.world.links[session.link];
    if qos == 0 {
        // QoS 0 needs a connection that was open all the time.
        let before = publication.first().is_some_and(|first| first <= session.connected_at);
        // If another subscription may have asked for a higher QoS, it was in the queue.
        let mut grants = session.coverages_of(&publication.topic).flat_map(|coverage| &coverage.grants);
        let queued = publication.qos > 0 && grants.any(|grant| grant.qos > 0);
        if session.lossy && queued && may_be_dropped(sim, publication) {
            return Ok(true);
        }
        if before || link.was_backlogged || link.severed || link.closed_at.is_some() {
            return Ok(true);
        }
    } else if session.lossy && may_be_dropped(sim, publication) {
        return Ok(false);
    }
    let client = session.client;
    Err(format!("m{number} has not reached client-{client} (session {at}, QoS {qos}): {publication:?}"))
}

/// Whether it may be too large for the client, depending on its topic and properties.
fn may_be_too_large(sim: &Sim, session: &Session, publication: &Publication) -> bool {
    let max = sim.plan.clients[session.client].packet_max;
    max.is_some_and(|max| publication.len + 100 > max as usize)
}

/// Whether a full queue may have dropped it. With the policy that refuses, a success for a 5.0 publisher
/// means that no queue has refused the message, unless the power was cut between the refusal and its answer.
fn may_be_dropped(sim: &Sim, publication: &Publication) -> bool {
    sim.plan.queue_policy != QueuePolicy::Refuse
        || publication.acked_at.is_none()
        || sim.plan.clients[publication.publisher].version != Version::V5
        || sim.model.cuts.iter().any(|&cut| publication.waits_at(cut))
}

/// Checks that the broker has reported every loss. A count that was about to be reported at a power cut may
/// be lost.
pub fn check_losses(sim: &Sim) -> Result<(), String> {
    for (at, session) in sim.model.sessions.iter().enumerate() {
        let client = &sim.clients[session.client];
        let asked = session.is_alive_at_end() && client.up && client.lasting && sim.model.cuts.is_empty();
        if session.lossy && asked && session.missing > session.told_losses {
            return Err(format!(
                "client-{} (session {at}) has lost {} messages, and {} are told of",
                session.client, session.missing, session.told_losses
            ));
        }
    }
    Ok(())
}

/// Checks that a new subscription has received the retained message of each topic.
fn check_retained_arrived(sim: &Sim, session: &Session) -> Result<(), String> {
    let link = &sim.world.links[session.link];
    if link.severed || link.closed_at.is_some() || session.doubtful {
        return Ok(());
    }
    for coverage in session.coverages.iter().filter(|c| !c.is_shared() && c.until_sure.is_none()) {
        for grant in &coverage.grants {
            let asks = grant.handling == 0 || (grant.handling == 1 && grant.is_new);
            if grant.link != session.link || grant.acked_at.is_none() || !asks {
                continue;
            }
            for topic in crate::plan::TOPICS.iter().filter(|topic| coverage.matches(topic)) {
                check_replayed(sim, session, coverage, grant, topic)?;
            }
        }
    }
    Ok(())
}

fn check_replayed(
    sim: &Sim,
    session: &Session,
    coverage: &Coverage,
    grant: &Grant,
    topic: &str,
) -> Result<(), String> {
    let (model, asked) = (&sim.model, grant.sent_at);
    let of_topic: Vec<(usize, &Publication)> = model
        .publications
        .iter()
        .enumerate()
        .filter(|(_, p)| p.topic == topic && p.retain && p.first().is_some())
        .filter(|(_, p)| model.persistent || p.run == model.run)
        .collect();
    // These know best what was retained when the SUBSCRIBE came. (One that is refused because of another
    // subscriber may have been kept.)
    let settled: Vec<_> = of_topic
        .iter()
        .filter(|(_, p)| {
            !p.refused
                && !p.doubtful
                && model.is_kept(p)
                && !model.may_be_unkept(p)
                && p.latest().is_some_and(|last| last + GRACE < asked)
        })
        .collect();
    let Some(newest) = settled.iter().filter_map(|(_, p)| p.first()).max() else { return Ok(()) };
    let candidates: Vec<_> =
        of_topic.iter().filter(|(_, p)| p.latest().is_some_and(|last| last >= newest)).collect();
    // What the client itself has published after its SUBSCRIBE may have replaced the message before the store
    // was queried. With No Local, the client does not get it.
    let is_own = |p: &Publication| grant.no_local && p.publisher == session.client && p.sent_at >= asked;
    if candidates.iter().any(|(_, p)| p.clears || is_own(p) || may_be_too_large(sim, session, p)) {
        return Ok(());
    }
    let got = candidates.iter().any(|&&(number, _)| {
        let number = number as u64;
        session.got_retained.get(&number).is_some_and(|&at| at >= asked) || session.got.contains_key(&number)
    });
    if got {
        return Ok(());
    }
    let client = session.client;
    Err(format!(
        "client-{client} has subscribed to {} and has not got the retained message of {topic}: {candidates:?}",
        coverage.filter
    ))
}

/// Checks that each message goes to one member of each group.
fn check_groups(sim: &Sim) -> Result<(), String> {
    let model = &sim.model;
    for (number, publication) in model.publications.iter().enumerate() {
        let Some(first) = publication.first().filter(|_| publication.topic.starts_with("s/")) else {
            continue;
        };
        let number = number as u64;
        let holders: Vec<&Session> =
            model.sessions.iter().filter(|session| session.fresh_copies.contains_key(&number)).collect();
        let lasting = holders.iter().filter(|session| session.over_at.is_none()).count();
        if lasting > publication.routed + model.cuts.len() {
            let clients: Vec<_> = holders.iter().map(|session| session.client).collect();
            return Err(format!("m{number} went to more than one member of its group: {clients:?}"));
        }
        let members = || {
            model.sessions.iter().filter(|session| {
                session.coverages_of(&publication.topic).any(|coverage| coverage.may_cover(publication))
            })
        };
        // "The Server can choose either discard the message without sending the message to any of the Clients, or to send
        // the message to one of the Clients that can receive it" (3.1.2.11.4).
        if members().any(|session| may_be_too_large(sim, session, publication)) {
            continue;
        }
        let certain = members().any(|session| {
            session.is_alive_at_end()
                && !session.lossy
                && session
                    .coverages_of(&publication.topic)
                    .any(|coverage| coverage.surely_covers(publication))
        });
        let disturbed = members().any(|session| {
            session.lossy
                || session.doubtful
                || !model.cuts.is_empty()
                || session.over_at.is_some_and(|over| over + GRACE > first)
                || session.coverages_of(&publication.topic).any(|c| c.until_sure.is_some())
        });
        if certain
            && !disturbed
            && publication.qos > 0
            && !publication.refused
            && !publication.doubtful
            // A full disk has refused it, and its publisher had gone before the answer: nothing was promised.
            && !model.may_be_unkept(publication)
            && publication.run == model.run
            && !model.sessions.iter().any(|session| session.got.contains_key(&number))
        {
            return Err(format!("m{number} has reached no member of its group: {publication:?}"));
        }
        check_given_back(model, number, publication)?;
    }
    Ok(())
}

/// Checks that an acknowledged message belongs to some member as long as one stays, whichever member ends and
/// whenever the power is cut. At QoS 2 it must not belong to two members.
fn check_given_back(model: &Model, number: u64, publication: &Publication) -> Result<(), String> {
    if !model.persistent || publication.is_will {
        return Ok(());
    }
    let members = || {
        model.sessions.iter().flat_map(|session| {
            let coverages = session.coverages_of(&publication.topic);
            coverages
                .filter(|coverage| coverage.may_cover(publication))
                .map(move |coverage| (session, coverage))
        })
    };
    let begins =
        |coverage: &Coverage| coverage.grants.iter().any(|grant| grant.qos.min(publication.qos) == 2);
    let is_kept = |session: &Session| session.expiry != Some(0);
    let stays = members().any(|(session, coverage)| {
        session.is_alive_at_end()
            && is_kept(session)
            && !session.doubtful
            && coverage.surely_covers(publication)
            && coverage.until_sure.is_none()
    });
    // Messages that were only in memory are lost with the power. A message that a member had begun to receive
    // at QoS 2 goes to no other member. And a message that was given to a member with a full queue was
    // dropped by that queue.
    let excused = members().any(|(session, coverage)| {
        begins(coverage) || session.lossy || (!is_kept(session) && !model.cuts.is_empty())
    });
    let has = |session: &&Session| session.got.contains_key(&number);
    let promised = publication.acked_at.is_some() && !publication.refused && publication.qos > 0;
    if stays && promised && !excused && !model.sessions.iter().any(|session| has(&session)) {
        return Err(format!("m{number} is lost, and its group has members: {publication:?}"));
    }
    let all_begin = members()
        .all(|(_, coverage)| coverage.grants.iter().all(|grant| grant.qos.min(publication.qos) == 2));
    let holders = model.sessions.iter().filter(|session| is_kept(session)).filter(has);
    let holders: Vec<usize> = holders.map(|session| session.client).collect();
    if all_begin && holders.len() > publication.routed {
        return Err(format!("QoS 2 message m{number} went to {holders:?} of one group: {publication:?}"));
    }
    Ok(())
}

/// The marks that only the finished run shows.
pub fn marks(sim: &Sim) -> Vec<Mark> {
    let model = &sim.model;
    let mut marks = Vec::new();
    for (link, will) in model.wills.iter().filter(|(_, will)| will.delay > 0) {
        let publication = &model.publications[will.number as usize];
        if will.due_at.is_some() && !publication.processed.is_empty() && !publication.doubtful {
            marks.push(Mark::WillDelayed);
        } else if publication.dropped_at.is_some() && !model.farewells.contains(link) {
            marks.push(Mark::WillCancelled);
        }
    }
    for (number, publication) in model.publications.iter().enumerate() {
        let has = |session: &&Session| session.fresh_copies.contains_key(&(number as u64));
        if publication.topic.starts_with("s/") && model.sessions.iter().filter(has).count() > 1 {
            marks.push(Mark::GroupMemberGone);
        }
    }
    let ended_after_cut = |session: &Session| {
        let mut coverages = session.coverages.iter().filter(|coverage| coverage.is_shared());
        let over = session.over_at.unwrap_or(0);
        coverages.any(|coverage| model.cuts.iter().any(|&cut| coverage.from_may < cut && cut < over))
    };
    if model.persistent && model.sessions.iter().any(ended_after_cut) {
        marks.push(Mark::GroupMemberEndedAfterPowerCut);
    }
    if sim.world.links.iter().any(|link| link.was_backlogged) {
        marks.push(Mark::Backlogged);
    }
    let mut links = sim.world.links.iter();
    if links.any(|link| link.severed && link.tls.as_ref().is_some_and(|tls| !tls.is_established())) {
        marks.push(Mark::TlsHandshakeCut);
    }
    if sim.world.counter(Counter::SessionsExpired) > 0 {
        marks.push(Mark::SessionExpired);
    }
    marks
}

/// Checks that nothing is left of sessions and connections.
pub fn check_leaks(sim: &mut Sim) -> Result<(), String> {
    let world = &mut sim.world;
    let connections = world.connections();
    if connections != 0 {
        return Err(format!("leak: {connections} connections"));
    }
    for counter in [
        Counter::ClientsConnected,
        Counter::Sessions,
        Counter::Subscriptions,
        Counter::SharedSubscriptions,
        Counter::MessagesQueued,
        Counter::BytesQueued,
    ] {
        let count = world.counter(counter);
        if count != 0 {
            return Err(format!("leak: {counter:?} is {count}"));
        }
    }
    let (opened, closed) =
        (world.counter(Counter::ConnectionsOpened), world.counter(Counter::ConnectionsClosed));
    if opened != closed {
        return Err(format!("leak: {opened} connections opened and {closed} closed"));
    }
    if !world.is_idle() {
        return Err("leak: a timer or a mail is left".into());
    }
    Ok(())
}

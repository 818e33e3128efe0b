//! The replies that one connection waits for, in order. A reply that waits for a ticket is found without a
//! scan, however many there are.

use super::Reply;
use crate::base::steps;
use crate::base::{LogMark, Ticket};
use std::collections::VecDeque;

/// A reply in its connection's list.
pub(super) struct PendingReply {
    /// The mark that the log must reach.
    pub mark: LogMark,
    /// The ticket that must be complete.
    pub ticket: Option<Ticket>,
    /// The distance to the previous reply that waits for the same ticket. 0 if there is none.
    same_before: u32,
    pub reply: Reply,
}

/// See the module. Replies have consecutive numbers.
#[derive(Default)]
pub(super) struct ReplyList {
    pending: VecDeque<PendingReply>,
    /// The number of the first.
    first: u64,
}

impl ReplyList {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn front(&self) -> Option<&PendingReply> {
        self.pending.front()
    }

    pub(super) fn pop_front(&mut self) -> Option<PendingReply> {
        let pending = self.pending.pop_front()?;
        self.first += 1;
        Some(pending)
    }

    pub(super) fn clear(&mut self) {
        self.first += self.pending.len() as u64;
        self.pending.clear();
    }

    /// Appends a reply and returns its number. `newest` is the number of the last reply that waits for the
    /// same ticket.
    pub(super) fn push(
        &mut self,
        mark: LogMark,
        ticket: Option<Ticket>,
        newest: Option<u64>,
        reply: Reply,
    ) -> u64 {
        let number = self.first + self.pending.len() as u64;
        let before = newest
            .filter(|&newest| ticket.is_some_and(|ticket| self.waits_for(newest, ticket)))
            .map(|newest| number - newest);
        let same_before = before.and_then(|distance| u32::try_from(distance).ok()).unwrap_or(0);
        self.pending.push_back(PendingReply { mark, ticket, same_before, reply });
        number
    }

    /// Changes all replies that wait for a ticket. `newest` is the number of the last of them.
    pub(super) fn for_ticket(
        &mut self,
        ticket: Ticket,
        newest: u64,
        mut change: impl FnMut(&mut PendingReply),
    ) {
        let mut number = newest;
        while self.waits_for(number, ticket)
            && let Some(pending) = self.get_mut(number)
        {
            steps::walked(1);
            let same_before = pending.same_before;
            change(pending);
            match number.checked_sub(u64::from(same_before)) {
                Some(before) if same_before != 0 => number = before,
                _ => return,
            }
        }
    }

    /// Whether the reply with this number waits for this ticket. The number may come from an earlier list.
    fn waits_for(&self, number: u64, ticket: Ticket) -> bool {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.pending.get(at)).is_some_and(|pending| pending.ticket == Some(ticket))
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut PendingReply> {
        let at = number.checked_sub(self.first)?;
        self.pending.get_mut(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: LogMark = LogMark::behind(7);

    #[test]
    fn answers_of_a_ticket_are_found_in_few_steps_in_whatever_order_tickets_are_complete() {
        const TICKETS: u64 = 10_000;
        let mut list = ReplyList::default();
        for _ in 0..100 {
            list.push(LogMark::START, None, None, Reply::Pong);
        }
        assert_eq!((0..).map_while(|_| list.pop_front()).count(), 100);
        // Each ticket has an answer, and every other ticket has a second one far behind.
        let mut newest: Vec<u64> = (1..=TICKETS)
            .map(|ticket| list.push(MARK, Some(Ticket::new(ticket)), None, Reply::Pong))
            .collect();
        for ticket in (1..=TICKETS).step_by(2) {
            let before = Some(newest[ticket as usize - 1]);
            newest[ticket as usize - 1] = list.push(MARK, Some(Ticket::new(ticket)), before, Reply::Pong);
        }
        let (changed, steps) = steps::of(|| {
            let mut changed = 0;
            for ticket in (1..=TICKETS).rev() {
                list.for_ticket(Ticket::new(ticket), newest[ticket as usize - 1], |pending| {
                    pending.ticket = None;
                    changed += 1;
                });
            }
            changed
        });
        assert_eq!((changed, steps), (TICKETS * 3 / 2, TICKETS * 3 / 2));
        assert!(list.pending.iter().all(|pending| pending.ticket.is_none()));
    }

    #[test]
    fn number_of_an_earlier_list_names_nothing() {
        let mut list = ReplyList::default();
        let old = list.push(MARK, Some(Ticket::new(9)), None, Reply::Pong);
        list.clear();
        let new = list.push(MARK, Some(Ticket::new(10)), Some(old), Reply::Pong);
        list.for_ticket(Ticket::new(9), old, |_| panic!("it is gone"));
        list.for_ticket(Ticket::new(9), new, |_| panic!("it waits for another ticket"));
        let mut found = 0;
        list.for_ticket(Ticket::new(10), new, |_| found += 1);
        assert_eq!(found, 1);
    }
}

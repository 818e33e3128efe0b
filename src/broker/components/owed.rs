//! The answers that one connection is owed, in their order. An answer that waits for a ticket is found without a
//! walk, however many the connection is owed.

use crate::base::steps;
use crate::broker::flows::waits::Owing;
use std::collections::VecDeque;

/// An answer in its connection's list.
pub(in crate::broker) struct Owed {
    /// It waits for the log to be durable up to here.
    pub mark: u64,
    /// It waits for this ticket; 0: for none.
    pub ticket: u64,
    /// So far before it is another answer that waits for the same ticket; 0: there is none.
    same_before: u32,
    pub answer: Owing,
}

/// See the module. Each answer has a number, which counts on from one to the next.
#[derive(Default)]
pub(in crate::broker) struct OwedList {
    owed: VecDeque<Owed>,
    /// Number of the first.
    first: u64,
}

impl OwedList {
    pub(in crate::broker) fn len(&self) -> usize {
        self.owed.len()
    }

    pub(in crate::broker) fn front(&self) -> Option<&Owed> {
        self.owed.front()
    }

    pub(in crate::broker) fn pop_front(&mut self) -> Option<Owed> {
        let owed = self.owed.pop_front()?;
        self.first += 1;
        Some(owed)
    }

    pub(in crate::broker) fn clear(&mut self) {
        self.first += self.owed.len() as u64;
        self.owed.clear();
    }

    /// Appends an answer, and gives its number. `newest`: that of the last one that waits for the same ticket.
    pub(in crate::broker) fn push(
        &mut self,
        mark: u64,
        ticket: u64,
        newest: Option<u64>,
        answer: Owing,
    ) -> u64 {
        let number = self.first + self.owed.len() as u64;
        let before = newest.filter(|&newest| self.waits_for(newest, ticket)).map(|newest| number - newest);
        let same_before = before.and_then(|distance| u32::try_from(distance).ok()).unwrap_or(0);
        self.owed.push_back(Owed { mark, ticket, same_before, answer });
        number
    }

    /// Changes all answers that wait for a ticket. `newest`: the number of the last of them.
    pub(in crate::broker) fn for_ticket(
        &mut self,
        ticket: u64,
        newest: u64,
        mut change: impl FnMut(&mut Owed),
    ) {
        let mut number = newest;
        while self.waits_for(number, ticket)
            && let Some(owed) = self.get_mut(number)
        {
            steps::walked(1);
            let same_before = owed.same_before;
            change(owed);
            match number.checked_sub(u64::from(same_before)) {
                Some(before) if same_before != 0 => number = before,
                _ => return,
            }
        }
    }

    /// A number may be of a list that was here before.
    fn waits_for(&self, number: u64, ticket: u64) -> bool {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.owed.get(at)).is_some_and(|owed| owed.ticket == ticket)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Owed> {
        let at = number.checked_sub(self.first)?;
        self.owed.get_mut(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_ticket_are_found_in_few_steps_in_whatever_order_tickets_are_complete() {
        const TICKETS: u64 = 10_000;
        let mut list = OwedList::default();
        for _ in 0..100 {
            list.push(0, 0, None, Owing::Pong);
        }
        assert_eq!((0..).map_while(|_| list.pop_front()).count(), 100);
        // Each ticket has an answer, every other one a second one far behind.
        let mut newest: Vec<u64> =
            (1..=TICKETS).map(|ticket| list.push(7, ticket, None, Owing::Pong)).collect();
        for ticket in (1..=TICKETS).step_by(2) {
            let before = Some(newest[ticket as usize - 1]);
            newest[ticket as usize - 1] = list.push(7, ticket, before, Owing::Pong);
        }
        let (changed, steps) = steps::of(|| {
            let mut changed = 0;
            for ticket in (1..=TICKETS).rev() {
                list.for_ticket(ticket, newest[ticket as usize - 1], |owed| {
                    owed.ticket = 0;
                    changed += 1;
                });
            }
            changed
        });
        assert_eq!((changed, steps), (TICKETS * 3 / 2, TICKETS * 3 / 2));
        assert!(list.owed.iter().all(|owed| owed.ticket == 0));
    }

    #[test]
    fn number_of_an_earlier_list_names_nothing() {
        let mut list = OwedList::default();
        let old = list.push(0, 9, None, Owing::Pong);
        list.clear();
        let new = list.push(0, 10, Some(old), Owing::Pong);
        list.for_ticket(9, old, |_| panic!("it is gone"));
        list.for_ticket(9, new, |_| panic!("it waits for another ticket"));
        let mut found = 0;
        list.for_ticket(10, new, |_| found += 1);
        assert_eq!(found, 1);
    }
}

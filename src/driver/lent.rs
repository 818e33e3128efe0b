//! Held bytes that are on loan to the owner, by number.

#[derive(Debug, Default)]
pub(super) struct Lent {
    bytes: Vec<Option<Vec<u8>>>,
    /// Unused numbers.
    free: Vec<u32>,
}

impl Lent {
    /// Lends bytes. Returns their number.
    pub(super) fn lend(&mut self, bytes: Vec<u8>) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.bytes[number as usize] = Some(bytes);
                number
            }
            None => {
                self.bytes.push(Some(bytes));
                self.bytes.len() as u32 - 1
            }
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<&[u8]> {
        self.bytes.get(number as usize)?.as_deref()
    }

    pub(super) fn give_back(&mut self, number: u32) {
        if self.bytes.get_mut(number as usize).is_some_and(|bytes| bytes.take().is_some()) {
            self.free.push(number);
        }
    }

    /// Frees the memory, if nothing is on loan.
    pub(super) fn give_memory_back(&mut self) {
        if self.free.len() == self.bytes.len() {
            *self = Lent::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_and_found_without_a_walk() {
        // With a scan for each number, this would take ten billion steps.
        const LOANS: u32 = 100_000;
        let mut lent = Lent::default();
        for round in 0..2 {
            for number in 0..LOANS {
                let at = lent.lend(number.to_be_bytes().to_vec());
                assert_eq!(lent.get(at), Some(&number.to_be_bytes()[..]), "round {round}");
            }
            assert_eq!(lent.bytes.len(), LOANS as usize);
            (0..LOANS).rev().for_each(|number| lent.give_back(number));
            lent.give_back(7);
            assert_eq!((lent.free.len(), lent.get(7)), (LOANS as usize, None));
        }
        lent.give_memory_back();
        assert_eq!((lent.bytes.capacity(), lent.free.capacity()), (0, 0));
        let number = lent.lend(vec![1]);
        lent.give_memory_back();
        assert_eq!(lent.get(number), Some(&[1][..]), "it is on loan");
    }
}

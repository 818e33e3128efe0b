//! The way of an operator's questions to the shards. A question goes into the box of its shard, and the shard's bell
//! rings. The shard calls back with the answer.

use crate::broker::questions::{Answer, Inquiry, Question};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The largest number of questions that wait for a shard.
const WAITING_MAX: usize = 64;

/// A question, and what to do with the answer.
pub struct Asked {
    /// The question.
    pub inquiry: Inquiry,
    /// Takes the answer, on the shard's thread. It must not wait.
    pub answer: Box<dyn FnOnce(Answer) + Send>,
}

/// Asks the shards. Cheap to clone.
#[derive(Clone)]
pub struct Questions(Arc<[Desk]>);

struct Desk {
    sender: SyncSender<Asked>,
    bell: Arc<dyn Fn() + Send + Sync>,
}

/// Why a shard can't be asked: too many questions wait for it, or the broker has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl Questions {
    /// The asking end, and the box of each shard. `bells` wake the shards, in the order of their numbers.
    pub fn new(
        bells: impl IntoIterator<Item = Arc<dyn Fn() + Send + Sync>>,
    ) -> (Questions, Vec<Receiver<Asked>>) {
        let (desks, boxes): (Vec<Desk>, Vec<Receiver<Asked>>) = bells
            .into_iter()
            .map(|bell| {
                let (sender, receiver) = sync_channel(WAITING_MAX);
                (Desk { sender, bell }, receiver)
            })
            .unzip();
        (Questions(desks.into()), boxes)
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// Asks a shard. Never waits.
    ///
    /// # Errors
    /// [`Busy`]. Nothing was asked.
    pub fn ask(
        &self,
        shard: usize,
        question: Question,
        answer: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<(), Busy> {
        let desk = &self.0[shard];
        let asked = Asked { inquiry: Inquiry::new(question), answer: Box::new(answer) };
        desk.sender.try_send(asked).map_err(|_| Busy)?;
        (desk.bell)();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_shard_is_rung_for_each_question_until_its_box_is_full() {
        let rung = Arc::new(AtomicUsize::new(0));
        let bell: Arc<dyn Fn() + Send + Sync> = {
            let rung = Arc::clone(&rung);
            Arc::new(move || {
                rung.fetch_add(1, Ordering::Relaxed);
            })
        };
        let (questions, mut boxes) = Questions::new([Arc::clone(&bell), bell]);
        assert_eq!(questions.shards(), 2);
        for _ in 0..WAITING_MAX {
            assert_eq!(questions.ask(1, Question::Alive, drop), Ok(()));
        }
        assert_eq!(questions.ask(1, Question::Alive, drop), Err(Busy));
        assert_eq!(rung.load(Ordering::Relaxed), WAITING_MAX);
        assert!(boxes[0].try_recv().is_err() && boxes[1].try_recv().is_ok());
        drop(boxes.remove(0));
        assert_eq!(questions.ask(0, Question::Alive, drop), Err(Busy), "it has stopped");
    }
}

//! Lines become batches, and batches are delivered.

use std::collections::VecDeque;

use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{
    batch::BatchBuilder,
    deliver::{Delivery, DeliveryTotals},
    input::{InputChunk, InputError, InputLine},
};
use crate::cli::{
    answer::Unanswered,
    output::{StatusLine, text},
};

/// When a batch is sent that is not full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batching {
    /// At the end of the input only.
    Full,
    /// As soon as no more lines have arrived.
    Prompt,
}

/// Lines that have been read, and those that will be.
#[derive(Debug)]
pub(super) struct LineQueue {
    chunks: mpsc::Receiver<Result<InputChunk, InputError>>,
    ready: VecDeque<InputLine>,
    batching: Batching,
    /// Bytes of the input up to the last chunk.
    read: u64,
}

impl LineQueue {
    pub(super) fn new(chunks: mpsc::Receiver<Result<InputChunk, InputError>>, batching: Batching) -> Self {
        Self { chunks, ready: VecDeque::new(), batching, read: 0 }
    }

    /// The next line; none at the end, or if none has arrived and the batch need not be full.
    async fn next(&mut self, is_first: bool) -> Result<Option<InputLine>, InputError> {
        while self.ready.is_empty() {
            let waits = is_first || self.batching == Batching::Full;
            let chunk = match self.chunks.try_recv() {
                Ok(chunk) => chunk,
                Err(TryRecvError::Empty) if waits => match self.chunks.recv().await {
                    Some(chunk) => chunk,
                    None => return Ok(None),
                },
                Err(_) => return Ok(None),
            };
            let InputChunk { lines, read } = chunk?;
            self.ready.extend(lines);
            self.read = read;
        }
        Ok(self.ready.pop_front())
    }
}

/// Appends all lines. Nothing is sent of a batch with a line that is wrong.
pub(super) async fn append(
    mut queue: LineQueue,
    mut builder: BatchBuilder,
    delivery: &mut Delivery<'_>,
    status: &StatusLine,
) -> Result<(), Unanswered> {
    let failed = |error: InputError| Unanswered::Failed(error.to_string());
    loop {
        while !builder.is_full() {
            let Some(line) = queue.next(builder.is_empty()).await.map_err(failed)? else { break };
            builder.push(&line).map_err(|bad| Unanswered::Failed(format!("line {}: {bad}", line.number)))?;
        }
        delivery.totals.erased = builder.erased();
        if builder.is_empty() {
            return Ok(());
        }
        delivery.deliver(&builder.take()).await?;
        let DeliveryTotals { count, duplicates, .. } = delivery.totals;
        let known =
            if duplicates > 0 { format!(", {} known", text::count(duplicates)) } else { String::new() };
        status.at(queue.read);
        status.say(&format!("{} events{known}", text::count(count)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(numbers: &[u64]) -> Result<InputChunk, InputError> {
        let line = |number: &u64| InputLine { number: *number, bytes: b"x".to_vec() };
        Ok(InputChunk { lines: numbers.iter().map(line).collect(), read: numbers.len() as u64 })
    }

    #[tokio::test]
    async fn what_has_not_arrived_is_waited_for_only_where_batches_are_to_be_full() {
        for (batching, expected) in [(Batching::Prompt, None), (Batching::Full, Some(3))] {
            let (sender, receiver) = mpsc::channel(4);
            let mut queue = LineQueue::new(receiver, batching);
            sender.send(chunk(&[1, 2])).await.unwrap();
            for number in [1, 2] {
                assert_eq!(queue.next(number == 1).await.unwrap().unwrap().number, number);
            }
            let late = tokio::spawn(async move { sender.send(chunk(&[3])).await });
            let next = queue.next(false).await.unwrap().map(|line| line.number);
            assert_eq!(next, expected, "{batching:?}");
            late.await.unwrap().unwrap();
            let last = queue.next(true).await.unwrap().map(|line| line.number);
            assert_eq!(last, if expected.is_none() { Some(3) } else { None });
        }
    }
}

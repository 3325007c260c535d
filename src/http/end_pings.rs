//! When to write to a client that may have gone, as only a write that fails tells that it has.

use std::{future::pending, time::Duration};

use tokio::time::sleep;

use super::connection::Connection;

/// How many times such a client is written to. One that has gone answers the first ping with a reset, which
/// the second one meets.
const PINGS: u32 = 2;
/// The pause before the second one.
const PAUSE: Duration = Duration::from_secs(1);

/// The pings to the client of one answer.
#[derive(Debug, Default)]
pub(super) struct EndPings {
    sent: u32,
}

impl EndPings {
    /// Waits until a ping is due; for ever once there were enough of them. A wait that is given up counts for
    /// none.
    pub(super) async fn due(&mut self, connection: &Connection) {
        if self.sent == PINGS {
            return pending().await;
        }
        connection.may_have_gone().await;
        sleep(PAUSE * self.sent).await;
        self.sent += 1;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_are_due_once_the_client_may_have_gone() {
        let connection = Connection::default();
        let mut pings = EndPings::default();
        let long = Duration::from_secs(3600);
        assert!(timeout(long, pings.due(&connection)).await.is_err(), "it is there");
        connection.set_may_have_gone();
        let began = Instant::now();
        pings.due(&connection).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(timeout(PAUSE / 2, pings.due(&connection)).await.is_err());
        pings.due(&connection).await;
        assert!(began.elapsed() > PAUSE);
        assert!(timeout(long, pings.due(&connection)).await.is_err(), "it wants its answer");
    }
}

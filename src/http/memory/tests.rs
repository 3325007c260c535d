//! Who has a share of a budget, and who makes room for others.

use tokio::time::timeout;

use super::{share::PIECE_BYTES, *};

const MIB: usize = 1 << 20;

fn from(last: u8) -> Connection {
    Connection::new([10, 0, 0, last].into())
}

fn budget() -> Arc<Budget> {
    Budget::new(16 * MIB, 50, Overload::Memory)
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_makes_room_the_slowest_first() {
    let (budget, client) = (budget(), from(1));
    let mut slow = budget.receiving(&client);
    slow.grow_to(8 * MIB).await.unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    let mut slower = budget.receiving(&client);
    slower.grow_to(7 * MIB).await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    slow.touch();
    tokio::time::advance(Duration::from_secs(2)).await;
    let slower_goes = tokio::spawn(async move {
        slower.given_up().cancelled().await;
        slower.bytes()
    });
    let mut third = budget.receiving(&client);
    third.grow_to(5 * MIB).await.unwrap();
    assert_eq!(slower_goes.await.unwrap(), 7 * MIB);
    assert!(!slow.given_up().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn what_is_being_worked_on_is_not_given_up_and_who_waits_for_it_is_told() {
    let (budget, client) = (budget(), from(1));
    let mut working = budget.receiving(&client);
    working.grow_to(15 * MIB).await.unwrap();
    working.settle();
    tokio::time::advance(Duration::from_secs(60)).await;
    let mut other = budget.receiving(&client);
    assert!(other.grow_to(2 * MIB).await.is_err());
    assert!(other.grow_to(1000).await.is_ok(), "a little is kept for small ones");
    assert!(!working.given_up().is_cancelled());
    drop(working);
    other.grow_to(15 * MIB).await.unwrap();
    drop(other);
    assert_eq!(budget.used_bytes(), 0);
    assert!(budget.holdings.lock().peers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn alone_a_peer_may_have_all_and_with_others_its_percentage() {
    let budget = budget();
    let mut greedy: Vec<_> = (0..7).map(|_| budget.receiving(&from(1))).collect();
    for share in &mut greedy {
        share.grow_to(2 * MIB).await.unwrap();
    }
    let gone: Vec<_> = greedy
        .into_iter()
        .map(|share| {
            tokio::spawn(async move {
                timeout(Duration::from_secs(9), share.given_up().cancelled()).await.is_ok()
            })
        })
        .collect();
    let mut other = budget.receiving(&from(2));
    other.grow_to(6 * MIB).await.unwrap();
    let mut count = 0;
    for one in gone {
        count += usize::from(one.await.unwrap());
    }
    assert_eq!(count, 3, "no more than needed");
}

#[tokio::test(start_paused = true)]
async fn a_body_is_handed_out_in_pieces_and_holds_its_share_meanwhile() {
    use http_body_util::BodyExt;
    let budget = budget();
    let mut share = budget.sending(&from(1));
    share.grow_to(MIB).await.unwrap();
    let mut body = share.body(vec![1; MIB]);
    let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((piece.len(), budget.used_bytes()), (PIECE_BYTES, MIB));
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), MIB - PIECE_BYTES);
    assert_eq!(budget.used_bytes(), 0);
}

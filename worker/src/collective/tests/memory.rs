//! Workers of one machine: what they keep for each other gives the same bits as what they send.

use super::super::buffer::SEGMENT_LEN;
use super::super::memory::{OFFER_LEN, Offer, Reserve, Shelf};
use super::*;

#[test]
fn the_sum_has_the_bits_of_the_tree_when_peers_read_each_others_memory() {
    let assignments: [&[u32]; 6] =
        [&[4, 4], &[5, 3], &[3, 3, 2], &[1, 6, 1], &[2, 1, 1, 1, 3], &[1; 8]];
    for counts in assignments {
        let cluster = Cluster::new(counts, &[1, 1001, SEGMENT_LEN * 2 + 5]).with_first_step(7);
        let done = together(&cluster, cluster.connect_all(), |mut exchange, group| {
            for step in 7..14 {
                run_step(&mut exchange, group, step)?;
                // A peer says that it took the memory before it sends its first sum.
                for peer in (0..group.peers.len()).filter(|peer| *peer != group.rank) {
                    assert!(exchange.exchange.is_read_by(peer), "{counts:?}: peer {peer}");
                }
            }
            exchange.shutdown()
        });
        assert!(done.iter().all(Result::is_ok), "{counts:?}: {done:?}");
    }
}

#[test]
fn the_sum_has_the_bits_of_the_tree_when_some_peers_read_and_others_are_sent_copies() {
    if std::net::TcpListener::bind("127.0.0.2:0").is_err() {
        println!("skipped: this machine has one loopback address");
        return;
    }
    for (counts, afar) in [(&[3, 3, 2][..], 0), (&[1, 6, 1], 1), (&[2, 1, 1, 1, 3], 1)] {
        let cluster = Cluster::new(counts, &[1, 1001, SEGMENT_LEN * 2 + 5]).listening_afar(afar);
        let done = together(&cluster, cluster.connect_all(), |mut exchange, group| {
            (1..5).try_for_each(|step| run_step(&mut exchange, group, step))?;
            // Ranks connect to those below them.
            for peer in (0..group.peers.len()).filter(|peer| *peer != group.rank) {
                let near = peer.min(group.rank) != afar;
                let rank = group.rank;
                assert_eq!(
                    exchange.exchange.is_read_by(peer),
                    near,
                    "{counts:?}: {rank} by {peer}"
                );
            }
            exchange.shutdown()
        });
        assert!(done.iter().all(Result::is_ok), "{counts:?}: {done:?}");
    }
}

#[test]
fn memory_is_opened_by_whoever_finds_the_proof_in_it() {
    let mut reserve = Reserve::default();
    let shelf = Shelf::new(2, 1000, &mut reserve);
    let bytes = shelf.offer().unwrap().encode();
    assert_eq!(bytes.len(), OFFER_LEN);
    let offer = Offer::decode(&bytes).unwrap();
    assert!(offer.take(1000).is_some());
    assert!(offer.take(1001).is_none(), "it is not that long");
    let changed = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        Offer::decode(&bytes).unwrap().take(1000)
    };
    assert!(changed(OFFER_LEN - 1).is_none(), "another proof");
    assert!(changed(3).is_none(), "a process that does not exist");
    assert_eq!(Offer::decode(&bytes[1..]), None);
    assert!(Shelf::private(2, 9).offer().is_none() && !Shelf::private(2, 9).taken_by(1));
}

#[test]
fn one_exchange_after_the_other_uses_the_same_memory_if_it_is_long_enough() {
    let mut reserve = Reserve::default();
    let first = Shelf::new(2, 1000, &mut reserve);
    let buffer = first.memory().buffer(kernels::Span::new(100, 900));
    let offer = first.offer();
    drop(first);
    assert_ne!(Shelf::new(2, 1000, &mut reserve).offer(), offer, "some of it is still a buffer");
    drop(buffer);
    let offer = Shelf::new(2, 1000, &mut reserve).offer();
    let second = Shelf::new(3, 999, &mut reserve);
    assert_eq!(second.offer(), offer);
    second.memory().buffer(kernels::Span::new(100, 899));
    drop(second);
    assert_ne!(Shelf::new(2, 1001, &mut reserve).offer(), offer);
}

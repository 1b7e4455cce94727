//! Peers that die, fall silent, or send what they should not: who is named, and how soon.

use std::io::Write;
use std::time::Instant;

use super::super::frame::{Header, Kind, NOBODY, Verdict};
use super::*;

/// A loss is noticed by the end of a connection, not by a timeout: `LONG` would show.
const PROMPT: Duration = Duration::from_secs(10);

/// The first partial that the ghost owes rank 0 in bucket 0, with its payload.
fn first_partial(ghost: &Ghost) -> (Header, Vec<u8>) {
    let node = ghost.layout.nodes(ghost.layout.rank)[0];
    let range = ghost.layout.segment(0, 0, 0);
    let payload = vec![1; range.len() * 4];
    let header = Header::control(Kind::Partial, 3, payload.len() as u32);
    (Header { step: 1, node, offset: range.start as u64, ..header }, payload)
}

fn send(mut socket: &TcpStream, header: &Header, payload: &[u8]) {
    socket.write_all(&header.encode(payload)).unwrap();
    socket.write_all(payload).unwrap();
}

#[test]
fn a_dead_peer_is_named_by_all_survivors() {
    for round in 0..20 {
        let dead = round % 4;
        let cluster = Cluster::new(&[1, 1, 1, 1], &[1000, 50_000]);
        let (survivors, ghost) = cluster.connect_with_ghost(dead);
        let begun = Instant::now();
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                together(&cluster, survivors, |mut exchange, group| {
                    run_step(&mut exchange, group, 1).unwrap_err()
                })
            });
            if dead != 0 {
                // It dies in the middle of a step.
                let (header, payload) = first_partial(&ghost);
                send(ghost.socket(0), &header, &payload);
            }
            drop(ghost);
            for error in running.join().unwrap() {
                assert_eq!(error.culprit(), cluster.name(dead), "{error}");
                assert!(matches!(error, CollectiveError::PeerLost { .. }), "{error}");
            }
        });
        assert!(begun.elapsed() < PROMPT);
    }
}

#[test]
fn a_silent_peer_is_named_by_all_after_the_timeout() {
    let limit = Duration::from_millis(300);
    for silent in 0..3 {
        // In buckets of one value only the last rank has a chunk.
        for lens in [&[1000, 1][..], &[1]] {
            let cluster = Cluster::new(&[1, 2, 1], lens).with_timeout(limit);
            let (waiting, ghost) = cluster.connect_with_ghost(silent);
            let begun = Instant::now();
            let errors = together(&cluster, waiting, |mut exchange, group| {
                run_step(&mut exchange, group, 1).unwrap_err()
            });
            assert!(begun.elapsed() >= limit && begun.elapsed() < PROMPT);
            let named = |error: &CollectiveError| error.culprit() == cluster.name(silent);
            assert!(errors.iter().all(named), "{errors:?}");
            let silence = |error: &CollectiveError| match error {
                CollectiveError::PeerSilent { silence, .. } => *silence >= limit,
                _ => false,
            };
            assert!(errors.iter().any(silence), "{errors:?}");
            drop(ghost);
        }
    }
}

#[test]
fn nobody_is_silent_while_nobody_waits() {
    let limit = Duration::from_millis(300);
    let cluster = Cluster::new(&[1, 1], &[10]).with_timeout(limit);
    let mut exchanges = cluster.connect_all();
    reduce(&mut exchanges[0], &cluster.groups[0], 1, 0).unwrap();
    // Rank 1 takes its time for the step, and rank 0 does not wait for it yet. Another generation tells when the limit
    // has passed.
    let clock = Cluster::new(&[1, 1], &[10]).with_timeout(limit);
    let (mut waiting, ghost) = clock.connect_with_ghost(1);
    run_step(&mut waiting[0], &clock.groups[0], 1).unwrap_err();
    drop(ghost);
    reduce(&mut exchanges[1], &cluster.groups[1], 1, 0).unwrap();
    wait(&mut exchanges[1], &cluster.groups[1], 1, 0).unwrap();
    wait(&mut exchanges[0], &cluster.groups[0], 1, 0).unwrap();
}

#[test]
fn frames_that_were_changed_or_do_not_belong_are_blamed_on_their_sender() {
    type Change = fn(&mut Header);
    let changes: [(&str, Change); 9] = [
        ("generation 4", |header| header.generation = 4),
        ("step 9", |header| header.step = 9),
        ("step 0", |header| header.step = 0),
        ("bucket 2 of 1", |header| header.bucket = 2),
        ("no segment", |header| header.offset += 1),
        ("no segment", |header| header.offset = u64::MAX),
        ("does not compute", |header| header.node = NodeId { level: 0, index: 0 }),
        ("does not compute", |header| header.node.level = 40),
        ("out of turn", |header| {
            // A sum of the next step, to which this worker has not contributed.
            (header.kind, header.offset, header.step) = (Kind::Sum, 500, 2);
        }),
    ];
    for (expected, change) in changes {
        let error = error_after(|ghost| {
            let (mut header, payload) = first_partial(ghost);
            change(&mut header);
            send(ghost.socket(0), &header, &payload);
        });
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

/// What rank 0 of two says of what rank 1 sent, after its own contribution to step 1.
fn error_after(act: impl Fn(&Ghost)) -> CollectiveError {
    let cluster = Cluster::new(&[1, 1], &[1000]);
    let (mut exchanges, ghost) = cluster.connect_with_ghost(1);
    let exchange = &mut exchanges[0];
    reduce(exchange, &cluster.groups[0], 1, 0).unwrap();
    act(&ghost);
    let error = wait(exchange, &cluster.groups[0], 1, 0).unwrap_err();
    assert_eq!(error.culprit(), cluster.name(1), "{error}");
    assert!(matches!(error, CollectiveError::BadFrame { .. }), "{error}");
    // It is the answer to every later call.
    assert_eq!(wait(exchange, &cluster.groups[0], 1, 0), Err(error.clone()));
    assert_eq!(reduce(exchange, &cluster.groups[0], 2, 0), Err(error.clone()));
    error
}

#[test]
fn flipped_bits_repeats_and_lies_about_length_are_blamed_on_their_sender() {
    let flipped = error_after(|ghost| {
        let (header, mut payload) = first_partial(ghost);
        let head = header.encode(&payload);
        payload[77] ^= 4;
        let mut socket = ghost.socket(0);
        socket.write_all(&[&head[..], &payload].concat()).unwrap();
    });
    assert!(flipped.to_string().contains("payload is damaged"), "{flipped}");

    let repeated = error_after(|ghost| {
        let (header, payload) = first_partial(ghost);
        send(ghost.socket(0), &header, &payload);
        send(ghost.socket(0), &header, &payload);
    });
    assert!(repeated.to_string().contains("after the last"), "{repeated}");

    // Refused by the header alone: these payloads are never sent, let alone stored.
    for len in [0, 4, 1996, 2004, u32::MAX / 4 * 4] {
        let lying = error_after(|ghost| {
            let (header, payload) = first_partial(ghost);
            let mut bytes = header.encode(&payload);
            bytes[40..44].copy_from_slice(&len.to_le_bytes());
            let crc = crc32fast::hash(&bytes[..48]);
            bytes[48..].copy_from_slice(&crc.to_le_bytes());
            ghost.socket(0).write_all(&bytes).unwrap();
        });
        assert!(lying.to_string().contains("no segment"), "{lying}");
    }
    error_after(|ghost| ghost.socket(0).write_all(&[7; 100]).unwrap());
}

#[test]
fn a_third_worker_names_the_edge_that_another_found_broken() {
    // In some rounds rank 0 hears the others before its own trainer begins.
    for _ in 0..20 {
        let cluster = Cluster::new(&[2, 1, 1], &[1000]);
        let (exchanges, ghost) = cluster.connect_with_ghost(2);
        let (mut header, payload) = first_partial(&ghost);
        header.step = 7;
        send(ghost.socket(0), &header, &payload);
        let errors = together(&cluster, exchanges, |mut exchange, group| {
            run_step(&mut exchange, group, 1).unwrap_err()
        });
        for error in &errors {
            assert_eq!(error.culprit(), cluster.name(2), "{error}");
        }
        assert!(errors[1].to_string().contains("reported by worker gpu-0"), "{errors:?}");
    }
}

#[test]
fn a_verdict_against_this_worker_names_the_accuser() {
    let cluster = Cluster::new(&[2, 1, 1], &[1000]);
    let (mut exchanges, ghost) = cluster.connect_with_ghost(2);
    let verdict = |accuser, culprit| Verdict { accuser, culprit, cause: "it \n rained".to_owned() };
    // Rank 1 hears from rank 2 that rank 0 gave it up.
    let payload = verdict(0, 1).encode();
    let header = Header::control(Kind::Poison, 3, payload.len() as u32);
    send(ghost.socket(1), &header, &payload);
    let error = run_step(&mut exchanges[1], &cluster.groups[1], 1).unwrap_err();
    assert_eq!(error.culprit(), cluster.name(0), "{error}");
    assert!(error.to_string().ends_with("it gave this worker up: it   rained"), "{error}");
    assert_eq!(Verdict::decode(&verdict(0, NOBODY).encode()[..7]), None);
}

#[test]
fn a_worker_that_gives_up_is_named_by_the_others() {
    let cluster = Cluster::new(&[2, 1, 1], &[1000]);
    let mut exchanges = cluster.connect_all();
    drop(exchanges.remove(1));
    let errors = together(&cluster, exchanges, |mut exchange, group| {
        run_step(&mut exchange, group, 1).unwrap_err()
    });
    assert!(errors.iter().all(|error| error.culprit() == cluster.name(1)), "{errors:?}");
}

#[test]
fn an_abort_ends_every_wait_and_blames_nobody() {
    let cluster = Cluster::new(&[2, 1, 1], &[1000]);
    let (exchanges, ghost) = cluster.connect_with_ghost(2);
    let begun = Instant::now();
    let errors = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            together(&cluster, exchanges, |mut exchange, group| {
                run_step(&mut exchange, group, 1).unwrap_err()
            })
        });
        cluster.aborts[0].abort("gpu-2 was sealed out");
        waiting.join().unwrap()
    });
    assert!(begun.elapsed() < PROMPT);
    let reason = "gpu-2 was sealed out".to_owned();
    assert_eq!(errors[0], CollectiveError::Aborted { reason });
    assert!(matches!(errors[1], CollectiveError::Aborted { .. }), "{errors:?}");
    assert!(errors[1].to_string().contains("gpu-0") && errors[1].culprit().is_none());
    drop(ghost);
}

#[test]
fn a_peer_that_takes_no_data_is_given_up() {
    // More than the sockets hold, and nobody reads it at the other end.
    let cluster = Cluster::new(&[1, 1], &[16 << 20]).with_timeout(Duration::from_millis(300));
    let (mut exchanges, ghost) = cluster.connect_with_ghost(1);
    let begun = Instant::now();
    exchanges[0].exchange.reduce(1, 0).unwrap();
    let error = exchanges[0].exchange.wait(1, 0).unwrap_err();
    assert_eq!(error.culprit(), cluster.name(1), "{error}");
    assert!(begun.elapsed() < PROMPT);
    drop(ghost);
}

//! How a generation's connections come about, and who is kept out.

use std::io::{Read, Write};
use std::time::Instant;

use super::super::handshake::{HandshakeError, Pass, Timed};
use super::*;

const SHORT: Limits =
    Limits { form: Duration::from_millis(200), handshake: Duration::from_millis(200) };

#[test]
fn garbage_on_the_port_does_not_prevent_forming() {
    let cluster = Cluster::new(&[2, 1, 1], &[10]);
    let mut strangers = Vec::new();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 2, 0, 1, 0, 1, 252], b"rxch", b""]
    {
        for listener in &cluster.listeners {
            let mut stranger = TcpStream::connect(listener.local_address()).unwrap();
            stranger.write_all(garbage).unwrap();
            strangers.push(stranger);
        }
    }
    let done = together(&cluster, cluster.connect_all(), |mut exchange, group| {
        run_step(&mut exchange, group, 1)?;
        exchange.shutdown()
    });
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    // Whoever is plainly no worker is hung up on; its unread bytes may turn the end into a reset.
    let hung_up = strangers[0].read(&mut [0; 64]);
    assert!(matches!(hung_up, Ok(0) | Err(_)), "{hung_up:?}");
}

#[test]
fn a_worker_with_another_key_is_refused_and_the_others_go_on_waiting() {
    let mut cluster = Cluster::new(&[1, 1], &[10]);
    cluster.groups[1].key[31] ^= 1;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let group = cluster.groups[0].clone();
            TcpExchange::connect(
                (&cluster.listeners[0], &mut Reserve::default()),
                group,
                cluster.aborts[0].clone(),
                None,
            )
        });
        let stranger = TcpExchange::connect(
            (&cluster.listeners[1], &mut Reserve::default()),
            cluster.groups[1].clone(),
            cluster.aborts[1].clone(),
            None,
        );
        let error = stranger.unwrap_err();
        assert!(matches!(error, CollectiveError::Refused { .. }), "{error}");
        assert_eq!(error.culprit(), cluster.name(0));
        cluster.aborts[0].abort("test over");
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error, CollectiveError::Aborted { reason: "test over".to_owned() });
    });
}

#[test]
fn missing_peers_are_named_when_time_is_up() {
    let cluster = Cluster::new(&[1, 1, 1, 1], &[10]);
    let begun = Instant::now();
    thread::scope(|scope| {
        let form = |rank: usize| {
            let (listener, group) = (&cluster.listeners[rank], &cluster.groups[rank]);
            scope.spawn(move || mesh::form(listener, group, &Abort::new(), SHORT))
        };
        let forming: Vec<_> = [0, 2].map(form).into_iter().collect();
        for thread in forming {
            let error = thread.join().unwrap().unwrap_err();
            assert_eq!(error.culprit(), cluster.name(1));
            let text = error.to_string();
            assert!(text.contains("gpu-1, gpu-3") && !text.contains("gpu-2"), "{text}");
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_peer_that_nobody_listens_for_is_named_with_the_cause() {
    let mut cluster = Cluster::new(&[1, 1], &[10]);
    let gone = cluster.listeners.remove(0);
    drop(gone);
    let error = mesh::form(&cluster.listeners[0], &cluster.groups[1], &Abort::new(), SHORT);
    let error = error.unwrap_err();
    assert_eq!(error.culprit(), cluster.name(0));
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_late_connection_of_an_older_generation_is_dropped_and_the_new_one_forms() {
    let mut cluster = Cluster::new(&[1, 1], &[10]);
    let old = Pass::new(&cluster.groups[1]);
    cluster.groups.iter_mut().for_each(|group| group.generation += 1);
    let exchanges = thread::scope(|scope| {
        let forming = scope.spawn(|| {
            let (listener, group) = (&cluster.listeners[0], cluster.groups[0].clone());
            Trainer::new(
                0,
                TcpExchange::connect(
                    (listener, &mut Reserve::default()),
                    group,
                    Abort::new(),
                    None,
                )
                .unwrap(),
            )
        });
        let socket = TcpStream::connect(cluster.listeners[0].local_address()).unwrap();
        let deadline = Instant::now() + LONG;
        let late = old.dial(Timed { socket: &socket, deadline }, 0);
        assert!(matches!(late, Err(HandshakeError::Broken(_))), "{late:?}");
        let (listener, group) = (&cluster.listeners[1], cluster.groups[1].clone());
        let second =
            TcpExchange::connect((listener, &mut Reserve::default()), group, Abort::new(), None)
                .unwrap();
        vec![forming.join().unwrap(), Trainer::new(1, second)]
    });
    let done = together(&cluster, exchanges, |mut exchange, group| {
        run_step(&mut exchange, group, 1)?;
        exchange.shutdown()
    });
    assert!(done.iter().all(Result::is_ok), "{done:?}");

    cluster.groups[0].generation -= 1;
    let older = cluster.groups[0].clone();
    let error = TcpExchange::connect(
        (&cluster.listeners[0], &mut Reserve::default()),
        older,
        Abort::new(),
        None,
    )
    .unwrap_err();
    assert!(matches!(error, CollectiveError::BadGroup { .. }), "{error}");
}

#[test]
fn generation_after_generation_forms_on_the_same_listeners() {
    let mut cluster = Cluster::new(&[2, 1, 1], &[10]);
    for generation in 10..20 {
        cluster.groups.iter_mut().for_each(|group| group.generation = generation);
        let done = together(&cluster, cluster.connect_all(), |mut exchange, group| {
            run_step(&mut exchange, group, 1)
            // Dropped without shutdown: the next generation does not mind.
        });
        // A peer may hear of another's giving up before it looked at the last sum.
        assert!(done.iter().any(Result::is_ok), "{done:?}");
    }
}

#[test]
fn an_abort_ends_forming_whenever_it_comes() {
    let cluster = Cluster::new(&[1, 1], &[10]);
    let connect = |rank: usize, abort: Abort| {
        TcpExchange::connect(
            (&cluster.listeners[rank], &mut Reserve::default()),
            cluster.groups[rank].clone(),
            abort,
            None,
        )
    };
    let aborted = CollectiveError::Aborted { reason: "sealed".to_owned() };
    let before = Abort::new();
    before.abort("sealed");
    before.abort("a second reason");
    assert!(before.is_aborted());
    assert_eq!(connect(0, before).unwrap_err(), aborted);
    for rank in [0, 1] {
        let during = Abort::new();
        thread::scope(|scope| {
            let connecting = scope.spawn(|| connect(rank, during.clone()));
            during.abort("sealed");
            assert_eq!(connecting.join().unwrap().unwrap_err(), aborted);
        });
    }
}

#[test]
fn a_group_that_makes_no_sense_is_refused() {
    let cluster = Cluster::new(&[2, 1, 1], &[10]);
    let broken: [fn(&mut Group); 9] = [
        |group| group.rank = 3,
        |group| group.slices = 3,
        |group| group.slices = 8,
        |group| group.peers[1].first_slice = 1,
        |group| group.peers[1].slice_count = 0,
        |group| group.peers[2].slice_count = u32::MAX,
        |group| group.peers.clear(),
        |group| group.bucket_lens.clear(),
        |group| group.bucket_lens[0] = 0,
    ];
    for change in broken {
        let mut group = cluster.groups[0].clone();
        change(&mut group);
        let error = TcpExchange::connect(
            (&cluster.listeners[0], &mut Reserve::default()),
            group,
            Abort::new(),
            None,
        )
        .unwrap_err();
        assert!(matches!(error, CollectiveError::BadGroup { .. }), "{error}");
    }
}

#[test]
fn a_group_does_not_show_its_key() {
    let cluster = Cluster::new(&[1], &[10]);
    assert!(!format!("{:?}", cluster.groups[0]).contains("9, 9"));
}

//! What a healthy exchange gives: the bits of the tree, whoever computes what.

use super::super::buffer::SEGMENT_LEN;
use super::super::frame::{FrameError, HEADER_LEN, Header, Kind};
use super::*;

fn shutdown_all(exchanges: Vec<Trainer>) {
    exchanges.into_iter().for_each(|mut exchange| exchange.shutdown().unwrap());
}

#[test]
fn the_sum_has_the_bits_of_the_tree_for_any_number_of_workers() {
    let assignments: [&[u32]; 9] = [
        &[8],
        &[4, 4],
        &[1, 7],
        &[5, 3],
        &[3, 3, 2],
        &[1, 6, 1],
        &[2, 1, 1, 1, 3],
        &[1; 8],
        &[3, 5, 1, 4, 3],
    ];
    for counts in assignments {
        // Shorter than the world, odd, and longer than a segment of each chunk.
        let cluster =
            Cluster::new(counts, &[1, 3, 1001, 7, SEGMENT_LEN * 2 + 5]).with_first_step(41);
        let cluster = cluster.by(Transport::Tcp);
        let exchanges = cluster.connect_all();
        let done = together(&cluster, exchanges, |mut exchange, group| {
            for step in 41..47 {
                run_step(&mut exchange, group, step)?;
            }
            exchange.shutdown()
        });
        assert!(done.iter().all(Result::is_ok), "{counts:?}: {done:?}");
    }
}

#[test]
fn a_worker_on_its_own_gives_the_same_bits() {
    let cluster = Cluster::new(&[8], &[1, 1001]);
    let mut solo = Trainer::new(0, Solo::new(8, &[1, 1001]));
    for step in 0..3 {
        run_step(&mut solo, &cluster.groups[0], step).unwrap();
    }
    solo.shutdown().unwrap();
}

#[test]
fn buckets_may_be_waited_for_in_any_order_while_others_are_reduced() {
    let cluster = Cluster::new(&[2, 2], &[10, 20, 30]);
    let mut exchanges = cluster.connect_all();
    for step in 1..4 {
        for bucket in 0..2 {
            for (exchange, group) in exchanges.iter_mut().zip(&cluster.groups) {
                reduce(exchange, group, step, bucket).unwrap();
            }
        }
        wait(&mut exchanges[0], &cluster.groups[0], step, 1).unwrap();
        for (exchange, group) in exchanges.iter_mut().zip(&cluster.groups) {
            reduce(exchange, group, step, 2).unwrap();
        }
        for bucket in [2, 0] {
            wait(&mut exchanges[0], &cluster.groups[0], step, bucket).unwrap();
        }
        for bucket in [1, 2, 0] {
            wait(&mut exchanges[1], &cluster.groups[1], step, bucket).unwrap();
        }
    }
    shutdown_all(exchanges);
}

#[test]
fn a_rank_may_run_one_step_ahead() {
    let lens = [100, SEGMENT_LEN + 1];
    let cluster = Cluster::new(&[3, 1], &lens);
    let mut exchanges = cluster.connect_all();
    let (ahead, behind) = exchanges.split_at_mut(1);
    let (ahead, behind) = (&mut ahead[0], &mut behind[0]);
    let [ahead_group, behind_group] = &cluster.groups[..] else { panic!("two ranks") };
    for bucket in 0..lens.len() {
        reduce(behind, behind_group, 1, bucket).unwrap();
    }
    for step in 1..20 {
        // Rank 0 holds all sums of `step` and contributes to the next while rank 1 has looked at none.
        if step == 1 {
            (0..lens.len()).for_each(|b| reduce(ahead, ahead_group, step, b).unwrap());
        }
        (0..lens.len()).for_each(|b| wait(ahead, ahead_group, step, b).map(drop).unwrap());
        (0..lens.len()).for_each(|b| reduce(ahead, ahead_group, step + 1, b).unwrap());
        (0..lens.len()).for_each(|b| wait(behind, behind_group, step, b).map(drop).unwrap());
        (0..lens.len()).for_each(|b| reduce(behind, behind_group, step + 1, b).unwrap());
    }
}

#[test]
fn infinities_and_nans_pass_through() {
    let odd = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX];
    let cluster = Cluster::new(&[1, 1], &[odd.len()]);
    let sums = together(&cluster, cluster.connect_all(), |mut trainer, group| {
        let own = if group.rank == 0 { odd } else { [-0.0; 6] };
        trainer.slots[0].write(Span::new(0, 6), &own);
        trainer.exchange.reduce(1, 0)?;
        let sum = trainer.exchange.wait(1, 0)?.to_vec();
        trainer.shutdown().map(|()| sum)
    });
    for sum in sums {
        let sum = sum.unwrap();
        assert!(sum[2].is_nan());
        for i in [0, 1, 3, 4, 5] {
            assert_eq!(sum[i].to_bits(), odd[i].to_bits(), "value {i}");
        }
    }
}

#[test]
fn a_peer_that_left_in_good_order_is_no_loss_to_one_that_has_everything() {
    let cluster = Cluster::new(&[1, 2, 1], &[1000]);
    let mut exchanges = cluster.connect_all();
    for (exchange, group) in exchanges.iter_mut().zip(&cluster.groups) {
        reduce(exchange, group, 1, 0).unwrap();
    }
    let mut last = exchanges.pop().unwrap();
    for (mut exchange, group) in exchanges.into_iter().zip(&cluster.groups) {
        wait(&mut exchange, group, 1, 0).unwrap();
        exchange.shutdown().unwrap();
    }
    wait(&mut last, &cluster.groups[2], 1, 0).unwrap();
    last.shutdown().unwrap();
}

#[test]
fn whoever_goes_on_after_a_peer_left_is_told_who_left() {
    let cluster = Cluster::new(&[1, 1], &[10]);
    let mut exchanges = cluster.connect_all();
    for (exchange, group) in exchanges.iter_mut().zip(&cluster.groups) {
        reduce(exchange, group, 1, 0).unwrap();
    }
    for (exchange, group) in exchanges.iter_mut().zip(&cluster.groups) {
        wait(exchange, group, 1, 0).unwrap();
    }
    let mut stays = exchanges.pop().unwrap();
    exchanges.pop().unwrap().shutdown().unwrap();
    let error = run_step(&mut stays, &cluster.groups[1], 2).unwrap_err();
    assert_eq!(error.culprit(), cluster.name(0), "{error}");
}

#[test]
fn a_header_is_read_back_and_every_flipped_bit_in_it_is_seen() {
    let node = NodeId { level: 3, index: 5 };
    let header = Header {
        step: u64::MAX - 1,
        bucket: 4095,
        node,
        offset: 1 << 29,
        ..Header::control(Kind::Partial, 77, 3)
    };
    let bytes = header.encode(b"abc");
    assert_eq!(Header::decode(&bytes), Ok((header, crc32fast::hash(b"abc"))));
    for bit in 0..HEADER_LEN * 8 {
        let mut bytes = bytes;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 32 { FrameError::Magic } else { FrameError::HeaderCrc };
        assert_eq!(Header::decode(&bytes), Err(expected), "bit {bit}");
    }
}

//! Who owns, sends and receives which stretch of which bucket: pure arithmetic that all members of a generation do
//! alike. Every frame that can arrive is known from it, which is what makes strict checks and exact bounds possible.
//! Knows no value, no step and no socket.
//!
//! A bucket is cut into one chunk per rank, a chunk into segments; one frame carries one segment of one node. Within a
//! bucket every sender goes through the segments in ascending order, and through its nodes within a segment.

use std::ops::Range;

use super::buffer::SEGMENT_LEN;
use super::frame::{Header, Kind};
use super::gather::Place;
use super::tree::{NodeId, subtrees};
use super::vectors::Vectors;
use super::{CollectiveError, Group, Peer};

#[derive(Debug)]
pub(super) struct Layout {
    pub(super) rank: usize,
    /// By rank: the subtrees of its run.
    nodes: Vec<Vec<NodeId>>,
    bucket_lens: Vec<usize>,
    /// By bucket: values in the buckets before it.
    bucket_starts: Vec<usize>,
    /// By rank.
    vectors: Vec<Vectors>,
}

impl Layout {
    pub(super) fn new(group: &Group) -> Result<Layout, CollectiveError> {
        check(group).map_err(|what| CollectiveError::BadGroup { what })?;
        let run = |first: u32, count: u32| subtrees(first..first + count);
        let mut len = 0;
        let bucket_starts = group.bucket_lens.iter().map(|bucket| {
            let start = len;
            len += bucket;
            start
        });
        let bucket_starts = bucket_starts.collect();
        let vectors =
            |peer: &Peer| Vectors::new(peer.first_slice..peer.first_slice + peer.slice_count, len);
        Ok(Layout {
            rank: group.rank,
            nodes: group.peers.iter().map(|peer| run(peer.first_slice, peer.slice_count)).collect(),
            bucket_starts,
            bucket_lens: group.bucket_lens.clone(),
            vectors: group.peers.iter().map(vectors).collect(),
        })
    }

    pub(super) fn world(&self) -> usize {
        self.nodes.len()
    }

    /// All ranks but this worker's own.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.world()).filter(move |other| *other != rank)
    }

    pub(super) fn buckets(&self) -> usize {
        self.bucket_lens.len()
    }

    pub(super) fn bucket_len(&self, bucket: usize) -> usize {
        self.bucket_lens[bucket]
    }

    pub(super) fn nodes(&self, rank: usize) -> &[NodeId] {
        &self.nodes[rank]
    }

    /// Of all ranks, in slice order.
    pub(super) fn all_nodes(&self) -> Vec<NodeId> {
        self.nodes.concat()
    }

    /// Of the ranks before this one.
    pub(super) fn nodes_before(&self, rank: usize) -> usize {
        self.nodes[..rank].iter().map(Vec::len).sum()
    }

    /// The part of a bucket that `rank` adds up; empty for some ranks of a bucket shorter than the world.
    fn chunk(&self, bucket: usize, rank: usize) -> Range<usize> {
        let bound = |rank: usize| self.bucket_lens[bucket] * rank / self.world();
        bound(rank)..bound(rank + 1)
    }

    /// Segments of the chunk that `rank` owns.
    pub(super) fn segments(&self, bucket: usize, rank: usize) -> usize {
        self.chunk(bucket, rank).len().div_ceil(SEGMENT_LEN)
    }

    /// One segment, as indices into the bucket.
    pub(super) fn segment(&self, bucket: usize, rank: usize, segment: usize) -> Range<usize> {
        let chunk = self.chunk(bucket, rank);
        let start = chunk.start + segment * SEGMENT_LEN;
        start..chunk.end.min(start + SEGMENT_LEN)
    }

    /// Partial frames that `from` sends to `to` for a bucket.
    pub(super) fn partials(&self, bucket: usize, from: usize, to: usize) -> usize {
        self.segments(bucket, to) * self.nodes[from].len()
    }

    /// Data frames that `from` sends to `to` in one step.
    pub(super) fn frames_of_step(&self, from: usize, to: usize) -> usize {
        let frames = |bucket| self.partials(bucket, from, to) + self.segments(bucket, from);
        (0..self.buckets()).map(frames).sum()
    }

    /// Messages that one step brings to this worker's engine: its trainer's, and everybody's frames.
    pub(super) fn messages_of_step(&self) -> usize {
        let frames = self.others().map(|peer| self.frames_of_step(peer, self.rank));
        2 * self.buckets() + frames.sum::<usize>()
    }

    /// The `count`-th partial frame of a bucket from `from`: its segment, and which of the sender's nodes.
    pub(super) fn partial_at(&self, from: usize, count: usize) -> (usize, usize) {
        let nodes = self.nodes[from].len();
        (count / nodes, count % nodes)
    }

    pub(super) fn vectors(&self, rank: usize) -> &Vectors {
        &self.vectors[rank]
    }

    /// Where in its memory the worker at `place.from` has its partial of `node`; for `None` the sum.
    pub(super) fn position(&self, place: Place, node: Option<NodeId>) -> usize {
        let Place { from, bucket, offset, .. } = place;
        let vectors = &self.vectors[from];
        let vector = match node {
            None => vectors.sum(),
            Some(node) => {
                let slot = self.nodes[from].iter().position(|other| *other == node);
                vectors.slot(slot.expect("a node of its own"))
            }
        };
        vector.start + self.bucket_starts[bucket] + offset
    }

    /// Checks that this worker can expect a data frame of this shape from `from` at some time. Called before any memory
    /// is taken for the payload.
    pub(super) fn admit(&self, from: usize, header: &Header) -> Result<(), String> {
        let bucket = header.bucket as usize;
        if bucket >= self.buckets() {
            return Err(format!("bucket {bucket} of {}", self.buckets()));
        }
        let owner = match header.kind {
            Kind::Partial => self.rank,
            Kind::Sum => from,
            Kind::Poison | Kind::Bye | Kind::Offer | Kind::Taken => {
                return Err("no data frame".to_owned());
            }
        };
        if header.kind == Kind::Partial && !self.nodes[from].contains(&header.node) {
            return Err(format!("{:?}, which it does not compute", header.node));
        }
        let chunk = self.chunk(bucket, owner);
        let inside = usize::try_from(header.offset).ok().filter(|start| chunk.contains(start));
        let segment = inside
            .filter(|start| (start - chunk.start).is_multiple_of(SEGMENT_LEN))
            .map(|start| self.segment(bucket, owner, (start - chunk.start) / SEGMENT_LEN));
        match segment {
            Some(segment) if segment.len() * size_of::<f32>() == header.len as usize => Ok(()),
            _ => Err(format!(
                "{} bytes at {} of bucket {bucket}, which is no segment of rank {owner}",
                header.len, header.offset
            )),
        }
    }
}

/// A group comes from another machine's message, so nothing about it is taken for granted.
fn check(group: &Group) -> Result<(), String> {
    let world = group.peers.len();
    if world > WORLD_MAX || group.rank >= world {
        return Err(format!("rank {} of {world}; at most {WORLD_MAX} workers", group.rank));
    }
    if !group.slices.is_power_of_two() || group.slices > SLICES_MAX {
        return Err(format!("{} slices; need a power of two up to {SLICES_MAX}", group.slices));
    }
    let mut next = 0;
    for peer in &group.peers {
        let room = group.slices - next;
        if peer.first_slice != next || !(1..=room).contains(&peer.slice_count) {
            let Peer { name, first_slice, slice_count, .. } = peer;
            return Err(format!("{slice_count} slices from {first_slice} for {name}, from {next}"));
        }
        next += peer.slice_count;
    }
    if next != group.slices {
        return Err(format!("slices up to {next} of {} are assigned", group.slices));
    }
    if !(1..=BUCKETS_MAX).contains(&group.bucket_lens.len()) {
        return Err(format!("{} buckets; need 1 to {BUCKETS_MAX}", group.bucket_lens.len()));
    }
    match group.bucket_lens.iter().find(|len| !(1..=BUCKET_LEN_MAX).contains(*len)) {
        Some(len) => Err(format!("a bucket of {len} values; need 1 to {BUCKET_LEN_MAX}")),
        None => Ok(()),
    }
}

/// Members of a generation; the coordinator admits no more workers either.
const WORLD_MAX: usize = 1024;
/// Slices of a batch: more would be less than a sample each for any batch in use.
const SLICES_MAX: u32 = 1 << 16;
/// Buckets of a model: a bucket holds at least one parameter tensor, the deepest ResNets have about 500.
const BUCKETS_MAX: usize = 4096;
/// Values in a bucket: 4 GiB, several times the largest ResNet.
const BUCKET_LEN_MAX: usize = 1 << 30;

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
use super::{CollectiveError, Group, Peer};

#[derive(Debug)]
pub(super) struct Layout {
    pub(super) rank: usize,
    pub(super) slices: u32,
    /// By rank: the subtrees of its run.
    nodes: Vec<Vec<NodeId>>,
    bucket_lens: Vec<usize>,
    /// By bucket: values in the buckets before it.
    bucket_starts: Vec<usize>,
    /// Values in all buckets.
    len: usize,
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
        Ok(Layout {
            rank: group.rank,
            slices: group.slices,
            nodes: group.peers.iter().map(|peer| run(peer.first_slice, peer.slice_count)).collect(),
            bucket_starts,
            bucket_lens: group.bucket_lens.clone(),
            len,
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

    /// Segments of all chunks of a bucket.
    pub(super) fn segments_of_bucket(&self, bucket: usize) -> usize {
        (0..self.world()).map(|rank| self.segments(bucket, rank)).sum()
    }

    /// Segments of all chunks of all buckets.
    pub(super) fn segments_of_step(&self) -> usize {
        (0..self.buckets()).map(|bucket| self.segments_of_bucket(bucket)).sum()
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

    /// Messages that one step brings to this worker's engine: its own partials and everybody's frames.
    pub(super) fn messages_of_step(&self) -> usize {
        let own = self.segments_of_step() * self.nodes[self.rank].len();
        own + self.others().map(|peer| self.frames_of_step(peer, self.rank)).sum::<usize>()
    }

    /// The `count`-th partial frame of a bucket from `from` to `to`: its segment and node.
    pub(super) fn partial_at(&self, from: usize, count: usize) -> (usize, NodeId) {
        let nodes = &self.nodes[from];
        (count / nodes.len(), nodes[count % nodes.len()])
    }

    /// Values that `rank` keeps for peers of its machine: each of its partials, of all buckets, and twice the sums.
    pub(super) fn kept_len(&self, rank: usize) -> usize {
        (self.nodes[rank].len() + 2) * self.len
    }

    /// Where the worker at `place.from` keeps its partial of `node` in the order of values; for `None` the sum.
    pub(super) fn kept_at(&self, place: Place, node: Option<NodeId>) -> usize {
        let Place { from, step, bucket, offset } = place;
        let nodes = &self.nodes[from];
        let vector = match node {
            Some(node) => nodes.iter().position(|other| *other == node).expect("a node of its own"),
            None => nodes.len() + (step % 2) as usize,
        };
        vector * self.len + self.bucket_starts[bucket] + offset
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

//! Many spans of a flat buffer in one launch: each is cut into blocks from its own start. What is done with them is not
//! known here.

use crate::device::Span;

/// First element, elements, number of the first block: as `kernels/cuda/spans.cuh` declares it.
pub(super) type CutSpan = [i64; 3];

/// The spans with blocks of this many elements, and the number of blocks.
pub(super) fn cut(spans: impl Iterator<Item = Span>, block: usize) -> (Vec<CutSpan>, usize) {
    let mut blocks = 0;
    let mut table = Vec::new();
    for span in spans {
        table.push([span.start as i64, span.len as i64, blocks as i64]);
        blocks += span.len.div_ceil(block);
    }
    (table, blocks)
}

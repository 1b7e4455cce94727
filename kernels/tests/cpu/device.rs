//! Buffers, views and what a device says of itself.

use std::num::NonZeroUsize;
use std::sync::Arc;

use kernels::{Device, DeviceError, Isa, SharedMemory, Span, View, ViewMut};

use crate::support::device;

#[test]
fn a_buffer_starts_as_zeros_on_a_cache_line() {
    let buffer = device(1).alloc(1000);
    assert_eq!(buffer.len(), 1000);
    let host = buffer.host().unwrap();
    assert!(host.iter().all(|&v| v.to_bits() == 0));
    assert_eq!(host.as_ptr().addr() % 64, 0);
}

#[test]
fn what_is_written_is_read_back() {
    let mut buffer = device(1).alloc(10);
    buffer.write(Span::new(3, 4), &[1.0, 2.0, 3.0, 4.0]);
    let mut back = [0.0; 5];
    buffer.read(Span::new(2, 5), &mut back).unwrap();
    assert_eq!(back, [0.0, 1.0, 2.0, 3.0, 4.0]);
    let View::Cpu(view) = buffer.view(Span::new(6, 2)) else { panic!("not in main memory") };
    assert_eq!(view, [4.0, 0.0]);
}

#[test]
fn disjoint_spans_are_viewed_at_once_in_any_order() {
    let mut buffer = device(1).alloc(10);
    let [ViewMut::Cpu(high), ViewMut::Cpu(low), empty] =
        buffer.views_mut([Span::new(5, 5), Span::new(0, 5), Span::new(10, 0)])
    else {
        panic!("not in main memory");
    };
    assert!(empty.is_empty());
    high.fill(2.0);
    low.fill(1.0);
    assert_eq!(buffer.host().unwrap(), [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
}

#[test]
fn parts_of_shared_memory_are_buffers() {
    let memory = Arc::new(SharedMemory::private(100).unwrap());
    let mut parts = [Span::new(0, 40), Span::new(60, 40)].map(|span| memory.buffer(span));
    for (part, value) in parts.iter_mut().zip([1.0, 2.0]) {
        part.host_mut().unwrap().fill(value);
    }
    memory.write(40, 20, |between| between.fill(3.0));
    assert_eq!(memory.values(39, 22)[..3], [1.0, 3.0, 3.0]);
    assert_eq!(memory.values(58, 3), [3.0, 3.0, 2.0]);
    assert_eq!(memory.descriptor(), None);
}

#[test]
#[should_panic(expected = "meets another buffer")]
fn parts_of_shared_memory_do_not_overlap() {
    let memory = Arc::new(SharedMemory::private(100).unwrap());
    let _kept = memory.buffer(Span::new(0, 40));
    memory.buffer(Span::new(39, 2));
}

#[test]
#[should_panic(expected = "view")]
fn overlapping_spans_panic() {
    device(1).alloc(10).views_mut([Span::new(0, 6), Span::new(5, 5)]);
}

#[test]
#[should_panic(expected = "`from` has 2 elements")]
fn a_wrong_length_is_named() {
    kernels::ops::add(&device(1), ViewMut::Cpu(&mut [0.0; 3]), View::Cpu(&[0.0; 2]));
}

#[test]
fn a_device_tells_its_kind_threads_and_instruction_set() {
    let threads = NonZeroUsize::new(2).unwrap();
    let device = Device::cpu_with_isa(threads, Isa::Portable).unwrap();
    assert_eq!(device.kind(), "cpu");
    assert_eq!(device.describe(), "cpu: 2 threads, portable");
}

#[test]
fn an_instruction_set_that_is_missing_is_refused() {
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        let refused = Device::cpu_with_isa(NonZeroUsize::MIN, isa);
        assert!(matches!(refused, Err(DeviceError::Isa { .. })));
    }
}

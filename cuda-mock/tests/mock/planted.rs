//! Kernels with a bug, and what finds it. Those that no schedule finds are there for the sanitizers, which
//! `cargo xtask sanitize` runs this file under, one bug at a time.

use crate::gpu;
use crate::gpu::Device;
use crate::gpu::Gpu;
use crate::gpu::shape;
use cuda_mock::Schedule;
use cudarc::driver::PushKernelArg;
use cudarc::driver::sys::CUresult;

/// What comes of a launch, the clearest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The bug is there and does not show.
    Passes,
    /// The result is not the right one.
    Wrong,
    /// An error that names the thread.
    Error,
}
use Outcome::{Error, Passes, Wrong};

/// Buffers that the kernel takes besides `out`, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Out,
    InOut,
    OutCounter,
}
use Takes::{InOut, Out, OutCounter};

struct Bug {
    kernel: &'static str,
    takes: Takes,
    grid: (u32, u32),
    /// By lockstep, depth first, any of the random seeds.
    found: [Outcome; 3],
    /// Part of the error's message.
    says: &'static str,
    right: fn(&[f32]) -> bool,
}

const BUGS: [Bug; 17] = [
    Bug {
        kernel: "planted_divergent_barrier",
        takes: Out,
        grid: (1, 32),
        found: [Error, Error, Error],
        says: "threads meet at different barriers",
        right: any,
    },
    Bug {
        kernel: "planted_early_exit_shuffle",
        takes: Out,
        grid: (1, 32),
        found: [Error, Error, Error],
        says: "16 threads at __shfl_sync, 0 exited",
        right: any,
    },
    Bug {
        kernel: "planted_wrong_mask",
        takes: Out,
        grid: (1, 32),
        found: [Error, Error, Error],
        says: "is not in its own mask 55555555",
        right: any,
    },
    Bug {
        kernel: "planted_misaligned_copy",
        takes: InOut,
        grid: (1, 32),
        found: [Error, Error, Error],
        says: "cp.async source: address",
        right: any,
    },
    Bug {
        kernel: "planted_misaligned_load",
        takes: InOut,
        grid: (1, 32),
        found: [Error, Error, Error],
        says: "access of 16 bytes: address",
        right: any,
    },
    Bug {
        kernel: "planted_copy_without_wait",
        takes: InOut,
        grid: (1, 32),
        found: [Error, Error, Error],
        says: "async copies never waited for",
        right: any,
    },
    Bug {
        kernel: "planted_too_much_shared",
        takes: Out,
        grid: (1, 32),
        found: [Error, Error, Error],
        says: "53248 bytes of static shared memory, limit 49152",
        right: any,
    },
    Bug {
        kernel: "planted_uninitialised",
        takes: Out,
        grid: (1, 32),
        found: [Wrong, Wrong, Wrong],
        says: "",
        right: |out| out[..32].iter().all(|&value| value == 1.0),
    },
    Bug {
        kernel: "planted_warp_race",
        takes: Out,
        grid: (1, 32),
        found: [Wrong, Wrong, Wrong],
        says: "",
        right: |out| (0..32).all(|i| out[i] == 31.0 - i as f32),
    },
    Bug {
        kernel: "planted_no_barrier",
        takes: Out,
        grid: (1, 256),
        // Warp 0 runs last when depth goes first: the others have written by then.
        found: [Wrong, Passes, Wrong],
        says: "",
        right: |out| out[0] == 256.0,
    },
    Bug {
        kernel: "planted_stage_reuse",
        takes: InOut,
        grid: (1, 64),
        found: [Passes, Wrong, Wrong],
        says: "",
        right: |out| out[..64].iter().all(|&value| value == 256.0),
    },
    Bug {
        kernel: "planted_block_order",
        takes: OutCounter,
        grid: (2, 32),
        found: [Passes, Error, Error],
        says: "deadlock: 1 threads at a polling loop, 31 exited",
        right: |out| out[1] == 6.0,
    },
    Bug {
        kernel: "planted_unguarded_write",
        takes: Out,
        grid: (1, 512),
        found: [Error, Error, Error],
        says: "wrote behind an allocation of 2048 bytes",
        right: any,
    },
    Bug {
        kernel: "planted_block_race",
        takes: Out,
        grid: (4, 32),
        found: [Passes, Passes, Passes],
        says: "",
        right: |out| out[0] == 6.0,
    },
    Bug {
        kernel: "planted_no_fence",
        takes: OutCounter,
        grid: (8, 32),
        found: [Passes, Passes, Passes],
        says: "",
        right: |out| out[0] == 8.0,
    },
    Bug {
        kernel: "planted_shared_overflow",
        takes: Out,
        grid: (1, 32),
        found: [Passes, Passes, Passes],
        says: "",
        right: |out| (0..32).all(|i| out[i] == i as f32),
    },
    Bug {
        kernel: "planted_unguarded_read",
        takes: InOut,
        grid: (1, 513),
        found: [Passes, Passes, Passes],
        says: "",
        right: |out| out[0] == 1.0,
    },
];

fn any(_: &[f32]) -> bool {
    true
}

#[test]
fn each_planted_bug_is_found_by_what_the_table_says() {
    let Some(gpu) = gpu::mock(Device::Planted) else { return };
    if let Some(sanitizer) = cuda_mock::sanitizer() {
        return println!(
            "skipped: built for the {sanitizer} sanitizer, which ends at the first bug"
        );
    }
    drop(gpu);
    for bug in &BUGS {
        let random = (0..RANDOM_SEEDS).map(|seed| launch(bug, Schedule::Random(seed))).max();
        let found = [
            launch(bug, Schedule::Lockstep),
            launch(bug, Schedule::DepthFirst),
            random.expect("there are seeds"),
        ];
        assert_eq!(found, bug.found, "{}", bug.kernel);
    }
}

/// `CUDA_MOCK_PLANTED=kernel` under a sanitizer: has to end the process with the sanitizer's report.
#[test]
fn the_planted_bug_that_the_environment_names() {
    let Ok(name) = std::env::var("CUDA_MOCK_PLANTED") else {
        return println!("skipped: CUDA_MOCK_PLANTED names no kernel");
    };
    if gpu::mock(Device::Planted).is_none() {
        return;
    }
    let bug = BUGS.iter().find(|bug| bug.kernel == name).expect("a kernel of the table");
    println!("{name}: {:?}", launch(bug, Schedule::Lockstep));
}

/// On a context of its own, since an error stays with one.
fn launch(bug: &Bug, schedule: Schedule) -> Outcome {
    cuda_mock::clear_faults(Device::Planted as u16);
    let gpu = gpu::mock(Device::Planted).expect("there was one before");
    cuda_mock::set_schedule(schedule);
    let result = run(bug, &gpu);
    let message = cuda_mock::error_message(Device::Planted as u16);
    match (result, message) {
        (Ok(out), None) if (bug.right)(&out) => Passes,
        (Ok(_), None) => Wrong,
        (Err(_), Some(message)) => {
            assert!(message.contains(bug.says), "{}: {message}", bug.kernel);
            Error
        }
        (result, message) => panic!("{}: {result:?}, {message:?}", bug.kernel),
    }
}

/// `in` is 512 ones, `out` 512 zeros: what the kernels read behind them is not theirs.
fn run(bug: &Bug, gpu: &Gpu) -> Result<Vec<f32>, CUresult> {
    let stream = &gpu.stream;
    let ones = stream.clone_htod(&[1f32; 512]).unwrap();
    let mut out = stream.alloc_zeros::<f32>(512).unwrap();
    let mut counter = stream.alloc_zeros::<u32>(1).unwrap();
    let kernel = gpu.kernel(bug.kernel);
    let mut launch = stream.launch_builder(&kernel);
    match bug.takes {
        Out => launch.arg(&mut out),
        InOut => launch.arg(&ones).arg(&mut out),
        OutCounter => launch.arg(&mut out).arg(&mut counter),
    };
    // SAFETY: the arguments are those of the kernel; what it does wrong, it does to the emulator's memory.
    unsafe { launch.launch(shape(bug.grid.0, bug.grid.1)) }.map_err(|error| error.0)?;
    gpu.finish().map_err(|error| error.0)?;
    stream.clone_dtoh(&out).map_err(|error| error.0)
}

const RANDOM_SEEDS: u64 = 8;

//! The rules on made-up sources and reports, each seen to fail.

use super::rules::{Limits, of_compiled, of_source};
use super::*;

const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'b_kernel' for 'sm_80'
ptxas info    : Function properties for b_kernel
ptxas         .     248 bytes stack frame, 320 bytes spill stores, 380 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 52000 bytes smem, 388 bytes cmem[0]
ptxas info    : Compile time = 1.682 ms
ptxas info    : Compiling entry function 'a_kernel' for 'sm_80'
ptxas info    : Function properties for a_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers
";

fn header() -> Source {
    Source {
        name: "portable.cuh".to_owned(),
        text: "#include \"emulator.hpp\"\nasm(\"x\");".to_owned(),
    }
}

fn compiled(log: &str, ptx: &str) -> Compiled {
    let report = Report { log: log.to_owned(), ptx: ptx.to_owned(), kernels: report::usage(log) };
    let time = Duration::ZERO;
    Compiled { file: "x.cu".to_owned(), arch: Arch::Sm80, time, outcome: Ok(report) }
}

#[test]
fn ptxas_is_read_kernel_by_kernel() {
    let a = Usage { name: "a_kernel".to_owned(), registers: 16, ..Usage::default() };
    let b = Usage {
        name: "b_kernel".to_owned(),
        registers: 40,
        spill_bytes: 700,
        stack_bytes: 248,
        shared_bytes: 52000,
    };
    assert_eq!(report::usage(LOG), [a, b]);
    assert_eq!(report::usage(""), []);
}

#[test]
fn spills_stack_shared_memory_and_registers_beyond_the_limit_are_found() {
    let limits = Limits::parse("[\"x.cu\"]\na_kernel = 16\nb_kernel = 39\n").unwrap();
    let found = of_compiled(&compiled(LOG, ""), &limits);
    assert_eq!(
        found,
        [
            "x.cu on sm_80, b_kernel: spills 700 bytes",
            "x.cu on sm_80, b_kernel: a stack frame of 248 bytes: is an array indexed at run time?",
            "x.cu on sm_80, b_kernel: 52000 bytes of static shared memory, at most 49152: make it dynamic",
            "x.cu on sm_80, b_kernel: 40 registers, kernels/cuda/limits.toml allows 39",
        ]
    );
}

#[test]
fn a_kernel_without_a_limit_gets_the_line_to_add() {
    let limits = Limits::parse("[\"x.cu\"]\nb_kernel = 40\ngone = 8\n").unwrap();
    let missing = limits.missing(&[compiled(LOG, "")]);
    let line = "kernels/cuda/limits.toml: no limit; add under [\"x.cu\"]: a_kernel = 16";
    assert_eq!(missing, [line]);
    let source = Source { name: "x.cu".to_owned(), text: "void b_kernel()".to_owned() };
    let stale = "kernels/cuda/limits.toml: gone is not in x.cu: remove the line";
    assert_eq!(limits.stale(&[source]), [stale]);
    assert!(Limits::parse("[\"x.cu\"]\nk = 256\n").is_err());
    assert!(Limits::parse("k = 1\n").is_err());
}

#[test]
fn warnings_of_lost_speed_and_float_atomics_are_found() {
    let limits = Limits::parse("").unwrap();
    let log = "ptxas info    : (C7520) Potential Performance Loss: wgmma is serialized";
    assert_eq!(of_compiled(&compiled(log, ""), &limits).len(), 1);
    for bad in [
        "\tred.global.add.f32 \t[%rd1], %f1;",
        "@%p1 atom.shared.add.noftz.bf16x2 %r1, [%r2], %r3;",
        "\tatom.global.add.f64 \t%fd1, [%rd1], %fd2;",
    ] {
        assert_eq!(of_compiled(&compiled("", bad), &limits).len(), 1, "{bad}");
    }
    for fine in ["\tatom.global.inc.u32 \t%r1, [%rd1], %r2;", "\tst.shared.f32 [%r1], %f1;"] {
        assert!(of_compiled(&compiled("", fine), &limits).is_empty(), "{fine}");
    }
}

#[test]
fn what_does_not_compile_shows_its_log() {
    let failed = Compiled { outcome: Err("x.cu(1): error\n".to_owned()), ..compiled("", "") };
    let found = of_compiled(&failed, &Limits::parse("").unwrap());
    assert_eq!(found, ["x.cu on sm_80 doesn't compile:\nx.cu(1): error"]);
}

#[test]
fn foreign_headers_and_ptx_outside_the_wrappers_are_found() {
    let headers = [header()];
    assert!(of_source(&header(), &headers).is_empty());
    let text = "#include \"portable.cuh\"\n// asm\n  #include <cuda_bf16.h>\nasm volatile(\"\");\nint asmara;";
    let found = of_source(&Source { name: "x.cu".to_owned(), text: text.to_owned() }, &headers);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("x.cu:3: includes cuda_bf16.h"));
    assert!(found[1].starts_with("x.cu:4: inline PTX"));
    let twin = Source { name: "x.cu".to_owned(), text: "#include \"emulator.hpp\"".to_owned() };
    assert_eq!(of_source(&twin, &headers).len(), 1);
}

#[test]
fn hoppers_own_instructions_are_compiled_for_hopper_alone() {
    let source = |text: &str| Source { name: "x.cu".to_owned(), text: text.to_owned() };
    let takes = |source: &Source| Arch::ALL.into_iter().filter(|arch| arch.takes(source)).count();
    assert_eq!(takes(&source("#include \"hopper.cuh\"")), 1);
    assert_eq!(takes(&source("#include \"portable.cuh\"")), 4);
}

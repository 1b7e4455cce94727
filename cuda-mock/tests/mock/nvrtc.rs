//! The mock's compiler fails where NVRTC does, and its modules are taken only for the text they were made from.

use crate::gpu;
use crate::gpu::Device;
use crate::gpu::compile;
use cudarc::driver::sys::CUresult;
use cudarc::nvrtc::Ptx;

const ARCH: &str = "--gpu-architecture=sm_90a";

#[test]
fn what_does_not_compile_has_a_log_that_says_where() {
    if gpu::mock(Device::Sound).is_none() {
        return;
    }
    let error = |source: &str| compile("x.cu", source, &[ARCH]).unwrap_err();
    let said = error("// one\n#error not today\n");
    assert_eq!(said, "x.cu(2): catastrophic error: #error directive: not today\n");
    let said = error("#include <cuda_bf16.h>\n");
    assert!(
        said.contains("x.cu(1): catastrophic error: could not open source file \"cuda_bf16.h\"")
    );
    let said = compile("x.cu", "", &["sm_90"]).unwrap_err();
    assert!(said.contains("unrecognized option sm_90"));
}

#[test]
fn a_virtual_architecture_yields_no_cubin() {
    if gpu::mock(Device::Sound).is_none() {
        return;
    }
    assert_eq!(compile("x.cu", "", &["--gpu-architecture=compute_90"]).unwrap(), []);
}

#[test]
fn a_module_is_taken_for_its_text_and_architecture_alone() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    let load = |file: &str, source: &str, arch: &str| {
        let cubin = compile(file, source, &[arch]).unwrap();
        gpu.context.load_module(Ptx::from_binary(cubin)).map_err(|error| error.0)
    };
    let module = load("some/folder/conformance.cu", gpu::CONFORMANCE, ARCH).unwrap();
    assert!(module.load_function("selftest_mma").is_ok());
    let absent = module.load_function("planted_block_race").err().map(|error| error.0);
    assert_eq!(absent, Some(CUresult::CUDA_ERROR_NOT_FOUND), "a kernel of another file");
    let refused = |file: &str, source: &str, arch: &str| load(file, source, arch).err();
    let invalid = Some(CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(refused("conformance.cu", "// other text", ARCH), invalid);
    assert_eq!(refused("unheard_of.cu", gpu::CONFORMANCE, ARCH), invalid);
    let old = refused("conformance.cu", gpu::CONFORMANCE, "--gpu-architecture=sm_80");
    assert_eq!(old, Some(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU));
    let foreign = gpu.context.load_module(Ptx::from_binary(b"\x7fELF\0".to_vec()));
    assert_eq!(foreign.err().map(|error| error.0), invalid);
}

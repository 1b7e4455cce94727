//! What build.rs reads in the text of a `.cu` file.

#[path = "../../cu_text.rs"]
mod reading;

use reading::kernels;

fn names(text: &str) -> Vec<(String, Option<String>)> {
    let found = kernels(text).unwrap();
    found.into_iter().map(|kernel| (kernel.name, kernel.threads_max)).collect()
}

#[test]
fn kernels_are_found_with_their_bounds_in_either_place() {
    let text = "// extern \"C\" __global__ void not_me()\n\
        extern \"C\" __global__ void plain(int a) {}\n\
        extern \"C\" __global__ void __launch_bounds__(2 * (64), 2)\n  bounded(float* x) {}\n\
        /* __global__ */ extern \"C\" __global__ __launch_bounds__(128) void also (int b);";
    let expected = [
        ("plain".to_owned(), None),
        ("bounded".to_owned(), Some("2 * (64)".to_owned())),
        ("also".to_owned(), Some("128".to_owned())),
    ];
    assert_eq!(names(text), expected);
}

#[test]
fn a_kernel_that_could_not_be_registered_is_refused() {
    let mangled = kernels("__global__ void mangled(int a) {}").unwrap_err();
    assert_eq!(mangled, "kernel mangled is not extern \"C\"");
    assert!(kernels("extern \"C\" __global__ int odd(int a) {}").is_err());
    assert!(kernels("extern \"C\" __global__ void __launch_bounds__").is_err());
}

#[test]
fn the_registration_names_file_kernels_and_text() {
    let text = "extern \"C\" __global__ void __launch_bounds__(64) k(int a) {}";
    let made = reading::registration(std::path::Path::new("/x/two-words.cu"), text).unwrap();
    assert!(made.contains("namespace source_two_words_cu {\n#include \"/x/two-words.cu\"\n"));
    assert!(made.contains(&format!("\"two-words.cu\", 0x{:016x}ull", reading::hash(text))));
    assert!(made.contains("emu::kernel(\"k\", k, 64),"));
}

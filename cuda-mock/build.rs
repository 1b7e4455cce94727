//! Compiles the mock's two libraries and every `.cu` file of `kernels/cuda` and `selftest` into them. Without a C++
//! compiler, or on another processor than x86-64, it leaves the reason for `install` to tell.

#![allow(clippy::print_stdout, reason = "what cargo is told goes to standard output")]

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::sync::Mutex;

mod cu_text;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for watched in ["driver", "emulator", "nvrtc", "selftest", "cu_text.rs", KERNELS] {
        println!("cargo:rerun-if-changed={watched}");
    }
    println!("cargo:rerun-if-env-changed=CUDA_MOCK_SANITIZE");
    match Compiler::find()? {
        Ok(compiler) => {
            // A folder for each variant, so that going to and fro compiles nothing anew.
            let out = out.join(format!("mock-{}", compiler.sanitizer));
            fs::create_dir_all(&out)?;
            println!("cargo:rustc-env=CUDA_MOCK_SANITIZER={}", compiler.sanitizer);
            println!("cargo:rustc-env=CUDA_MOCK_FOLDER={}", out.display());
            build(&compiler, &out)
        }
        Err(reason) => {
            println!("cargo:warning=the mock GPU is not built: {reason}");
            println!("cargo:rustc-env=CUDA_MOCK_MISSING={reason}");
            Ok(())
        }
    }
}

struct Compiler {
    tool: cc::Tool,
    flags: Vec<String>,
    /// `address`, `thread`, or empty.
    sanitizer: String,
}

impl Compiler {
    /// Or the reason why there is none.
    fn find() -> Result<std::result::Result<Self, String>> {
        let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
        if arch != "x86_64" {
            return Ok(Err(format!("it runs on x86_64, and this is {arch}")));
        }
        let tool = match cc::Build::new().cpp(true).warnings(false).try_get_compiler() {
            Ok(tool) => tool,
            Err(error) => return Ok(Err(format!("no C++ compiler ({error})"))),
        };
        if !tool.to_command().arg("--version").output().is_ok_and(|run| run.status.success()) {
            let name = tool.path().display();
            return Ok(Err(format!("no C++ compiler: {name} doesn't run; apt-get install g++")));
        }
        let sanitizer = env::var("CUDA_MOCK_SANITIZE").unwrap_or_default();
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        flags.extend(match sanitizer.as_str() {
            "" => vec!["-O2".to_owned()],
            "address" => ["-O1", "-fsanitize=address,undefined", "-fno-sanitize=vptr"]
                .into_iter()
                .chain(["-fno-sanitize-recover=undefined"])
                .map(str::to_owned)
                .collect(),
            "thread" => vec!["-O1".to_owned(), "-fsanitize=thread".to_owned()],
            other => {
                return Err(format!("CUDA_MOCK_SANITIZE is {other}, not address or thread").into());
            }
        });
        Ok(Ok(Self { tool, flags, sanitizer }))
    }

    fn command(&self) -> Command {
        let mut command = self.tool.to_command();
        command.args(&self.flags);
        command
    }
}

/// One object file to make.
struct Unit {
    source: PathBuf,
    object: PathBuf,
    /// Of all that the object is made from: an object with this key is kept.
    key: u64,
}

fn build(compiler: &Compiler, out: &Path) -> Result<()> {
    let mut headers = String::new();
    for path in files(&["emulator", "driver", KERNELS], &["hpp", "cuh"])? {
        headers += &fs::read_to_string(path)?;
    }
    headers += &format!("{:?}", compiler.command());
    let mut driver = Vec::new();
    for path in files(&["driver"], &["cpp"])? {
        driver.push(unit(out, &path, &path, &headers)?);
    }
    for path in files(&[KERNELS, "selftest"], &["cu"])? {
        let path = path.canonicalize()?;
        let wrapped = out.join(name_of(&path)).with_extension("cu.cpp");
        let text = cu_text::registration(&path, &fs::read_to_string(&path)?)?;
        fs::write(&wrapped, text)?;
        driver.push(unit(out, &wrapped, &path, &headers)?);
    }
    let mut nvrtc = Vec::new();
    for path in files(&["nvrtc"], &["cpp"])? {
        nvrtc.push(unit(out, &path, &path, &headers)?);
    }
    compile(compiler, driver.iter().chain(&nvrtc).collect())?;
    link(compiler, &driver, out, "libcuda.so")?;
    link(compiler, &nvrtc, out, "libnvrtc.so")
}

fn unit(out: &Path, source: &Path, original: &Path, headers: &str) -> Result<Unit> {
    let text = headers.to_owned() + &fs::read_to_string(source)? + &fs::read_to_string(original)?;
    let object = out.join(name_of(source)).with_extension("o");
    Ok(Unit { source: source.to_owned(), object, key: cu_text::hash(&text) })
}

/// As many at a time as cargo allows; all are tried, so that one run shows every error.
fn compile(compiler: &Compiler, units: Vec<&Unit>) -> Result<()> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let left = Mutex::new(units.into_iter());
    let errors = Mutex::new(String::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("no thread panics with the lock").next();
                    let Some(unit) = next else { return };
                    if let Err(error) = compile_one(compiler, unit) {
                        let mut errors = errors.lock().expect("no thread panics with the lock");
                        *errors += &format!("{error}\n");
                    }
                }
            });
        }
    });
    let errors = errors.into_inner()?;
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}

fn compile_one(compiler: &Compiler, unit: &Unit) -> Result<()> {
    let stamp = unit.object.with_extension("key");
    let key = format!("{:016x}", unit.key);
    if unit.object.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == key) {
        return Ok(());
    }
    let mut command = compiler.command();
    command.args(["-Iemulator", "-Idriver", "-I", KERNELS, "-c"]);
    command.arg(&unit.source).arg("-o").arg(&unit.object);
    let run = command.output()?;
    let said = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        return Err(format!("{} doesn't compile:\n{said}", unit.source.display()).into());
    }
    for line in said.lines() {
        println!("cargo:warning={line}");
    }
    Ok(fs::write(stamp, key)?)
}

fn link(compiler: &Compiler, units: &[Unit], out: &Path, name: &str) -> Result<()> {
    let mut command = compiler.command();
    command.arg("-shared").arg(format!("-Wl,-soname,{name}")).arg("-pthread");
    // Written beside and renamed: a test that runs keeps the library that it has loaded.
    let fresh = out.join(format!("{name}.new"));
    command.arg("-o").arg(&fresh).args(units.iter().map(|unit| &unit.object));
    let run = command.output()?;
    if !run.status.success() {
        let said = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{name} doesn't link; are two kernels of one name?\n{said}").into());
    }
    Ok(fs::rename(fresh, out.join(name))?)
}

/// Sorted, so that the result does not depend on the file system.
fn files(folders: &[&str], endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder).map_err(|error| format!("list {folder}: {error}"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| endings.iter().any(|wanted| e == *wanted)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

const KERNELS: &str = "../kernels/cuda";
const FLAGS: [&str; 11] = [
    "-std=c++17",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    // Kernels look at the same bytes as words and as vectors; and a multiply-add is fused where they say so.
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
    "-Wno-unused-function",
];

//! `cargo xtask gpu-check pack FOLDER`: everything that a machine with a GPU needs to check this project, built here: it has
//! neither network nor cargo. `gpu-check read RESULTS`: what `run.sh` found there, as one file in `bench/results`.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bench::record::commit_of;
use crate::programs;

pub(crate) const USAGE: &str = "\
usage: cargo xtask gpu-check pack FOLDER
       cargo xtask gpu-check read RESULTS

  pack  puts programs, tests, data and run.sh into FOLDER; there, `./run.sh RESULTS` needs a GPU, its driver, and python3 with
        PyTorch and torchvision
  read  makes one file in bench/results of what it left

Example: cargo xtask gpu-check pack gpu-check";

pub(crate) fn run(root: &Path, arguments: &[&str], out: &mut dyn Write) -> Result<()> {
    match *arguments {
        ["pack", folder] => pack(root, Path::new(folder), out),
        ["read", results] => read(root, Path::new(results), out),
        _ => bail!(USAGE),
    }
}

fn pack(root: &Path, folder: &Path, out: &mut dyn Write) -> Result<()> {
    fs::create_dir_all(folder.join("digits"))?;
    let release = programs::build(root, &["coordinator", "worker"])?;
    let mut packed: Vec<(PathBuf, &str)> = ["coordinator", "worker"]
        .map(|program| (release.join(program), program))
        .into_iter()
        .collect();
    let tests = [
        ("kernels", "cuda", "kernel-tests"),
        ("worker", "model", "model-tests"),
        ("cuda-mock", "mock", "mock-tests"),
    ];
    for (package, test, name) in tests {
        packed.push((programs::build_test(root, package, test)?, name));
    }
    for (program, name) in &packed {
        let to = folder.join(name);
        fs::copy(program, &to).with_context(|| format!("copy {}", program.display()))?;
        // Symbols are half of it; without `strip` it goes as it is.
        Command::new("strip").arg(&to).status().ok();
    }
    let digits = root.join("examples/digits");
    for entry in fs::read_dir(&digits)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, folder.join("digits").join(name))?;
        }
    }
    for script in ["xtask/src/gpu_check/run.sh", "bench/pytorch_gpu.py"] {
        let script = root.join(script);
        fs::copy(&script, folder.join(script.file_name().context("a script has a name")?))?;
    }
    fs::write(folder.join("commit"), commit_of(root))?;
    writeln!(
        out,
        "packed for a machine with a GPU: {}; there: ./run.sh RESULTS",
        folder.display()
    )?;
    Ok(())
}

fn read(root: &Path, results: &Path, out: &mut dyn Write) -> Result<()> {
    let text = |name: &str| {
        let path = results.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let mut parts = Map::new();
    for line in text("parts.tsv")?.lines() {
        let [name, code, seconds] = line.split('\t').collect::<Vec<_>>()[..] else {
            bail!("parts.tsv: not a part: {line:?}");
        };
        let found = text(name).unwrap_or_default();
        // What is no JSON is kept as the lines that it is.
        let found = serde_json::from_str::<Value>(&found)
            .unwrap_or_else(|_| found.lines().map(Value::from).collect());
        let code: i32 = code.parse()?;
        let said = if code == 0 { String::new() } else { text(&format!("{name}.log"))? };
        let seconds: u64 = seconds.parse()?;
        let part = json!({ "exit": code, "seconds": seconds, "found": found, "said": said });
        parts.insert(name.to_owned(), part);
    }
    ensure!(!parts.is_empty(), "{}: nothing was run", results.display());
    let failed = parts.values().filter(|part| part["exit"] != 0).count();
    let commit = commit_of(root);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = root.join(format!("bench/results/gpu-{commit}-{seconds}.json"));
    let all = json!({ "commit": commit, "unix_seconds": seconds, "parts": parts });
    fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")?;
    writeln!(out, "{} parts, {failed} failed: {}", parts.len(), path.display())?;
    Ok(())
}

//! Which devices there are, which of them a worker computes on, and why not on others: `worker devices`, and what `worker join`
//! chooses.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use kernels::{CudaError, CudaOptions, Device, DeviceError, Gpu, Precision};

use crate::args::Devices;
use crate::join::all_cores;
use crate::table::{Align, Table};

/// What `--devices` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The GPUs if there are any that can be used, or else the CPU.
    Any,
    Cpu,
    AllGpus,
    Gpus(Vec<usize>),
}

/// What a worker's process computes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    Cpu,
    Gpus(Vec<usize>),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        match text {
            "any" => Ok(Choice::Any),
            "cpu" => Ok(Choice::Cpu),
            "all" => Ok(Choice::AllGpus),
            numbers => {
                let parse = |number: &str| number.trim().parse::<usize>();
                let parsed: Result<Vec<usize>, _> = numbers.split(',').map(parse).collect();
                let mut gpus = parsed.map_err(|_| {
                    "is neither any, cpu, all, nor numbers of GPUs such as 0,2".to_owned()
                })?;
                let named = gpus.len();
                gpus.sort_unstable();
                gpus.dedup();
                if gpus.len() < named {
                    return Err("names a GPU twice".to_owned());
                }
                Ok(Choice::Gpus(gpus))
            }
        }
    }
}

/// Settles a choice against the GPUs of this machine, or the reason why there are none.
pub(crate) fn choose(
    choice: &Choice,
    gpus: impl FnOnce() -> Result<Vec<Gpu>, CudaError>,
) -> Result<Chosen, DeviceError> {
    let usable = |gpus: Vec<Gpu>| gpus.iter().map(|gpu| gpu.ordinal).collect::<Vec<usize>>();
    let none = CudaError::NoDevice { ordinal: 0, count: 0 };
    match choice {
        Choice::Cpu => Ok(Chosen::Cpu),
        Choice::Gpus(ordinals) => {
            let count = gpus()?.len();
            match ordinals.iter().find(|&&ordinal| ordinal >= count) {
                Some(&ordinal) => Err(CudaError::NoDevice { ordinal, count }.into()),
                None => Ok(Chosen::Gpus(ordinals.clone())),
            }
        }
        Choice::AllGpus => match usable(gpus()?) {
            gpus if gpus.is_empty() => Err(none.into()),
            gpus => Ok(Chosen::Gpus(gpus)),
        },
        Choice::Any => match gpus().map(usable) {
            Ok(gpus) if !gpus.is_empty() => Ok(Chosen::Gpus(gpus)),
            Ok(_) => {
                tracing::info!("the driver knows no GPU: computing on the CPU");
                Ok(Chosen::Cpu)
            }
            Err(CudaError::NoDriver) => {
                tracing::info!("there is no NVIDIA driver: computing on the CPU");
                Ok(Chosen::Cpu)
            }
            // GPUs that are there but can't be used are not passed over in silence.
            Err(error) => Err(error.into()),
        },
    }
}

/// Opens a GPU; its compiled kernels are kept in the user's cache folder.
pub(crate) fn open_gpu(ordinal: usize, precision: Precision) -> Result<Device, DeviceError> {
    let cache = cache_folder();
    Device::cuda(ordinal, CudaOptions { precision, cache, patience: PATIENCE })
}

/// `worker devices`: a row for each device, and a line of advice for each problem.
pub fn devices(_args: &Devices) -> Result<String, DeviceError> {
    let columns = [
        ("device", Align::Left),
        ("model", Align::Left),
        ("memory", Align::Right),
        ("use", Align::Left),
    ];
    let mut table = Table::new(&columns);
    let mut advice = Vec::new();
    let gpus = kernels::gpus();
    match &gpus {
        Ok(gpus) if gpus.is_empty() => advice.push("The driver knows no GPU.".to_owned()),
        Ok(gpus) => {
            for gpu in gpus {
                let memory = format!("{} GiB", gpu.memory >> 30);
                let verdict = match open_gpu(gpu.ordinal, Precision::Bf16) {
                    Ok(device) => format!("{}, kernels compiled", device.kind()),
                    Err(error) => {
                        advice.push(format!("GPU {}: {error}", gpu.ordinal));
                        "not usable".to_owned()
                    }
                };
                let model = format!("{}, {}", gpu.name, gpu.architecture());
                table.row(vec![gpu.ordinal.to_string(), model, memory, verdict]);
            }
        }
        Err(error) => advice.push(error.to_string()),
    }
    let cpu = Device::cpu(all_cores())?;
    let has_gpus = gpus.is_ok_and(|gpus| !gpus.is_empty());
    let verdict = if has_gpus { "with --devices cpu" } else { "cpu" };
    table.row(vec!["cpu".to_owned(), cpu.describe(), String::new(), verdict.to_owned()]);
    let versions = kernels::cuda_versions().map_or(String::new(), |versions| {
        let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        let compiler = versions.compiler.map_or("not found".to_owned(), version);
        format!("driver: CUDA {}, compiler library: {compiler}\n", version(versions.driver))
    });
    let advice: String = advice.iter().map(|line| format!("{line}\n")).collect();
    Ok(format!("{}{versions}{advice}", table.text()))
}

/// By the rules of the XDG Base Directory Specification.
fn cache_folder() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    given.filter(|path| path.is_absolute()).or_else(home).map(|cache| cache.join("worker-kernels"))
}

/// The longest that a step may take a GPU.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(count: usize) -> Vec<Gpu> {
        let gpu = |ordinal| Gpu {
            ordinal,
            name: "some".to_owned(),
            capability: (9, 0),
            multiprocessors: 1,
            memory: 1,
        };
        (0..count).map(gpu).collect()
    }

    #[test]
    fn a_choice_is_read() {
        let parse = |text: &str| text.parse::<Choice>();
        assert_eq!(parse("any"), Ok(Choice::Any));
        assert_eq!(parse("2,0"), Ok(Choice::Gpus(vec![0, 2])));
        for wrong in ["", "gpu", "0,x", "1,1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_gpu_the_cpu_computes_unless_gpus_were_asked_for() {
        let chosen =
            |choice: Choice, gpus| choose(&choice, || gpus).map_err(|error| error.to_string());
        let nothing = || Err(CudaError::NoDriver);
        assert_eq!(chosen(Choice::Any, nothing()), Ok(Chosen::Cpu));
        assert_eq!(chosen(Choice::Any, Ok(gpus(0))), Ok(Chosen::Cpu));
        assert_eq!(chosen(Choice::Any, Ok(gpus(2))), Ok(Chosen::Gpus(vec![0, 1])));
        assert_eq!(chosen(Choice::Cpu, Ok(gpus(2))), Ok(Chosen::Cpu));
        assert_eq!(chosen(Choice::AllGpus, Ok(gpus(2))), Ok(Chosen::Gpus(vec![0, 1])));
        assert_eq!(chosen(Choice::Gpus(vec![1]), Ok(gpus(2))), Ok(Chosen::Gpus(vec![1])));
        for (choice, gpus) in [
            (Choice::AllGpus, nothing()),
            (Choice::AllGpus, Ok(gpus(0))),
            (Choice::Gpus(vec![2]), Ok(gpus(2))),
        ] {
            assert!(chosen(choice, gpus).is_err());
        }
    }

    #[test]
    fn a_driver_that_does_not_work_is_not_passed_over() {
        let reason = "unknown error".to_owned();
        let broken = CudaError::Fault { ordinal: 0, operation: "start the driver", reason };
        assert!(choose(&Choice::Any, || Err(broken)).is_err());
    }
}

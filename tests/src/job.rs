//! Job files for tests: the example's digits with a few values changed.

use std::path::{Path, PathBuf};

/// A job file in a folder of its own.
#[derive(Clone, Debug)]
pub struct JobFile {
    text: String,
}

impl JobFile {
    /// A small ResNet on the digits that takes about a second an epoch on a slow machine.
    pub fn digits() -> JobFile {
        let folder = digits_folder();
        JobFile {
            text: format!(
                "name = \"digits\"\nseed = 3\n\
                 [data]\nformat = \"idx\"\npath = \"{}\"\naugment = {{ pad = 1, flip = false }}\n\
                 [model]\nblock = \"basic\"\nblocks = [1, 1]\nwidths = [8, 16]\nstem = \"cifar\"\n\
                 [train]\nepochs = 3\nbatch = 64\nslices = 8\nlabel_smoothing = 0.05\n\
                 [optimizer]\nlearning_rate = 0.1\nnesterov = true\nweight_decay = 5e-4\n\
                 [exchange]\nbucket_mib = 1\ntimeout_s = 20\n",
                folder.display()
            ),
        }
    }

    /// A small ResNet on a folder of 40 images, each seen in a fraction of a second.
    pub fn images(folder: &Path) -> JobFile {
        JobFile {
            text: format!(
                "name = \"images\"\nseed = 3\n\
                 [data]\nformat = \"imagefolder\"\npath = \"{}\"\nsize = 24\naugment = {{ flip = true }}\n\
                 [model]\nblock = \"basic\"\nblocks = [1, 1]\nwidths = [8, 16]\nstem = \"cifar\"\n\
                 [train]\nepochs = 3\nbatch = 16\nslices = 4\n\
                 [optimizer]\nlearning_rate = 0.05\n\
                 [exchange]\nbucket_mib = 1\ntimeout_s = 20\n",
                folder.display()
            ),
        }
    }

    /// The same with one piece of text replaced, which must be there.
    pub fn with(mut self, from: &str, to: &str) -> JobFile {
        assert!(self.text.contains(from), "{from:?} is not in the job file:\n{}", self.text);
        self.text = self.text.replace(from, to);
        self
    }

    /// Writes it to `folder`, and gives its path.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("job.toml");
        std::fs::write(&path, &self.text).expect("a test's folder can be written");
        path
    }
}

/// Two classes of photographs in `folder`, of which each has one file that is no image.
pub fn write_images(folder: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataset/tests/fixtures");
    let listed = std::fs::read_dir(fixtures).expect("it is in the tree");
    let mut files: Vec<PathBuf> = listed.map(|entry| entry.expect("it is listed").path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jpg" || ending == "png"));
    files.sort_unstable();
    for (split, each) in [("train", 19), ("val", 4)] {
        for (class, skip) in [("even", 0), ("odd", 1)] {
            let place = folder.join(split).join(class);
            std::fs::create_dir_all(&place).expect("a test's folder can be written");
            std::fs::write(place.join("none.jpg"), "no image")
                .expect("a test's folder can be written");
            for (n, file) in files.iter().cycle().skip(skip).step_by(2).take(each).enumerate() {
                let ending =
                    file.extension().and_then(|ending| ending.to_str()).expect("see above");
                std::fs::copy(file, place.join(format!("{n}.{ending}"))).expect("a file is copied");
            }
        }
    }
}

/// The real digits of the example.
pub fn digits_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/digits")
        .canonicalize()
        .expect("it is in the tree")
}

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

/// The real digits of the example.
pub fn digits_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/digits")
        .canonicalize()
        .expect("it is in the tree")
}

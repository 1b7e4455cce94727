"""Runs an exported ONNX file in onnxruntime and compares its logits with the worker's.

    python check_onnx.py MODEL.onnx IMAGES.f32 LOGITS.f32

IMAGES.f32 holds normalised images [N, C, H, W], LOGITS.f32 the worker's logits [N, classes], both as
little-endian fp32. Needs `pip install onnx onnxruntime numpy`. `cargo test -p worker --test trained`
runs it when the variable INTEROP_PYTHON names such a Python.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime

TOLERANCE = 1e-4


def main() -> None:
    model_path, images_path, logits_path = sys.argv[1:]
    model = onnx.load(model_path)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, output.name) == ("image", "logits"), (image.name, output.name)
    assert image.shape[0] == "N" and output.shape[0] == "N", "the batch is dynamic"
    metadata = session.get_modelmeta().custom_metadata_map
    assert len(json.loads(metadata["classes"])) == output.shape[1]
    assert len(json.loads(metadata["mean"])) == len(json.loads(metadata["std"])) == image.shape[1]

    images = np.fromfile(images_path, "<f4").reshape(-1, *image.shape[1:])
    expected = np.fromfile(logits_path, "<f4").reshape(-1, output.shape[1])
    assert len(images) == len(expected) > 1, (len(images), len(expected))
    (together,) = session.run(["logits"], {"image": images})
    alone = np.concatenate([session.run(["logits"], {"image": one[None]})[0] for one in images])
    for name, found in [("together", together), ("one by one", alone)]:
        difference = float(np.abs(found - expected).max())
        largest = float(np.abs(expected).max())
        print(f"onnxruntime, {len(images)} images {name}: logits up to {largest:.1f}, largest difference {difference:.1e}")
        assert difference <= TOLERANCE, f"more than {TOLERANCE}"


if __name__ == "__main__":
    main()

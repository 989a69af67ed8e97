"""The UNet as ONNX, for onnxruntime and what is built on it; inputs and output have the names of diffusers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import onnxscript  # noqa: F401                   torch.onnx needs it, and says so late
import torch
from torch import Tensor

from dmd2_plugins.export import card, network
from dmd2_plugins.export.compare import difference
from dmd2_plugins.export.drafts import whole
from dmd2_plugins.export.pipeline import PROMPTS, drawn, require
from dmd2_plugins.export.usage import usage
from dmd2cli.student import Student

FILE = "model.onnx"
"""Its weights are beside it, because the format holds 2 GB at most."""


def export(student: Student, out: Path) -> Mapping[str, Any]:
    """Write the folder out, float32; onnxruntime on the CPU, called by the student's sampler, must draw its images."""
    require(student, "onnx")
    example = network.inputs(student, PROMPTS)
    with whole(out) as draft:
        write(student, example, draft / FILE)
        images = drawn(network.through(student, session(draft / FILE)))
        found = difference(drawn(student.source), images, out)
        notes = [f"{usage(student)}. That loop is yours, and so are text encoders, tokenizers and VAE.",
                 "The batch is free; weights and arithmetic are float32."]  # fmt: skip
        card.write(draft, student.contract, out.name, call(student, example), notes)
    return {"folder": str(out), "inputs": list(example), "output": network.OUTPUT, "max_pixel_difference": found}


def write(student: Student, example: Mapping[str, Tensor], file: Path) -> None:
    """The graph with a free batch, and the contract in its metadata."""
    module = network.Network(student, list(network.conditions(student, PROMPTS)))
    shapes = ({0: "batch"}, {0: "batch"}, tuple({0: "batch"} for _ in list(example)[2:]))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")                              # that all batches are one is what was meant
        program = torch.onnx.export(
            module, tuple(example.values()), dynamo=True, dynamic_shapes=shapes, verbose=False,
            input_names=list(example), output_names=[network.OUTPUT],
        )  # fmt: skip
    assert program is not None, "given with dynamo"
    program.model.metadata_props["dmd2"] = json.dumps(student.contract)
    program.save(file, external_data=True)
    onnx.checker.check_model(file)


def session(file: Path) -> Any:
    """A function of the inputs by name, run by onnxruntime."""
    held = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def call(given: Mapping[str, Tensor]) -> Tensor:
        return torch.from_numpy(held.run(None, {name: value.numpy() for name, value in given.items()})[0])

    return call


def call(student: Student, example: Mapping[str, Tensor]) -> str:
    """How it is run."""
    given = ", ".join(f'"{name}": {name}' for name in example)
    shapes = {name: " x ".join(["batch", *map(str, x.shape[1:])]) for name, x in example.items()}
    about = "\n".join(f"# {name}: {str(x.dtype)[6:]}, {shapes[name]}" for name, x in example.items())
    return f'''```python
import onnxruntime

session = onnxruntime.InferenceSession("{FILE}")
{about}
(prediction,) = session.run(None, {{{given}}})        # {student.contract["details"]["prediction"]}
```'''

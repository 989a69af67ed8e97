"""Writes files in the layout of the published ones, with every tensor pickled by torch itself."""

import contextlib
import io
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import torch

SOURCE = "open('executed', 'w').close()\n"
"""The source code that such files carry: whoever executes it leaves a file in the working folder."""

BUFFERS = ("resample_filter", "freqs")


def reconstruct(meta):
    """Stands for torch_utils.persistence._reconstruct_persistent_obj, which would execute meta["module_src"]."""


class EasyDict(dict):
    """Stands for dnnlib.util.EasyDict."""


reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
EasyDict.__module__ = "dnnlib.util"


class Persistent:
    """An object of a persistent class: its class name and its __dict__."""

    def __init__(self, class_name, **state):
        self.class_name, self.state = class_name, state


class Pickler(pickle._Pickler):
    """Reduces such objects as the published class decorator does. In Python, to see what the C one would not."""

    def reducer_override(self, obj):
        if isinstance(obj, Persistent):
            head = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": obj.class_name}
            return reconstruct, ({**head, "state": obj.state},), None
        return NotImplemented


@contextlib.contextmanager
def names():
    """The modules that a pickler wants to find its globals in, for as long as it writes."""
    found = {
        "torch_utils.persistence": types.SimpleNamespace(_reconstruct_persistent_obj=reconstruct),
        "dnnlib.util": types.SimpleNamespace(EasyDict=EasyDict),
    }
    for name in ("torch_utils", "dnnlib", *found):
        sys.modules[name] = found.get(name, types.ModuleType(name))
    try:
        yield
    finally:
        for name in ("torch_utils", "dnnlib", *found):
            del sys.modules[name]


def dumps(obj, protocol=4):
    out = io.BytesIO()
    with names():
        Pickler(out, protocol).dump(obj)
    return out.getvalue()


def module(class_name, tensors, kwargs=None, **state):
    """A persistent nn.Module with some tensors by state-dict name, and modules in it as the names say."""
    parameters, buffers, inner = OrderedDict(), OrderedDict(), {}
    for name, tensor in tensors.items():
        head, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(head, {})[rest] = tensor
        elif name in BUFFERS:
            buffers[name] = tensor
        else:
            parameters[name] = torch.nn.Parameter(tensor)
    hooks = {f"_{kind}_hooks": OrderedDict() for kind in ("backward", "forward", "forward_pre", "state_dict")}
    modules = OrderedDict((name, child(name, held)) for name, held in inner.items())
    return Persistent(
        class_name,
        training=False, _parameters=parameters, _buffers=buffers, _non_persistent_buffers_set=set(), **hooks,
        _modules=modules, _init_args=(), _init_kwargs=kwargs or {"init_weight": np.sqrt(1 / 3)}, **state,
    )  # fmt: skip


def child(name, tensors):
    """What lies in a module: a ModuleDict of blocks, or a module of a persistent class."""
    if name not in ("enc", "dec"):
        kind = "UNetBlock" if any("." in name for name in tensors) else "Conv2d"
        return module(kind, tensors, skip_scale=np.float64(0.5), empty=None)
    found = torch.nn.ModuleDict()
    found._modules.update(module("enc", tensors).state["_modules"])
    return found


def network(tensors, config, **changes):
    """A published network: the preconditioning around a U-Net. tensors: by published name, model.*."""
    kwargs = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    found = module("EDMPrecond", tensors, {"use_fp16": False, **kwargs}, sigma_data=0.5, sigma_max=float("inf"))
    found.state.update(changes)
    found.state["_modules"]["model"].class_name = config["model_type"]
    return found


def contents(ema):
    """All that a published file holds."""
    return {
        "ema": ema,
        "loss_fn": Persistent("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=0.5),
        "augment_pipe": Persistent("AugmentPipe", p=0.12, xflip=1e8, constants=np.zeros(3)),
        "dataset_kwargs": EasyDict(path="train.zip", use_labels=True),
    }

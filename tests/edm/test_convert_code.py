"""Files that try to run something when they are read: each is refused in one line, and none of them runs."""

import contextlib
import copyreg
import io
import os
import pickle
import subprocess
import time
from pathlib import Path

import numpy as np
import published
import pytest
import torch
from converting import published_names, randomised, refusal
from published import SOURCE, Persistent


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Calls:
    """Calls something when Python unpickles it."""

    def __init__(self, function, *args):
        self.made = function, args

    def __reduce__(self):
        return self.made


def text(value):
    """The opcode that pushes a text."""
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def network_with(tensor):
    """A whole published network, one of its tensors another."""
    made = randomised("tiny-adm")
    found = published.network(published_names(made), made.backbone.config.json)
    found.state["_modules"]["model"].state["_modules"]["out_norm"].state["_parameters"]["bias"] = tensor
    return {"ema": found}


def stored(data):
    """A tensor (32,) whose storage are these bytes."""
    storage = Calls(torch.storage._load_from_bytes, data)
    return Calls(torch._utils._rebuild_tensor_v2, storage, 0, (32,), (1,), False, {})


EVIL = Calls(exec, SOURCE)
SHORT = text(SOURCE.strip())
REBUILT = Calls(torch._tensor._rebuild_from_type_v2, exec, str, (SOURCE,), {})
DOTTED = b"\x80\x04\x8c\x02os\x8c\x0epath.os.system\x93\x8c\x0etouch executed\x85R."
RUNS = {
    "a call": (lambda: pickle.dumps(EVIL), "builtins.exec"),
    "a command": (lambda: pickle.dumps(Calls(os.system, "touch executed")), ".system"),
    "a call in a dict": (lambda: pickle.dumps({"ema": EVIL}, 2), "__builtin__.exec"),
    "a name with dots": (lambda: DOTTED, "os.path.os.system"),
    "an instance": (lambda: b"\x80\x02(" + SHORT + b"i__builtin__\nexec\n.", "the instruction INST"),
    "an object": (lambda: b"\x80\x02(c__builtin__\nexec\n" + SHORT + b"o.", "__builtin__.exec"),
    "an extension": (lambda: b"\x80\x02\x82\xf0" + SHORT + b"\x85R.", "the instruction EXT1"),
    "a rebuilt type": (lambda: published.dumps(network_with(REBUILT)), "torch._tensor._rebuild_from_type_v2"),
    "a storage": (lambda: published.dumps(network_with(stored(pickle.dumps(EVIL)))), "builtins.exec"),
    "a network": (lambda: published.dumps({"ema": Persistent("EDMPrecond", _init_args=EVIL)}), "builtins.exec"),
    "beside the network": (lambda: published.dumps({"loss_fn": Persistent("EDMLoss", x=EVIL)}), "builtins.exec"),
}
"""Name -> (the bytes of a file that runs something under Python's own reader, what the refusal names)."""


@pytest.fixture
def extension():
    """An extension code of a careless library. Python's reader keeps what a code stood for the last time."""
    copyreg.add_extension("builtins", "eval", 240)
    yield
    copyreg.remove_extension("builtins", "eval", 240)
    copyreg.clear_extension_cache()


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("name", RUNS)
def test_a_file_that_runs_something_under_python_is_refused_by_name_and_runs_nothing(name):
    made, named = RUNS[name]
    Path("evil.pkl").write_bytes(made())
    said = refusal("evil.pkl")
    assert named in said and "nothing was executed" in said
    with published.names(), contextlib.suppress(Exception):
        pickle.loads(Path("evil.pkl").read_bytes())
    Path("executed").unlink()                                           # it was no dud: Python made this file
    assert refusal("evil.pkl") == said


def test_a_text_pickle_is_no_checkpoint_and_is_refused_by_name_if_someone_insists():
    Path("evil.pkl").write_bytes(pickle.dumps(EVIL, 0))
    assert "not a checkpoint that is known here" in refusal("evil.pkl")
    assert "__builtin__.exec" in refusal("evil.pkl", "--from", "edm")


ORDERED = b"ccollections\nOrderedDict\n"
REFUSED = {
    "getattr": (pickle.dumps(getattr), "builtins.getattr"),
    "a class": (pickle.dumps(subprocess.Popen), "subprocess.Popen"),
    "another function of torch": (pickle.dumps(torch.load), "torch.serialization.load"),
    "a part of the function": (b"\x80\x04\x8c\x02os" + text("path.join") + b"\x93.", "os.path.join"),
    "this package": (b"\x80\x02cdmd2cli.unpickle\nPLAIN\n.", "dmd2cli.unpickle.PLAIN"),
    "a name that is no text": (b"\x80\x04K\x01K\x02\x93.", "a global whose name is no text"),
    "control characters": (b"\x80\x04\x8c\x01o" + text("\x1b[2J\nhello") + b"\x93.", "o.\\x1b[2J\\nhello"),
    "a new object": (b"\x80\x02csubprocess\nPopen\n)\x81.", "subprocess.Popen"),
    "a new object with keywords": (b"\x80\x04" + ORDERED + b")}\x92.", "the instruction NEWOBJ_EX"),
    "a call of a text": (b"\x80\x02" + text("exec") + SHORT + b"\x85R.", "to call a str"),
    "a call of a result": (b"\x80\x02ctorch\nSize\n)R)R.", "to call a torch.Size"),
    "a call with a list": (b"\x80\x02ctorch\nSize\n]R.", "with a list"),
    "a dict of something": (b"\x80\x02" + ORDERED + text("ab") + b"\x85R.", "OrderedDict with unusual arguments"),
    "another codec": (b"\x80\x02c_codecs\nencode\n" + text("a") + text("idna") + b"\x86R.", "encode with unusual"),
    "many bytes": (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "builtins.bytearray with unusual"),
    "a state of a class": (b"\x80\x02ctorch\nSize\n}b.", "to set the state of a torch.Size"),
    "a state of a dict": (b"\x80\x02" + ORDERED + b")R}" + text("keys") + b"K\x01sb.", "to set the state of a dict"),
    "a second state": (b"\x80\x02ctorch\nSize\n)R}b}b.", "to set the state of a torch.Size"),
    "items of a result": (b"\x80\x02ctorch\nSize\n)RK\x01K\x02s.", "to set items of a torch.Size"),
    "items of a list": (b"\x80\x02]K\x01K\x02s.", "to set items of a list"),
    "an append to a dict": (b"\x80\x02}K\x01a.", "to append to a dict"),
    "a persistent object": (b"\x80\x02" + text("a") + b"\x85Q.", "a persistent object"),
    "a persistent text": (b"\x80\x02Pabc\n.", "the instruction PERSID"),
    "a buffer of the caller": (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_anything_beyond_tensors_and_plain_values_is_refused_by_name(name):
    data, named = REFUSED[name]
    Path("evil.pkl").write_bytes(data)
    said = refusal("evil.pkl")
    assert named in said and "nothing was executed" in said and said.isascii() and len(said) < 400


def test_numbers_of_numpy_that_are_objects_are_refused():
    evil = Calls(np._core.multiarray.scalar, np.dtype("O"), EVIL)
    Path("evil.pkl").write_bytes(published.dumps(network_with(evil)))
    assert "builtins.exec" in refusal("evil.pkl")
    held = network_with(torch.ones(32))
    held["ema"].state["_init_kwargs"]["dropout"] = Calls(np._core.multiarray.scalar, np.dtype("O"), pickle.dumps(EVIL))
    Path("evil.pkl").write_bytes(published.dumps(held))
    assert "a number of an unknown type" in refusal("evil.pkl")


# -- files that ask for more than there is ---------------------------------------------------------------------


def storage(count=32, data=b"\0" * 128, kind=torch.FloatStorage):
    """The bytes of a storage that claims `count` numbers and holds `data`."""

    class Reference(pickle.Pickler):
        def persistent_id(self, obj):
            return obj if isinstance(obj, tuple) and obj[0] == "storage" else None

    out, reference = io.BytesIO(), ("storage", kind, "0", "cpu", count, None)
    for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, reference, ["0"]):
        Reference(out, 2).dump(head)
    return out.getvalue() + count.to_bytes(8, "little") + data


def view(size, stride=(1,), offset=0, **data):
    return Calls(
        torch._utils._rebuild_tensor_v2, Calls(torch.storage._load_from_bytes, storage(**data)), offset, size, stride
    )


BOMBS = {
    "a storage of less than it says": (lambda: view((32,), count=2**40), "of another length than it says"),
    "a storage of more than it says": (lambda: view((32,), count=16), "of another length than it says"),
    "a storage of a class unknown": (lambda: view((32,), kind=torch.QInt8Storage), "torch.QInt8Storage"),
    "no stride": (lambda: view((32,), (0,), count=1, data=b"\0" * 4), "a tensor larger than its data"),
    "an offset": (lambda: view((32,), offset=1), "a tensor larger than its data"),
    "a negative offset": (lambda: view((32,), offset=-1), "sizes that are none"),
    "a vast size": (lambda: view((2**40, 2**40), (0, 0)), "has other shapes of model.out_norm.bias"),
    "an endless size": (lambda: view((2**80,)), "sizes that are none"),
    "sizes that are a text": (lambda: view("32"), "sizes that are none"),
    "no storage": (lambda: stored("text"), "a storage that is none"),
    "a new file of torch": (lambda: stored(b"PK\3\4" + bytes(100)), "not a whole pickle"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_tensor_that_asks_for_more_than_its_data_is_refused(name):
    made, named = BOMBS[name]
    Path("evil.pkl").write_bytes(published.dumps(network_with(made())))
    assert named in refusal("evil.pkl")


MODULE = b"ctorch.nn.modules.container\nModuleDict\n)\x81q\x01}(" + text("_parameters") + b"}" + text("_buffers") + b"}"
MODULE += text("_modules") + b"}" + text("a")
ROOT = b"\x80\x02}" + text("ema")
HOSTILE = {
    "deep lists": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "deep keys": b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.",
    "deep modules": ROOT + MODULE * 50_000 + b"N" + b"sub" * 50_000 + b"s.",
    "a module in itself": ROOT + MODULE + b"h\x01" + b"sub" + b"s.",
    "a text of 1 TB": b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"a.",
    "bytes of 8 EB": b"\x80\x04\x8e" + (2**63 - 1).to_bytes(8, "little") + b"a.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "a frame of 1 TB": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.",
    "a place far up": b"\x80\x02Nr\xff\xff\xff\xff0h\x07.",
    "an empty stack": b"\x80\x020.",
    "no mark": b"\x80\x02Nt.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once(name):
    Path("evil.pkl").write_bytes(HOSTILE[name])
    started = time.perf_counter()
    assert refusal("evil.pkl")
    assert time.perf_counter() - started < 10


# -- files of torch.save ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("held", [EVIL, {"model.map_layer0.weight": EVIL}, {"a": REBUILT}], ids=["it", "in it", "type"])
def test_a_torch_file_that_runs_something_is_refused_by_name(held, zipped):
    torch.save(held, "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    said = refusal("pytorch_model.bin")
    assert ("exec" in said or "_rebuild_from_type_v2" in said) and "nothing was executed" in said
    with contextlib.suppress(Exception):
        torch.load("pytorch_model.bin", weights_only=False)
    Path("executed").unlink()


# -- chance ----------------------------------------------------------------------------------------------------


def test_garbled_files_are_refused_in_one_line_whatever_byte_is_wrong():
    small = published.module("EDMPrecond", {"model.a.weight": torch.ones(3, 2)}, {"img_resolution": np.int64(16)})
    whole, draw = published.dumps(published.contents(small)), np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in draw.integers(len(data), size=draw.integers(1, 4)):
            data[place] = draw.integers(256)
        Path("evil.pkl").write_bytes(data)
        refusal("evil.pkl", "--from", "edm")

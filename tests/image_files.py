"""Tiny sets of images in every format that is read."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

N, SIDE = 6, 8


def values(n=N, side=SIDE, seed=0):
    """Images uint8 (n, side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folder(path, names, images):
    for name, image in zip(names, images, strict=True):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(png(image))
    return path


def edm_names(n=N):
    return [f"00000/img{i:08d}.png" for i in range(n)]


def edm_json(labels):
    listed = labels and [[name, label] for name, label in zip(edm_names(len(labels)), labels, strict=True)]
    return json.dumps({"labels": listed})


def edm_zip(path, images, labels, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, image in zip(edm_names(len(images)), images, strict=True):
            file.writestr(name, png(image))
        file.writestr("dataset.json", edm_json(labels))
    return path


def lmdb_folder(path, images, labels=None):
    """As the official code writes it."""
    import lmdb

    with lmdb.open(str(path), map_size=2**22) as env, env.begin(write=True) as write:
        write.put(b"images_shape", f"{len(images)} 3 {SIDE} {SIDE}".encode())
        for i, image in enumerate(images):
            write.put(f"images_{i}_data".encode(), image.transpose(2, 0, 1).tobytes())
        if labels is not None:
            write.put(b"labels_shape", str(len(labels)).encode())
            for i, label in enumerate(labels):
                write.put(f"labels_{i}_data".encode(), np.int64(label).tobytes())
    return path


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def shards(path, images, labels, per_shard=4):
    """WebDataset shards set-000000.tar, ... in a folder."""
    path.mkdir()
    for k in range(0, len(images), per_shard):
        members = []
        for i in range(k, min(k + per_shard, len(images))):
            members.append((f"{i:04d}.png", png(images[i])))
            members.append((f"{i:04d}.cls", str(labels[i]).encode()))
        tar(path / f"set-{k // per_shard:06d}.tar", members)
    return path


def cifar_values(n=2, seed=0):
    """Per batch: rows uint8 (n, 3072), labels."""
    drawn = np.random.default_rng(seed)
    return [(drawn.integers(0, 256, (n, 3072), dtype=np.uint8), drawn.integers(0, 10, n).tolist()) for _ in range(6)]


CIFAR_BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def python2_pickle(rows, labels):
    """A batch as Python 2 and an old numpy pickled it, opcode by opcode: protocol 2, byte strings, numpy.core."""
    raw = rows.tobytes()
    text = lambda s: b"U" + bytes([len(s)]) + s                                     # noqa: E731  SHORT_BINSTRING
    number = lambda n: b"J" + struct.pack("<i", n)                                  # noqa: E731  BININT
    order = text(b"|") + b"NNN" + 2 * number(-1) + b"K\x00"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + order + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    shape = number(len(rows)) + number(3072) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(text(b"a_s_%06d.png" % i) for i in range(len(rows))) + b"e"
    label = text(b"training batch")
    pairs = [(b"data", array + state), (b"labels", listed), (b"batch_label", label), (b"filenames", names)]
    return b"\x80\x02}q\x00(" + b"".join(text(key) + value for key, value in pairs) + b"u."


def python3_pickle(rows, labels, protocol=2):
    return pickle.dumps({"data": rows, "labels": labels}, protocol=protocol)


def cifar_binary(rows, labels):
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(rows, labels, strict=True))


def cifar_archive(path, batches, write=python2_pickle, folder="cifar-10-batches-py", end=""):
    with tarfile.open(path, "w:gz") as file:
        for name, (rows, labels) in zip(CIFAR_BATCHES, batches, strict=True):
            content = write(rows, labels)
            info = tarfile.TarInfo(f"{folder}/{name}{end}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def spoil(path: Path, at=-30):
    """Change some bytes in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[at : at + 8] = b"\0" * 8
    path.write_bytes(bytes(raw))


def hub_folder(path, images, labels):
    """As `datasets` saves it."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcdefgh"))})
    rows = {"image": [{"bytes": png(x), "path": None} for x in images], "label": labels}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features)}).save_to_disk(path)
    return path


SETS = {
    "images": lambda path: edm_zip(path / "a.zip", values(), [2, 0, 1, 2, 0, 7]),
    "cifar10": lambda path: cifar_archive(path / "c.tar.gz", cifar_values()),
    "lmdb": lambda path: lmdb_folder(path / "lmdb", values(), [2, 0, 1, 2, 0, 7]),
    "webdataset": lambda path: shards(path / "shards", values(), [2, 0, 1, 2, 0, 7]),
    "huggingface": lambda path: hub_folder(path / "hub", values(), [2, 0, 1, 2, 0, 7]),
}
"""Registered data set -> what makes a tiny one in a folder and returns its path."""

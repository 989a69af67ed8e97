"""What a run has left, and whether it is what it should be."""

from safetensors.torch import load_file

from dmd2cli.engine import checkpoint


def tensors(folder):
    """Every tensor of a checkpoint; torch does not promise their order in its file."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def last(run):
    """The newest checkpoint."""
    return checkpoint.latest(run / "checkpoints")


def same(run, whole):
    """Assert that two runs ended in the same bits."""
    for name in ("student/model.safetensors", "student/student.json", "metrics.jsonl"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = tensors(last(run)), tensors(last(whole))
    assert last(run).name == last(whole).name and ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert not list(run.rglob(".*")), "leftovers"


def good(run):
    """The steps of the checkpoints that are whole, and the assertion that `latest` names one of them."""
    folder = run / "checkpoints"
    whole = []
    for path in sorted(folder.glob("step-*")):
        checkpoint.verify(path)                                # one that has its name is whole
        whole.append(int(path.name[5:]))
    if (pointer := folder / "latest").is_file():
        assert int(pointer.read_text()[5:]) in whole
    return whole

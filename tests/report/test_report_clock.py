"""How long a run took, by its TensorBoard files."""

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from dmd2cli.report.clock import taken


def board(folder, times, suffix):
    """A file of events."""
    writer = EventFileWriter(str(folder / "tb"), filename_suffix=suffix)
    writer.flush()
    (file,) = (folder / "tb").glob(f"*{suffix}")
    file.write_bytes(b"")                                      # without the event that says when the test ran
    writer.close()
    from tensorboard.summary.writer.record_writer import RecordWriter

    with file.open("wb") as out:
        records = RecordWriter(out)
        for time in times:
            records.write(Event(wall_time=time, step=3).SerializeToString())
        records.flush()
    return file


def test_pauses_between_two_processes_do_not_count(tmp_path):
    board(tmp_path, [1000.0, 1010.0, 1060.0], ".a")
    board(tmp_path, [9000.0, 9030.0], ".b")
    assert taken(tmp_path).seconds == pytest.approx(90) and "TensorBoard" in taken(tmp_path).source


def test_a_file_that_was_cut_counts_for_nothing(tmp_path):
    file = board(tmp_path, [1000.0, 1010.0, 1060.0], ".a")
    file.write_bytes(file.read_bytes()[:-3])
    assert taken(tmp_path) is None
    file.write_bytes(b"")
    assert taken(tmp_path) is None

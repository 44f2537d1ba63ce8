"""Append-only files: truncation on resume, and full disks."""

import json
import os

import pytest

from jaxbrewer import UsageError
from jaxbrewer.run.logs import AppendOnly, Events, JsonLines, read_events

ROWS = [{"step": step, "loss": step / 3, "nan": float("nan")} for step in range(1, 7)]


def test_floats_are_read_back_exactly(tmp_path):
    file = JsonLines(tmp_path / "lines")
    file.append(ROWS)
    file.close()
    assert str(JsonLines(tmp_path / "lines", last_step=6).rows) == str(ROWS)


@pytest.mark.parametrize("cut", [0, 1, 20, 60])
def test_later_rows_and_incomplete_rows_are_cut_off(cut, tmp_path):
    path = tmp_path / "lines"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)  # as a killed process leaves it
    file = JsonLines(path, last_step=4)
    assert [row["step"] for row in file.rows] == [1, 2, 3, 4]
    file.append(ROWS[4:])
    file.close()
    assert path.read_bytes() == whole
    assert JsonLines(path, last_step=0).rows == []
    assert path.read_bytes() == b""


def found(log_dir):
    return [
        (event.step, value.tag)
        for path in sorted(log_dir.iterdir())
        for _, event in read_events(path)
        for value in event.summary.value
    ]


def test_events_have_no_gap_and_no_repeat(tmp_path):
    first = Events(tmp_path, "a")
    first.append([(step, {"scalar/loss": 1.0}) for step in range(1, 6)])
    first.close()
    (path,) = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size - 3)
    foreign = tmp_path / "events.out.tfevents.1.host.b"
    foreign.write_bytes(path.read_bytes())
    second = Events(tmp_path, "a", last_step=3)
    second.append([(step, {"scalar/loss": 1.0}) for step in (4, 5)])
    second.close()
    foreign.unlink()
    assert found(tmp_path) == [(step, "scalar/loss") for step in range(1, 6)]
    Events(tmp_path, "a", last_step=0).close()
    assert found(tmp_path) == []


def test_events_of_other_runs_are_not_changed(tmp_path):
    for run in ("a", "b"):
        events = Events(tmp_path, run)
        events.append([(1, {"scalar/loss": 1.0})])
        events.close()
    Events(tmp_path, "a", last_step=0).close()
    assert found(tmp_path) == [(1, "scalar/loss")]


def test_data_refused_by_a_full_disk_are_written_later(tmp_path, monkeypatch):
    file = AppendOnly(tmp_path / "file")
    write, room = os.write, [2]

    def limited(descriptor, data):
        if room[0] == 0:
            raise OSError(28, "No space left on device")
        written = write(descriptor, bytes(data)[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr("jaxbrewer.run.logs.os.write", limited)
    with pytest.warns(UserWarning, match="file could not be written: No space left"):
        file.write(b"abc")
    file.write(b"def")  # a second warning would be an error
    assert (tmp_path / "file").read_bytes() == b"ab"
    room[0] = 100
    file.write(b"g")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"abcdefg"
    with pytest.raises(UsageError, match="file/inner cannot be written"):
        AppendOnly(tmp_path / "file" / "inner")

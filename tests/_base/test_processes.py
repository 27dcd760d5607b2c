"""What processes have spent."""

import os

from avmixup_kit._base import processes


def test_processor_seconds_are_those_of_a_process_and_of_those_it_waited_for(monkeypatch):
    began = {"wall": 0.0, "processor": 1.0}
    monkeypatch.setattr(os, "times", lambda: os.times_result((1.0, 2.0, 3.0, 4.0, 99.0)))
    assert processes.spent()["processor"] == 10
    assert processes.spent_since(began, {"processor": 5.0}) == {"processor": 14.0}

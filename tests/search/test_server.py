"""A study on a PostgreSQL server of the test's own: shared, killed, taken up, and its errors."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import avmixup_kit as av
from avmixup_kit import tuning
from tests.conftest import skip

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a database on a socket, of a server that ends with the tests."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian's are on nobody's path
    found = shutil.which("pg_ctl") or next((str(h / "pg_ctl") for h in homes[::-1]), None)
    if found is None:
        skip("no PostgreSQL server here: apt-get install postgresql")
    pytest.importorskip("psycopg")
    programs, owner = Path(str(found)).resolve().parent, {}
    folder = Path(tempfile.mkdtemp(prefix="av-pg-", dir="/tmp"))  # a socket's path must be short
    if os.getuid() == 0:  # whom the server refuses
        other = pwd.getpwnam("postgres")
        os.chown(folder, other.pw_uid, other.pw_gid)
        owner = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}

    def call(program: str, *words: Any) -> None:
        subprocess.run(
            [programs / program, *map(str, words)],
            check=True, stdout=subprocess.DEVNULL, timeout=600, cwd=folder, **owner,
        )  # fmt: skip

    data = folder / "data"
    try:
        call("initdb", "-D", data, "-A", "trust", "-U", "avmixup", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        call("pg_ctl", "start", "-w", "-t", 300, "-D", data, "-l", folder / "log", "-o", options)
        yield f"postgresql+psycopg://avmixup@/postgres?host={folder}"
        call("pg_ctl", "stop", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


PROCESS = """
import sys
import torch
import avmixup_kit as av
from avmixup_kit import tuning
torch.set_num_threads(1)
folder, storage, trials = *sys.argv[1:3], int(sys.argv[3])
plan = tuning.Plan(settings=av.Settings(20, batch_size=32), base_channels=4, attack_steps=1,
                   images=200, epsilon=0.03, objective=av.cw(steps=3, epsilon=0.03), prune=False)
tuning.search(av.digits(validation=0.25), folder, trials=trials, plan=plan, checkpoint_every=2,
              storage=storage, say=True)
"""


def started(*words: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]") -> list[int]:
    """Return the trials that a process has done."""
    output, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return [int(line.split()[1].rstrip(":")) for line in output.splitlines()]


def test_two_processes_share_a_study_on_a_server_and_one_killed_is_taken_up(tmp_path, server):
    total = 4
    killed = started(tmp_path / "a", server, total)
    deadline = time.monotonic() + 600
    while not list((tmp_path / "a" / "trials").glob("*.pt")) and time.monotonic() < deadline:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    output, error = killed.communicate()
    (left,) = [int(path.stem) for path in (tmp_path / "a" / "trials").glob("*.pt")]
    first = list(range(left))
    assert len(output.splitlines()) == left, error
    # The other shares nothing but the study, and leaves that trial alone.
    second = ended(started(tmp_path / "b", server, total))
    assert second == list(range(left + 1, total))
    both = [started(tmp_path / name, server, total + 2) for name in "ab"]
    shares = [ended(process) for process in both]
    assert left in shares[0]
    assert sorted([*first, *second, *shares[0], *shares[1]]) == list(range(total + 2))
    ends = [tuning.Found.load(tmp_path / name) for name in "ab"]
    (found, *_) = [end for end in ends if all(t.state == "complete" for t in end.trials)]
    assert [len(trial.taken_up) for trial in found.trials] == [
        1 + (number == left) for number in range(total + 2)
    ]
    assert found.trials[left].taken_up[1] >= 2, "its checkpoint was not used"


def test_a_server_that_refuses_is_named_without_the_password(tmp_path, server):
    url = server.replace("avmixup@", "nobody:secret@")
    words = r'storage = .*nobody:\*\*\*@.* cannot be opened: .*role "nobody" does not exist'
    with pytest.raises(ValueError, match=words) as error:
        tuning.search(av.digits(validation=0.25), tmp_path, trials=1, storage=url)
    assert "secret" not in str(error.value)

"""What the training dashboard costs, and how soon it answers.

    python benchmarks/dashboard.py [--steps 150] [--rounds 5] [--output FILE]

Speed: the same training on digits with and without a dashboard, in turns, in one process of one
thread; the process's CPU time for each step. The curves' measurements, which the reader asks for
with ``probe_every``, are counted apart. Latency: a kernel of its own trains with a dashboard, and a
client does what a browser does: it moves gamma and waits until the kernel says that the control has
been heard, and clicks Pause and waits until the words beside the button change.
"""

import argparse
import json
import queue
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from jupyter_client.manager import start_new_kernel

import avmixup_kit as av
from avmixup_kit import live

SETUP = """
import torch
torch.set_num_threads(1)
import avmixup_kit as av
from avmixup_kit import live
data = av.digits()
dial = av.Dial(av.avmixup(2.0, 1.0, 0.1, data.epsilon))
training = av.Training(av.small_cnn(data), data.train, dial, 100_000)
lab = live.show(training, dial, data, folder=None)
lab.start()
import json
print(json.dumps({"gamma": lab.numbers["gamma"].slider.model_id,
                  "note": lab.note.model_id, "pause": lab.pause_button.model_id,
                  "go": lab.start_button.model_id, "state": lab.state.model_id}))
"""


def training(data: av.Data, steps: int) -> av.Training:
    """Return a training of the benchmark's kind."""
    dial = av.Dial(av.avmixup(2.0, 1.0, 0.1, epsilon=data.epsilon))
    return av.Training(av.small_cnn(data), data.train, dial, steps)


def plain(data: av.Data, steps: int) -> float:
    """Return CPU seconds a step without a dashboard."""
    run = training(data, steps)
    next(run)
    began = time.process_time()
    for _ in run:
        pass
    return (time.process_time() - began) / (steps - 1)


def shown(data: av.Data, steps: int, probe_every: int) -> float:
    """Return CPU seconds a step with a dashboard, every thread of the process counted."""
    with tempfile.TemporaryDirectory() as kept:
        lab = live.show(training(data, steps), data=data, probe_every=probe_every, folder=kept)
        lab.trainer.ask("wait", lambda: None).result()
        began = time.process_time()
        lab.start()
        lab.join()
        seconds = time.process_time() - began
        lab.close()
    return seconds / steps


class Client:
    """What a browser is to the kernel: it sends widget messages and hears what comes back."""

    def __init__(self) -> None:
        self.manager, self.kernel = start_new_kernel(kernel_name="python3")
        self.heard: list[tuple[float, dict[str, Any]]] = []
        self.there = threading.Condition()
        self.printed = ""
        self.going = True
        self.kernel.execute(SETUP)
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        while self.going:
            try:
                message = self.kernel.get_iopub_msg(timeout=0.5)
            except queue.Empty:
                continue
            with self.there:
                if message["msg_type"] == "stream":
                    self.printed += message["content"]["text"]
                self.heard.append((time.perf_counter(), message))
                self.there.notify_all()

    def answer(self, widget: str, data: dict[str, Any], other: str, says: str) -> float:
        """Send a message to one widget; return the seconds until another one says these words."""
        heard = len(self.heard)
        content = {"comm_id": widget, "data": data}
        began, end = time.perf_counter(), time.monotonic() + 60
        self.kernel.shell_channel.send(self.kernel.session.msg("comm_msg", content))
        with self.there:
            while True:
                for when, message in self.heard[heard:]:
                    content = message["content"]
                    if content.get("comm_id") == other and says in str(content["data"]):
                        return when - began
                if not self.there.wait(max(0, end - time.monotonic())):
                    raise TimeoutError(f"no {says!r} from the kernel")

    def close(self) -> None:
        """End the kernel."""
        self.going = False
        self.thread.join()
        self.kernel.stop_channels()
        self.manager.shutdown_kernel(now=True)


def latencies(rounds: int) -> dict[str, list[float]]:
    """Return seconds from a reader's act to the dashboard's answer, while training runs."""
    client = Client()
    try:
        while "\n" not in client.printed:
            time.sleep(0.1)
        widgets = json.loads(client.printed)
        time.sleep(3)
        turned, paused = [], []
        gamma, note, pause, go, state = (
            widgets[name] for name in ("gamma", "note", "pause", "go", "state")
        )
        click = {"method": "custom", "content": {"event": "click"}}
        for number in range(rounds):
            value = 1.5 + number / 20
            move = {"method": "update", "state": {"value": value}}
            turned.append(client.answer(gamma, move, note, f"{value:.3g} times as far"))
            time.sleep(0.3)
        for _ in range(rounds):
            paused.append(client.answer(pause, click, state, "is paused"))
            client.answer(go, click, state, "is running")
            time.sleep(0.3)
    finally:
        client.close()
    return {"turn gamma, note changes": turned, "click Pause, run is paused": paused}


def main() -> None:
    """Measure, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = av.digits()
    plain(data, 20)
    found: dict[str, list[float]] = {"plain": [], "dashboard": [], "dashboard, probes": []}
    for _ in range(given.rounds):
        found["plain"].append(plain(data, given.steps))
        found["dashboard"].append(shown(data, given.steps, 10**9))
        found["dashboard, probes"].append(shown(data, given.steps, 50))
    base = statistics.median(found["plain"])
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:20} {1e3 * middle:6.2f} ms CPU a step, {middle / base - 1:+.1%}")
    answers = latencies(4 * given.rounds)
    for name, values in answers.items():
        middle, worst = statistics.median(values), max(values)
        print(f"{name:28} median {1e3 * middle:4.0f} ms, worst of {len(values)} {1e3 * worst:4.0f}")
    if given.output:
        report = {"seconds_per_step": found, "seconds_to_answer": answers}
        given.output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

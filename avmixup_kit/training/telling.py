"""Records of a training told to people and to loggers, and passed on."""

from collections.abc import Generator, Iterable
from pathlib import Path

from avmixup_kit.training.loop import Record


def told(
    records: Iterable[Record], steps: int, name: str, *, every: int = 100, quiet: bool = False
) -> Generator[Record, None, None]:
    """Pass records on, and print loss and learning rate of some, and signs that it goes wrong.

    A bar shows on a terminal and in notebooks only, so that files and logs hold plain lines.

    Args:
        steps: of the whole training.
        name: what the bar says.
        every: steps between two lines; at least a hundredth of the training.
        quiet: print nothing.
    """
    from tqdm.auto import tqdm

    bar = tqdm(total=steps, unit="step", desc=name, disable=quiet or None)
    every = max(every, steps // 100)
    with bar:
        for record in records:
            if not quiet:
                if record.step % every == 0:
                    tqdm.write(f"step {record.step}: loss {record.loss:.4f}, lr {record.lr:g}")
                for sign in record.signs:
                    tqdm.write(f"step {record.step}: warning: {sign.words}")
            if not bar.n:
                bar.initial = bar.n = record.step  # a run that is taken up keeps its true pace
            bar.update()
            yield record


def tensorboard(
    records: Iterable[Record], folder: str | Path, *, every: int = 1
) -> Generator[Record, None, None]:
    """Pass records on, and write loss, learning rate and curves where TensorBoard shows them.

        for record in av.runs.tensorboard(av.runs.log(training, "runs/a", curves=...), "boards/a"):
            ...

    For another logger take the records' ``numbers``: ``wandb.log(record.numbers, record.step)``.

    Args:
        folder: of the event files; what stood there of later steps, as a killed run leaves it, is
            hidden.
        every: steps between two losses, because to read one on a device is to wait for its step;
            curves are written whenever they were measured.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("TensorBoard is not installed: pip install tensorboard") from None
    writer = None
    try:
        for record in records:
            done = record.step + 1
            writer = writer or SummaryWriter(str(folder), purge_step=done)
            numbers = record.numbers if record.step % every == 0 else record.curves
            for name, value in numbers.items():
                writer.add_scalar(name, value, done)
            for sign in record.signs:
                writer.add_text("signs", sign.words, done)
            yield record
    finally:
        if writer is not None:
            writer.close()

"""What is said: exit codes, a progress bar, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from napari_unet.core.errors import UNetLiveError
from napari_unet.core.progress import Work, finish

__all__ = ["FAILED", "INTERRUPTED", "OK", "USAGE", "aligned", "complain", "sentence", "with_bar"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
T = TypeVar("T")


def with_bar(work: Work[Any, T], label: str) -> T:
    """Run work to its end under a progress bar on stderr."""
    from tqdm import tqdm

    # disable=None: none where stderr is no terminal but a file
    with tqdm(desc=label, leave=False, dynamic_ncols=True, disable=None) as bar:
        phase = ""

        def report(progress: Any) -> None:
            nonlocal phase
            if progress.message != phase:
                phase = progress.message
                bar.reset(progress.total)
            loss = getattr(progress, "loss", None)
            bar.update(progress.done - bar.n)
            bar.set_postfix_str(
                phase if loss is None else f"loss {loss:.3f}",
                refresh=progress.done == progress.total,  # else when it is time
            )

        return finish(work, report)


def sentence(error: Exception, path: Path | None = None) -> str:
    """An error in one line; one that nobody foresaw says how to learn more."""
    text = " ".join(str(error).split())
    where = f"{path}: " if path is not None and path.name not in text else ""
    if isinstance(error, UNetLiveError):
        return f"{where}{text}"
    return f"{where}unexpected {type(error).__name__}: {text} (add --debug to see where)"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: names to the left, all other columns to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells])


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    print(f"napari-unet: error: {text}", file=sys.stderr, flush=True)

"""What all names of a network begin with, because something was wrapped around it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from torch import Tensor

__all__ = ["stages"]

SHARE = 0.9  # of the convolutions must have it
MAX_STAGES = 8

_WRAPPERS = re.compile(
    r"(module|model|models|net|network|netG|unet|student|teacher|ema|ema_model|model_ema|"
    r"averaged_model|segmentation_model|segmentor|generator|backbone|seg_model|base_model|wrapped"
    r"|_orig_mod|_model|_net|_network|_\w*module)"
)
"""Names that say nothing of the network within."""


def stages(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, bool]]:
    """Ever longer prefixes, beginning with "", and whether each consists of usual wrappers only.

    Parameters
    ----------
    tensors : by name; the convolutions among them decide.
    """
    names = [name for name, value in tensors.items() if value.ndim >= 3] or list(tensors)
    prefix, sure = "", True
    yield prefix, sure
    for _ in range(MAX_STAGES):
        inner = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        firsts = Counter(name.partition(".")[0] for name in inner if name.count(".") > 1)
        if not firsts:
            return
        first, n_with = firsts.most_common(1)[0]
        if n_with < SHARE * len(names) or first.isdigit():
            return
        prefix = f"{prefix}{first}."
        sure = sure and _WRAPPERS.fullmatch(first) is not None
        yield prefix, sure

"""Pictures and masks as files, for tests of datasets."""

import numpy as np
import tifffile
from skimage.io import imsave


def picture(number=0, shape=(12, 16), dtype=np.uint8):
    return np.random.default_rng(number).integers(1, 200, shape).astype(dtype)


def mask(number=0, shape=(12, 16), dtype=np.uint16):
    labels = np.zeros(shape, dtype)
    labels[..., 2:5, 2:6] = 1
    labels[..., 7:11, 3 : 5 + number % 8] = 2
    return labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.shape[-1] == 3 else "minisblack")
    else:
        imsave(path, array, check_contrast=False)


def sentences(dataset):
    return " ".join(problem.sentence for problem in dataset.problems)

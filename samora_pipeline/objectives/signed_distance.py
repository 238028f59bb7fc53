"""Signed distances of masks as DTC (Luo et al., arXiv 2009.04448) has its second task predict them.

Shapes: B slices, N pixels along a side, K classes with the background first.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries
from torch import Tensor


def signed_distances(targets: Tensor, classes: int) -> Tensor:
    """Distances (B,K-1,N,N) of label maps (B,N,N) for the classes from 1 on, on the device of the targets."""
    labels = targets.cpu().numpy()
    maps = np.stack([[signed_distance(one == value) for value in range(1, classes)] for one in labels])
    return torch.from_numpy(maps).to(targets.device)


def signed_distance(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return the distance to the boundary of a mask (N,N) as a share of the largest: -1 to 0 inside, 0 to 1 outside.

    Its innermost pixels have 0, as in DTC's code. That code has 0 everywhere for an empty mask, which pulls both tasks
    towards a probability of one half; here an empty slice has 1 and a full one -1.
    """
    if mask.all() or not mask.any():
        return np.full(mask.shape, -1 if mask.any() else 1, np.float32)
    outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
    distance: npt.NDArray[np.float32] = (outside / outside.max() - inside / inside.max()).astype(np.float32)
    distance[find_boundaries(mask, mode="inner")] = 0
    return distance

"""A digest of what a volume shows, whatever its file is called and however it is written.

Shape legend: S, P, L the axes of a volume in slice order: upwards, to the back, to the left.
"""

import hashlib

import numpy as np

from samora_pipeline.imaging.intensity import fits_int16
from samora_pipeline.imaging.preprocessor import slice_order
from samora_pipeline.imaging.volume import Volume


def digest_voxels(volume: Volume) -> str:
    """Return the SHA-256 of the canonical voxel array of a volume [X, Y, Z].

    Canonical means: axes brought into the order [S, P, L] by permuting and flipping alone (the nearest anatomical
    directions when oblique), int16 where that is exact and float32 otherwise. So one scan has one digest whether it is
    stored as NIfTI, NRRD or MetaImage, compressed or not, in any orientation that its header states. Spacing and
    position do not count. A scan that was resampled, cropped, clipped, or that has a wrong orientation in its header,
    has another digest: equal digests prove that two scans are the same, other digests prove nothing.
    """
    permutation, flips = slice_order(volume.grid.axes, "axial")
    stack = np.flip(volume.array.transpose(permutation), tuple(axis for axis, flip in enumerate(flips) if flip))
    dtype = np.dtype("<i2" if fits_int16(volume.array) else "<f4")
    digest = hashlib.sha256(f"{dtype.str}{stack.shape}".encode())
    for plane in stack:
        values = plane.astype(dtype)
        if dtype.kind == "f":
            # Minus zero is zero: readers differ in the sign that they keep.
            values += 0.0
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()

"""From drawn patient to voxels: structures are painted in order as soft occupancies, then blurred and given noise.

Shapes: X = Y = 128, Z = 24; arrays are [x, y, z] with x to the patient's left, y to the back, z to the head.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dataset_conversion.anatomy.patient import PatientParameters
from dataset_conversion.anatomy.shapes import Field, Structure, smooth_minimum

Box = tuple[slice, slice, slice]
EVERYWHERE: Box = (slice(None), slice(None), slice(None))
SHAPE = (128, 128, 24)
FAT_HU = -100.0
AIR_HU = -1000.0
LUNG_HU = -830.0
# Occupancy falls from 1 to 0 over about one in-plane voxel: the partial volume effect of the scanner.
EDGE = 2.2
# Bone and wall follow this share of the deformation that soft tissue undergoes.
RIGID = 0.25


class Canvas:
    """The volume being painted: Hounsfield units, labels, and the bent coordinates [3, X, Y, Z] in the patient, mm."""

    def __init__(self, parameters: PatientParameters) -> None:
        self.patient = parameters
        self.build = build = parameters.build
        self.rng = np.random.default_rng((parameters.seed, 2))
        middle = np.array([0.0, (build["fat_back"] - build["fat_front"]) / 2, parameters.top])
        # The uppermost slice lies at the top, rows and columns lie about the middle.
        self.origin = middle - np.array(parameters.spacing) * (np.array(SHAPE) - 1) * (0.5, 0.5, 1.0)
        self.hu = np.full(SHAPE, AIR_HU, dtype=np.float32)
        self.labels = np.zeros(SHAPE, dtype=np.uint8)
        # Less up and down than sideways: slices are thick, and a tall shift would tear thin organs apart.
        bends = np.stack([self._smooth_field(150.0) * (parameters.deformation * part) for part in (1.0, 1.0, 0.7)])
        place = np.moveaxis(np.indices(SHAPE), 0, -1) * parameters.spacing + self.origin
        self.soft = (np.moveaxis(place, -1, 0) + bends).astype(np.float32)
        self.rigid = (self.soft - (1 - RIGID) * bends).astype(np.float32)
        self.reach = np.abs(bends).max(axis=(1, 2, 3))
        self.bumps, self.grain = self._smooth_field(40.0), self._smooth_field(14.0)
        self.cavity = self._trunk_distance()
        self.diaphragm = self._diaphragm_distance()

    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to RAS mm: LPS with the first two axes turned round."""
        matrix = np.diag([*self.patient.spacing, 1.0])
        matrix[:3, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix

    def _smooth_field(self, wavelength: float) -> Field:
        """A random field of mean 0 and deviation 1: a cubic spline on knots half a ``wavelength`` (mm) apart."""
        knots = np.ceil(np.array(SHAPE) * self.patient.spacing / wavelength * 2).astype(int) + 1
        # Axis by axis, as one matrix each: the same spline in a twentieth of the time.
        weights = [ndimage.zoom(np.eye(k), (n / k, 1), order=3) for n, k in zip(SHAPE, knots.tolist(), strict=True)]
        drawn = self.rng.standard_normal(knots)
        field = np.einsum("xa,yb,zc,abc->xyz", *weights, drawn, optimize=True)
        result: Field = ((field - field.mean()) / field.std()).astype(np.float32)
        return result

    def _trunk_distance(self, side: float = 0.0, front: float = 0.0, back: float = 0.0) -> Field:
        """Signed distance, along the ray from the middle, to the cavity grown by mm to the side, front and back."""
        x, y, _ = self.rigid
        depth = self.build["half_depth"] + np.where(y < 0, front, back)
        across, deep = np.abs(x / (self.build["half_width"] + side)), np.abs(y / depth)
        # A superellipse of exponent 2.5, a little squarer than an ellipse; as square roots, for powers are slow.
        size = np.maximum(across * across * np.sqrt(across) + deep * deep * np.sqrt(deep), 1e-6) ** 0.4
        result: Field = (np.sqrt(x * x + y * y) * (1 - 1 / size)).astype(np.float32)
        return result

    def _diaphragm_distance(self) -> Field:
        """Height in mm above the dome of the diaphragm: positive in the lung, negative in the abdomen."""
        x, y, z = self.rigid
        dome = np.where(x < 0, self.build["dome_right"], self.build["dome_left"])
        edge = np.clip(1 + self.cavity / 95.0, 0, 1) ** 4
        recess = 46 + 36 * np.clip(y / self.build["half_depth"], -0.4, 1)
        result: Field = (z - (dome - recess * edge)).astype(np.float32)
        return result

    def paint_trunk(self) -> None:
        """Table, skin, fat below the skin, muscle wall and the fat of the cavity."""
        build, wall, muscle = self.build, self.build["wall"], self.patient.hu["muscle"]
        skin = self._trunk_distance(*(wall + build[layer] for layer in ("fat_side", "fat_front", "fat_back")))
        x, y, _ = self.rigid
        bed = build["half_depth"] + wall + build["fat_back"] + build["table_gap"] + 4 - (x / 170) ** 2 * 26
        self._mix(np.abs(y - bed - 6) - 2.0, 40.0)
        self._mix(skin, 30.0)
        self._mix(skin + 2.5, FAT_HU)
        self._mix(self._trunk_distance(wall, wall, wall) + 1.2 * self.bumps, muscle)
        layer = self._trunk_distance(wall / 2, wall / 2, wall / 2) + 0.8 * self.bumps
        self._mix(np.abs(layer) - 0.6 - build["fat"], muscle - 70)
        self._mix(self.cavity, FAT_HU)

    def _mix(self, distance: Field, value: float | Field, region: Box = EVERYWHERE) -> NDArray[np.bool_]:
        """Blend ``value`` in where ``distance`` is negative; return the voxels that are mostly inside."""
        share = np.clip(0.5 - distance / EDGE, 0, 1)
        part = self.hu[region]
        part += share * (value - part)
        return np.asarray(share > 0.5)

    def paint(self, structure: Structure) -> None:
        """Paint one structure over what is there."""
        margin = EDGE + structure.halo + 4 * structure.rough + self.reach * (RIGID if structure.rigid else 1.0)
        lows, highs = zip(*(solid.extent() for solid in structure.solids), strict=True)
        first = np.floor((np.min(lows, axis=0) - margin - self.origin) / self.patient.spacing).astype(int)
        last = np.ceil((np.max(highs, axis=0) + margin - self.origin) / self.patient.spacing).astype(int) + 1
        first, last = np.maximum(first, 0), np.minimum(last, SHAPE)
        if (last <= first).any():
            return
        region: Box = (slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2]))
        distance = self._distance(structure, region)
        if structure.halo > 0:
            self.labels[region][self._mix(distance - structure.halo, FAT_HU, region)] = 0
        inside = self._mix(distance, self._substance(structure, distance, region), region)
        if structure.label is not None:
            self.labels[region][inside] = structure.label

    def _distance(self, structure: Structure, region: Box) -> Field:
        """Signed distance in mm to the structure over ``region``."""
        x, y, z = (self.rigid if structure.rigid else self.soft)[(slice(None), *region)]
        distance = structure.solids[0].distance(x, y, z)
        for solid in structure.solids[1:]:
            distance = smooth_minimum(distance, solid.distance(x, y, z), structure.blend)
        distance += structure.rough * (0.75 * self.bumps[region] + 0.3 * self.grain[region])
        if not structure.rigid:
            distance = np.maximum(distance, np.maximum(self.cavity[region] + 1.5, self.diaphragm[region] + 3.0))
        if structure.within is not None:
            distance = np.where(self.labels[region] == structure.within, distance, np.float32(EDGE))
        return distance

    def _substance(self, structure: Structure, distance: Field, region: Box) -> Field:
        """Hounsfield units of the structure's substance at each voxel of the region."""
        grain = self.grain[region]
        variation = structure.texture * (0.8 * grain + 0.6 * self.bumps[region])
        if structure.core is None:
            return structure.hu + variation
        core = structure.core + variation
        if structure.mottle > 0:
            core = np.where(grain > 2.2 - 2.2 * structure.mottle, -450.0, core)
        if structure.gas is not None:
            core = np.where(self.soft[1][region] < structure.gas, -880.0, core)
        share = np.clip(0.5 - (distance + structure.rind) / EDGE, 0, 1)
        result: Field = (structure.hu + share * (core - structure.hu)).astype(np.float32)
        return result

    def paint_lungs(self) -> None:
        """Lung above the diaphragm, inside the rib cage but not over the spine."""
        x, y, _ = self.rigid
        column = 26.0 - np.hypot(x, np.maximum(58.0 - y, 0) * 0.6)
        distance = np.maximum(np.maximum(-self.diaphragm, self.cavity + 1.0), column)
        self.labels[self._mix(distance, LUNG_HU + 40 * self.grain)] = 0

    def paint_ribs(self) -> None:
        """Ribs: bars in the wall that sink towards the front, so that one slice cuts each of them short."""
        x, y, z = self.rigid
        front = np.clip(-y / self.build["half_depth"], -1, 1)
        height = np.mod(z + 62.0 * front + self.build["rib_phase"], 29.0) - 14.5
        # The 12th rib ends at the back; the margin of the rib cage climbs towards the front.
        beyond = 62.0 * front - z
        shape = np.hypot(self.cavity - self.build["wall"] * 0.42, height * (4.4 / 6.2)) - 4.4
        distance = np.maximum(np.maximum(shape, beyond * 0.5), 30.0 - np.abs(x))
        cartilage = np.clip((front - 0.45) / 0.2, 0, 1)
        self._mix(distance, 360 - 250 * cartilage)
        self._mix(distance + 2.6, 170 - 60 * cartilage)

    def scan(self) -> NDArray[np.int16]:
        """Blur and noise of the scanner, clipped to the range of a 12-bit detector, as int16."""
        image = ndimage.gaussian_filter(self.hu, (self.patient.blur, self.patient.blur, 0.3))
        noise = ndimage.gaussian_filter(self.rng.standard_normal(SHAPE).astype(np.float32), (0.6, 0.6, 0.0))
        # Photons starve in the middle of the trunk, so noise is greatest there.
        depth = 0.8 + 0.35 * np.clip(-self.cavity / self.build["half_depth"], 0, 1)
        image += noise / noise.std() * self.patient.noise * depth
        result: NDArray[np.int16] = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
        return result

"""From drawn patient to voxels: structures are painted in order as soft occupancies, then blurred and given noise.

Shapes: X = Y = 128, Z = 24; arrays are [x, y, z] with x to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dataset_conversion.anatomy.patient import PatientParameters
from dataset_conversion.anatomy.shapes import Field, Point, Solid, Structure, smooth_minimum

Coordinates = tuple[Field, Field, Field]
Box = tuple[slice, slice, slice]
EVERYWHERE: Box = (slice(None), slice(None), slice(None))
SHAPE = (128, 128, 24)
FAT_HU = -100.0
AIR_HU = -1000.0
LUNG_HU = -830.0
# Occupancy falls from 1 to 0 over about one in-plane voxel: the partial volume effect of the scanner.
EDGE = 2.2
# A distance in mm beyond which nothing is painted.
FAR = 60.0
# Bone and wall follow this share of the deformation that soft tissue undergoes.
RIGID = 0.25


class Canvas:
    """The volume being painted: Hounsfield units, labels, and the bent patient coordinates of each voxel."""

    def __init__(self, parameters: PatientParameters) -> None:
        self.patient = parameters
        self.rng = np.random.default_rng((parameters.seed, 2))
        self.origin = self._origin()
        self.hu = np.full(SHAPE, AIR_HU, dtype=np.float32)
        self.labels = np.zeros(SHAPE, dtype=np.uint8)
        self.bends = self._bends()
        self.reach = [float(np.abs(bend).max()) for bend in self.bends]
        self.rigid, self.soft = self._bent(RIGID), self._bent(1.0)
        self.bumps = self._smooth_field(40.0)
        self.grain = self._smooth_field(14.0)
        self.ripple = -0.75 * self.bumps - 0.3 * self.grain
        self.crest = float(self.ripple.max())
        self.cavity = self._trunk_distance(0.0, 0.0, 0.0)
        self.diaphragm = self._diaphragm_distance()

    def _origin(self) -> tuple[float, float, float]:
        sx, sy, sz = self.patient.spacing
        build = self.patient.build
        middle_y = (build.fat_back - build.fat_front) / 2
        return (-sx * (SHAPE[0] - 1) / 2, middle_y - sy * (SHAPE[1] - 1) / 2, self.patient.top - sz * (SHAPE[2] - 1))

    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to RAS mm: LPS with the first two axes turned round."""
        matrix = np.diag([-self.patient.spacing[0], -self.patient.spacing[1], self.patient.spacing[2], 1.0])
        matrix[:3, 3] = (-self.origin[0], -self.origin[1], self.origin[2])
        return matrix

    def _smooth_field(self, wavelength: float) -> Field:
        """A random field of mean 0 and deviation 1: a cubic spline on knots half a ``wavelength`` (mm) apart."""
        weights = [
            _spline_weights(n, size / wavelength * 2) for n, size in zip(SHAPE, self.patient.spacing, strict=True)
        ]
        knots = self.rng.standard_normal([weight.shape[1] for weight in weights]).astype(np.float32)
        field = np.einsum("xa,yb,zc,abc->xyz", *weights, knots, optimize=True)
        result: Field = ((field - field.mean()) / field.std()).astype(np.float32)
        return result

    def _bends(self) -> Coordinates:
        """How far each voxel is displaced from where it would lie in the straight patient, mm."""
        # Less up and down than sideways: slices are thick, and a tall shift would tear thin organs apart.
        x, y, z = (self._smooth_field(150.0) * np.float32(self.patient.deformation * part) for part in (1.0, 1.0, 0.7))
        return x, y, z

    def _bent(self, share: float) -> Coordinates:
        """Coordinates of each voxel in the straight patient, for tissue that follows this share of the deformation."""
        axes = [
            origin + size * np.arange(count, dtype=np.float32)
            for origin, size, count in zip(self.origin, self.patient.spacing, SHAPE, strict=True)
        ]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        return x + share * self.bends[0], y + share * self.bends[1], z + share * self.bends[2]

    def _trunk_distance(self, side: float, front: float, back: float) -> Field:
        """Signed distance, along the ray from the middle, to the cavity grown by mm to the side, front and back."""
        x, y, _ = self.rigid
        build = self.patient.build
        depth = np.where(y < 0, build.half_depth + front, build.half_depth + back).astype(np.float32)
        across, deep = np.abs(x / (build.half_width + side)), np.abs(y / depth)
        # A superellipse of exponent 2.5, a little squarer than an ellipse; as square roots, for powers are slow.
        size = np.maximum(across * across * np.sqrt(across) + deep * deep * np.sqrt(deep), 1e-6) ** np.float32(0.4)
        result: Field = np.sqrt(x * x + y * y) * (1 - 1 / size)
        return result

    def _diaphragm_distance(self) -> Field:
        """Height in mm above the dome of the diaphragm: positive in the lung, negative in the abdomen."""
        x, y, z = self.rigid
        build = self.patient.build
        dome = np.where(x < 0, build.dome_right, build.dome_left)
        edge = np.clip(1 + self.cavity / 95.0, 0, 1) ** 4
        recess = 46 + 36 * np.clip(y / build.half_depth, -0.4, 1)
        result: Field = (z - (dome - recess * edge)).astype(np.float32)
        return result

    def paint_trunk(self) -> None:
        """Table, skin, fat below the skin, muscle wall and the fat of the cavity."""
        build, contrast = self.patient.build, self.patient.contrast
        skin = self._trunk_distance(
            build.wall + build.fat_side, build.wall + build.fat_front, build.wall + build.fat_back
        )
        x, y, _ = self.rigid
        bed = build.half_depth + build.wall + build.fat_back + build.table_gap + 4 - (x / 170) ** 2 * 26
        self._mix(np.abs(y - bed - 6).astype(np.float32) - 2.0, 40.0)
        self._mix(skin, 30.0)
        self._mix(skin + 2.5, FAT_HU)
        self._mix(self._trunk_distance(build.wall, build.wall, build.wall) + 1.2 * self.bumps, contrast.muscle)
        layer = self._trunk_distance(build.wall * 0.5, build.wall * 0.5, build.wall * 0.5) + 0.8 * self.bumps
        self._mix((np.abs(layer) - 0.6 - build.fat).astype(np.float32), contrast.muscle - 70)
        self._mix(self.cavity, FAT_HU)

    def _mix(self, distance: Field, value: float | Field, region: Box = EVERYWHERE) -> NDArray[np.bool_]:
        """Blend ``value`` in where ``distance`` is negative; return the voxels that are mostly inside."""
        share = np.clip(0.5 - distance / EDGE, 0, 1)
        part = self.hu[region]
        part += share * (value - part)
        inside: NDArray[np.bool_] = share > 0.5
        return inside

    def paint(self, structure: Structure) -> None:
        """Paint one structure over what is there."""
        share = 1.0 if structure.confined else RIGID
        near = EDGE + structure.halo + structure.roughness * self.crest
        margins = [near + share * reach for reach in self.reach]
        boxes = [self._box(*solid.extent(), margins) for solid in structure.solids]
        inside_scan = [(solid, box) for solid, box in zip(structure.solids, boxes, strict=True) if box is not None]
        if not inside_scan:
            return
        region = _hull([box for _, box in inside_scan])
        distance = self._distance(structure, inside_scan, region)
        if structure.halo > 0:
            self.labels[region][self._mix(distance - structure.halo, FAT_HU, region)] = 0
        inside = self._mix(distance, self._substance(structure, distance, region), region)
        if structure.label is not None:
            self.labels[region][inside] = structure.label

    def _box(self, low: Point, high: Point, margins: list[float]) -> Box | None:
        """The voxels between two corners, with margins for bending and roughness (mm); None outside the scan."""
        box = []
        for axis, (count, origin, size) in enumerate(zip(SHAPE, self.origin, self.patient.spacing, strict=True)):
            first = int(np.floor((low[axis] - margins[axis] - origin) / size))
            last = int(np.ceil((high[axis] + margins[axis] - origin) / size)) + 1
            if last <= 0 or first >= count:
                return None
            box.append(slice(max(first, 0), min(last, count)))
        return box[0], box[1], box[2]

    def _distance(self, structure: Structure, solids: list[tuple[Solid, Box]], region: Box) -> Field:
        """Signed distance in mm to the structure over ``region``; each solid is evaluated in its own box only."""
        distance = np.full([part.stop - part.start for part in region], FAR, dtype=np.float32)
        grid = self.soft if structure.confined else self.rigid
        for solid, box in solids:
            x, y, z = (axis[box] for axis in grid)
            part = distance[tuple(slice(b.start - r.start, b.stop - r.start) for b, r in zip(box, region, strict=True))]
            part[...] = smooth_minimum(part, solid.distance(x, y, z), structure.blend)
        if structure.roughness:
            distance -= structure.roughness * self.ripple[region]
        if structure.confined:
            distance = np.maximum(distance, np.maximum(self.cavity[region] + 1.5, self.diaphragm[region] + 3.0))
        if structure.within is not None:
            distance = np.where(self.labels[region] == structure.within, distance, FAR)
        return distance.astype(np.float32)

    def _substance(self, structure: Structure, distance: Field, region: Box) -> Field:
        """Hounsfield units of the structure's substance at each voxel of the region."""
        grain, bumps = self.grain[region], self.bumps[region]
        variation = structure.texture * (0.8 * grain + 0.6 * bumps)
        if structure.core_hu is None:
            return (structure.hu + variation).astype(np.float32)
        core = structure.core_hu + variation
        if structure.mottle > 0:
            core = np.where(grain > 2.2 - 2.2 * structure.mottle, -450.0, core)
        if structure.gas_above is not None:
            core = np.where(self.soft[1][region] < structure.gas_above, -880.0, core)
        share = np.clip(0.5 - (distance + structure.rind) / EDGE, 0, 1)
        result: Field = (structure.hu + share * (core - structure.hu)).astype(np.float32)
        return result

    def paint_lungs(self) -> None:
        """Lung above the diaphragm, inside the rib cage but not over the spine."""
        x, y, _ = self.rigid
        spine = 26.0 - np.hypot(x, np.maximum(58.0 - y, 0) * 0.6)
        distance = np.maximum(np.maximum(-self.diaphragm, self.cavity + 1.0), spine)
        inside = self._mix(distance.astype(np.float32), LUNG_HU + 40 * self.grain)
        self.labels[inside] = 0

    def paint_ribs(self) -> None:
        """Ribs: bars in the wall that sink towards the front, so that one slice cuts each of them short."""
        x, y, z = self.rigid
        build = self.patient.build
        front = np.clip(-y / build.half_depth, -1, 1)
        height = np.mod(z + 62.0 * front + build.rib_phase, 29.0) - 14.5
        # The 12th rib ends at the back; the margin of the rib cage climbs towards the front.
        beyond = (-62.0 + 62.0 * (front + 1)) - z
        middle = 30.0 - np.abs(x)
        shape = np.sqrt(((self.cavity - build.wall * 0.42) / 4.4) ** 2 + (height / 6.2) ** 2) * 4.4 - 4.4
        distance = np.maximum(np.maximum(shape, beyond * 0.5), middle).astype(np.float32)
        cartilage = np.clip((front - 0.45) / 0.2, 0, 1)
        self._mix(distance, (360 - 250 * cartilage).astype(np.float32))
        self._mix((distance + 2.6).astype(np.float32), (170 - 60 * cartilage).astype(np.float32))

    def scan(self) -> NDArray[np.int16]:
        """Blur and noise of the scanner, clipped to the range of a 12-bit detector, as int16."""
        blur = self.patient.blur
        picture = ndimage.gaussian_filter(self.hu, (blur, blur, 0.3))
        noise = self.rng.standard_normal(SHAPE).astype(np.float32)
        noise = ndimage.gaussian_filter(noise, (0.6, 0.6, 0.0))
        # Photons starve in the middle of the trunk, so noise is greatest there.
        depth = 0.8 + 0.35 * np.clip(-self.cavity / self.patient.build.half_depth, 0, 1)
        picture += noise / noise.std() * self.patient.noise * depth
        result: NDArray[np.int16] = np.clip(np.rint(picture), -1024, 3071).astype(np.int16)
        return result


def _spline_weights(count: int, step: float) -> Field:
    """Matrix [voxel, knot] of the cubic B-spline through knots one unit apart, for voxels ``step`` units apart."""
    position = np.arange(count) * step + 1.0
    gap = np.abs(position[:, None] - np.arange(int(np.ceil(position[-1])) + 2))
    near, far = 2 / 3 - gap**2 + gap**3 / 2, np.maximum(2 - gap, 0) ** 3 / 6
    weights: Field = np.where(gap < 1, near, far).astype(np.float32)
    return weights


def _hull(boxes: list[Box]) -> Box:
    """The smallest box that contains all ``boxes``."""
    spans = [slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)]
    return spans[0], spans[1], spans[2]

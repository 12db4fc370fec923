"""VTAB's labels computed from annotations.

Source: X. Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark", 2019, and its
code, github.com/google-research/task_adaptation (data/clevr.py, kitti.py, dsprites.py, smallnorb.py). A value outside the
range of a rule maps to a class outside 0 ... C-1, which the writer of lists rejects.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
KITTI_VEHICLES = ("Car", "Van", "Truck")
NO_VEHICLE = 1000.0  # metres; beyond the last threshold, so that it is a class of its own

DSPRITES_BINS = 16
DSPRITES_STEPS = {"label_x_position": 32, "label_orientation": 40}


def bin_of(value: float, thresholds: Sequence[float]) -> int:
    """Index of the last threshold below ``value``: a value on a threshold is in the bin that ends there. -1 below all."""
    return bisect_left(thresholds, value) - 1


def clevr_count(objects: int) -> int:
    """CLEVR count: a scene has 3 to 10 objects, classes 0 to 7."""
    return objects - 3


def clevr_distance(depths: Sequence[float]) -> int:
    """CLEVR distance: bin of the closest object's depth, the third of its ``pixel_coords``; classes 0 to 5."""
    return bin_of(min(depths), CLEVR_DISTANCES)


def kitti_distance(kinds: Sequence[str], depths: Sequence[float]) -> int:
    """KITTI distance: bin of the closest vehicle's depth; classes 0 (near) to 2 (far), and 3 where there is no vehicle.

    Args:
        kinds: each object's type; cars, vans and trucks are vehicles.
        depths: each object's z in metres, from the camera.
    """
    return bin_of(min((z for kind, z in zip(kinds, depths) if kind in KITTI_VEHICLES), default=NO_VEHICLE), KITTI_DISTANCES)


def dsprites_bin(value: int, steps: int) -> int:
    """dSprites: ``steps`` values in 16 bins, floor(value / (steps / 16)); in integers, for 40 / 16 is no whole number."""
    return value * DSPRITES_BINS // steps


def norb_azimuth(info: int) -> int:
    """SmallNORB azimuth: its ``info`` counts 0, 2, ..., 34 in tens of degrees; classes 0 to 17. -1 for an odd number."""
    return info // 2 if info % 2 == 0 else -1


def norb_elevation(info: int) -> int:
    """SmallNORB elevation: its ``info`` counts the cameras 0 to 8, which are 30 to 70 degrees up; classes 0 to 8."""
    return info

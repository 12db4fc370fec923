"""Finds the packages; everything else is in pyproject.toml.

methods/, benchmarks/ and reports/ lie beside vpbench/ in a checkout and are installed as its subpackages.
"""

from setuptools import find_packages, setup

BESIDE = ("methods", "benchmarks", "reports")

setup(
    packages=[
        *find_packages(include=["vpbench", "vpbench.*"]),
        *(f"vpbench.{name}" for name in find_packages(include=[pattern for name in BESIDE for pattern in (name, f"{name}.*")])),
    ],
    package_dir={f"vpbench.{name}": name for name in BESIDE},
)

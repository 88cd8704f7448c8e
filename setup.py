"""Packaging from settings.ini, the one place for version and requirements."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

_parser = ConfigParser(delimiters=["="])
_parser.read("settings.ini", encoding="utf-8")
cfg = _parser["DEFAULT"]
_extra = "_requirements"  # `moo_requirements` becomes the extra `moo`

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_dir={"": "."},  # an editable install is then a path, which a clone folder called drivekd beside a script cannot hide
    packages=find_packages(include=["drivekd", "drivekd.*"]),
    package_data={"drivekd.workbench": ["front/*.js"]},  # the explorers' front end, written by hand
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={key.removesuffix(_extra): cfg[key].split() for key in cfg if key.endswith(_extra)},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
)

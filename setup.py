"""Packaging from settings.ini, the one place for version and requirements."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

_parser = ConfigParser(delimiters=["="])
_parser.read("settings.ini", encoding="utf-8")
cfg = _parser["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in ("dev", "track", "slurm", "serve", "lora")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["drivekd", "drivekd.*"]),
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split()},
)

"""Everything is in pyproject.toml and CMakeLists.txt; this names the CMake project to setuptools."""

from setuptools import setup

setup(cmake_source_dir=".")

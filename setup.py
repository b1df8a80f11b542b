# SPDX-License-Identifier: Apache-2.0
"""Package metadata."""

from setuptools import find_packages, setup

setup(
    name="sirius-tf",
    version="0.1.0.dev0",
    description="Polyhedral whole-program inference compiler for TensorFlow SavedModels",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["sirius_tf", "sirius_tf.*"]),
    package_data={"sirius_tf": ["py.typed", "native/*.c", "native/*.h"]},
    install_requires=["absl-py>=2.1", "islpy>=2025.1", "numpy>=1.26", "rich>=13", "ziglang>=0.15"],
    extras_require={
        "tf": ["tensorflow>=2.19,<2.22"],
        "tf-cpu": ["tensorflow-cpu>=2.19,<2.22"],
        "test": [
            "hypothesis>=6",
            "import-linter>=2",
            "mpmath>=1.3",
            "mypy>=1.10",
            "pytest>=8",
            "ruff>=0.6",
        ],
    },
)

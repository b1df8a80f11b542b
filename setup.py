# SPDX-License-Identifier: Apache-2.0
"""Package metadata, and the build of the native library."""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))  # build backends do not
from sirius_tf.bundle import library


class BuildLibrary(build_ext):
    """Builds libsirius_tf.so with the ziglang package's clang: no compiler need be installed."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library is no Python module: its name has no version of Python in it."""
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        """Build the only extension."""
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        library.build_library(output)


class AnyPython(bdist_wheel):
    """One wheel serves every version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Replace the tag of this Python by that of any."""
        return ("py3", "none", super().get_tag()[2])


#: Compiles CUDA without a GPU: 330 MB installed. The oldest CUDA 13 serves all drivers since.
NVRTC = ["cuda-bindings==13.0.*", "cuda-toolkit[nvrtc]==13.0.*"]

native = library.native_directory().relative_to(Path(__file__).resolve().parent)

setup(
    name="sirius-tf",
    version="0.1.0.dev0",
    description="Polyhedral whole-program inference compiler for TensorFlow SavedModels",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["sirius_tf", "sirius_tf.*"]),
    package_data={
        "sirius_tf": ["py.typed", "native/*.c", "native/*.cuh", "native/*.h", "tools/perf/*.c"]
    },
    ext_modules=[
        Extension(
            "sirius_tf.native.libsirius_tf",
            sources=[str(native / name) for name in library.SOURCES],
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython},
    entry_points={
        "console_scripts": [
            "sirius-convert = sirius_tf.tools:run_convert",
            "sirius-inspect = sirius_tf.tools:run_inspect",
            "sirius-benchmark = sirius_tf.tools:run_benchmark",
        ]
    },
    install_requires=["absl-py>=2.1", "islpy>=2025.1", "numpy>=1.26", "rich>=13", "ziglang>=0.15"],
    extras_require={
        "tf": ["tensorflow>=2.19,<2.22"],
        "tf-cpu": ["tensorflow-cpu>=2.19,<2.22"],
        # on a machine with a GPU; CuPy compiles kernels of its own, from headers of cudart and cccl
        "cuda": ["cupy-cuda13x>=13.6", "cuda-toolkit[cccl,cudart]==13.0.*", *NVRTC],
        "bench": [
            "matplotlib>=3.8",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "openvino>=2025.0",
            "tf2onnx>=1.16",
        ],
        "test": [
            *NVRTC,
            "hypothesis>=6",
            "import-linter>=2",
            "matplotlib>=3.8",
            "mpmath>=1.3",
            "mypy>=1.10",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "setuptools>=70.1",
        ],
    },
)

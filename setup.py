"""Packages and the native module. What is compiled and how stands in CMakeLists.txt alone; the rest in pyproject.toml.

FLOWGUIDE_BUILD=required makes a failed native build an error (otherwise the package installs without flowguide._C);
FLOWGUIDE_BUILD=off skips it. FG_CUDA (AUTO, ON, OFF), FG_CUDA_ARCHS, FG_ISAS and FG_SANITIZE are handed to CMake; with
a torch that was built without CUDA, FG_CUDA is OFF unless it is set.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGES = [
    "flowguide",
    "flowguide.video",
    "flowguide.flow",
    "flowguide.diffusion",
    "flowguide.guidance",
    "flowguide.runs",
    "flowguide.bench",
    "flowguide.synthetic",
    "flowguide.training",
    "flowguide.kernels",
    "flowguide.engines",
]


def cuda_is_usable() -> bool:
    """False where the torch here is built without CUDA: it can make no tensor that the CUDA code would take."""
    try:
        import torch
    except ImportError:
        return True
    return torch.version.cuda is not None


class CMakeBuild(build_ext):
    """One CMake configure and build; the module lands where setuptools expects it."""

    def run(self) -> None:
        wanted = os.environ.get("FLOWGUIDE_BUILD", "auto")
        if wanted == "off":
            self.extensions = []
            return
        cuda = os.environ.get("FG_CUDA") or ("AUTO" if cuda_is_usable() else "OFF")
        try:
            try:
                self.build_native(cuda)
            except subprocess.CalledProcessError as error:
                if cuda != "AUTO":
                    raise
                print(f"WARNING: building again without CUDA ({error}).", file=sys.stderr)
                self.build_native("OFF")
        except (OSError, subprocess.CalledProcessError) as error:
            if wanted == "required":
                raise
            self.extensions = []
            print(
                f"WARNING: flowguide._C was not built ({error}). flowguide works without it, slower on the CPU; "
                "`flowguide doctor` says where. It needs GCC 11 or later and CMake 3.25.",
                file=sys.stderr,
            )

    def build_native(self, cuda: str) -> None:
        import pybind11

        source, build = Path(__file__).parent.resolve(), Path(self.build_temp).resolve()
        module = Path(self.get_ext_fullpath("flowguide._C")).resolve()
        module.unlink(missing_ok=True)
        build.mkdir(parents=True, exist_ok=True)
        defines = {
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": module.parent,
            "CMAKE_BUILD_TYPE": "Release",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "FG_CUDA": cuda,
        }
        handed_on = {"FG_CUDA_ARCHS", "FG_ISAS", "FG_SANITIZE"} & os.environ.keys()
        defines |= {name: os.environ[name] for name in handed_on}
        # CMake and Ninja may be packages of this environment, which need not be activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = os.environ | {"PATH": path}
        generator = ["-G", "Ninja"] if shutil.which("ninja", path=path) else []
        options = [f"-D{name}={value}" for name, value in defines.items()]
        subprocess.run(["cmake", "-S", source, "-B", build, *generator, *options], check=True, env=environment)
        subprocess.run(["cmake", "--build", build, "--parallel"], check=True, env=environment)


setup(
    packages=PACKAGES,
    package_dir={"flowguide": "flowguide", "flowguide.kernels": "kernels", "flowguide.engines": "engines"},
    package_data={"flowguide": ["py.typed", "assets/**/*"]},
    ext_modules=[Extension("flowguide._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

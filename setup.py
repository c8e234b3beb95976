"""What pyproject.toml cannot say without warnings: the native file, for the stable ABI of 3.11 and later."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = Path("popnet/transport/native")

ADVICE = """popnet has a part in C, which needs a C compiler, and the headers of the C library and of Python:
    apt install gcc libc6-dev python3-dev
A wheel of popnet needs none of these."""


class BuildNative(build_ext):
    """As ever, but for what it says where there is no compiler, or none that works."""

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except CompileError as error:
            raise CompileError(f"{error}\n\n{ADVICE}") from None


setup(
    ext_modules=[
        Extension(
            "popnet.transport._native",
            [str(NATIVE / "module.c")],  # it includes the other parts
            depends=sorted(str(part) for part in NATIVE.glob("*.[ch]")),
            py_limited_api=True,
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=[
                "-std=c11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror=implicit-function-declaration",
                "-fno-strict-aliasing",
            ],
        )
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

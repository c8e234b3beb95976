"""What pyproject.toml cannot say without warnings: the native file, for the stable ABI of 3.11 and later."""

from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("popnet/transport/native")

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
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

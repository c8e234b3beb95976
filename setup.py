"""What pyproject.toml cannot say without warnings: the native file, for the stable ABI of 3.11 and later."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "popnet.transport._native",
            ["popnet/transport/_native.c"],
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

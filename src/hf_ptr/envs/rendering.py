"""Off-screen rendering of MuJoCo scenes with the first OpenGL backend that works on this machine."""

from __future__ import annotations

import atexit
import importlib
import os
import platform
import subprocess
import sys
import weakref
from functools import cache
from typing import Any

import numpy as np

from hf_ptr.errors import InputError

# Windowless backends, in order of preference.
_BACKENDS = {"Linux": ("egl", "osmesa"), "Darwin": ("cgl",)}
_PROBE = "from mujoco.{0} import GLContext; GLContext(16, 16).make_current()"
_INSTALL = "install the Debian packages libegl1 and libgl1 (or libosmesa6)"


@cache
def select_backend() -> str:
    """Find the first working OpenGL backend, and set `MUJOCO_GL` to it for this process and its children.

    A value already set in `MUJOCO_GL` is kept. Each backend is probed in a separate process, because a failed attempt
    leaves PyOpenGL unusable for the next one.

    Raises:
        InputError: no backend works; the message names the packages to install.
    """
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    candidates = (wanted,) if wanted else _BACKENDS.get(platform.system(), ("glfw",))
    for backend in candidates:
        environment = {**os.environ, "MUJOCO_GL": backend}
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE.format(backend)], env=environment, capture_output=True, check=False
        )
        if probe.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return backend
    if wanted:
        raise InputError(f"pixels cannot be rendered with MUJOCO_GL={wanted}; unset it, or {_INSTALL}")
    raise InputError(f"pixels cannot be rendered, neither {' nor '.join(candidates)} works; {_INSTALL}")


class Camera:
    """Square images from one camera of a scene.

    One instance serves all simulations of the scene in a thread, because creating a graphics context takes half a
    second. The driver's resources are freed with the camera. Shadows, reflections and multisampling are disabled:
    they take six sevenths of a software renderer's time.

    Args:
        model: `mujoco.MjModel` of the scene.
        name: camera name.
        pixels: image width and height.
        upside_down: rotate images by 180 degrees, for a camera that is mounted upside down.

    Raises:
        InputError: no rendering backend works; see [`select_backend`].
    """

    def __init__(self, model: Any, name: str, pixels: int, *, upside_down: bool = False) -> None:
        backend = select_backend()
        import mujoco

        self._mujoco = mujoco
        self._upside_down = upside_down
        model.vis.global_.offwidth = model.vis.global_.offheight = pixels
        model.vis.quality.offsamples = 0
        self._context = importlib.import_module(f"mujoco.{backend}").GLContext(pixels, pixels)
        self._context.make_current()
        self._resources = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        free = weakref.finalize(self, _free, self._context, self._resources)
        # Must run before EGL's own exit handler, registered when the context was created; weakref's may run later.
        atexit.register(free)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._resources)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(name).id
        self._view = mujoco.MjrRect(0, 0, pixels, pixels)

    def image(self, model: Any, data: Any) -> np.ndarray:
        """
        Render the state `data`, a `mujoco.MjData` of `model`: `(pixels, pixels, 3)` uint8 RGB, top row first.

        Models rendered by one camera may differ only in the positions of bodies, sites and cameras.
        """
        mujoco = self._mujoco
        self._context.make_current()
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        mujoco.mjr_render(self._view, self._scene, self._resources)
        buffer = np.empty((self._view.height, self._view.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(buffer, None, self._view, self._resources)
        # OpenGL returns the bottom row first, so rotating its image by 180 degrees is a horizontal flip.
        return np.ascontiguousarray(buffer[:, ::-1] if self._upside_down else buffer[::-1])


def _free(context: Any, resources: Any) -> None:
    """Free the graphics driver's resources."""
    context.make_current()
    resources.free()
    context.free()

"""Off-screen pictures of a MuJoCo scene, by EGL or OSMesa, whichever this machine has."""

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

# How to render without a window, best first.
_BACKENDS = {"Linux": ("egl", "osmesa"), "Darwin": ("cgl",)}
_PROBE = "from mujoco.{0} import GLContext; GLContext(16, 16).make_current()"
_INSTALL = "install the Debian packages libegl1 and libgl1 (or libosmesa6)"


@cache
def select_backend() -> str:
    """The first OpenGL backend that works here, and set `MUJOCO_GL` to it for this process and its children.

    A value that `MUJOCO_GL` already has is kept. A backend is tried in a process of its own, because a failed attempt
    leaves PyOpenGL unusable for the next one.

    Raises:
        InputError: none works; names the packages to install.
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
    """Square pictures from one of a scene's cameras.

    One serves all simulations of the scene in a thread: a graphics context for each would take half a second to make.
    What the graphics driver holds is freed with the camera. Without shadows, reflections and multisampling, which
    software renderers spend six sevenths of their time on.

    Args:
        model: a `mujoco.MjModel` of the scene.
        name: the camera.
        pixels: width and height.
        upside_down: the camera is mounted on its head, so turn its pictures by half a turn.

    Raises:
        InputError: this machine cannot render; see [`select_backend`].
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
        # Before EGL ends itself, which was told to when the context was made; weakref's own turn may come later.
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

    def picture(self, model: Any, data: Any) -> np.ndarray:
        """
        The scene in the state of `data`, a `mujoco.MjData` of `model`: `(pixels, pixels, 3)` uint8 RGB, top row first.
        The models of its simulations may differ in the places of bodies, sites and cameras alone.
        """
        mujoco = self._mujoco
        self._context.make_current()
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        mujoco.mjr_render(self._view, self._scene, self._resources)
        buffer = np.empty((self._view.height, self._view.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(buffer, None, self._view, self._resources)
        # OpenGL gives the bottom row first: half a turn of its picture is thus a flip of left and right.
        return np.ascontiguousarray(buffer[:, ::-1] if self._upside_down else buffer[::-1])


def _free(context: Any, resources: Any) -> None:
    """Free what the graphics driver holds."""
    context.make_current()
    resources.free()
    context.free()

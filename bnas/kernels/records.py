"""Records of whole numbers that Python fills and compiled code reads by name."""

from __future__ import annotations

import ctypes
from typing import Any

import numba
import numpy as np
from llvmlite import ir

from bnas.kernels.emitter import BYTE, Emitter, instruction


def _words(names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_int64) for name in names.split()]


class Geometry(ctypes.Structure):
    """How a convolution's operands lie in memory; lists of int64 are given by their address.

    - `channels made rows columns high wide stride padding`: channels and output channels, rows and columns of a map and
      of the result, stride, zeros on each side;
    - `frame_rows frame_line pixel_bytes seen_floats`: rows and columns of an image's frame, bytes of a pixel's bits,
      floats of a frame of signs;
    - `words word_offsets word_masks`: how many words of 32 bits a result is counted from, how many bytes they lie from
      it and which of their bits count;
    - `classes row_classes column_classes`: pixels of the result that lack the same taps are of one class; the class is
      that of its row plus that of its column;
    - `chunks chunk_offsets chunk_counts chunk_starts`: chunks of at most 16 weights that lie together; floats from the
      pixel in the frame, how many weights, which is the first;
    - `up left gradient_rows gradient_line`: frame of the result's gradient: zeros above and to the left, rows, columns;
    - `taps tap_offsets`: how far from the pixel each tap finds the gradient, by phase;
    - `phases`: for each of the `stride²` phases of input pixels, its first tap and how many it has.
    """

    __slots__ = ()  # so that a name that is no field's is refused
    _fields_ = _words(
        "channels made rows columns high wide stride padding frame_rows frame_line pixel_bytes seen_floats "
        "words word_offsets word_masks classes row_classes column_classes "
        "chunks chunk_offsets chunk_counts chunk_starts up left gradient_rows gradient_line taps tap_offsets phases"
    )


class Pass(ctypes.Structure):
    """One pass over maps; each reads some of the fields, arrays are given by their address (0: there is none).

    - `taken tasks joined`: tasks that threads have taken, how many there are, threads that have joined in;
    - `kind pixels channels period length`: which pass it is; pixels P and channels C of maps `[P, C]`; the multiple of
      C and `LANES` after which the pattern of channels over vectors repeats; elements of an elementwise task;
    - `x y out`: a block's input, the counts (int16) that its convolution comes to, the result;
    - `gradient pitch shortcut other`: gradient of a result, how far apart its periods are; maps that are added;
    - `inner coefficients`: gradient of the PReLU's input; rows `[3, period]` that make another map's gradient of it;
    - `norm_in norm_out mean factor`: rows of the BatchNorms (`NORM_ROWS`) before the sign and after the convolution,
      the means alone, the factor by which counts are multiplied;
    - `sums ste`: sums by task; whether the sign is straight-through;
    - `plan images weights fixes parts part_count`: the convolution's `Geometry`, number of images, its weights, what
      counts are subtracted from, sums by task of the weights' gradients, how many of these there are;
    - `space size`: room to work in, and how many bytes (forward) or floats (backward) of it are each thread's;
    - `places rows columns group`: which of a window's nine pixels is the largest (uint8), rows and columns of the
      larger map of a pooling, channels of a group.
    """

    __slots__ = ()  # so that a name that is no field's is refused
    _fields_ = _words(
        "taken tasks joined kind pixels channels period length x y out gradient pitch shortcut other "
        "inner coefficients norm_in norm_out mean factor sums ste plan images weights fixes parts part_count "
        "space size places rows columns group"
    )


def _reader(structure: type[ctypes.Structure]) -> Any:
    record: Any = numba.from_dtype(np.dtype(structure))

    @instruction(record)
    def at(e: Emitter, address: Any) -> Any:
        """The record at an address."""
        return e.b.inttoptr(address, ir.ArrayType(BYTE, record.size).as_pointer())

    return at


geometry_at, pass_at = _reader(Geometry), _reader(Pass)
JOINED: int = getattr(Pass, "joined").offset  # noqa: B009  # a field's descriptor, which has no type
"""Bytes from a pass to its field `joined`."""

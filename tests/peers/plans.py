# SPDX-License-Identifier: BSD-3-Clause
"""What the scripts that compare plans share: plans of libmoetap, and how even a placement is."""
import ctypes
import json

import numpy


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("ranks", "nodes", "slots", "groups")]


def recorded(path):
    """What SGLang records, {"logical_count": [layers][experts]}, without the layers that have no tokens."""
    with open(path) as f:
        loads = numpy.array(json.load(f)["logical_count"], dtype=float)
    return loads[loads.sum(1) > 0]


def planner(path, policy=None):
    """plan(loads, shape) -> slot_expert[layers][slots], by moetap_plan_make()."""
    lib = ctypes.CDLL(path)
    lib.moetap_plan_slots.restype = ctypes.POINTER(ctypes.c_uint32)

    def plan(loads, shape):
        layers, experts = loads.shape
        loads = numpy.ascontiguousarray(loads, dtype=numpy.float64)
        handle, error = ctypes.c_void_p(), ctypes.create_string_buffer(4096)
        ret = lib.moetap_plan_make(policy and policy.encode(), ctypes.byref(shape), layers, experts,
                                   loads.ctypes.data_as(ctypes.POINTER(ctypes.c_double)), None,
                                   ctypes.byref(handle), error)
        if ret < 0:
            raise SystemExit(error.value.decode())
        slots = numpy.ctypeslib.as_array(lib.moetap_plan_slots(handle), (layers, shape.slots)).copy()
        lib.moetap_plan_free(handle)
        return slots
    return plan


def balancedness(loads, slots, ranks):
    """mean / max of rank loads, a layer each."""
    layers, experts = loads.shape
    out = numpy.ones(layers)
    for l in range(layers):
        count = numpy.bincount(slots[l], minlength=experts)
        assert count.min() > 0, "an expert has no slot"
        rank = (loads[l] / count)[slots[l]].reshape(ranks, -1).sum(1)
        if rank.max() > 0:
            out[l] = rank.mean() / rank.max()
    return out


def doubles(slots, ranks):
    return sum(a.size - numpy.unique(a).size for layer in slots for a in layer.reshape(ranks, -1))


def draw(rng, kind, layers, experts):
    if kind == "lognormal":
        return rng.lognormal(0, rng.uniform(0.2, 2), (layers, experts))
    if kind == "zipf":
        return rng.permuted(1 / numpy.arange(1, experts + 1) ** rng.uniform(0.3, 1.5) * numpy.ones((layers, 1)), axis=1)
    if kind == "dirichlet":
        return rng.dirichlet(numpy.full(experts, rng.uniform(0.1, 5)), layers)
    return rng.uniform(0, 1, (layers, experts))

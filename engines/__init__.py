"""Networks to files to runtimes; reached by name from flowguide.diffusion and flowguide.flow.

network.py   a network as an engine sees it: tensors in and out by name
runtime.py   the protocol of a runtime, and the table of their names
key.py       what an engine file depends on
store.py     the folder of engine files: list, check, prune, lock
export.py    network -> ONNX
build.py     network -> engine file, only where there is none that is fresh
tensorrt_build.py   ONNX -> TensorRT engine, in a process of its own
*_runtime.py one runtime each
"""

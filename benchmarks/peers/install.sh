#!/usr/bin/env bash
# Installs the routing code of others beside this project, for the CPU and without their own torch:
#   make tools && bash benchmarks/peers/install.sh        into .venv
#   PYTHON=/path/to/python bash benchmarks/peers/install.sh   into another environment
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
pip=("$python" -m pip --disable-pip-version-check install --constraint constraints.txt)

# megatron-core needs nothing but torch and numpy for its routing functions
"${pip[@]}" --no-deps 'megatron-core==0.16.1'
# DeepSpeed looks at torch while it is built, and would fetch GPU tools; its CUDA code is left out
"${pip[@]}" setuptools wheel hjson msgpack psutil py-cpuinfo pydantic einops tqdm packaging
DS_BUILD_OPS=0 "${pip[@]}" --no-build-isolation --no-deps 'deepspeed==0.19.8'
"${pip[@]}" 'transformers==5.23.0'

"$python" -W ignore -c '
import megatron.core.transformer.moe.moe_utils, deepspeed.moe.sharded_moe, transformers
from ortools.graph.python import min_cost_flow
print("megatron-core, deepspeed and transformers import, and OR-tools beside them")'

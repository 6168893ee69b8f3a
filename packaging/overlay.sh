#!/usr/bin/env bash
# Make an environment in which another vLLM release runs on a CPU: its Python over the CPU engine of .venv.
#
#   bash packaging/overlay.sh PYTHON FOLDER RELEASE      for example .venv/bin/python build/vllm-0.33.0 0.33.0
#
# vLLM's CPU engine is published for 0.32.0 alone, so the compiled part stays that release's, and so do torch, Triton
# and all else. Where the release's wheel cannot be had, this says so, makes nothing, and ends well.
set -euo pipefail
python=$1 folder=$2 release=$3
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

echo "Getting vLLM $release, to test against it too: about 350 MB ..."
if ! "$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$wheels" "vllm==$release"; then
    echo "vLLM $release cannot be had here (see above): the tests against it are left out."
    exit 0
fi
rm -rf "$folder"
"$python" -m venv --without-pip "$folder"
"$python" - "$wheels"/*.whl "$folder" "$release" <<'END'
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

wheel, folder, release = sys.argv[1:]
base = Path(sysconfig.get_path("purelib"))
site = Path(sysconfig.get_path("purelib", vars={"base": str(Path(folder).absolute())}))
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(site, [name for name in archive.namelist() if not name.endswith(".so")])
for engine in (base / "vllm").glob("*.so"):
    shutil.copy(engine, site / "vllm")
info = site / f"vllm-{release}.dist-info"
metadata = (info / "METADATA").read_text().replace(f"\nVersion: {release}\n", f"\nVersion: {release}+cpu\n")
(info / "METADATA").write_text(metadata)
(info / "RECORD").unlink()
info.rename(site / f"vllm-{release}+cpu.dist-info")
command = Path(folder).absolute() / "bin" / "vllm"
command.write_text(f"#!{command.parent / 'python'}\nfrom vllm.entrypoints.cli.main import main\nmain()\n")
command.chmod(0o755)
# With the .pth files that are there, such as vllm-mtad's own.
(site / "everything_else.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n")
END
"$folder/bin/python" -c 'import importlib.metadata as m, sys; assert m.version("vllm") == sys.argv[1] + "+cpu"' "$release"
touch "$folder/.ready"
